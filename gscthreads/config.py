"""One frozen ``SyncConfig``: every setting, its default, its limits and its words, checked at construction."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime as dt
import ipaddress
import json
import os
import ssl
import urllib.parse
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from . import pacific
from .errors import ConfigError
from .model import DIMENSIONS, SEARCH_TYPES, Dataset, Report
from .quota import QuotaLedger
from .stores.base import Store

#: ``max_concurrency`` when it is to be found out.
AUTO = "auto"

GOOGLE = "https://searchconsole.googleapis.com"

#: Reports with fixed names: gsc_page_daily and gsc_page_lifetime read the first, gsc_top_queries the second.
KNOWN_REPORTS = {
    "page": Report("page", ("page",)),
    "page_query": Report("page_query", ("page", "query")),
}

#: Calls a minute one project may make (gsc-api.md section 3); the limit per user is that of a site.
PROJECT_QPM = 40_000


def _setting(default: Any, low: float, high: float, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "help": text})


def _choice(default: str, choices: Tuple[str, ...], text: str) -> Any:
    return dataclasses.field(default=default, metadata={"choices": choices, "help": text})


def _switch(default: bool, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"switch": True, "help": text})


@dataclasses.dataclass(frozen=True)
class SyncConfig:
    """What to copy, where to, and how hard to try.

    ``sites``: one or more properties.  ``start``/``end``: dates, or text as the command line takes it (``2026-01-31``,
    ``yesterday``, ``-30d``, ``16m``), Pacific calendar, both included.  ``store``: a URL or a Store.  ``credentials``:
    see ``auth.open_credentials``.  ``reports``: names (``page``, ``page_query``), ``"dim,dim"`` or Report objects.
    ``ledger``: where the budgets live that several runs share, when that is not the store.

    Memory: about 45 MB + 30 MB of decoding + 320 bytes for each of at most 100,000 queued rows, whatever the settings.

    Raises ConfigError naming the field, the value and what is allowed.
    """

    sites: Sequence[str]
    store: Union[str, Store] = dataclasses.field(repr=False)  # may hold a password
    credentials: Any = dataclasses.field(repr=False)
    start: Union[str, dt.date] = "16m"
    end: Union[str, dt.date] = "yesterday"
    reports: Sequence[Union[str, Report]] = ("page", "page_query")
    search_types: Sequence[str] = ("web",)
    force: bool = _switch(False, "fetch finished days again")
    wait: bool = _switch(False, "wait for datasets that another sync holds, instead of leaving them to it")
    wait_for_quota: bool = _switch(False, "sleep when Google's load quota is spent, instead of ending with status 3")

    max_concurrency: Union[int, str] = dataclasses.field(default=3, metadata={
        "low": 1, "high": 64, "auto": True, "help": "worker threads; 1 = sequential; auto = as many as help"})
    batch_size: int = _setting(50, 1, 1000, "most slices per HTTP batch; 1 = plain calls")
    max_queue_size: int = _setting(1000, 1, 100_000, "most slice results waiting for the coordinator")
    max_in_flight: int = _setting(10, 1, 1000, "most HTTP batches fetched and not yet persisted")
    max_open_days: int = _setting(16, 1, 10_000, "days of a dataset begun and not yet published")
    order: str = _choice("newest", ("newest", "oldest"), "which days come first")
    qpm_limit: float = _setting(1200, 1, 40_000, "Google's calls per minute and site (and user)")
    qpm_target: float = _setting(0.8, 0.01, 1.0, "share of that limit to use")
    rate_limit_enabled: bool = _switch(True, "keep to the limit; off only for tests")
    http_timeout: float = _setting(45.0, 0.1, 3600, "connect and read time-out of one HTTP batch, seconds")
    max_attempts: int = _setting(5, 1, 100, "tries per slice")
    backoff_base: float = _setting(1.0, 0.0, 3600, "longest first pause after a fault, seconds; doubles each time")
    backoff_cap: float = _setting(60.0, 0.0, 3600, "longest pause after a fault, seconds")
    data_state: str = _choice("final", ("final", "all"), "final = settled data only; all = also fresh data")
    final_after_days: int = _setting(3, 0, 480, "younger days are provisional: fetched again by later syncs")
    empty_final_after_days: int = _setting(10, 0, 480, "the same for days without rows")
    top_queries: int = _setting(20, 1, 25_000, "queries ranked per page and day")
    until_empty: bool = _switch(False, "go on until a slice comes back empty, not just short")
    api_root: str = dataclasses.field(default=GOOGLE, metadata={"help": "where the API is"})
    ca_bundle: Optional[str] = dataclasses.field(default=None, metadata={"help": "CA certificates to trust, a file"})
    ledger: Optional[QuotaLedger] = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        if not _is_list(self.sites):
            raise ConfigError("sites must be a list of one or more properties, such as sc-domain:example.com")
        for site in self.sites:
            if not isinstance(site, str) or not site.strip() or any(map(_is_unfit, site)):
                raise ConfigError(f"site {site!r} is not a property; write sc-domain:example.com or https://host/")
        check_root(self.api_root)
        check_ca_bundle(self.ca_bundle)
        for name in ("start", "end"):
            self._day(name, dt.date(9000, 1, 1))  # its form; ``days`` knows the rest
        self.datasets()
        if self.ledger is not None and not isinstance(self.ledger, QuotaLedger):
            raise ConfigError(f"ledger must be a QuotaLedger of this package, not {type(self.ledger).__qualname__}")
        if self.backoff_cap < self.backoff_base:
            raise ConfigError(f"backoff_cap {self.backoff_cap} is below backoff_base {self.backoff_base}")

    @property
    def workers(self) -> Optional[int]:
        """Worker threads, None when their number is to be found out."""
        return None if isinstance(self.max_concurrency, str) else self.max_concurrency

    @property
    def budget(self) -> int:
        """Calls per minute we allow ourselves for one site: qpm_limit * qpm_target, at least 1."""
        return max(1, int(self.qpm_limit * self.qpm_target + 1e-9))

    def datasets(self) -> List[Dataset]:
        """Each site with each report and search type, in the order given, without repeats."""
        if not _is_list(self.search_types):
            raise ConfigError(f"search_types must be a list of some of {', '.join(SEARCH_TYPES)}")
        for kind in self.search_types:
            if kind not in SEARCH_TYPES:
                raise ConfigError(f"search type {kind!r} is none of {', '.join(SEARCH_TYPES)}")
        if not _is_list(self.reports):
            raise ConfigError("reports must be a list, such as ['page', 'page_query']")
        reports = [read_report(report) for report in self.reports]
        found = [Dataset(site, report, kind) for site in self.sites for report in reports for kind in self.search_types]
        for report, kind in ((report, kind) for report in reports for kind in self.search_types):
            _check_combination(report, kind)
        names: Dict[str, Report] = {}
        for report in reports:
            if names.setdefault(report.name, report) != report:
                raise ConfigError(f"two reports are named {report.name!r}")
        return list(dict.fromkeys(found))

    def days(self, today: dt.date) -> List[dt.date]:
        """Every date asked for, oldest first.  *today*: the Pacific date, see ``pacific.today``."""
        start, end = self._day("start", today), self._day("end", today)
        if start > end:
            raise ConfigError(f"start {start} is after end {end}")
        if start > today:
            raise ConfigError(f"start {start} is in the future; today is {today} (Pacific)")
        return pacific.days_between(start, min(end, today))

    def _day(self, name: str, today: dt.date) -> dt.date:
        value: Any = getattr(self, name)
        if isinstance(value, dt.datetime):
            return value.date()
        if isinstance(value, dt.date):
            return value
        try:
            return pacific.parse_day(value if isinstance(value, str) else repr(value), today)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None

    def settings(self) -> str:
        """What gsc_runs keeps of a run's configuration, as JSON: no credentials, no store URL."""
        kept = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("credentials", "store", "api_root", "reports", "ledger")
        }
        kept["reports"] = [read_report(report).name for report in self.reports]
        kept["sites"] = list(self.sites)
        return json.dumps(kept, sort_keys=True, default=str)


def _is_unfit(char: str) -> bool:
    """No address has blanks or control characters, no database takes half a surrogate pair."""
    return ord(char) < 33 or "\ud800" <= char <= "\udfff"


def _is_list(value: Any) -> bool:
    """Several values, at least one: not a lone name, whose letters would be taken for values."""
    sized = isinstance(value, collections.abc.Sized) and isinstance(value, collections.abc.Iterable)
    return sized and not isinstance(value, (str, bytes)) and len(value) > 0


def read_report(value: Any) -> Report:
    """A report by name, by ``dim,dim``, or itself; ConfigError when a dimension is unknown or combined wrongly."""
    name, dimensions = value if isinstance(value, tuple) and len(value) == 2 else (None, None)
    if isinstance(value, str):
        dimensions = tuple(part.strip() for part in value.split(","))
        report = KNOWN_REPORTS.get(value) or Report("_".join(dimensions), dimensions)
    elif isinstance(name, str) and isinstance(dimensions, (tuple, list)):
        report = Report(name, tuple(dimensions))
    else:
        raise ConfigError(f"report {value!r} is neither a name, 'dim,dim' nor Report(name, dimensions)")
    for dimension in report.dimensions:
        if dimension == "hour":
            raise ConfigError("dimension 'hour' is not supported: the store keeps whole days")
        if dimension not in DIMENSIONS:
            raise ConfigError(f"report {value!r}: {dimension!r} is none of {', '.join(DIMENSIONS)}")
    if len(set(report.dimensions)) != len(report.dimensions):
        raise ConfigError(f"report {value!r} names a dimension twice")
    if "searchAppearance" in report.dimensions and len(report.dimensions) > 1:
        raise ConfigError(f"report {value!r}: Google allows searchAppearance only alone")
    if report.name in KNOWN_REPORTS and report != KNOWN_REPORTS[report.name]:
        raise ConfigError(f"report name {report.name!r} stands for {','.join(KNOWN_REPORTS[report.name].dimensions)}")
    if not report.name.strip() or len(report.name) > 100 or not report.name.isprintable():  # Postgres takes no NUL
        raise ConfigError(f"report name {report.name!r} must have 1 to 100 characters, all printable")
    return report


def _check_combination(report: Report, search_type: str) -> None:
    """Combinations Google is known to refuse (gsc-api.md 2.3)."""
    refused = {"discover": ("device", "query"), "googleNews": ("query",)}.get(search_type, ())
    for dimension in refused:
        if dimension in report.dimensions:
            raise ConfigError(f"report {report.name!r}: Google has no {dimension} for search type {search_type}")


def _check(field: "dataclasses.Field[Any]", value: Any) -> None:
    rules = field.metadata
    if rules.get("auto") and value == AUTO:
        return
    if "low" in rules:
        kinds = (int,) if type(field.default) is int and field.name != "qpm_limit" else (int, float)
        if type(value) not in kinds or not rules["low"] <= value <= rules["high"]:
            kind = ("auto or " if rules.get("auto") else "") + ("a whole number" if kinds == (int,) else "a number")
            raise ConfigError(f"{field.name} must be {kind} from {rules['low']} to {rules['high']}, not {value!r}")
    elif "choices" in rules and value not in rules["choices"]:
        raise ConfigError(f"{field.name} must be one of {', '.join(rules['choices'])}, not {value!r}")
    elif "switch" in rules and type(value) is not bool:
        raise ConfigError(f"{field.name} must be True or False, not {value!r}")


def check_root(root: Any) -> None:
    """Tokens go to this address: https, or plain http on this machine only."""
    if isinstance(root, str) and "@" in root:  # before any message that shows it
        raise ConfigError("api_root must not hold a user name or password")
    parts = _split(root) if isinstance(root, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"api_root {root!r} must be an address such as {GOOGLE}")
    if parts.scheme == "http" and not _is_local(parts.hostname):
        raise ConfigError(f"api_root {root!r} would send the access token unencrypted; use https")


def check_ca_bundle(path: Any) -> None:
    """*path* is what TLS can be checked against: a PEM file, or a folder as OpenSSL wants it; None is the default."""
    if path is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(**{"capath" if os.path.isdir(path) else "cafile": path})
    except (OSError, TypeError, ValueError) as error:
        words = getattr(error, "strerror", None) or error
        raise ConfigError(f"ca_bundle {path!r} is not a file of CA certificates in PEM form: {words}") from None


def _split(root: str) -> Optional[urllib.parse.SplitResult]:
    try:
        parts = urllib.parse.urlsplit(root)
        parts.port  # raises when it is none
    except ValueError:
        return None
    return parts


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
