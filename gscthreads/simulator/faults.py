"""Named faults: what can go wrong on purpose, how often, and when exactly.

A fault has a scope: what is hit by one throw of the dice.

- ``query``: one query, sent alone or as a part of a batch;
- ``part``: one part of a batch answer;
- ``batch``: a whole batch answer;
- ``http``: any HTTP request that carries queries, alone or as a batch;
- ``token``: a token request.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import threading
from typing import Any, Callable, Dict, Hashable, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Union


class Fault(NamedTuple):
    """An entry of the registry."""

    name: str
    scope: str
    #: Groups it belongs to; a group's name can be used in place of its members'.
    groups: Tuple[str, ...]
    description: str


def _table() -> Iterable[Fault]:
    server, quota, transport = ("transient", "server"), ("transient", "quota"), ("transient", "transport")
    garbage, hanging, hostile, final = ("transient", "garbage"), ("hanging",), ("hostile",), ("final",)
    yield Fault("http_500", "query", server, "500 backendError")
    yield Fault("http_502_html", "query", server, "502 with an HTML page from a proxy")
    yield Fault("http_503", "query", server, "503 UNAVAILABLE")
    yield Fault("http_504", "query", server, "504 gatewayTimeout")
    yield Fault("http_408", "query", server, "408 requestTimeout")
    yield Fault("http_429", "query", quota, "429 in the legacy shape: rateLimitExceeded")
    yield Fault("http_429_new", "query", quota, "429 RESOURCE_EXHAUSTED, queries per minute of the Cloud project")
    yield Fault("qps_403", "query", quota, "403 quotaExceeded, text 'QPS quota exceeded'")
    yield Fault("quota_403_no_reason", "query", quota, "the same 403 without errors[], so without a reason")
    yield Fault("user_rate_403", "query", quota, "403 userRateLimitExceeded")
    yield Fault("load_403", "query", ("load",), "403 quotaExceeded, text 'load quota exceeded'")
    yield Fault("daily_403", "query", ("load",), "403 dailyLimitExceeded: the project's quota of the day")
    yield Fault("daily_429", "query", ("load",), "429 RESOURCE_EXHAUSTED, queries per day of the Cloud project")
    yield Fault("unauthorized_401", "query", ("transient", "auth"), "401 although the token is good")
    yield Fault("forbidden_403", "query", final, "403 forbidden: no permission for this site")
    yield Fault("scope_403", "query", final, "403 insufficientPermissions: the token's scopes don't cover the call")
    yield Fault("api_disabled_403", "query", final, "403 accessNotConfigured/SERVICE_DISABLED: API off in the project")
    yield Fault("quota_project_403", "query", final, "403 SERVICE_DISABLED, text 'requires a quota project'")
    yield Fault("not_found_404", "query", final, "404 notFound")
    yield Fault("invalid_400", "query", final, "400 invalidParameter")
    yield Fault("malformed_json", "query", garbage, "200 whose JSON has a syntax error in the middle")
    yield Fault("truncated_json", "query", garbage, "200 whose JSON ends half way (framing and gzip are fine)")
    yield Fault("wrong_types", "query", garbage, "200 whose rows aren't a list, keys aren't strings, ...")
    yield Fault("nan_json", "query", garbage, "200 with NaN, Infinity or negative numbers for clicks and position")
    yield Fault("deep_json", "query", garbage, "200 with 100,000 nested brackets")
    yield Fault("html_200", "query", garbage, "200 with an HTML page")
    yield Fault("slow", "query", ("harmless",), "a right answer, late by the option slow_seconds")
    yield Fault("empty_part", "part", garbage, "the part has neither status line nor body")
    yield Fault("missing_part", "part", garbage, "the part is left out")
    yield Fault("doubled_part", "part", garbage, "the part comes twice")
    yield Fault("mislabelled_part", "part", garbage, "the part has a Content-ID nobody asked for")
    yield Fault("outer_401", "http", ("transient", "auth"), "the HTTP request as a whole is answered 401")
    yield Fault("outer_403_quota", "http", quota, "the HTTP request as a whole is answered 403, QPS quota exceeded")
    yield Fault("outer_500", "http", server, "the HTTP request as a whole is answered 500")
    yield Fault("outer_503", "http", server, "the HTTP request as a whole is answered 503")
    yield Fault("outer_html_200", "http", garbage, "the HTTP request is answered 200 with an HTML page")
    yield Fault("outer_not_multipart", "batch", garbage, "the batch is answered 200 with plain JSON")
    yield Fault("shuffled_parts", "batch", ("harmless",), "the batch's parts come in another order")
    yield Fault("lf_parts", "batch", ("harmless",), "line ends of the batch answer are LF, not CRLF")
    yield Fault("reset_before", "http", transport, "the connection is reset before any answer")
    yield Fault("reset_headers", "http", transport, "the connection is reset in the middle of the headers")
    yield Fault("reset_body", "http", transport, "the connection is reset in the middle of the body")
    yield Fault("truncated_gzip", "http", transport, "the (gzip) body stops half way, but is framed as if complete")
    yield Fault("corrupt_gzip", "http", transport, "some bytes in the middle of the (gzip) body are wrong")
    yield Fault("wrong_length", "http", transport, "the framing promises more bytes than come before the close")
    yield Fault("hang", "http", hanging, "no answer until the server stops or release_hangs() is called")
    yield Fault("stall_body", "http", hanging, "the body stops half way until the server stops or release_hangs()")
    yield Fault("drip", "http", hanging, "the body comes byte by byte, one every drip_interval seconds")
    yield Fault("huge", "http", hostile, "an endless-looking 200 body of huge_bytes, uncompressed")
    yield Fault("gzip_bomb", "http", hostile, "a small gzip body that unpacks to huge_bytes")
    yield Fault("token_503", "token", ("transient", "server"), "the token endpoint answers 503")
    yield Fault("token_invalid_grant", "token", final, "the token endpoint answers 400 invalid_grant")


#: Every fault by name.
FAULTS: Dict[str, Fault] = {fault.name: fault for fault in _table()}

#: Group name -> its faults.  "transient" is every fault a client gets over by trying again, without hanging; "load"
#: is quota that is gone for long, "final" what no trying again helps against.
GROUPS: Dict[str, Tuple[str, ...]] = {
    group: tuple(fault.name for fault in FAULTS.values() if group in fault.groups)
    for group in sorted({group for fault in FAULTS.values() for group in fault.groups})}


class Target(NamedTuple):
    """What a fault might hit; None where it is not known or doesn't apply."""

    site: Optional[str] = None
    user: Optional[str] = None
    dimensions: Optional[Tuple[str, ...]] = None
    date: Optional[dt.date] = None
    start_row: Optional[int] = None
    search_type: Optional[str] = None

    @property
    def key(self) -> Hashable:
        """What dice are thrown for: the same query asked again gets its own next throw."""
        return (self.site, self.dimensions, self.search_type, str(self.date), self.start_row)


@dataclasses.dataclass
class Script:
    """A fault to happen at the next ``times`` matching chances (None: always), after ``after`` chances let pass."""

    name: str
    times: Optional[int] = 1
    after: int = 0
    where: Tuple[Tuple[str, Any], ...] = ()
    #: How often it happened so far.
    hits: int = 0

    @property
    def done(self) -> bool:
        """Whether it happened as often as it should."""
        return self.times is not None and self.hits >= self.times

    def matches(self, target: Target) -> bool:
        """Whether the target is one of those it waits for."""
        return all(getattr(target, field) == value for field, value in self.where)


class Faults:
    """Which faults happen: probabilities and scripts.  Thread-safe, and deterministic from the seed.

    The dice depend on what is asked and how often it was asked before, not on the order in which threads come.
    """

    def __init__(self, seed: Callable[[], int]) -> None:
        self._seed = seed
        self._lock = threading.Lock()
        self._chances: Dict[str, float] = {}
        self._scripts: List[Script] = []
        self._throws: Dict[Hashable, int] = {}

    def set(self, name: str, probability: float) -> None:
        """Let a fault happen by chance, 0 to 1 per thing of its scope; 0 ends it.

        A group's probability is shared out evenly among its members, so that it is about the chance of any.
        """
        if not 0 <= probability <= 1:
            raise ValueError(f"fault {name}={probability!r}: a probability is from 0 to 1")
        names = members(name)
        with self._lock:
            for member in names:
                self._chances[member] = probability / len(names)

    def script(self, name: str, times: Optional[int] = 1, after: int = 0, *, site: Optional[str] = None,
               user: Optional[str] = None, date: Union[dt.date, str, None] = None, start_row: Optional[int] = None,
               dimensions: Optional[Sequence[str]] = None, search_type: Optional[str] = None) -> Script:
        """Let a fault happen at the next ``times`` chances that fit (None: every time), after skipping ``after``.

        A batch fits if any of its queries does.  Several scripts: the first that fits and isn't done wins.
        """
        if name not in FAULTS:
            raise ValueError(f"no fault {name!r}; there are: {', '.join(FAULTS)}")
        if isinstance(date, str):
            date = dt.date.fromisoformat(date)
        fields = {"site": site, "user": user, "date": date, "start_row": start_row, "search_type": search_type,
                  "dimensions": None if dimensions is None else tuple(dimensions)}
        where = tuple((field, value) for field, value in fields.items() if value is not None)
        script = Script(name, times, after, where)
        with self._lock:
            self._scripts.append(script)
        return script

    def clear(self) -> None:
        """No more faults of any kind."""
        with self._lock:
            self._chances.clear()
            self._scripts.clear()

    def chances(self) -> Dict[str, float]:
        """The probabilities above zero."""
        with self._lock:
            return {name: chance for name, chance in self._chances.items() if chance}

    def choose(self, scopes: Sequence[str], targets: Sequence[Target]) -> Optional[str]:
        """The fault that hits now, if any: a scripted one, else what the dice say for the first target."""
        with self._lock:
            for script in self._scripts:
                if script.done or FAULTS[script.name].scope not in scopes:
                    continue
                if any(script.matches(target) for target in targets):
                    if script.after:
                        script.after -= 1
                        continue
                    script.hits += 1
                    return script.name
            possible = [(name, chance) for name, chance in self._chances.items()
                        if chance and FAULTS[name].scope in scopes]
            if not possible:
                return None
            thing = (scopes[0], targets[0].key if targets else None)
            throw = self._throws[thing] = self._throws.get(thing, 0) + 1
        point = fraction(self._seed(), thing, throw)
        for name, chance in possible:
            if point < chance:
                return name
            point -= chance
        return None


def members(name: str) -> Tuple[str, ...]:
    """The faults a fault's or a group's name stands for; raises ValueError for any other name."""
    if name in FAULTS:
        return (name,)
    if name in GROUPS:
        return GROUPS[name]
    raise ValueError(f"no fault {name!r}; there are: {', '.join(FAULTS)}; and the groups {', '.join(GROUPS)}")


def fraction(*what: object) -> float:
    """A number in [0, 1) that depends on the arguments only."""
    digest = hashlib.sha256(repr(what).encode("utf-8", "backslashreplace")).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)
