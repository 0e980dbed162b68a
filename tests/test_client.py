"""client: one answer per slice whatever the wire does, no token where it does not belong, and a halt in every hang."""

import contextlib
import datetime as dt
import gc
import gzip
import json
import logging
import os
import re
import socket
import struct
import sys
import threading

import pytest
import requests
import responses

from gscthreads import multipart
from gscthreads.client import Client
from gscthreads.errors import (
    ApiError,
    BadRequest,
    BurstQuota,
    CredentialsError,
    Denied,
    LoadQuota,
    Transient,
    Unauthorized,
)
from gscthreads.halt import Halt, Halted
from gscthreads.model import Dataset, Failed, Fetched, Report, Rows, Slice, SliceKey
from gscthreads.sockets import SocketRegistry
from tests.scripted_server import GUARD, ScriptedServer

TOKEN = "ya29.secret"
SITE = "sc-domain:example.com"
LINUX = sys.platform.startswith("linux")


def slices(count, site=SITE):
    dataset = Dataset(site, Report("page_query", ("page", "query")), "web")
    return [Slice(dataset, SliceKey(dt.date(2025, 6, 1), 25_000 * index)) for index in range(count)]


def decode(body, wanted):
    try:
        rows = json.loads(body.decode())["rows"]
    except (ValueError, KeyError):
        raise Transient("not JSON", reason="malformed") from None
    return Rows(len(rows), len(rows), rows)


class Tokens:
    """Stands for auth.Credentials."""

    session = None

    def __init__(self, fault=None):
        self.fault = fault
        self.rejected = []

    def authorize(self, http, halt=None):
        if self.fault:
            raise self.fault
        return {"Authorization": f"Bearer {TOKEN}"}

    def reject(self, headers):
        self.rejected.append(headers)


class Request:
    def __init__(self, data):
        head, self.body = data.split(b"\r\n\r\n", 1)
        self.line, *lines = head.decode().split("\r\n")
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    @property
    def ids(self):
        return re.findall(rb"Content-ID: <([^>]*)>", self.body)

    @property
    def queries(self):
        """The JSON bodies asked with, in order."""
        return [json.loads(text) for text in re.findall(rb"^\{.*\}", self.body, re.M)]


class Server(ScriptedServer):
    """Reads whole requests, and keeps them."""

    def __init__(self, script):
        self.requests = []
        super().__init__(script)

    def read(self, connection):
        data = super().read(connection)
        if data is None:
            return None
        request = Request(data)
        while len(request.body) < int(request.headers.get("content-length", "0")):
            request.body += connection.recv(65536)
        self.requests.append(request)
        return request


class Bench:
    """A client of *server* with what it needs, and what it delivered."""

    def __init__(self, url, tokens=None, http_timeout=GUARD, decode=decode):
        self.halt = Halt()
        self.now = 0.0
        self.registry = SocketRegistry(clock=lambda: self.now)
        self.halt.on_set(self.registry.abort)
        self.tokens = tokens or Tokens()
        self.delivered = []
        self.client = Client(
            api_root=url,
            credentials=self.tokens,
            registry=self.registry,
            halt=self.halt,
            http_timeout=http_timeout,
            data_state="final",
            decode=decode,
        )

    def fetch(self, batch):
        """What was delivered for *batch*: {slice: its outcome}; every slice once."""
        del self.delivered[:]
        self.client.fetch(batch, self.delivered.append)
        by_slice = {outcome.slice: outcome for outcome in self.delivered}
        assert len(by_slice) == len(self.delivered) == len(batch)
        return [by_slice[wanted] for wanted in batch]

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.client.close()


@pytest.fixture(autouse=True)
def no_file_descriptor_leaks():
    def count():
        gc.collect()
        return len(os.listdir("/proc/self/fd")) if LINUX else 0

    before = count()
    yield
    assert count() <= before


@contextlib.contextmanager
def serving(script, **options):
    with Server(script) as server, Bench(server.url, **options) as bench:
        yield server, bench


def rows_of(outcome):
    assert isinstance(outcome, Fetched), outcome
    return list(outcome.rows.pages)


def row_for(query):
    return json.dumps({"rows": [f"{query['startDate']}+{query['startRow']}"]}).encode()


def head(body, kind="application/json", status="200 OK", *headers):
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode()


def chunked(body, kind, *headers):
    """*body* gzipped and in three chunks, as Google sends it."""
    packed = gzip.compress(body)
    third = len(packed) // 3 + 1
    pieces = [packed[i : i + third] for i in range(0, len(packed), third)] + [b""]
    lines = ["HTTP/1.1 200 OK", f"Content-Type: {kind}", "Transfer-Encoding: chunked", "Content-Encoding: gzip"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces)


MULTIPART = "multipart/mixed; boundary=batch_x"


def part(content_id, body, status="200 OK", headers=(), prefix=b"<response-", suffix=b">"):
    lines = [b"--batch_x", b"Content-Type: application/http"]
    lines += [b"Content-ID: " + prefix + content_id + suffix] if content_id else []
    lines += [b"", f"HTTP/1.1 {status}".encode(), b"Content-Type: application/json", *headers, b"", body, b""]
    return b"\r\n".join(lines)


def parts_for(request, **options):
    return [part(name, row_for(query), **options) for name, query in zip(request.ids, request.queries)]


END = b"--batch_x--\r\n"


def answer(connection, request, server):
    """A correct answer to anything."""
    if request.line.startswith("POST /batch"):
        body = b"".join(parts_for(request)) + END
        connection.sendall(head(body, MULTIPART) + body)
    else:
        body = row_for(json.loads(request.body.decode()))
        connection.sendall(head(body) + body)


def batch_script(compose):
    """A server whose batch answers have the body ``compose(request)``."""

    def script(connection, request, server):
        body = compose(request)
        connection.sendall(head(body, MULTIPART) + body)

    return script


EXPECTED = [[f"2025-06-01+{25_000 * index}"] for index in range(5)]


class TestRequests:
    def test_a_plain_call(self):
        with serving(answer) as (server, bench):
            (outcome,) = bench.fetch(slices(1))
            assert rows_of(outcome) == EXPECTED[0]
        (request,) = server.requests
        assert request.line == (
            "POST /webmasters/v3/sites/sc-domain%3Aexample.com/searchAnalytics/query"
            "?prettyPrint=false&alt=json HTTP/1.1"
        )
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        assert request.headers["accept-encoding"] == "gzip"
        assert request.headers["content-type"] == "application/json"
        assert "gscthreads" in request.headers["user-agent"] and "(gzip)" in request.headers["user-agent"]
        assert request.body == (
            b'{"startDate":"2025-06-01","endDate":"2025-06-01","dimensions":["page","query"],"type":"web",'
            b'"rowLimit":25000,"startRow":0,"dataState":"final"}'
        )

    def test_a_batch(self):
        with serving(answer) as (server, bench):
            batch = slices(2, "https://www.example.com/") + slices(3)[2:]
            assert [rows_of(outcome) for outcome in bench.fetch(batch)] == EXPECTED[:3]
        (request,) = server.requests
        assert request.line == "POST /batch HTTP/1.1"
        assert request.headers["content-type"].startswith("multipart/mixed; boundary=")
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        assert TOKEN.encode() not in request.body
        path = b"POST /webmasters/v3/sites/%b/searchAnalytics/query?prettyPrint=false&alt=json HTTP/1.1\r\n"
        assert request.body.count(path % b"https%3A%2F%2Fwww.example.com%2F") == 2
        assert request.body.count(path % b"sc-domain%3Aexample.com") == 1
        assert [query["startRow"] for query in request.queries] == [0, 25_000, 50_000]

    def test_nothing_to_fetch(self):
        with Bench("http://127.0.0.1:1") as bench:
            assert bench.fetch([]) == []

    @responses.activate
    @pytest.mark.parametrize(
        "root, url",
        [
            ("https://www.googleapis.com/", "https://www.googleapis.com/batch/webmasters/v3"),
            ("https://searchconsole.googleapis.com", "https://searchconsole.googleapis.com/batch"),
        ],
    )
    def test_the_batch_path_depends_on_the_host(self, root, url):
        responses.add(responses.POST, url, status=500)
        with Bench(root) as bench:
            assert all(isinstance(outcome, Failed) for outcome in bench.fetch(slices(2)))
        assert len(responses.calls) == 1

    def test_one_session_for_each_thread(self):
        with Bench("http://127.0.0.1:1") as bench:
            found = [bench.client.session(), bench.client.session()]
            thread = threading.Thread(target=lambda: found.append(bench.client.session()))
            thread.start()
            thread.join(GUARD)
            assert found[0] is found[1] is not found[2]
            found[2].close()

    def test_a_users_session_is_used_as_it_is(self):
        with requests.Session() as session:
            tokens = Tokens()
            tokens.session = session
            session.headers["Authorization"] = "Bearer own"
            tokens.authorize = lambda http, halt=None: {}
            with serving(answer, tokens=tokens) as (server, bench):
                assert bench.client.session() is session
                assert rows_of(bench.fetch(slices(1))[0]) == EXPECTED[0]
                assert server.requests[0].headers["authorization"] == "Bearer own"
                session.close()
                gc.collect()

    def test_a_users_session_may_raise_anything(self):
        class RefreshError(Exception):
            retryable = False

        class Session(requests.Session):
            fault = RefreshError("invalid_grant")

            def request(self, *args, **kwargs):
                raise self.fault

        tokens = Tokens()
        tokens.session = Session()
        with Bench("http://127.0.0.1:1", tokens=tokens) as bench:
            with pytest.raises(CredentialsError, match="invalid_grant"):
                bench.fetch(slices(2))
            Session.fault.retryable = True
            (outcome,) = bench.fetch(slices(1))
            assert type(outcome.error) is Transient


class TestKeepAlive:
    @pytest.mark.parametrize("count", [1, 3])
    @pytest.mark.parametrize("how", ["length", "chunked gzip"])
    def test_three_fetches_use_one_connection(self, count, how):
        def script(connection, request, server):
            if how == "length":
                return answer(connection, request, server)
            if request.line.startswith("POST /batch"):
                connection.sendall(chunked(b"".join(parts_for(request)) + END + b"epilogue", MULTIPART))
            else:
                connection.sendall(chunked(row_for(json.loads(request.body.decode())), "application/json"))

        with serving(script) as (server, bench):
            for _ in range(3):
                assert [rows_of(outcome) for outcome in bench.fetch(slices(count))] == EXPECTED[:count]
            assert server.connections == 1 and len(server.requests) == 3

    @pytest.mark.parametrize("count", [1, 3])
    def test_a_refusal_keeps_the_connection(self, count):
        def script(connection, request, server):
            connection.sendall(head(b"busy", "text/html", "503 Busy") + b"busy")

        with serving(script) as (server, bench):
            for _ in range(3):
                bench.fetch(slices(count))
            assert server.connections == 1

    def test_a_broken_answer_does_not(self):
        def script(connection, request, server):
            body = b"x" * 10_000_000
            connection.sendall(head(body, "text/html", "500 Broken") + body)

        with serving(script) as (server, bench):
            for _ in range(2):
                assert bench.fetch(slices(1))[0].error.status == 500
            assert server.connections == 2

    def test_an_exception_of_deliver_closes_the_answer_and_comes_out(self):
        def deliver(outcome):
            raise Transient("from deliver")  # even one of ours

        with serving(answer) as (server, bench):
            for count in (1, 3):
                with pytest.raises(Transient, match="from deliver"):
                    bench.client.fetch(slices(count), deliver)
            assert [rows_of(outcome) for outcome in bench.fetch(slices(2))] == EXPECTED[:2]


class TestBatchAnswers:
    def check(self, compose, count=3):
        with serving(batch_script(compose)) as (server, bench):
            return bench.fetch(slices(count))

    @pytest.mark.parametrize(
        "compose",
        [
            lambda request: b"".join(parts_for(request)[::-1]) + END,
            lambda request: (b"".join(parts_for(request)) + END).replace(b"\r\n", b"\n"),
            lambda request: (b"".join(parts_for(request)) + END).replace(b"Content-ID: ", b"content-id:\r\n "),
            lambda request: b"preamble\r\n" + b"".join(parts_for(request)) + END + b"epilogue",
            lambda request: b"".join(parts_for(request, prefix=b"response-", suffix=b"")) + END,
            lambda request: b"".join(parts_for(request, prefix=b"<", suffix=b">")) + END,
            lambda request: b"".join(parts_for(request, prefix=b"", suffix=b"")) + END,
            lambda request: b"".join(parts_for(request, prefix=b"<response%2D")) + END,
            lambda request: b"".join(part(b"other-0", b"{}") + text for text in parts_for(request)) + END,
            lambda request: b"".join(parts_for(request) + [part(name, b"{}") for name in request.ids]) + END,
            lambda request: b"".join(part(None, row_for(query)) for query in request.queries) + END,
        ],
        ids="shuffled lf folded epilogue no-brackets no-prefix bare quoted mislabelled doubled no-ids".split(),
    )
    def test_every_slice_gets_its_own_rows(self, compose):
        assert [rows_of(outcome) for outcome in self.check(compose)] == EXPECTED[:3]

    @pytest.mark.parametrize("alter", ["drop", "rename", "unlabel"])
    def test_a_missing_part(self, alter):
        def compose(request):
            parts = parts_for(request)
            parts[1] = {"drop": b"", "rename": part(b"x", b"{}"), "unlabel": part(None, b'{"rows":["wrong"]}')}[alter]
            return b"".join(parts) + END

        first, second, third = self.check(compose)
        assert [rows_of(first), rows_of(third)] == [EXPECTED[0], EXPECTED[2]]
        assert type(second.error) is Transient and second.error.reason == "missingPart" and not second.alone

    def test_too_few_parts_without_ids_are_not_guessed(self):
        outcomes = self.check(lambda request: part(None, b'{"rows":["?"]}') * 2 + END)
        assert [outcome.error.reason for outcome in outcomes] == ["missingPart"] * 3

    def test_parts_that_are_refused_or_broken(self):
        quota = b'{"error":{"code":403,"message":"Search Analytics load quota exceeded.",'
        quota += b'"errors":[{"domain":"usageLimits","reason":"quotaExceeded"}]}}'

        def compose(request):
            ids = request.ids
            return (
                part(ids[0], row_for(request.queries[0]))
                + part(ids[1], quota, "403 Forbidden", [b"Retry-After: 17"])
                + part(ids[2], b"<html>")
                + part(ids[3], b"{}", "wrong")
                + part(ids[4], b"", "204 No Content")
                + END
            )

        ok, refused, html, malformed, empty = self.check(compose, 5)
        assert rows_of(ok) == EXPECTED[0]
        assert type(refused.error) is LoadQuota and refused.error.retry_after == 17
        assert [o.error.reason for o in (html, malformed)] == ["malformed", "malformed"]
        assert type(empty.error) is Transient and empty.error.status == 204
        assert all(outcome.alone for outcome in (refused, html, malformed, empty))

    def test_parts_are_delivered_as_they_arrive(self):
        more = threading.Event()

        def script(connection, request, server):
            parts = parts_for(request)
            body = b"".join(parts) + END
            header = head(body, MULTIPART).replace(b"Content-Length: %d" % len(body), b"Connection: close")
            connection.sendall(header)
            # Enough of the second part to be told from the first one's delimiter, and to fill one read.
            connection.sendall(parts[0] + parts[1][:20] + b"X: " + b"y" * 30_000)
            assert more.wait(GUARD)
            connection.sendall(b"\r\n" + parts[1][20:] + parts[2] + END)
            return False

        with serving(script) as (server, bench):
            got = []

            def deliver(outcome):
                got.append(outcome)
                more.set()

            bench.client.fetch(slices(3), deliver)
            assert [outcome.slice.key.start_row for outcome in got] == [0, 25_000, 50_000]
            assert rows_of(got[0]) == EXPECTED[0]

    @pytest.mark.parametrize("how", ["reset", "closed", "too short"])
    def test_a_break_in_the_middle_keeps_earlier_parts(self, how):
        def script(connection, request, server):
            parts = parts_for(request)
            kept, cut = parts[0] + parts[1][:20] + b"X: " + b"y" * 70_000, b"\r\n" + parts[1][20:] + parts[2] + END
            length = len(kept) + (len(cut) if how != "too short" else 0)
            connection.sendall(head(b"x" * length, MULTIPART) + kept)
            if how == "too short":
                return None
            assert first.wait(GUARD)  # else the reset could overtake what was sent
            if how == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False

        first = threading.Event()
        with serving(script) as (server, bench):
            got = []

            def deliver(outcome):
                got.append(outcome)
                first.set()

            bench.client.fetch(slices(3), deliver)
            assert rows_of(got[0]) == EXPECTED[0]
            assert [type(outcome.error) for outcome in got[1:]] == [Transient, Transient]
            assert not got[1].alone

    def test_truncated_gzip(self):
        def script(connection, request, server):
            packed = gzip.compress(b"".join(parts_for(request)) + END)[:-5]
            connection.sendall(head(packed, MULTIPART, "200 OK", "Content-Encoding: gzip") + packed)

        with serving(script) as (server, bench):
            bench.fetch(slices(3))  # the parts were complete: the end of the stream adds nothing
            (outcome,) = bench.fetch(slices(1))
            assert "no end" in str(outcome.error)

    def test_multi_member_gzip(self):
        def script(connection, request, server):
            packed = b"".join(gzip.compress(text) for text in parts_for(request) + [END]) + bytes(20)
            connection.sendall(head(packed, MULTIPART, "200 OK", "Content-Encoding: gzip") + packed)

        with serving(script) as (server, bench):
            assert [rows_of(outcome) for outcome in bench.fetch(slices(3))] == EXPECTED[:3]

    @pytest.mark.parametrize("count", [1, 2])
    def test_a_bomb(self, count, monkeypatch):
        monkeypatch.setattr("gscthreads.client.MAX_PART", 2**20)
        monkeypatch.setattr(multipart, "MAX_PART", 2**20)
        bomb = gzip.compress(bytes(20 * 2**20))

        def script(connection, request, server):
            connection.sendall(head(bomb, MULTIPART, "200 OK", "Content-Encoding: gzip") + bomb)

        with serving(script) as (server, bench):
            outcomes = bench.fetch(slices(count))
            assert {outcome.error.reason for outcome in outcomes} == {"tooLarge"}

    @pytest.mark.parametrize("count", [1, 2])
    @pytest.mark.parametrize("start", [
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000, b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200,
        b"HTTP/1.1 200 " + b"O" * 70_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", b"\0" * 70_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 70_000,
    ], ids="header headers status chunk zeros length".split())
    def test_heads_without_end(self, start, count):
        def script(connection, request, server):
            connection.sendall(start)
            server.done.wait()  # whoever reads on waits for this
            return False

        with serving(script) as (server, bench):
            for outcome in bench.fetch(slices(count)):
                assert type(outcome.error) is Transient and outcome.error.reason in ("broken", "notMultipart")

    def test_an_oversized_part(self, monkeypatch):
        monkeypatch.setattr(multipart, "MAX_PART", 1000)
        monkeypatch.setattr(multipart, "MAX_HEADERS", 1000)
        outcomes = self.check(
            lambda request: parts_for(request)[0] + part(request.ids[1], b"x" * 10_000) + parts_for(request)[2] + END
        )
        assert rows_of(outcomes[0]) == EXPECTED[0]
        assert [outcome.error.reason for outcome in outcomes[1:]] == ["tooLarge", "tooLarge"]


QPS = b'{"error":{"code":403,"message":"Search Analytics QPS quota exceeded.","errors":[{"domain":"usageLimits"}]}}'
FORBIDDEN = b'{"error":{"code":403,"message":"no permission","errors":[{"domain":"global","reason":"forbidden"}]}}'


class TestRefusals:
    @responses.activate
    @pytest.mark.parametrize("count", [1, 3])
    @pytest.mark.parametrize(
        "status, body, kind",
        [
            (403, QPS, BurstQuota),
            (403, FORBIDDEN, Denied),
            (400, b'{"error":{"message":"bad","status":"INVALID_ARGUMENT"}}', BadRequest),
            (502, b"<html>Bad gateway</html>", Transient),
            (204, b"", Transient),
        ],
    )
    def test_of_the_whole_request(self, count, status, body, kind):
        responses.add(responses.POST, re.compile("https://h/.*"), body=body, status=status)
        with Bench("https://h") as bench:
            outcomes = bench.fetch(slices(count))
        assert all(type(outcome.error) is kind for outcome in outcomes)
        assert all(outcome.error.status == status for outcome in outcomes)
        assert all(outcome.alone == (count == 1) for outcome in outcomes)
        assert bench.tokens.rejected == []

    @responses.activate
    def test_200_that_is_no_batch_answer(self):
        responses.add(responses.POST, "https://h/batch", body="<html>log in</html>", content_type="text/html")
        with Bench("https://h") as bench:
            outcomes = bench.fetch(slices(2))
        assert [(o.error.reason, o.alone) for o in outcomes] == [("notMultipart", False)] * 2

    @responses.activate
    @pytest.mark.parametrize(
        "body, kind, said",
        [(QPS, BurstQuota, "QPS"), (FORBIDDEN, Denied, "no permission"), (b'{"error":"odd"}', Transient, "odd"),
         (b'{"message":"odd"}', Transient, ""), (b"[" * 50_000, Transient, ""), (b"", Transient, "")],
    )
    def test_a_batch_answer_200_that_tells_of_an_error(self, body, kind, said):
        responses.add(responses.POST, "https://h/batch", body=body, content_type="application/json")
        with Bench("https://h") as bench:
            outcomes = bench.fetch(slices(2))
        assert all(type(outcome.error) is kind and said in str(outcome.error) for outcome in outcomes)

    @pytest.mark.parametrize("count", [1, 3])
    def test_an_outer_401_rejects_the_token_once(self, count):
        def script(connection, request, server):
            connection.sendall(head(b"", "text/html", "401 Unauthorized"))

        with serving(script) as (server, bench):
            outcomes = bench.fetch(slices(count))
            assert all(type(outcome.error) is Unauthorized for outcome in outcomes)
            assert bench.tokens.rejected == [{"Authorization": f"Bearer {TOKEN}"}]

    def test_inner_401s_reject_the_token_once(self):
        def compose(request):
            return parts_for(request)[0] + b"".join(part(name, b"{}", "401 No") for name in request.ids[1:]) + END

        with serving(batch_script(compose)) as (server, bench):
            outcomes = bench.fetch(slices(3))
            assert rows_of(outcomes[0]) == EXPECTED[0]
            assert [(type(outcome.error), outcome.alone) for outcome in outcomes[1:]] == [(Unauthorized, True)] * 2
            assert bench.tokens.rejected == [{"Authorization": f"Bearer {TOKEN}"}]

    @pytest.mark.parametrize("status", ["404 Not Found", "405 Method Not Allowed", "501 Not Implemented"])
    def test_a_server_without_batches(self, status, caplog):
        def script(connection, request, server):
            if request.line.startswith("POST /batch"):
                connection.sendall(head(b"", "text/html", status))
            else:
                answer(connection, request, server)

        with serving(script) as (server, bench):
            assert bench.client.batch_supported
            for _ in range(2):
                outcomes = bench.fetch(slices(2))
                assert [(o.error.reason, o.alone) for o in outcomes] == [("noBatch", False)] * 2
                assert not bench.client.batch_supported
            assert len(server.requests) == 1
            assert [record.levelname for record in caplog.records if record.name == "gscthreads.client"] == ["WARNING"]
            assert rows_of(bench.fetch(slices(1))[0]) == EXPECTED[0]

    @pytest.mark.parametrize("count", [1, 2])
    def test_a_redirect_is_not_followed(self, count):
        with Server(answer) as other:
            location = f"Location: {other.url}/x?y=secret"

            def script(connection, request, server):
                connection.sendall(head(b"", "text/html", "302 Found", location))

            with serving(script) as (server, bench):
                outcomes = bench.fetch(slices(count))
                assert len(server.requests) == 1
            assert other.requests == []
        for outcome in outcomes:
            assert type(outcome.error) is BadRequest
            assert "redirects are not followed" in str(outcome.error) and "secret" not in str(outcome.error)

    @pytest.mark.parametrize("count", [1, 2])
    def test_connection_refused(self, count):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with Bench(f"http://user:pw@127.0.0.1:{port}") as bench:
            outcomes = bench.fetch(slices(count))
        for outcome in outcomes:
            assert type(outcome.error) is Transient
            assert outcome.error.message == f"can't reach 127.0.0.1:{port}: connection refused"
            assert outcome.alone == (count == 1)

    def test_an_unknown_host(self, monkeypatch):
        def getaddrinfo(*args):
            raise socket.gaierror(-2, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with Bench("http://gsc.invalid") as bench:
            (outcome,) = bench.fetch(slices(1))
        assert outcome.error.message == "can't reach gsc.invalid: host name not found"

    def test_a_read_time_out(self):
        def script(connection, request, server):
            server.done.wait()
            return False

        with serving(script, http_timeout=0.05) as (server, bench):
            (outcome,) = bench.fetch(slices(1))
            assert outcome.error.message == f"no answer from 127.0.0.1:{server.port} within 0.05 s"

    def test_a_read_time_out_in_the_body(self):
        def script(connection, request, server):
            connection.sendall(head(b"x" * 100) + b"x")
            server.done.wait()
            return False

        with serving(script, http_timeout=0.5) as (server, bench):
            (outcome,) = bench.fetch(slices(1))
            assert outcome.error.reason == "timeout"

    @pytest.mark.parametrize("count", [1, 2])
    def test_no_token_for_now(self, count):
        with Bench("http://127.0.0.1:1", tokens=Tokens(Transient("token server is down"))) as bench:
            outcomes = bench.fetch(slices(count))
        assert all(outcome.error.message == "token server is down" for outcome in outcomes)

    def test_a_404_of_the_token_server_says_nothing_about_batches(self):
        with Bench("http://127.0.0.1:1", tokens=Tokens(Transient("no such token", status=404))) as bench:
            assert [o.error.message for o in bench.fetch(slices(2))] == ["no such token"] * 2
            assert bench.client.batch_supported

    def test_no_token_ever(self):
        with Bench("http://127.0.0.1:1", tokens=Tokens(CredentialsError("revoked"))) as bench:
            with pytest.raises(CredentialsError, match="revoked"):
                bench.fetch(slices(2))
            assert bench.delivered == []

    def test_a_broken_token_is_not_shown(self):
        tokens = Tokens()
        tokens.authorize = lambda http, halt=None: {"Authorization": f"Bearer {TOKEN}\r\nX: y"}
        with serving(answer, tokens=tokens) as (server, bench):
            (outcome,) = bench.fetch(slices(1))
            assert type(outcome.error) is BadRequest and TOKEN not in str(outcome.error)

    def test_errors_do_not_keep_the_answer_alive(self):
        """The frames of a traceback would hold the connection and the bytes as long as the error is kept."""

        def compose(request):
            return part(request.ids[0], b"<html>") + b"--batch_x"

        with serving(batch_script(compose)) as (server, bench):
            for outcome in bench.fetch(slices(2)):
                error = outcome.error
                while error is not None:
                    assert error.__traceback__ is None
                    error = error.__cause__ or error.__context__

    def test_logs_hold_no_token(self, caplog):
        caplog.set_level(logging.DEBUG)
        with serving(answer) as (server, bench):
            bench.fetch(slices(1))
            bench.fetch(slices(2))
        assert any(record.name == "gscthreads.client" for record in caplog.records)
        assert TOKEN not in caplog.text


class TestSites:
    def ask(self, body, status=200):
        with responses.RequestsMock() as mock, Bench("https://h") as bench:
            mock.add(responses.GET, "https://h/webmasters/v3/sites", body=body, status=status)
            return bench.client.sites()

    def test_listed(self):
        body = {"siteEntry": [{"siteUrl": "b", "permissionLevel": "siteOwner"}, {"siteUrl": "a"}]}
        assert self.ask(json.dumps(body)) == [("b", "siteOwner"), ("a", "")]

    def test_none(self):
        assert self.ask("{}") == []

    @pytest.mark.parametrize("body", ["", "[]", "<html>", '{"siteEntry":[1]}', '{"siteEntry":[{}]}', '{"siteEntry":3}',
                                      '{"error":{"code":500}}', '{"message":"log in"}'])
    def test_malformed(self, body):
        with pytest.raises(Transient):
            self.ask(body)

    @pytest.mark.parametrize(
        "status, kind", [(401, Unauthorized), (403, Transient), (500, Transient), (302, BadRequest)]
    )
    def test_refused(self, status, kind):
        with pytest.raises(ApiError) as caught:
            self.ask("", status)
        assert type(caught.value) is kind

    def test_halted(self):
        with Bench("https://h") as bench:
            bench.halt.set("test")
            with pytest.raises(Halted, match="test"):
                bench.client.sites()

    def test_a_list_too_large_to_be_one(self):
        """64 MiB of "{}," would become 1.5 GB of Python objects."""
        body = b'{"siteEntry":[' + b"{}," * 2**20 + b"{}]}"
        for ask in (lambda client: client.sites(),
                    lambda client: client.clicks_by_day("a", "web", dt.date(2026, 1, 1), dt.date(2026, 1, 2))):
            with responses.RequestsMock() as mock, Bench("https://h") as bench:
                mock.add(method=responses.GET, url=re.compile("https://h/.*"), body=body)
                mock.add(method=responses.POST, url=re.compile("https://h/.*"), body=body)
                mock.assert_all_requests_are_fired = False
                with pytest.raises(Transient) as caught:
                    ask(bench.client)
            assert caught.value.reason == "tooLarge"

    @pytest.mark.parametrize("body", ["", "[]", "{}", '{"error":{}}', '{"rows":[{}]}', '{"rows":null}', '{"rows":[1]}',
                                      '{"rows":[{"keys":["2026-1-1"],"clicks":1e999}]}',
                                      '{"rows":[{"keys":[],"clicks":1}]}'])
    def test_clicks_by_day_malformed(self, body):
        with responses.RequestsMock() as mock, Bench("https://h") as bench:
            mock.add(method=responses.POST, url=re.compile("https://h/.*"), body=body)
            with pytest.raises(Transient):
                bench.client.clicks_by_day("a", "web", dt.date(2026, 1, 1), dt.date(2026, 1, 2))


def hang_with(start):
    """Sends what ``start(request)`` gives, then nothing."""

    def script(connection, request, server):
        connection.sendall(start(request))
        server.reached.release()
        server.done.wait()
        return False

    return script


def drip_with(start, unit):
    def script(connection, request, server):
        connection.sendall(start(request))
        server.reached.release()
        while not server.done.wait(0.02):
            connection.sendall(unit)
        return False

    return script


def _half_a_batch(request):
    body = b"".join(parts_for(request)) + END
    return head(body, MULTIPART) + body[: len(body) // 2]


def _half_a_gzip(request):
    packed = gzip.compress(os.urandom(1000))
    return head(packed, MULTIPART, "200 OK", "Content-Encoding: gzip") + packed[:500]


_NO_LENGTH = b"HTTP/1.1 200 OK\r\nContent-Type: " + MULTIPART.encode() + b"\r\n\r\n"
HANGS = {
    "no answer": hang_with(lambda request: b""),
    "half a header": hang_with(lambda request: b"HTTP/1.1 200 OK\r\nContent-Le"),
    "dripping header": drip_with(lambda request: b"HTTP/1.1 200 OK\r\nX: ", b"y"),
    "half a body": hang_with(_half_a_batch),
    "dripping body": drip_with(_half_a_batch, b" "),
    "endless body": drip_with(lambda request: _NO_LENGTH, b" "),
    "half a gzip": hang_with(_half_a_gzip),
    "half a refusal": hang_with(lambda request: head(b"x" * 100, "text/html", "503 Busy") + b"x"),
}


class Fetching(threading.Thread):
    """``bench.client.fetch`` in a worker thread."""

    def __init__(self, bench, batch):
        super().__init__(daemon=True)
        self.bench, self.batch, self.delivered, self.error = bench, batch, [], None
        self.start()

    def run(self):
        try:
            self.bench.client.fetch(self.batch, self.delivered.append)
        except BaseException as error:
            self.error = error

    def ended(self):
        self.join(GUARD / 2)
        return not self.is_alive()


class TestHalt:
    @pytest.mark.parametrize("count", [1, 3])
    @pytest.mark.parametrize("hang", HANGS)
    def test_in_every_hang(self, hang, count):
        with serving(HANGS[hang]) as (server, bench):
            threads = [Fetching(bench, slices(count)) for _ in range(3)]
            for _ in threads:
                assert server.reached.acquire(timeout=GUARD)
            bench.halt.set("deploy")
            assert all([thread.ended() for thread in threads])
            assert [repr(thread.error) for thread in threads] == ["Halted('deploy')"] * 3
            assert not any(isinstance(outcome, Failed) for thread in threads for outcome in thread.delivered)

    def test_before_the_request(self):
        with serving(answer) as (server, bench):
            bench.halt.set("early")
            with pytest.raises(Halted, match="early"):
                bench.fetch(slices(2))
            assert server.connections == 0

    def test_while_the_token_is_fetched(self):
        for fault in (None, CredentialsError("interrupted"), Transient("interrupted")):
            tokens = Tokens()
            with serving(answer, tokens=tokens) as (server, bench):

                def authorize(http, halt=None):
                    bench.halt.set("now")
                    if fault:
                        raise fault
                    return {}

                tokens.authorize = authorize
                with pytest.raises(Halted):
                    bench.fetch(slices(2))
                assert server.connections == 0 and bench.delivered == []

    def test_between_two_parts(self):
        with serving(answer) as (server, bench):

            def deliver(outcome):
                bench.delivered.append(outcome)
                bench.halt.set("enough")

            with pytest.raises(Halted):
                bench.client.fetch(slices(3), deliver)
            assert len(bench.delivered) == 1


class TestDeadline:
    @pytest.mark.parametrize("hang", HANGS)
    @pytest.mark.parametrize("count, seconds", [(1, 110), (3, 130)])
    def test_ends_every_hang(self, hang, count, seconds):
        with serving(HANGS[hang], http_timeout=100) as (server, bench):
            thread = Fetching(bench, slices(count))
            assert server.reached.acquire(timeout=GUARD)
            assert bench.registry.expire(seconds - 0.1) == 0
            assert bench.registry.expire(seconds + 0.1) == 1
            assert thread.ended()
            assert thread.error is None and len(thread.delivered) == count
            failed = [outcome.error for outcome in thread.delivered if isinstance(outcome, Failed)]
            if hang == "half a refusal" and failed[0].status == 503:
                return  # its header was read in time, and says more than the deadline does
            assert {error.message for error in failed} == {f"no complete answer within {seconds} s"}

    def test_a_plain_answer_without_length_that_it_cuts_off_is_no_answer(self):
        start = b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"rows":[]}'
        with serving(drip_with(lambda request: start, b" "), http_timeout=100) as (server, bench):
            thread = Fetching(bench, slices(1))
            assert server.reached.acquire(timeout=GUARD)
            assert bench.registry.expire(111) == 1
            assert thread.ended()
            assert thread.delivered[0].error.message == "no complete answer within 110 s"

    def test_time_spent_in_deliver_does_not_count(self):
        with serving(answer, http_timeout=100) as (server, bench):

            def deliver(outcome):
                bench.delivered.append(outcome)
                bench.now += 10**6
                assert bench.registry.expire(bench.now) == 0

            bench.client.fetch(slices(3), deliver)
            assert [rows_of(outcome) for outcome in bench.delivered] == EXPECTED[:3]


def test_many_threads_at_once():
    with serving(answer) as (server, bench):
        threads = [Fetching(bench, slices(5)) for _ in range(8)]
        assert all([thread.ended() for thread in threads])
        assert all([rows_of(outcome) for outcome in thread.delivered] == EXPECTED for thread in threads)
