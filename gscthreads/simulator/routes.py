"""From an HTTP request to what goes out: plain calls, batches, tokens, control, and faults of the transport."""

from __future__ import annotations

import logging
import random
import secrets
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union
from urllib.parse import parse_qsl

from . import batch, errors
from .control import Control
from .damage import Cut, Piece, damaged, huge
from .faults import Target
from .lanes import Lanes
from .server import REASONS, Handler, Hold
from .service import Answer, Call, Service
from .spoil import HTML_PAGE, REFUSALS
from .squeeze import HEAD, GzipStream, Squeezed, gzip_whole, squeeze

log = logging.getLogger(__name__)

Headers = Dict[str, str]

BATCH_PATHS = ("/batch", "/batch/webmasters/v3")

#: Faults of a whole request that let its queries be answered, and spoil the bytes.
SPOILERS = ("reset_body", "truncated_gzip", "corrupt_gzip", "wrong_length", "stall_body", "drip", "reset_headers",
            "shuffled_parts", "lf_parts")


def accepts_gzip(headers: Headers) -> bool:
    """Whether the client takes gzip."""
    for item in headers.get("accept-encoding", "").lower().split(","):
        name, _, weight = item.partition(";")
        if name.strip() in ("gzip", "x-gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0")
    return False


class Routes:
    """Handles requests for the server.  Thread-safe."""

    def __init__(self, service: Service, control: Control, hold: Hold) -> None:
        self.service = service
        self.control = control
        self.hold = hold

    def handle(self, wire: Handler, method: str, target: str, headers: Headers, body: bytes) -> None:
        """Answer one HTTP request."""
        path, _, text = target.partition("?")
        journal = self.service.journal
        try:
            if path.startswith("/_sim/"):
                status, value = self.control.answer(method, path, dict(parse_qsl(text, keep_blank_values=True)), body)
                wire.send_whole(status, [("Content-Type", errors.JSON_TYPE)], errors.to_json(value, False))
                return
            journal.count("http_requests")
            if path == "/token" and method == "POST":
                self._token(wire, body)
            elif path in BATCH_PATHS and method == "POST":
                self._batch(wire, text, headers, body)
            else:
                self._plain(wire, method, target, headers, body)
        except (OSError, Cut):
            wire.close_connection = True
        except Exception:
            # A fault of the simulator itself must not look like one of the client.
            journal.count("internal_errors")
            log.exception("the simulator failed on %s %s", method, target)
            wire.reset()

    # ---- tokens ----

    def _token(self, wire: Handler, body: bytes) -> None:
        service = self.service
        service.journal.count("token_posts")
        fault = service.faults.choose(("token",), (Target(),))
        if fault is not None:
            service.journal.fault(fault)
        if fault == "token_503":
            status, value = 503, {"error": "internal_failure", "error_description": "Backend Error"}
        elif fault == "token_invalid_grant":
            status, value = 400, {"error": "invalid_grant",
                                  "error_description": "Token has been expired or revoked."}
        else:
            status, value = service.tokens.reply(dict(parse_qsl(body.decode("latin-1"), keep_blank_values=True)))
        headers = [("Content-Type", errors.JSON_TYPE), ("Cache-Control", "no-cache, no-store, max-age=0"),
                   ("Vary", "Origin, X-Origin, Referer")]
        wire.send_whole(status, headers, errors.to_json(value, True))

    # ---- plain calls ----

    def _plain(self, wire: Handler, method: str, target: str, headers: Headers, body: bytes) -> None:
        service = self.service
        call = service.call(method, target, headers, body, accepts_gzip(headers))
        fault = self._fault(("http",), [call]) if call.site is not None else None
        if fault is not None and fault not in SPOILERS:
            self._instead(wire, fault, [call])
            return
        answer = service.answer(call)
        shown, body = self._finished(answer)
        if fault == "reset_headers":
            self._half_headers(wire, answer.status, shown)
        elif fault == "drip":
            wire.send_stream(answer.status, shown, [body], service.options.drip_interval)
        elif fault is None:
            wire.send_whole(answer.status, shown, body)
        else:
            self._spoilt(wire, answer.status, body, shown, fault)

    def _finished(self, answer: Answer) -> Tuple[List[Tuple[str, str]], bytes]:
        """Headers and body of an answer sent alone."""
        squeezed = isinstance(answer.body, Squeezed)
        body = gzip_whole(answer.body) if isinstance(answer.body, Squeezed) else answer.body
        return list(self._headers(answer.headers, squeezed)), body

    @staticmethod
    def _spoilt(wire: Handler, status: int, body: bytes, shown: List[Tuple[str, str]], fault: str) -> None:
        """A whole answer, damaged on its way; a cut one is announced by its full Content-Length."""
        sent, cut = [], ""
        try:
            for data in damaged([Piece(body, 0)], fault, 0):
                sent.append(data)
        except Cut as problem:
            cut = problem.how
        wire.send_whole(status, shown, b"".join(sent), len(body) if cut else None)
        if cut:
            wire.cut(cut, chunked=False)

    @staticmethod
    def _headers(headers: Sequence[Tuple[str, str]], gzipped: bool) -> Iterator[Tuple[str, str]]:
        yield from headers
        if gzipped:
            yield "Content-Encoding", "gzip"
        yield "Cache-Control", "private"
        yield "X-Content-Type-Options", "nosniff"
        yield "Server-Timing", "gfet4t7; dur=42"

    def _fault(self, scopes: Sequence[str], calls: Sequence[Call]) -> Optional[str]:
        """Throw the dice for an HTTP request."""
        fault = self.service.faults.choose(scopes, [call.target for call in calls])
        if fault is not None:
            self.service.journal.fault(fault)
            for call in calls:
                call.http_fault = fault
        return fault

    @staticmethod
    def _half_headers(wire: Handler, status: int, shown: List[Tuple[str, str]]) -> None:
        head = wire.head(status, shown)
        wire.send(head[:len(head) // 2])
        wire.reset()

    def _instead(self, wire: Handler, fault: str, calls: Sequence[Call]) -> None:
        """What a fault sends in place of an answer; the queries are charged and logged all the same."""
        service = self.service
        refusal = REFUSALS[fault](calls[0].site or "") if fault in REFUSALS else None
        for call in calls:
            service.waste(call, refusal.status if refusal else 200)
        if refusal is not None:
            wire.send_whole(refusal.status, *self._finished(service.refused(refusal, calls[0])))
        elif fault == "reset_before":
            wire.reset()
        elif fault == "hang":
            self.hold.wait()
            wire.reset()
        elif fault == "outer_html_200":
            wire.send_whole(200, [("Content-Type", errors.HTML_TYPE)], HTML_PAGE)
        elif fault == "outer_not_multipart":
            body = b'{"responseAggregationType":"byPage"}'
            wire.send_whole(200, [("Content-Type", errors.JSON_TYPE)], body)
        else:  # huge, gzip_bomb
            packed = fault == "gzip_bomb"
            shown = [("Content-Type", errors.JSON_TYPE)] + ([("Content-Encoding", "gzip")] if packed else [])
            wire.send_stream(200, shown, huge(service.options.huge_bytes, packed))

    # ---- batches ----

    def _batch(self, wire: Handler, outer: str, headers: Headers, body: bytes) -> None:
        service = self.service
        gzipped = accepts_gzip(headers)
        try:
            parts = batch.parse(headers.get("content-type", ""), body)
        except errors.Refusal as refusal:
            service.journal.refuse(refusal.kind)
            answer = service.refused(refusal, service.call("POST", "/batch", headers, b"", gzipped))
            wire.send_whole(refusal.status, *self._finished(answer))
            return
        number = service.journal.count("batches")
        shared = {name: value for name, value in headers.items()
                  if not name.startswith("content-") and name != "accept-encoding"}
        # Parts are not compressed one by one, whatever their own Accept-Encoding says (gsc-api.md 4.4).
        calls = [service.call(part.method, part.target, {**shared, **part.headers}, part.body, gzipped, number, outer)
                 for part in parts]
        fault = self._fault(("http", "batch"), calls) if any(call.site is not None for call in calls) else None
        if fault is not None and fault not in SPOILERS:
            self._instead(wire, fault, calls)
            return
        boundary = f"batch_{secrets.token_urlsafe(24)}"
        shown = [("Content-Type", f"multipart/mixed; boundary={boundary}"), ("Vary", "Origin, X-Origin, Referer")]
        shown = list(self._headers(shown, gzipped))
        if fault == "reset_headers":
            for call in calls:
                service.waste(call, 200)
            self._half_headers(wire, 200, shown)
            return
        order = list(range(len(calls)))
        if service.options.shuffle_parts or fault == "shuffled_parts":
            shuffled(order, service.dice())
        writer = BatchWriter(service, parts, calls, order, boundary, gzipped, fault == "lf_parts")
        victim = order[len(order) // 2]
        drip = service.options.drip_interval if fault == "drip" else None
        wire.send_stream(200, shown, damaged(writer.pieces(), fault, victim), drip)


def shuffled(order: List[int], dice: random.Random) -> None:
    """Put a list in another order in place: never the same one, if it has two items or more."""
    before = list(order)
    dice.shuffle(order)
    if order == before:
        order.reverse()


class BatchWriter:
    """The body of one batch answer, made part by part while it is sent."""

    def __init__(self, service: Service, parts: Sequence[batch.Part], calls: Sequence[Call], order: Sequence[int],
                 boundary: str, gzipped: bool, bare_lf: bool) -> None:
        self._service = service
        self._parts = parts
        self._calls = calls
        self._order = order
        self._boundary = boundary
        self._stream = GzipStream() if gzipped else None
        self._bare_lf = bare_lf

    def pieces(self) -> Iterator[Piece]:
        """All bytes of the answer.  Heads are compressed by themselves, so bodies can be sent as they are kept."""
        if self._stream is not None:
            yield Piece(HEAD, None)
        jobs: List[Callable[[], Answer]] = [self._job(index) for index in self._order]
        lanes = iter(Lanes(jobs, self._service.options.lanes))
        first = True
        for index, answer in zip(self._order, lanes):
            call = self._calls[index]
            fault = self._service.faults.choose(("part",), [call.target]) if call.site is not None else None
            if fault is not None:
                self._service.journal.fault(fault)
            if fault == "missing_part":
                continue
            content_id = batch.answer_id(self._parts[index].content_id)
            if fault == "empty_part":
                yield self._head(batch.empty_part(self._boundary, content_id, first))
                first = False
                continue
            if fault == "mislabelled_part":
                content_id = "<response-nobody+asked>"
            for _ in range(2 if fault == "doubled_part" else 1):
                headers = [*answer.headers, ("Content-Length", str(answer.length))]
                reason = REASONS.get(answer.status, "Unknown")
                yield self._head(batch.part_head(self._boundary, content_id, answer.status, reason, headers, first))
                yield self._body(answer, index)
                first = False
        yield self._head(batch.closing(self._boundary, first))
        if self._stream is not None:
            yield Piece(self._stream.tail(), None)

    def _job(self, index: int) -> Callable[[], Answer]:
        return lambda: self._service.answer(self._calls[index])

    def _head(self, data: bytes) -> Piece:
        if self._bare_lf:
            data = data.replace(b"\r\n", b"\n")
        return Piece(self._packed(data), None)

    def _body(self, answer: Answer, index: int) -> Piece:
        return Piece(self._packed(answer.body), index)

    def _packed(self, data: Union[bytes, Squeezed]) -> bytes:
        if self._stream is not None:
            return self._stream.add(data if isinstance(data, Squeezed) else squeeze(data))
        if isinstance(data, Squeezed):
            raise TypeError("a compressed body in an uncompressed answer")
        return data
