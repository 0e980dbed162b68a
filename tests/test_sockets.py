"""sockets: real sockets that hang in every way, and abort() or expire() wakes whoever waits for them.

Time limits here are failure guards: nothing is asserted about speed.
"""

import contextlib
import datetime as dt
import gc
import gzip
import os
import socket
import ssl
import sys
import threading

import pytest
import requests
import urllib3
from requests.adapters import HTTPAdapter

from gscthreads.sockets import SocketRegistry, adopt_session, new_session
from tests.scripted_server import GUARD, ScriptedServer

LINUX = sys.platform.startswith("linux")


class Server(ScriptedServer):
    """Without *read_request* the script is asked before anything was."""

    def __init__(self, script, read_request=True):
        self.read_request = read_request
        super().__init__(script)

    def read(self, connection):
        return super().read(connection) if self.read_request else b""


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answer_ok(connection, request, server):
    connection.sendall(OK)


def hang_at(prefix):
    def script(connection, request, server):
        connection.sendall(prefix)
        server.reached.release()
        server.done.wait()
        return False

    return script


def drip(prefix, unit):
    """A byte now and then, which no read time-out ever notices."""

    def script(connection, request, server):
        connection.sendall(prefix)
        server.reached.release()
        while not server.done.wait(0.02):
            connection.sendall(unit)
        return False

    return script


PACKED = gzip.compress(bytes(100_000))
HANGS = {
    "no answer": hang_at(b""),
    "half a status line": hang_at(b"HTTP/1.1 20"),
    "dripping header": drip(b"HTTP/1.1 200 OK\r\nX: ", b"y"),
    "dripping body": drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"y"),
    "dripping chunks": drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\ny\r\n"),
    "dripping body, closing": drip(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"y"),
    "stalled gzip": hang_at(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(PACKED) + PACKED[:50]
    ),
}


class Worker(threading.Thread):
    """Gets *url* within a deadline in a thread of its own; ``error`` is what came of it."""

    def __init__(self, registry, url, session=None, watched=True, **options):
        super().__init__(daemon=True)
        self.registry, self.url, self.session, self.watched, self.options = registry, url, session, watched, options
        self.error = self.watch = None
        self.in_deadline = threading.Event()
        self.start()

    def run(self):
        session = self.session or new_session(self.registry)
        try:
            with contextlib.ExitStack() as stack:
                if self.watched:
                    self.watch = stack.enter_context(self.registry.deadline(100.0))
                    self.in_deadline.set()
                with session.get(self.url, stream=True, timeout=(GUARD, GUARD), **self.options) as response:
                    for _ in response.raw.stream(1000, decode_content=False):
                        pass
        except Exception as error:
            self.error = error
        if self.session is None:
            session.close()

    def ended(self):
        self.join(GUARD / 2)
        return not self.is_alive()


def open_files():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def no_file_descriptor_leaks():
    if not LINUX:
        yield
        return
    before = open_files()
    yield
    assert open_files() <= before


@pytest.fixture
def clock():
    class Clock:
        now = 1000.0

        def __call__(self):
            return self.now

    return Clock()


@pytest.fixture
def registry(clock):
    return SocketRegistry(clock=clock)


@pytest.mark.parametrize("hang", HANGS)
def test_abort_wakes_every_worker(registry, hang):
    with Server(HANGS[hang]) as server:
        workers = [Worker(registry, server.url) for _ in range(3)]
        for _ in workers:
            assert server.reached.acquire(timeout=GUARD)
        registry.abort()
        assert all([worker.ended() for worker in workers])
        # http.client takes the end of the connection for the end of header or body, urllib3 1.x for that of any body
        # that isn't chunked; body.py doesn't.
        if hang in ("no answer", "half a status line", "dripping chunks"):
            assert all(worker.error is not None for worker in workers)


@pytest.mark.parametrize("hang", HANGS)
def test_expire_wakes_only_the_overdue(registry, clock, hang):
    with Server(HANGS[hang]) as server:
        worker = Worker(registry, server.url)
        assert server.reached.acquire(timeout=GUARD)
        assert registry.expire(clock.now + 99.9) == 0
        assert worker.is_alive()
        assert registry.expire(clock.now + 100.0) == 1
        assert worker.ended()
        assert worker.watch.expired
        assert registry.expire(clock.now + 1000.0) == 0
        assert not registry.aborted


def test_abort_reaches_sessions_without_a_deadline(registry):
    with Server(HANGS["no answer"]) as server:
        worker = Worker(registry, server.url, watched=False)
        assert server.reached.acquire(timeout=GUARD)
        registry.abort()
        assert worker.ended()
        assert worker.error is not None


def hang_in_handshake(connection, request, server):
    server.reached.release()
    server.done.wait()
    return False


def test_abort_during_tls_handshake(registry):
    with Server(hang_in_handshake, read_request=False) as server:
        worker = Worker(registry, f"https://127.0.0.1:{server.port}")
        assert server.reached.acquire(timeout=GUARD)
        registry.abort()
        assert worker.ended()
        assert isinstance(worker.error, requests.ConnectionError)


def _certificate(path):
    """A self-signed certificate for 127.0.0.1 as one PEM file with its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    today = dt.datetime(2020, 1, 1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today)
        .not_valid_after(today + dt.timedelta(days=36500))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    pem = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(certificate.public_bytes(encoding) + pem)
    return str(path)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return _certificate(tmp_path_factory.mktemp("tls") / "server.pem")


@contextlib.contextmanager
def tls_server(certificate, script):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def serve(connection, _, server):
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(65536)
            script(secure, b"", server)
        return False

    with Server(serve, read_request=False) as server:
        server.url = server.url.replace("http", "https")
        yield server


def test_abort_of_a_read_over_tls(registry, certificate):
    with tls_server(certificate, HANGS["dripping body"]) as server:
        with new_session(registry, ca_bundle=certificate) as session:
            worker = Worker(registry, server.url, session)
            assert server.reached.acquire(timeout=GUARD)
            registry.abort()
            assert worker.ended()
            assert worker.error is not None


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_tls_is_always_verified(registry, certificate, monkeypatch, name, tmp_path):
    def script(connection, request, server):
        connection.sendall(OK)

    for other in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(other, raising=False)
    with tls_server(certificate, script) as server:
        monkeypatch.setenv(name, "")
        with new_session(registry) as session:
            session.verify = False
            with pytest.raises(requests.exceptions.SSLError):
                session.get(server.url, timeout=GUARD)
        other = _certificate(tmp_path / "other.pem")
        monkeypatch.setenv(name, other)  # an explicit bundle outranks the environment
        with new_session(registry, ca_bundle=certificate) as session:
            assert session.get(server.url, timeout=GUARD).text == "ok"
        monkeypatch.setenv(name, certificate)
        with new_session(registry) as session:
            assert session.get(server.url, timeout=GUARD).text == "ok"


def _pending_connects(port):
    with open("/proc/net/tcp") as table:
        return sum(f":{port:04X} 02 " in line for line in table)  # 02: SYN_SENT


@pytest.mark.skipif(not LINUX, reason="reads /proc, and other systems need not wake a connect")
@pytest.mark.parametrize("how", ["abort", "expire"])
def test_a_connect_without_answer_is_woken(registry, clock, how):
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        while not _pending_connects(port):  # fill the backlog: from then on the kernel ignores us
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        fillers = _pending_connects(port)
        worker = Worker(registry, f"http://127.0.0.1:{port}")
        while _pending_connects(port) == fillers and worker.is_alive():
            pass
        registry.abort() if how == "abort" else registry.expire(clock.now + 100)
        assert worker.ended()
        assert isinstance(worker.error, requests.ConnectionError)


@pytest.mark.parametrize("adopted", [False, True])
@pytest.mark.parametrize("size", [b"-1\r\n", b"-5\r\n", b"-0x1\r\n", b"5;" + b"x" * 70_000, b"5" * 70_000])
def test_chunks_of_odd_lengths_are_not_read_without_end(registry, size, adopted):
    """urllib3 would take everything up to the end of the connection for one chunk, or one line."""

    def script(connection, request, server):
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + size + bytes(100_000))
        server.done.wait()  # whoever reads on waits for this
        return False

    with Server(script) as server, requests.Session() if adopted else new_session(registry) as session:
        if adopted:
            adopt_session(session, registry, server.url)
        worker = Worker(registry, server.url, session)
        assert worker.ended()
        assert isinstance(worker.error, urllib3.exceptions.HTTPError), repr(worker.error)


def test_after_abort_nothing_connects(registry):
    with Server(answer_ok) as server, new_session(registry) as session:
        assert session.get(server.url, timeout=GUARD).text == "ok"
        registry.abort()
        registry.abort()
        assert registry.aborted
        for other in (session, new_session(registry)):
            with pytest.raises(requests.ConnectionError):
                other.get(server.url, timeout=GUARD)
            other.close()
        assert server.connections == 1


def test_after_its_deadline_a_request_connects_no_more(registry, clock):
    with Server(answer_ok) as server, new_session(registry) as session:
        with registry.deadline(5.0) as watch:
            assert session.get(server.url, timeout=GUARD).text == "ok"
            assert registry.expire(clock.now + 5.0) == 1
            with pytest.raises(requests.ConnectionError):
                session.get(server.url, timeout=GUARD)
            assert watch.expired
        assert session.get(server.url, timeout=GUARD).text == "ok"


def test_time_in_a_pause_does_not_count(registry, clock):
    with registry.deadline(5.0):
        pass
    with registry.deadline(5.0) as watch:
        clock.now += 3
        with watch.paused():
            clock.now += 1000
            assert registry.expire(clock.now) == 0
        assert registry.expire(clock.now + 1.9) == 0
        assert registry.expire(clock.now + 2) == 1
    assert registry.expire(clock.now + 10**6) == 0


def test_connection_refused(registry):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    worker = Worker(registry, f"http://127.0.0.1:{port}")
    assert worker.ended()
    assert isinstance(worker.error, requests.ConnectionError)


def test_kept_alive_connections_do_not_grow(registry):
    with Server(answer_ok) as server, new_session(registry) as session:
        for _ in range(20):
            with registry.deadline(5.0):
                assert session.get(server.url, timeout=GUARD).text == "ok"
        assert server.connections == 1
        assert len(registry._guards) == 1
    gc.collect()
    assert len(registry._guards) == 0


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_closed_connections_leave_nothing_open(registry):
    def script(connection, request, server):
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        return False

    with Server(script) as server, new_session(registry) as session:
        session.get(server.url, timeout=GUARD)
        server.settle()
        before = open_files()
        for _ in range(20):
            with registry.deadline(5.0):
                session.get(server.url, timeout=GUARD)
            session.get(server.url, timeout=GUARD)
        server.settle()
        assert open_files() <= before
        assert len(registry._guards) == 0


def test_sessions_of_dead_threads_leave_nothing_open(registry):
    with Server(answer_ok) as server:
        sessions = threading.local()

        def run():
            sessions.session = new_session(registry)
            assert sessions.session.get(server.url, timeout=GUARD).text == "ok"

        for _ in range(3):
            thread = threading.Thread(target=run)
            thread.start()
            thread.join(GUARD)
        gc.collect()
        assert len(registry._guards) == 0


def test_closing_a_session_does_not_wait_for_the_garbage_collector(registry, clock):
    """An exception makes reference cycles, by which urllib3 2.x would keep the connections open."""
    gc.disable()
    try:
        with Server(answer_ok) as server, new_session(registry) as session:
            with registry.deadline(5.0):
                session.get(server.url, timeout=GUARD)
                registry.expire(clock.now + 5.0)
                with pytest.raises(requests.ConnectionError):
                    session.get(server.url, timeout=GUARD)
            session.get(server.url, timeout=GUARD)
            session.close()
            server.settle()
            assert not any(thread.is_alive() for thread in server.threads[1:])
    finally:
        gc.enable()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_abort_through_a_proxy(registry, monkeypatch, scheme):
    """http: the proxy is asked for the URL; https: it is asked to CONNECT, and then nothing comes."""
    seen = []

    def proxy(connection, request, server):
        seen.append(request.split(b"\r\n")[0])
        server.reached.release()
        server.done.wait()
        return False

    with Server(proxy) as server:
        monkeypatch.setenv(f"{scheme}_proxy", server.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        worker = Worker(registry, f"{scheme}://gsc.invalid/x")
        assert server.reached.acquire(timeout=GUARD)
        registry.abort()
        assert worker.ended()
        assert isinstance(worker.error, requests.ConnectionError)
        expected = b"GET http://gsc.invalid/x HTTP/1.1" if scheme == "http" else b"CONNECT gsc.invalid:443 HTTP/1."
        assert seen[0].startswith(expected)


def test_netrc_does_not_replace_our_authorization(registry, monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("default login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    seen = []

    def script(connection, request, server):
        seen.append(request)
        connection.sendall(OK)

    with Server(script) as server, new_session(registry) as session:
        session.get(server.url, headers={"Authorization": "Bearer ours"}, timeout=GUARD)
        assert b"Authorization: Bearer ours" in seen[0]


def test_cookies_are_not_kept(registry):
    """Nothing needs them, and a server could pile them up."""
    seen = []

    def script(connection, request, server):
        seen.append(request)
        connection.sendall(OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a%d=b; Path=/\r\n\r\n" % len(seen)))

    with Server(script) as server, new_session(registry) as session:
        for _ in range(3):
            session.get(server.url, timeout=GUARD)
        assert not any(b"Cookie" in request for request in seen)
        assert len(session.cookies) == 0


class TestAdopted:
    def test_watched_requests_are_reached(self, registry):
        with Server(HANGS["no answer"]) as server, requests.Session() as session:
            adopt_session(session, registry, server.url)
            worker = Worker(registry, server.url, session)
            assert server.reached.acquire(timeout=GUARD)
            registry.abort()
            assert worker.ended()
            assert worker.error is not None

    def test_the_users_own_requests_go_on_as_before(self, registry):
        with Server(answer_ok) as server, requests.Session() as session:
            own = HTTPAdapter(max_retries=7)
            session.mount("http://", own)
            adopt_session(session, registry, server.url + "/")
            adopted = session.get_adapter(server.url + "/x")
            assert adopted is not own and session.get_adapter("http://other/") is own
            with registry.deadline(5.0):
                assert session.get(server.url, timeout=GUARD).text == "ok"
            registry.abort()
            assert session.get(server.url, timeout=GUARD).text == "ok"
            with registry.deadline(5.0), pytest.raises(requests.ConnectionError):
                session.get(server.url, timeout=GUARD)
            assert adopted.max_retries.total == 0 and own.max_retries.total == 7
            own.close()
            gc.collect()  # urllib3 2.x leaves the user's own connections to it

    def test_two_runs_share_a_session(self, registry):
        other = SocketRegistry()
        with Server(answer_ok) as server, requests.Session() as session:
            adopt_session(session, registry, server.url)
            adapter = session.get_adapter(server.url + "/")
            adopt_session(session, other, server.url)
            assert session.get_adapter(server.url + "/") is adapter
            for run in (registry, other):
                with run.deadline(5.0):
                    assert session.get(server.url, timeout=GUARD).text == "ok"
            registry.abort()
            with other.deadline(5.0):
                assert session.get(server.url, timeout=GUARD).text == "ok"
            assert server.connections == 1

    def test_a_run_that_ends_leaves_idle_connections_to_others(self, registry):
        other = SocketRegistry()
        with Server(answer_ok) as server, requests.Session() as session:
            adopt_session(session, registry, server.url)
            with registry.deadline(5.0):
                session.get(server.url, timeout=GUARD)
            registry.abort()
            with other.deadline(5.0):
                assert session.get(server.url, timeout=GUARD).text == "ok"
            assert server.connections == 1

    def test_a_special_adapter_is_left_alone(self, registry):
        class Special(HTTPAdapter):
            pass

        special = Special()
        with requests.Session() as session:
            session.mount("http://", special)
            adopt_session(session, registry, "http://127.0.0.1:1")
            assert session.get_adapter("http://127.0.0.1:1/") is special


def test_socks_connections_are_guarded(registry):
    """Whatever urllib3 connection class has its own way to connect keeps it, and is guarded afterwards."""
    from urllib3.connectionpool import HTTPConnectionPool
    from urllib3.connection import HTTPConnection

    from gscthreads.sockets import _guarded

    class Odd(HTTPConnection):
        def _new_conn(self):
            return socket.create_connection((self.host, self.port), GUARD)

    class Pool(HTTPConnectionPool):
        ConnectionCls = Odd

    pools = _guarded({"http": Pool}, registry)
    assert _guarded(pools, registry) == pools
    with Server(answer_ok) as server, pools["http"]("127.0.0.1", server.port) as pool:
        assert pool.request("GET", "/").data == b"ok"
        assert len(registry._guards) == 1
        registry.abort()
        with pytest.raises(urllib3.exceptions.HTTPError):
            pool.request("GET", "/", retries=False)
