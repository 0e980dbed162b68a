"""What each call is answered: routes, permissions, quota, faults of queries, and the log (gsc-api.md 1)."""

from __future__ import annotations

import dataclasses
import json
import random
import threading
import time
from typing import Callable, Dict, Optional, Tuple, Union
from urllib.parse import parse_qsl, unquote

from . import errors, fieldmask, query as queries
from .clock import hours_of, offset_hours, HOUR
from .encode import Answers, Encoded, Style, body as encoded_body
from .faults import Faults, Target
from .journal import Entry, Journal
from .library import Library
from .options import Options
from .property import Properties
from .quota import Charge, Quota, load_of
from .spoil import REFUSALS, spoiled, variant
from .squeeze import Squeezed, squeeze
from .tables import Tables, cut, has_position, HOURLY_LAG
from .tokens import READ, WRITE, Grant, Tokens


@dataclasses.dataclass(frozen=True)
class Answer:
    """One HTTP answer; its body is plain, or a compressed piece for the gzip stream that carries it."""

    status: int
    body: Union[bytes, Squeezed]
    headers: Tuple[Tuple[str, str], ...]

    @property
    def length(self) -> int:
        """Bytes of the body before compression."""
        return self.body.length if isinstance(self.body, Squeezed) else len(self.body)


@dataclasses.dataclass
class Call:
    """One request to the API, sent alone or as part ``part`` of HTTP batch number ``batch``."""

    method: str
    path: str
    params: Dict[str, str]
    headers: Dict[str, str]
    body: bytes
    gzipped: bool
    batch: Optional[int] = None
    grant: Optional[Grant] = None
    #: Set if it is a searchAnalytics.query.
    site: Optional[str] = None
    query: Optional[queries.Query] = None
    problem: Optional[errors.Refusal] = None
    #: The fault that hits its HTTP request as a whole.
    http_fault: Optional[str] = None

    @property
    def pretty(self) -> bool:
        """Whether its answer is indented (Google's default)."""
        return self.params.get("prettyPrint", "true").lower() not in ("false", "0")

    @property
    def user(self) -> str:
        """Who asks; "" if the token is no good."""
        return self.grant.user if self.grant else ""

    @property
    def target(self) -> Target:
        """What faults see of it."""
        asked = self.query
        if asked is None:
            return Target(self.site, self.user)
        return Target(self.site, self.user, asked.dimensions, asked.start, asked.start_row, asked.search_type)


class Service:
    """Answers calls.  Thread-safe; knows nothing of sockets."""

    def __init__(self, library: Library, tables: Tables, options: Options, faults: Faults, journal: Journal,
                 quota: Quota, tokens: Tokens, pause: Callable[[float], object]) -> None:
        self.library = library
        self.tables = tables
        self.options = options
        self.faults = faults
        self.journal = journal
        self.quota = quota
        self.tokens = tokens
        #: Sleeps, but no longer than the server lives.
        self.pause = pause
        self.answers = Answers(lambda: self.options.cache_bytes)
        self.properties = Properties(library, self.dice)
        self._turns = 0
        self._lock = threading.Lock()

    def dice(self) -> random.Random:
        """Fresh random numbers, other ones at every call, the same ones for the same seed and number of calls."""
        with self._lock:
            self._turns += 1
            return random.Random(f"{self.options.seed}|dice|{self._turns}")

    def call(self, method: str, target: str, headers: Dict[str, str], body: bytes, gzipped: bool,
             batch: Optional[int] = None, outer: str = "") -> Call:
        """Read a request; nothing is charged or decided yet.  ``outer`` is the query string of the batch."""
        path, _, text = target.partition("?")
        params = dict(parse_qsl(outer, keep_blank_values=True))
        params.update(parse_qsl(text, keep_blank_values=True))
        call = Call(method, path, params, headers, body, gzipped, batch, self._grant(headers, params))
        steps = path.split("/")
        if method == "POST" and len(steps) == 7 and path.startswith("/webmasters/v3/sites/") and steps[5:] == [
                "searchAnalytics", "query"]:
            call.site = unquote(steps[4])
            try:
                call.query = queries.parse(body)
            except errors.Refusal as problem:
                call.problem = problem
        return call

    def _grant(self, headers: Dict[str, str], params: Dict[str, str]) -> Optional[Grant]:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            token = params.get("access_token") or params.get("oauth_token") or ""
        grant = self.tokens.check(token.strip())
        if grant is None and not self.options.require_auth:
            return Grant("anonymous", (WRITE,), float("inf"))
        return grant

    def answer(self, call: Call) -> Answer:
        """Answer a call of any kind."""
        try:
            if call.site is not None:
                return self._answer_query(call, call.site)
            if call.grant is None:
                raise errors.bad_token()
            status, value = self.properties.answer(call.method, call.path, call.params, call.body, call.grant,
                                                   self.quota)
            if "fields" in call.params and value is not None:
                value = fieldmask.apply(value, fieldmask.parse(call.params["fields"]))
            body = b"" if value is None else errors.to_json(value, call.pretty)
            return self.packed(status, body, call.gzipped)
        except errors.Refusal as refusal:
            if call.site is None:
                self.journal.refuse(refusal.kind)
            return self.refused(refusal, call)

    def packed(self, status: int, body: bytes, gzipped: bool, content_type: str = errors.JSON_TYPE,
               headers: errors.Headers = ()) -> Answer:
        """An answer from an uncompressed body."""
        return Answer(status, squeeze(body) if gzipped and body else body,
                      (("Content-Type", content_type), ("Vary", "Origin, X-Origin, Referer"), *headers))

    def refused(self, refusal: errors.Refusal, call: Call) -> Answer:
        """The answer that stands for a refusal."""
        headers = refusal.headers
        after = self.options.retry_after
        if after is not None and (refusal.status in (429, 503) or (refusal.status == 403 and b"uota" in
                                                                   refusal.encoded(False))):
            headers = (*headers, ("Retry-After", str(after)))
        content_type = errors.HTML_TYPE if refusal.html else errors.JSON_TYPE
        return self.packed(refusal.status, refusal.encoded(call.pretty), call.gzipped, content_type, headers)

    # ---- searchAnalytics.query ----

    def _answer_query(self, call: Call, site: str) -> Answer:
        fault: Optional[str] = None
        moment = time.monotonic()
        try:
            self.charge(call)
            moment = time.monotonic()
            fault = self.faults.choose(("query",), (call.target,))
            if fault is not None:
                self.journal.fault(fault)
                if fault in REFUSALS:
                    self._wait(0)
                    raise REFUSALS[fault](site)
            found = self._found(call, site, fault)
        except errors.Refusal as refusal:
            kind = refusal.kind if fault is None else None
            self.record(call, moment, refusal.status, 0, fault, kind)
            raise
        self._wait(found.rows, self.options.slow_seconds if fault == "slow" else 0.0)
        self.record(call, moment, 200, found.rows, fault, None)
        if isinstance(found.data, bytes) and fault is not None and fault != "slow":
            turn = variant(self.options.seed, fault, call.target.key)
            body, content_type = spoiled(fault, found.data, turn)
            return self.packed(200, body, call.gzipped, content_type)
        headers = (("Content-Type", errors.JSON_TYPE), ("Vary", "Origin, X-Origin, Referer"))
        return Answer(200, found.data, headers)

    def charge(self, call: Call) -> None:
        """Check the token and its scope, and count the query against the quota; raises Refusal."""
        if call.grant is None:
            raise errors.bad_token()
        if READ not in call.grant.scopes and WRITE not in call.grant.scopes:
            raise errors.missing_scope("SearchAnalyticsService.Query")
        asked = call.query
        load = 1.0
        if asked is not None:
            named = [*asked.dimensions, *(item.dimension for item in asked.filters)]
            load = load_of((asked.end - asked.start).days + 1, named)
        self.journal.count("calls")
        self.quota.charge(Charge(call.site or "", call.user, load))

    def _found(self, call: Call, site: str, fault: Optional[str]) -> Encoded:
        """The right answer, or Refusal."""
        about = self.library.sites.get(site)
        if about is None or about.permission == "siteUnverifiedUser":
            raise errors.no_permission(site)
        if call.query is None:
            raise call.problem or errors.invalid_argument("Invalid JSON payload received.")
        # A spoilt body is packed after spoiling.
        gzipped = call.gzipped and fault in (None, "slow")
        return self.encoded(call.query, site, call.pretty, gzipped, call.params.get("fields"))

    def encoded(self, asked: queries.Query, site: str, pretty: bool, gzipped: bool,
                fields: Optional[str] = None) -> Encoded:
        """The encoded answer to a query."""
        options = self.options
        wanted = self.tables.wanted(site, asked)
        metadata = self._metadata(asked)
        style = Style(pretty, options.int_style == "12.0", not has_position(asked.search_type), gzipped)
        key = (wanted, asked.start_row, asked.row_limit, asked.aggregation, options.boundary_duplicates, metadata,
               style, fields)
        mask = None if fields is None else fieldmask.parse(fields)

        def make() -> Encoded:
            rows = cut(self.tables.rows(wanted), asked, options, self.dice())
            data = encoded_body(rows, asked.aggregation, metadata, style)
            if mask is not None:
                data = errors.to_json(fieldmask.apply(json.loads(data), mask), pretty)
            return Encoded(squeeze(data) if gzipped else data, len(rows))

        return make() if options.shuffle_ties else self.answers.get(key, make)

    def _metadata(self, asked: queries.Query) -> Optional[Tuple[str, str]]:
        """Where unsettled data begins, if the query is one that is told (gsc-api.md 2.6)."""
        clock = self.library.clock
        snake = self.options.snake_metadata
        if "date" in asked.dimensions and asked.data_state == "all":
            first = self.library.last_final().toordinal() + 1
            if first <= min(asked.end, clock.today()).toordinal():
                name = "first_incomplete_date" if snake else "firstIncompleteDate"
                return name, asked.end.fromordinal(first).isoformat()
        if "hour" in asked.dimensions:
            moment = clock.utc().replace(minute=0, second=0, microsecond=0) - HOURLY_LAG
            date = (moment + offset_hours(moment) * HOUR).date()
            if asked.end >= date:
                name = "first_incomplete_hour" if snake else "firstIncompleteHour"
                return name, next(hour.key for hour in hours_of(date) if hour.utc == moment)
        return None

    def _wait(self, rows: int, more: float = 0.0) -> None:
        options = self.options
        seconds = options.latency + rows * options.latency_per_row + more
        if options.latency_jitter:
            seconds += options.latency_jitter * self.dice().random()
        if seconds > 0:
            self.pause(seconds)

    def record(self, call: Call, moment: float, status: int, rows: int, fault: Optional[str],
               refusal: Optional[str]) -> None:
        """Log a query."""
        asked = call.query
        self.journal.add(Entry(
            moment, call.site or "", call.user, asked.dimensions if asked else (),
            asked.search_type if asked else "", asked.start if asked else None, asked.end if asked else None,
            asked.start_row if asked else 0, asked.row_limit if asked else 0, status, rows, call.batch,
            fault or call.http_fault, refusal))

    def waste(self, call: Call, status: int) -> None:
        """Charge and log a query whose HTTP request a fault answers as a whole."""
        if call.site is None:
            return
        refusal = None
        try:
            self.charge(call)
        except errors.Refusal as problem:
            refusal = problem.kind
        self.record(call, time.monotonic(), status, 0, None, refusal)
