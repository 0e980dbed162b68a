"""SQLite's tables, views and statements, each with its purpose.  The views are the public face (docs/schema.md);
the tables beneath are ours to change, by appending to MIGRATIONS."""

from __future__ import annotations

import re
import sqlite3
from typing import Iterator

#: ``PRAGMA application_id`` of our files ("gsct"), so that another program's database is not taken for ours.
APPLICATION_ID = 0x67736374

_TABLES = """
-- one line per site, report and search type; top_queries is how far gsc_top_queries ranks
CREATE TABLE gsc_dataset (
    id INTEGER PRIMARY KEY,
    site TEXT NOT NULL, report TEXT NOT NULL, search_type TEXT NOT NULL,
    dimensions TEXT NOT NULL,
    top_queries INTEGER NOT NULL,
    UNIQUE (site, report, search_type)
);
-- the ledger: one line per day that was ever begun
CREATE TABLE gsc_day (
    id INTEGER PRIMARY KEY,
    dataset INTEGER NOT NULL REFERENCES gsc_dataset (id),
    date TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('open', 'provisional', 'final', 'failed')),
    rows INTEGER NOT NULL DEFAULT 0,
    calls INTEGER NOT NULL DEFAULT 0,
    published_at TEXT,
    error TEXT,
    UNIQUE (dataset, date)
);
-- slices acknowledged since their day was last published
CREATE TABLE gsc_slice (
    day INTEGER NOT NULL REFERENCES gsc_day (id),
    start_row INTEGER NOT NULL,
    received INTEGER NOT NULL,
    fetched_on TEXT NOT NULL,
    data_state TEXT NOT NULL,
    PRIMARY KEY (day, start_row)
) WITHOUT ROWID;
-- a page URL is stored once and named by a small integer everywhere else
CREATE TABLE gsc_page (id INTEGER PRIMARY KEY, page TEXT NOT NULL UNIQUE);
-- the rarer dimensions together; 0 stands for none of them
CREATE TABLE gsc_segment (id INTEGER PRIMARY KEY, country TEXT, device TEXT, appearance TEXT);
CREATE INDEX gsc_segment_values ON gsc_segment (country, device, appearance);
-- the rows of published days, and of no others.  rank orders a page's rows by clicks, impressions, query, so the
-- top queries of a page are its first rows; page 0 stands for a report without page; ctr NULL is clicks / impressions
CREATE TABLE gsc_fact (
    day INTEGER NOT NULL, page INTEGER NOT NULL, rank INTEGER NOT NULL,
    query TEXT, segment INTEGER NOT NULL,
    clicks INTEGER NOT NULL, impressions INTEGER NOT NULL, ctr REAL, position REAL,
    PRIMARY KEY (day, page, rank)
) WITHOUT ROWID;
-- acknowledged slices of days of several slices, until the day is whole
CREATE TABLE gsc_stage (
    day INTEGER NOT NULL, start_row INTEGER NOT NULL, page INTEGER NOT NULL, rank INTEGER NOT NULL,
    query TEXT, segment INTEGER NOT NULL,
    clicks INTEGER NOT NULL, impressions INTEGER NOT NULL, ctr REAL, position REAL,
    PRIMARY KEY (day, start_row, page, rank)
) WITHOUT ROWID;
-- totals of each page over all published days of report page; weight is the sum of position * impressions in units of
-- 2^-30: whole numbers add up to the same sum in any order of publishing, and replacing a day leaves no rounding behind
CREATE TABLE gsc_lifetime (
    dataset INTEGER NOT NULL, page INTEGER NOT NULL,
    clicks INTEGER NOT NULL, impressions INTEGER NOT NULL,
    weight INTEGER NOT NULL, weighed INTEGER NOT NULL,
    first_seen TEXT NOT NULL, last_seen TEXT NOT NULL, days_seen INTEGER NOT NULL,
    PRIMARY KEY (dataset, page)
) WITHOUT ROWID;
CREATE TABLE gsc_run (
    id INTEGER PRIMARY KEY,
    started_at TEXT NOT NULL, ended_at TEXT, status TEXT NOT NULL,
    days INTEGER NOT NULL DEFAULT 0, rows INTEGER NOT NULL DEFAULT 0, calls INTEGER NOT NULL DEFAULT 0,
    retries INTEGER NOT NULL DEFAULT 0, peak_qpm INTEGER NOT NULL DEFAULT 0, seconds REAL NOT NULL DEFAULT 0,
    settings TEXT NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL
);
"""

#: What several views have.  As much a part of MIGRATIONS as these: never to be changed.
_DAYS = "FROM gsc_dataset s JOIN gsc_day d ON d.dataset = s.id"
_FACTS = f"{_DAYS} JOIN gsc_fact f ON f.day = d.id"
_FIGURES = """f.clicks, f.impressions,
       coalesce(f.ctr, CAST(f.clicks AS REAL) / f.impressions) AS ctr, f.position"""
_PERFORMANCE = f"""
s.site, s.report, s.search_type, d.date, p.page, f.query, g.country, g.device, {_FIGURES}
{_FACTS} LEFT JOIN gsc_page p ON p.id = f.page LEFT JOIN gsc_segment g ON g.id = f.segment"""
_PAGE_DAILY = f"""
s.site, s.search_type, d.date, p.page, {_FIGURES}
{_FACTS} JOIN gsc_page p ON p.id = f.page
WHERE s.report = 'page'"""
_TOP_QUERIES = f"""
f.query, {_FIGURES}
{_FACTS} AND f.rank <= s.top_queries JOIN gsc_page p ON p.id = f.page
WHERE s.report = 'page_query'"""
_LIFETIME = """
s.site, s.search_type, p.page, l.clicks, l.impressions,
       CAST(l.clicks AS REAL) / nullif(l.impressions, 0) AS ctr,
       l.weight / 1073741824.0 / nullif(l.weighed, 0) AS position, l.first_seen, l.last_seen, l.days_seen
FROM gsc_lifetime l JOIN gsc_dataset s ON s.id = l.dataset JOIN gsc_page p ON p.id = l.page"""
_RUNS = "days, rows, calls, retries, peak_qpm, seconds, settings"
_MORE_OF_RUNS = "uptime, restarts, faults, halt_seconds"

_VIEWS = f"""
CREATE VIEW gsc_performance AS SELECT {_PERFORMANCE};
CREATE VIEW gsc_page_daily AS SELECT {_PAGE_DAILY};
CREATE VIEW gsc_top_queries AS SELECT s.site, s.search_type, d.date, p.page, f.rank, {_TOP_QUERIES};
CREATE VIEW gsc_page_lifetime AS SELECT {_LIFETIME};
CREATE VIEW gsc_search_appearance AS
SELECT s.site, s.search_type, d.date, g.appearance AS search_appearance, {_FIGURES}
{_FACTS} JOIN gsc_segment g ON g.id = f.segment AND g.appearance IS NOT NULL;
CREATE VIEW gsc_days AS
SELECT s.site, s.report, s.search_type, d.date, d.status, d.rows, d.calls, d.published_at {_DAYS};
CREATE VIEW gsc_runs AS SELECT id AS run_id, started_at, ended_at, status, {_RUNS} FROM gsc_run;
"""

_SHARING = f"""
-- token and beat (seconds of the monotonic clock) show whether the run still lives
ALTER TABLE gsc_run ADD COLUMN token TEXT NOT NULL DEFAULT '';
ALTER TABLE gsc_run ADD COLUMN beat REAL NOT NULL DEFAULT 0;
ALTER TABLE gsc_run ADD COLUMN uptime REAL NOT NULL DEFAULT 1;
ALTER TABLE gsc_run ADD COLUMN restarts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE gsc_run ADD COLUMN faults TEXT NOT NULL DEFAULT '{{}}';
ALTER TABLE gsc_run ADD COLUMN halt_seconds REAL;
DROP VIEW gsc_runs;
CREATE VIEW gsc_runs AS SELECT id AS run_id, started_at, ended_at, status, {_RUNS}, {_MORE_OF_RUNS} FROM gsc_run;
-- which run may write to a dataset
CREATE TABLE gsc_lease (dataset INTEGER PRIMARY KEY REFERENCES gsc_dataset (id), run INTEGER NOT NULL);
-- sites whose load quota was spent and that have not answered since
CREATE TABLE gsc_park (site TEXT PRIMARY KEY, since TEXT NOT NULL, until TEXT NOT NULL, reason TEXT NOT NULL);
-- sums over a published day's rows, to prove them by (NOTE_PUBLISHED); NULL for days published before there were any
ALTER TABLE gsc_day ADD COLUMN clicks REAL;
ALTER TABLE gsc_day ADD COLUMN impressions REAL;
ALTER TABLE gsc_day ADD COLUMN positions REAL;
"""

_KEY = "f.day || '-' || f.page || '-' || f.rank AS id, f.day AS day_id, f.page AS page_id, f.rank"

_KEYED = f"""
-- the views again with a key of one column, for programs that need one (the Django admin), and the parts of that key by
-- which a line is found at once; moments as Django writes them to SQLite
CREATE VIEW gsc_keyed_performance AS SELECT {_KEY}, {_PERFORMANCE};
CREATE VIEW gsc_keyed_page_daily AS SELECT {_KEY}, {_PAGE_DAILY};
CREATE VIEW gsc_keyed_top_queries AS SELECT {_KEY}, s.site, s.search_type, d.date, p.page, {_TOP_QUERIES};
CREATE VIEW gsc_keyed_page_lifetime AS
SELECT l.dataset || '-' || l.page AS id, l.dataset AS dataset_id, l.page AS page_id, {_LIFETIME};
CREATE VIEW gsc_keyed_days AS
SELECT d.id, s.site, s.report, s.search_type, d.date, d.status, d.rows, d.calls,
       replace(replace(d.published_at, 'T', ' '), 'Z', '') AS published_at, d.error {_DAYS};
CREATE VIEW gsc_keyed_runs AS
SELECT run_id, replace(replace(started_at, 'T', ' '), 'Z', '') AS started_at,
       replace(replace(ended_at, 'T', ' '), 'Z', '') AS ended_at, status, {_RUNS}, {_MORE_OF_RUNS} FROM gsc_runs;
"""

_PROOFS = """
-- one more sum over a published day's rows; NULL for days published before there was one
ALTER TABLE gsc_day ADD COLUMN ctrs REAL;
-- the same sums over the rows that an acknowledged slice has in gsc_stage, and how many those are
ALTER TABLE gsc_slice ADD COLUMN kept INTEGER;
ALTER TABLE gsc_slice ADD COLUMN clicks REAL;
ALTER TABLE gsc_slice ADD COLUMN impressions REAL;
ALTER TABLE gsc_slice ADD COLUMN positions REAL;
ALTER TABLE gsc_slice ADD COLUMN ctrs REAL;
"""

#: Each entry lifts the schema by one version.  Append only: users' files hold every older version.
MIGRATIONS = (_TABLES + _VIEWS, _SHARING, _KEYED, _PROOFS)


def upgrades(version: int, *, shared: bool) -> Iterator[str]:
    """Scripts that lift a file from *version* (0: without our tables), each to be run in a transaction of its own.

    The version is the file's ``user_version``.  A *shared* file holds other programs' tables too, and its header is
    theirs: there it is the one line of ``gsc_meta``.
    """
    if shared and not version:
        yield "CREATE TABLE IF NOT EXISTS gsc_meta (version INTEGER NOT NULL);"
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        if shared:
            yield f"{script} DELETE FROM gsc_meta; INSERT INTO gsc_meta (version) VALUES ({number});"
        else:
            yield f"{script} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number};"


def statements(script: str) -> Iterator[str]:
    """The statements of *script*, for drivers that take one at a time."""
    statement = ""
    for part in re.split("(?<=;)", script):
        statement += part
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


#: Where a slice's rows go.
FACTS = "gsc_fact (day, page, rank, query, segment, clicks, impressions, ctr, position)"
STAGE = "gsc_stage (day, start_row, page, rank, query, segment, clicks, impressions, ctr, position)"

#: The staged slices of a day become its rows.  Rows that repeat across slices count once, as first served
#: (SQLite takes the bare columns from the row that holds the min()).
PUBLISH_STAGED = """
INSERT INTO gsc_fact (day, page, rank, query, segment, clicks, impressions, ctr, position)
SELECT ?1, page,
       row_number() OVER (PARTITION BY page ORDER BY clicks DESC, impressions DESC, query, segment),
       query, segment, clicks, impressions, ctr, position
FROM (SELECT page, query, segment, clicks, impressions, ctr, position, min(start_row)
      FROM gsc_stage WHERE day = ?1 GROUP BY page, query, segment)
ORDER BY page
"""

#: What proves rows: sums of whole numbers, the same in any order (positions and ctrs in units of 2^-20; a ctr that
#: follows from clicks and impressions is NULL).
SUMS = """
SELECT count(*) AS rows, total(clicks) AS clicks, total(impressions) AS impressions,
       total(round(coalesce(position, 0) * 1048576.0)) AS positions, total(round(ctr * 1048576.0)) AS ctrs
FROM """
NOTE_PUBLISHED = f"""
UPDATE gsc_day SET
    (clicks, impressions, positions, ctrs) = (
        SELECT clicks, impressions, positions, ctrs FROM ({SUMS} gsc_fact WHERE day = ?1)),
    status = ?2, rows = ?3, calls = ?4, published_at = ?5, error = NULL
WHERE id = ?1
"""
NOTE_STAGED = f"""
INSERT OR REPLACE INTO gsc_slice
    (day, start_row, received, fetched_on, data_state, kept, clicks, impressions, positions, ctrs)
SELECT ?1, ?2, ?3, ?4, ?5, * FROM ({SUMS} gsc_stage WHERE (day, start_row) = (?1, ?2))
"""

#: Whether a day has rows, and whether anything is staged for it.
PRESENT = """
SELECT EXISTS (SELECT 1 FROM gsc_fact WHERE day = ?1),
       EXISTS (SELECT 1 FROM gsc_slice WHERE day = ?1) OR EXISTS (SELECT 1 FROM gsc_stage WHERE day = ?1)
"""

#: A row's part of gsc_lifetime.weight (2^30 = 1073741824).  What is beyond 64 bits (a page that in all was seen a
#: thousand million times in place 8) becomes REAL, here and by SQLite's own ``+``: then rounding is left behind.
_SHARE = "(coalesce(f.position * f.impressions, 0) * 1073741824.0)"
WEIGHT = f"CASE WHEN abs({_SHARE}) < 9e18 THEN CAST(round({_SHARE}) AS INTEGER) ELSE {_SHARE} END"

#: The sum of those of many rows.  sum() would refuse to go beyond 64 bits, so the bits above 2^30 and those below are
#: summed apart: each is exact, and so is the whole where it fits.
_ABOVE = f"CAST(round({_SHARE}) / 1073741824.0 AS INTEGER)"
SUM_OF_WEIGHTS = (
    f"(CAST(total({_ABOVE}) AS INTEGER) * 1073741824"
    f" + CAST(total(round({_SHARE}) - {_ABOVE} * 1073741824.0) AS INTEGER))"
)
_WEIGHED = "CASE WHEN f.position IS NULL THEN 0 ELSE f.impressions END"

#: Lifetime totals: take the day's present rows out (before they are replaced) ...
LIFETIME_SUBTRACT = f"""
UPDATE gsc_lifetime SET (clicks, impressions, weight, weighed, days_seen) = (
    SELECT gsc_lifetime.clicks - f.clicks, gsc_lifetime.impressions - f.impressions,
           gsc_lifetime.weight - {WEIGHT}, gsc_lifetime.weighed - {_WEIGHED}, gsc_lifetime.days_seen - 1
    FROM gsc_fact f WHERE f.day = ?2 AND f.page = gsc_lifetime.page AND f.rank = 1)
WHERE dataset = ?1 AND page IN (SELECT page FROM gsc_fact WHERE day = ?2 AND rank = 1)
"""

#: ... and add those that have just been written.
LIFETIME_ADD = f"""
INSERT INTO gsc_lifetime (dataset, page, clicks, impressions, weight, weighed, first_seen, last_seen, days_seen)
SELECT ?1, page, clicks, impressions, {WEIGHT}, {_WEIGHED}, ?3, ?3, 1
FROM gsc_fact f WHERE day = ?2
ON CONFLICT (dataset, page) DO UPDATE SET
    clicks = clicks + excluded.clicks, impressions = impressions + excluded.impressions,
    weight = weight + excluded.weight, weighed = weighed + excluded.weighed,
    first_seen = min(first_seen, excluded.first_seen), last_seen = max(last_seen, excluded.last_seen),
    days_seen = days_seen + 1
"""

#: Pages that a replaced day no longer has: those seen on no other day go, the others get their dates anew.
LIFETIME_DROP = """
DELETE FROM gsc_lifetime WHERE dataset = ? AND days_seen = 0 AND page IN (SELECT page FROM temp.gsc_gone)
"""
LIFETIME_REDATE = """
UPDATE gsc_lifetime SET
    first_seen = (SELECT d.date FROM gsc_day d WHERE d.dataset = gsc_lifetime.dataset AND EXISTS (
                      SELECT 1 FROM gsc_fact f WHERE f.day = d.id AND f.page = gsc_lifetime.page)
                  ORDER BY d.date LIMIT 1),
    last_seen = (SELECT d.date FROM gsc_day d WHERE d.dataset = gsc_lifetime.dataset AND EXISTS (
                      SELECT 1 FROM gsc_fact f WHERE f.day = d.id AND f.page = gsc_lifetime.page)
                 ORDER BY d.date DESC LIMIT 1)
WHERE dataset = ? AND page IN (SELECT page FROM temp.gsc_gone) AND ? IN (first_seen, last_seen)
"""
