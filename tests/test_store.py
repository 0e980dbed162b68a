"""The store contract, held against every store.  Adding one is a line in PLACES."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from gscthreads.audit import audit, mend
from gscthreads.errors import ConfigError, LeaseLost, StoreError, StoreFull, StoreLocked, StoreMissing
from gscthreads.halt import Halt, Halted
from gscthreads.model import Dataset, Report, Rows, SliceKey
from gscthreads.stores import open_store, sqlite_sync
from gscthreads.stores.base import FAILED, FINAL, OPEN, PROVISIONAL, Acknowledged, Park, RunFigures
from gscthreads.stores.sqlite import SQLiteStore
from gscthreads.stores.sqlite_sync import SyncFile
from tests.properties import examples

PAGE = Dataset("sc-domain:a.com", Report("page", ("page",)), "web")
QUERY = Dataset("sc-domain:a.com", Report("page_query", ("page", "query")), "web")
WIDE = Dataset("sc-domain:a.com", Report("wide", ("page", "country", "device")), "image")
DAY = dt.date(2026, 3, 1)
COLUMNS = {
    "gsc_performance": "site report search_type date page query country device clicks impressions ctr position",
    "gsc_page_daily": "site search_type date page clicks impressions ctr position",
    "gsc_top_queries": "site search_type date page rank query clicks impressions ctr position",
    "gsc_page_lifetime": "site search_type page clicks impressions ctr position first_seen last_seen days_seen",
    "gsc_days": "site report search_type date status rows calls published_at",
    "gsc_runs": "run_id started_at ended_at status days rows calls retries peak_qpm seconds settings uptime"
                " restarts faults halt_seconds",
}


class SQLitePlace:
    """Where a store may be: makes Store objects, as several processes would, and other programs' connections."""

    def __init__(self, folder):
        self.path = str(folder / "search.db")
        self.url = f"sqlite:///{self.path}"

    def store(self):
        return SQLiteStore(self.path)

    def columns(self, view):
        with self.other() as run:
            return [each[1] for each in run(f"PRAGMA table_info({view})")]

    @contextlib.contextmanager
    def other(self):
        """Another program's connection, which commits each statement."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            yield lambda statement: connection.execute(statement).fetchall()


class PostgresPlace:
    def __init__(self, folder):
        from tests import postgres_server

        self.url = postgres_server.server().schema()

    def store(self):
        return open_store(self.url)

    def columns(self, view):
        with self.other() as run:
            return [name for name, in run(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema()"
                f" AND table_name = '{view}' ORDER BY ordinal_position"
            )]

    @contextlib.contextmanager
    def other(self):
        from gscthreads.stores.postgres_link import connector

        connect, _, schema = connector(self.url)
        with contextlib.closing(connect()) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(f'SET search_path TO "{schema or "public"}"')

            def run(statement):
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []

            yield run


PLACES = {"sqlite": SQLitePlace, "postgres": PostgresPlace}


@pytest.fixture(params=sorted(PLACES))
def place(request, tmp_path):
    return PLACES[request.param](tmp_path)


@pytest.fixture
def sqlite_store(tmp_path):
    made = SQLiteStore(str(tmp_path / "search.db"))
    made.open()
    yield made
    made.close()


@pytest.fixture
def store(place):
    made = place.store()
    made.open()
    yield made
    made.close()


def row(clicks, impressions=10, query="", country="", device="", position=2.5, ctr=None):
    return (-clicks, -impressions, query, country, device, "", ctr, position)


def pages(**clicks):
    """Rows of report page: {page: clicks}."""
    groups = [(page, [row(count)]) for page, count in clicks.items()]
    return Rows.of(groups)


def queries(*found):
    """Rows of one page: (query, clicks) in order of rank."""
    return Rows.of([("https://a.com/", [row(clicks, query=query) for query, clicks in found])])


@contextlib.contextmanager
def transaction(store):
    store.begin(Halt())
    try:
        yield
    except BaseException:
        store.rollback()
        raise
    store.commit()


def publish(store, dataset, date, rows, status=FINAL, calls=1):
    with transaction(store):
        return store.publish(dataset, date, rows, status=status, calls=calls)


def ack(received=25_000):
    return Acknowledged(received, DAY, "final")


def test_the_views_have_their_fixed_columns(place, store):
    publish(store, PAGE, DAY, pages(a=1))
    for view, columns in COLUMNS.items():
        store.read(f"SELECT {columns.replace(' ', ', ')} FROM {view}")
        assert place.columns(view) == columns.split()


def test_a_day_of_one_slice_is_published_as_served(store):
    groups = [("https://a.com/B", [row(5, 7, "q\t'\"\\\n☃", ctr=0.1, position=None), row(0, 0, "z", ctr=0.0)]),
              ("https://a.com/b", [row(2, 3, "q", position=1.123456789012345)])]
    assert publish(store, QUERY, DAY, Rows.of(groups)) == 3
    assert store.read("SELECT page, query, clicks, impressions, ctr, position, country FROM gsc_performance") == [
        ("https://a.com/B", "q\t'\"\\\n☃", 5, 7, 0.1, None, None),
        ("https://a.com/B", "z", 0, 0, 0.0, 2.5, None),
        ("https://a.com/b", "q", 2, 3, 2 / 3, 1.123456789012345, None),
    ]
    assert store.read("SELECT status, rows, calls FROM gsc_days") == [("final", 3, 1)]


def test_rarer_dimensions_and_reports_without_page(store):
    wide = Rows.of([("https://a.com/", [row(2, country="usa", device="MOBILE"), row(1, country="deu")])])
    publish(store, WIDE, DAY, wide)
    totals = Dataset("sc-domain:a.com", Report("date", ("date",)), "web")
    publish(store, totals, DAY, Rows.of([("", [row(9)])]))
    looks = Dataset("sc-domain:a.com", Report("searchAppearance", ("searchAppearance",)), "web")
    publish(store, looks, DAY, Rows.of([("", [(-4, -5, "", "", "", "VIDEO", None, 1.0)])]))
    assert store.read("SELECT report, page, country, device, clicks FROM gsc_performance ORDER BY clicks") == [
        ("wide", "https://a.com/", "deu", None, 1), ("wide", "https://a.com/", "usa", "MOBILE", 2),
        ("searchAppearance", None, None, None, 4), ("date", None, None, None, 9),
    ]
    assert store.read("SELECT search_appearance, clicks FROM gsc_search_appearance") == [("VIDEO", 4)]


def test_staged_slices_are_invisible_until_published_without_repeats_and_ranked_anew(store):
    key = SliceKey(DAY, 0)
    with transaction(store):
        store.stage(QUERY, key, queries(("a", 9), ("b", 5)), ack())
        store.stage(QUERY, key, queries(("a", 9), ("b", 5)), ack())  # once more: no difference
    assert store.read("SELECT * FROM gsc_performance") == []
    assert store.read("SELECT status FROM gsc_days") == [("open",)]
    record = store.ledger(QUERY, DAY, DAY)[DAY]
    assert (record.status, record.slices) == (OPEN, {0: ack()})
    with transaction(store):
        store.stage(QUERY, SliceKey(DAY, 25_000), queries(("b", 4), ("c", 7)), ack(2))
        assert store.publish(QUERY, DAY, None, status=FINAL, calls=2) == 3
    assert store.read("SELECT rank, query, clicks FROM gsc_top_queries ORDER BY rank") == [
        (1, "a", 9), (2, "c", 7), (3, "b", 5)
    ]
    assert store.ledger(QUERY, DAY, DAY)[DAY].slices == {}
    assert store.read("SELECT count(*) FROM gsc_stage") == [(0,)]


def test_a_rolled_back_transaction_leaves_nothing_and_ids_are_looked_up_again(store):
    with pytest.raises(ZeroDivisionError):
        with transaction(store):
            store.publish(PAGE, DAY, pages(a=1, b=2), status=FINAL, calls=1)
            raise ZeroDivisionError
    assert store.read("SELECT * FROM gsc_days") == store.read("SELECT * FROM gsc_performance") == []
    publish(store, PAGE, DAY, pages(b=3))
    assert store.read("SELECT page, clicks FROM gsc_page_daily") == [("b", 3)]


def test_a_reader_sees_the_old_day_until_the_new_one_is_committed(place, store):
    publish(store, PAGE, DAY, pages(a=1), status=PROVISIONAL)
    with place.other() as read:
        question = "SELECT (SELECT page || clicks FROM gsc_page_daily)," \
                   " (SELECT page || clicks FROM gsc_page_lifetime), (SELECT status FROM gsc_days)"
        store.begin(Halt())
        store.publish(PAGE, DAY, pages(b=2), status=FINAL, calls=1)
        assert read(question) == [("a1", "a1", "provisional")]
        store.commit()
        assert read(question) == [("b2", "b2", "final")]


LIFETIME = (
    "SELECT page, clicks, impressions, first_seen, last_seen, days_seen, round(CAST(position AS NUMERIC), 9)"
    " FROM gsc_page_lifetime"
)
AGAIN = (
    "SELECT page, sum(clicks), sum(impressions), min(date), max(date), count(*),"
    " round(CAST(sum(position * impressions) / sum(CASE WHEN position IS NOT NULL THEN impressions END) AS NUMERIC), 9)"
    " FROM gsc_page_daily GROUP BY page"
)


@examples(40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.dictionaries(st.sampled_from("abcde"), st.integers(0, 9), max_size=4)),
        min_size=1, max_size=12,
    )
)
def test_lifetime_totals_equal_their_recomputation_whatever_is_replaced(place, store, steps):
    # One store for all examples: each goes on from where the last one left it.
    for number, clicks in steps:
        publish(store, PAGE, DAY + dt.timedelta(days=number), pages(**clicks))
        assert sorted(store.read(LIFETIME)) == sorted(store.read(AGAIN))


def test_top_queries_can_be_widened_without_new_rows(store):
    publish(store, QUERY, DAY, queries(*((f"q{number:02}", 50 - number) for number in range(30))))
    assert store.read("SELECT max(rank) FROM gsc_top_queries") == [(20,)]
    with transaction(store):
        store.prepare([QUERY], top_queries=25)
    assert store.read("SELECT max(rank) FROM gsc_top_queries") == [(25,)]


def test_a_report_name_keeps_its_dimensions(store):
    publish(store, WIDE, DAY, Rows(0, 0, []))
    other = WIDE._replace(report=Report("wide", ("page", "country")))
    with pytest.raises(ConfigError, match="another name"):
        with transaction(store):
            store.prepare([other], top_queries=20)


def test_failing_and_unstaging_days(place, store):
    with transaction(store):
        store.stage(PAGE, SliceKey(DAY, 0), pages(a=1), ack())
        store.fail_day(PAGE, DAY, "gone")
        store.publish(QUERY, DAY, queries(("a", 1)), status=PROVISIONAL, calls=1)
        store.fail_day(QUERY, DAY, "not now")
    assert store.ledger(PAGE, DAY, DAY)[DAY] == (FAILED, {0: ack()})
    assert store.ledger(QUERY, DAY, DAY)[DAY].status == PROVISIONAL  # what is published stays
    with transaction(store):
        store.unstage(PAGE, [DAY])
    assert store.ledger(PAGE, DAY, DAY)[DAY].slices == {}


def another(place):
    """A second process's store object, as it were."""
    made = place.store()
    made.open()
    return made


def start(store, *datasets):
    """Start a run that claims *datasets*: (run id, those that others hold)."""
    with transaction(store):
        return store.start_run("{}"), store.claim(datasets)


def test_runs_are_noted_and_one_that_ended_without_a_word_was_killed(place, store):
    start(store)
    with contextlib.closing(another(place)) as second:
        store.close()
        run, _ = start(second)
        with transaction(second):
            figures = RunFigures("complete", 1, 2, 3, 4, 5, 6.5, 0.99, 2, '{"Transient": 3}', 0.1)
            second.save_run(run, figures, ended=True)
        assert second.read(
            "SELECT status, days, rows, calls, retries, peak_qpm, seconds, uptime, restarts, faults, halt_seconds"
            " FROM gsc_runs ORDER BY run_id"
        ) == [
            ("killed", 0, 0, 0, 0, 0, 0.0, 1.0, 0, "{}", None),
            ("complete", 1, 2, 3, 4, 5, 6.5, 0.99, 2, '{"Transient": 3}', 0.1),
        ]
    store.open()


def test_a_dataset_is_leased_to_one_run_and_the_others_are_told_who_holds_it(place, store):
    assert start(store, PAGE)[1] == {}
    with contextlib.closing(another(place)) as second:
        _, held = start(second, PAGE, QUERY)
        assert list(held) == [PAGE]
        assert f"process {os.getpid()} on" in held[PAGE]
        with transaction(second):
            second.publish(QUERY, DAY, queries(("a", 1)), status=FINAL, calls=1)
        with transaction(store):
            store.publish(PAGE, DAY, pages(a=1), status=FINAL, calls=1)
    assert store.read("SELECT count(*) FROM gsc_performance") == [(2,)]


def test_who_holds_what_is_known_to_those_who_only_read(place, store):
    reader = place.store()
    assert store.holders() == {}
    store.begin(Halt())
    run_id = store.start_run("{}")
    store.claim([PAGE])
    store.commit()
    reader.open(writing=False)
    try:
        assert list(reader.holders()) == [PAGE] and f"process {os.getpid()} on" in reader.holders()[PAGE]
        if isinstance(store, SQLiteStore):
            store.close()  # without a word
        else:  # a server takes a moment to notice
            store.begin(Halt())
            store.save_run(run_id, RunFigures("complete", 0, 0, 0, 0, 0, 0.0), ended=True)
            store.commit()
        assert reader.holders() == {}
    finally:
        reader.close()


def test_a_lease_is_free_once_its_run_has_ended(place, store):
    run, _ = start(store, PAGE)
    with contextlib.closing(another(place)) as second:
        with transaction(store):
            store.save_run(run, RunFigures("complete", 0, 0, 0, 0, 0, 0.0), ended=True)
        assert start(second, PAGE)[1] == {}


def test_who_gives_no_sign_of_life_loses_its_leases_and_writes_nothing_more(place, store, monkeypatch):
    start(store, PAGE)
    monkeypatch.setattr(f"{type(store).__module__}.LEASE_SECONDS", -1.0)
    with contextlib.closing(another(place)) as second:
        assert start(second, PAGE)[1] == {}
        with pytest.raises(LeaseLost, match="took this one for dead"):
            store.begin(Halt())
        with transaction(second):
            second.publish(PAGE, DAY, pages(a=1), status=FINAL, calls=1)
        assert second.read("SELECT status FROM gsc_runs ORDER BY run_id") == [("killed",), ("running",)]


def test_a_park_is_remembered_until_the_site_answers(place, store):
    since = dt.datetime(2026, 1, 5, 12, 0, tzinfo=dt.timezone.utc)
    park = Park(since, since + dt.timedelta(minutes=15), "load quota exceeded")
    with transaction(store):
        store.park(PAGE.site, park)
    with contextlib.closing(another(place)) as second:
        assert second.parks() == {PAGE.site: park}
        with transaction(second):
            second.park(PAGE.site, park._replace(until=since))
            second.park("sc-domain:other.com", None)
    assert store.parks() == {PAGE.site: park._replace(until=since)}
    with transaction(store):
        store.park(PAGE.site, None)
    assert store.parks() == {}


def test_all_runs_on_a_store_share_its_budgets(place, store):
    with contextlib.closing(another(place)) as second:
        first_ledger, second_ledger = store.quota_ledger(), second.quota_ledger()
        first_ledger.update(["site a", "user b"], lambda states, now: states["site a"].update(level=3))
        assert second_ledger.update(["site a"], lambda states, now: dict(states["site a"])) == {"level": 3}
        first, later = (each.update([], lambda states, now: now) for each in (first_ledger, second_ledger))
        assert 0 <= later - first < 3600  # one clock
        first_ledger.close()
        second_ledger.close()


def test_a_reader_is_not_disturbed(place, store):
    start(store)
    reader = place.store()
    reader.open(writing=False)
    assert reader.read("SELECT status FROM gsc_runs") == [("running",)]
    reader.close()


def test_a_store_that_was_read_can_be_opened_again_to_write(place, store):
    again = place.store()
    again.open(writing=False)
    assert again.parks() == {}
    again.close()
    again.open()
    start(again)
    assert again.read("SELECT status FROM gsc_runs") == [("running",)]
    again.close()


def test_waiting_for_another_writer_ends_at_a_halt(sqlite_store):
    store, halt = sqlite_store, Halt()
    halt.set("enough")
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Halted):
            store.begin(halt)


def test_a_full_disk_is_told_and_loses_nothing(tmp_path):
    store = SQLiteStore(str(tmp_path / "full.db"))
    store.open()
    publish(store, PAGE, DAY, pages(a=1))
    limit = store.read("PRAGMA page_count")[0][0] + 2
    store.read(f"PRAGMA max_page_count = {limit}")
    many = pages(**{f"page{number:06}" * 20: 1 for number in range(2000)})
    with pytest.raises(StoreFull, match="run the same command again"):
        publish(store, PAGE, DAY + dt.timedelta(days=1), many)
    assert store.read("SELECT page, clicks FROM gsc_page_lifetime") == [("a", 1)]
    store.read("PRAGMA max_page_count = 1000000")
    assert publish(store, PAGE, DAY + dt.timedelta(days=1), many) == 2000
    store.close()


def test_many_pages_are_remembered_in_bounded_memory(store, monkeypatch):
    monkeypatch.setattr(f"{type(store).__module__}.REMEMBERED", 3)
    for number in range(4):
        publish(store, PAGE, DAY + dt.timedelta(days=number), pages(a=1, b=2, **{f"c{number}": 3}))
    assert store.read("SELECT count(*) FROM gsc_page") == [(6,)]
    assert store.read("SELECT page, days_seen FROM gsc_page_lifetime WHERE days_seen > 1") == [("a", 4), ("b", 4)]


@pytest.mark.parametrize("limit", [999, 32766])
def test_old_sqlites_take_fewer_parameters_a_statement(sqlite_store, limit, monkeypatch):
    monkeypatch.setattr("gscthreads.stores.sqlite._MOST_PARAMETERS", limit)
    assert publish(sqlite_store, PAGE, DAY, pages(**{f"p{number}": number for number in range(1234)})) == 1234
    assert sqlite_store.read("SELECT count(*), sum(clicks) FROM gsc_page_daily") == [(1234, 1234 * 1233 // 2)]


def busy(impressions, position):
    return Rows.of([("a", [row(5, impressions, position=position)])])


@pytest.mark.parametrize("impressions", [2_500_000, 1_000_000_000, 10**12])
def test_totals_of_very_busy_pages_are_right_too(store, impressions):
    """Their weights are beyond 64 bits in SQLite, of all days, or even of one."""
    days, position = 5 if impressions > 10**7 else 480, 7.3
    with transaction(store):
        for number in range(days):
            store.publish(PAGE, DAY + dt.timedelta(days=number), busy(impressions, position), status=FINAL, calls=1)
    assert audit(store, PAGE) == []
    publish(store, PAGE, DAY, busy(2 * impressions, 1.5))
    assert audit(store, PAGE) == []
    expected = (position * (days - 1) + 1.5 * 2) / (days + 1)
    seen = "SELECT impressions, position FROM gsc_page_lifetime WHERE page = 'a'"
    assert store.read(seen) == [((days + 1) * impressions, pytest.approx(expected, rel=1e-12))]
    with transaction(store):
        store.execute("UPDATE gsc_lifetime SET weight = weight * 1.001")
    (flaw,) = audit(store, PAGE)
    assert flaw.kind == "lifetime"
    with transaction(store):
        mend(store, [flaw])
    assert audit(store, PAGE) == [] and store.read(seen)[0][1] == pytest.approx(expected, rel=1e-12)


def test_files_that_are_not_ours_are_left_alone(tmp_path):
    (tmp_path / "text.db").write_text("hello, this is not a database at all")
    with contextlib.closing(sqlite3.connect(str(tmp_path / "theirs.db"))) as database, database:
        database.execute("CREATE TABLE t (x)")
    with contextlib.closing(sqlite3.connect(str(tmp_path / "newer.db"))) as database, database:
        database.execute("PRAGMA application_id = 0x67736374")
        database.execute("PRAGMA user_version = 99")
    (tmp_path / "folder").mkdir()
    before = {name: (tmp_path / name).read_bytes() for name in ("text.db", "theirs.db", "newer.db")}
    for name, words in (("text.db", "not a SQLite"), ("theirs.db", "another program"), ("newer.db", "newer gscthreads"),
                        ("folder", "is a folder"), ("no/where.db", "does not exist")):
        with pytest.raises(StoreError, match=words):
            SQLiteStore(str(tmp_path / name)).open()
    with pytest.raises(StoreMissing):
        SQLiteStore(str(tmp_path / "absent.db")).open(writing=False)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert sorted(os.listdir(tmp_path)) == ["folder", "newer.db", "text.db", "theirs.db"]
    assert not (tmp_path / "absent.db").exists()


def test_characters_that_postgres_cannot_store_cost_no_row(store):
    groups = [("p\0", [row(9, query="a"), row(5, query="b\0")]), ("p\ufffd", [row(7, query="c")])]
    assert publish(store, QUERY, DAY, Rows.of(groups)) == 3
    publish(store, PAGE, DAY, Rows.of([(page, [row(1)]) for page in ("p\0", "p\ufffd")]))
    found = store.read("SELECT rank, query, clicks FROM gsc_top_queries ORDER BY clicks DESC")
    if isinstance(store, SQLiteStore):
        assert found == [(1, "a", 9), (1, "c", 7), (2, "b\0", 5)]
    else:
        assert found == [(1, "a", 9), (2, "c", 7), (3, "b\ufffd", 5)]
    assert audit(store, QUERY) == audit(store, PAGE) == []


@pytest.mark.parametrize("url", ["u:secret@h/db", "postgresql:u:secret@h/db", "sqlite://u:secret@h",
                                 "host=h password=secret", "postgresql://u:se@secret@h/db",
                                 "postgresql://u:secret@[::1/db",
                                 "postgresql://u:secret@h/d?schema=a%22b"])
def test_a_wrong_url_shows_no_password(url):
    with pytest.raises(ConfigError) as caught:
        open_store(url)
    assert "secret" not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize("url", ["x.db", "sqlite://", "sqlite:///", "sqlite:///:memory:", "mysql://u:secret@h/d", ""])
def test_a_wrong_url_says_what_is_right_and_no_password(url):
    with pytest.raises(ConfigError, match="sqlite:///") as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("by_server", [False, True], ids=["SET LOCAL ROLE", "ALTER ROLE .. SET role"])
def test_a_role_that_is_assumed_owns_the_tables_and_a_living_run_is_not_taken_for_dead(by_server):
    """The role may not see when a process of the one who logged in was started."""
    from gscthreads.stores.postgres import PostgresStore
    from tests import postgres_server

    psycopg2 = postgres_server.psycopg2
    server = postgres_server.own_server()
    login, owner = f"login_{by_server:d}", f'Owner "{by_server:d}"'
    quoted = '"{}"'.format(owner.replace('"', '""'))
    server.run(f"CREATE ROLE {quoted}; CREATE ROLE {login} LOGIN NOINHERIT IN ROLE {quoted}")
    if by_server:
        server.run(f"ALTER ROLE {login} SET role = {quoted}")
    url = server.database()
    with contextlib.closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA {quoted} AUTHORIZATION {quoted}; ALTER SCHEMA {quoted} RENAME TO ours;"
                       f" ALTER ROLE {login} SET search_path = ours")

    def store():
        made = PostgresStore(lambda: psycopg2.connect(url, user=login), role="" if by_server else owner)
        made.open()
        return made

    with contextlib.closing(store()) as first:
        start(first, PAGE)
        assert first.read("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'ours'") == [(owner,)]
        with contextlib.closing(store()) as second:
            assert list(start(second, PAGE)[1]) == [PAGE]
            with transaction(first):
                first.publish(PAGE, DAY, pages(a=1), status=FINAL, calls=1)
            first.close()
            if not by_server:  # else only time tells
                with contextlib.closing(store()) as third:
                    assert start(third, PAGE)[1] == {}


@pytest.mark.parametrize("which", ["", "-sync", "-run-abcabcabcabc"])
def test_whatever_file_is_damaged_no_connection_is_left_open(which, tmp_path, monkeypatch):
    path, made, connect = str(tmp_path / "search.db"), [], sqlite3.connect

    def remembered(*args, **kwargs):
        made.append(connect(*args, **kwargs))
        return made[-1]

    with open(path + which, "w", encoding="utf-8") as file:
        file.write("hello, this is not a database at all " * 100)
    monkeypatch.setattr(sqlite3, "connect", remembered)
    with pytest.raises((StoreError, sqlite3.DatabaseError)):
        sqlite_sync.is_running(path, "abcabcabcabc") if "run" in which else SQLiteStore(path).open()
    assert made
    for each in made:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            each.execute("SELECT 1")


def test_waiting_for_another_process_that_opens_the_file_ends_at_a_halt(tmp_path):
    holder, halt = SyncFile(str(tmp_path / "search.db")), Halt()
    with contextlib.closing(holder), holder.alone():
        waiting = SyncFile(str(tmp_path / "search.db"))
        halt.set("enough")
        with contextlib.closing(waiting), pytest.raises(Halted):
            with waiting.alone(halt):
                pass
        with contextlib.closing(waiting), pytest.raises(StoreLocked, match="another process"):
            with waiting.alone(patience=0.0):
                pass


def test_who_looks_whether_a_run_lives_is_not_taken_for_it(tmp_path):
    path = str(tmp_path / "search.db")
    run = sqlite_sync.RunLock(path)
    lock_path = f"{path}-run-{run.token}"
    assert sqlite_sync.is_running(path, run.token) and sqlite_sync.is_running(path, run.token)
    run.close()
    assert not sqlite_sync.is_running(path, run.token)
    Path(lock_path).touch()  # as a kill leaves it
    unlink = os.unlink

    def unlink_while_another_looks(name):
        monkeypatch.undo()
        assert not sqlite_sync.is_running(path, run.token)
        with contextlib.suppress(FileNotFoundError):
            unlink(name)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(sqlite_sync.os, "unlink", unlink_while_another_looks)
        assert not sqlite_sync.is_running(path, run.token)
    assert not os.path.exists(lock_path)


def test_what_a_store_remembers_ends_with_its_database(tmp_path):
    store, dataset = SQLiteStore(str(tmp_path / "search.db")), PAGE
    for _ in range(2):
        store.open()
        store.begin(Halt())
        store.start_run("{}")
        assert store.claim([dataset]) == {}
        store.commit()
        assert store.datasets() == [dataset]
        store.close(discard=True)
