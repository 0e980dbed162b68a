"""``verify``: each kind of damage is found, and mended with the fewest calls."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import gscthreads
from gscthreads import pacific
from gscthreads.errors import ConfigError, StoreLocked, StoreMissing
from gscthreads.halt import Halt, Halted
from gscthreads.model import Dataset, Report, Rows
from gscthreads.simulator import Simulator, Site
from gscthreads.stores.sqlite import SQLiteStore
from gscthreads.summary import verification_text
from gscthreads.verify import difference, judge_days, share, verify

SITE = "sc-domain:example.com"
ROOT = Path(__file__).resolve().parent.parent
LAST = pacific.today() - dt.timedelta(days=20)
DAYS = [LAST - dt.timedelta(days=number) for number in range(12)]
UNLIMITED = {"site_qpm": 10**9, "user_qpm": 10**9, "project_qpm": 10**9}
PAGE = Dataset(SITE, Report("page", ("page",)), "web")


@pytest.fixture(scope="module")
def sim():
    with Simulator(sites=[Site(SITE, rows_per_day=40, nasty=True)], seed=3, **UNLIMITED) as simulator:
        yield simulator


@pytest.fixture
def url(sim, tmp_path):
    store = f"sqlite:///{tmp_path}/search.db"
    reports = ["page", "page_query", "page,country,device", "country"]
    gscthreads.sync(SITE, start=DAYS[-1], end=DAYS[0], store=store, credentials=sim.credentials(), api_root=sim.url,
                    reports=reports, rate_limit_enabled=False)
    return store


def spoil(url, statement, *values):
    with contextlib.closing(sqlite3.connect(url[len("sqlite:///"):])) as database, database:
        assert database.execute(statement, values).rowcount > 0, statement


def check(url, sim=None, **settings):
    access = {"credentials": sim.credentials(), "api_root": sim.url} if sim else {}
    return verify(url, rate_limit_enabled=False, seed=1, **{**access, **settings})


def rows_of(sim, url):
    with contextlib.closing(sqlite3.connect(url[len("sqlite:///"):])) as database:
        return [
            sorted(map(repr, database.execute(f"SELECT * FROM {view}")))
            for view in ("gsc_performance", "gsc_page_daily", "gsc_top_queries", "gsc_page_lifetime")
        ]


def day_of(report, number):
    return (f"(SELECT d.id FROM gsc_day d JOIN gsc_dataset s ON s.id = d.dataset WHERE s.report = '{report}'"
            f" AND d.date = '{DAYS[number]}')")


DELETED = f"DELETE FROM gsc_fact WHERE rank = 1 AND day = {day_of('page_query', 2)}"
CHANGED = f"UPDATE gsc_fact SET clicks = clicks + 1 WHERE rank = 1 AND day = {day_of('page', 3)}"
MOVED = f"UPDATE gsc_fact SET position = position + 0.001 WHERE day = {day_of('page_country_device', 4)}"
RERANKED = f"UPDATE gsc_fact SET rank = rank + 100 WHERE rank = 1 AND day = {day_of('page_query', 5)}"
STALE = "UPDATE gsc_lifetime SET impressions = impressions - 1 WHERE page = (SELECT min(page) FROM gsc_lifetime)"
VANISHED = "DELETE FROM gsc_lifetime WHERE page = (SELECT max(page) FROM gsc_lifetime)"
LEFT_OVER = (f"INSERT INTO gsc_stage SELECT {day_of('page', 6)}, 0, 0, page, query, segment, 1, 1, NULL, 1"
             " FROM gsc_fact LIMIT 1")
ACKNOWLEDGED = f"INSERT INTO gsc_slice VALUES ({day_of('page', 7)}, 25000, 0, '2026-01-01', 'final')"


@pytest.mark.parametrize(
    "statement, kind, date, report, calls",
    [
        (DELETED, "rows", DAYS[2], "page_query", 1),
        (CHANGED, "rows", DAYS[3], "page", 1),
        (MOVED, "rows", DAYS[4], "page_country_device", 1),
        (RERANKED, "rows", DAYS[5], "page_query", 1),
        (STALE, "lifetime", None, "page", 0),
        (VANISHED, "lifetime", None, "page", 0),
        (LEFT_OVER, "staged", DAYS[6], "page", 0),
        (ACKNOWLEDGED, "staged", DAYS[7], "page", 0),
    ],
)
def test_damage_is_found_without_a_call_and_mended_with_the_fewest(sim, url, statement, kind, date, report, calls):
    before = rows_of(sim, url)
    assert not check(url).wrong
    spoil(url, statement)
    found = check(url)
    assert found.wrong and found.calls == 0
    flaws = [flaw for finding in found.findings for flaw in finding.flaws]
    assert (kind, date) in {(flaw.kind, flaw.date) for flaw in flaws}
    assert {flaw.dataset.report.name for flaw in flaws} == {report}
    assert {flaw.kind for flaw in flaws} <= {kind, "lifetime"}  # which follows from a page's wrong number
    asked = sim.stats()["calls"]
    done = check(url, sim, pages=0, mend=True)
    assert not done.wrong
    assert sim.stats()["calls"] - asked == calls + done.calls  # and one for the totals of the site
    assert done.calls == 1
    assert not check(url).wrong
    assert rows_of(sim, url) == before


def test_a_missing_day_is_found_and_fetched(sim, url):
    before = rows_of(sim, url)
    spoil(url, f"DELETE FROM gsc_fact WHERE day = {day_of('page', 8)}")
    spoil(url, f"DELETE FROM gsc_day WHERE id = {day_of('page', 8)}")
    found = check(url)
    assert [each.missing for each in found.findings if each.missing] == [[DAYS[8]]]
    done = check(url, sim, pages=0, mend=True)
    assert (done.wrong, done.repair.fetched, done.repair.result.calls) == (False, 1, 1)
    assert not check(url).wrong
    assert rows_of(sim, url) == before


def test_a_wrong_word_that_only_google_can_know_is_found_by_asking(sim, url):
    before = rows_of(sim, url)
    spoil(url, "UPDATE gsc_fact SET query = query || 'x' WHERE query IS NOT NULL")
    assert not check(url).wrong
    found = check(url, sim, pages=60)
    assert found.wrong and sum(each.checked for each in found.findings) == 60
    assert {flaw.dataset.report.name for each in found.findings for flaw in each.different} == {"page_query"}
    days = len({flaw.date for each in found.findings for flaw in each.different})
    done = check(url, sim, pages=60, mend=True)
    assert done.repair.result.calls == done.repair.fetched == days
    done = check(url, sim, pages=0, mend=True)
    assert rows_of(sim, url) != before or days == len(DAYS)  # what was not drawn was not found


def test_a_right_copy_agrees_with_google_row_by_row(sim, url):
    found = check(url, sim, pages=100)
    assert not found.wrong, verification_text(found)
    assert found.calls == 101 and sum(each.checked for each in found.findings) == 100
    explained = {each.dataset.report.name: each.explained for each in found.findings}
    assert 0.2 < explained["page_query"] < 1.0 and explained["page"] is None
    text = verification_text(found)
    assert "All is well (101 calls)." in text and "explain least" in text


def test_faults_and_refusals_are_waited_out(sim, url):
    sim.faults.set("http_503", 0.2)
    sim.faults.set("qps_403", 0.2)
    sim.options.update({"retry_after": 0})
    try:
        found = check(url, sim, pages=30, batch_size=7)
    finally:
        sim.faults.clear()
        sim.options.update({"retry_after": None})
    assert not found.wrong and found.calls > 31


def test_without_credentials_days_are_reopened_for_the_next_sync(sim, url):
    spoil(url, DELETED)
    done = check(url, mend=True)
    assert (done.repair.mended, done.repair.fetched, done.repair.left, done.wrong) == (1, 0, 1, True)
    result = gscthreads.sync(SITE, start=DAYS[-1], end=DAYS[0], store=url, credentials=sim.credentials(),
                             api_root=sim.url, rate_limit_enabled=False)
    assert result.calls == 1
    assert not check(url).wrong


def test_a_day_google_no_longer_has_stays_as_it_is(sim, url):
    spoil(url, DELETED)
    before = rows_of(sim, url)
    done = check(url, sim, pages=5, mend=True, today=pacific.today() + dt.timedelta(days=600))
    assert done.wrong and (done.repair.mended, done.repair.fetched, done.repair.gone) == (0, 0, 1)
    assert rows_of(sim, url) == before
    assert "stay as they are" in verification_text(done)


def test_a_dataset_that_is_being_synced_is_not_repaired(url):
    spoil(url, STALE)
    other = SQLiteStore(url[len("sqlite:///"):])
    other.open()
    try:
        other.begin(Halt())
        other.start_run("{}")
        other.claim([PAGE])
        other.commit()
        with pytest.raises(StoreLocked, match="being synced by process"):
            check(url, mend=True)
    finally:
        other.close()


def test_a_halt_ends_it(sim, url):
    halt = Halt()
    halt.set("enough")
    with pytest.raises(Halted):
        check(url, sim, halt=halt)


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


def test_the_share_of_clicks_is_of_the_days_both_know():
    a, b, c = DAYS[:3]
    assert share({a: 5, b: 1, c: 3}, {a: 10, b: 4, c: 0}) == (0.4286, (b, 0.25))
    assert share({a: 5}, {b: 1}) == (None, None)


def test_rows_are_compared_by_key_and_number():
    rows = Rows.of([("p", [(-2, -4, "q", "usa", "", "", None, 1.5), (-1, -4, "r", "usa", "", "", 0.3, None)])])
    same = [("q", "usa", None, 2, 4, 0.5, 1.5), ("r", "usa", None, 1, 4, 0.3, None)]
    assert difference(same, rows) == ("", 0)
    assert difference(same[:1], rows) == ("", 1)
    assert difference([("s", "usa", None, 2, 4, 0.5, 1.5)], rows) == ("at Google, s/usa is not there", 2)
    words, more = difference([("q", "usa", None, 3, 4, 0.5, 1.5), ("r", "usa", None, 1, 4, 0.3, 2.0)], rows)
    assert words.endswith("stored 3 clicks, 4 impressions, position 1.5 (and 1 more rows)") and more == 0


def test_the_command_line(sim, url, tmp_path):
    credentials = tmp_path / "credentials.json"
    credentials.write_text(json.dumps(sim.credentials()))
    credentials.chmod(0o600)

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "gscthreads", "verify", "--store", url, *words], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, timeout=60, cwd=ROOT, env={**os.environ, "GSCTHREADS_CREDENTIALS": ""},
        )

    access = ("--credentials", str(credentials), "--api-root", sim.url)
    done = run()
    assert done.returncode == 0 and "All is well (0 calls)" in done.stdout
    spoil(url, CHANGED)
    done = run("--json", "--pages", "3", *access)
    assert done.returncode == 1 and json.loads(done.stdout)["status"] == "wrong"
    assert "3 pages and 1 totals are compared with Google: 4 calls" in done.stderr
    done = run("--repair", "--json", *access)
    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert (found["status"], found["repair"]["fetched"], found["repair"]["calls"]) == ("repaired", 1, 1)
    assert run("--pages", "-1", *access).returncode == 2


def test_what_can_not_be_verified_says_why(tmp_path):
    with pytest.raises(StoreMissing):
        verify(f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(ConfigError, match="pages"):
        verify(f"sqlite:///{tmp_path}/none.db", pages=10**6)
