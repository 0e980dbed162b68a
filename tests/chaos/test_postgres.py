"""Postgres goes away: connections cut at every point of a transaction, commits in doubt, a server that restarts,
crashes, hangs, or stands behind pgbouncer.  The run goes on by itself, asks for nothing acknowledged again, and all is
true."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse

import pytest

import gscthreads
from gscthreads.errors import LeaseLost, StoreLost
from gscthreads.halt import Halt
from gscthreads.stores import open_store, postgres
from gscthreads.stores.postgres_link import Link
from gscthreads.stores.postgres_sync import lock_key

from tests import postgres_server

from . import checks, seams, small

psycopg2 = pytest.importorskip("psycopg2")
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
    # Its end could not be noted, and its process lives: until it should have come back its datasets are not free.
    monkeypatch.setattr(postgres, "BACK_SECONDS", 0.3)
    assert gscthreads.Sync(small.config(sim, url, DATES, wait=True)).run().status == "complete"
    assert not acknowledged.intersection(small.asked_since(sim, seen))
    small.assert_truth(sim, url, DATES)


@pytest.mark.parametrize("where", ["stage", "publish", "commit"])
def test_a_halt_works_while_the_server_does_not_answer(where, sim, server, url, monkeypatch):
    monkeypatch.setattr(postgres, "BACK_SECONDS", 0.1)  # this process lives, and could not note the end of the run
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


@contextlib.contextmanager
def hanging(server):
    """The whole server, and whoever it would start, answers nobody."""
    def tell(number):
        for pid in server.processes():
            with contextlib.suppress(ProcessLookupError):  # one that was just ending
                os.kill(pid, number)

    try:
        tell(signal.SIGSTOP)
        tell(signal.SIGSTOP)  # those that were started meanwhile; there are no more now
        yield
    finally:
        tell(signal.SIGCONT)


def halted(run):
    """Halt *run*, which then ends soon.  The bound is for loaded machines: what hangs, hangs for 5 seconds or more."""
    began = time.monotonic()
    run.halt("enough")
    result = run.wait(60)
    assert (result.status, result.reason, result.exit_status) == ("halted", "enough", 3)
    assert time.monotonic() - began < 3.0


@pytest.mark.parametrize("limited", [False, True], ids=["rows", "rows and budget"])
@pytest.mark.parametrize("where", ["begin", "stage", "publish", "commit"])
def test_a_halt_works_while_the_whole_server_hangs(where, limited, sim, server, url, monkeypatch):
    monkeypatch.setattr(postgres, "BACK_SECONDS", 0.1)
    points, reached, go_on = seams.Seams(), threading.Event(), threading.Event()

    def wait(words):
        reached.set()
        assert go_on.wait(30)

    points.at(f"store.{where}.before", 3, wait)
    values = {"rate_limit_enabled": limited, "qpm_limit": 40_000, "batch_size": 1}
    with gscthreads.Sync(small.config(sim, seams.SeamStore(open_store(url), points), DATES, **values)) as run:
        run.start()
        assert reached.wait(30)
        with hanging(server):
            go_on.set()
            halted(run)
    assert gscthreads.Sync(small.config(sim, url, DATES, wait=True)).run().status == "complete"
    small.assert_truth(sim, url, DATES)


def test_a_halt_works_while_a_run_connects_again(sim, server, url, monkeypatch):
    monkeypatch.setattr(postgres, "BACK_SECONDS", 0.1)
    points, reached, go_on, tries = seams.Seams(), threading.Event(), threading.Event(), threading.Semaphore(0)

    def wait(words):
        while server.cut(url):  # until the last one has ended: a server process that hangs breaks no connection
            threading.Event().wait(0.01)
        reached.set()
        assert go_on.wait(30)

    connect = psycopg2.connect
    points.at("store.stage.before", 3, wait)
    with gscthreads.Sync(small.config(sim, seams.SeamStore(open_store(url), points), DATES)) as run:
        run.start()
        assert reached.wait(30)
        with hanging(server):
            monkeypatch.setattr(psycopg2, "connect", lambda **named: (tries.release(), connect(**named))[1])
            go_on.set()
            assert tries.acquire(timeout=30)
            halted(run)
    monkeypatch.undo()
    monkeypatch.setattr(postgres, "BACK_SECONDS", 0.1)
    assert gscthreads.Sync(small.config(sim, url, DATES, wait=True)).run().status == "complete"
    small.assert_truth(sim, url, DATES)


def test_a_halt_works_while_a_server_does_not_answer_the_first_time(sim):
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        place = f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/db"
        with gscthreads.Sync(small.config(sim, place, DATES)) as run:
            run.start()
            silent.settimeout(30)
            with contextlib.closing(silent.accept()[0]):
                halted(run)
    assert not [each for each in threading.enumerate() if each.name.startswith("gscthreads") and not each.daemon]


def test_an_interpreter_ends_while_it_connects(sim, tmp_path):
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        place = f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/db?connect_timeout=0"  # 0: for ever
        script = (
            f"import gscthreads; from gscthreads import Sync, SyncConfig\n"
            f"run = Sync(SyncConfig(sites=['{small.SITE}'], store={place!r}, credentials=lambda: 'token'))\n"
            "run.start()\ninput()\n"
        )
        process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        silent.settimeout(30)
        with contextlib.closing(silent.accept()[0]):
            process.communicate(b"\n", timeout=30)
    assert process.returncode == 0


@pytest.mark.parametrize("lock", ["migrations", "runs"])
def test_a_halt_works_while_another_process_keeps_a_lock(lock, sim, server, url):
    with contextlib.closing(psycopg2.connect(url)) as other:
        other.cursor().execute("SELECT pg_advisory_xact_lock(%s)", (lock_key("public", lock),))
        with gscthreads.Sync(small.config(sim, url, DATES)) as run:
            run.start()
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid()" \
                      " AND query LIKE '%pg_try_advisory_xact_lock%' AND datname = current_database()"
            while not postgres_server._run(url, waiting):
                threading.Event().wait(0.01)
            halted(run)
    assert gscthreads.Sync(small.config(sim, url, DATES)).run().status == "complete"


def test_a_halt_breaks_off_a_long_statement_and_the_end_of_the_run_is_noted(sim, server, url):
    points, reached = seams.Seams(), threading.Event()

    def be_long(words):
        reached.set()
        store.inner._link.execute("SELECT pg_sleep(60)")

    points.at("store.publish.after", 3, be_long)
    store = seams.SeamStore(open_store(url), points)
    with gscthreads.Sync(small.config(sim, store, DATES)) as run:
        run.start()
        assert reached.wait(30)
        halted(run)
    assert postgres_server._run(url, "SELECT status FROM gsc_runs") == "halted"
    assert gscthreads.Sync(small.config(sim, url, DATES)).run().status == "complete"
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


@pytest.mark.parametrize("how", ["VACUUM", "VACUUM FULL", "ANALYZE"])
def test_the_tables_are_vacuumed_all_the_while(how, sim, url):
    """VACUUM FULL takes each table for itself, again and again: what meets it is done again."""
    with contextlib.closing(open_store(url)) as store:
        store.open()
    tables = [f"gsc_{name}" for name in ("run", "lease", "dataset", "day", "slice", "page", "fact", "stage", "lifetime",
                                         "quota")]
    rounds, ended, failed = threading.Semaphore(0), threading.Event(), []

    def vacuum():
        with contextlib.closing(psycopg2.connect(url)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            while not ended.is_set():
                for table in tables:
                    try:
                        cursor.execute(f"{how} {table}")
                    except psycopg2.errors.DeadlockDetected:  # it or we: both may be done again
                        pass
                    except psycopg2.Error as error:
                        failed.append(error)
                        ended.set()
                rounds.release()

    points = seams.Seams()
    for passage in range(2, 12):  # between two transactions: so that some begin while it is at work
        points.at("store.begin.before", passage, lambda words: rounds.acquire(timeout=30))
    values = {"rate_limit_enabled": True, "qpm_limit": 40_000, "batch_size": 1}
    thread = threading.Thread(target=vacuum)
    thread.start()
    try:
        assert sync(sim, url, points, **values).status == "complete"
    finally:
        ended.set()
        thread.join()
    assert not failed and points.passed["store.begin.before"] > 11
    small.assert_truth(sim, url, DATES)


# -- who lives


def test_a_run_that_lost_its_connection_is_not_taken_for_dead(sim, server, url):
    points, reached, go_on = seams.Seams(), threading.Event(), threading.Event()

    def wait_for_the_other(words):
        reached.set()
        assert go_on.wait(60)

    points.at("store.commit.after", 4, lambda words: server.cut(url))
    points.at("store.commit.after", 8, wait_for_the_other)  # connected anew by then
    points.at("store.begin.before", 12, lambda words: server.cut(url))
    values = {"batch_size": 1, "reports": ["page"]}
    with gscthreads.Sync(small.config(sim, seams.SeamStore(open_store(url), points), DATES, **values)) as first:
        first.start()
        assert reached.wait(30)
        second = gscthreads.Sync(small.config(sim, url, DATES[:2], reports=["page_query"]))
        assert second.run().status == "complete"
        server.cut(url)  # and now nothing connects anew before the next one looks
        third = gscthreads.Sync(small.config(sim, url, DATES[:2])).run()
        assert {each.report: each.status for each in third.datasets} == {"page": "parked", "page_query": "complete"}
        go_on.set()
        assert first.wait(60).status == "complete"
    assert gscthreads.Sync(small.config(sim, url, DATES)).run().status == "complete"
    small.assert_truth(sim, url, DATES)


PAGE = gscthreads.Dataset(small.SITE, gscthreads.Report("page", ("page",)), "web")


@contextlib.contextmanager
def transaction(store):
    store.begin(Halt())
    yield
    store.commit()


def claimed(store):
    """Whether *store*, as a run of its own, gets the lease."""
    with transaction(store):
        store.start_run("{}")
        return not store.claim([PAGE])


@pytest.fixture
def stores(url):
    """Three processes' stores, as it were."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(contextlib.closing(open_store(url))) for _ in range(3)]
        for store in made:
            store.open()
        yield made


def change(url, what):
    """Change the line of the first run."""
    postgres_server._run(url, f"UPDATE gsc_run SET {what} WHERE id = 1")


def test_a_new_connection_is_noted_with_the_next_transaction_that_is_committed(server, url, stores):
    first, reader, _ = stores
    assert claimed(first)
    server.cut(url)
    first.begin(Halt())
    first.rollback()
    with transaction(first):
        pass
    reader.begin(Halt())  # connects anew as well
    assert reader.read("SELECT r.backend_pid = a.pid FROM gsc_run r LEFT JOIN pg_stat_activity a"
                       " ON a.pid = r.backend_pid AND a.backend_start = r.backend_start") == [(True,)]


def test_without_a_connection_a_run_is_dead_when_it_has_not_come_back_for_long(server, url, stores):
    first, second, third = stores
    assert claimed(first)
    change(url, "machine = 'another one'")
    change(url, f"beat = beat - interval '{postgres.LEASE_SECONDS - 5} seconds'")
    assert not claimed(second)  # it is connected
    server.cut(url)
    change(url, "beat = clock_timestamp()")
    assert not claimed(second)  # the connection may have been cut
    change(url, f"beat = beat - interval '{postgres.BACK_SECONDS + 1} seconds'")
    server.stop()
    server.start()
    assert not claimed(third)  # nobody can have come back earlier
    with transaction(first):
        pass


def test_who_is_not_connected_and_silent_is_dead(server, url, stores, monkeypatch):
    first, second, third = stores
    assert claimed(first)
    change(url, "machine = 'another one'")
    monkeypatch.setattr(postgres, "BACK_SECONDS", -1.0)  # as if that long had gone by
    assert not claimed(second)  # connected
    server.cut(url)
    assert claimed(third)
    with pytest.raises(LeaseLost, match="took this one for dead"):
        first.begin(Halt())


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
