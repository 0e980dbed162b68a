"""Postgres goes away: connections cut at every point of a transaction, commits in doubt, a server that restarts,
crashes, hangs, or stands behind pgbouncer.  The run goes on by itself, asks for nothing acknowledged again, and all is
true."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import urllib.parse

import pytest

import gscthreads
from gscthreads.errors import LeaseLost, StoreLost
from gscthreads.halt import Halt
from gscthreads.stores import open_store, postgres
from gscthreads.stores.postgres_link import Link

from tests import postgres_server

from . import checks, seams, small

DATES = small.days(12)
POINTS = [f"store.{name}.{when}" for name in ("begin", "stage", "publish", "save_run", "commit")
          for when in ("before", "after")]


@pytest.fixture(scope="module")
def sim():
    with small.simulator() as running, seams.slices_of(small.LIMIT):
        yield running


@pytest.fixture
def server():
    return postgres_server.own_server()


@pytest.fixture
def url(server):
    return server.database()


def sync(sim, url, points, dates=DATES, **settings):
    store = seams.SeamStore(open_store(url), points)
    seen = len(sim.log)
    result = gscthreads.Sync(small.config(sim, store, dates, **settings)).run()
    asked = small.asked_since(sim, seen)
    assert len(asked) == len(set(asked)), "a slice was asked for twice"
    return result


@pytest.mark.parametrize("point", POINTS)
def test_connections_cut_at_any_point_of_a_transaction_are_made_again(point, sim, server, url):
    points = seams.Seams()
    for passage in (2, 3, 5, 8):
        points.at(point, passage, lambda words: server.cut(url))
    assert sync(sim, url, points).status == "complete"
    assert points.passed[point] > 8
    small.assert_truth(sim, url, DATES)


def test_a_commit_whose_answer_is_lost_is_found_to_have_happened(sim, url, monkeypatch):
    with contextlib.closing(open_store(url)) as store:
        store.open()  # makes the tables
    commit, lost = Link.commit, []

    def answerless(link):
        commit(link)
        lost.append(link.label)
        if len(lost) % 2:
            link.forget()
            raise StoreLost("no answer to COMMIT")

    monkeypatch.setattr(Link, "commit", answerless)
    assert sync(sim, url, seams.Seams()).status == "complete"
    assert len(lost) > 3
    small.assert_truth(sim, url, DATES)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_the_server_restarts_or_crashes_in_the_middle(how, sim, server, url):
    points, reached = seams.Seams(), threading.Event()
    points.at("store.publish.after", 5, lambda words: reached.set())
    store, seen = seams.SeamStore(open_store(url), points), len(sim.log)
    with gscthreads.Sync(small.config(sim, store, DATES, batch_size=1)) as run:
        run.start()
        assert reached.wait(30)
        server.stop(how)  # from this thread: the server ends with the one that started it
        server.start()
        assert run.wait(60).status == "complete"
    asked = small.asked_since(sim, seen)
    assert len(asked) == len(set(asked))
    small.assert_truth(sim, url, DATES)


def test_a_server_that_stays_away_parks_the_run_and_the_same_call_goes_on(sim, server, url, monkeypatch):
    monkeypatch.setattr(postgres, "PATIENCE", 0.3)
    points, reached, gone = seams.Seams(), threading.Event(), threading.Event()

    def wait_for_the_end(words):
        reached.set()
        assert gone.wait(30)

    points.at("store.publish.after", 5, wait_for_the_end)
    with gscthreads.Sync(small.config(sim, seams.SeamStore(open_store(url), points), DATES)) as run:
        run.start()
        assert reached.wait(30)
        server.stop()
        gone.set()
        try:
            result = run.wait(60)
        finally:
            server.start()
    assert (result.status, result.exit_status) == ("parked", 3)
    assert "postgresql://" in result.reason
    acknowledged, seen = checks.ledger(url, small.LIMIT), len(sim.log)
    assert gscthreads.Sync(small.config(sim, url, DATES)).run().status == "complete"
    assert not acknowledged.intersection(small.asked_since(sim, seen))
    small.assert_truth(sim, url, DATES)


@pytest.mark.parametrize("where", ["stage", "publish", "commit"])
def test_a_halt_works_while_the_server_does_not_answer(where, sim, server, url):
    points, stopped = seams.Seams(), threading.Event()
    frozen = []

    def freeze(words):
        pid = store.inner._link._connection.get_backend_pid()
        os.kill(pid, signal.SIGSTOP)
        frozen.append(pid)
        stopped.set()

    points.at(f"store.{where}.before", 3, freeze)
    store = seams.SeamStore(open_store(url), points)
    try:
        with gscthreads.Sync(small.config(sim, store, DATES)) as run:
            run.start()
            assert stopped.wait(30)
            run.halt("enough")
            assert run.wait(30).status == "halted"
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    assert gscthreads.Sync(small.config(sim, url, DATES, wait=True)).run().status == "complete"
    small.assert_truth(sim, url, DATES)


def test_a_server_that_lost_what_it_had_confirmed_is_noticed(url):
    store = open_store(url)
    with contextlib.closing(store):
        store.open()
        store.begin(Halt())
        run_id = store.start_run("{}")
        store.commit()
        for _ in range(2):
            store.begin(Halt())
            store.commit()
        store._link.begin()
        store._link.execute("UPDATE gsc_run SET serial = serial - 1 WHERE id = %s", (run_id,))
        store._link.commit()  # as a stand-by that had not got everything
        with pytest.raises(LeaseLost, match="lost transactions"):
            store.begin(Halt())


ODD_SETTINGS = {
    "default_transaction_isolation": "serializable", "default_transaction_read_only": "on", "extra_float_digits": "0",
    "datestyle": "'German'", "timezone": "'Asia/Kathmandu'", "standard_conforming_strings": "off",
    "synchronous_commit": "off", "statement_timeout": "1", "intervalstyle": "sql_standard", "search_path": "nowhere",
}


def test_what_the_database_has_set_otherwise_changes_nothing(sim, server, url):
    name = urllib.parse.urlsplit(url).path[1:]
    for setting, value in ODD_SETTINGS.items():
        server.run(f"ALTER DATABASE {name} SET {setting} = {value}")
    place = f"{url}&schema=gsc"
    more = {"rate_limit_enabled": True, "qpm_limit": 40_000}
    runs = [gscthreads.Sync(small.config(sim, place, DATES, reports=[report], **more))
            for report in ("page", "page_query")]
    for run in runs:
        run.start()
    assert [run.wait(60).status for run in runs] == ["complete"] * 2
    small.assert_truth(sim, place, DATES)


class Pooler:
    """pgbouncer in transaction mode, with fewer connections to the server than clients."""

    def __init__(self, url, folder):
        binary = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
        if not os.path.exists(binary):
            pytest.skip("pgbouncer is not installed: apt install pgbouncer")
        parts = urllib.parse.urlsplit(url)
        host = dict(urllib.parse.parse_qsl(parts.query))["host"]
        user = next(name for name in ("postgres", "nobody") if postgres_server._exists(name))
        if os.geteuid() == 0:  # it refuses to run as root
            for path in (folder, *folder.parents):
                if str(path).startswith("/tmp/pytest"):
                    path.chmod(0o755)
            shutil.chown(folder, user)
        (folder / "users").write_text('"postgres" ""\n')
        (folder / "ini").write_text(
            f"[databases]\n* = host={host} user=postgres\n[pgbouncer]\nlisten_addr =\nunix_socket_dir = {folder}\n"
            f"auth_type = any\nauth_file = {folder}/users\npool_mode = transaction\ndefault_pool_size = 2\n"
            f"ignore_startup_parameters = extra_float_digits\nlogfile = {folder}/log\nlisten_port = 6432\n"
            + (f"user = {user}\n" if os.geteuid() == 0 else "")
        )
        self._process = subprocess.Popen([binary, "-q", str(folder / "ini")])
        self.url = f"postgresql://postgres@{parts.path}?port=6432&host={urllib.parse.quote(str(folder), safe='')}"

    def close(self):
        self._process.terminate()
        self._process.wait(10)


def test_through_pgbouncer_in_transaction_mode(sim, url, tmp_path):
    with contextlib.closing(Pooler(url, tmp_path)) as pooler:
        ready = threading.Event()
        for _ in range(500):
            with contextlib.suppress(gscthreads.StoreError):
                store = open_store(pooler.url)
                store.open()
                store.close()
                break
            ready.wait(0.02)
        runs = [
            gscthreads.Sync(small.config(sim, pooler.url, DATES, reports=[report], rate_limit_enabled=True,
                                         qpm_limit=40_000))
            for report in ("page", "page_query")
        ]
        for run in runs:
            run.start()
        results = [run.wait(60).status for run in runs]
        assert results == ["complete", "complete"]
        small.assert_truth(sim, pooler.url, DATES)
