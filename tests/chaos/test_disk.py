"""The disk is full, the database busy or broken: the run parks or fails with words, and the same call goes on later."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import resource
import shutil
import sqlite3
import subprocess
import threading

import pytest

import gscthreads
from gscthreads.auth import open_credentials
from gscthreads.errors import StoreError, StoreFull, StoreLocked
from gscthreads.model import Account
from gscthreads.stores import open_store, sqlite
from gscthreads.stores.sqlite_sync import SyncFile

from . import checks, seams, small

DATES = small.days(12)


@pytest.fixture(scope="module")
def sim():
    with small.simulator() as running, seams.slices_of(small.LIMIT):
        yield running


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "search.db")


def finishes(sim, path, dates=DATES):
    """The same call now completes, asks for nothing acknowledged, and all is true."""
    acknowledged, seen = checks.ledger(path, small.LIMIT), len(sim.log)
    assert gscthreads.Sync(small.config(sim, f"sqlite:///{path}", dates)).run().status == "complete"
    assert not acknowledged.intersection(small.asked_since(sim, seen))
    small.assert_truth(sim, path, dates)


def attempt(config):
    """(result, error) of one run."""
    run = gscthreads.Sync(config)
    try:
        run.run()
    except StoreError as error:
        return run.result, error
    return run.result, None


def last_status(path):
    with checks.opened(path) as database:
        return database.execute("SELECT status FROM gsc_runs ORDER BY run_id DESC LIMIT 1").fetchone()[0]


def test_a_database_that_may_not_grow_parks_the_run_wherever_it_stops(sim, tmp_path):
    for pages in itertools.chain(range(1, 60, 2), range(60, 10_000, 40)):
        path = str(tmp_path / f"{pages}.db")
        inner, points = open_store(f"sqlite:///{path}"), seams.Seams()
        points.at("store.open.after", 1, lambda words: inner.read(f"PRAGMA max_page_count = {pages}"))
        result, error = attempt(small.config(sim, seams.SeamStore(inner, points), DATES))
        assert error is None
        if result.status == "complete":
            break
        assert (result.status, result.exit_status) == ("parked", 3)
        assert "no room left" in result.reason and "run the same command again" in result.reason
        finishes(sim, path)
    assert result.status == "complete" and pages > 9


@pytest.mark.parametrize("kilobytes", [4, 12, 24, 36, 60, 100, 140, 200, 300, 500])
def test_a_full_file_system_parks_the_run_again_and_again_until_there_is_room(kilobytes, sim, tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)]
    if os.getuid() or subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("only root may mount a small file system")
    try:
        path = str(folder / "search.db")
        result, error = attempt(small.config(sim, f"sqlite:///{path}", DATES))
        assert (result.status, result.exit_status, error) == ("parked", 3, None)
        assert f"no room left for {path}" in result.reason
        again, error = attempt(small.config(sim, f"sqlite:///{path}", DATES))
        assert (again.status, error) == ("parked", None)
        subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
        finishes(sim, path)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_the_budgets_find_full_first_parks_the_run_too(sim, path, monkeypatch):
    connection = SyncFile._connection

    def full(this):
        database = connection(this)
        if this is not store._sync:  # opening has gone well
            database.execute("PRAGMA max_page_count = 1")
        return database

    store = open_store(f"sqlite:///{path}")
    monkeypatch.setattr(SyncFile, "_connection", full)
    credentials = open_credentials(sim.credentials())
    credentials.account = Account("x" * 9000)  # more than fits the pages there are
    config = small.config(sim, store, DATES, rate_limit_enabled=True)
    result, error = attempt(dataclasses.replace(config, credentials=credentials))
    assert (result.status, result.exit_status, error) == ("parked", 3, None)
    assert f"no room left for {path}-sync" in result.reason and "run the same command again" in result.reason
    monkeypatch.undo()
    finishes(sim, path)


def test_an_error_of_the_budgets_file_says_what_to_do(path, monkeypatch):
    ledger = SyncFile(path)
    ledger.update(["a"], lambda states, now: None)
    with checks.opened(f"{path}-sync") as database:
        database.execute("UPDATE gsc_quota SET state = 'x'")
        database.commit()
    with pytest.raises(StoreError, match="damaged .*delete it when no sync runs"):
        ledger.update(["a"], lambda states, now: None)
    ledger.close()
    for free, kind in ((1 << 30, StoreError), (1000, StoreFull)):
        monkeypatch.setattr("shutil.disk_usage", lambda folder: shutil._ntuple_diskusage(1 << 40, 0, free))
        monkeypatch.setattr(SyncFile, "_connection", failing("disk I/O error"))
        with pytest.raises(StoreError) as caught:
            ledger.update(["a"], lambda states, now: None)
        assert type(caught.value) is kind and f"{path}-sync" in str(caught.value)


def failing(words):
    def fail(this):
        raise sqlite3.OperationalError(words)

    return fail


@contextlib.contextmanager
def files_up_to(size):
    """The system refuses to write files beyond *size* bytes (EFBIG), which SQLite calls an I/O error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kilobytes", [4, 33, 70, 100, 140, 200, 260])
def test_a_write_that_the_system_refuses_fails_the_run_with_words(kilobytes, sim, path):
    with files_up_to(kilobytes * 1024):
        result, error = attempt(small.config(sim, f"sqlite:///{path}", DATES))
    assert (result.status, result.exit_status) == ("failed", 1)
    assert type(error) is StoreError and path in str(error) and "I/O error" in str(error)
    finishes(sim, path)


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("point", [point for point in seams.STORE_POINTS if "close" not in point])
def test_an_error_of_the_store_at_any_call_parks_or_fails_the_run_and_the_same_call_completes(point, kind, sim, path):
    make = seams.STORE_ERRORS[kind]

    def strike(words):
        raise make(words)

    # Not the first passage, where there are more: some slices are acknowledged already.
    once = point.split(".")[1] in ("open", "prepare", "start_run", "ledger")
    points = seams.Seams()
    points.at(point, 1 if once else 3, strike)
    result, error = attempt(small.config(sim, seams.SeamStore(open_store(f"sqlite:///{path}"), points), DATES))
    if isinstance(make(" "), (StoreFull, StoreLocked)):
        assert (result.status, result.exit_status, error) == ("parked", 3, None)
    else:
        assert (result.status, result.exit_status) == ("failed", 1)
        assert isinstance(error, StoreError) and seams.MARK in str(error)
    assert seams.MARK in result.reason
    if not once and os.path.exists(path):  # a new database goes again when no rows came into it
        assert last_status(path) == result.status
    finishes(sim, path)


class Writer:
    """Another program's connection to the database, usable from the coordinator's thread."""

    def __init__(self, path):
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)

    def take(self, words):
        self._database.execute("BEGIN IMMEDIATE")

    def let_go(self):
        self._database.close()


def test_another_program_that_writes_for_a_while_only_delays_the_run(sim, path, monkeypatch):
    finishes(sim, path, DATES[:2])
    writer, found_locked = Writer(path), threading.Event()
    busy = sqlite.is_busy

    def noticed(error):
        found_locked.set()
        return busy(error)

    monkeypatch.setattr(sqlite, "is_busy", noticed)
    points = seams.Seams()
    points.at("store.begin.before", 3, writer.take)
    store = seams.SeamStore(open_store(f"sqlite:///{path}"), points)
    with gscthreads.Sync(small.config(sim, store, DATES)) as run:
        run.start()
        assert found_locked.wait(30)
        assert run.result is None
        writer.let_go()
        assert run.wait(30).status == "complete"
    small.assert_truth(sim, path, DATES)


@pytest.mark.parametrize("call", [1, 3])
def test_another_program_that_never_stops_writing_parks_the_run_with_words(call, sim, path, monkeypatch):
    finishes(sim, path, DATES[:2])
    monkeypatch.setattr(sqlite, "PATIENCE", 0.1)
    writer, points = Writer(path), seams.Seams()
    points.at("store.begin.before", call, writer.take)
    store = seams.SeamStore(open_store(f"sqlite:///{path}"), points)
    result, error = attempt(small.config(sim, store, DATES))
    assert (result.status, result.exit_status, error) == ("parked", 3, None)
    assert "locked by another program" in result.reason
    writer.let_go()
    finishes(sim, path)


def test_a_reader_during_a_run_sees_whole_days_only(sim, path):
    right = {
        (report, date.isoformat()): len(checks.truth(sim, small.SITE, report, "web", date, "final"))
        for report in ("page", "page_query") for date in DATES
    }
    points, seen = seams.Seams(), []

    def look():
        if os.path.exists(path):
            with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
                days = reader.execute("SELECT report, date, count(*) FROM gsc_performance GROUP BY 1, 2")
                seen.append(days.fetchall())
                lifetime, daily = reader.execute(
                    "SELECT (SELECT total(impressions) FROM gsc_page_lifetime),"
                    " (SELECT total(impressions) FROM gsc_page_daily)").fetchone()
                assert lifetime == daily

    points.everywhere = lambda: look() if points.passed.get("store.open.after") else None
    store = seams.SeamStore(open_store(f"sqlite:///{path}"), points)
    assert gscthreads.Sync(small.config(sim, store, DATES)).run().status == "complete"
    assert len(seen) > 50 and seen[0] == []
    for day in itertools.chain(*seen):
        assert right[day[:2]] == day[2]
