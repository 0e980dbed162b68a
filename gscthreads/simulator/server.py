"""Sockets and HTTP/1.1: a threading server on the loopback interface."""

from __future__ import annotations

import logging
import socket
import struct
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from typing import Any, Callable, Dict, Iterable, List, Optional, Set, Tuple

from .damage import Cut

log = logging.getLogger(__name__)

#: Longest request body read.
MAX_BODY = 64 << 20

REASONS = {status.value: status.phrase for status in HTTPStatus}


#: Answers a request: the connection, method, target, headers (names in lower case), body.
Handle = Callable[["Handler", str, str, Dict[str, str], bytes], None]


class Hold:
    """Where hanging answers wait until they are released or the server stops."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._generation = 0
        self.stopped = False
        self.waiting = 0

    def wait(self) -> None:
        """Wait for the next release."""
        with self._changed:
            generation = self._generation
            self.waiting += 1
            while not self.stopped and generation == self._generation:
                self._changed.wait()
            self.waiting -= 1

    def pause(self, seconds: float) -> bool:
        """Sleep, but not beyond the server's life; returns whether it stopped."""
        until = time.monotonic() + seconds
        with self._changed:
            while not self.stopped:
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return self.stopped

    def release(self) -> int:
        """Let everybody go on who waits now; returns how many."""
        with self._changed:
            self._generation += 1
            self._changed.notify_all()
            return self.waiting

    def stop(self) -> None:
        """Let everybody go on, now and from now on."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()


class Server(ThreadingMixIn, HTTPServer):
    """One thread per connection; stopping it ends every connection and thread."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 512

    def __init__(self, port: int, handle: Handle, hold: Hold) -> None:
        self.handle = handle
        self.hold = hold
        self._lock = threading.Lock()
        self._open: Set[socket.socket] = set()
        self._serving: Set[threading.Thread] = set()
        super().__init__(("127.0.0.1", port), Handler)

    def server_bind(self) -> None:
        """Bind, without the name look-up of HTTPServer, which may take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on its own thread."""
        thread = threading.Thread(target=self._serve, args=(request, client_address), daemon=True,
                                  name="gsc-simulator-connection")
        with self._lock:
            self._open.add(request)
            self._serving.add(thread)
        thread.start()

    def _serve(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open.discard(request)
                self._serving.discard(threading.current_thread())

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may go away at any time: that's no error.  Anything else is, and is logged."""
        problem = sys.exc_info()[1]
        if not isinstance(problem, (OSError, ValueError)) and not self.hold.stopped:
            log.error("simulator error", exc_info=problem)

    def finish(self, timeout: float) -> None:
        """End all connections and wait for their threads."""
        with self._lock:
            connections, threads = list(self._open), list(self._serving)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it was gone already
        until = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, hands them to ``Server.handle``, writes what that says."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_POST(self) -> None:
        """Any method: whoever handles it decides."""
        body = self._read_body()
        headers: Dict[str, str] = {name.lower(): value for name, value in self.headers.items()}
        self.server.handle(self, self.command, self.path, headers, body)

    do_GET = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = do_POST

    def _read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return self._read_chunks()
        length = self.headers.get("Content-Length") or "0"
        if not length.isdigit() or int(length) > MAX_BODY:
            self.close_connection = True
            raise ConnectionAbortedError(f"Content-Length {length}")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionAbortedError("the request ended early")
        return body

    def _read_chunks(self) -> bytes:
        body = b""
        while True:
            size = int(self.rfile.readline(1_000).split(b";")[0] or b"0", 16)
            if len(body) + size > MAX_BODY:
                raise ConnectionAbortedError("the request is too long")
            body += self.rfile.read(size)
            line = self.rfile.readline(1_000)
            if size == 0:
                while line.strip():
                    line = self.rfile.readline(1_000)
                return body

    def handle_one_request(self) -> None:
        """Serve one request; whatever goes wrong with the connection ends it silently."""
        try:
            super().handle_one_request()
        except (OSError, ValueError):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the journal has it all."""

    # ---- what whoever handles a request may do ----

    def head(self, status: int, headers: Iterable[Tuple[str, str]]) -> bytes:
        """Status line and headers."""
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}", f"Date: {self.date_time_string()}",
                 "Server: ESF", *(f"{name}: {value}" for name, value in headers)]
        if self.close_connection:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")

    def send(self, data: bytes) -> None:
        """Write bytes to the client."""
        self.connection.sendall(data)

    def send_whole(self, status: int, headers: Iterable[Tuple[str, str]], body: bytes,
                   length: Optional[int] = None) -> None:
        """Send an answer at once; ``length`` is what Content-Length claims."""
        head = self.head(status, [*headers, ("Content-Length", str(len(body) if length is None else length))])
        if self.command == "HEAD" or status == 204:
            body = b""
        if len(body) < 65_536:
            self.send(head + body)
        else:
            self.send(head)
            self.send(body)

    def send_stream(self, status: int, headers: List[Tuple[str, str]], pieces: Iterable[bytes],
                    drip: Optional[float] = None) -> None:
        """Send an answer as it is made: chunked, or until the close for HTTP/1.0 clients.

        ``drip`` is the pause after each single byte.  A ``Cut`` from the pieces ends it the way it says.
        """
        chunked = self.request_version != "HTTP/1.0"
        if not chunked:
            self.close_connection = True
        self.send(self.head(status, headers + ([("Transfer-Encoding", "chunked")] if chunked else [])))
        try:
            for data in pieces:
                if drip is not None:
                    self._drip(data, chunked, drip)
                elif data:
                    self.send(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
        except Cut as cut:
            self.cut(cut.how, chunked)
            return
        if chunked:
            self.send(b"0\r\n\r\n")

    def _drip(self, data: bytes, chunked: bool, interval: float) -> None:
        for at in range(len(data)):
            self.send(b"1\r\n%b\r\n" % data[at:at + 1] if chunked else data[at:at + 1])
            if self.server.hold.pause(interval):
                raise Cut("reset")

    def cut(self, how: str, chunked: bool) -> None:
        """End the connection: by a reset, after a stall, or by a close although more was promised."""
        self.close_connection = True
        if how == "stall":
            self.server.hold.wait()
        if how == "close":
            if chunked:
                self.send(b"1000\r\nshort")
            return
        self.reset()

    def reset(self) -> None:
        """Make the client see a connection reset, not an orderly end."""
        self.close_connection = True
        try:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass  # the client was faster
        self.rfile.close()
        self.connection.close()
