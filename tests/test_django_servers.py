"""The app in real servers: gunicorn, uWSGI (where it is installed) and runserver with its autoreload.

A request starts nothing, a sync in a view does what docs/django.md says, and a server that stops or reloads is not kept
by a sync that it runs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

from gscthreads.simulator import Simulator, Site

from tests import test_django

SECONDS = 30  # most that anything may take here
OURS = "gscthreads"


@pytest.fixture(scope="module")
def sim():
    with Simulator(sites=[Site(test_django.SITE, rows_per_day=150, pages=40)], seed=11) as simulator:
        yield simulator


@pytest.fixture
def project(tmp_path, sim):
    return test_django.Project(tmp_path, sim)


class Server:
    """A server process and what it has logged.  *sign* in its log tells where it listens."""

    def __init__(self, project, command, sign, **environment):
        self._process = subprocess.Popen(
            command, cwd=str(project.folder), universal_newlines=True, start_new_session=True, bufsize=1,
            env={**project.environment, "PYTHONUNBUFFERED": "1", "DJANGO_SETTINGS_MODULE": "project.settings",
                 "PROJECT_DEBUG": "1", **environment},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        self.lines, self._sign, self._port = [], sign, 0
        self._listens = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        if not self._listens.wait(SECONDS) or not self._port:
            self.stop(signal.SIGKILL)
            raise AssertionError(self.log)

    def _read(self):
        for line in self._process.stdout:
            self.lines.append(line)
            found = re.search(self._sign, line)
            if found and not self._port:
                self._port = int(found.group(1))
                self._listens.set()
        self._listens.set()

    @property
    def log(self):
        return "".join(self.lines)

    def get(self, path, status=200):
        """The text that *path* answers with *status*; tries again while nobody listens."""
        for _ in patiently():
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/{path}", timeout=SECONDS) as answer:
                    text, found = answer.read().decode(), answer.status
            except urllib.error.HTTPError as error:
                text, found = error.read().decode(), error.code
            except urllib.error.URLError as error:
                if isinstance(error.reason, ConnectionRefusedError):
                    continue
                raise
            assert found == status, f"{path}: {found} {text}\n{self.log}"
            return text

    def state(self):
        return json.loads(self.get("state/"))

    def stop(self, number=signal.SIGTERM):
        """Seconds until it has ended after a signal."""
        asked = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        try:
            self._process.wait(SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # what it may have left behind
            self._reader.join(SECONDS)
            self._process.stdout.close()
        return time.monotonic() - asked


def patiently():
    """Tries until SECONDS are over; then the test fails."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        yield
        time.sleep(0.05)
    raise AssertionError("too late")


def gunicorn(project, *options, **environment):
    if importlib.util.find_spec("gunicorn") is None:
        pytest.skip("gunicorn is not installed: pip install gunicorn")
    command = [sys.executable, "-m", "gunicorn", "--bind=127.0.0.1:0", "--workers=1", *options, "project.wsgi"]
    return Server(project, command, r"Listening at: http://127.0.0.1:(\d+)", **environment)


def uwsgi(project, *options, **environment):
    binary = shutil.which("uwsgi", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]))
    if binary is None:
        pytest.skip("uWSGI is not installed: pip install uwsgi (which compiles it)")
    command = [binary, "--http-socket=127.0.0.1:0", "--module=project.wsgi", "--master", "--need-app",
               "--die-on-term", *options]
    if sys.prefix != sys.base_prefix:
        command.append(f"--virtualenv={sys.prefix}")
    return Server(project, command, r"bound to TCP address 127.0.0.1:(\d+)", **environment)


def runserver(project, **environment):
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Server(project, [sys.executable, "manage.py", "runserver", f"127.0.0.1:{port}"],
                  r"server at http://127.0.0.1:(\d+)/", **environment)


KINDS = {
    "gunicorn": (gunicorn,),
    "gunicorn preloaded": (gunicorn, "--preload"),
    "gunicorn with threads": (gunicorn, "--threads=2"),
    "uwsgi": (uwsgi,),
    "uwsgi with threads": (uwsgi, "--enable-threads"),
    "runserver": (runserver,),
}


@pytest.fixture(params=sorted(KINDS))
def serve(request, project):
    """Starts a server of each kind for the project; it is stopped with the test."""
    make, *options = KINDS[request.param]
    with contextlib.ExitStack() as stack:
        def start(**environment):
            made = make(project, *options, **environment)
            stack.callback(made.stop)
            return made

        start.kind = request.param
        with open(str(project.folder / "project" / "settings.py"), "a") as settings:
            settings.write('\nLOGGING = {"version": 1, "handlers": {"stderr": {"class": "logging.StreamHandler"}},'
                           ' "root": {"handlers": ["stderr"]}, "disable_existing_loggers": False}\n')
        project.manage("migrate", "-v0")
        yield start


@contextlib.contextmanager
def slow(sim):
    """A sync of all 16 months takes minutes."""
    sim.options.update({"latency": 0.5, "lanes": 1})
    try:
        yield
    finally:
        sim.options.update({"latency": 0.0, "lanes": 4})


def ours(state):
    return [name for name in state["threads"] if OURS in name]


def published(project):
    return project.read("SELECT count(*) FROM gsc_days WHERE status = 'final'")[0][0]


def runs(project):
    return [status for status, in project.read("SELECT status FROM gsc_runs ORDER BY run_id")]


def goes_on(project):
    """The next sync is not kept by one that ended with its process."""
    out, _ = project.manage("gsc_sync", "--start=-6d", "--end=-3d", "--json")
    assert json.loads(out.splitlines()[-1])["status"] == "complete"
    assert "running" not in runs(project)


def test_requests_start_nothing_and_a_sync_in_a_view_leaves_nothing(serve, sim):
    server = serve()
    first = server.state()
    for path in ("read/", "admin/login/", "admin/gscthreads/day/", "state/"):  # the admin sends us to log in
        server.get(path)
    second = server.state()
    if serve.kind.startswith(("gunicorn", "uwsgi")):
        assert second["pid"] == first["pid"] and second["signals"] == first["signals"]
    assert ours(first) == ours(second) == []
    assert server.get("sync-now/") == "complete"
    assert json.loads(server.get("read/")) == {"days": 4}
    third = server.state()
    assert ours(third) == [] and third["signals"] == second["signals"]
    server.stop()  # its log is whole
    assert ("uWSGI runs without threads" in server.log) == first["threads_stand_still"], server.log


def test_atomic_requests_refuse_a_sync_in_a_view_that_is_not_exempt(serve):
    server = serve(PROJECT_ATOMIC_REQUESTS="1")
    said = server.get("sync-now/", 409)
    assert "ConfigError" in said and "@transaction.non_atomic_requests" in said
    assert json.loads(server.get("read/")) == {"days": 0} and ours(server.state()) == []
    assert server.get("sync-outside/") == "complete"
    assert json.loads(server.get("read/")) == {"days": 4}


def test_a_run_that_a_view_left_behind_goes_on_between_requests_and_keeps_no_server(serve, project, sim):
    server = serve()
    if server.state()["threads_stand_still"]:
        pytest.skip("this uWSGI needs enable-threads")
    with slow(sim):
        server.get("start/?start=16m")
        for _ in patiently():
            if published(project):  # nobody asks the server anything meanwhile
                break
        assert ours(server.state())
        assert server.stop() < 5
    goes_on(project)


def test_gunicorn_ends_a_worker_whose_view_syncs_too_long_and_nothing_is_lost(project, sim):
    project.manage("migrate", "-v0")
    server = gunicorn(project, "--timeout=1")
    try:
        before = server.state()["pid"]
        with slow(sim):
            with pytest.raises((OSError, AssertionError)):  # cut off, or 500: it depends on gunicorn's version
                server.get("sync-now/")
        assert server.state()["pid"] != before
    finally:
        server.stop()
    goes_on(project)


def test_autoreload_is_neither_delayed_nor_broken_by_a_running_sync(project, sim):
    project.manage("migrate", "-v0")
    server = runserver(project)
    views = project.folder / "shop" / "views.py"
    try:
        with slow(sim):
            before = json.loads(server.get("start/?start=16m"))["pid"]
            for _ in patiently():
                if published(project):
                    break
            assert ours(server.state())
            for _ in patiently():
                views.touch()  # again until the reloader has its first look behind it, and not after it has reloaded
                if "changed, reloading" in server.log:
                    break
            asked = time.monotonic()
            for _ in patiently():
                with contextlib.suppress(OSError, ValueError):  # cut off by the reload
                    after = server.state()
                    if after["pid"] != before:
                        break
            assert time.monotonic() - asked < 15, server.log  # the sync would take minutes
            assert ours(after) == [], "a reloaded process starts nothing by itself"
            with pytest.raises(ProcessLookupError):
                os.kill(before, 0)
            assert json.loads(server.get("read/"))["days"] >= 0
            server.get("start/?start=16m")  # the run of the process before holds nothing
            for _ in patiently():
                if len(runs(project)) == 2:
                    break
    finally:
        server.stop()
    goes_on(project)
    first, second, last = runs(project)
    assert {first, second} <= {"halted", "killed"} and last == "complete"
