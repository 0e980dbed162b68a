"""The whole thing against the look-alike, over real HTTP: truth, faults, halts, command line."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import gscthreads
from gscthreads import pacific
from gscthreads.simulator import Simulator, Site
from gscthreads.simulator.faults import GROUPS

SITE = "sc-domain:example.com"
ROOT = Path(__file__).resolve().parent.parent
TODAY = pacific.today()
LAST = TODAY - dt.timedelta(days=20)  # everything up to here is final
DIMENSIONS = {"page": ["page"], "page_query": ["page", "query"]}
SIZES = {LAST - dt.timedelta(days=number): rows for number, rows in enumerate((0, 1, 24_999, 25_000, 25_001, 50_000))}
UNLIMITED = {"site_qpm": 10**9, "user_qpm": 10**9, "project_qpm": 10**9}


def rows_of(date):
    return SIZES.get(date, 120)


def days(count):
    return [LAST - dt.timedelta(days=number) for number in range(count)]


@contextlib.contextmanager
def opened(path):
    with contextlib.closing(sqlite3.connect(str(path))) as database, database:
        yield database


def truth(sim, date, report):
    found = sim.truth(SITE, DIMENSIONS[report], "web", date)
    return sorted((row[0][0], row[0][1] if len(row[0]) > 1 else "", *row[1:]) for row in found)


def stored(path, date, report):
    with opened(path) as database:
        return sorted(
            database.execute(
                "SELECT page, coalesce(query, ''), clicks, impressions, ctr, position FROM gsc_performance"
                " WHERE site = ? AND date = ? AND report = ?",
                (SITE, date.isoformat(), report),
            )
        )


def assert_equals_truth(sim, path, dates):
    for date in dates:
        for report in DIMENSIONS:
            assert stored(path, date, report) == truth(sim, date, report), f"{date} {report}"
    with opened(path) as database:
        assert database.execute("SELECT count(*) FROM gsc_stage").fetchone() == (0,)
        assert database.execute("SELECT count(*) FROM gsc_slice").fetchone() == (0,)


def copy(sim, path, dates, **settings):
    values = {"rate_limit_enabled": False, "credentials": sim.credentials(), **settings}
    return gscthreads.sync(
        SITE, start=dates[-1], end=dates[0], store=f"sqlite:///{path}", api_root=sim.url, **values
    )


def no_thread_is_left():
    return not [thread for thread in threading.enumerate() if "gscthreads.sync" in thread.name]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "search.db")


@pytest.fixture(scope="module")
def edge_sim():
    site = Site(SITE, rows_per_day=rows_of, nasty=True, pages=30_000)
    with Simulator(sites=[site], seed=5, boundary_duplicates=True, shuffle_ties="slice", **UNLIMITED) as sim:
        yield sim


def test_edge_days_equal_the_truth_and_derived_views_agree(edge_sim, path):
    result = copy(edge_sim, path, days(12))
    assert (result.status, result.days) == ("complete", 24)
    assert_equals_truth(edge_sim, path, days(12))
    with opened(path) as database:
        for view, again in (
            (
                "SELECT page, clicks, impressions, first_seen, last_seen, days_seen FROM gsc_page_lifetime",
                "SELECT page, sum(clicks), sum(impressions), min(date), max(date), count(*) FROM gsc_page_daily"
                " GROUP BY page",
            ),
            (
                "SELECT date, page, rank, query FROM gsc_top_queries",
                "SELECT * FROM (SELECT date, page, row_number() OVER (PARTITION BY date, page"
                " ORDER BY clicks DESC, impressions DESC, query) AS rank, query FROM gsc_performance"
                " WHERE report = 'page_query') WHERE rank <= 20",
            ),
        ):
            assert sorted(database.execute(view)) == sorted(database.execute(again))
        for got, expected in database.execute(
            "SELECT l.position, (SELECT sum(d.position * d.impressions) / sum(d.impressions) FROM gsc_page_daily d"
            " WHERE d.page = l.page) FROM gsc_page_lifetime l LIMIT 200"
        ):
            assert got == pytest.approx(expected, rel=1e-9)  # each day's part is rounded to 2^-30


def test_a_finished_range_costs_no_call_and_changes_nothing(edge_sim, path):
    copy(edge_sim, path, days(8))
    before = [stored(path, date, report) for date in days(8) for report in DIMENSIONS]
    result = copy(edge_sim, path, days(8))
    assert (result.status, result.calls, result.days) == ("complete", 0, 0)
    with opened(path) as database:
        assert database.execute("SELECT count(*) FROM gsc_runs").fetchone() == (2,)
    assert [stored(path, date, report) for date in days(8) for report in DIMENSIONS] == before


def test_calls_are_those_of_sequential_paging(path):
    sizes = {days(4)[number]: rows for number, rows in enumerate((100, 25_000, 25_001, 50_000))}
    with Simulator(sites=[Site(SITE, rows_per_day=lambda day: sizes[day])], seed=1, **UNLIMITED) as sim:
        result = copy(sim, path, days(4), reports=["page_query"])
        assert result.calls == 1 + 2 + 2 + 3 == sim.stats()["calls"]


def test_one_worker_and_plain_calls_give_identical_tables(edge_sim, tmp_path):
    dumps = []
    for name, settings in (("a.db", {}), ("b.db", {"max_concurrency": 1}), ("c.db", {"batch_size": 1}),
                           ("d.db", {"max_concurrency": "auto"})):
        copy(edge_sim, str(tmp_path / name), days(7), **settings)
        with opened(tmp_path / name) as database:
            dumps.append(
                [sorted(map(repr, database.execute(f"SELECT * FROM {view}"))) for view in
                 ("gsc_performance", "gsc_page_daily", "gsc_top_queries", "gsc_page_lifetime")]
            )
    assert dumps[0] == dumps[1] == dumps[2] == dumps[3]


def test_auto_asks_for_a_few_slices_at_a_time_and_tells_its_workers(path):
    with Simulator(sites=[Site(SITE, rows_per_day=20)], seed=1, latency=0.05, **UNLIMITED) as sim:
        result = copy(sim, path, days(200), max_concurrency="auto")
        assert (result.status, result.calls) == ("complete", 400)
        assert result.calls <= 8 * result.http_batches and 3 <= result.concurrency <= 16
        assert_equals_truth(sim, path, days(3))


@pytest.mark.parametrize("seed", range(3))
def test_every_passing_fault_at_once_leaves_the_truth(seed, path):
    with Simulator(sites=[Site(SITE, rows_per_day=60, nasty=True)], seed=seed, **UNLIMITED) as sim:
        for fault in GROUPS["transient"]:
            sim.faults.set(fault, 0.02)
        result = copy(sim, path, days(40), backoff_base=0.02, backoff_cap=0.2, batch_size=10)
        assert result.status == "complete", result
        sim.faults.clear()
        assert_equals_truth(sim, path, days(40))
        assert len(sim.stats()["faults"]) > 15
    assert no_thread_is_left()


@pytest.mark.parametrize("fault", ["hang", "stall_body", "drip"])
def test_a_halt_reaches_workers_that_hang_in_a_socket(fault, path):
    with Simulator(sites=[Site(SITE, rows_per_day=2000)], seed=3, **UNLIMITED) as sim:
        sim.faults.set(fault, 1.0)
        config = gscthreads.SyncConfig(
            sites=[SITE], store=f"sqlite:///{path}", credentials=sim.credentials(), start=days(60)[-1], end=LAST,
            api_root=sim.url, batch_size=5, rate_limit_enabled=False,
        )
        run = gscthreads.Sync(config).start()
        while sim.stats()["http_requests"] < 3:
            threading.Event().wait(0.01)
        run.halt("enough")
        result = run.wait(timeout=10)
        assert (result.status, result.reason, result.exit_status) == ("halted", "enough", 3)
        assert no_thread_is_left()
        sim.faults.clear()
        sim.release_hangs()
        assert gscthreads.Sync(config).run().status == "complete"
        assert_equals_truth(sim, path, days(60)[:5])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_with_status_3_and_the_same_command_finishes(number, tmp_path, path):
    with Simulator(sites=[Site(SITE, rows_per_day=50)], seed=3, **UNLIMITED) as sim:
        sim.faults.set("hang", 1.0)
        credentials = tmp_path / "credentials.json"
        credentials.write_text(json.dumps(sim.credentials()))
        credentials.chmod(0o600)
        command = [
            sys.executable, "-m", "gscthreads", "sync", "--site", SITE, "--start", days(10)[-1].isoformat(), "--end",
            LAST.isoformat(), "--store", f"sqlite:///{path}", "--credentials", str(credentials), "--api-root", sim.url,
            "--json",
        ]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while sim.stats()["http_requests"] < 1:
            assert process.poll() is None
            threading.Event().wait(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 3, err
        assert json.loads(out.splitlines()[-1])["status"] == "halted"
        assert "Traceback" not in err
        sim.faults.clear()
        sim.release_hangs()
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=60)
        found = json.loads(done.stdout.splitlines()[-1])
        assert (done.returncode, found["status"], found["days"]) == (0, "complete", 20)
        assert {"status", "days", "rows", "calls", "http_batches", "retries", "seconds", "peak_qpm", "datasets"} <= set(
            found
        )


def test_an_unwaited_run_does_not_block_the_interpreters_exit(tmp_path, path):
    with Simulator(sites=[Site(SITE, rows_per_day=50)], seed=3, **UNLIMITED) as sim:
        sim.faults.set("hang", 1.0)
        code = (
            "import sys, json, gscthreads\n"
            f"config = gscthreads.SyncConfig(sites=[{SITE!r}], store='sqlite:///{path}', start='-30d',"
            f" credentials=json.loads(sys.argv[1]), api_root={sim.url!r})\n"
            "run = gscthreads.Sync(config).start()\n"
            "import time\n"
            "while not run.snapshot().http_batches: time.sleep(0.01)\n"
        )
        values = [sys.executable, "-c", code, json.dumps(sim.credentials())]
        assert subprocess.run(values, cwd=ROOT, timeout=20).returncode == 0


def test_not_even_a_run_that_hangs_where_nothing_reaches_it_blocks_the_interpreters_exit(path):
    code = (
        "import socket, threading, gscthreads\n"
        "hangs = threading.Event()\n"
        "socket.getaddrinfo = lambda *values, **options: (hangs.set(), threading.Event().wait())\n"
        f"config = gscthreads.SyncConfig(sites=[{SITE!r}], store='sqlite:///{path}', start='-30d',"
        " credentials=lambda: 'token', api_root='https://nowhere.invalid')\n"
        "run = gscthreads.Sync(config).start()\n"
        "assert hangs.wait(20)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=20).returncode == 0


def test_a_refused_site_fails_alone_and_is_told_what_was_meant(path):
    sites = [Site(SITE, rows_per_day=20), Site("https://www.example.org/", rows_per_day=20)]
    with Simulator(sites=sites, seed=1, **UNLIMITED) as sim:
        result = gscthreads.sync(
            [SITE, "http://example.org/"], start=days(5)[-1], end=LAST, store=f"sqlite:///{path}",
            credentials=sim.credentials(), api_root=sim.url,
        )
        assert (result.status, result.exit_status) == ("failed", 1)
        by_site = {(each.site, each.report): each for each in result.datasets}
        assert by_site[SITE, "page"].status == "complete" and by_site[SITE, "page"].days == 5
        assert "did you mean https://www.example.org/?" in by_site["http://example.org/", "page"].error


def test_bad_input_is_one_line_and_writes_nothing(tmp_path):
    with Simulator(sites=[Site(SITE, rows_per_day=20)], seed=1) as sim:
        good = tmp_path / "good.json"
        good.write_text(json.dumps(sim.credentials()))
        good.chmod(0o600)
        (tmp_path / "broken.json").write_text("{")
        (tmp_path / "broken.json").chmod(0o600)
        base = {"--site": SITE, "--store": "sqlite:///x.db", "--credentials": "good.json", "--api-root": sim.url,
                "--start": "-15d"}
        for change, status in (
            ({"--start": "2026-2-3"}, 2),
            ({"--start": "-3d", "--end": "-9d"}, 2),
            ({"--start": "2001-01-01"}, 2),
            ({"--report": "page,colour"}, 2),
            ({"--report": "page,searchAppearance"}, 2),
            ({"--store": "sqlite:///no/such/folder/x.db"}, 1),
            ({"--store": "oracle://x"}, 2),
            ({"--credentials": "none.json"}, 2),
            ({"--credentials": "broken.json"}, 2),
            ({"--max-concurrency": "0"}, 2),
            ({"--site": "sc-domain:unknown.net"}, 1),  # the last: it calls, and what it called is remembered
        ):
            words = [word for pair in {**base, **change}.items() for word in pair]
            done = subprocess.run(
                [sys.executable, "-m", "gscthreads", "sync", *words, "--quiet"], cwd=tmp_path, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            assert done.returncode == status, (change, done.stderr)
            assert len(done.stderr.splitlines()) == 1, done.stderr
            left = sorted(name for name in os.listdir(tmp_path) if name.startswith("x.db"))
            assert left == (["x.db", "x.db-sync"] if "--site" in change else []), change


def test_what_a_failed_first_run_called_is_remembered(path):
    """Or whoever runs it again and again would call as often as the server lets them."""
    wanted = dict(start=TODAY - dt.timedelta(days=9), end=TODAY - dt.timedelta(days=5), store=f"sqlite:///{path}")
    with Simulator(sites=[Site(SITE, rows_per_day=20)], seed=1) as sim:
        access = dict(credentials=sim.credentials(), api_root=sim.url)
        first = gscthreads.sync("sc-domain:unknown.net", **wanted, **access)
        assert first.status == "failed" and first.calls == sim.stats()["calls"] > 0
        with opened(path) as database:
            assert database.execute("SELECT status, calls FROM gsc_runs").fetchall() == [("failed", first.calls)]
        second = gscthreads.sync(SITE, **wanted, **access)
        assert second.status == "complete" and second.calls == 10
    with contextlib.closing(sqlite3.connect(f"{path}-sync")) as ledger:
        state = json.loads(ledger.execute("SELECT state FROM gsc_quota WHERE key LIKE '%unknown%'").fetchone()[0])
    assert state["leaving"]


def test_a_request_that_no_token_was_to_be_had_for_is_no_call(path):
    with Simulator(sites=[Site(SITE, rows_per_day=20)], seed=1) as sim:
        sim.faults.script("token_503", times=None)
        result = gscthreads.sync(
            SITE, start=TODAY - dt.timedelta(days=9), end=TODAY - dt.timedelta(days=5), store=f"sqlite:///{path}",
            credentials=sim.credentials(), api_root=sim.url, backoff_base=0.01, backoff_cap=0.01)
        assert result.status == "failed" and result.faults["Transient"] > 0
        assert (result.calls, result.http_batches, result.retries, result.peak_qpm) == (0, 0, 0, 0)
        assert sim.stats()["calls"] == 0


def test_a_run_that_never_called_leaves_no_file(path):
    with Simulator(sites=[Site(SITE, rows_per_day=20)], seed=1) as sim:
        sim.faults.script("token_invalid_grant", times=None)
        with pytest.raises(gscthreads.CredentialsError):
            gscthreads.sync(SITE, start="-9d", end="-5d", store=f"sqlite:///{path}", credentials=sim.credentials(),
                            api_root=sim.url)
    assert not [name for name in os.listdir(os.path.dirname(path)) if name.startswith(os.path.basename(path))]


def test_provisional_days_are_replaced_whole_and_holes_are_filled(path):
    with Simulator(sites=[Site(SITE, rows_per_day=30)], seed=1, **UNLIMITED) as sim:
        young = TODAY - dt.timedelta(days=2)
        sim.put_day(SITE, "web", young, [("https://example.com/a", "old", "usa", "MOBILE", 1, 5, 2.0)])
        wanted = dict(start=TODAY - dt.timedelta(days=30), end=young, store=f"sqlite:///{path}",
                      credentials=sim.credentials(), api_root=sim.url, data_state="all")
        gscthreads.sync(SITE, **wanted)
        with opened(path) as database:
            database.execute("DELETE FROM gsc_fact WHERE day IN (SELECT id FROM gsc_day WHERE date = ?)",
                             (days(5)[-1].isoformat(),))
            database.execute("DELETE FROM gsc_day WHERE date = ?", (days(5)[-1].isoformat(),))
        sim.put_day(SITE, "web", young, [("https://example.com/b", "new", "usa", "MOBILE", 7, 9, 1.5)])
        result = gscthreads.sync(SITE, **wanted)
        assert stored(path, young, "page_query") == [("https://example.com/b", "new", 7, 9, 7 / 9, 1.5)]
        with opened(path) as database:
            pages = {page for page, in database.execute("SELECT page FROM gsc_page_lifetime")}
            provisional = database.execute("SELECT count(*) FROM gsc_days WHERE status = 'provisional'").fetchone()[0]
        assert "https://example.com/a" not in pages and "https://example.com/b" in pages
        assert result.calls == provisional + 2  # the hole, of two reports
        assert stored(path, days(5)[-1], "page") == truth(sim, days(5)[-1], "page")
