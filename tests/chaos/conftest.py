"""Fixtures of the chaos tests."""

from __future__ import annotations

import gzip
import socket
import threading

import pytest

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/mixed; boundary=b\r\n"
_PACKED = gzip.compress(b"--b\r\nContent-Type: application/http\r\n\r\n" * 50)

#: What a server sends before it falls silent.
STALLS = {
    "status line": b"HTTP/1.",
    "header": _HEAD + b"X-Half: ",
    "gzip head": _HEAD + b"Content-Encoding: gzip\r\nContent-Length: 9999\r\n\r\n" + _PACKED[:5],
    "gzip middle": _HEAD + b"Content-Encoding: gzip\r\nContent-Length: 9999\r\n\r\n" + _PACKED[:-10],
    "chunk size": _HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n--b\r\n\r\n1",
}


class StallingServer:
    """Answers every request with the same bytes and then says nothing more."""

    def __init__(self, words: bytes) -> None:
        self._words = words
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections = []
        self.stalled = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True, name="stalling-server")
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            connection.recv(65536)
            connection.sendall(self._words)
            self.stalled += 1

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._connections:
            connection.close()


@pytest.fixture
def stalling_server():
    servers = []

    def make(where: str) -> StallingServer:
        servers.append(StallingServer(STALLS[where]))
        return servers[-1]

    yield make
    for server in servers:
        server.close()
