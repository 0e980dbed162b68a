"""Syncs as Celery tasks: real workers, a real Redis, and the look-alike as Google."""

from __future__ import annotations

import contextlib
import datetime as dt
import gc
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import redis_server

import gscthreads
from gscthreads import pacific
from gscthreads.errors import ConfigError, CredentialsError
from gscthreads.simulator import Simulator, Site
from gscthreads.simulator import quota as simulated_quota
from gscthreads.stores import open_store

redis_server.needed("celery")
import kombu.pools  # noqa: E402
from celery import Celery  # noqa: E402
from celery.exceptions import Retry, TaskRevokedError, TimeLimitExceeded  # noqa: E402

from gscthreads.contrib import celery as tasks  # noqa: E402
from gscthreads.contrib.redis import RedisLedger  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
SITES = [f"sc-domain:{name}.example" for name in ("alpha", "beta", "gamma")]
#: A site for each test, so that none waits for what another left behind.
PARKED, SLOW, KILLED = "sc-domain:parked.example", "sc-domain:slow.example", "sc-domain:killed.example"
FAULTY, LIMITED = "sc-domain:faulty.example", "sc-domain:limited.example"
REVOKED = {"prefork": "sc-domain:terminated.example", "threads": "sc-domain:revoked.example"}
LAST = pacific.today() - dt.timedelta(days=20)
DAYS = [LAST - dt.timedelta(days=number) for number in range(14)]
FIRST = DAYS[-1]

#: Google's minute, for everybody in this test: an hour's traffic in a quarter of one.
MINUTE = 6.0
LIMIT, BUDGET = 40, 32

#: A management command that lives in the same minute.
SHORT_MINUTE = """
import sys
import gscthreads.quota
from django.core.management import execute_from_command_line

gscthreads.quota.WINDOW = {minute}
execute_from_command_line(sys.argv[1:])
"""

#: The module that a project would have.
PROJECT = """
import datetime, json, os, sys
from celery import Celery
import gscthreads.contrib.celery, gscthreads.parking, gscthreads.quota

gscthreads.contrib.celery.FIRST_PAUSE = 0.02
gscthreads.quota.WINDOW = {minute}
gscthreads.parking.SHORT = datetime.timedelta(seconds=1)

app = Celery("project", broker={broker!r}, backend={broker!r}, include=["gscthreads.contrib.celery"])
app.conf.worker_prefetch_multiplier = 1
app.conf.gscthreads = lambda: json.load(open("settings.json"))
"""


def until(condition, *, seconds=60.0):
    """Wait for *condition*: a bound for the hopeless, no moment that anything depends on."""
    ended = threading.Event()
    for _ in range(int(seconds / 0.02)):
        found = condition()
        if found:
            return found
        ended.wait(0.02)
    raise AssertionError("it never came true")


class Project:
    """A project that copies its sites with two workers, of processes and of threads."""

    def __init__(self, folder, server, sim):
        self.folder, self.sim = folder, sim
        self.store = f"sqlite:///{folder / 'search.db'}"
        self.ledger = server.url(1)
        credentials = folder / "credentials.json"
        credentials.write_text(json.dumps(sim.credentials()))
        credentials.chmod(0o600)
        self.settings = {
            "store": self.store, "credentials": str(credentials), "api_root": sim.url, "ledger": self.ledger,
            "qpm_limit": LIMIT, "batch_size": 4, "reports": ["page_query"], "sites": SITES,
            "backoff_base": 0.01, "backoff_cap": 0.05,
        }
        self._tell(self.settings)
        (folder / "project.py").write_text(PROJECT.format(minute=MINUTE, broker=server.broker()))
        self.app = Celery("project", broker=server.broker(), backend=server.broker())
        self.app.conf.gscthreads = self.settings
        self._workers = []

    def _tell(self, settings):
        (self.folder / "settings.json").write_text(json.dumps(settings))

    @contextlib.contextmanager
    def told(self, settings):
        """Tasks that begin meanwhile find these *settings*."""
        self._tell(settings)
        try:
            yield
        finally:
            self._tell(self.settings)

    def work(self, pool):
        """Start a worker that also listens to the queue named like its pool."""
        command = [
            sys.executable, "-m", "celery", "-A", "project", "worker", "-P", pool, "-c", "1", "-n", f"{pool}@here",
            "-Q", f"celery,{pool}", "--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "INFO",
        ]
        with open(self.folder / f"{pool}.log", "wb") as log:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            self._workers.append(
                subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, env=environment,
                                 preexec_fn=redis_server.die_with_parent)
            )

    def send(self, site, start=FIRST, end=LAST, *, name="sync_site", **options):
        return self.app.send_task(f"gscthreads.contrib.celery.{name}", (site, str(start), str(end)), **options)

    def result(self, name):
        return self.app.AsyncResult(name)

    def query(self, statement):
        with contextlib.closing(sqlite3.connect(str(self.folder / "search.db"))) as database:
            return database.execute(statement).fetchall()

    def runs(self, site):
        """How each run of that site ended."""
        found = self.query("SELECT status, settings FROM gsc_runs ORDER BY run_id")
        return [status for status, settings in found if site in json.loads(settings)["sites"]]

    def logs(self):
        return {path.name: path.read_text(errors="replace") for path in self.folder.glob("*.log")}

    def close(self):
        gc.collect()  # results that are gone say so to Redis: not later, and in another test
        for worker in self._workers:
            worker.send_signal(signal.SIGTERM)
        for worker in self._workers:
            worker.wait(30)
        self.app.backend.result_consumer.stop()
        self.app.close()
        kombu.pools.reset()


@pytest.fixture(scope="module")
def sim():
    sites = [Site(name, rows_per_day=30) for name in (*SITES, PARKED, SLOW, KILLED, FAULTY, LIMITED, *REVOKED.values())]
    before, simulated_quota.MINUTE = simulated_quota.MINUTE, MINUTE
    try:
        with Simulator(sites=sites, seed=1, site_qpm=LIMIT, user_qpm=LIMIT) as simulator:
            yield simulator
    finally:
        simulated_quota.MINUTE = before


@pytest.fixture(scope="module")
def project(sim, tmp_path_factory):
    server = redis_server.server()
    made = Project(tmp_path_factory.mktemp("project"), server, sim)
    try:
        made.work("prefork")
        made.work("threads")
        until(lambda: sum("ready." in text for text in made.logs().values()) == 2)
        yield made
    finally:
        made.close()
        server.close()


@pytest.fixture(autouse=True)
def logs(request):
    """Show what the workers said when a test fails."""
    yield
    if "project" in request.fixturenames:
        for name, text in request.getfixturevalue("project").logs().items():
            print(f"-- {name}\n{text}")


def test_two_workers_and_a_plain_sync_share_one_budget(project, sim, monkeypatch):
    monkeypatch.setattr("gscthreads.quota.WINDOW", MINUTE)
    queued = project.send(None, name="sync_sites", expires=3600)
    until(lambda: sim.stats()["calls"])
    settings = {key: value for key, value in project.settings.items() if key not in ("sites", "ledger", "reports")}
    mine = gscthreads.sync(
        SITES[0], start=FIRST, end=LAST, reports=["page"], ledger=RedisLedger(project.ledger), **settings
    )
    names = queued.get(timeout=60)
    found = [project.result(name).get(timeout=60) for name in names]

    assert mine.status == "complete" and mine.days == len(DAYS)
    assert [each["site"] for each in found] == SITES
    assert [(each["status"], each["days"], each["calls"]) for each in found] == [("complete", 14, 14)] * 3
    assert json.loads(json.dumps(found)) == found and set(found[0]) == {
        "site", "status", "days", "rows", "calls", "http_batches", "retries", "seconds", "peak_qpm"}
    # One budget, by the look-alike's own count, and every slice served once.
    stats = sim.stats()
    assert max(stats["max_60s"]["user"].values()) <= BUDGET and stats["refusals"] == {}
    asked = [(each.site, each.dimensions, each.start_date, each.start_row) for each in sim.log]
    assert len(asked) == len(set(asked)) == 4 * len(DAYS) > 1.5 * BUDGET
    # Both workers took part ("succeeded" is logged after the result can be had), and the tables are the truth.
    hosts = [sum(f"sync_site[{name}]" in text for name in names) for text in project.logs().values()]
    assert len(hosts) == 2 and all(hosts)
    for site in SITES:
        kept = project.query(
            f"SELECT date, page, query, clicks, impressions, ctr, position FROM gsc_performance WHERE site = '{site}'"
            " AND report = 'page_query'")
        truth = [
            (str(day), *row.keys, *row[1:])
            for day in DAYS for row in sim.truth(site, ["page", "query"], "web", day)
        ]
        assert sorted(kept) == sorted(truth)


def test_two_workers_and_a_management_command_share_a_postgres_store(project, tmp_path):
    """The budget is in the store, and nothing is in Redis but the queue."""
    test_django = pytest.importorskip("tests.test_django")
    days = DAYS[:9]
    ours = [Site(name, rows_per_day=30) for name in SITES]
    with Simulator(sites=ours, seed=2, site_qpm=LIMIT, user_qpm=LIMIT) as google:
        django = test_django.PostgresProject(
            tmp_path, google, SITES=SITES, REPORTS=["page"], RATE_LIMIT_ENABLED=True, QPM_LIMIT=LIMIT, BATCH_SIZE=4)
        django.manage("migrate", "-v0")
        settings = {**project.settings, "store": django.url, "api_root": google.url,
                    "credentials": django.environment["PROJECT_CREDENTIALS"]}
        del settings["ledger"]
        with project.told(settings):
            queued = project.send(None, days[-1], name="sync_sites")
            command = django.start(
                "-c", SHORT_MINUTE.format(minute=MINUTE), "manage.py", "gsc_sync", "--start", str(days[-1]), "--end",
                str(LAST), "--json", DJANGO_SETTINGS_MODULE="project.settings")
            out, err = command.communicate(timeout=60)
            found = [project.result(name).get(timeout=60) for name in queued.get(timeout=60)]

        assert command.returncode == 0, err
        assert json.loads(out.splitlines()[-1])["days"] == 3 * len(days)
        assert [(each["status"], each["days"], each["calls"]) for each in found] == [("complete", 9, 9)] * 3
        stats = google.stats()
        assert max(stats["max_60s"]["user"].values()) <= BUDGET and stats["refusals"] == {}
        asked = [(each.site, each.dimensions, each.start_date, each.start_row) for each in google.log]
        assert len(asked) == len(set(asked)) == 6 * len(days) > 1.5 * BUDGET
        for report, dimensions in (("page", ["page"]), ("page_query", ["page", "query"])):
            kept = django.read("SELECT site, date, page, query, clicks, impressions, ctr, position"
                               f" FROM gsc_performance WHERE report = '{report}'")
            truth = [
                (site, day, *row.keys, *[None] * (2 - len(row.keys)), *row[1:])
                for site in SITES for day in days for row in google.truth(site, dimensions, "web", day)
            ]
            assert sorted(kept, key=str) == sorted(truth, key=str)


def test_a_task_that_was_parked_goes_on_by_itself(project, sim):
    script = sim.faults.script("load_403", times=4, site=PARKED)  # the whole HTTP batch
    result = project.send(PARKED, end=FIRST + dt.timedelta(days=3), expires=3600)
    assert result.get(timeout=60)["status"] == "complete"
    assert script.done
    assert project.runs(PARKED) == ["parked", "complete"]
    assert any("Retry in" in text for text in project.logs().values())


def test_faults_are_counted_apart_from_other_tries_and_end_it_at_last(project, sim):
    """However often it waited before, five faults in a row are borne, and the sixth is the end."""
    script = sim.faults.script("http_503", times=None, site=FAULTY)
    try:
        with project.told({**project.settings, "max_attempts": 1}):
            result = project.send(FAULTY, end=FIRST, retries=7, headers={"trace": "abc"})
            with pytest.raises(Exception, match="503") as caught:
                result.get(timeout=60)
        assert type(caught.value).__name__ == "SyncUnfinished"
        assert script.hits == 1 + tasks.MOST_FAULTS
    finally:
        sim.faults.clear()


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_revoked_task_halts(project, sim, pool):
    sim.faults.script("hang", times=None, site=REVOKED[pool])
    try:
        task = project.send(REVOKED[pool], queue=pool)
        until(lambda: sim.stats()["hanging"])
        project.app.control.revoke(task.id, terminate=pool == "prefork")
        with pytest.raises(TaskRevokedError):
            task.get(timeout=30)
        until(lambda: project.runs(REVOKED[pool]) == ["halted"])
    finally:
        sim.faults.clear()
        sim.release_hangs()


def test_a_soft_time_limit_halts_and_the_rest_is_done_later(project, sim):
    sim.faults.script("hang", times=1, site=SLOW)
    task = project.send(SLOW, end=FIRST + dt.timedelta(days=3), queue="prefork", soft_time_limit=1)
    assert task.get(timeout=60)["status"] == "complete"
    assert project.runs(SLOW) == ["halted", "complete"]


def test_a_child_that_is_killed_outright_loses_nothing(project, sim):
    """The message comes back, and the next child goes on."""
    sim.faults.script("hang", times=1, site=KILLED)
    hanging = sim.stats()["hanging"]  # a client that is gone is noticed by nobody
    task = project.send(KILLED, end=FIRST + dt.timedelta(days=5), queue="prefork")
    until(lambda: sim.stats()["hanging"] > hanging)
    children = project.app.control.inspect(["prefork@here"]).stats()["prefork@here"]["pool"]["processes"]
    os.kill(children[0], signal.SIGKILL)
    assert task.get(timeout=60)["status"] == "complete"
    assert project.runs(KILLED) == ["killed", "complete"]


def test_a_hard_time_limit_fails_the_task_and_the_next_one_goes_on(project, sim):
    """Celery takes its message for dealt with, unlike that of a child which dies otherwise."""
    script = sim.faults.script("hang", times=None, site=LIMITED)
    try:
        with pytest.raises(TimeLimitExceeded):
            project.send(LIMITED, end=FIRST, queue="prefork", time_limit=2).get(timeout=60)
        hits = script.hits
    finally:
        sim.faults.clear()
        sim.release_hangs()
    assert project.send(LIMITED, end=FIRST, queue="prefork").get(timeout=60)["status"] == "complete"
    assert script.hits == hits
    assert project.runs(LIMITED)[-1] == "complete"


# -- without a worker


@pytest.fixture
def app(tmp_path):
    made = Celery("alone", broker="memory://", backend="cache+memory://", set_as_current=False)
    made.conf.gscthreads = lambda: {"store": f"sqlite:///{tmp_path / 'search.db'}", "credentials": "nowhere.json"}
    made.finalize()
    yield made
    made.close()


def task(app, name):
    return app.tasks[f"{tasks.__name__}.{name}"]


def test_wrong_settings_and_credentials_are_errors_at_once(app):
    with pytest.raises(CredentialsError, match="nowhere.json"):
        task(app, "sync_site").apply(args=("sc-domain:a.com",), throw=True)
    with pytest.raises(ConfigError, match="date 'soon'"):
        task(app, "sync_site")("sc-domain:a.com", "soon")
    with pytest.raises(ConfigError, match="sites must be a list"):
        task(app, "sync_sites")()
    app.conf.gscthreads = {"store": "sqlite:///x.db", "credentials": {}, "start": "16m"}
    with pytest.raises(ConfigError, match="start is an argument"):
        task(app, "sync_site")("sc-domain:a.com")
    app.conf.gscthreads = None
    with pytest.raises(ConfigError, match="needs a setting gscthreads"):
        task(app, "sync_site")("sc-domain:a.com")


@pytest.mark.parametrize("make_store", [str, open_store], ids=["url", "object"])
def test_what_becomes_of_a_run_that_did_not_succeed(app, sim, tmp_path, make_store):
    """Without a worker nothing can be tried again: what a retry would be is an error."""
    app.conf.gscthreads = lambda: {
        "store": make_store(f"sqlite:///{tmp_path / 'search.db'}"), "api_root": sim.url, "qpm_limit": LIMIT,
        "credentials": sim.credentials(), "backoff_base": 0.0, "backoff_cap": 0.0, "max_attempts": 2,
    }
    days = str(FIRST), str(FIRST)
    try:
        with pytest.raises(tasks.SyncFailed, match="sc-domain:unknown.example"):
            task(app, "sync_site")("sc-domain:unknown.example", *days)
        sim.faults.script("http_503", times=None, site=PARKED)
        with pytest.raises(tasks.SyncUnfinished, match="503"):
            task(app, "sync_site")(PARKED, *days)
        sim.faults.clear()
        sim.faults.script("load_403", times=None, site=PARKED)
        with pytest.raises(tasks.SyncUnfinished, match="load quota"):
            task(app, "sync_site")(PARKED, *days)
        asked = sim.stats()["calls"]
        with pytest.raises(tasks.SyncUnfinished, match="load quota"):
            task(app, "sync_site").apply(args=(PARKED, *days), retries=1, throw=True)
        assert sim.stats()["calls"] == asked  # whoever is tried again knows, and doesn't ask
        with contextlib.closing(sqlite3.connect(str(tmp_path / "search.db"))) as database, database:
            database.execute("DELETE FROM gsc_park")  # the wait is over
        sim.faults.clear()
        result = task(app, "sync_site").apply(args=(PARKED, *days), retries=1, throw=True).get()
        assert (result["status"], result["calls"]) == ("complete", 2)
    finally:
        sim.faults.clear()


def next_try(app, why, told=None, **more):
    """Seconds to the next try, and what its message tells of this one."""
    sync_site = task(app, "sync_site")
    sync_site.push_request(
        id="x", args=("sc-domain:a.com",), kwargs={}, retries=100, called_directly=False, is_eager=False,
        delivery_info={}, headers=told)
    try:
        with pytest.raises(Retry) as caught:
            tasks._again(sync_site, tasks.SyncUnfinished("words"), why, **more)
    finally:
        sync_site.pop_request()
    return caught.value.when, caught.value.sig.options["headers"]


def test_a_store_that_is_in_use_is_left_alone(app, tmp_path):
    """A project may name one Store object for all, although each sync needs its own."""
    store = open_store(f"sqlite:///{tmp_path / 'search.db'}")
    store.open()
    tasks._wait_for_quota(task(app, "sync_site"), store, "sc-domain:a.com")
    assert store.parks() == {}
    store.close()


def test_pauses_grow_while_the_same_thing_comes_again(app):
    def pauses(*reasons, told=None):
        for why, more in reasons:
            pause, told = next_try(app, why, told, **more)
            yield pause

    fault, busy, moved = (tasks.FAULT, {}), (tasks.BUSY, {}), (tasks.FAULT, {"moved": True})
    assert list(pauses(*[fault] * 5)) == [60.0, 120.0, 240.0, 480.0, 960.0]
    assert list(pauses(*[busy] * 7)) == [60.0, 120.0, 240.0, 480.0, 960.0, 1800.0, 1800.0]
    assert list(pauses(fault, fault, moved, fault)) == [60.0, 120.0, 60.0, 120.0]
    for between in ((tasks.QUOTA, {"seconds": 5.0}), (tasks.TURN, {"seconds": 0.0}), busy):
        assert list(pauses(*[fault] * 5, between, fault))[-1] == 60.0
    pause, told = next_try(app, tasks.BUSY, {"gscthreads": [tasks.BUSY, 10_000], "trace": "abc"})
    assert pause == 1800.0 and told == {"gscthreads": [tasks.BUSY, 10_001], "trace": "abc"}


def test_the_sixth_fault_in_a_row_is_the_end(app):
    with pytest.raises(tasks.SyncUnfinished, match="words"):
        next_try(app, tasks.FAULT, {"gscthreads": [tasks.FAULT, tasks.MOST_FAULTS]})
    next_try(app, tasks.FAULT, {"gscthreads": [tasks.FAULT, tasks.MOST_FAULTS]}, moved=True)
    next_try(app, tasks.BUSY, {"gscthreads": [tasks.BUSY, tasks.MOST_FAULTS]})


def test_a_header_that_is_not_ours_counts_as_none(app):
    for told in ("nonsense", [], [tasks.FAULT], [tasks.FAULT, "5"], {"fault": 5}):
        assert next_try(app, tasks.FAULT, {"gscthreads": told})[0] == 60.0


def test_a_wait_ends_with_the_park_but_is_never_long():
    now = dt.datetime.now(dt.timezone.utc)
    found = [tasks._until(now + dt.timedelta(minutes=minutes)) for minutes in (-5, 10, 600)]
    assert found[0] == 1.0 and 540.0 < found[1] <= 601.0 and found[2] == 1800.0


def test_a_function_keeps_secrets_out_of_what_workers_tell(app):
    assert "search.db" not in repr(app.conf.table())
