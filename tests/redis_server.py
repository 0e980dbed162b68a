"""A throw-away Redis for tests: the system's redis-server on a socket in a folder of its own."""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

import pytest

#: Set in CI: no server is a failure then, not a skip.
REQUIRED = "GSCTHREADS_REQUIRE_REDIS"


def needed(module):
    """Import *module*; skips (fails in CI) when it is not installed."""
    if os.environ.get(REQUIRED):
        return __import__(module)
    return pytest.importorskip(module, reason=f"{module} is not installed: pip install {module}")


redis = needed("redis")


class Server:
    """To be started from the main thread: it ends with the thread that started it."""

    def __init__(self):
        binary = shutil.which("redis-server") or shutil.which("valkey-server")
        if binary is None:
            raise FileNotFoundError("no redis-server: apt install redis-server")
        self._folder = tempfile.mkdtemp(prefix="gsct-redis-", dir="/tmp")  # a socket's path is short
        self.socket = os.path.join(self._folder, "socket")
        self._command = [binary, "--port", "0", "--unixsocket", self.socket, "--save", "", "--dir", self._folder,
                         "--logfile", os.path.join(self._folder, "log")]
        self.start()

    def start(self):
        """Start it (again) and wait until it answers."""
        self._process = subprocess.Popen(self._command, preexec_fn=die_with_parent, stdout=subprocess.DEVNULL)
        client = redis.Redis(unix_socket_path=self.socket)
        for _ in range(500):
            try:
                client.ping()
                client.close()
                return
            except redis.ConnectionError:
                assert self._process.poll() is None, "redis-server ended"
                threading.Event().wait(0.02)
        raise RuntimeError("redis-server does not answer")

    def url(self, number=0):
        """The database of that *number*, as redis-py takes it."""
        return f"unix://{self.socket}?db={number}"

    def broker(self, number=0):
        """The same as Celery takes it."""
        return f"redis+socket://{self.socket}?virtual_host={number}"

    def freeze(self):
        """Let it answer nothing, while connections stay open."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self._process.send_signal(signal.SIGCONT)

    def stop(self):
        self._process.kill()
        self._process.wait(20)

    def close(self):
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def die_with_parent():
    """For a process that must not outlive the test that started it."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def server():
    """A server of our own; skips (fails in CI) when there can't be one."""
    try:
        started = Server()
    except FileNotFoundError as error:
        if os.environ.get(REQUIRED):
            raise
        pytest.skip(str(error))
    atexit.register(started.close)
    return started
