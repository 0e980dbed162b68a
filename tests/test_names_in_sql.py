"""Names, pages and queries that somebody else chose reach SQL as parameters only, never as text."""

from __future__ import annotations

import contextlib
import datetime as dt
import sqlite3

import pytest

import gscthreads
from gscthreads import pacific
from gscthreads.config import read_report
from gscthreads.errors import ConfigError
from gscthreads.simulator import Simulator, Site
from gscthreads.stores import open_store
from gscthreads.summary import read_status, status_text
from gscthreads.verify import verify
from tests import postgres_server

#: In every hostile text, and nowhere else: no statement may have it.
MARK = "zqxj"

LAST = pacific.today() - dt.timedelta(days=20)
DATES = [LAST, LAST - dt.timedelta(days=1)]

#: What ends a literal, a name, a statement, a COPY line or an array; what drivers take for places; what is too long.
TEXTS = [
    f"{MARK}'; DROP TABLE gsc_fact; --", f'{MARK}"; DROP VIEW gsc_days; --', f"{MARK}'); DELETE FROM customers; --",
    f"{MARK}\\'; DROP TABLE customers; --", f"{MARK} $$; DROP TABLE customers; $$", f"{MARK} %s %(site)s %% %",
    f"{MARK} ? ?1 :site @site $1 {{0}}", f"{MARK}\0'; DROP TABLE customers; --", f"\0{MARK}", f"{MARK}\\", f"{MARK}\\N",
    f"{MARK}\\.\n\\.\n", f"{MARK}\ttab\r\nline", f"{MARK}{{a,b}},(c)", f"{MARK} NULL", f"{MARK}/*", f"{MARK}*/--",
    f"{MARK}\U0001f6b2\u202e\u2028\ufffd", f"{MARK}' OR '1'='1", f"{MARK}`]", f"{MARK}E'\\x27'", MARK + "'" * 4000,
    MARK + "\u00e9" * 3000,
]
SITES = [
    f"sc-domain:{MARK}';DROP/**/TABLE/**/gsc_fact;--",
    f"https://{MARK}.example/%s/%(x)s/?q=$1&:n;\"\\'{{}}\u00e9\U0001f6b2/",
    f"https://{MARK}.example/" + "l'o\"ng%" * 300,
]
REPORTS = [
    "page", "page_query", gscthreads.Report(f"{MARK}'; DROP TABLE gsc_day; --", ("query", "page")),
    gscthreads.Report(f'{MARK}"%s\\\U0001f6b2?', ("query",)),
    gscthreads.Report(f"{MARK};" + "'\"" * 40, ("page", "device")),
]


class _Recording:
    """Statements as they are given to a driver."""

    def __init__(self):
        self.statements = []

    def note(self, statement):
        self.statements.append(statement if isinstance(statement, str) else statement.decode())

    def wrap(self, base, *names):
        """*base*, whose methods *names* note their first argument."""
        note = self.note

        def make(name):
            def method(this, statement, *values, **named):
                note(statement)
                return getattr(base, name)(this, statement, *values, **named)
            return method

        return type(base.__name__, (base,), {name: make(name) for name in names})


@pytest.fixture
def statements(monkeypatch):
    """All that SQLite and Postgres are told in this process."""
    recording = _Recording()
    names = "execute", "executemany", "executescript"
    cursors = recording.wrap(sqlite3.Cursor, *names)

    class Connection(recording.wrap(sqlite3.Connection, *names)):
        def cursor(self, factory=cursors):
            return super().cursor(factory)

    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *values, **named: connect(*values, **{"factory": Connection, **named}))
    with contextlib.suppress(ImportError):
        import psycopg2
        import psycopg2.extensions

        cursor = recording.wrap(psycopg2.extensions.cursor, "execute", "executemany", "copy_expert", "mogrify")
        link = psycopg2.connect
        monkeypatch.setattr(
            psycopg2, "connect", lambda *values, **named: link(*values, **{"cursor_factory": cursor, **named}))
    return recording.statements


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    if request.param == "postgres":
        return postgres_server.server().schema()
    return f"sqlite:///{tmp_path / 'search.db'}"


@contextlib.contextmanager
def opened(url):
    with contextlib.closing(open_store(url)) as store:
        store.open()
        yield store


def objects(store, url):
    """Names and definitions of everything in the database."""
    if url.startswith("sqlite"):
        return store.read("SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2")
    return store.read(
        "SELECT c.relkind::text, c.relname::text, coalesce(pg_get_viewdef(c.oid), '') FROM pg_class c"
        " WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'v', 'i', 'S') ORDER BY 1, 2")


def stored(text, url):
    """Postgres can't hold a NUL."""
    return text if url.startswith("sqlite") or not isinstance(text, str) else text.replace("\0", "\ufffd")


@pytest.fixture
def sim():
    with Simulator(sites=[Site(site) for site in SITES], seed=3, site_qpm=10**9, user_qpm=10**9) as simulator:
        for number, site in enumerate(SITES):
            for date in DATES:
                rows = [
                    (f"https://{place}/{text}", TEXTS[(place + turn) % len(TEXTS)], "usa", "MOBILE", turn, 9, 1.5)
                    for place, text in enumerate(TEXTS) for turn in range(1 + number)
                ]
                simulator.put_day(site, "web", date, rows)
        yield simulator


def truth(sim, url):
    """Rows of gsc_performance, in order."""
    found = []
    for site in SITES:
        for report in REPORTS:
            name, dimensions = (report, report.split("_")) if isinstance(report, str) else report
            for date in DATES:
                for keys, *figures in sim.truth(site, list(dimensions), "web", date):
                    named = dict(zip(dimensions, keys))
                    texts = [named.get(column) for column in ("page", "query", "device")]
                    found.append(tuple(stored(each, url) for each in (site, name, date.isoformat(), *texts, *figures)))
    return sorted(found, key=repr)


def test_hostile_names_pages_and_queries_are_data(url, sim, statements):
    with opened(url) as store:
        before = objects(store, url)
    assert MARK not in repr(before)

    def config(**more):
        return gscthreads.SyncConfig(**{
            "sites": SITES, "store": url, "credentials": sim.credentials(), "api_root": sim.url, "start": DATES[-1],
            "end": DATES[0], "reports": REPORTS, "rate_limit_enabled": False, "backoff_base": 0.0, "backoff_cap": 0.0,
            **more})

    sim.faults.script("forbidden_403", times=None, site=SITES[0])
    sim.faults.script("load_403", times=None, site=SITES[1])
    sim.faults.script("http_503", times=None, site=SITES[2], date=DATES[1])
    result = gscthreads.Sync(config(max_attempts=1)).run()
    assert result.status == "failed"  # names in errors, parks and failed days
    sim.faults.clear()
    for force in (False, True):
        result = gscthreads.Sync(config(force=force)).run()
        assert result.status == "complete", (result.reason, [each.error for each in result.datasets])
    found = verify(url, sites=SITES, credentials=sim.credentials(), api_root=sim.url, pages=20, mend=True)
    assert not found.wrong
    assert [each["site"] for each in read_status(url, sites=SITES[:1])["datasets"]] == [SITES[0]] * len(REPORTS)
    assert status_text(read_status(url))
    assert read_status(url, sites=[f"{MARK}' OR 1=1"])["datasets"] == []

    with opened(url) as store:
        assert objects(store, url) == before
        kept = store.read("SELECT site, report, date, page, query, device, clicks, impressions, ctr, position"
                          " FROM gsc_performance")
        assert sorted(kept, key=repr) == truth(sim, url)
        assert store.read("SELECT count(*) FROM gsc_days WHERE status = 'final'") == [
            (len(SITES) * len(REPORTS) * len(DATES),)]
        ranked = [len(sim.truth(site, ["page", "query"], "web", date)) for site in SITES for date in DATES]
        assert store.read("SELECT count(*) FROM gsc_top_queries") == [(sum(ranked),)]
    assert len(statements) > 100
    assert [statement for statement in statements if MARK in statement] == []


@pytest.mark.parametrize("char", ["\0", "\n", "\x7f", "\ud800", "\u2028"])
def test_no_report_is_named_by_what_no_database_takes(char):
    with pytest.raises(ConfigError, match="printable"):
        read_report(gscthreads.Report(f"{MARK}{char}", ("query",)))


@pytest.mark.parametrize("site", [f"sc-domain:{MARK}\0", f"sc-domain:{MARK}\ud800"])
def test_no_site_is_named_by_what_no_database_takes(site):
    with pytest.raises(ConfigError, match="is not a property"):
        gscthreads.SyncConfig(sites=[site], store="sqlite:///search.db", credentials={})


def test_a_page_too_long_to_ask_for_does_not_end_verify(tmp_path):
    with Simulator(sites=[Site(SITES[0])], seed=3) as sim:
        sim.put_day(SITES[0], "web", LAST, [("https://a/" + "b" * 4090, "q", "usa", "MOBILE", 1, 2, 1.5)])
        url = f"sqlite:///{tmp_path / 'search.db'}"
        assert gscthreads.sync(SITES[0], start=LAST, end=LAST, store=url, credentials=sim.credentials(),
                               api_root=sim.url).status == "complete"
        assert not verify(url, credentials=sim.credentials(), api_root=sim.url).wrong
