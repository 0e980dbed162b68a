"""auth: one refresh for all threads, every answer of a token server named, and no secret in any text.

The token server is a real one on 127.0.0.1.  Time limits here are failure guards: nothing is asserted about speed.
"""

import base64
import contextlib
import datetime as dt
import gzip
import http.server
import json
import logging
import os
import socket
import stat
import subprocess
import sys
import threading
import traceback
import urllib.parse
from types import SimpleNamespace

import pytest
import requests
import responses

from gscthreads import auth, keyfile, tokenserver
from gscthreads.auth import EARLY, PAUSE, open_credentials
from gscthreads.keyfile import SCOPE
from gscthreads.tokenserver import GOOGLE_TOKEN_URI
from gscthreads.errors import CredentialsError, Transient

GUARD = 20.0
WALL = 1_760_000_000.0  # 2025-10-09 08:53:20 UTC
CLIENT_SECRET = "GOCSPX-clientsecret+/="
REFRESH = "1//refresh+token/one"
REFRESH_2 = "1//refresh-token-two"


class Clock:
    def __init__(self, now=5000.0):
        self.now = now

    def __call__(self):
        return self.now


class TokenServer:
    """Answers each POST by the next of ``script`` (status, body, headers), then by tokens "token-1", "token-2", ..."""

    def __init__(self):
        self.script = []
        self.forms = []
        self.paths = []
        self.given = 0
        self.lifetime = 3600
        self.hold = threading.Event()  # answers wait for it
        self.hold.set()
        self.lock = threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                outer.serve(self)

            def log_message(self, *args):
                pass

        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.httpd.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.httpd.server_address[1]}/token"
        threading.Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def serve(self, handler):
        raw = handler.rfile.read(int(handler.headers["Content-Length"])).decode()
        with self.lock:
            self.forms.append(dict(urllib.parse.parse_qsl(raw)))
            self.paths.append(handler.path)
            status, body, headers = self.script.pop(0) if self.script else self.next_token()
        self.hold.wait(GUARD)
        with contextlib.suppress(OSError):
            handler.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(body)

    def next_token(self):
        self.given += 1
        return answer(access_token=f"token-{self.given}", expires_in=self.lifetime, token_type="Bearer")

    def close(self):
        self.hold.set()
        self.httpd.shutdown()
        self.httpd.server_close()


def answer(status=200, headers=None, **fields):
    return status, json.dumps(fields).encode(), headers or {}


class CountingLock:
    """A lock that tells when *number* threads have asked for it."""

    def __init__(self, lock, number):
        self.lock = lock
        self.number = number
        self.waiting = set()  # threads
        self.all_here = threading.Event()

    def acquire(self, timeout):
        self.waiting.add(threading.get_ident())  # under the GIL, and the event is only a start signal
        if len(self.waiting) >= self.number:
            self.all_here.set()
        return self.lock.acquire(timeout=timeout)

    def release(self):
        self.lock.release()

    def __enter__(self):
        return self.lock.__enter__()

    def __exit__(self, *args):
        return self.lock.__exit__(*args)


@pytest.fixture
def server():
    server = TokenServer()
    yield server
    server.close()


@pytest.fixture
def session():
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture
def clock():
    return Clock()


def user_info(token_uri, **more):
    return {
        "type": "authorized_user", "client_id": "client-id.apps", "client_secret": CLIENT_SECRET,
        "refresh_token": REFRESH, "token_uri": token_uri, **more,
    }


def open_user(server, clock, **more):
    return open_credentials(user_info(server.url, **more), clock=clock, wall=lambda: WALL)


def bearer(credentials, session):
    return credentials.authorize(session)["Authorization"]


def in_threads(number, action):
    """What *action* returned or raised in each of *number* threads."""
    results = []
    barrier = threading.Barrier(number)

    def run():
        barrier.wait(GUARD)
        with requests.Session() as session:
            session.trust_env = False
            try:
                results.append(action(session))
            except Exception as error:
                results.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GUARD)
    assert len(results) == number, "threads hang"
    return results


def all_waiting(credentials, server, number, action):
    """As ``in_threads``, and the token server answers only once every thread has asked for the lock."""
    counting = credentials._lock = CountingLock(credentials._lock, number)
    server.hold.clear()

    def release():
        counting.all_here.wait(GUARD)
        server.hold.set()

    releaser = threading.Thread(target=release, daemon=True)
    releaser.start()
    results = in_threads(number, action)
    releaser.join(GUARD)
    assert counting.all_here.is_set()
    return results


# --- the refresh grant and the token's life


def test_refresh_grant_is_what_google_wants(server, session, clock):
    credentials = open_user(server, clock)
    assert credentials.session is None
    assert credentials.authorize(session) == {"Authorization": "Bearer token-1"}
    assert bearer(credentials, session) == "Bearer token-1"
    assert server.forms == [{
        "grant_type": "refresh_token", "client_id": "client-id.apps", "client_secret": CLIENT_SECRET,
        "refresh_token": REFRESH,
    }]


def test_google_is_the_default_token_server(session):
    info = user_info("unused")
    del info["token_uri"]
    with responses.RequestsMock() as mock:
        mock.post(GOOGLE_TOKEN_URI, json={"access_token": "ya29.a", "expires_in": 3599})
        assert bearer(open_credentials(info), session) == "Bearer ya29.a"


@pytest.mark.parametrize("lifetime, early", [(3600, EARLY), ("3600", EARLY), (450, EARLY), (10, 5), (0.5, 0.25)])
def test_early_refresh(server, session, clock, lifetime, early):
    server.lifetime = lifetime
    credentials = open_user(server, clock)
    assert bearer(credentials, session) == "Bearer token-1"
    clock.now += float(lifetime) - early - 0.01
    assert bearer(credentials, session) == "Bearer token-1"
    clock.now += 0.01
    assert bearer(credentials, session) == "Bearer token-2"


def test_life_is_counted_from_before_the_request(server, session, clock):
    class Slow(requests.Session):
        def request(self, *args, **options):
            clock.now += 100
            return super().request(*args, **options)

    server.lifetime = 200  # half of it is gone when it arrives
    credentials = open_user(server, clock)
    with Slow() as slow:
        slow.trust_env = False
        assert bearer(credentials, slow) == "Bearer token-1"
    assert bearer(credentials, session) == "Bearer token-2"


def test_wall_clock_jumps_do_not_matter(server, session, clock):
    wall = Clock(WALL)
    credentials = open_credentials(user_info(server.url), clock=clock, wall=wall)
    for jump in (0, 1e8, -2e8):
        wall.now += jump
        assert bearer(credentials, session) == "Bearer token-1"


def test_no_expires_in_means_an_hour(server, session, clock):
    server.script = [answer(access_token="token-0")]
    credentials = open_user(server, clock)
    assert bearer(credentials, session) == "Bearer token-0"
    clock.now += 3600 - EARLY
    assert bearer(credentials, session) == "Bearer token-1"


def test_a_new_refresh_token_replaces_the_old_one(server, session, clock):
    server.script = [answer(access_token="token-0", expires_in=100, refresh_token=REFRESH_2)]
    credentials = open_user(server, clock)
    for _ in range(3):
        credentials.authorize(session)
        clock.now += 3600
    assert [form["refresh_token"] for form in server.forms] == [REFRESH, REFRESH_2, REFRESH_2]


def test_quota_project(server, session, clock):
    credentials = open_user(server, clock, quota_project_id="my-project")
    assert credentials.authorize(session) == {"Authorization": "Bearer token-1", "x-goog-user-project": "my-project"}


@pytest.mark.parametrize("project", ["", "two\r\nlines", 5, None])
def test_unusable_quota_project_is_not_sent(server, session, clock, project):
    assert list(open_user(server, clock, quota_project_id=project).authorize(session)) == ["Authorization"]


# --- the token in the file


def iso(seconds_left, form="%Y-%m-%dT%H:%M:%SZ"):
    return dt.datetime.fromtimestamp(WALL + seconds_left, dt.timezone.utc).strftime(form)


@pytest.mark.parametrize("form", [
    "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.123456Z", "%Y-%m-%dT%H:%M:%S.123456789Z", "%Y-%m-%dT%H:%M:%S.5",
    "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S+00:00",
])
def test_a_fresh_token_of_the_file_is_used(server, session, clock, form):
    credentials = open_user(server, clock, token="of-file", expiry=iso(1000, form))
    clock.now += 1000 - EARLY - 1
    assert bearer(credentials, session) == "Bearer of-file"
    assert server.forms == []
    clock.now += 1
    assert bearer(credentials, session) == "Bearer token-1"


def test_expiry_with_an_offset(server, session, clock):
    credentials = open_user(server, clock, token="of-file", expiry=iso(7200 - 500, "%Y-%m-%dT%H:%M:%S+02:00"))
    assert bearer(credentials, session) == "Bearer token-1"


@pytest.mark.parametrize("expiry", [iso(EARLY), iso(-5), None, "", "soon", 17, "9999-99-99T00:00:00Z"])
def test_a_token_of_the_file_that_may_be_stale_is_not_used(server, session, clock, expiry):
    credentials = open_user(server, clock, token="of-file", expiry=expiry)
    assert bearer(credentials, session) == "Bearer token-1"


def test_a_rejected_token_of_the_file_is_replaced(server, session, clock):
    credentials = open_user(server, clock, token="of-file", expiry=iso(3000))
    credentials.reject(credentials.authorize(session))
    assert bearer(credentials, session) == "Bearer token-1"


# --- one refresh for all threads


def test_16_threads_make_one_refresh(server, clock):
    credentials = open_user(server, clock)
    results = all_waiting(credentials, server, 16, lambda session: bearer(credentials, session))
    assert results == ["Bearer token-1"] * 16
    assert len(server.forms) == 1


def test_16_threads_with_one_ended_token_make_one_refresh(server, session, clock):
    credentials = open_user(server, clock)
    credentials.authorize(session)
    clock.now += 3600
    results = all_waiting(credentials, server, 16, lambda session: bearer(credentials, session))
    assert results == ["Bearer token-2"] * 16
    assert len(server.forms) == 2


def test_16_threads_rejecting_the_same_token_make_one_refresh(server, session, clock):
    credentials = open_user(server, clock)
    headers = credentials.authorize(session)

    def refused(session):
        credentials.reject(headers)
        return bearer(credentials, session)

    assert in_threads(16, refused) == ["Bearer token-2"] * 16
    assert len(server.forms) == 2


def test_a_late_reject_leaves_the_new_token(server, session, clock):
    credentials = open_user(server, clock)
    old = credentials.authorize(session)
    credentials.reject({"authorization": old["Authorization"]})
    assert bearer(credentials, session) == "Bearer token-2"
    for headers in (old, {}, {"Authorization": "Bearer "}):
        credentials.reject(headers)
    assert bearer(credentials, session) == "Bearer token-2"


def test_waiting_threads_share_a_passing_fault(server, session, clock):
    server.script = [answer(503)] * 8
    credentials = open_user(server, clock)
    results = all_waiting(credentials, server, 8, lambda session: bearer(credentials, session))
    assert [type(error) for error in results] == [Transient] * 8
    assert len({id(error) for error in results}) == 8, "an exception object must not be raised by two threads"
    assert len(server.forms) == 1
    server.script = []
    clock.now += PAUSE - 0.01
    with pytest.raises(Transient):
        credentials.authorize(session)
    clock.now += 0.01
    assert bearer(credentials, session) == "Bearer token-1"


def test_waiting_threads_share_a_refusal_for_good(server, session, clock):
    server.script = [answer(400, error="invalid_grant")]
    credentials = open_user(server, clock)
    results = all_waiting(credentials, server, 8, lambda session: bearer(credentials, session))
    assert [type(error) for error in results] == [CredentialsError] * 8
    assert len({str(error) for error in results}) == 1
    clock.now += 1e6
    with pytest.raises(CredentialsError, match="invalid_grant"):
        credentials.authorize(session)
    assert len(server.forms) == 1


def test_a_bug_while_refreshing_leaves_the_lock_free(server, session, clock):
    credentials = open_user(server, clock)
    broken = SimpleNamespace(request=lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        credentials.authorize(broken)
    assert bearer(credentials, session) == "Bearer token-1"


def test_the_workers_session_is_used(server, clock):
    seen = []

    class Spy(requests.Session):
        def request(self, *args, **options):
            seen.append((options["allow_redirects"], options["stream"], options["timeout"]))
            return super().request(*args, **options)

    with Spy() as spy:
        open_user(server, clock).authorize(spy)
    assert seen == [(False, True, (10.0, 30.0))]


# --- faults that pass


@pytest.mark.parametrize("status", [408, 429, 500, 501, 502, 503, 504])
def test_passing_status_then_good(server, session, clock, status):
    server.script = [answer(status, {"Retry-After": "7"}, error="x")]
    credentials = open_user(server, clock)
    with pytest.raises(Transient, match=f"127.0.0.1:.*HTTP {status}") as caught:
        credentials.authorize(session)
    assert caught.value.retry_after == 7
    assert caught.value.status is None  # the API's status, where 404 or 501 would mean "no batches"
    clock.now += PAUSE
    assert bearer(credentials, session) == "Bearer token-1"


@pytest.mark.parametrize("body", [
    b"", b"<html>proxy</html>", b"[]", b"null", b'{"access_token": ', b"\xff\xfe", b"[" * 60000, b"{}",
    b'{"access_token": "", "expires_in": 5}', b'{"access_token": "two words", "expires_in": 5}',
    b'{"access_token": "a\\nb", "expires_in": 5}', b'{"access_token": 5, "expires_in": 5}',
    b'{"access_token": "a", "expires_in": "soon"}', b'{"access_token": "a", "expires_in": null}',
    b'{"access_token": "a", "expires_in": 0}', b'{"access_token": "a", "expires_in": -3}',
    b'{"access_token": "a", "expires_in": NaN}', b'{"access_token": "a", "expires_in": [1]}',
    b'{"access_token": "a", "expires_in": 1' + b"0" * 400 + b"}", b'{"access_token": "\\u00e9", "expires_in": 5}',
])
def test_malformed_answer(server, session, clock, body):
    server.script = [(200, body, {})]
    credentials = open_user(server, clock)
    with pytest.raises(Transient):
        credentials.authorize(session)
    clock.now += PAUSE
    assert bearer(credentials, session) == "Bearer token-1"


@pytest.mark.parametrize("status", [201, 204])
def test_success_that_is_none(server, session, clock, status):
    server.script = [(status, b"", {})]
    with pytest.raises(Transient, match=f"HTTP {status} without"):
        open_user(server, clock).authorize(session)


@pytest.mark.parametrize("packed", [False, True])
def test_size_of_the_answer_is_limited(server, session, clock, packed):
    body = json.dumps({"access_token": "a", "expires_in": 5, "pad": "x" * tokenserver.MAX_ANSWER}).encode()
    server.script = [(200, gzip.compress(body), {"Content-Encoding": "gzip"}) if packed else (200, body, {})]
    with pytest.raises(Transient, match="larger than"):
        open_user(server, clock).authorize(session)


def test_compressed_answer(server, session, clock):
    body = gzip.compress(b'{"access_token": "packed", "expires_in": 500}')
    server.script = [(200, body, {"Content-Encoding": "gzip"})]
    assert bearer(open_user(server, clock), session) == "Bearer packed"


def test_truncated_answer(server, session, clock):
    body = b'{"access_token": "cut", "expires_in": 500}'
    server.script = [(200, body, {"Content-Length": str(len(body) + 1)})]
    with pytest.raises(Transient):
        open_user(server, clock).authorize(session)


def test_nobody_listens(session, clock):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/token"
        with pytest.raises(Transient, match="can't reach 127.0.0.1") as caught:
            open_credentials(user_info(url), clock=clock).authorize(session)
    assert isinstance(caught.value.__cause__, requests.ConnectionError)


@pytest.mark.parametrize("fault", [requests.ReadTimeout, requests.ConnectTimeout, requests.exceptions.SSLError])
def test_network_faults(session, clock, fault):
    with responses.RequestsMock() as mock:
        mock.post(GOOGLE_TOKEN_URI, body=fault())
        with pytest.raises(Transient, match="oauth2.googleapis.com"):
            open_credentials(user_info(GOOGLE_TOKEN_URI), clock=clock).authorize(session)


def test_a_failing_early_refresh_does_not_waste_the_old_token(server, session, clock, caplog):
    credentials = open_user(server, clock)
    credentials.authorize(session)
    clock.now += 3600 - EARLY
    server.script = [answer(503)] * 2
    for _ in range(3):
        assert bearer(credentials, session) == "Bearer token-1"
    assert len(server.forms) == 2, "one attempt a second"
    assert "using the old one" in caplog.text
    clock.now += EARLY
    with pytest.raises(Transient):
        credentials.authorize(session)
    clock.now += PAUSE
    assert bearer(credentials, session) == "Bearer token-2"


def test_a_rejected_token_is_not_used_again_when_the_refresh_fails(server, session, clock):
    credentials = open_user(server, clock)
    credentials.reject(credentials.authorize(session))
    server.script = [answer(503)]
    for _ in range(2):
        with pytest.raises(Transient):
            credentials.authorize(session)


# --- refusals


@pytest.mark.parametrize("status, fields, words", [
    (400, {"error": "invalid_grant", "error_description": "Token has been expired or revoked."},
     ["invalid_grant: Token has been expired or revoked.", "HTTP 400", "revoked", "password", "6 months", "7 days",
      "Testing", "Sign in again", "gcloud auth application-default login", SCOPE]),
    (401, {"error": "invalid_client", "error_description": "The OAuth client was not found."},
     ["The OAuth client was not found", "client_id and client_secret do not belong together"]),
    (401, {}, ["no reason given", "client_id and client_secret"]),
    (400, {"error": "invalid_scope", "error_description": "Bad"}, ["invalid_scope: Bad", f"{SCOPE} was not granted"]),
    (401, {"error": "unauthorized_client"}, ["unauthorized_client", "sign in again with this client"]),
    (403, {"error": "access_denied", "error_description": "Account\r\nlocked"}, ["access_denied: Account locked"]),
    (403, {"error": {"status": "PERMISSION_DENIED", "message": "API off"}}, ["PERMISSION_DENIED: API off (HTTP 403)"]),
    (418, {"error": ["odd"], "error_description": 5}, ["no reason given (HTTP 418)"]),
    (404, {"error": "x" * 5000}, ["x" * 300, "HTTP 404"]),
])
def test_refusals(server, session, clock, status, fields, words):
    server.script = [answer(status, **fields)]
    with pytest.raises(CredentialsError) as caught:
        open_user(server, clock).authorize(session)
    for word in ["127.0.0.1", *words]:
        assert word in str(caught.value)
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize("body", [b"<html>Not found</html>", b"", b"[]", b"x" * 2_000_000])
def test_refusal_that_is_not_json(server, session, clock, body):
    server.script = [(404, body, {})]
    with pytest.raises(CredentialsError, match=r"no reason given \(HTTP 404\)"):
        open_user(server, clock).authorize(session)


@pytest.mark.parametrize("code", ["internal_failure", "server_error", "temporarily_unavailable"])
def test_refusal_that_passes(server, session, clock, code):
    server.script = [answer(400, error=code)]
    with pytest.raises(Transient, match=code):
        open_user(server, clock).authorize(session)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_credentials_are_never_sent_after_a_redirect(server, session, clock, status):
    server.script = [(status, b"", {"Location": server.url + "/elsewhere"})]
    with pytest.raises(CredentialsError, match="redirect.*never sent.*token_uri"):
        open_user(server, clock).authorize(session)
    assert server.paths == ["/token"]


@pytest.mark.parametrize("uri", [
    "http://example.com/token", "http://127.0.0.1.example.com/token", "ftp://127.0.0.1/token", "127.0.0.1/token",
    "https://", "https://user:password@example.com/token", "https://[::1/token", "https://host:port/", 5, ["https"],
    "http://2130706433/", "file:///etc/passwd",
])
def test_secrets_only_go_out_by_https_or_to_this_computer(uri):
    with pytest.raises(CredentialsError, match="token_uri must be an https URL") as caught:
        open_credentials(user_info(uri))
    assert "password@" not in str(caught.value)


@pytest.mark.parametrize("uri", ["https://a.example/t", "http://localhost:8/t", "http://127.0.0.1/t", "http://[::1]/t"])
def test_token_servers_that_are_fine(uri):
    open_credentials(user_info(uri))


# --- files


def write(path, content, mode=0o600):
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    path.chmod(mode)
    return path


@pytest.mark.parametrize("convert", [str, lambda path: path])
def test_file(server, session, tmp_path, convert, caplog):
    path = write(tmp_path / "creds.json", user_info(server.url))
    assert bearer(open_credentials(convert(path)), session) == "Bearer token-1"
    assert caplog.text == ""


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_file_as_windows_writes_it(server, session, tmp_path, encoding):
    path = write(tmp_path / "creds.json", json.dumps(user_info(server.url)).encode(encoding))
    assert bearer(open_credentials(path), session) == "Bearer token-1"


def test_home_directory(server, tmp_path, monkeypatch):
    write(tmp_path / "creds.json", user_info(server.url))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    open_credentials("~/creds.json")


def test_file_without_type_as_google_auth_writes_it(server, session, tmp_path):
    info = user_info(server.url)
    del info["type"]
    assert bearer(open_credentials(info), session) == "Bearer token-1"


@pytest.mark.parametrize("content, words", [
    (b"", "is not JSON"), (b"{\n  'a': 1}", "is not JSON (line 2, column 3)"), (b"\xff\xff\xff", "is not JSON"),
    (b"[" * 100000, "is not JSON"), (b"[]", "not hold a JSON object"), (b'"text"', "not hold a JSON object"),
    (b" " * (keyfile.MAX_FILE + 1), "not hold a JSON object"), ({}, "has no type"),
    ({"type": "external_account"}, "type 'external_account'"), ({"type": ["a"]}, "has no type"),
    ({"type": "external_account"}, "google.auth.load_credentials_from_file"),
    ({"installed": {"client_id": "a"}}, "is an OAuth client"), ({"web": {}}, "gcloud auth application-default login"),
    ({"web": {}}, SCOPE), ({"type": "authorized_user"}, "client_id is missing"),
    ({"type": "service_account"}, "client_email is missing"),
])
def test_file_errors(tmp_path, content, words):
    path = write(tmp_path / "creds.json", content)
    with pytest.raises(CredentialsError) as caught:
        open_credentials(path)
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(CredentialsError, match="none.json does not exist"):
        open_credentials(tmp_path / "none.json")
    with pytest.raises(CredentialsError, match="is a directory"):
        open_credentials(str(tmp_path))


def test_unreadable_file(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # root, who often runs tests, can read everything
    with pytest.raises(CredentialsError, match="can't be read: Permission denied"):
        open_credentials(tmp_path / "creds.json")


@pytest.mark.skipif(os.name != "posix" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_really_unreadable_file(tmp_path):
    path = write(tmp_path / "creds.json", user_info("https://example.com"), mode=0o000)
    with pytest.raises(CredentialsError, match="can't be read: Permission denied"):
        open_credentials(path)


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_open_file_is_warned_about_once(tmp_path, caplog, mode):
    path = write(tmp_path / "creds.json", user_info("https://example.com"), mode)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    open_credentials(path)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"chmod 600 {path}" in caplog.text


@pytest.mark.parametrize("name", ["client_id", "client_secret", "refresh_token"])
@pytest.mark.parametrize("value", [None, "", 5, {"a": "b"}])
def test_required_fields_of_a_user(name, value):
    with pytest.raises(CredentialsError, match=f"credentials dict: {name} is "):
        open_credentials(user_info("https://example.com", **{name: value}))


@pytest.mark.parametrize("source, words", [
    (None, "NoneType"), (5, "int"), (b"creds.json", "bytes"), ([1], "list"), ("", "empty path"),
    ('{"type": "authorized_user"}', "JSON text"), ("ya29.secret-access", "use a callable"), ("a\0b", "not a path"),
    ("line\nline", "not a path"),
])
def test_what_is_no_credentials(source, words):
    with pytest.raises(CredentialsError, match=words) as caught:
        open_credentials(source)
    assert "secret-access" not in str(caught.value)


# --- session and callable


def test_own_session(session):
    credentials = open_credentials(session)
    assert credentials.session is session
    assert credentials.authorize(session) == {}
    credentials.reject({"Authorization": "Bearer x"})
    assert credentials.authorize(session) == {}
    assert open_credentials(credentials) is credentials


def test_callable_is_asked_each_time_and_by_one_thread_at_a_time():
    inside, count = threading.Lock(), []

    def get_token():
        assert inside.acquire(blocking=False), "called by two threads at once"
        try:
            assert counting.all_here.wait(GUARD)  # until all threads have asked for the lock
            count.append(1)
            return f"token-{len(count)}"
        finally:
            inside.release()

    credentials = open_credentials(get_token)
    assert credentials.session is None
    counting = credentials._lock = CountingLock(credentials._lock, 16)
    results = in_threads(16, lambda session: bearer(credentials, session))
    assert sorted(results) == sorted(f"Bearer token-{number}" for number in range(1, 17))
    credentials.reject({"Authorization": "Bearer token-16"})
    assert credentials.authorize(None) == {"Authorization": "Bearer token-17"}


@pytest.mark.parametrize("value", [
    None, 5, b"secretvalue", "", "secretvalue\n", "secret\rvalue", "secret\x7fvalue", "Bearer secretvalue",
    "secretvalu\xe9",
])
def test_callable_must_return_a_token(session, value):
    with pytest.raises(CredentialsError, match="credentials callable must return") as caught:
        open_credentials(lambda: value).authorize(session)
    assert "secret" not in str(caught.value)


class Retryable(Exception):
    retryable = True


@pytest.mark.parametrize("raised, expected", [
    (ValueError("secretvalue"), CredentialsError), (FileNotFoundError(2, "secretvalue"), CredentialsError),
    (requests.ConnectionError("secretvalue"), Transient), (requests.Timeout("secretvalue"), Transient),
    (socket.timeout("secretvalue"), Transient), (ConnectionResetError(104, "reset"), Transient),
    (Retryable("secretvalue"), Transient), (CredentialsError("as it is"), CredentialsError),
])
def test_callable_that_raises(session, raised, expected):
    results = iter([raised, None])

    def get_token():
        error = next(results)
        if error:
            raise error
        return "good"

    credentials = open_credentials(get_token)
    with pytest.raises(expected) as caught:
        credentials.authorize(session)
    assert caught.value is raised or caught.value.__cause__ is raised
    assert "secretvalue" not in str(caught.value)
    assert bearer(credentials, session) == "Bearer good"


# --- service account


def pem(key, **more):
    from cryptography.hazmat.primitives import serialization

    encryption = more.get("encryption", serialization.NoEncryption())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption).decode()


@pytest.fixture(scope="module")
def rsa_key():
    rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")
    pytest.importorskip("google.auth")
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def service_info(server, rsa_key):
    return {
        "type": "service_account", "project_id": "p", "private_key_id": "key-1", "private_key": pem(rsa_key),
        "client_email": "robot@p.iam.gserviceaccount.com", "client_id": "1", "token_uri": server.url,
    }


def claims_of(assertion, rsa_key):
    from cryptography.hazmat.primitives import serialization
    from google.auth import crypt, jwt

    public = rsa_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    # jwt.decode would check the times, too, against the real clock
    signed, _, signature = assertion.encode().rpartition(b".")
    padded = signature + b"=" * (-len(signature) % 4)
    assert crypt.RSAVerifier.from_string(public).verify(signed, base64.urlsafe_b64decode(padded))
    return jwt.decode_header(assertion), jwt.decode(assertion, verify=False)


def test_service_account(server, session, clock, rsa_key, service_info):
    credentials = open_credentials(service_info, clock=clock, wall=lambda: WALL + 0.7)
    assert credentials.authorize(session) == {"Authorization": "Bearer token-1"}
    assert bearer(credentials, session) == "Bearer token-1"
    (form,) = server.forms
    assert form.pop("grant_type") == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    header, claims = claims_of(form.pop("assertion"), rsa_key)
    assert form == {}
    assert header == {"typ": "JWT", "alg": "RS256", "kid": "key-1"}
    assert claims == {
        "iss": "robot@p.iam.gserviceaccount.com", "aud": GOOGLE_TOKEN_URI, "scope": SCOPE, "iat": int(WALL),
        "exp": int(WALL) + 3600,
    }


def test_service_account_acting_for_somebody(server, session, rsa_key, service_info):
    open_credentials({**service_info, "subject": "boss@example.com"}).authorize(session)
    assert claims_of(server.forms[0]["assertion"], rsa_key)[1]["sub"] == "boss@example.com"


def test_service_account_shares_its_refresh(server, clock, service_info):
    credentials = open_credentials(service_info, clock=clock)
    results = all_waiting(credentials, server, 16, lambda session: bearer(credentials, session))
    assert results == ["Bearer token-1"] * 16 and len(server.forms) == 1


@pytest.mark.parametrize("name", ["private_key", "client_email", "token_uri"])
def test_required_fields_of_a_service_account(service_info, name):
    del service_info[name]
    with pytest.raises(CredentialsError, match=f"{name} is missing"):
        open_credentials(service_info)


def broken_keys():
    return {
        "words": lambda key: "no key, but words " * 9,
        "cut off": lambda key: pem(key)[:600],
        "escaped line ends": lambda key: pem(key).replace("\n", "\\n"),
        "damaged": lambda key: pem(key).replace("A", "B"),
        "no RSA key": lambda key: elliptic_key(),
        "encrypted": encrypted_key,
    }


def elliptic_key():
    from cryptography.hazmat.primitives.asymmetric import ec

    return pem(ec.generate_private_key(ec.SECP256R1()))


def encrypted_key(key):
    from cryptography.hazmat.primitives import serialization

    return pem(key, encryption=serialization.BestAvailableEncryption(b"password"))


@pytest.mark.parametrize("kind", sorted(broken_keys()))
def test_broken_private_key(service_info, rsa_key, kind):
    key = broken_keys()[kind](rsa_key)
    with pytest.raises(CredentialsError, match="private_key is not an RSA key in PEM form") as caught:
        open_credentials({**service_info, "private_key": key})
    text = "".join(traceback.format_exception(type(caught.value), caught.value, caught.tb))
    assert key[-90:-60] not in text and caught.value.__suppress_context__


def test_service_account_without_google_auth(service_info, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.auth", None)
    with pytest.raises(CredentialsError, match=r"pip install 'gscthreads\[google\]'"):
        open_credentials(service_info)


@pytest.mark.parametrize("fields, words", [
    ({"error": "invalid_grant", "error_description": "Invalid JWT."}, ["Invalid JWT.", "clock", "new key"]),
    ({"error": "unauthorized_client"}, ["domain-wide delegation", SCOPE]),
])
def test_service_account_refusals(server, session, service_info, fields, words):
    server.script = [answer(400, **fields)]
    with pytest.raises(CredentialsError) as caught:
        open_credentials(service_info).authorize(session)
    for word in words:
        assert word in str(caught.value)


# --- google-auth objects


@pytest.fixture
def google_user(server):
    credentials = pytest.importorskip("google.oauth2.credentials")
    return credentials.Credentials(
        None, refresh_token=REFRESH, client_id="client-id.apps", client_secret=CLIENT_SECRET, token_uri=server.url,
        quota_project_id="my-project",
    )


def naive_utc(seconds_left=0.0):
    return dt.datetime.now(dt.timezone.utc).replace(tzinfo=None) + dt.timedelta(seconds=seconds_left)


def test_google_auth_object(server, google_user, clock):
    credentials = open_credentials(google_user, clock=clock)
    results = all_waiting(credentials, server, 16, credentials.authorize)
    assert results == [{"Authorization": "Bearer token-1", "x-goog-user-project": "my-project"}] * 16
    assert len(server.forms) == 1


def test_google_auth_object_16_rejects(server, session, google_user, clock):
    credentials = open_credentials(google_user, clock=clock)
    headers = credentials.authorize(session)

    def refused(session):
        credentials.reject(headers)
        return bearer(credentials, session)

    assert in_threads(16, refused) == ["Bearer token-2"] * 16
    assert len(server.forms) == 2


def test_google_auth_object_with_a_good_token(server, session, google_user, clock):
    google_user.token, google_user.expiry = "its-own", naive_utc(3000)
    credentials = open_credentials(google_user, clock=clock)
    assert bearer(credentials, session) == "Bearer its-own"
    clock.now += 3001
    google_user.token, google_user.expiry = "by-its-owner", naive_utc(3000)  # refreshed elsewhere in the program
    assert bearer(credentials, session) == "Bearer by-its-owner"
    assert server.forms == []


def test_google_auth_object_with_a_stale_token(server, session, google_user, clock):
    google_user.token, google_user.expiry = "its-own", naive_utc(100)
    assert bearer(open_credentials(google_user, clock=clock), session) == "Bearer token-1"


def test_google_auth_object_with_short_lived_tokens(server, session, google_user, clock):
    server.lifetime = 60  # for google-auth such a token is never fresh
    credentials = open_credentials(google_user, clock=clock)
    for _ in range(3):
        assert bearer(credentials, session) == "Bearer token-1"
    clock.now += 31
    assert bearer(credentials, session) == "Bearer token-2"


def test_google_auth_object_without_expiry(session, google_user, clock):
    google_user.token = "for-ever"
    credentials = open_credentials(google_user, clock=clock)
    clock.now += 1e9
    assert bearer(credentials, session) == "Bearer for-ever"


def test_google_auth_object_is_scoped(server, session, rsa_key, service_info):
    from google.oauth2 import service_account

    inner = service_account.Credentials.from_service_account_info(service_info)
    assert bearer(open_credentials(inner), session) == "Bearer token-1"
    assert claims_of(server.forms[0]["assertion"], rsa_key)[1]["scope"] == SCOPE


def test_google_auth_does_not_close_our_session(server, google_user, clock):
    closed = []

    class Spy(requests.Session):
        def close(self):
            closed.append(1)
            super().close()

    spy = Spy()
    open_credentials(google_user, clock=clock).authorize(spy)
    assert closed == []
    spy.close()


@pytest.mark.parametrize("script, expected, words", [
    (answer(400, error="invalid_grant", error_description="Token has been expired or revoked."), CredentialsError,
     ["RefreshError", "Token has been expired or revoked", "7 days", "Sign in again"]),
    (answer(401, error="invalid_client"), CredentialsError, ["client_id and client_secret"]),
    (answer(200, id_token="secret-id-token"), CredentialsError, ["No access token"]),
    (answer(503), Transient, ["HTTP 503"]),
    (answer(429), Transient, ["HTTP 429"]),
    ((302, b"", {"Location": "/elsewhere"}), CredentialsError, ["RefreshError"]),
])
def test_google_auth_object_faults(server, session, google_user, clock, monkeypatch, script, expected, words):
    def no_sleep(seconds):
        raise AssertionError("google-auth must not sleep while we hold the lock")

    monkeypatch.setattr("time.sleep", no_sleep)
    server.script = [script]
    with pytest.raises(expected) as caught:
        open_credentials(google_user, clock=clock).authorize(session)
    for word in words:
        assert word in str(caught.value)
    text = "".join(traceback.format_exception(type(caught.value), caught.value, caught.tb))
    for secret in (CLIENT_SECRET, REFRESH, "secret-id-token"):
        assert secret not in text
    assert len(server.forms) == 1


def test_google_auth_object_that_gives_none(session):
    google = pytest.importorskip("google.auth.credentials")
    with pytest.raises(CredentialsError, match="google-auth got no token"):
        open_credentials(google.AnonymousCredentials()).authorize(session)


# --- secrets


SECRETS = [CLIENT_SECRET, urllib.parse.quote_plus(CLIENT_SECRET), REFRESH, urllib.parse.quote_plus(REFRESH), REFRESH_2,
           "access-secret", "PRIVATE KEY"]


@pytest.mark.parametrize("script", [
    answer(access_token="access-secret", expires_in=9, refresh_token=REFRESH_2),
    answer(access_token="access-secret here", refresh_token=REFRESH_2),
    answer(400, error="invalid_grant", error_description=f"bad refresh_token={REFRESH} of {CLIENT_SECRET}"),
    answer(400, error=f"client_secret={urllib.parse.quote_plus(CLIENT_SECRET)}", error_description=REFRESH),
    answer(400, error={"message": f"no {REFRESH}", "status": CLIENT_SECRET}),
    answer(503, error=REFRESH), answer(302, {"Location": f"/?{CLIENT_SECRET}"}),
    (200, f"not json {REFRESH}".encode(), {}), (404, f"<html>{REFRESH}".encode(), {}),
    (200, b"{}", {"Content-Length": "9999"}), (200, b"{}", {"Content-Encoding": REFRESH}),
])
def test_no_secret_in_any_text(server, session, clock, caplog, script, tmp_path):
    caplog.set_level(logging.DEBUG)
    server.script = [script] * 2
    path = write(tmp_path / "creds.json", user_info(server.url), mode=0o644)
    credentials = open_credentials(path, clock=clock)
    texts = [repr(credentials), str(credentials)]
    for _ in range(3):
        try:
            credentials.authorize(session)
        except (CredentialsError, Transient) as error:
            texts += traceback.format_exception(type(error), error, error.__traceback__)
            texts += [repr(error), str(error)]
        clock.now += 5
    texts += [repr(credentials), caplog.text]
    for secret in SECRETS:
        if script[2].get("Content-Encoding") == secret:
            continue  # a header of the server's, named in the error
        assert secret not in "\n".join(texts)


def test_no_secret_in_the_text_of_a_connection_fault(session, clock, caplog):
    caplog.set_level(logging.DEBUG)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        credentials = open_credentials(user_info(f"http://127.0.0.1:{sock.getsockname()[1]}/"), clock=clock)
        with pytest.raises(Transient) as caught:
            credentials.authorize(session)
    text = "".join(traceback.format_exception(type(caught.value), caught.value, caught.tb)) + caplog.text
    for secret in SECRETS:
        assert secret not in text


def test_no_secret_of_a_broken_file(tmp_path):
    content = json.dumps(user_info("https://example.com"))[:-1].encode()
    with pytest.raises(CredentialsError) as caught:
        open_credentials(write(tmp_path / "creds.json", content))
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    text = "".join(traceback.format_exception(type(caught.value), caught.value, caught.tb))
    for secret in SECRETS:
        assert secret not in text


def test_no_secret_in_reprs(session, rsa_key, service_info, google_user):
    google_user.token = "access-secret"
    user = user_info("https://example.com", token="access-secret", expiry="2099-01-01T00:00:00Z")
    for source in [service_info, google_user, user, lambda: "access-secret"]:
        text = repr(open_credentials(source)) + str(open_credentials(source))
        for secret in SECRETS:
            assert secret not in text


def test_import_needs_nothing_of_google():
    code = "import sys, gscthreads.auth; sys.exit('google.auth' in sys.modules)"
    root = os.path.dirname(os.path.dirname(os.path.abspath(auth.__file__)))
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)
