"""Who is trusted with credentials: servers whose certificate holds, the address that was asked for, and this machine.

What single connections and files do is tested in test_sockets, test_auth and test_client; here it is whole runs.
"""

from __future__ import annotations

import datetime as dt
import http.server
import inspect
import json
import logging
import ssl
import threading

import pytest
import requests

import gscthreads
from gscthreads import cli, pacific
from gscthreads.errors import BadRequest, ConfigError, CredentialsError
from gscthreads.simulator import Simulator
from gscthreads.sync import list_sites
from test_sockets import _certificate

SITE = "sc-domain:example.com"
LAST = pacific.today() - dt.timedelta(days=20)
BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
ANSWER = {"responseAggregationType": "byPage"}  # a day without rows


class Server:
    """Notes the headers of each request, and answers by ``answer(path)``: (status, headers, body)."""

    def __init__(self, answer, certificate=None):
        self.requests = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.requests.append((self.path, dict(self.headers)))
                status, headers, body = answer(self.path)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST

            def log_message(self, *args):
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address):
                pass  # a client that doesn't trust us

        self.httpd = Quiet(("127.0.0.1", 0), Handler)
        scheme = "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.httpd.socket = context.wrap_socket(self.httpd.socket, server_side=True, do_handshake_on_connect=False)
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self.httpd.server_address[1]}"
        threading.Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.httpd.shutdown()
        self.httpd.server_close()


def json_answer(**fields):
    return 200, {"Content-Type": "application/json"}, json.dumps(fields).encode()


def google(path):
    """As much of Google as these tests need."""
    if path == "/token":
        return json_answer(access_token="ya29.of-the-server", expires_in=3599)
    if path == "/batch":
        return 404, {}, b""
    return json_answer(**ANSWER)


def user(token_uri):
    return {"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c",
            "token_uri": token_uri}


def copy(url, credentials, path, **more):
    return gscthreads.sync(
        SITE, start=LAST, end=LAST, store=f"sqlite:///{path}", credentials=credentials, api_root=url, reports=["page"],
        backoff_base=0.001, backoff_cap=0.002, max_attempts=3, rate_limit_enabled=False, **more,
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "search.db"


@pytest.fixture(autouse=True)
def no_bundles(monkeypatch):
    for name in BUNDLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """The command line sets it up for its own process."""
    logger = logging.getLogger("gscthreads")
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


# -- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return _certificate(tmp_path_factory.mktemp("tls") / "server.pem")


@pytest.fixture(scope="module")
def other_certificate(tmp_path_factory):
    return _certificate(tmp_path_factory.mktemp("tls") / "other.pem")


@pytest.fixture
def secure(certificate):
    with Server(google, certificate) as server:
        yield server


def test_a_server_that_is_not_trusted_is_refused_at_once_and_told_how_it_would_be(secure, path):
    result = copy(secure.url, lambda: "ya29.token", path)
    assert result.status == "failed" and result.retries == 0
    host = secure.url.partition("//")[2]
    assert result.reason.startswith(f"the certificate of {host} is not trusted (TLS: self")
    assert "ca_bundle" in result.reason
    assert secure.requests == []


def test_a_token_server_that_is_not_trusted_gets_nothing(secure, path):
    with Server(google) as api:
        with pytest.raises(CredentialsError, match="certificate of .* is not trusted.*ca_bundle"):
            copy(api.url, user(f"{secure.url}/token"), path)
        assert api.requests == secure.requests == []


def test_with_its_ca_it_is_trusted_for_api_and_token(secure, path, certificate):
    result = copy(secure.url, user(f"{secure.url}/token"), path, ca_bundle=certificate)
    assert (result.status, result.days) == ("complete", 1)
    assert {request for request, _ in secure.requests} >= {"/token"}


def test_a_certificate_for_another_name_is_refused(secure, path, certificate):
    result = copy(secure.url.replace("127.0.0.1", "localhost"), lambda: "ya29.token", path, ca_bundle=certificate)
    assert result.status == "failed" and "is not trusted (TLS: hostname" in result.reason
    assert secure.requests == []


@pytest.mark.parametrize("name", BUNDLES)
def test_the_environment_names_a_ca_too(name, secure, path, certificate, other_certificate, monkeypatch):
    monkeypatch.setenv(name, certificate)
    assert copy(secure.url, lambda: "ya29.token", path).status == "complete"
    with pytest.raises(BadRequest, match="not trusted"):  # ours outranks it
        list_sites(lambda: "ya29.token", api_root=secure.url, ca_bundle=other_certificate)
    for nothing in ("", "0", "/no/such/file"):
        monkeypatch.setenv(name, nothing)
        seen = len(secure.requests)
        with pytest.raises(BadRequest, match=f"not trusted|no CA certificates: .*{name}"):
            list_sites(lambda: "ya29.token", api_root=secure.url)
        assert len(secure.requests) == seen


@pytest.mark.parametrize("make", [
    lambda folder: folder / "missing.pem", lambda folder: "", lambda folder: False, lambda folder: 0,
    lambda folder: folder.joinpath("junk.pem").write_text("junk") and str(folder / "junk.pem"),
])
def test_a_ca_bundle_that_is_none_is_an_error_at_once(make, path, tmp_path, capsys):
    bundle = make(tmp_path)
    with pytest.raises(ConfigError, match="ca_bundle .* is not a file of CA certificates"):
        copy("https://127.0.0.1:1", lambda: "ya29.token", path, ca_bundle=bundle)
    with pytest.raises(ConfigError, match="ca_bundle"):
        list_sites(lambda: "ya29.token", ca_bundle=bundle)
    credentials = tmp_path / "credentials.json"
    credentials.write_text(json.dumps(user("https://127.0.0.1:1")))
    words = ["sites", "--credentials", str(credentials), "--ca-bundle", str(bundle)]
    assert cli.main(words) == 2
    assert "ca_bundle" in capsys.readouterr().err
    assert not path.exists()


def test_there_is_no_switch_that_turns_checks_off(capsys):
    """Neither an argument nor an option: a look at every name there is."""
    functions = [gscthreads.sync, gscthreads.SyncConfig, gscthreads.Sync, list_sites]
    names = {name for function in functions for name in inspect.signature(function).parameters}
    texts = []
    for command in ("sync", "sites", "verify"):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        texts.append(capsys.readouterr().out)
    for word in ("insecure", "no-verify", "no_verify", "verify_ssl", "verify_tls", "ssl_verify", "skip"):
        assert not any(word in name for name in names) and not any(word in text for text in texts)
    assert "verify" not in names


# -- redirects


REDIRECTS = [301, 302, 303, 307, 308]


@pytest.mark.parametrize("status", REDIRECTS)
@pytest.mark.parametrize("where", ["other host", "same host", "relative", "other name"])
@pytest.mark.parametrize("kind", ["callable", "session"])
def test_no_redirect_of_the_api_is_followed(status, where, kind, path):
    with Server(google) as other:
        def redirect(request):
            target = {"other host": f"{other.url}/elsewhere", "same host": f"{server.url}/elsewhere",
                      "relative": "/elsewhere", "other name": other.url.replace("127.0.0.1", "localhost")}[where]
            return status, {"Location": target}, b""

        with Server(redirect) as server, requests.Session() as session:
            session.headers["Authorization"] = "Bearer ya29.own"
            credentials = session if kind == "session" else lambda: "ya29.token"
            for batch_size in (1, 3):
                result = copy(server.url, credentials, path, batch_size=batch_size)
                assert result.status == "failed" and "redirects are not followed" in result.reason
            with pytest.raises(BadRequest, match="redirects are not followed"):
                list_sites(credentials, api_root=server.url)
            assert not any("elsewhere" in asked for asked, _ in server.requests)
        assert other.requests == []


@pytest.mark.parametrize("status", REDIRECTS)
def test_no_redirect_of_the_token_server_is_followed(status, path):
    with Server(google) as other, Server(lambda request: (status, {"Location": f"{other.url}/token"}, b"")) as server:
        with pytest.raises(CredentialsError, match="redirect"):
            copy(other.url, user(f"{server.url}/token"), path)
        assert [asked for asked, _ in server.requests] == ["/token"]
        assert other.requests == []


# -- this machine


def test_the_look_alike_listens_on_the_loopback_interface_only():
    with Simulator() as sim:
        port = int(sim.url.rpartition(":")[2])
        assert sim.url == f"http://127.0.0.1:{port}"
        assert sim._server.socket.getsockname() == ("127.0.0.1", port)
    with pytest.raises(TypeError, match="host"):
        Simulator(host="0.0.0.0")
    for words in (["--host", "0.0.0.0"], ["--port", "0.0.0.0:80"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(["simulate", *words])
        assert caught.value.code == 2


@pytest.mark.parametrize(
    "root", ["http://example.com", "http://10.0.0.1", "http://127.0.0.1.example.com", "http://0.0.0.0"]
)
def test_a_token_goes_unencrypted_to_this_machine_only(root, path):
    with pytest.raises(ConfigError, match="unencrypted"):
        copy(root, lambda: "ya29.token", path)
    with pytest.raises(ConfigError, match="unencrypted"):
        list_sites(lambda: "ya29.token", api_root=root)
