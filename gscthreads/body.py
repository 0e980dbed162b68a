"""Bytes of an answer as they arrive: decompressed here, bounded, and every fault of the wire named.

urllib3 1.x does not notice a body that is shorter than Content-Length, and neither version limits what a gzip bomb
expands to or notices a gzip stream without its end.  So the raw bytes are read and decompressed here.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import ssl
import zlib
from typing import Any, Iterator, List, Mapping, Optional, Set, Union

import requests
import urllib3.exceptions

from . import refusals
from .errors import ApiError, BadRequest, CredentialsError, Transient
from .nesting import loads

#: Bytes asked for at a time.  Small, since what a failing read had already got is lost.
READ_SIZE = 16 * 1024

#: Most bytes looked at of an error's body, and most that may be read to get them.
ERROR_BYTES = 64 * 1024
_MAX_REFUSAL = 1024 * 1024

#: Most bytes one call to zlib may produce.
_INFLATE_STEP = 1024 * 1024

_WIRE_FAULTS = (
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
)


class Body:
    """The body of *response* (a ``stream=True`` answer), decompressed, in chunks; iterate it once.

    Raises Transient, and nothing else, for a broken, truncated or undecodable body, and, with reason ``tooLarge``,
    past *max_bytes*.  After complete iteration the connection is back in its pool; otherwise close the response.
    """

    def __init__(self, response: requests.Response, *, max_bytes: int) -> None:
        self._response = response
        self._max_bytes = max_bytes
        self.received = 0  #: bytes that came over the wire so far

    def __iter__(self) -> Iterator[bytes]:
        if getattr(self._response, "_content_consumed", False):  # by a hook of the user's session
            if len(self._response.content) > self._max_bytes:
                raise _too_large(self._max_bytes)
            yield self._response.content
            return
        decoder = _decoder(self._response.headers.get("Content-Encoding", ""))
        produced = 0
        for raw in self._raw_chunks():
            for chunk in decoder.feed(raw):
                produced += len(chunk)
                if produced > self._max_bytes:
                    raise _too_large(self._max_bytes)
                yield chunk
        self._check_length()
        decoder.finish()

    def read_all(self, limit: Optional[int] = None) -> bytes:
        """The whole body; Transient with reason ``tooLarge`` when it has more than *limit* bytes."""
        chunks: List[bytes] = []
        size = 0
        for chunk in self:
            size += len(chunk)
            if limit is not None and size > limit:
                raise _too_large(limit)
            chunks.append(chunk)
        return b"".join(chunks)

    def read_start(self, limit: int) -> bytes:
        """Up to *limit* bytes from the start: what can be had of an error message.  Never raises."""
        kept = bytearray()
        try:
            for chunk in self:
                kept += chunk
                if len(kept) >= limit:
                    break
        except Transient:
            pass
        return bytes(kept[:limit])

    def _raw_chunks(self) -> Iterator[bytes]:
        chunks: Iterator[bytes] = self._response.raw.stream(READ_SIZE, decode_content=False)
        while True:
            try:
                raw = next(chunks, None)
            except (ValueError, *_WIRE_FAULTS) as error:  # ValueError: a chunk of negative length
                words = describe_fault(error)
                reason = "timeout" if words == "timed out" else "broken"
                raise Transient(f"the answer broke off: {words}", reason=reason) from error
            if raw is None:
                return
            self.received += len(raw)
            if self.received > self._max_bytes + _INFLATE_STEP:  # e.g. empty gzip members without end
                raise _too_large(self._max_bytes)
            yield raw

    def _check_length(self) -> None:
        headers = self._response.headers
        # Not isdigit(): to it "\xb2" (a letter of Latin-1, as headers are) is a digit, to int() it isn't.
        found = re.fullmatch("0*([0-9]{1,18})", headers.get("Content-Length", "").split(",")[0].strip())
        if found and "Transfer-Encoding" not in headers and self.received != int(found.group(1)):
            message = f"the answer broke off after {self.received} of {found.group(1)} bytes"
            raise Transient(message, reason="broken")


class _Identity:
    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data

    def finish(self) -> None:
        pass


class _Inflater:
    """gzip (several members, zero padding after any of them) or deflate (with or without zlib header)."""

    def __init__(self, wbits: Optional[int]) -> None:
        self._wbits = wbits  # None: deflate, not yet known which of the two
        self._member: Any = None  # the zlib.decompressobj in progress
        self._members = 0  # complete ones
        self._held = b""  # deflate only: input kept until its first two bytes are there

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._wbits is None:
            data = self._held + data
            if len(data) < 2:
                self._held = data
                return
            has_header = data[0] & 0x0F == 8 and (data[0] * 256 + data[1]) % 31 == 0  # RFC 1950
            self._wbits = zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS
        while data:
            if self._member is None:
                if self._members:
                    data = data.lstrip(b"\0")
                    if not data:
                        return
                self._member = zlib.decompressobj(self._wbits)
            try:
                chunk = self._member.decompress(data, _INFLATE_STEP)
            except zlib.error as error:
                raise Transient("the compressed answer is damaged", reason="broken") from error
            data = self._member.unconsumed_tail
            if self._member.eof:
                data = self._member.unused_data
                self._member = None
                self._members += 1
            if chunk:
                yield chunk

    def finish(self) -> None:
        if self._member is not None or not self._members:
            raise Transient("the compressed answer has no end", reason="broken")


def _decoder(content_encoding: str) -> Any:
    codings = [coding.strip().lower() for coding in content_encoding.split(",")]
    codings = [coding for coding in codings if coding not in ("", "identity")]
    if not codings:
        return _Identity()
    if codings in (["gzip"], ["x-gzip"]):
        return _Inflater(zlib.MAX_WBITS + 16)
    if codings == ["deflate"]:
        return _Inflater(None)
    raise Transient(f"unknown Content-Encoding {content_encoding[:50]!r}", reason="broken")


def _too_large(limit: int) -> Transient:
    size = f"{limit / 2**20:g} MiB" if limit >= 2**20 else f"{limit} bytes"
    return Transient(f"answer larger than {size}", reason="tooLarge")


def read_refusal(response: requests.Response) -> ApiError:
    """The error that an answer other than 200 stands for; reads its body.  Never raises."""
    status = response.status_code
    if 300 <= status < 400:
        found = re.match(r"\w+://(?:[^/?#]*@)?([\w.:-]+)", response.headers.get("Location", ""))
        message = f"the server redirects to {found.group(1) if found else 'another path'}; redirects are not followed"
        return BadRequest(message, status=status, reason="redirect")
    return classify(status, Body(response, max_bytes=_MAX_REFUSAL).read_start(ERROR_BYTES), response.headers)


def read_not_multipart(response: requests.Response) -> ApiError:
    """The error that an answer 200 to a batch stands for when it isn't multipart; reads its body.  Never raises."""
    body = Body(response, max_bytes=_MAX_REFUSAL).read_start(ERROR_BYTES)
    try:
        refusal = refusals.refusal_in(loads(body, "replace"), body, response.headers)
    except (ValueError, RecursionError):
        refusal = None
    return refusal or Transient("the answer to a batch is not multipart", status=200, reason="notMultipart")


def classify(status: int, body: bytes, headers: Mapping[str, str]) -> ApiError:
    """``refusals.classify`` for any status but 200 and a body of any size; status 0 stands for "not HTTP"."""
    if status == 0:
        return Transient("this part of the batch is not an HTTP answer", reason="malformed")
    if 200 <= status < 300:
        return Transient(f"HTTP {status} instead of an answer", status=status)
    return refusals.classify(status, body[:ERROR_BYTES], headers)


def send_fault(
    error: Exception, server: str, http_timeout: float, *, foreign: bool
) -> Union[ApiError, CredentialsError, None]:
    """What an exception of ``Session.request`` to *server* means; None when it is a bug.

    Its own text may hold a header, an URL or a whole answer, so only known words are passed on, and *error* is the
    cause of what is returned only when it is a fault of the wire.  *foreign*: the session is the user's own, so it
    may raise anything, e.g. google-auth's errors (which is not imported for this).
    """
    if isinstance(error, ValueError):  # also requests.InvalidURL, InvalidHeader
        return BadRequest(f"can't send this request to {server}: {type(error).__name__}", reason="invalid")
    if isinstance(error, _WIRE_FAULTS):
        fault = _wire_fault(error, server, http_timeout)
        fault.__cause__ = error
        return fault
    if not foreign:
        return None
    if getattr(error, "retryable", False) or type(error).__name__ == "TransportError":
        return Transient(f"the given session can't get a token: {describe_fault(error)}", reason="auth")
    words = refusals.clean(str(error.args[0]) if error.args else "", ())
    return CredentialsError(f"the given session can't get a token: {type(error).__name__}: {words}")


def _wire_fault(error: Exception, server: str, http_timeout: float) -> ApiError:
    words = describe_fault(error)
    if any(isinstance(cause, ssl.SSLCertVerificationError) or _is_mismatch(cause) for cause in _causes(error)):
        advice = "if it is right, name the file of its CA's certificates: ca_bundle"
        return BadRequest(f"the certificate of {server} is not trusted ({words}); {advice}", reason="certificate")
    if "TLS CA certificate bundle" in str(error):  # requests' words; SyncConfig has checked ours
        words = "no CA certificates: REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names no file"
        return BadRequest(words, reason="certificate")
    if is_unreachable(error):
        way = " through the proxy" if isinstance(error, requests.exceptions.ProxyError) else ""
        return Transient(f"can't reach {server}{way}: {words}", reason="unreachable")
    if words == "timed out":
        return Transient(f"no answer from {server} within {http_timeout:g} s", reason="timeout")
    return Transient(f"the connection to {server} broke: {words}", reason="broken")


def describe_fault(error: BaseException) -> str:
    """What went wrong on the wire, in a few words without any URL or header: "connection refused"."""
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, ssl.SSLError):
            words = getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or "failed"
            return "TLS: " + str(words).lower().replace("_", " ")
        if _is_mismatch(cause):
            return "TLS: " + str(cause)
        if isinstance(cause, socket.gaierror):
            return "host name not found"
        if isinstance(cause, http.client.RemoteDisconnected):
            return "connection closed without an answer"
        if isinstance(cause, OSError) and type(cause.errno) is int:  # whose words may be anybody's
            return os.strerror(cause.errno).lower()
    if any(isinstance(cause, (socket.timeout, urllib3.exceptions.ReadTimeoutError)) for cause in chain):
        return "timed out"
    if any(isinstance(cause, http.client.IncompleteRead) for cause in chain):
        return "connection closed in the middle"
    return type(chain[-1]).__name__


def _is_mismatch(error: BaseException) -> bool:
    """Whether urllib3 1.x tells by *error*, in an exception class of its own, that a certificate is for other names."""
    return type(error).__name__ == "CertificateError"


def is_unreachable(error: BaseException) -> bool:
    """True when no connection came about, so that no request was sent."""
    kinds = (requests.exceptions.ConnectTimeout, requests.exceptions.ProxyError, requests.exceptions.SSLError)
    return isinstance(error, kinds) or any(
        isinstance(cause, urllib3.exceptions.NewConnectionError) for cause in _causes(error)
    )


def forget_frames(error: BaseException) -> None:
    """Drop the tracebacks of *error* and its causes: their frames would keep the connection and the bytes of the
    answer alive for as long as the error is kept."""
    for cause in _causes(error):
        cause.__traceback__ = None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """*error* and everything it wraps: requests and urllib3 hide it in ``args``, ``reason`` or ``__cause__``."""
    waiting: List[BaseException] = [error]
    seen: Set[int] = set()
    while waiting and len(seen) < 50:
        cause = waiting.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        inner = [*cause.args, getattr(cause, "reason", None), cause.__cause__, cause.__context__]
        waiting += [item for item in inner if isinstance(item, BaseException)]
