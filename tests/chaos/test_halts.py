"""Time to halt over everything a run can hang in: under a second, in one of three tries (the machine may be busy with
other things); printed at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import socket
import threading
import time

import pytest

import gscthreads
from gscthreads.stores import open_store

from . import checks, seams, small

#: Seconds after which a halt counts as not working at all.
NEVER = 30.0

#: Seconds within which a halt has to work, and how often that may be tried.
PROMPT, TRIES = 1.0, 3

#: Name of what the run hung in -> seconds from halt() to the end of wait().
TIMES = {}


@pytest.fixture(scope="module", autouse=True)
def tell_the_slowest(request):
    yield
    if TIMES:
        slowest = max(TIMES, key=TIMES.get)
        words = ", ".join(f"{name} {seconds * 1000:.0f}" for name, seconds in sorted(TIMES.items()))
        reporter = request.config.pluginmanager.getplugin("terminalreporter")
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            reporter.write_line(f"\ntime to halt, ms: {words}; slowest: {slowest} {TIMES[slowest] * 1000:.0f}")


class Late(AssertionError):
    """A halt that took too long."""


def note(name, seconds, result):
    TIMES[name] = min(seconds, TIMES.get(name, NEVER))
    if seconds >= PROMPT:
        raise Late(f"{seconds:.3f} s from halt() to the end of wait()")
    assert result.halt_seconds <= seconds + 0.001 and result.halt_seconds >= seconds - 0.2


def prompt(test):
    """Try *test* anew, in a folder of its own, when its halt was late."""

    @functools.wraps(test)
    def tried(tmp_path, **values):
        for number in range(TRIES):
            folder = tmp_path / f"try{number}"
            folder.mkdir()
            try:
                return test(tmp_path=folder, **values)
            except Late:
                if number == TRIES - 1:
                    raise

    return tried


def halted(name, run):
    """Halt *run*, note how long it took, and check how it ended."""
    began = time.monotonic()
    run.halt("enough")
    result = run.wait(timeout=NEVER)
    note(name, time.monotonic() - began, result)
    assert (result.status, result.reason, result.exit_status) == ("halted", "enough", 3)


def until(condition):
    """Wait for *condition*, which says that the run now hangs where it should."""
    given_up = time.monotonic() + NEVER
    while not condition():
        assert time.monotonic() < given_up, "it never came to that"
        threading.Event().wait(0.002)


@contextlib.contextmanager
def started(config):
    with gscthreads.Sync(config) as run:
        yield run.start()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gscthreads.sync-coord")]


def finishes(path, dates):
    """The same call completes, with a service that is well again (the look-alike's data follows from its seed)."""
    with small.simulator() as sim:
        assert gscthreads.Sync(small.config(sim, f"sqlite:///{path}", dates)).run().status == "complete"
        small.assert_truth(sim, path, dates)


@prompt
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("fault", ["hang", "stall_body", "drip", "slow", "huge"])
def test_a_halt_reaches_workers_in_a_socket(fault, batch_size, tmp_path):
    path, dates = tmp_path / "search.db", small.days(12)
    with small.simulator(slow_seconds=3600.0, drip_interval=0.05, huge_bytes=1 << 34) as sim:
        with seams.slices_of(small.LIMIT):
            sim.faults.set(fault, 1.0)
            values = {"batch_size": batch_size, "max_concurrency": 4}
            with started(small.config(sim, f"sqlite:///{path}", dates, **values)) as run:
                until(lambda: sim.stats()["http_requests"] > 4)  # the token, and four workers
                halted(f"{fault}/{batch_size}", run)
            finishes(path, dates)


@prompt
@pytest.mark.parametrize("where", ["status line", "header", "gzip head", "gzip middle", "chunk size"])
def test_a_halt_reaches_workers_whose_answer_stalls_at_any_point(where, tmp_path, stalling_server):
    server = stalling_server(where)
    config = gscthreads.SyncConfig(
        sites=[small.SITE], store=f"sqlite:///{tmp_path / 'search.db'}", start=small.days(9)[-1], end=small.LAST,
        max_concurrency=3, batch_size=2, rate_limit_enabled=False, api_root=server.url, credentials=lambda: "token",
    )
    with started(config) as run:
        until(lambda: server.stalled >= 3)
        halted(where, run)


@prompt
def test_a_halt_reaches_workers_that_wait_for_a_token(tmp_path, stalling_server):
    server, path, dates = stalling_server("status line"), tmp_path / "search.db", small.days(6)
    with small.simulator() as sim, seams.slices_of(small.LIMIT):
        config = small.config(sim, f"sqlite:///{path}", dates)
        credentials = {**config.credentials, "token_uri": f"{server.url}/token"}
        with started(dataclasses.replace(config, credentials=credentials)) as run:
            until(lambda: server.stalled >= 1)
            halted("token", run)
        assert len(sim.log) == 0
        finishes(path, dates)


def unreachable(path, credentials):
    """A run on a service whose name nobody will resolve."""
    return gscthreads.SyncConfig(
        sites=[small.SITE], store=f"sqlite:///{path}", start=small.days(9)[-1], end=small.LAST, max_concurrency=3,
        batch_size=2, rate_limit_enabled=False, api_root="https://nowhere.invalid", credentials=credentials,
    )


@contextlib.contextmanager
def hanging():
    """(what hangs whoever calls it, the threads that do); in the end they are let go, and end."""
    inside, go_on = set(), threading.Event()

    def hang(*values, **options):
        inside.add(threading.current_thread())
        assert go_on.wait(NEVER)
        raise OSError("it was in vain")

    try:
        yield hang, inside
    finally:
        go_on.set()
        for thread in inside:
            thread.join(NEVER)
            assert not thread.is_alive()


@prompt
def test_a_halt_leaves_workers_in_name_resolution_behind(tmp_path, monkeypatch):
    with hanging() as (hang, inside):
        monkeypatch.setattr(socket, "getaddrinfo", hang)
        with started(unreachable(tmp_path / "search.db", lambda: "token")) as run:
            until(lambda: len(inside) == 3)
            halted("name resolution", run)
            assert run.result.halt_seconds < PROMPT
        monkeypatch.undo()


@prompt
def test_a_halt_leaves_the_worker_behind_that_resolves_the_token_servers_name(tmp_path, monkeypatch):
    credentials = {"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c",
                   "token_uri": "https://nowhere.invalid/token"}
    with hanging() as (hang, inside):
        monkeypatch.setattr(socket, "getaddrinfo", hang)
        with started(unreachable(tmp_path / "search.db", credentials)) as run:
            until(lambda: len(inside) == 1 and len(workers()) == 3)
            halted("name of the token server", run)
            until(lambda: len(workers()) == 1)  # the others end once they are let go
            assert len(inside) == 1
        monkeypatch.undo()


@prompt
def test_a_halt_leaves_the_worker_behind_that_asks_for_a_token(tmp_path):
    with hanging() as (hang, inside):
        with started(unreachable(tmp_path / "search.db", hang)) as run:
            until(lambda: len(inside) == 1 and len(workers()) == 3)
            halted("token callable", run)
            until(lambda: len(workers()) == 1)  # the others end once they are let go
            assert len(inside) == 1


def workers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("gscthreads.sync-worker")]


@prompt
def test_a_halt_reaches_slices_in_backoff(tmp_path):
    path, dates = tmp_path / "search.db", small.days(12)
    with small.simulator() as sim, seams.slices_of(small.LIMIT):
        sim.faults.set("http_503", 1.0)
        values = {"backoff_base": 3600.0, "backoff_cap": 3600.0}
        with started(small.config(sim, f"sqlite:///{path}", dates, **values)) as run:
            until(lambda: len(sim.log) > 0 and run.snapshot().in_flight == 0)
            halted("backoff", run)
        finishes(path, dates)


@prompt
def test_a_halt_reaches_workers_that_wait_for_quota(tmp_path):
    path, dates = tmp_path / "search.db", small.days(12)
    with small.simulator() as sim, seams.slices_of(small.LIMIT):
        points, recorder = seams.Seams(), seams.Recorder()
        values = {"rate_limit_enabled": True, "qpm_limit": 2, "qpm_target": 1.0, "batch_size": 1, "max_concurrency": 4}
        with seams.installed(points, recorder):
            with started(small.config(sim, f"sqlite:///{path}", dates, **values)) as run:
                until(lambda: points.passed.get("acquire.before", 0) >= 4 and len(sim.log) >= 1)
                halted("quota", run)
        finishes(path, dates)


@prompt
@pytest.mark.parametrize("point", ["begin", "stage", "publish", "commit"])
def test_a_halt_reaches_workers_at_a_full_queue_because_the_store_is_blocked(point, tmp_path):
    """The store itself can't be interrupted; the moment it lets go, everybody does."""
    path, dates = tmp_path / "search.db", small.days(12)
    inside, go_on = threading.Event(), threading.Event()

    def block(words):
        inside.set()
        assert go_on.wait(NEVER)

    with small.simulator() as sim, seams.slices_of(small.LIMIT):
        points = seams.Seams()
        points.at(f"store.{point}.before", 1 if point in ("stage", "publish") else 2, block)
        store = seams.SeamStore(open_store(f"sqlite:///{path}"), points)
        values = {"max_queue_size": 1, "batch_size": 1, "max_concurrency": 4}
        with started(small.config(sim, store, dates, **values)) as run:
            assert inside.wait(NEVER)
            until(lambda: run.snapshot().queue_fill == 1.0)
            began = time.monotonic()
            run.halt("enough")
            go_on.set()
            result = run.wait(timeout=NEVER)
            note(f"store {point}, once it lets go", time.monotonic() - began, result)
            assert (result.status, result.reason) == ("halted", "enough")
        finishes(path, dates)


@prompt
def test_a_halt_reaches_a_coordinator_that_waits_for_another_writer(tmp_path):
    path, dates = tmp_path / "search.db", small.days(12)
    with small.simulator() as sim, seams.slices_of(small.LIMIT):
        assert gscthreads.Sync(small.config(sim, f"sqlite:///{path}", dates[:2])).run().status == "complete"
        points = seams.Seams()
        store = seams.SeamStore(open_store(f"sqlite:///{path}"), points)
        with checks.opened(path) as other:
            other.isolation_level = None
            other_begins, began_again = threading.Event(), threading.Event()
            points.at("store.begin.before", 2, lambda words: (other_begins.set(), began_again.wait(NEVER)))
            with started(small.config(sim, store, dates)) as run:
                assert other_begins.wait(NEVER)
                other.execute("BEGIN IMMEDIATE")
                began_again.set()
                until(lambda: run.snapshot().queue_size > 0 or run.snapshot().in_flight == 0)
                halted("another writer", run)
            other.execute("ROLLBACK")
        finishes(path, dates)
