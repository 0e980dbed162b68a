"""No secret in anything that is kept or shown: logs of every logger, reprs, errors and their chains, tables, output.

Runs fail here in every way there is, with every kind of credentials; whatever they say is searched for every secret.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import http.server
import json
import logging
import os
import re
import subprocess
import sys
import threading
import traceback
import urllib.parse
from pathlib import Path

import pytest
import requests

import gscthreads
from gscthreads import pacific
from gscthreads.auth import open_credentials
from gscthreads.body import send_fault
from gscthreads.client import Client
from gscthreads.errors import CredentialsError, StoreFull
from gscthreads.model import Failed
from gscthreads.outcomes import Outcomes
from gscthreads.simulator import Simulator, Site
from gscthreads.simulator import tokens as sim_tokens
from gscthreads.stores.sqlite import SQLiteStore
from gscthreads.summary import read_status
from gscthreads.sync import list_sites

SITE = "sc-domain:example.com"
ROOT = Path(__file__).resolve().parent.parent
LAST = pacific.today() - dt.timedelta(days=20)
UNLIMITED = {"site_qpm": 10**9, "user_qpm": 10**9, "project_qpm": 10**9}
CLIENT_SECRET = "GOCSPX-client+secret/of=tests"
HURRY = {"backoff_base": 0.001, "backoff_cap": 0.002, "max_attempts": 2, "rate_limit_enabled": False}


class Search:
    """Collects whatever was said anywhere, and the secrets that must not be in it."""

    def __init__(self):
        self.secrets = {CLIENT_SECRET}
        self.said = []
        self.loggers = set()  # whose records came

    def tell(self, *things):
        """Texts, bytes, or any object: then its str, repr, and for exceptions traceback and chain."""
        for thing in things:
            if isinstance(thing, BaseException):
                self.said += traceback.format_exception(type(thing), thing, thing.__traceback__)
                for error in chain(thing):
                    self.said += [str(error), repr(error), repr(error.args), repr(vars(error))]
            elif isinstance(thing, bytes):
                self.said.append(thing.decode("latin-1"))
            else:
                self.said += [str(thing), repr(thing)]

    def found(self):
        """Each secret that was said, and where; in any of the forms in which a secret travels."""
        forms = {
            form: secret for secret in self.secrets
            for form in (secret, urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret),
                         json.dumps(secret)[1:-1], base64.b64encode(secret.encode()).decode())
        }
        return [(secret, text[:2000]) for text in self.said for form, secret in forms.items() if form in text]


def chain(error):
    """*error* and its causes, as a traceback shows them."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


class Records(logging.Handler):
    """Tells *search* every record, with its traceback, and what its arguments look like."""

    def __init__(self, search):
        super().__init__(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
        self.search = search

    def emit(self, record):
        self.search.loggers.add(record.name.split(".")[0])
        self.search.tell(self.format(record), repr(record.args))


@pytest.fixture
def search(capfd, tmp_path, monkeypatch):
    """What it is told, and all logs at DEBUG, all output, every file beside the credentials, every fault of a slice."""
    monkeypatch.setattr(sim_tokens, "CLIENT_SECRET", CLIENT_SECRET)
    monkeypatch.chdir(tmp_path)
    search = Search()
    records, root = Records(search), logging.getLogger()
    level = root.level
    root.addHandler(records)
    root.setLevel(logging.DEBUG)
    put = Outcomes.put

    def told(self, outcome):
        if isinstance(outcome, Failed):
            search.tell(outcome.error)
        return put(self, outcome)

    monkeypatch.setattr(Outcomes, "put", told)
    yield search
    root.removeHandler(records)
    root.setLevel(level)
    search.tell(*capfd.readouterr())
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != "credentials.json":
            search.tell(path.name, path.read_bytes())
    assert search.found() == []


@pytest.fixture
def sim(search, monkeypatch):
    issue = sim_tokens.Tokens.issue

    def issued(self, *values, **more):
        token = issue(self, *values, **more)
        search.secrets.add(token)
        return token

    monkeypatch.setattr(sim_tokens.Tokens, "issue", issued)
    with Simulator(sites=[Site(SITE, rows_per_day=40)], seed=2, **UNLIMITED) as simulator:
        yield simulator


def user_info(sim, search):
    info = sim.credentials()
    search.secrets.add(info["refresh_token"])
    return info


def service_info(sim, search):
    pytest.importorskip("google.auth")
    info = sim.service_account()
    search.secrets.update(line for line in info["private_key"].splitlines() if len(line) > 20)
    return info


def google_user(sim, search):
    credentials = pytest.importorskip("google.oauth2.credentials")
    info = user_info(sim, search)
    return credentials.Credentials(None, **{name: value for name, value in info.items() if name != "type"})


def google_session(sim, search):
    transport = pytest.importorskip("google.auth.transport.requests")
    return transport.AuthorizedSession(google_user(sim, search))


def plain_session(sim, search):
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {sim.token()}"
    return session


def static_token(sim, search):
    token = sim.token()
    return lambda: token


KINDS = {
    "user": user_info, "service": service_info, "callable": static_token, "google": google_user,
    "google session": google_session, "session": plain_session,
}


def die_once(monkeypatch):
    fetch, deaths = Client.fetch, iter([True])

    def dying(self, batch, deliver, on_request):
        headers = self.credentials.authorize(self.session())
        if next(deaths, False):
            raise RuntimeError("a bug", len(headers))
        fetch(self, batch, deliver, on_request)

    monkeypatch.setattr(Client, "fetch", dying)


def fill_the_disk(monkeypatch):
    def commit(self):
        raise StoreFull(f"no room left for {self.path}")

    monkeypatch.setattr(SQLiteStore, "commit", commit)


#: Name -> what goes wrong: faults of the look-alike (name, times or None for always), or something else.
TROUBLES = {
    "nothing": [],
    "token refused": [("token_invalid_grant", None)],
    "token server down for a while": [("token_503", 1)],
    "token server down": [("token_503", None)],
    "401 in the middle": [("unauthorized_401", 2), ("outer_401", 1)],
    "401 always": [("unauthorized_401", None)],
    "403": [("forbidden_403", None)],
    "500 always": [("http_500", None)],
    "html": [("outer_html_200", 2), ("http_502_html", 3)],
    "malformed batch": [("outer_not_multipart", 1), ("empty_part", 2), ("mislabelled_part", 1), ("missing_part", 1)],
    "malformed JSON": [("malformed_json", None)],
    "wire": [("reset_headers", 1), ("reset_body", 1), ("corrupt_gzip", 1), ("wrong_length", 1)],
    "worker crash": die_once,
    "store full": fill_the_disk,
    "revoked": lambda sim: sim.revoke(),
}
SHORT = ("token refused", "401 in the middle", "403", "worker crash", "wire")
RUNS = [("user", trouble) for trouble in TROUBLES] + [(kind, trouble) for kind in KINDS if kind != "user"
                                                      for trouble in SHORT]


def copy(sim, search, credentials, **more):
    """Run a sync and tell *search* all that it shows; its result, or what it raised."""
    config = gscthreads.SyncConfig(
        sites=[SITE], start=LAST - dt.timedelta(days=5), end=LAST, store="sqlite:///search.db", batch_size=3,
        credentials=credentials, api_root=getattr(sim, "url", sim), reports=["page"], **{**HURRY, **more},
    )
    run = gscthreads.Sync(config)
    try:
        result = run.run()
    except gscthreads.GscError as error:
        search.tell(error)
        result = error
    search.tell(config, config.settings(), vars(config)["api_root"], run, run.snapshot(), run.result, run._credentials)
    if run.result is not None:
        search.tell(json.dumps(run.result.as_dict()))
    return result


@pytest.mark.parametrize("kind, trouble", RUNS, ids=lambda name: name.replace(" ", "-"))
def test_nothing_a_run_says_or_keeps_holds_a_secret(kind, trouble, sim, search, monkeypatch):
    credentials, what = KINDS[kind](sim, search), TROUBLES[trouble]
    if what is TROUBLES["revoked"]:
        what(sim)
    elif callable(what):
        what(monkeypatch)
    else:
        for fault, times in what:
            sim.faults.script(fault, times=times)
    result = copy(sim, search, credentials)
    own_token = kind in ("session", "callable")
    if trouble == "nothing" or trouble == "token refused" and own_token:
        assert result.status == "complete"
        assert {"gscthreads", "urllib3"} <= search.loggers and len(search.secrets) > 1
        assert os.path.getsize("search.db")  # which is searched, too
    elif trouble in ("token refused", "revoked"):
        assert isinstance(result, CredentialsError)
    with contextlib.suppress(AttributeError):
        credentials.close()


@pytest.mark.parametrize(
    "kind, trouble, commands",
    [("user", "nothing", ("sync", "sites", "verify", "status")), ("service", "token refused", ("sync", "sites")),
     ("user", "401 in the middle", ("sync",)), ("service", "500 always", ("sync",)),
     ("user", "malformed batch", ("sync",))],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_nothing_the_command_prints_holds_a_secret(kind, trouble, commands, sim, search, tmp_path):
    path = tmp_path / "credentials.json"
    path.write_text(json.dumps(KINDS[kind](sim, search)))
    path.chmod(0o644)  # warned about
    for fault, times in TROUBLES[trouble]:
        sim.faults.script(fault, times=times)
    access, store = ["--credentials", str(path), "--api-root", sim.url], ["--store", "sqlite:///search.db"]
    words = {
        "sync": [*access, *store, "--site", SITE, "--start", str(LAST - dt.timedelta(days=5)), "--end", str(LAST),
                 "--report", "page", "--batch-size", "3", "--backoff-base", "0.001", "--backoff-cap", "0.002",
                 "--max-attempts", "2", "--json"],
        "sites": access, "verify": [*access, *store, "--pages", "2"], "status": store,
    }
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "gscthreads", command, "-vv", *words[command]], cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert command == "status" or b"open to other users" in done.stderr
        search.tell(done.stdout, done.stderr)


# -- servers and proxies that repeat what they were sent


class Echo:
    """Answers every request by *status* and a body with all of the request in it."""

    def __init__(self, status, shape):
        outer = self
        self.requests = 0

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                outer.requests += 1
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                said = f"{self.headers['Authorization']} was not what we wanted"
                kind, body = shape(said, body)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST

            def log_message(self, *args):
                pass

        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.httpd.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.httpd.server_address[1]}"
        threading.Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.httpd.shutdown()
        self.httpd.server_close()


def as_json(said, request):
    return "application/json", json.dumps({"error": {"code": 403, "message": said, "errors": [{"reason": said}],
                                                     "status": said}}).encode()


def as_html(said, request):
    return "text/html", f"<html><h1>Error</h1>{said}".encode()


def in_parts(said, request):
    kind, body = as_json(said, request)
    parts = [
        f"--B\r\nContent-ID: <response-{name}>\r\n\r\nHTTP/1.1 {status}\r\n\r\n".encode() + body + b"\r\n"
        for name, status in zip(re.findall("Content-ID: <(.*?)>", request), ("403 No", "200 OK", "500 No"))
    ]
    return ("multipart/mixed; boundary=B", b"".join(parts) + b"--B--") if parts else (kind, body)


@pytest.mark.parametrize("kind", ["user", "callable", "session", "google session"])
@pytest.mark.parametrize(
    "status, shape", [(400, as_json), (401, as_json), (403, as_json), (404, as_json), (403, as_html), (503, as_html),
                      (200, as_json), (200, in_parts)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_a_server_repeats_is_not_repeated(kind, status, shape, sim, search):
    credentials = KINDS[kind](sim, search)
    with Echo(status, shape) as echo:
        result = copy(echo.url, search, credentials)
        assert echo.requests and result.status in ("failed", "parked"), result
        assert "was not what we wanted" in "".join(search.said)
        with pytest.raises(gscthreads.GscError) as caught:
            list_sites(credentials, api_root=echo.url)
        search.tell(caught.value)
    with contextlib.suppress(AttributeError):
        credentials.close()


# -- single leaks that were found


def test_a_header_that_cannot_be_sent_is_not_shown(sim, search):
    search.secrets.update({"ya29.broken-token", "ya29.br\u00f6ken"})
    for value in ("Bearer ya29.broken-token\r\nX: y", "Bearer ya29.br\u00f6ken\u1234"):
        with requests.Session() as session:
            session.headers["Authorization"] = value
            assert copy(sim, search, session).status == "failed"


def test_the_password_of_a_proxy_is_not_shown(sim, search, monkeypatch):
    search.secrets.add("proxy-password")
    for proxy in ("http://user:proxy-password@127.0.0.1:1", "socks9://u:proxy-password@h:1",
                  "http://user:proxy-password@[::1", "http://user:proxy-password@h:port"):
        monkeypatch.setenv("https_proxy", proxy)
        monkeypatch.setenv("no_proxy", "")
        info = {**user_info(sim, search), "token_uri": "https://gsc.invalid/token"}
        for credentials in (lambda: "ya29.any-token", info):
            with pytest.raises(gscthreads.GscError) as caught:
                list_sites(credentials, api_root="https://gsc.invalid")
            search.tell(caught.value)


def test_a_users_session_that_raises_a_whole_token_answer(search):
    """google-auth puts the token server's answer into its exception."""
    class RefreshError(Exception):
        retryable = False

    search.secrets.update({"secret-id-token", "1//successor"})
    answer = {"id_token": "secret-id-token", "refresh_token": "1//successor"}
    error = RefreshError("No access token in response.", answer)
    fault = send_fault(error, "h", 5, foreign=True)
    search.tell(fault)
    assert str(fault) == "the given session can't get a token: RefreshError: No access token in response."


@pytest.mark.parametrize("secret", ["ya29.a0AfH6", " ya29.a0AfH6", "Bearer ya29.a0AfH6", "1//0gRefresh-Token",
                                    "GOCSPX-of-client", "bearer eyJhbGciOi.eyJpc3MiOi.sig",
                                    "eyJhbGciOi.eyJpc3MiOi.sig"])
def test_a_secret_given_for_a_path_is_not_repeated(secret):
    with pytest.raises(CredentialsError, match="not a path") as caught:
        open_credentials(secret)
    assert secret.split()[-1] not in str(caught.value)


def test_the_search_finds_what_is_planted():
    """The tests above could not fail if this did not hold."""
    search = Search()
    search.secrets.add("ya29.planted/token+x")
    places = [
        CLIENT_SECRET, "ya29.planted%2Ftoken%2Bx", b"\x00ya29.planted/token+x\xff", {"a": CLIENT_SECRET},
        RuntimeError("x", {"Authorization": "Bearer ya29.planted/token+x"}),
        base64.b64encode(b"ya29.planted/token+x").decode(),
    ]
    for place in places:
        search.said.clear()
        search.tell(place)
        assert search.found(), place
    search.said.clear()
    try:
        try:
            raise ValueError(CLIENT_SECRET)
        except ValueError as cause:
            raise CredentialsError("clean") from cause
    except CredentialsError as error:
        search.tell(error)
    assert search.found()
    search.said.clear()
    search.tell("clean", b"clean", CredentialsError("clean"))
    assert not search.found()


@pytest.mark.parametrize("url", [
    "postgresql://u:PASSWORD@127.0.0.1:1/db", "postgresql://u:PASSWORD@127.0.0.1:port/db",
    "postgresql://u:%ZZPASSWORD@h/db", "postgresql://u:%00PASSWORD@h/db",
    "postgresql://127.0.0.1:1/db?password=PASSWORD",
    "postgresql://u:PASSWORD@127.0.0.1:1/db?sslmode=odd", "postgresql://u:PASSWORD@/db?host=/none",
    "postgresql://u:PASSWORD@h/db?nonsense=1", "postgresql://h/db?password=%ZZPASSWORD",
    "postgres://u:PASSWORD@127.0.0.1:1/db", "mysql://u:PASSWORD@h/db",
])
def test_the_password_of_a_store_is_not_shown(url, search, sim):
    if "postgres" in url:
        pytest.importorskip("psycopg2")
    search.secrets.add("PASSWORD")
    info = user_info(sim, search)
    with pytest.raises(gscthreads.GscError) as caught:
        gscthreads.Sync(gscthreads.SyncConfig(
            sites=[SITE], start=LAST, end=LAST, store=url, credentials=info, api_root=sim.url, **HURRY)).run()
    search.tell(caught.value)
    with pytest.raises(gscthreads.GscError) as caught:
        read_status(url)
    search.tell(caught.value)
