"""body: decompression in bounds, and no truncated body passes for a whole one."""

import gzip
import http.client
import io
import socket
import ssl
import zlib

import pytest
import requests
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from gscthreads import body as body_module
from gscthreads.body import (
    Body,
    classify,
    describe_fault,
    is_unreachable,
    read_not_multipart,
    read_refusal,
    send_fault,
)
from gscthreads.errors import BadRequest, CredentialsError, Transient, Unauthorized
from tests.properties import examples


class Raw:
    """Stands for ``response.raw``: yields chunks, then raises."""

    def __init__(self, chunks, fault=None):
        self.chunks = chunks
        self.fault = fault
        self.taken = 0

    def stream(self, size, decode_content):
        assert decode_content is False
        for chunk in self.chunks:
            self.taken += 1
            yield chunk
        if self.fault is not None:
            raise self.fault


def respond(chunks, headers=None, fault=None, status=200):
    response = requests.Response()
    response.status_code = status
    response.headers.update(headers or {})
    response.raw = Raw(chunks, fault)
    return response


def read(chunks, encoding="", max_bytes=10**6, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Body(respond(chunks, {"Content-Encoding": encoding, **headers}), max_bytes=max_bytes).read_all()


def deflate_raw(data):
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


DATA = bytes(range(256)) * 20


@pytest.mark.parametrize(
    "encoding, packed",
    [
        ("", DATA),
        ("identity", DATA),
        ("gzip", gzip.compress(DATA)),
        ("GZip, identity", gzip.compress(DATA)),
        ("x-gzip", gzip.compress(DATA)),
        ("gzip", gzip.compress(DATA[:100]) + gzip.compress(b"") + gzip.compress(DATA[100:])),
        ("gzip", gzip.compress(DATA) + bytes(700)),
        ("gzip", gzip.compress(DATA[:100]) + bytes(3) + gzip.compress(DATA[100:]) + b"\0"),
        ("deflate", zlib.compress(DATA)),
        ("deflate", deflate_raw(DATA)),
    ],
)
def test_encodings(encoding, packed):
    for size in (1, 7, 1000, len(packed)):
        chunks = [packed[i : i + size] for i in range(0, len(packed), size)]
        assert read(chunks, encoding) == DATA
    assert read([packed], encoding, Content_Length=str(len(packed))) == DATA


def test_a_deflate_stream_that_begins_almost_like_one_with_a_header_has_none():
    begins_alike = 0
    for number in range(500):
        packed = deflate_raw(b"%d" % number * 3)
        begins_alike += (packed[0] * 256 + packed[1]) % 31 == 0
        assert read([packed], "deflate") == b"%d" % number * 3
    assert begins_alike > 0


@examples(100)
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5), st.lists(st.integers(0, 2000), max_size=20))
def test_members_and_cuts_do_not_matter(members, cuts):
    packed = b"".join(gzip.compress(member) for member in members)
    places = [0, *sorted(min(cut, len(packed)) for cut in cuts), len(packed)]
    chunks = [packed[a:b] for a, b in zip(places, places[1:])]
    assert read(chunks, "gzip") == b"".join(members)


def test_every_truncation_is_noticed():
    packed = gzip.compress(DATA[:300])
    for size in range(len(packed)):
        with pytest.raises(Transient):
            read([packed[:size]], "gzip")
    for packed in (zlib.compress(DATA), deflate_raw(DATA)):
        with pytest.raises(Transient):
            read([packed[:-1]], "deflate")


@pytest.mark.parametrize(
    "encoding, packed",
    [
        ("gzip", b"<html>not gzip"),
        ("gzip", gzip.compress(DATA) + b"rubbish"),
        ("gzip", zlib.compress(DATA)),
        ("gzip", gzip.compress(DATA)[:-8] + bytes(8)),
        ("gzip", b""),
        ("deflate", b"\xff\xff\xff\xff"),
        ("br", DATA),
        ("gzip, gzip", gzip.compress(gzip.compress(DATA))),
    ],
)
def test_damage_is_transient(encoding, packed):
    with pytest.raises(Transient) as caught:
        read([packed] if packed else [], encoding)
    assert caught.value.reason == "broken"


@pytest.mark.parametrize("announced", [len(DATA) + 1, len(DATA) - 1, 0, "000"])
def test_content_length_is_checked(announced):
    with pytest.raises(Transient, match="bytes"):
        read([DATA], Content_Length=str(announced))


@pytest.mark.parametrize(
    "announced",
    [f"{len(DATA)}", f"00{len(DATA)}", f"{len(DATA)}, {len(DATA)}", "rubbish", "-1", "", "\xb2", "9" * 5000],
)
def test_content_length_in_order_or_unusable(announced):
    assert read([DATA], Content_Length=announced) == DATA


def test_content_length_beside_transfer_encoding_means_nothing():
    assert read([DATA], Content_Length="1", Transfer_Encoding="chunked") == DATA


def test_a_bomb_is_never_inflated_at_once():
    layer = gzip.compress(bytes(200 * 2**20), 9)
    response = respond([layer], {"Content-Encoding": "gzip"})
    sizes = []
    with pytest.raises(Transient, match="answer larger than 16 MiB") as caught:
        for chunk in Body(response, max_bytes=16 * 2**20):
            sizes.append(len(chunk))
    assert caught.value.reason == "tooLarge"
    assert max(sizes) <= 2**20 and sum(sizes) <= 16 * 2**20


def test_endless_input_without_output_is_limited():
    def members():
        while True:
            yield gzip.compress(b"") * 1000

    with pytest.raises(Transient) as caught:
        Body(respond(members(), {"Content-Encoding": "gzip"}), max_bytes=1000).read_all()
    assert caught.value.reason == "tooLarge"


def test_read_all_limit():
    with pytest.raises(Transient, match="answer larger than 100 bytes"):
        Body(respond([DATA]), max_bytes=10**6).read_all(100)
    assert Body(respond([DATA]), max_bytes=10**6).read_all(len(DATA)) == DATA


def test_read_start_takes_what_it_can_get():
    raw = [b"a" * 10] * 10
    assert Body(respond(raw), max_bytes=1000).read_start(25) == b"a" * 25
    assert Body(respond(raw, fault=ConnectionResetError()), max_bytes=1000).read_start(1000) == b"a" * 100
    assert Body(respond(raw, {"Content-Encoding": "br"}), max_bytes=1000).read_start(1000) == b""


@pytest.mark.parametrize(
    "fault, words, reason",
    [
        (socket.timeout("timed out"), "timed out", "timeout"),
        (urllib3.exceptions.ReadTimeoutError(None, "/", "Read timed out."), "timed out", "timeout"),
        (requests.exceptions.ReadTimeout(urllib3.exceptions.ReadTimeoutError(None, "/", "x")), "timed out", "timeout"),
        (urllib3.exceptions.ProtocolError("x", ConnectionResetError(104, "Reset by peer")), "reset by peer", "broken"),
        (urllib3.exceptions.ProtocolError("x", http.client.IncompleteRead(b"x", 5)), "in the middle", "broken"),
        (http.client.IncompleteRead(b"x"), "in the middle", "broken"),
        (requests.exceptions.ChunkedEncodingError("x"), "ChunkedEncodingError", "broken"),
        (requests.exceptions.ConnectionError("x"), "ConnectionError", "broken"),
        (ssl.SSLError(1, "[SSL] record layer failure"), "TLS", "broken"),
        (ValueError("read length must be non-negative or -1"), "ValueError", "broken"),
        (OSError(5, "Input/output error"), "input/output error", "broken"),
    ],
)
def test_faults_of_the_wire_are_transient(fault, words, reason):
    with pytest.raises(Transient, match=words) as caught:
        Body(respond([b"abc"], fault=fault), max_bytes=1000).read_all()
    assert caught.value.reason == reason
    assert caught.value.__cause__ is fault


def test_other_exceptions_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        Body(respond([], fault=ZeroDivisionError()), max_bytes=1000).read_all()


def test_a_real_urllib3_response():
    packed = gzip.compress(DATA)
    response = requests.Response()
    response.headers["Content-Encoding"] = "gzip"
    response.raw = urllib3.HTTPResponse(
        io.BytesIO(packed), headers={"Content-Encoding": "gzip"}, preload_content=False, decode_content=True
    )
    body = Body(response, max_bytes=10**6)
    assert body.read_all() == DATA
    assert body.received == len(packed)


def test_a_body_that_a_hook_has_read():
    response = respond([], {"Content-Encoding": "gzip", "Content-Length": "7"})
    response.raw = io.BytesIO(DATA)
    assert response.content == DATA
    assert Body(response, max_bytes=10**6).read_all() == DATA
    with pytest.raises(Transient):
        Body(response, max_bytes=10).read_all()


def test_refusals_are_read_and_bounded():
    def endless():
        while True:
            yield b"x" * 1000

    error = read_refusal(respond(endless(), status=502))
    assert isinstance(error, Transient) and error.status == 502
    error = read_refusal(respond([b'{"error":{"message":"Invalid Credentials"}}'], status=401))
    assert isinstance(error, Unauthorized) and "Invalid Credentials" in str(error)
    error = read_refusal(respond([], {"Location": "https://u:secret@evil.example:8/x?token=secret"}, status=302))
    assert isinstance(error, BadRequest)
    assert str(error) == "the server redirects to evil.example:8; redirects are not followed [302 redirect]"
    assert "another path" in str(read_refusal(respond([], {"Location": "//[bad"}, status=307)))
    reasons = {status: read_refusal(respond([b"no"], status=status)).reason for status in (299, 300, 399, 400)}
    assert reasons == {299: "", 300: "redirect", 399: "redirect", 400: ""}


@pytest.mark.parametrize(
    "status, reason, words",
    [(0, "malformed", "this part of the batch is not an HTTP answer"), (200, "", "HTTP 200 instead of an answer"),
     (204, "", "HTTP 204 instead of an answer"), (299, "", "HTTP 299 instead of an answer"), (503, "", "down")],
)
def test_what_is_no_answer_is_asked_for_again(status, reason, words):
    error = classify(status, b"down", {})
    assert (type(error), error.reason, error.message) == (Transient, reason, words)


@pytest.mark.parametrize(
    "content, expected, reason",
    [
        (b"<html>", Transient, "notMultipart"), (b"", Transient, "notMultipart"), (b"{}", Transient, "notMultipart"),
        (b"[" * 60_000, Transient, "notMultipart"), (b'{"error":null}', Transient, "notMultipart"),
        (b'{"error":{"code":401,"status":"UNAUTHENTICATED"}}', Unauthorized, "UNAUTHENTICATED"),
        (b'{"error":{"code":400,"status":"INVALID"}}', BadRequest, "INVALID"), (b'{"error":"no"}', Transient, ""),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_an_answer_to_a_batch_that_is_not_multipart_may_tell_why(content, expected, reason):
    error = read_not_multipart(respond([content], {"Content-Type": "application/json"}))
    assert (type(error), error.reason) == (expected, reason)


def reset():
    return ConnectionResetError(104, "Connection reset by peer")


@pytest.mark.parametrize(
    "fault, expected, reason, words",
    [
        (requests.exceptions.ConnectTimeout("x"), Transient, "unreachable", "can't reach h:1: ConnectTimeout"),
        (requests.exceptions.ConnectionError(urllib3.exceptions.NewConnectionError(None, "x")), Transient,
         "unreachable", "can't reach h:1: NewConnectionError"),
        (requests.exceptions.ProxyError(reset()), Transient, "unreachable",
         "can't reach h:1 through the proxy: connection reset by peer"),
        (requests.exceptions.SSLError(ssl.SSLError(1, "[SSL] record layer failure")), Transient, "unreachable",
         "can't reach h:1: TLS: failed"),
        (requests.exceptions.ReadTimeout(urllib3.exceptions.ReadTimeoutError(None, "/", "x")), Transient, "timeout",
         "no answer from h:1 within 5 s"),
        (requests.exceptions.ConnectionError(urllib3.exceptions.ProtocolError("x", reset())), Transient, "broken",
         "the connection to h:1 broke: connection reset by peer"),
        (OSError("Could not find a suitable TLS CA certificate bundle, invalid path: /x"), BadRequest, "certificate",
         "no CA certificates: REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names no file"),
    ],
)
def test_what_became_of_a_request_that_got_no_answer(fault, expected, reason, words):
    error = send_fault(fault, "h:1", 5, foreign=False)
    assert (type(error), error.reason, error.message, error.__cause__) == (expected, reason, words, fault)


def test_send_faults_hold_no_secrets():
    secret = requests.exceptions.InvalidHeader("Invalid header: Bearer ya29.secret")
    error = send_fault(secret, "h:1", 5, foreign=False)
    assert type(error) is BadRequest and "secret" not in str(error)
    assert send_fault(KeyError("x"), "h:1", 5, foreign=False) is None


@pytest.mark.parametrize("second", ["https://u:secret@h/?token=secret", KeyError("secret")])
@pytest.mark.parametrize("first", ["x", 104])
def test_an_exception_of_somebody_elses_is_described_by_known_words(first, second):
    """Whatever has two arguments looks like an OSError of the system's, of which they are number and words."""
    error = send_fault(requests.exceptions.ConnectionError(first, second), "h:1", 5, foreign=True)
    assert type(error) is Transient and "secret" not in str(error)


def test_send_faults_of_a_users_session():
    class RefreshError(Exception):
        retryable = False

    class TransportError(Exception):
        pass

    error = send_fault(RefreshError("invalid_grant"), "h", 5, foreign=True)
    assert type(error) is CredentialsError
    assert str(error) == "the given session can't get a token: RefreshError: invalid_grant"
    assert type(send_fault(RefreshError(), "h", 5, foreign=True)) is CredentialsError
    assert type(send_fault(TransportError(ConnectionResetError(104, "Reset")), "h", 5, foreign=True)) is Transient
    error = RefreshError("try again")
    error.retryable = True
    assert type(send_fault(error, "h", 5, foreign=True)) is Transient


def test_a_certificate_for_another_name_is_not_tried_again():
    class CertificateError(ValueError):
        """As in urllib3 1.x."""

    inner = urllib3.exceptions.SSLError(CertificateError("hostname 'h' doesn't match 'i'"))
    error = send_fault(requests.exceptions.SSLError(inner), "h:1", 5, foreign=False)
    assert type(error) is BadRequest and error.reason == "certificate"
    assert str(error).startswith("the certificate of h:1 is not trusted (TLS: hostname 'h' doesn't match 'i');")


def test_faults_are_described_from_their_cause():
    refused = ConnectionRefusedError(111, "Connection refused")
    new = urllib3.exceptions.NewConnectionError(None, "x")
    new.__cause__ = refused
    outer = requests.exceptions.ConnectionError(urllib3.exceptions.MaxRetryError(None, "/", new))
    assert describe_fault(outer) == "connection refused"
    assert is_unreachable(outer)
    assert describe_fault(socket.gaierror(-2, "Name or service not known")) == "host name not found"
    assert describe_fault(http.client.RemoteDisconnected("x")) == "connection closed without an answer"
    loop = ValueError("a")
    loop.__cause__ = KeyError("b")
    loop.__cause__.__cause__ = loop
    assert describe_fault(loop) == "KeyError"
    assert not is_unreachable(loop)


def test_read_size_is_small():
    assert body_module.READ_SIZE <= 65536
