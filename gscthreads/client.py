"""One HTTP request out, exactly one answer per slice in.  No retry, no sleep, no thread, no rate limiting.

Sources: gsc-api.md 1 (paths), 2.1 (request body), 4 (batches), 5 (errors).  Log lines never hold a token.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import threading
import urllib.parse
import uuid
import weakref
from typing import Callable, ContextManager, Dict, Iterator, List, Mapping, Optional, Protocol, Sequence, Tuple, Union

import requests

from ._version import __version__
from .body import Body, classify, forget_frames, read_not_multipart, read_refusal, send_fault
from .errors import ApiError, Transient, Unauthorized
from .halt import Halt, Halted
from .model import ROW_LIMIT, Failed, Fetched, Rows, Slice
from .multipart import MAX_PART, Matcher, Part, boundary_of, compose
from .nesting import loads
from .sockets import SocketRegistry, adopt_session, new_session

log = logging.getLogger(__name__)

#: Most bytes of a list of sites (1,000 of the longest URLs, say), or of the days of 16 months.
_MAX_LIST = 3 * 1024 * 1024

Outcome = Union[Fetched, Failed]
Decode = Callable[[bytes, Slice], Rows]


class Credentials(Protocol):
    """What the client needs of ``auth.Credentials``."""

    @property
    def session(self) -> Optional[requests.Session]: ...

    def authorize(self, http: requests.Session, halt: Optional[Halt] = None) -> Dict[str, str]: ...

    def reject(self, headers: Mapping[str, str]) -> None: ...


class Client:
    """Speaks to the API at *api_root*.  Thread-safe: each thread has its own session, unless the credentials are a
    session.  ``decode`` turns the JSON body of one slice into Rows or raises Transient; it runs, and what it gives is
    delivered, while the thread has its ``turn``.

    *registry* must be aborted at the *halt*, and somebody must call its ``expire``, to reach blocked threads.
    """

    def __init__(
        self,
        *,
        api_root: str,
        credentials: Credentials,
        registry: SocketRegistry,
        halt: Halt,
        http_timeout: float,
        data_state: str,
        decode: Decode,
        turn: Optional[ContextManager[None]] = None,
        ca_bundle: Optional[str] = None,
        user_agent: Optional[str] = None,
    ) -> None:
        self.batch_supported = True  #: False once the server turned out to have no batch path
        self.credentials = credentials
        self.registry = registry
        self.halt = halt
        self.http_timeout = http_timeout
        self.user_agent = f"{user_agent or 'gscthreads/' + __version__} (gzip)"  # gsc-api.md 7.1: Google wants it
        self._root = api_root.rstrip("/")
        url = urllib.parse.urlsplit(self._root)
        self.server = url.netloc.rpartition("@")[2]
        # The plain /batch of www.googleapis.com is dead (gsc-api.md 1).
        self._batch_path = "/batch/webmasters/v3" if url.hostname == "www.googleapis.com" else "/batch"
        self._data_state = data_state
        self._decode = decode
        self._turn: ContextManager[None] = turn or contextlib.nullcontext()
        self._ca_bundle = ca_bundle
        self._thread = threading.local()
        self._lock = threading.Lock()  # guards _sessions and the change of batch_supported
        self._sessions: "weakref.WeakSet[requests.Session]" = weakref.WeakSet()
        if credentials.session is not None:
            adopt_session(credentials.session, registry, self._root)

    def fetch(
        self,
        batch: Sequence[Slice],
        deliver: Callable[[Outcome], None],
        on_request: Callable[[], None] = lambda: None,
    ) -> None:
        """Fetch *batch*: one slice by a plain call, more by one multipart POST.  *on_request* is called just before
        that goes out, and not at all when it doesn't, for want of a token, say.

        Each slice is delivered exactly once, as its part arrives, unless this raises: Halted when halted in the
        middle, CredentialsError when no token can be had, or whatever *deliver* raises.
        """
        with _Exchange(self, self.http_timeout * (1 + len(batch) / 10), on_request) as exchange:
            replies = _Replies(batch, deliver, self._decode, self._turn, exchange)
            alone = len(batch) == 1
            answers = self._answer(exchange, batch[0]) if alone else self._answers(exchange, batch)
            while True:  # a "for" with the "except" around it would also catch what deliver raises
                try:
                    index, part = next(answers)
                except StopIteration:
                    exchange.check_halt()
                    error = Transient("no answer for this slice in the batch", reason="missingPart")
                    return replies.fail_rest(error, alone=False)
                except ApiError as error:
                    return replies.fail_rest(exchange.judge(error), alone=alone)
                exchange.check_halt()
                replies.settle(index, part)

    def sites(self) -> List[Tuple[str, str]]:
        """(siteUrl, permissionLevel) of each site, as listed.  Raises ApiError, Halted or CredentialsError."""
        with _Exchange(self, self.http_timeout) as exchange:
            try:
                response = exchange.ask("GET", f"{self._root}/webmasters/v3/sites?prettyPrint=false&alt=json")
                return _read_sites(Body(response, max_bytes=_MAX_LIST).read_all())
            except ApiError as error:
                raise exchange.judge(error)

    def clicks_by_day(self, site: str, search_type: str, start: dt.date, end: dt.date) -> Dict[dt.date, int]:
        """The site's clicks on each day, as Search Console's screen shows them; days without data are absent.  One
        call.  Raises ApiError, Halted or CredentialsError."""
        query = {
            "startDate": start.isoformat(),
            "endDate": end.isoformat(),
            "dimensions": ["date"],
            "type": search_type,
            "rowLimit": ROW_LIMIT,
            "dataState": self._data_state,
        }
        with _Exchange(self, self.http_timeout) as exchange:
            try:
                url = self._root + _query_path(site)
                data = json.dumps(query, separators=(",", ":")).encode("ascii")
                response = exchange.ask("POST", url, data, "application/json")
                body = Body(response, max_bytes=_MAX_LIST).read_all()
                exchange.check_complete()
                return _read_clicks(body)
            except ApiError as error:
                raise exchange.judge(error)

    def close(self) -> None:
        """Close the idle connections of the sessions made here.  Idempotent; fetching goes on working."""
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.close()

    def session(self) -> requests.Session:
        """The calling thread's session."""
        if self.credentials.session is not None:
            return self.credentials.session
        session: Optional[requests.Session] = getattr(self._thread, "session", None)
        if session is None:
            session = self._thread.session = new_session(self.registry, ca_bundle=self._ca_bundle)
            with self._lock:
                self._sessions.add(session)
        return session

    def _answer(self, exchange: _Exchange, wanted: Slice) -> Iterator[Tuple[int, Part]]:
        url = self._root + _query_path(wanted.dataset.site)
        response = exchange.ask("POST", url, self._query_body(wanted), "application/json")
        body = Body(response, max_bytes=MAX_PART).read_all()
        exchange.check_complete()
        yield 0, Part(None, 200, response.headers, body)

    def _answers(self, exchange: _Exchange, batch: Sequence[Slice]) -> Iterator[Tuple[int, Part]]:
        if not batch:
            return
        if not self.batch_supported:
            raise _no_batch()
        boundary, matcher = f"batch_{uuid.uuid4().hex}", Matcher(len(batch))
        calls = [
            (name, f"POST {_query_path(wanted.dataset.site)}", self._query_body(wanted))
            for name, wanted in zip(matcher.content_ids, batch)
        ]
        kind = f'multipart/mixed; boundary="{boundary}"'
        try:
            response = exchange.ask("POST", self._root + self._batch_path, compose(calls, boundary), kind)
        except ApiError as error:
            if exchange.status not in (404, 405, 501):
                raise
            with self._lock:
                first, self.batch_supported = self.batch_supported, False
            if first:
                log.warning("%s has no batch path (%s): one call per request from now on", self.server, error)
            raise _no_batch() from error
        answer_boundary = boundary_of(response.headers.get("Content-Type", ""))
        if answer_boundary is None:
            raise read_not_multipart(response)
        yield from matcher.match(Body(response, max_bytes=MAX_PART * len(batch)), answer_boundary)

    def _query_body(self, wanted: Slice) -> bytes:
        dataset, key = wanted
        query: Dict[str, object] = {
            "startDate": key.date.isoformat(),
            "endDate": key.date.isoformat(),
            "dimensions": list(dataset.report.dimensions),
            "type": dataset.search_type,
            "rowLimit": ROW_LIMIT,
            "startRow": key.start_row,
            "dataState": self._data_state,
        }
        if key.page is not None:
            filter_ = {"dimension": "page", "operator": "equals", "expression": key.page}
            query["dimensionFilterGroups"] = [{"filters": [filter_]}]
        return json.dumps(query, separators=(",", ":")).encode("ascii")


class _Exchange(contextlib.ExitStack):
    """One HTTP request and its answer, under a deadline that runs from now; closes the answer on exit."""

    def __init__(self, client: Client, seconds: float, on_request: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.watch = self.enter_context(client.registry.deadline(seconds))
        self.status: Optional[int] = None  #: HTTP status of the answer, once there is one
        self._client = client
        self._on_request = on_request
        self._token: Optional[Dict[str, str]] = None  # the headers that authorized it; None once rejected
        self._secret = ""  # the token that was sent, also when the user's session did it

    def check_halt(self) -> None:
        if self._client.halt.is_set():
            raise Halted(self._client.halt.reason)

    def check_complete(self) -> None:
        """http.client takes the end of a connection for the end of header or body: no answer when we shut it."""
        self.check_halt()
        if self.watch.expired:
            raise Transient("cut off by the deadline", reason="timeout")

    def ask(self, method: str, url: str, data: Optional[bytes] = None, kind: str = "") -> requests.Response:
        """The answer 200, its body not yet read.  Raises ApiError for any other, CredentialsError or Halted."""
        client = self._client
        session = client.session()
        self.check_halt()
        try:
            self._token = dict(client.credentials.authorize(session, client.halt))
        finally:
            self.check_halt()  # also instead of what an interrupted authorize() raises
        headers = {"Accept-Encoding": "gzip", "User-Agent": client.user_agent, **self._token}
        if kind:
            headers["Content-Type"] = kind
        timeout = (min(client.http_timeout, 10.0), client.http_timeout)
        self._on_request()
        try:
            response = session.request(
                method, url, data=data, headers=headers, stream=True, timeout=timeout, allow_redirects=False
            )
        except Exception as error:
            foreign = client.credentials.session is not None
            fault = send_fault(error, client.server, client.http_timeout, foreign=foreign)
            if fault is None:
                raise
            self.check_halt()
            raise fault from fault.__cause__
        self.status = response.status_code
        self.callback(response.close)
        self.check_complete()
        log.debug("%s %s: HTTP %s", method, url.partition("?")[0], response.status_code)
        self._secret = response.request.headers.get("Authorization", "").rpartition(" ")[2]
        if response.status_code != 200:
            refusal = read_refusal(response)
            self.see(refusal)
            raise refusal
        return response

    def judge(self, error: ApiError) -> ApiError:
        """What *error* really is: a halt (raised as Halted), a deadline, or itself.  Rejects a refused token."""
        self.check_halt()
        self.see(error)
        if self.watch.expired and error.status is None:
            late = Transient(f"no complete answer within {self.watch.seconds:g} s", reason="timeout")
            late.__cause__ = error
            return late
        return error

    def see(self, error: ApiError) -> None:
        """Keep the token out of *error*, and reject it, once, when *error* says that it isn't accepted."""
        if self._secret:
            error.hide(self._secret)
        if isinstance(error, Unauthorized) and self._token is not None:
            token, self._token = self._token, None
            self._client.credentials.reject(token)


class _Replies:
    """Which slices of one request still wait for their answer; sees to it that each is delivered once."""

    def __init__(
        self,
        batch: Sequence[Slice],
        deliver: Callable[[Outcome], None],
        decode: Decode,
        turn: ContextManager[None],
        exchange: _Exchange,
    ) -> None:
        self._waiting: Dict[int, Slice] = dict(enumerate(batch))
        self._deliver = deliver
        self._decode = decode
        self._turn = turn
        self._exchange = exchange

    def settle(self, index: int, part: Part) -> None:
        """The HTTP answer to slice *index* is here: deliver it, unless that was done (the first one counts)."""
        wanted = self._waiting.pop(index, None)
        if wanted is None:
            log.debug("ignored a second answer to one slice")
            return
        with self._exchange.watch.paused(), self._turn:
            self._deliver(self._outcome(wanted, part))

    def fail_rest(self, error: ApiError, *, alone: bool) -> None:
        """Deliver every slice that still waits as failed."""
        with self._exchange.watch.paused():
            forget_frames(error)
            for index in list(self._waiting):
                self._deliver(Failed(self._waiting.pop(index), error, alone))

    def _outcome(self, wanted: Slice, part: Part) -> Outcome:
        if part.status == 200:
            try:
                return Fetched(wanted, self._decode(part.body, wanted))
            except ApiError as error:  # most often Transient, but a refusal may come with status 200
                forget_frames(error)
                self._exchange.see(error)
                return Failed(wanted, error)
        refusal = classify(part.status, part.body, part.headers)
        self._exchange.see(refusal)
        return Failed(wanted, refusal)


def _query_path(site: str) -> str:
    return f"/webmasters/v3/sites/{urllib.parse.quote(site, safe='')}/searchAnalytics/query?prettyPrint=false&alt=json"


def _no_batch() -> Transient:
    return Transient("the server has no batch path", reason="noBatch")


def _read_clicks(body: bytes) -> Dict[dt.date, int]:
    try:
        answer = loads(body)
        rows = answer.get("rows") or []
        if not rows and "responseAggregationType" not in answer:  # Google always names it, an error page doesn't
            raise ValueError("neither rows nor responseAggregationType")
        return {dt.date(*map(int, row["keys"][0].split("-"))): int(row["clicks"]) for row in rows}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise Transient("the totals are not in Google's format", status=200, reason="malformed") from error


def _read_sites(body: bytes) -> List[Tuple[str, str]]:
    try:
        answer = loads(body)
        entries = answer.get("siteEntry", [])
        if answer and "siteEntry" not in answer:  # no sites is {} (gsc-api.md 1), so this is something else
            raise ValueError("no siteEntry")
        return [(str(entry["siteUrl"]), str(entry.get("permissionLevel", ""))) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Transient("the list of sites is not in Google's format", status=200, reason="malformed") from error
