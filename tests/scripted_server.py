"""A server on a real socket that does whatever a test's script says."""

from __future__ import annotations

import contextlib
import socket
import threading

GUARD = 20.0  # seconds after which a test that hangs fails; nothing is asserted about speed


class ScriptedServer:
    """``script(connection, request, server)`` answers each request; False from it closes the connection.

    A request is what ``read`` says: here the bytes up to the empty line.  Counts connections.
    """

    def __init__(self, script):
        self.script = script
        self.connections = 0
        self.reached = threading.Semaphore(0)  # released by scripts once the client is where it will hang
        self.done = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                if self.done.is_set():
                    connection.close()
                    return
                self.connections += 1
                self.threads.append(threading.Thread(target=self.serve, args=(connection,), daemon=True))
                self.threads[-1].start()

    def serve(self, connection):
        with connection, contextlib.suppress(OSError):
            connection.settimeout(GUARD)
            while not self.done.is_set():
                request = self.read(connection)
                if request is None or self.script(connection, request, self) is False:
                    return

    def read(self, connection):
        """The next request, None when the client has gone."""
        request = b""
        while b"\r\n\r\n" not in request:
            data = connection.recv(65536)
            if not data:
                return None
            request += data
        return request

    def settle(self):
        """Wait until all connections so far are closed on this side."""
        for thread in self.threads[1:]:
            thread.join(GUARD)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.done.set()
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()  # wakes accept()
        self.listener.close()
        for thread in self.threads:
            thread.join(GUARD)
