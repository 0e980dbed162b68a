"""A halt reaches blocked sockets: every TCP connection of our sessions can be shut down from another thread.

``requests`` cannot interrupt a thread that is blocked in connect, in a TLS handshake or in a read, and closing a
session wakes nobody.  What does wake it is ``shutdown(SHUT_RDWR)`` on the TCP socket.  So the urllib3 connection
classes used here keep a duplicate of each raw socket from before it connects (TLS wrapping detaches the original).

urllib3 (1.21 to 2.x) is extended only at ``pool_classes_by_scheme``, ``ConnectionCls`` and ``_new_conn``.
"""

from __future__ import annotations

import contextlib
import http.client
import http.cookiejar
import io
import math
import socket
import sys
import threading
import time
import weakref
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Type, cast

import requests
import urllib3.connection
import urllib3.exceptions
import urllib3.util.connection
from requests.adapters import HTTPAdapter

#: Which Watch the calling thread is in.  Only set inside ``SocketRegistry.deadline``.
_thread = threading.local()


class _Guard:
    """A duplicate of one TCP socket, by which another thread can shut the connection down.

    It lives as long as it is referred to: by the open connection, and by the request that uses it (a
    ``Connection: close`` answer is read after its connection object was closed)."""

    def __init__(self, sock: socket.socket, home: Optional[SocketRegistry]) -> None:
        self._dup = sock.dup()
        self.home = home
        self.registry = home
        self.watch: Optional[Watch] = None

    def shut(self) -> None:
        with contextlib.suppress(OSError):  # not connected, or the peer was faster
            self._dup.shutdown(socket.SHUT_RDWR)

    def __del__(self) -> None:
        if hasattr(self, "_dup"):
            self._dup.close()


class Watch:
    """One HTTP request of one thread: its deadline and the sockets it used.  Made by ``SocketRegistry.deadline``."""

    def __init__(self, registry: SocketRegistry, seconds: float) -> None:
        self.registry = registry
        self.seconds = seconds
        self.expired = False  #: True once the deadline has passed and the sockets were shut
        self.due = registry.clock() + seconds
        self.guards: List[_Guard] = []

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The time spent inside does not count: for work between two reads (decoding, waiting for a full queue)."""
        left = self.due - self.registry.clock()
        self.due = math.inf
        try:
            yield
        finally:
            self.due = self.registry.clock() + left


class SocketRegistry:
    """All sockets of one run.  Thread-safe; the lock is never held while anything blocks."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._lock = threading.Lock()  # guards everything below, and guard.watch / watch.expired
        self._aborted = False
        self._guards: "weakref.WeakSet[_Guard]" = weakref.WeakSet()
        self._watches: "set[Watch]" = set()

    @property
    def aborted(self) -> bool:
        return self._aborted

    def abort(self) -> None:
        """Shut all sockets now, and let every later connect or request fail at once.  Idempotent, never blocks."""
        with self._lock:
            self._aborted = True
            for guard in list(self._guards):
                if guard.registry is self:
                    guard.shut()

    @contextlib.contextmanager
    def deadline(self, seconds: float) -> Iterator[Watch]:
        """Watch the calling thread's request: ``expire`` shuts its sockets once *seconds* have passed.

        A byte a second never trips a read time-out.  Nothing expires by itself: somebody has to call ``expire``.
        """
        watch = Watch(self, seconds)
        outer = getattr(_thread, "watch", None)
        with self._lock:
            self._watches.add(watch)
        _thread.watch = watch
        try:
            yield watch
        finally:
            _thread.watch = outer
            with self._lock:
                self._watches.discard(watch)
                for guard in watch.guards:
                    if guard.watch is watch:
                        guard.watch, guard.registry = None, guard.home
                watch.guards.clear()

    def expire(self, now: float) -> int:
        """Shut the sockets of requests overdue at *now* (this registry's clock); how many requests that were."""
        with self._lock:
            overdue = [watch for watch in self._watches if watch.due <= now and not watch.expired]
            for watch in overdue:
                watch.expired = True
                for guard in watch.guards:
                    if guard.watch is watch:
                        guard.shut()
        return len(overdue)

    def admit(self, guard: _Guard, watch: Optional[Watch]) -> None:
        """Take *guard* in; ConnectionAbortedError when it must not be used any more."""
        with self._lock:
            if self._aborted or (watch is not None and watch.expired):
                raise ConnectionAbortedError("halted" if self._aborted else "deadline passed")
            guard.registry = self
            self._guards.add(guard)
            if watch is not None:
                guard.watch = watch
                if guard not in watch.guards:
                    watch.guards.append(guard)


class _Lines(io.BufferedReader):
    """What an answer is read from; a line has an end."""

    def readline(self, size: Optional[int] = -1) -> bytes:
        if size is not None and size >= 0:
            return super().readline(size)
        line = super().readline(_MAX_LINE + 1)
        if len(line) > _MAX_LINE:
            raise http.client.LineTooLong("chunk length")
        return line


class _Answer(http.client.HTTPResponse):
    """urllib3 believes a chunk length of -1 and reads on to the end of the connection, and so do some of its versions
    with the line that holds the length: no limit of ours would hold."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fp: Any = _Lines(cast(Any, self.fp).detach())

    def _safe_read(self, amt: int) -> bytes:
        if amt < 0:
            raise http.client.IncompleteRead(b"")
        return bytes(super()._safe_read(amt))  # type: ignore[misc]


#: Most bytes of the line that holds a chunk's length, as in http.client.
_MAX_LINE = 65536


class _GuardedConnection:
    """Mixed into a urllib3 connection class by ``_guarded``."""

    response_class = _Answer
    home: Optional[SocketRegistry] = None
    guard: Optional[_Guard] = None
    replaces_connect = False  # True when the base class only adds a plain TCP connect

    def _new_conn(self) -> Any:
        if self.replaces_connect:
            return self._connect_any()
        sock = super()._new_conn()  # type: ignore[misc]  # a SOCKS proxy: guarded from here on
        try:
            self._admit(_Guard(sock, self.home))
        except OSError:
            sock.close()
            raise
        return sock

    def putrequest(self, *args: Any, **kwargs: Any) -> Any:
        if self.guard is not None:  # a kept-alive connection: now it is this thread's
            self._admit(self.guard)
        return super().putrequest(*args, **kwargs)  # type: ignore[misc]

    def close(self) -> None:
        super().close()  # type: ignore[misc]
        self.guard = None

    def _admit(self, guard: _Guard) -> None:
        watch: Optional[Watch] = getattr(_thread, "watch", None)
        registry = watch.registry if watch is not None else self.home
        if registry is not None:
            registry.admit(guard, watch)
        self.guard = guard

    def _connect_any(self) -> socket.socket:
        """What urllib3's ``_new_conn`` does, but a halt also reaches a connect that gets no answer."""
        conn: Any = self
        host = getattr(conn, "_dns_host", conn.host).strip("[]")
        try:
            family = urllib3.util.connection.allowed_gai_family()
            addresses = socket.getaddrinfo(host, conn.port, family, socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise urllib3.exceptions.NewConnectionError(conn, "host name not found") from error
        for left, (family, kind, protocol, _, address) in zip(reversed(range(len(addresses))), addresses):
            sock = socket.socket(family, kind, protocol)
            try:
                self._connect(sock, address)
                sys.audit("http.client.connect", self, host, conn.port)
                return sock
            except OSError as error:  # raised from here, as a variable that outlives it would make a reference cycle
                sock.close()
                self.guard = None
                if not left:
                    if isinstance(error, socket.timeout):
                        raise urllib3.exceptions.ConnectTimeoutError(conn, str(error)) from error
                    raise urllib3.exceptions.NewConnectionError(conn, str(error)) from error
        raise urllib3.exceptions.NewConnectionError(conn, "host has no address")

    def _connect(self, sock: socket.socket, address: Any) -> None:
        conn, guard = cast(Any, self), _Guard(sock, self.home)
        self._admit(guard)
        for option in conn.socket_options or ():
            sock.setsockopt(*option)
        if conn.timeout is None or isinstance(conn.timeout, (int, float)):  # else: the "system default" marker
            sock.settimeout(conn.timeout)
        sock.connect(address)
        self._admit(guard)  # again: a halt just before connect() has shut nothing


def _guarded(pools: Mapping[str, Any], home: Optional[SocketRegistry]) -> Dict[str, Any]:
    """Pool classes like *pools* (by scheme) whose connections are guarded; unchanged where they are already."""
    derived = {}
    for scheme, pool in pools.items():
        base: Type[Any] = pool.ConnectionCls
        if not issubclass(base, _GuardedConnection):
            plain = getattr(base, "_new_conn", None) is urllib3.connection.HTTPConnection._new_conn
            names = {"home": home, "replaces_connect": plain}
            base = type(base.__name__, (_GuardedConnection, base), names)
            pool = type(pool.__name__, (pool,), {"ConnectionCls": base})
        derived[scheme] = pool
    return derived


class _GuardedAdapter(HTTPAdapter):
    """Guards all its connections.  No retries of its own: each would be a call the quota does not know of."""

    def __init__(self, home: Optional[SocketRegistry], *, pool_size: int, ca_bundle: Optional[str] = None) -> None:
        self._home = home
        self._ca_bundle = ca_bundle
        super().__init__(pool_connections=4, pool_maxsize=pool_size, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        manager: Any = self.poolmanager
        manager.pool_classes_by_scheme = _guarded(manager.pool_classes_by_scheme, self._home)

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        manager: Any = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = _guarded(manager.pool_classes_by_scheme, self._home)
        return manager

    def close(self) -> None:
        # urllib3 2.x leaves open connections to the garbage collector, which may come late.
        managers: List[Any] = [self.poolmanager, *self.proxy_manager.values()]
        pools = [manager.pools.get(key) for manager in managers for key in manager.pools.keys()]
        super().close()
        for pool in pools:
            if getattr(pool, "pool", None) is not None:
                pool.close()

    def send(self, request: Any, *args: Any, **kwargs: Any) -> requests.Response:
        # An empty CURL_CA_BUNDLE turns checks off in old versions, and the environment would outrank our bundle.
        kwargs["verify"] = self._ca_bundle or kwargs.get("verify") or True
        return super().send(request, *args, **kwargs)


class _AdoptedAdapter(_GuardedAdapter):
    """For a session of the user's: our watched requests go our way, all others as they did before."""

    def __init__(self, plain: HTTPAdapter) -> None:
        self._plain = plain
        super().__init__(None, pool_size=64)  # one session for all worker threads

    def send(self, request: Any, *args: Any, **kwargs: Any) -> requests.Response:
        if getattr(_thread, "watch", None) is None:
            return self._plain.send(request, *args, **kwargs)
        return HTTPAdapter.send(self, request, *args, **kwargs)

    def close(self) -> None:
        super().close()
        self._plain.close()


def _as_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """An "auth" that does nothing, lest requests replace our Authorization header by what it finds in ~/.netrc."""
    return request


def new_session(registry: SocketRegistry, *, ca_bundle: Optional[str] = None) -> requests.Session:
    """A session for one thread whose sockets *registry* can shut.  TLS is always verified, against *ca_bundle* (PEM
    file) when given; proxies come from the environment as usual; nothing is retried."""
    session = requests.Session()
    adapter = _GuardedAdapter(registry, pool_size=2, ca_bundle=ca_bundle)
    session.auth = _as_is
    session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))  # none are needed
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def adopt_session(session: requests.Session, registry: SocketRegistry, api_root: str) -> None:
    """Make the user's own *session* reachable by a halt, for requests to *api_root* inside ``registry.deadline``.

    Its other requests go on as before; a special adapter is left alone.  Call it before threads use the session.  The
    registry is found by the running deadline, so that several runs can share a session."""
    prefix = api_root.rstrip("/") + "/"
    adapter = session.get_adapter(prefix)
    if type(adapter) is HTTPAdapter:
        session.mount(prefix, _AdoptedAdapter(adapter))
