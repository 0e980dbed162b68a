"""``verify``: each kind of damage is found, and mended with the fewest calls."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import gscthreads
from gscthreads import pacific
from gscthreads.errors import ConfigError, CredentialsError, StoreLocked, StoreMissing, Transient
from gscthreads.findings import judge_days
from gscthreads.halt import Halt, Halted
from gscthreads.model import Dataset, Report, Rows, SliceKey
from gscthreads.simulator import Simulator, Site
from gscthreads.sockets import SocketRegistry
from gscthreads.spotcheck import difference, share
from gscthreads.stores.base import Acknowledged, Park, RunFigures
from gscthreads.stores.sqlite import SQLiteStore
from gscthreads.summary import verification_text
from gscthreads.sync import list_sites
from gscthreads.ticking import Ticking
from gscthreads.verify import verify
from tests.test_sockets import HANGS, Server
from tests.test_store import PLACES

SITE = "sc-domain:example.com"
ROOT = Path(__file__).resolve().parent.parent
LAST = pacific.today() - dt.timedelta(days=20)
DAYS = [LAST - dt.timedelta(days=number) for number in range(12)]
UNLIMITED = {"site_qpm": 10**9, "user_qpm": 10**9, "project_qpm": 10**9}
REPORTS = ["page", "page_query", "page,country,device", "country"]
PAGE = Dataset(SITE, Report("page", ("page",)), "web")


@pytest.fixture(scope="module")
def sim():
    with Simulator(sites=[Site(SITE, rows_per_day=40, nasty=True)], seed=3, **UNLIMITED) as simulator:
        yield simulator


@pytest.fixture(autouse=True)
def no_faults(sim):
    sim.faults.clear()
    yield
    sim.faults.clear()


def copied(place, sim, *, days=DAYS, **settings):
    """*place*, with a copy of *days* in it."""
    result = gscthreads.sync(
        SITE, start=days[-1], end=days[0], store=place.url, credentials=sim.credentials(), api_root=sim.url,
        **{"reports": REPORTS, "rate_limit_enabled": False, **settings},
    )
    assert result.status == "complete"
    return place


@pytest.fixture(params=sorted(PLACES))
def place(request, sim, tmp_path):
    """A copy in each kind of store."""
    return copied(PLACES[request.param](tmp_path), sim)


@pytest.fixture
def small(sim, tmp_path):
    """A copy in SQLite, for what is the same in every store."""
    return copied(PLACES["sqlite"](tmp_path), sim, days=DAYS[:5], reports=["page", "page_query"])


def spoil(place, *statements):
    with place.other() as run:
        for statement in statements:
            changed = run(f"{statement} RETURNING 1") if "postgres" in place.url else run(statement) or run(
                "SELECT 1 WHERE changes()")
            assert changed, statement


def check(place, sim=None, **settings):
    access = {"credentials": sim.credentials(), "api_root": sim.url} if sim else {}
    quick = {"rate_limit_enabled": False, "backoff_base": 0.01, "backoff_cap": 0.02}
    return verify(place.url, seed=1, **{**quick, **access, **settings})


def rows_of(place):
    with place.other() as run:
        return [
            sorted(map(repr, run(f"SELECT * FROM {view}")))
            for view in ("gsc_performance", "gsc_page_daily", "gsc_top_queries", "gsc_page_lifetime")
        ]


def day_of(report, number):
    return (f"(SELECT d.id FROM gsc_day d JOIN gsc_dataset s ON s.id = d.dataset WHERE s.report = '{report}'"
            f" AND d.date = '{DAYS[number]}')")


DELETED = f"DELETE FROM gsc_fact WHERE rank = 1 AND day = {day_of('page_query', 2)}"
CHANGED = f"UPDATE gsc_fact SET clicks = clicks + 1 WHERE rank = 1 AND day = {day_of('page', 3)}"
MOVED = f"UPDATE gsc_fact SET position = position + 0.001 WHERE day = {day_of('page_country_device', 4)}"
RERANKED = f"UPDATE gsc_fact SET rank = rank + 100 WHERE rank = 1 AND day = {day_of('page_query', 5)}"
MISPLACED = RERANKED.replace("page_query", "page")
TWICE = ("INSERT INTO gsc_fact (day, page, rank, segment, clicks, impressions, position)"
         f" SELECT day, page, 2, segment, clicks, impressions, position FROM gsc_fact WHERE day = {day_of('page', 6)}")
STALE = "UPDATE gsc_lifetime SET impressions = impressions - 1 WHERE page = (SELECT min(page) FROM gsc_lifetime)"
VANISHED = "DELETE FROM gsc_lifetime WHERE page = (SELECT max(page) FROM gsc_lifetime)"
LEFT_OVER = (f"INSERT INTO gsc_stage (day, start_row, page, rank, segment, clicks, impressions)"
             f" SELECT {day_of('page', 6)}, 0, page, 1, 0, 1, 1 FROM gsc_fact LIMIT 1")
ACKNOWLEDGED = (f"INSERT INTO gsc_slice (day, start_row, received, fetched_on, data_state)"
                f" VALUES ({day_of('page', 7)}, 25000, 0, '2026-01-01', 'final')")
RATED = f"UPDATE gsc_fact SET ctr = 0.5 WHERE rank = 1 AND day = {day_of('page', 8)}"
SEGMENT = f"UPDATE gsc_fact SET segment = 7777 WHERE rank = 1 AND day = {day_of('page_country_device', 9)}"
NO_PAGE = f"UPDATE gsc_fact SET page = 7777 WHERE page = (SELECT min(page) FROM gsc_fact WHERE day = " \
          f"{day_of('page_query', 10)}) AND day = {day_of('page_query', 10)}"


@pytest.mark.parametrize(
    "statement, kind, date, report, calls",
    [
        (DELETED, "rows", DAYS[2], "page_query", 1),
        (CHANGED, "rows", DAYS[3], "page", 1),
        (MOVED, "rows", DAYS[4], "page_country_device", 1),
        (RERANKED, "rows", DAYS[5], "page_query", 1),
        (MISPLACED, "rows", DAYS[5], "page", 1),
        (TWICE, "rows", DAYS[6], "page", 1),
        (STALE, "lifetime", None, "page", 0),
        (VANISHED, "lifetime", None, "page", 0),
        (LEFT_OVER, "staged", DAYS[6], "page", 0),
        (ACKNOWLEDGED, "staged", DAYS[7], "page", 0),
        (RATED, "rows", DAYS[8], "page", 1),
        (SEGMENT, "rows", DAYS[9], "page_country_device", 1),
        (NO_PAGE, "rows", DAYS[10], "page_query", 1),
    ],
)
def test_damage_is_found_without_a_call_and_mended_with_the_fewest(sim, place, statement, kind, date, report, calls):
    before = rows_of(place)
    assert not check(place).wrong
    spoil(place, statement)
    found = check(place)
    assert found.wrong and found.calls == 0
    flaws = [flaw for finding in found.findings for flaw in finding.flaws]
    assert (kind, date) in {(flaw.kind, flaw.date) for flaw in flaws}
    assert {flaw.dataset.report.name for flaw in flaws} == {report}
    assert {flaw.kind for flaw in flaws} <= {kind, "lifetime"}  # which follows from a page's wrong number
    asked = sim.stats()["calls"]
    done = check(place, sim, pages=0, mend=True)
    assert not done.wrong
    assert sim.stats()["calls"] - asked == calls + done.calls  # and one for the totals of the site
    assert done.calls == 1
    assert not check(place).wrong
    assert rows_of(place) == before


def test_a_page_that_lost_its_url_is_found_on_all_its_days(sim, place):
    before = rows_of(place)
    spoil(place, "DELETE FROM gsc_page WHERE id = (SELECT max(page) FROM gsc_lifetime)")
    assert rows_of(place) != before
    found = check(place, sim, pages=200)  # draws no page without a name
    days = {finding.dataset.report.name: finding.wrong_days() for finding in found.findings}
    assert days["page"] and days["page_query"] and not days["country"]
    done = check(place, sim, pages=0, mend=True)
    assert not done.wrong and done.repair.calls == sum(map(len, days.values()))
    assert rows_of(place) == before and not check(place).wrong


def test_a_missing_day_is_found_and_fetched(sim, place):
    before = rows_of(place)
    spoil(place, f"DELETE FROM gsc_fact WHERE day = {day_of('page', 8)}")
    spoil(place, f"DELETE FROM gsc_day WHERE id = {day_of('page', 8)}")
    found = check(place)
    assert [each.missing for each in found.findings if each.missing] == [[DAYS[8]]] and not found.strays
    done = check(place, sim, pages=0, mend=True)
    assert (done.wrong, done.repair.fetched, done.repair.calls) == (False, 1, 1)
    assert not check(place).wrong
    assert rows_of(place) == before


@pytest.mark.parametrize("statement, words", [
    (f"DELETE FROM gsc_day WHERE id = {day_of('country', 8)}", "rows"),
    ("INSERT INTO gsc_stage (day, start_row, page, rank, segment, clicks, impressions) VALUES (9999, 0, 1, 1, 0, 1, 1)",
     "staged rows"),
    ("INSERT INTO gsc_slice (day, start_row, received, fetched_on, data_state)"
     " VALUES (9999, 0, 1, '2026-01-01', 'all')", "acknowledged slices"),
])
def test_what_belongs_to_no_day_is_found_and_dropped(sim, place, statement, words):
    before = rows_of(place)
    with place.other() as run:  # also in a database whose references are not enforced
        if "postgres" in place.url:
            run("ALTER TABLE gsc_slice DROP CONSTRAINT gsc_slice_day_fkey")
    spoil(place, statement)
    found = check(place)
    assert found.wrong and list(found.strays) == [words] and f"{words} of days that are not" in verification_text(found)
    assert list(found.as_dict()["strays"].values()) == list(found.strays.values()) != [0]
    assert not check(place, sim, pages=0, mend=True).wrong
    found = check(place)
    assert not found.wrong and not found.strays
    assert rows_of(place) == before


def test_acknowledged_rows_that_were_changed_before_their_day_is_published_are_fetched_again(sim, place):
    store = place.store()
    store.open()
    store.begin(Halt())
    rows = Rows.of([("p", [(-2, -4, "q", "", "", "", None, 1.5), (-1, -4, "r", "", "", "", 0.3, None)])])
    query = Dataset(SITE, Report("page_query", ("page", "query")), "web")
    key = SliceKey(DAYS[0] + dt.timedelta(days=1), 0)
    store.stage(query, key, rows._replace(received=3), Acknowledged(3, pacific.today(), "final"))
    store.commit()
    store.close()
    found = check(place)  # begun, and not whole: but as it was acknowledged
    assert [each.flaws for each in found.findings if each.unfinished] == [[]]
    for column in ("clicks", "impressions", "position", "ctr"):
        spoil(place, f"UPDATE gsc_stage SET {column} = {column} + 1 WHERE {column} IS NOT NULL")
        found = check(place)
        assert [(flaw.kind, flaw.date) for each in found.findings for flaw in each.flaws] == [("staged", key.date)]
        spoil(place, f"UPDATE gsc_stage SET {column} = {column} - 1 WHERE {column} IS NOT NULL")
        assert not [flaw for each in check(place).findings for flaw in each.flaws]
    spoil(place, "UPDATE gsc_stage SET clicks = 7")
    done = check(place, sim, pages=0, mend=True)
    assert (done.wrong, done.repair.mended, done.repair.fetched) == (False, 1, 1)
    with place.other() as run:
        assert not run("SELECT 1 FROM gsc_fact WHERE clicks = 7 AND query = 'q'")


def test_a_file_from_before_there_were_these_sums_is_verified_as_it_is(small):
    columns = {"gsc_day": ["ctrs"], "gsc_slice": ["kept", "clicks", "impressions", "positions", "ctrs"]}
    with place_before_proofs(small, columns) as run:
        assert not check(small).wrong
        run(f"UPDATE gsc_fact SET clicks = clicks + 1 WHERE rank = 1 AND day = {day_of('page', 3)}")
        assert check(small).wrong
        run(f"UPDATE gsc_fact SET clicks = clicks - 1 WHERE rank = 1 AND day = {day_of('page', 3)}")
        SQLiteStore(small.path).open()  # migrates
        assert not check(small).wrong
        run(RATED.replace(str(DAYS[8]), str(DAYS[3])))  # nobody noted what they add up to
        assert not check(small).wrong


@contextlib.contextmanager
def place_before_proofs(place, columns):
    with place.other() as run:
        for table, names in columns.items():
            kept = [name for _, name, *_ in run(f"PRAGMA table_info({table})") if name not in names]
            (sql,), = run(f"SELECT sql FROM sqlite_master WHERE name = '{table}'")
            for name in names:
                kind = "INTEGER" if name == "kept" else "REAL"
                assert f", {name} {kind}" in sql
                sql = sql.replace(f", {name} {kind}", "")
            run("PRAGMA foreign_keys = OFF")
            run("PRAGMA legacy_alter_table = ON")
            run(f"ALTER TABLE {table} RENAME TO before")
            run(sql)
            run(f"INSERT INTO {table} SELECT {', '.join(kept)} FROM before")
            run("DROP TABLE before")
        run("PRAGMA user_version = 3")
        yield run


def test_a_wrong_word_that_only_google_can_know_is_found_by_asking(sim, place):
    before = rows_of(place)
    spoil(place, "UPDATE gsc_fact SET query = query || 'x' WHERE query IS NOT NULL")
    assert not check(place).wrong
    found = check(place, sim, pages=60)
    assert found.wrong and sum(each.checked for each in found.findings) == 60
    assert {flaw.dataset.report.name for each in found.findings for flaw in each.different} == {"page_query"}
    days = len({flaw.date for each in found.findings for flaw in each.different})
    done = check(place, sim, pages=60, mend=True)
    assert done.repair.calls == done.repair.fetched == days
    done = check(place, sim, pages=0, mend=True)
    assert rows_of(place) != before or days == len(DAYS)  # what was not drawn was not found


def test_a_right_copy_agrees_with_google_row_by_row(sim, place):
    found = check(place, sim, pages=100)
    assert not found.wrong, verification_text(found)
    assert found.calls == 101 and sum(each.checked for each in found.findings) == 100
    explained = {each.dataset.report.name: each.explained for each in found.findings}
    assert 0.2 < explained["page_query"] < 1.0 and explained["page"] is None
    text = verification_text(found)
    assert "All is well (101 calls)." in text and "explain least" in text
    told = next(each for each in found.as_dict()["datasets"] if each["report"] == "page_query")
    assert [each["date"] for each in told["explained_days"]] == [str(date) for date in reversed(DAYS)]
    assert min(each["share"] for each in told["explained_days"]) == told["least_explained"][1]


def test_faults_and_refusals_are_waited_out(sim, small):
    sim.faults.set("http_503", 0.2)
    sim.faults.set("qps_403", 0.2)
    sim.options.update({"retry_after": 0})
    try:
        found = check(small, sim, pages=30, batch_size=7, max_attempts=20)
    finally:
        sim.options.update({"retry_after": None})
    assert not found.wrong and not found.unasked and found.calls > 31


def parks_of(place):
    store = place.store()
    store.open(writing=False)
    try:
        return store.parks()
    finally:
        store.close()


def test_a_spent_load_quota_parks_the_site_and_what_was_found_here_is_told(sim, place):
    spoil(place, DELETED)
    sim.faults.set("load_403", 1.0)
    asked = sim.stats()["calls"]
    found = check(place, sim, pages=20, batch_size=5)
    assert found.wrong and found.exit_status == 1 and found.calls == sim.stats()["calls"] - asked == 5
    text = verification_text(found)
    assert "rows where" in text and f"{SITE}: Google was not asked: " in text and "worth trying again at" in text
    assert found.as_dict()["unasked"] == found.unasked and list(found.unasked) == [SITE]
    park = parks_of(place)[SITE]
    assert park.until - park.since == dt.timedelta(minutes=15)
    sim.faults.clear()
    found = check(place, sim, pages=20)  # a parked site isn't asked
    assert found.calls == 0 and found.wrong and "worth trying again at" in found.unasked[SITE]
    assert check(place, mend=True).unasked == {}  # who has no credentials doesn't expect it


def test_a_site_that_answers_again_is_not_parked_any_more(sim, place):
    store = place.store()
    store.open()
    now = dt.datetime.now(dt.timezone.utc)
    store.begin(Halt())
    store.park(SITE, Park(now - dt.timedelta(minutes=20), now - dt.timedelta(minutes=5), "spent"))
    store.commit()
    store.close()
    found = check(place, sim, pages=10)
    assert not found.wrong and found.exit_status == 0 and found.calls == 11 and parks_of(place) == {}


def test_a_load_quota_that_is_spent_only_for_the_totals(sim, small):
    sim.faults.set("load_403", 1.0)
    found = check(small, sim, pages=0)
    assert found.calls == 1 and not found.wrong and found.exit_status == 3 and SITE in parks_of(small)
    assert found.as_dict()["status"] == "incomplete" and "All is well" not in verification_text(found)


def test_a_site_that_google_refuses_is_asked_once(sim, small):
    sim.faults.set("forbidden_403", 1.0)
    found = check(small, sim, pages=20, batch_size=1)
    assert found.calls == 1 and list(found.unasked) == [SITE] and parks_of(small) == {}
    assert found.exit_status == 3


def test_a_service_that_is_down_loses_no_findings(sim, small):
    spoil(small, STALE)
    sim.faults.set("http_503", 1.0)
    found = check(small, sim, pages=2, max_attempts=2)
    assert found.wrong and found.calls == 4 and found.unasked[SITE].startswith("2 pages: ")


def test_a_token_that_can_not_be_had_loses_no_findings(sim, small):
    spoil(small, STALE)

    def no_token():
        raise RuntimeError("the vault is shut")

    found = check(small, sim, credentials=no_token)
    assert found.wrong and "the credentials callable raised" in found.unasked[SITE]
    done = check(small, sim, credentials=no_token, mend=True)
    assert (done.repair.mended, done.wrong, done.exit_status) == (1, False, 3)
    spoil(small, CHANGED)
    done = check(small, sim, credentials=no_token, mend=True)
    assert (done.wrong, done.repair.left, done.repair.status) == (True, 1, "failed")
    assert "the credentials callable raised" in done.repair.reason and done.repair.reason in verification_text(done)


def test_wrong_settings_and_credentials_are_told_before_anything_is_done(sim, small):
    with pytest.raises(ConfigError, match="qpm_limit"):
        check(small, sim, qpm_limit=0)
    with pytest.raises(CredentialsError):
        check(small, sim, credentials="no/such/file.json")


def test_a_pause_for_the_totals_gives_its_call_back_first(sim, small, monkeypatch):
    from gscthreads.quota import Quota

    order = []
    settle = Quota.settle
    monkeypatch.setattr(Quota, "settle", lambda self, *args, **more: order.append("settled") or settle(
        self, *args, **more))
    monkeypatch.setattr("gscthreads.spotcheck.SpotCheck._pause", lambda *args: order.append("paused"))
    sim.faults.script("http_503", times=1)
    assert not check(small, sim, pages=0).unasked
    assert order == ["settled", "paused", "settled"]


# -- repair


def settings_of(place):
    with place.other() as run:
        ranked = {report: number for report, number in run("SELECT report, top_queries FROM gsc_dataset")}
        (settings,), = run("SELECT settings FROM gsc_runs ORDER BY run_id DESC LIMIT 1")
    return ranked, json.loads(settings)


def test_a_repair_leaves_the_settings_of_the_last_sync_as_they_are(sim, tmp_path):
    young = [pacific.today() - dt.timedelta(days=number) for number in (3, 4, 5)]
    place = PLACES["sqlite"](tmp_path)
    copied(place, sim, days=young, reports=["page"], data_state="all", final_after_days=7)
    copied(place, sim, days=young, reports=["page_query"], data_state="all", final_after_days=7, top_queries=3)
    with place.other() as run:
        before = [sorted(run(f"SELECT * FROM {view}")) for view in ("gsc_top_queries", "gsc_performance")]
    spoil(place, "UPDATE gsc_fact SET clicks = clicks + 1 WHERE rank = 1 AND query IS NULL",
          "UPDATE gsc_fact SET clicks = clicks + 1 WHERE rank = 1 AND query IS NOT NULL")
    done = check(place, sim, pages=0, mend=True)
    assert not done.wrong and done.repair.fetched == done.repair.calls == 6
    ranked, settings = settings_of(place)
    assert ranked == {"page": 20, "page_query": 3}
    assert (settings["data_state"], settings["final_after_days"]) == ("all", 7)
    with place.other() as run:
        assert {status for status, in run("SELECT status FROM gsc_days")} == {"provisional"}
        assert [sorted(run(f"SELECT * FROM {view}")) for view in ("gsc_top_queries", "gsc_performance")] == before
    spoil(place, "UPDATE gsc_fact SET clicks = clicks + 1 WHERE rank = 1 AND query IS NULL")
    assert not check(place, sim, pages=0, mend=True, data_state="final", final_after_days=1).wrong
    assert settings_of(place)[1]["final_after_days"] == 1


def test_without_credentials_days_are_reopened_for_the_next_sync(sim, place):
    spoil(place, DELETED)
    done = check(place, mend=True)
    assert (done.repair.mended, done.repair.fetched, done.repair.left, done.wrong) == (1, 0, 1, True)
    result = gscthreads.sync(SITE, start=DAYS[-1], end=DAYS[0], store=place.url, credentials=sim.credentials(),
                             api_root=sim.url, rate_limit_enabled=False)
    assert result.calls == 1
    assert not check(place).wrong


def test_a_day_google_no_longer_has_stays_as_it_is(sim, place):
    spoil(place, DELETED)
    before = rows_of(place)
    done = check(place, sim, pages=5, mend=True, today=pacific.today() + dt.timedelta(days=600))
    assert done.wrong and (done.repair.mended, done.repair.fetched, done.repair.gone) == (0, 0, 1)
    assert rows_of(place) == before
    assert "stay as they are" in verification_text(done)


def test_a_day_that_failed_and_is_gone_by_now_is_told_and_not_counted(sim, small):
    store = small.store()
    store.open()
    store.begin(Halt())
    store.fail_day(PAGE, DAYS[0] + dt.timedelta(days=2), "no")
    store.commit()
    store.close()
    found = check(small)
    assert found.wrong and found.findings[0].missing == [DAYS[0] + dt.timedelta(days=1)]
    found = check(small, sim, mend=True, today=pacific.today() + dt.timedelta(days=600))
    assert not found.wrong and found.repair is None and found.exit_status == 0
    assert found.findings[0].gone == [DAYS[0] + dt.timedelta(days=days) for days in (1, 2)]
    assert "older than what Google still has" in verification_text(found)


# -- beside others


@contextlib.contextmanager
def syncing(place, *datasets):
    """Another run that holds *datasets*: its store."""
    store = place.store()
    store.open()
    try:
        store.begin(Halt())
        run_id = store.start_run("{}")
        store.claim(datasets)
        store.commit()
        yield store
        store.begin(Halt())
        store.save_run(run_id, RunFigures("halted", 0, 0, 0, 0, 0, 0.0), ended=True)
        store.commit()
    finally:
        store.close()


def test_a_dataset_that_is_being_synced_is_not_repaired(place):
    spoil(place, STALE)
    with syncing(place, PAGE):
        with pytest.raises(StoreLocked, match="being synced by process"):
            check(place, mend=True)


def test_days_that_a_sync_is_at_work_on_are_not_wrong(place):
    tomorrow = DAYS[0] + dt.timedelta(days=2)
    rows = Rows.of([("p", [(-2, -4, "", "", "", "", None, 1.5)])])
    with syncing(place, PAGE) as store:
        store.begin(Halt())
        store.stage(PAGE, SliceKey(tomorrow, 0), rows, Acknowledged(1, pacific.today(), "final"))
        store.stage(PAGE, SliceKey(DAYS[3], 0), rows, Acknowledged(1, pacific.today(), "final"))  # by force
        store.commit()
        found = check(place)
        assert not found.wrong, verification_text(found)
        held = next(each for each in found.findings if each.dataset == PAGE)
        assert held.unfinished == [tomorrow] and held.missing and f"process {os.getpid()} on" in held.held
        assert held.as_dict()["held"] == held.held and "being synced by process" in verification_text(found)
    found = check(place)  # it ended, and nobody is at work on them
    assert found.wrong and not any(each.held for each in found.findings)
    assert {flaw.kind for each in found.findings for flaw in each.flaws} == {"staged"}


# -- halts and deadlines


@pytest.mark.parametrize("credentials", [True, False])
@pytest.mark.parametrize("mend", [True, False])
def test_a_halt_ends_it(sim, place, credentials, mend):
    halt = Halt()
    halt.set("enough")
    spoil(place, STALE)
    with pytest.raises(Halted):
        check(place, sim if credentials else None, halt=halt, mend=mend)
    assert check(place).wrong


def test_a_halt_breaks_off_what_the_store_is_at_work_on(place, monkeypatch):
    began = threading.Event()
    endless = {
        "sqlite": "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
        "postgres": "SELECT pg_sleep(1000)",
    }["postgres" if "postgres" in place.url else "sqlite"]

    def audit(store, dataset):
        began.set()
        return store.read(endless)

    monkeypatch.setattr("gscthreads.findings.audit", audit)
    took = []
    while not took or took[-1] >= 1.0 and len(took) < 3:  # a loaded machine may be slow once
        halt = Halt()
        began.clear()
        stopper = threading.Thread(target=lambda halt=halt: began.wait(10) and halt.set("enough"))
        stopper.start()
        with pytest.raises(Halted):
            check(place, halt=halt)
        took.append(time.monotonic() - halt.set_at)
        stopper.join()
    assert min(took) < 1.0
    assert not [thread for thread in threading.enumerate() if thread.name == "gscthreads.verify"]


def test_a_signal_between_any_two_instructions_ends_it(sim, small, monkeypatch):
    """A handler that halts takes locks that the thread which verifies may hold; it runs in the main thread."""

    halt, main = Halt(), threading.get_ident()

    class Interrupted(set):
        def add(self, item):
            super().add(item)
            signal.pthread_kill(main, signal.SIGUSR1)
            assert halt.wait(10)

    made = SocketRegistry.__init__

    def make(self, *args, **more):
        made(self, *args, **more)
        self._watches = Interrupted()

    monkeypatch.setattr(SocketRegistry, "__init__", make)
    before = signal.signal(signal.SIGUSR1, lambda *_: halt.set("signal"))
    try:
        with pytest.raises(Halted):
            check(small, sim, pages=3, halt=halt)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert halt.reason == "signal"


def test_ctrl_c_where_nobody_handles_it_halts(sim, small, monkeypatch):
    halt = Halt()
    monkeypatch.setattr("gscthreads.spotcheck.SpotCheck.choose", lambda *args: signal.raise_signal(signal.SIGINT) or [])
    with pytest.raises(KeyboardInterrupt):
        check(small, sim, halt=halt)
    assert halt.reason == "KeyboardInterrupt"


def test_a_server_that_drips_is_not_waited_for(sim, small):
    sim.options.update({"drip_interval": 0.05})
    sim.faults.set("drip", 1.0)
    try:
        began = time.monotonic()
        found = check(small, sim, pages=2, http_timeout=0.3, max_attempts=1)
        assert time.monotonic() - began < 5.0
    finally:
        sim.options.update({"drip_interval": 1.0})
    assert not found.wrong and "within" in found.unasked[SITE]
    assert not [thread for thread in threading.enumerate() if thread.name == "gscthreads.ticking"]


def test_nor_for_the_list_of_sites():
    with Server(HANGS["dripping body"]) as server:
        with pytest.raises(Transient, match="within 0.3 s"):
            list_sites(lambda: "token", api_root=server.url, timeout=0.3)
    assert not [thread for thread in threading.enumerate() if thread.name == "gscthreads.ticking"]


def test_ticks_go_on_when_one_fails_and_end_with_the_block():
    ticked = threading.Semaphore(0)

    def tick():
        ticked.release()
        raise OSError("once")

    with Ticking(tick, seconds=0.001):
        assert ticked.acquire(timeout=10) and ticked.acquire(timeout=10)
    assert not [thread for thread in threading.enumerate() if thread.name == "gscthreads.ticking"]


# -- what is what


def test_what_the_ledgers_days_mean():
    day = DAYS[5]

    def later(count):
        return day + dt.timedelta(days=count)

    found = judge_days(PAGE, [(later(4), "final", 50_000), (day, "provisional", 7), (later(1), "open", 0),
                              (later(2), "failed", 0)])
    assert (found.first, found.last, found.days, found.rows) == (day, later(4), 2, 50_007)
    assert (found.missing, found.unfinished, found.ceiling) == ([later(3)], [later(1), later(2)], [later(4)])
    assert found.wrong and found.wrong_days() == {later(1), later(2), later(3)}
    assert not judge_days(PAGE, [(day, "final", 48_000)]).wrong
    found = judge_days(PAGE, [(day, "failed", 0), (later(2), "open", 0)], oldest=later(2))
    assert (found.gone, found.missing, found.unfinished) == ([day, later(1)], [], [later(2)])
    found.held = "being synced"
    assert not found.wrong


def test_the_share_of_clicks_is_of_the_days_both_know():
    a, b, c = DAYS[:3]
    assert share({a: 5, b: 1, c: 3}, {a: 10, b: 4, c: 0}) == (0.4286, {a: 0.5, b: 0.25})
    assert share({a: 5}, {b: 1}) == (None, {})


def test_rows_are_compared_by_key_and_number():
    rows = Rows.of([("p", [(-2, -4, "q", "usa", "", "", None, 1.5), (-1, -4, "r", "usa", "", "", 0.3, None)])])
    same = [("q", "usa", None, 2, 4, 0.5, 1.5), ("r", "usa", None, 1, 4, 0.3, None)]
    assert difference(same, rows) == ("", 0)
    assert difference(same[:1], rows) == ("", 1)
    assert difference([("s", "usa", None, 2, 4, 0.5, 1.5)], rows) == ("at Google, s/usa is not there", 2)
    words, more = difference([("q", "usa", None, 3, 4, 0.5, 1.5), ("r", "usa", None, 1, 4, 0.3, 2.0)], rows)
    assert words.endswith("stored 3 clicks, 4 impressions, position 1.5 (and 1 more rows)") and more == 0


def test_the_command_line(sim, small, tmp_path):
    url = small.url
    credentials = tmp_path / "credentials.json"
    credentials.write_text(json.dumps(sim.credentials()))
    credentials.chmod(0o600)

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "gscthreads", "verify", "--store", url, *words], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, timeout=60, cwd=ROOT, env={**os.environ, "GSCTHREADS_CREDENTIALS": ""},
        )

    access = ("--credentials", str(credentials), "--api-root", sim.url, "--pages", "5")
    done = run()
    assert done.returncode == 0 and "All is well (0 calls)" in done.stdout
    spoil(small, CHANGED)
    done = run("--json", *access, "--pages", "3")
    assert done.returncode == 1 and json.loads(done.stdout)["status"] == "wrong"
    assert "3 pages and 1 totals are compared with Google: 4 calls" in done.stderr
    sim.faults.set("load_403", 1.0)
    assert run(*access).returncode == 1
    sim.faults.clear()
    with small.other() as other:
        other("DELETE FROM gsc_park")
    done = run("--repair", "--json", "--data-state", "all", "--final-after-days", "1", *access)
    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert (found["status"], found["repair"]["fetched"], found["repair"]["calls"]) == ("repaired", 1, 1)
    assert run(*access, "--pages", "-1").returncode == 2


def test_what_can_not_be_verified_says_why(tmp_path):
    with pytest.raises(StoreMissing):
        verify(f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(ConfigError, match="pages"):
        verify(f"sqlite:///{tmp_path}/none.db", pages=10**6)
