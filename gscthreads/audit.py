"""What a store in SQL holds against itself, and how that is mended: the same in every dialect.

Statements have ``?`` for values, and ``{sums}`` and ``{weights}`` for what a dialect says in words of its own
(``SQLStore.worded``).  All call gsc_day ``d`` and gsc_slice ``a``: old SQLite files lack some of their columns.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Dict, Iterable, List, NamedTuple, Optional

from .errors import StoreError
from .model import Dataset
from .stores.base import FAILED, OPEN, PROVISIONAL, Store
from .stores.sql import SQLStore


class Flaw(NamedTuple):
    """Something that is not as it was written.  ``kind``: ``rows`` (a published day's rows are not those the ledger
    speaks of, are in the wrong order, or have lost their names), ``staged`` (slices that belong to nothing any more, or
    whose rows are not those acknowledged), ``lifetime`` (totals that don't follow from the rows; ``date`` is None)."""

    kind: str
    dataset: Dataset
    date: Optional[dt.date]
    words: str


#: Published days whose rows are not those the ledger speaks of, and other days that have rows.
_DAYS = """
SELECT d.date, d.status, d.rows, (SELECT count(*) FROM gsc_fact WHERE day = d.id)
FROM gsc_day d WHERE d.dataset = ? AND CASE
    WHEN d.status IN ('open', 'failed') THEN EXISTS (SELECT 1 FROM gsc_fact f WHERE f.day = d.id)
    ELSE NOT EXISTS (
        SELECT 1 FROM ({sums} gsc_fact WHERE day = d.id) f WHERE f.rows = d.rows
        AND f.clicks = coalesce(d.clicks, f.clicks) AND f.impressions = coalesce(d.impressions, f.impressions)
        AND f.positions = coalesce(d.positions, f.positions) AND f.ctrs = coalesce(d.ctrs, f.ctrs))
    END
ORDER BY d.date
"""

#: Days of which some page's rows are not numbered 1, 2, 3, ... by clicks, impressions, query (equals in any order).
_RANKS = """
SELECT DISTINCT d.date FROM gsc_day d JOIN (
    SELECT day, rank, rank() OVER ranked AS first, count(*) OVER ranked AS last
    FROM gsc_fact WHERE day IN (SELECT id FROM gsc_day WHERE dataset = ?)
    WINDOW ranked AS (PARTITION BY day, page ORDER BY clicks DESC, impressions DESC, query)
) f ON f.day = d.id AND f.rank NOT BETWEEN f.first AND f.last
ORDER BY d.date
"""

#: Days with rows of a page or segment that is not there (views leave them out, or show them without a name).  The
#: second value: whether the report has pages.
_NAMES = """
SELECT DISTINCT d.date FROM gsc_day d JOIN gsc_fact f ON f.day = d.id
LEFT JOIN gsc_page p ON p.id = f.page LEFT JOIN gsc_segment g ON g.id = f.segment
WHERE d.dataset = ?
AND (CASE WHEN ? THEN p.id IS NULL ELSE f.page <> 0 END OR f.segment <> 0 AND g.id IS NULL)
ORDER BY d.date
"""

#: Days with staged slices that are not acknowledged, or acknowledged ones of days that are final.
_STAGED = """
SELECT DISTINCT d.date FROM gsc_day d WHERE d.dataset = ? AND (
    EXISTS (SELECT 1 FROM gsc_stage t LEFT JOIN gsc_slice a ON a.day = t.day AND a.start_row = t.start_row
            WHERE t.day = d.id AND (a.day IS NULL OR d.status = 'final'))
    OR EXISTS (SELECT 1 FROM gsc_slice a WHERE a.day = d.id AND d.status = 'final'))
ORDER BY d.date
"""

#: Days with an acknowledged slice whose staged rows are not those that were acknowledged: publishing would certify
#: them.  Rows that repeat are not kept, so there may be fewer than were received.
_ACKNOWLEDGED = """
SELECT DISTINCT d.date FROM gsc_day d JOIN gsc_slice a ON a.day = d.id WHERE d.dataset = ? AND NOT EXISTS (
    SELECT 1 FROM ({sums} gsc_stage WHERE (day, start_row) = (a.day, a.start_row)) f
    WHERE f.rows = coalesce(a.kept, f.rows) AND f.rows <= a.received AND (f.rows > 0) = (a.received > 0)
    AND f.clicks = coalesce(a.clicks, f.clicks) AND f.impressions = coalesce(a.impressions, f.impressions)
    AND f.positions = coalesce(a.positions, f.positions) AND f.ctrs = coalesce(a.ctrs, f.ctrs))
ORDER BY d.date
"""

#: Lifetime totals computed anew from the rows of all published days.
_ANEW = """
SELECT d.dataset AS dataset, f.page AS page, sum(f.clicks) AS clicks, sum(f.impressions) AS impressions,
       {weights} AS weight, sum(CASE WHEN f.position IS NULL THEN 0 ELSE f.impressions END) AS weighed,
       min(d.date) AS first_seen, max(d.date) AS last_seen, count(*) AS days_seen
FROM gsc_fact f JOIN gsc_day d ON d.id = f.day WHERE d.dataset = ? AND f.rank = 1 GROUP BY d.dataset, f.page
"""
_TOTALS = "dataset, page, clicks, impressions, weight, weighed, first_seen, last_seen, days_seen"
#: What of the totals must agree.  A weight near 64 bits is not exact in SQLite: of that the first 20 bits.
_AGREE = _TOTALS.replace(
    " weight,", " CASE WHEN abs(weight) < 4e18 THEN weight ELSE round(weight / 8796093022208.0) END AS weight,"
)
_KEPT, _SUMS = f"SELECT {_AGREE} FROM gsc_lifetime WHERE dataset = ?", f"SELECT {_AGREE} FROM ({_ANEW}) n"
_LIFETIME = f"""
SELECT count(DISTINCT page) FROM (
    SELECT page FROM ({_KEPT} EXCEPT {_SUMS}) a UNION ALL SELECT page FROM ({_SUMS} EXCEPT {_KEPT}) b) f
"""
_REBUILD = f"INSERT INTO gsc_lifetime ({_TOTALS}) {_ANEW}"

#: The tables whose rows belong to a day, and what to call them when it is not in the ledger.
_OF_DAYS = {"gsc_fact": "rows", "gsc_stage": "staged rows", "gsc_slice": "acknowledged slices"}

#: Rows of days that are named in a table and not in the ledger, found from one day to the next by the table's key.
_STRAYS = """
FROM {table} WHERE day IN (
    WITH RECURSIVE named (day) AS (
        SELECT min(day) FROM {table}
        UNION ALL SELECT (SELECT min(t.day) FROM {table} t WHERE t.day > named.day) FROM named WHERE day IS NOT NULL)
    SELECT day FROM named WHERE day IS NOT NULL AND NOT EXISTS (SELECT 1 FROM gsc_day d WHERE d.id = named.day))
"""


def audit(store: Store, dataset: Dataset) -> List[Flaw]:
    """Hold what *store* has of *dataset* against itself: rows against the ledger, ranks, names, staged slices,
    totals."""
    sql = _in_sql(store)
    return sql.together(lambda: _audit(sql, dataset))


def _audit(sql: SQLStore, dataset: Dataset) -> List[Flaw]:
    number = sql.number(dataset)
    flaws = [
        Flaw("rows", dataset, dt.date.fromisoformat(date), _row_words(status, noted, counted))
        for date, status, noted, counted in sql.read(sql.worded(_DAYS), (number,))
    ]

    def look(kind: str, words: str, statement: str, *values: Any) -> None:
        """Of several flaws of a *kind*, the first one found tells enough of a day."""
        known = {flaw.date for flaw in flaws if flaw.kind == kind}
        found = sql.read(sql.worded(statement), (number, *values))
        dates = [dt.date.fromisoformat(date) for date, in found]
        flaws.extend(Flaw(kind, dataset, date, words) for date in dates if date not in known)

    look("rows", "rows are not in order of rank", _RANKS)
    look("rows", "rows whose page, or country and device, is not there any more", _NAMES,
         "page" in dataset.report.dimensions)
    look("staged", "staged slices that belong to nothing", _STAGED)
    look("staged", "staged rows that are not those acknowledged", _ACKNOWLEDGED)
    if dataset.report.name == "page":
        stale = sql.read(sql.worded(_LIFETIME), (number,) * 4)[0][0]
        if stale:
            flaws.append(Flaw("lifetime", dataset, None, f"lifetime totals of {stale} pages are not their sums"))
    return flaws


def strays(store: Store) -> Dict[str, int]:
    """What is stored of days that are not in the ledger, which nobody sees: {what: how much}."""
    sql = _in_sql(store)
    counts = sql.together(lambda: {
        words: int(sql.read(f"SELECT count(*) {_STRAYS.format(table=table)}")[0][0])
        for table, words in _OF_DAYS.items()
    })
    return {words: count for words, count in counts.items() if count}


def drop_strays(store: Store) -> None:
    """Inside a transaction: delete what ``strays`` counts."""
    for table in _OF_DAYS:
        _in_sql(store).execute(f"DELETE {_STRAYS.format(table=table)}")


def mend(store: Store, flaws: Iterable[Flaw]) -> None:
    """Inside a transaction: drop staged slices that belong to nothing, compute lifetime totals anew, and reopen days
    whose rows are wrong: they become provisional, so that a sync replaces them; readers see them until then."""
    sql, flaws = _in_sql(store), list(flaws)
    # Also where a day's rows are wrong, before it is replaced: that takes the rows, as they are, out of the totals.
    for dataset in dict.fromkeys(
        flaw.dataset for flaw in flaws
        if flaw.kind == "lifetime" or flaw.kind == "rows" and flaw.dataset.report.name == "page"
    ):
        number = (sql.number(dataset),)
        sql.execute("DELETE FROM gsc_lifetime WHERE dataset = ?", number)
        sql.execute(sql.worded(_REBUILD), number)
    for kind, dataset, date, _ in flaws:
        if date is not None and kind == "staged":
            sql.unstage(dataset, [date])
        elif date is not None and kind == "rows":
            sql.execute("UPDATE gsc_day SET status = ? WHERE dataset = ? AND date = ?",
                        (PROVISIONAL, sql.number(dataset), date.isoformat()))


def _in_sql(store: Store) -> SQLStore:
    if not isinstance(store, SQLStore):
        raise StoreError(f"{type(store).__name__} is no store in SQL: it can't be verified")
    return store


def _row_words(status: str, noted: int, counted: int) -> str:
    """What is wrong with a day of *status* that has *counted* rows, of which *noted* were published."""
    if status in (OPEN, FAILED):
        return f"{counted} rows of a day that is {status}"
    if noted != counted:
        return f"{counted} rows where {noted} were published"
    return "numbers that were not published"
