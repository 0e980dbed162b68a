"""Several runs on one store, quotas that are spent, and what is kept of how a run went."""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib
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
from gscthreads import pacific, parking
from gscthreads.client import Client
from gscthreads.coordinator import DRAIN, Coordinator
from gscthreads.errors import StoreLocked, StoreLost
from gscthreads.halt import Halt, Halted
from gscthreads.quota import Quota
from gscthreads.simulator import Simulator, Site
from gscthreads.stores import open_store
from gscthreads.stores.base import RunFigures
from gscthreads.stores.sqlite import SQLiteStore
from gscthreads.stores.sqlite_sync import SyncFile
from gscthreads.summary import read_status
from gscthreads.worker import BatchEnded
from tests import postgres_server
from tests.chaos.seams import Seams, SeamStore

SITE, OTHER = "sc-domain:example.com", "https://www.example.org/"
ROOT = Path(__file__).resolve().parent.parent
LAST = pacific.today() - dt.timedelta(days=20)
UNLIMITED = {"site_qpm": 10**9, "user_qpm": 10**9, "project_qpm": 10**9}


@pytest.fixture
def sim():
    sites = [Site(SITE, rows_per_day=20), Site(OTHER, rows_per_day=20)]
    with Simulator(sites=sites, seed=1, **UNLIMITED) as simulator:
        yield simulator


@pytest.fixture(params=["sqlite", "postgres"])
def path(request, tmp_path):
    """Where the store is: a SQLite file, or the URL of a schema in Postgres."""
    if request.param == "postgres":
        return postgres_server.server().schema()
    return str(tmp_path / "search.db")


def url_of(path):
    return path if "://" in path else f"sqlite:///{path}"


def settings(sim, path, days=20, **more):
    return {"sites": [SITE], "store": url_of(path), "credentials": sim.credentials(), "api_root": sim.url,
            "start": LAST - dt.timedelta(days=days - 1), "end": LAST, "reports": ["page_query"],
            "backoff_base": 0.01, "backoff_cap": 0.05, **more}


def elsewhere(path, statement):
    """What *statement* finds in the SQLite file *path*, in another process, which then closes it."""
    code = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); print(*d.execute(sys.argv[2]).fetchone()); d.close()"
    command = [sys.executable, "-c", code, path, statement]
    return int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def run(sim, path, **more):
    return gscthreads.Sync(gscthreads.SyncConfig(**settings(sim, path, **more))).run()


def query(path, statement):
    with contextlib.closing(open_store(url_of(path))) as store:
        store.open(writing=False)
        return store.read(statement)


@contextlib.contextmanager
def writing(path):
    store = open_store(url_of(path))
    with contextlib.closing(store):
        store.open()
        store.begin(gscthreads.halt.Halt())
        yield store
        store.commit()


@contextlib.contextmanager
def locked(path, name="runs"):
    """Somebody else holds the lock that a run needs to begin (Postgres: the one of that *name*)."""
    if "://" not in path:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
        return
    from gscthreads.stores.postgres_link import connector
    from gscthreads.stores.postgres_sync import lock_key

    connect, _, schema = connector(path)
    with contextlib.closing(connect()) as other:
        other.cursor().execute("SELECT pg_advisory_xact_lock(%s)", (lock_key(schema, name),))
        yield


def waiting_for_a_lock(path):
    """Whether a run has come as far as ``locked`` lets it."""
    if "://" not in path:
        return any("-run-" in name for name in os.listdir(os.path.dirname(path)))
    return query(path, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'gscthreads'"
                 " AND query LIKE '%pg_try_advisory_xact_lock%' AND pid <> pg_backend_pid()") != [(0,)]


def until(condition):
    given_up = threading.Event()
    while not condition():
        given_up.wait(0.01)


def command(sim, path, tmp_path, *words, days=20):
    credentials = tmp_path / "credentials.json"
    if not credentials.exists():
        credentials.write_text(json.dumps(sim.credentials()))
        credentials.chmod(0o600)
    return [
        sys.executable, "-m", "gscthreads", "sync", "--site", SITE, "--store", url_of(path), "--credentials",
        str(credentials), "--api-root", sim.url, "--start", str(LAST - dt.timedelta(days=days - 1)), "--end", str(LAST),
        "--quiet", "--json", "--qpm-limit", "40000", *words,
    ]


def together(*commands):
    """Run them at the same time: [(exit status, result, stderr)]."""
    processes = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        for words in commands
    ]
    found = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        found.append((process.returncode, json.loads(out.splitlines()[-1]), err))
    return found


def served_once(sim):
    asked = [(each.site, each.dimensions, each.start_date, each.start_row) for each in sim.log]
    assert len(asked) == len(set(asked))
    return len(asked)


# -- several processes


def test_of_four_processes_one_syncs_and_the_others_say_who(sim, path, tmp_path):
    sim.options.update({"latency": 0.5})
    found = together(*[command(sim, path, tmp_path, days=20)] * 4)
    assert sorted(status for status, _, _ in found) == [0, 3, 3, 3]
    assert served_once(sim) == 40
    for status, result, err in found:
        if status == 3:
            assert result["status"] == "parked" and result["calls"] == 0
            assert "being synced by process" in err and "page_query web" in err
    assert query(path, "SELECT status, count(*) FROM gsc_days GROUP BY 1") == [("final", 40)]


def test_who_waits_goes_on_when_the_other_has_ended(sim, path, tmp_path):
    sim.options.update({"latency": 0.3})
    found = together(*[command(sim, path, tmp_path, "--wait")] * 3)
    assert [status for status, _, _ in found] == [0, 0, 0]
    assert served_once(sim) == 40
    assert sorted(result["days"] for _, result, _ in found) == [0, 0, 40]


def test_processes_that_sync_different_reports_write_into_one_store_at_once(sim, path, tmp_path):
    reports = ("page", "page_query", "page,country", "page,device")
    found = together(*[command(sim, path, tmp_path, "--report", report, "--batch-size", "3") for report in reports])
    assert [status for status, _, _ in found] == [0, 0, 0, 0]
    assert served_once(sim) == 80
    assert query(path, "SELECT count(*), sum(rows) FROM gsc_days WHERE status = 'final'") == [
        (80, query(path, "SELECT count(*) FROM gsc_performance")[0][0])
    ]
    assert query(path, "SELECT count(*) - count(DISTINCT page) FROM gsc_page") == [(0,)]
    assert not [name for name in os.listdir(tmp_path) if "-run-" in name]


def test_a_dataset_of_which_a_part_is_held_is_synced_as_far_as_it_is_free(sim, path):
    other = open_store(url_of(path))
    other.open()
    try:
        other.begin(gscthreads.halt.Halt())
        other.start_run("{}")
        other.claim([gscthreads.Dataset(SITE, gscthreads.Report("page", ("page",)), "web")])
        other.commit()
        result = run(sim, path, reports=["page", "page_query"])
    finally:
        other.close()
    by_report = {each.report: each for each in result.datasets}
    assert (result.status, result.exit_status, result.days) == ("parked", 3, 20)
    assert by_report["page_query"].status == "complete"
    assert by_report["page"].status == "parked" and f"process {os.getpid()}" in by_report["page"].error
    # Postgres: the other's server process takes a moment to end.
    assert run(sim, path, reports=["page", "page_query"], wait=True).status == "complete"


def test_a_process_that_was_stopped_for_long_finds_out_before_it_writes(sim, path, tmp_path, monkeypatch):
    script = sim.faults.script("hang", times=1)
    # One worker, which hangs: so it isn't stopped in a transaction, whose locks would have to be waited for.
    process = subprocess.Popen(
        command(sim, path, tmp_path, "--report", "page_query", "--max-concurrency", "1"), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )
    while not script.done:
        assert process.poll() is None
        threading.Event().wait(0.01)
    process.send_signal(signal.SIGSTOP)
    for name in ("sqlite", "postgres"):
        monkeypatch.setattr(f"gscthreads.stores.{name}.LEASE_SECONDS", -1.0)
    try:
        assert run(sim, path).status == "complete"
    finally:
        process.send_signal(signal.SIGCONT)
        sim.release_hangs()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert "took this one for dead" in err
    assert query(path, "SELECT status FROM gsc_runs ORDER BY run_id") == [("killed",), ("complete",)]
    assert run(sim, path).calls == 0


def ledger_at(path, now):
    """The ledger of the store at *path*, by the clock *now*."""
    if "://" not in path:
        return SyncFile(path, clock=now)
    ledger = open_store(path).quota_ledger()
    update = ledger.update
    ledger.update = lambda keys, change: update(keys, lambda states, _: change(states, now()))
    return ledger


def test_two_processes_share_one_budget_through_the_store(path):
    now = [0.0]
    with writing(path):
        pass  # makes the tables

    class Moving:
        def is_set(self):
            return False

        def wait(self, seconds):
            now[0] += seconds
            return False

        def on_set(self, callback):
            pass

    def quota():
        made = Quota(site_budget=60, user_budget=90, project_budget=10_000, burst=10, halt=Moving(),
                     clock=lambda: now[0])
        made.share(ledger_at(path, lambda: now[0]))
        return made

    times = []
    first, second = quota(), quota()
    for number in range(40):
        if number == 30:  # a new process in the place of one that has ended
            first.close()
            first = quota()
        each = (first, second)[number % 2]
        grant = each.acquire(SITE, 5)
        each.settle(grant)
        times += [grant.at] * grant.calls
    for moment in times:
        assert sum(moment - 60.0 < each <= moment for each in times) <= 60
    assert now[0] < 60 * 200 / 45
    first.close()
    second.close()


def at_once(script, *words, processes=4):
    """What each of some processes prints, that run *script* at the same time once all of them have begun."""
    started = [
        subprocess.Popen([sys.executable, "-c", f"import gscthreads\n{script}", *words], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        for _ in range(processes)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    found = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0] * processes, found
    return [out for out, _ in found]


ACQUIRE = """
import sys
from gscthreads.halt import Halt
from gscthreads.quota import Quota
from gscthreads.stores import open_store

quota = Quota(site_budget=10**6, user_budget=10**6, project_budget=10**6, burst=3, halt=Halt())
quota.share(open_store(sys.argv[1]).quota_ledger())
print("ready", flush=True)
input()
for _ in range(25):
    quota.settle(quota.acquire("a site", 3))
quota.close()
"""


def test_of_what_several_processes_take_from_a_budget_at_once_nothing_is_forgotten(path):
    with writing(path):
        pass
    at_once(ACQUIRE, url_of(path))
    ledger = open_store(url_of(path)).quota_ledger()
    with contextlib.closing(ledger):
        state = ledger.update(["site a site"], lambda states, now: dict(states["site a site"]))
    assert (sum(calls for _, calls in state["leaving"]), state["open"]) == (4 * 25 * 3, {})


@pytest.mark.parametrize("path", ["postgres"], indirect=True)
def test_waiting_for_a_budget_costs_no_connection_and_may_take_longer_where_the_network_is_slow(path):
    from gscthreads.stores.postgres_link import Link, connector

    with writing(path):
        pass
    ledger, execute = open_store(path).quota_ledger(), Link.execute
    connect, _, schema = connector(path)

    def slowly(self, *values):
        found = execute(self, *values)
        threading.Event().wait(0.1 if "COMMIT" in values[0] else 0.0)  # the network
        return found

    with contextlib.closing(ledger), contextlib.closing(connect()) as other, pytest.MonkeyPatch.context() as patch:
        ledger.update(["a"], lambda states, now: states["a"].update(level=1))
        other.cursor().execute(f'UPDATE "{schema}".gsc_quota SET state = state')
        for _ in range(3):
            with pytest.raises(StoreLocked, match="lock timeout"):
                ledger.update(["a"], lambda states, now: None)
        other.rollback()
        patch.setattr(Link, "execute", slowly)
        assert ledger.update(["a"], lambda states, now: dict(states["a"])) == {"level": 1}
        assert ledger._link.made == 1 and 0.8 <= ledger._link.lock_timeout <= 2.0


OPEN = """
import sys
from gscthreads.stores import open_store

store = open_store(sys.argv[1])
print("ready", flush=True)
input()
store.open()
print(store.read("SELECT count(*) FROM gsc_runs"))
store.close()
"""


@pytest.mark.parametrize("version", [0, 1])
def test_several_processes_may_bring_a_store_up_to_date_at_once(path, version, monkeypatch):
    if version:
        schema = importlib.import_module(f"gscthreads.stores.{'postgres_schema' if '://' in path else 'schema'}")
        with monkeypatch.context() as older:
            older.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:version])
            with contextlib.closing(open_store(url_of(path))) as store:
                store.open()
    assert at_once(OPEN, url_of(path), processes=6) == ["[(0,)]\n"] * 6
    with writing(path) as store:
        store.start_run("{}")


# -- halts while a run begins


def test_a_run_that_is_halted_before_it_has_a_plan_is_halted(sim, path):
    run(sim, path, days=1)
    points, begins = Seams(), threading.Event()
    points.at("store.begin.before", 1, lambda words: begins.set())
    config = gscthreads.SyncConfig(**{**settings(sim, path), "store": SeamStore(open_store(url_of(path)), points)})
    with locked(path), gscthreads.Sync(config) as sync:
        sync.start()
        assert begins.wait(30)
        sync.halt("deploy")
        result = sync.wait(30)
    assert (result.status, result.reason, result.exit_status) == ("halted", "deploy", 3)
    assert result.halt_seconds is not None
    assert run(sim, path).days == 19


def test_the_command_line_tells_of_a_halt_while_a_run_begins(sim, path, tmp_path):
    run(sim, path, days=1)
    with locked(path):
        process = subprocess.Popen(command(sim, path, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, cwd=ROOT)
        until(lambda: waiting_for_a_lock(path))
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert json.loads(out.splitlines()[-1])["status"] == "halted" and "SIGTERM" in err


# -- quotas that are spent


def parked_until(path):
    (until,), = query(path, "SELECT until FROM gsc_park")
    return dt.datetime.strptime(until, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.timezone.utc)


def test_a_spent_load_quota_parks_for_15_minutes_then_until_the_next_pacific_day(sim, path):
    sim.faults.set("load_403", 1.0)
    began = dt.datetime.now(dt.timezone.utc)
    first = run(sim, path)
    until = parked_until(path)
    assert (first.status, first.exit_status) == ("parked", 3)
    assert dt.timedelta(minutes=14, seconds=58) < until - began < dt.timedelta(minutes=17)
    assert first.resume_at == until.strftime("%Y-%m-%dT%H:%M:%SZ") and "worth trying again" in first.reason
    again = run(sim, path)  # too early: asks once, and learns nothing
    assert (again.calls, parked_until(path)) == (1, until)
    with writing(path) as store:
        parked = store.parks()[SITE]
        store.park(SITE, parked._replace(until=parked.since))  # 15 minutes later
    third = run(sim, path)
    assert third.status == "parked"
    midnight = dt.datetime.fromtimestamp(pacific.next_midnight(began.timestamp()), dt.timezone.utc)
    assert parked_until(path) >= midnight
    sim.faults.clear()
    done = run(sim, path)
    assert (done.status, done.days, done.resume_at) == ("complete", 20, "")
    assert query(path, "SELECT * FROM gsc_park") == []


def test_who_asks_too_early_makes_one_call_however_many_reports_there_are(sim, path):
    sim.faults.set("load_403", 1.0)
    run(sim, path, reports=["page", "page_query", "page,device"])
    assert run(sim, path, reports=["page", "page_query", "page,device"]).calls == 1


def test_an_answer_to_one_report_does_not_take_the_park_of_another_back(sim, path):
    """The reports cost differently.  15 minutes did not help for one of them: it is the daily quota."""
    sim.faults.script("load_403", times=None, dimensions=("page", "query"))
    both = {"reports": ["page", "page_query"], "max_concurrency": 1, "batch_size": 1}
    assert run(sim, path, **both).status == "parked"
    with writing(path) as store:
        first = store.parks()[SITE]
        store.park(SITE, first._replace(until=first.since))  # 15 minutes later
    again = run(sim, path, **both)
    assert (again.status, sum(each.days for each in again.datasets if each.report == "page") > 0) == ("parked", True)
    with writing(path) as store:
        second = store.parks()[SITE]
    assert second.since == first.since
    assert second.until.timestamp() >= pacific.next_midnight(first.since.timestamp())
    sim.faults.clear()
    assert run(sim, path, **both).status == "complete"
    assert query(path, "SELECT * FROM gsc_park") == []


@pytest.mark.parametrize("path", ["sqlite"], indirect=True)
def test_a_service_that_is_down_is_given_up_for_the_sites_that_were_asked_not_for_one_that_sleeps(sim, path):
    sim.faults.script("load_403", times=None, site=OTHER)
    sim.faults.script("http_503", times=None, site=SITE)
    values = settings(sim, path, days=200, sites=[OTHER, SITE], wait_for_quota=True, max_attempts=2)
    with gscthreads.Sync(gscthreads.SyncConfig(**values)) as sync:
        sync.start()
        while not sync._coordinator or len(sync._coordinator.plan.datasets) < 2:
            threading.Event().wait(0.01)
        (of_site,) = sync._coordinator.plan.of_site(SITE)
        while not of_site.error or not sync.snapshot().waiting:
            threading.Event().wait(0.01)
        sync.halt("enough")
        result = sync.wait(timeout=30)
    assert {each.site: each.status for each in result.datasets} == {SITE: "failed", OTHER: "halted"}


@pytest.mark.parametrize("fault", ["qps_403", "http_503"])
@pytest.mark.parametrize("path", ["sqlite"], indirect=True)
def test_a_server_that_asks_for_patience_gets_it_from_all_workers(fault, sim, path, monkeypatch):
    """No request begins between a refusal with Retry-After and the end of what it asks for; a halt works at once.
    Of faults it is only known when none gets through, so that the batch leased ahead goes out."""
    sim.options.update({"retry_after": 3600 if fault == "http_503" else 600})
    sim.faults.set(fault, 1.0)
    sent, refused = [], threading.Event()
    fetch, settle = Client.fetch, Coordinator._settle_failed

    def fetch_noted(this, batch, deliver, on_request):
        assert not refused.is_set() or fault == "http_503"
        sent.append(len(batch))
        fetch(this, batch, deliver, on_request)

    def settle_noted(this, outcome):
        settle(this, outcome)
        refused.set()

    monkeypatch.setattr(Client, "fetch", fetch_noted)
    monkeypatch.setattr(Coordinator, "_settle_failed", settle_noted)
    sync = gscthreads.Sync(gscthreads.SyncConfig(**settings(sim, path, days=200, max_concurrency=1, batch_size=3)))
    with sync:
        sync.start()
        while not sync.snapshot().waiting:
            threading.Event().wait(0.01)
        assert f"{SITE}, until" in sync.snapshot().waiting
        sync.halt("enough")
        result = sync.wait(timeout=30)
    assert result.status == "halted" and result.restarts == 0
    assert sent == [3] or fault == "http_503" and sent == [3, 3]
    assert sum(result.faults.values()) == sum(sent)


@pytest.mark.parametrize("path", ["sqlite"], indirect=True)
def test_a_batch_that_waits_for_its_quota_while_the_site_closes_is_given_back(sim, path):
    sim.options.update({"retry_after": 1})
    sim.faults.script("qps_403", times=1)
    result = run(sim, path, batch_size=5, max_concurrency=3, qpm_limit=240, days=10)
    assert (result.status, result.days, result.faults) == ("complete", 10, {"BurstQuota": 1})
    assert result.calls == 11 and result.restarts == 0


@pytest.mark.parametrize("path", ["sqlite"], indirect=True)
def test_after_a_pause_of_all_one_batch_finds_out_whether_the_service_is_back(sim, path, monkeypatch):
    sim.faults.script("outer_503", times=8)
    lease, grown = Coordinator._lease, []

    def lease_noted(this):
        before, probing = len(this._in_flight), this._breaker.probing
        lease(this)
        if probing and len(this._in_flight) > before:
            grown.append((before, len(this._in_flight)))

    monkeypatch.setattr(Coordinator, "_lease", lease_noted)
    result = run(sim, path, days=100, max_concurrency=4, batch_size=4, max_attempts=9)
    assert result.status == "complete"
    assert grown and set(grown) == {(0, 1)}


def test_answers_that_were_under_way_do_not_take_a_park_back(sim, path):
    sim.faults.script("load_403", times=1, after=3)
    result = run(sim, path, batch_size=10, max_concurrency=1)
    assert result.status == "parked" and 0 < result.days < 20
    assert result.resume_at == parked_until(path).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_the_other_sites_go_on_while_one_is_parked(sim, path):
    sim.faults.script("load_403", times=None, site=SITE)
    result = run(sim, path, sites=[SITE, OTHER])
    assert {each.site: each.status for each in result.datasets} == {SITE: "parked", OTHER: "complete"}
    assert result.exit_status == 3


def test_who_waits_for_the_quota_sleeps_and_finishes(sim, path, monkeypatch):
    monkeypatch.setattr(parking, "SHORT", dt.timedelta(seconds=1))
    script = sim.faults.script("load_403", times=3)
    result = run(sim, path, wait_for_quota=True, batch_size=5)
    assert script.done
    assert (result.status, result.days) == ("complete", 20)
    assert query(path, "SELECT * FROM gsc_park") == []


def test_a_halt_wakes_who_waits_for_the_quota(sim, path):
    sim.faults.set("load_403", 1.0)
    sync = gscthreads.Sync(gscthreads.SyncConfig(**settings(sim, path, wait_for_quota=True))).start()
    while not sync.snapshot().waiting:
        threading.Event().wait(0.01)
    assert f"quota of {SITE}, until" in sync.snapshot().waiting
    sync.halt("enough")
    result = sync.wait(timeout=30)
    assert (result.status, result.reason) == ("halted", "enough")
    assert query(path, "SELECT site FROM gsc_park") == [(SITE,)]


@pytest.mark.parametrize("path", ["sqlite"], indirect=True)  # 20 seconds
def test_a_site_that_refuses_bursts_is_slowed_down_and_told_in_the_snapshot(sim, path):
    sim.options.update({"burst_qps": 4})
    config = gscthreads.SyncConfig(**settings(sim, path, days=40, backoff_base=0.1, backoff_cap=1.0))
    with gscthreads.Sync(config) as sync:
        sync.start()
        while not sync.snapshot().slowed:
            threading.Event().wait(0.01)
        assert list(sync.snapshot().slowed) == [SITE]
        result = sync.wait(timeout=100)
    assert result.status == "complete" and result.faults["BurstQuota"] > 30
    # Who comes next knows, and begins slowly.
    before = sim.stats()["calls"]
    again = run(sim, path, days=25, reports=["page"])
    refused = [each for each in list(sim.log)[before:] if each.status != 200]
    assert again.status == "complete" and len(refused) <= 4


# -- how a run went


def test_faults_restarts_and_uptime_are_kept(sim, path, monkeypatch):
    sim.faults.script("http_503", times=2)
    sim.faults.script("unauthorized_401", times=1)
    fetch, deaths = Client.fetch, iter([True])

    def dying(self, batch, deliver, on_request):
        if next(deaths, False):
            raise RuntimeError("a bug")
        fetch(self, batch, deliver, on_request)

    monkeypatch.setattr(Client, "fetch", dying)
    result = run(sim, path, batch_size=4)
    assert result.status == "complete"
    assert (result.restarts, result.faults) == (1, {"Transient": 6, "Unauthorized": 1})
    assert 0.0 <= result.uptime < 1.0 and result.halt_seconds is None
    (uptime, restarts, faults, halted), = query(
        path, "SELECT uptime, restarts, faults, halt_seconds FROM gsc_runs"
    )
    assert (uptime, restarts, json.loads(faults), halted) == (result.uptime, 1, result.faults, None)


@pytest.mark.parametrize("path", ["sqlite"], indirect=True)
def test_faults_cost_no_uptime(sim, path):
    """More than 99 % is asked for; what Google and the wire do wrong is no crash."""
    sim.options.update({"token_lifetime": 1.0, "huge_bytes": 1 << 20})
    for name in ("transient", "hostile"):
        sim.faults.set(name, 0.15)
    sim.faults.script("hang", times=1, after=2)
    result = run(sim, path, days=30, batch_size=3, reports=["page", "page_query"], http_timeout=0.5, max_attempts=50,
                 rate_limit_enabled=False)
    sim.release_hangs()
    assert result.status == "complete" and sum(result.faults.values()) > 5, result.faults
    assert result.uptime > 0.99 and result.restarts == 0
    assert query(path, "SELECT uptime, restarts FROM gsc_runs") == [(result.uptime, 0)]


@pytest.mark.parametrize("crashes", [1, 4])
def test_crashes_lower_the_uptime(crashes, sim, path, monkeypatch):
    """A crash costs all the time that its HTTP batch took: a tenth here, where each of ten takes a second."""
    monkeypatch.setattr("gscthreads.worker.BatchEnded", lambda *values: BatchEnded(*values)._replace(seconds=1.0))
    fetch, deaths = Client.fetch, iter([True] * crashes)

    def dying(self, batch, deliver, on_request):
        fetch(self, batch, deliver, on_request)
        if next(deaths, False):
            raise RuntimeError("a bug")

    monkeypatch.setattr(Client, "fetch", dying)
    result = run(sim, path, batch_size=2, max_concurrency=1)
    assert (result.status, result.calls, result.restarts) == ("complete", 20, crashes)
    assert result.uptime == round(1 - crashes / result.http_batches, 5) < 0.99
    assert query(path, "SELECT uptime, restarts FROM gsc_runs") == [(result.uptime, crashes)]


def test_the_time_to_halt_is_kept(sim, path):
    sim.faults.set("hang", 1.0)
    sync = gscthreads.Sync(gscthreads.SyncConfig(**settings(sim, path))).start()
    while sim.stats()["http_requests"] < 1:
        threading.Event().wait(0.01)
    sync.halt("enough")
    result = sync.wait(timeout=30)
    assert result.halt_seconds is not None and result.halt_seconds >= 0
    (kept,), = query(path, "SELECT halt_seconds FROM gsc_runs")
    assert kept is not None and kept >= 0
    sim.release_hangs()


# -- one file, opened twice by one process


@pytest.mark.parametrize("writing", [False, True])
def test_a_second_look_at_the_file_in_the_same_process_lets_go_of_no_lock(tmp_path, writing):
    """POSIX drops all locks that a process has on a file when it closes the file once.  Then another process that
    closes the database thinks that nobody is left, and deletes the log with our commits."""
    path = str(tmp_path / "search.db")
    store, second = open_store(f"sqlite:///{path}"), open_store(f"sqlite:///{path}")
    store.open()
    try:
        for number in (1, 2):
            second.open(writing=writing)
            second.close()
            assert elsewhere(path, "SELECT count(*) FROM gsc_run") == number - 1
            store.begin(Halt())
            run_id = store.start_run("{}")
            store.save_run(run_id, RunFigures("complete", 0, 0, 0, 0, 0, 0.0, 1.0, 0, "{}", None), ended=True)
            store.commit()
            assert elsewhere(path, "SELECT count(*) FROM gsc_run") == number
    finally:
        store.close()


def test_runs_and_looks_in_one_process_and_others_lose_no_day(sim, tmp_path):
    path = str(tmp_path / "search.db")
    with gscthreads.Sync(gscthreads.SyncConfig(**settings(sim, path, days=60, batch_size=2))) as first:
        first.start()
        run(sim, path, days=3, reports=["page"])
        read_status(url_of(path))
        assert elsewhere(path, "SELECT count(*) FROM gsc_day") > 0
        assert first.wait().status == "complete"
    assert elsewhere(path, "SELECT count(*) FROM gsc_day WHERE status = 'final'") == 63


# -- the end of a run


@pytest.mark.parametrize("halted", [False, True])
def test_a_run_that_ends_while_another_writes_waits_for_it_and_notes_its_end(halted, sim, tmp_path, monkeypatch):
    path = str(tmp_path / "search.db")
    tried, close = threading.Event(), Coordinator.close
    begin = SQLiteStore.begin

    def begin_noted(store, halt):
        try:
            begin(store, halt)
        finally:
            tried.set()

    def close_while_locked(coordinator, *values, **named):
        """The other's transaction ends only after ours could not begin."""
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        tried.clear()
        monkeypatch.setattr(SQLiteStore, "begin", begin_noted)
        release = threading.Thread(target=lambda: (tried.wait(0.1), other.close()))
        release.start()
        try:
            return close(coordinator, *values, **named)
        finally:
            release.join()

    monkeypatch.setattr(Coordinator, "close", close_while_locked)
    if halted:
        sim.faults.set("hang", 1.0)
    with gscthreads.Sync(gscthreads.SyncConfig(**settings(sim, path))) as sync:
        sync.start()
        while halted and sim.stats()["http_requests"] < 1:
            threading.Event().wait(0.01)
        if halted:
            sync.halt("enough")
        result = sync.wait(timeout=30)
    sim.faults.clear()
    assert result.status == ("halted" if halted else "complete")
    assert query(path, "SELECT status, days FROM gsc_runs") == [(result.status, result.days)]
    assert query(path, "SELECT count(*) FROM gsc_lease") == [(0,)]


def end_in_vain(monkeypatch, error, *, late=False):
    """From the moment at which a run is over no transaction can begin any more; the list of those that tried to."""
    tried, note_end = [], Coordinator._note_end

    def begin(store, halt):
        tried.append(halt.is_set())
        raise error from StoreLost("the server is gone")

    def note_in_vain(coordinator, result):
        monkeypatch.setattr(SQLiteStore, "begin", begin)
        if late:
            coordinator._clock = lambda: coordinator._halt.set_at + 2 * DRAIN
        return note_end(coordinator, result)

    monkeypatch.setattr(Coordinator, "_note_end", note_in_vain)
    return tried


@pytest.mark.parametrize("path", ["sqlite"], indirect=True)
def test_a_halted_run_tries_once_more_to_note_its_end_and_not_for_longer_than_a_moment(sim, path, monkeypatch, caplog):
    tried = end_in_vain(monkeypatch, Halted(), late=True)
    sim.faults.set("hang", 1.0)
    with gscthreads.Sync(gscthreads.SyncConfig(**settings(sim, path))) as sync:
        sync.start()
        while sim.stats()["http_requests"] < 1:
            threading.Event().wait(0.01)
        sync.halt("enough")
        result = sync.wait(timeout=30)
    assert (result.status, tried) == ("halted", [True, True])
    assert "could not note the end of the run: the server is gone" in caplog.text


@pytest.mark.parametrize("path", ["sqlite"], indirect=True)
def test_a_run_that_is_over_has_the_patience_of_one_transaction_for_noting_it(sim, path, monkeypatch, caplog):
    tried = end_in_vain(monkeypatch, StoreLost("no answer"))
    result = run(sim, path, days=3)
    assert (result.status, result.days, tried) == ("complete", 3, [False])
    assert "could not note the end of the run" in caplog.text


@pytest.mark.parametrize("path", ["sqlite"], indirect=True)
def test_a_run_that_had_nothing_to_do_tells_how_many_workers_there_would_have_been(sim, path):
    run(sim, path, days=2, max_concurrency="auto")
    result = run(sim, path, days=2, max_concurrency="auto")
    assert (result.status, result.calls, result.concurrency) == ("complete", 0, 3)


@pytest.mark.parametrize("path", ["sqlite"], indirect=True)
def test_a_halt_does_not_wait_for_all_that_a_transaction_was_to_take(sim, path, monkeypatch):
    """To a server far away that took seconds.  What is in the transaction is kept."""
    monkeypatch.setattr("gscthreads.coordinator.DRAIN", 0.0)
    published, publish = [], SQLiteStore.publish

    def publish_and_halt(store, dataset, date, *values, **named):
        published.append(date)
        while len(published) == 1 and len(sync._outcomes) < 6:  # which the next transaction takes at once
            threading.Event().wait(0.01)
        if len(published) == 3:
            sync.halt("enough")
        return publish(store, dataset, date, *values, **named)

    monkeypatch.setattr(SQLiteStore, "publish", publish_and_halt)
    with gscthreads.Sync(gscthreads.SyncConfig(**settings(sim, path, batch_size=10))) as sync:
        result = sync.start().wait(timeout=30)
    assert (result.status, result.days, len(published)) == ("halted", 3, 3)
    assert query(path, "SELECT status, count(*) FROM gsc_days GROUP BY 1") == [("final", 3)]
    result = run(sim, path)
    assert (result.status, result.days) == ("complete", 17)


@pytest.mark.parametrize("where", ["prepare", "claim", "ledger"])
def test_a_halt_does_not_wait_until_all_datasets_are_leased(where, sim, path, monkeypatch):
    """There may be thousands, and a server far away."""
    store, asked = open_store(url_of(path)), []
    original = getattr(store, where)
    values = settings(sim, path, search_types=["web", "image"])
    sync = gscthreads.Sync(gscthreads.SyncConfig(**{**values, "store": store}))

    def halting(wanted):
        for each in wanted:
            asked.append(each)
            sync.halt("enough")
            yield each

    if where == "ledger":
        monkeypatch.setattr(store, where, lambda *values: (list(halting(values[:1])), original(*values))[1])
    else:
        monkeypatch.setattr(store, where, lambda wanted, **named: original(halting(wanted), **named))
    result = sync.run()
    assert (result.status, result.reason, result.calls, len(asked)) == ("halted", "enough", 0, 1)
    assert query(path, "SELECT count(*) FROM gsc_days") == [(0,)]
