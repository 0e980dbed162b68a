"""``verify``: is the copy right?  Held against itself without a call, and against Google with a stated number.

    examine        what the store says of itself: flaws, missing and unfinished days, days at Google's ceiling
    SpotCheck      random pages, and the totals of each day, against fresh answers
    repair         mends what can be mended here, and fetches just the days that are wrong
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import random
import time
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, Union

from . import pacific
from .auth import open_credentials
from .backoff import Backoff
from .client import Client, Outcome
from .config import PROJECT_QPM, SyncConfig
from .errors import ApiError, BurstQuota, ConfigError, StoreLocked, Transient
from .figures import COMPLETE, Result
from .halt import Halt, Halted
from .model import ROW_LIMIT, Dataset, Failed, Rows, Slice, SliceKey
from .quota import Quota
from .rows import make_decoder
from .sockets import SocketRegistry
from .stores import open_store
from .stores.base import FINAL, PROVISIONAL, Flaw, RunFigures, Store
from .sync import Sync

logger = logging.getLogger(__name__)

#: Rows a day from which some may be missing at Google: 48,860 to 50,484 were seen where 50,000 are promised
#: (gsc-api.md 2.7).
CEILING = 48_000

#: Tries of one call before it counts as failed.
_TRIES = 5


@dataclasses.dataclass
class Finding:
    """What is known of one dataset.  Lists of dates are sorted; ``explained`` is the share of the site's clicks that
    the rows account for (1.0 = all), None when unknown; ``different`` names pages whose rows differ from Google's."""

    dataset: Dataset
    days: int = 0
    rows: int = 0
    first: Optional[dt.date] = None
    last: Optional[dt.date] = None
    missing: List[dt.date] = dataclasses.field(default_factory=list)
    unfinished: List[dt.date] = dataclasses.field(default_factory=list)
    ceiling: List[dt.date] = dataclasses.field(default_factory=list)
    flaws: List[Flaw] = dataclasses.field(default_factory=list)
    explained: Optional[float] = None
    least_explained: Optional[Tuple[dt.date, float]] = None
    checked: int = 0
    different: List[Flaw] = dataclasses.field(default_factory=list)
    more: int = 0  # rows Google shows for a page alone, but not for the whole day

    @property
    def wrong(self) -> bool:
        """True when something should be mended."""
        return bool(self.missing or self.unfinished or self.flaws or self.different)

    def wrong_days(self) -> Set[dt.date]:
        """Days to be fetched (again)."""
        flawed = {flaw.date for flaw in self.flaws + self.different if flaw.kind == "rows" and flaw.date is not None}
        return flawed | set(self.missing) | set(self.unfinished)

    def as_dict(self) -> Dict[str, Any]:
        """For ``--json``."""
        return {
            "site": self.dataset.site, "report": self.dataset.report.name, "search_type": self.dataset.search_type,
            "days": self.days, "rows": self.rows, "first": _iso(self.first), "last": _iso(self.last),
            "missing": [str(date) for date in self.missing], "unfinished": [str(date) for date in self.unfinished],
            "ceiling": [str(date) for date in self.ceiling],
            "flaws": [{"kind": each.kind, "date": _iso(each.date), "words": each.words} for each in self.flaws],
            "explained": self.explained,
            "least_explained": self.least_explained and [str(self.least_explained[0]), self.least_explained[1]],
            "checked": self.checked, "more": self.more,
            "different": [{"date": _iso(each.date), "words": each.words} for each in self.different],
        }


def _iso(date: Optional[dt.date]) -> Optional[str]:
    return None if date is None else date.isoformat()


# -- the store against itself


def examine(store: Store, sites: Optional[Sequence[str]] = None) -> List[Finding]:
    """Everything the open *store* can say of itself, by dataset; no call is made."""
    days: Dict[Tuple[str, str, str], List[Tuple[dt.date, str, int]]] = {}
    for site, report, kind, date, status, rows in store.read(
        "SELECT site, report, search_type, date, status, rows FROM gsc_days"
    ):
        days.setdefault((site, report, kind), []).append((_date(date), status, rows))
    findings = []
    for dataset in store.datasets():
        known = days.get((dataset.site, dataset.report.name, dataset.search_type))
        if known and (not sites or dataset.site in sites):
            finding = judge_days(dataset, known)
            finding.flaws = store.audit(dataset)
            findings.append(finding)
    return findings


def judge_days(dataset: Dataset, days: Sequence[Tuple[dt.date, str, int]]) -> Finding:
    """What the ledger's (date, status, rows) of a dataset mean.  Pure."""
    finding = Finding(dataset)
    dates = sorted(date for date, _, _ in days)
    finding.first, finding.last = dates[0], dates[-1]
    finding.missing = sorted(set(pacific.days_between(dates[0], dates[-1])) - set(dates))
    for date, status, rows in sorted(days):
        if status not in (FINAL, PROVISIONAL):
            finding.unfinished.append(date)
            continue
        finding.days += 1
        finding.rows += rows
        if rows >= CEILING:
            finding.ceiling.append(date)
    return finding


def _date(value: Any) -> dt.date:
    return value if isinstance(value, dt.date) else dt.date.fromisoformat(value)


# -- the store against Google


class Sample(NamedTuple):
    """One page of one day, to be compared."""

    slice: Slice
    stored: List[Tuple[Any, ...]]


#: A row's dimensions and numbers, as gsc_performance shows them.
_COLUMNS = "query, country, device, clicks, impressions, ctr, position"


class SpotCheck:
    """Compares samples with fresh answers, within the budgets that all runs on the store share."""

    def __init__(
        self,
        store: Store,
        client: Client,
        quota: Quota,
        halt: Halt,
        *,
        dice: Optional[random.Random] = None,
        wait: Optional[Callable[[float], bool]] = None,
    ) -> None:
        self._store = store
        self._client = client
        self._quota = quota
        self._halt = halt
        self._dice = dice or random.Random()
        self._wait = wait or halt.wait
        self._backoff = Backoff(1.0, 30.0)
        self.calls = 0

    def choose(self, findings: Sequence[Finding], count: int, oldest: dt.date) -> List[Sample]:
        """*count* random pages of final days that Google still has, each dataset's share by its days."""
        days = [
            (finding.dataset, _date(date))
            for finding in findings
            if "page" in finding.dataset.report.dimensions
            for date, rows in self._store.read(
                "SELECT date, rows FROM gsc_days WHERE site = ? AND report = ? AND search_type = ? AND status = ?",
                (finding.dataset.site, finding.dataset.report.name, finding.dataset.search_type, FINAL),
            )
            if rows and _date(date) >= oldest
        ]
        samples: Dict[Slice, Sample] = {}
        for _ in range(4 * count if days else 0):  # the same page may be drawn twice
            if len(samples) == count:
                break
            sample = self._draw(*self._dice.choice(days))
            if sample is not None:
                samples[sample.slice] = sample
        return list(samples.values())

    def _draw(self, dataset: Dataset, date: dt.date) -> Optional[Sample]:
        place = (dataset.site, dataset.report.name, dataset.search_type, date.isoformat())
        where = "FROM gsc_performance WHERE site = ? AND report = ? AND search_type = ? AND date = ?"
        pages = self._store.read(f"SELECT DISTINCT page {where}", place)
        if not pages:
            return None
        page = self._dice.choice(pages)[0]
        if "\ufffd" in page:  # stands for what a store can't hold: Google would not know the page by it
            return None
        rows = self._store.read(f"SELECT {_COLUMNS} {where} AND page = ?", (*place, page))
        return Sample(Slice(dataset, SliceKey(date, 0, page)), rows)

    def compare(self, samples: Sequence[Sample], findings: Sequence[Finding]) -> None:
        """Ask Google for each sample, and note in *findings* what differs."""
        by_dataset = {finding.dataset: finding for finding in findings}
        answers = self._fetch([sample.slice for sample in samples])
        for sample in samples:
            rows = answers.get(sample.slice)
            finding = by_dataset[sample.slice.dataset]
            if not isinstance(rows, Rows):
                raise rows or Transient("no answer to a spot check")
            finding.checked += 1
            words, more = difference(sample.stored, rows)
            finding.more += more
            if words:
                key = sample.slice.key
                finding.different.append(Flaw("rows", sample.slice.dataset, key.date, f"{key.page}: {words}"))

    def explain(self, findings: Sequence[Finding], oldest: dt.date) -> None:
        """Note which share of a site's clicks the rows with queries account for: one call a site and search type."""
        asked: Dict[Tuple[str, str], Mapping[dt.date, int]] = {}
        for finding in findings:
            dataset = finding.dataset
            first, last = max(finding.first or oldest, oldest), finding.last
            if "query" not in dataset.report.dimensions or last is None or first > last:
                continue
            place = (dataset.site, dataset.search_type)
            if place not in asked:
                ends = [each for each in findings if (each.dataset.site, each.dataset.search_type) == place]
                start = max(oldest, min(each.first for each in ends if each.first is not None))
                asked[place] = self._totals(*place, start, max(each.last for each in ends if each.last is not None))
            finding.explained, finding.least_explained = share(self._clicks(dataset), asked[place])

    def _clicks(self, dataset: Dataset) -> Dict[dt.date, int]:
        found = self._store.read(
            "SELECT date, sum(clicks) FROM gsc_performance WHERE site = ? AND report = ? AND search_type = ?"
            " GROUP BY date",
            (dataset.site, dataset.report.name, dataset.search_type),
        )
        return {_date(date): int(clicks) for date, clicks in found}

    def _totals(self, site: str, search_type: str, start: dt.date, end: dt.date) -> Mapping[dt.date, int]:
        for attempt in range(1, _TRIES + 1):
            self._send(site, 1)
            grant = self._acquire(site, 1)
            refused = 0
            try:
                return self._client.clicks_by_day(site, search_type, start, end)
            except (Transient, BurstQuota) as error:
                refused = isinstance(error, BurstQuota)
                if attempt == _TRIES:
                    raise
                self._pause(attempt, error)
            finally:
                self._quota.settle(grant, refused=int(refused))
        raise AssertionError("unreachable")

    def _fetch(self, slices: Sequence[Slice]) -> Dict[Slice, Any]:
        """{slice: its Rows, or the ApiError that was left after all tries}."""
        answers: Dict[Slice, Any] = {}
        for attempt in range(1, _TRIES + 1):
            left = [each for each in slices if not isinstance(answers.get(each), Rows)]
            if not left:
                break
            if attempt > 1:
                self._pause(attempt - 1, answers.get(left[0]))
            for site in dict.fromkeys(each.dataset.site for each in left):
                self._fetch_site(site, [each for each in left if each.dataset.site == site], answers)
        return answers

    def _fetch_site(self, site: str, slices: List[Slice], answers: Dict[Slice, Any]) -> None:
        while slices:
            most = self._quota.burst(site) if self._client.batch_supported else 1
            grant = self._acquire(site, min(len(slices), most))
            part, slices = slices[: grant.calls], slices[grant.calls :]
            self._send(site, len(part))
            refused = 0

            def deliver(outcome: Outcome) -> None:
                nonlocal refused
                failed = isinstance(outcome, Failed)
                refused += failed and isinstance(outcome.error, BurstQuota)  # type: ignore[union-attr]
                answers[outcome.slice] = outcome.error if isinstance(outcome, Failed) else outcome.rows

            try:
                self._client.fetch(part, deliver)
            finally:
                self._quota.settle(grant, refused=refused)

    def _acquire(self, site: str, calls: int) -> Any:
        grant = self._quota.acquire(site, calls)
        if grant is None:
            raise Halted
        return grant

    def _send(self, site: str, calls: int) -> None:
        self.calls += calls
        logger.debug("%d calls to %s", calls, site)

    def _pause(self, failures: int, error: Optional[ApiError]) -> None:
        after = (error.retry_after or 0.0) if error is not None else 0.0
        if self._wait(max(after, self._backoff.delay(failures, random.random()))):
            raise Halted


def difference(stored: Sequence[Tuple[Any, ...]], rows: Rows) -> Tuple[str, int]:
    """("" or what is wrong with the *stored* rows of a page, how many more Google shows now).  Pure.

    More is not wrong: Google leaves rows out of a day's answer that it shows when asked for a page alone
    (gsc-api.md 2.7, dropped rows).
    """
    fresh: Dict[Tuple[str, ...], Tuple[Any, ...]] = {}
    for _, group in rows.groups:
        for row in group:
            clicks, impressions = -row[0], -row[1]
            ctr = clicks / impressions if row[6] is None and impressions else row[6]
            fresh[tuple(map(_storable, row[2:5]))] = (clicks, impressions, ctr, row[7])
    wrong = []
    for query, country, device, *numbers in stored:
        key = (_storable(query or ""), _storable(country or ""), _storable(device or ""))
        found = fresh.pop(key, None)
        if found is None:
            wrong.append(f"{'/'.join(filter(None, key)) or 'it'} is not there")
        elif tuple(numbers) != found:
            wrong.append(f"{'/'.join(filter(None, key)) or 'it'} has {_numbers(found)}, stored {_numbers(numbers)}")
    more = f" (and {len(wrong) - 1} more rows)" if len(wrong) > 1 else ""
    return (f"at Google, {wrong[0]}{more}" if wrong else ""), len(fresh)


def _storable(text: str) -> str:
    """*text* as every store holds it: Postgres can't hold a NUL."""
    return text.replace("\0", "\ufffd")


def _numbers(values: Sequence[Any]) -> str:
    clicks, impressions, _, position = values
    return f"{clicks} clicks, {impressions} impressions, position {position}"


def share(
    rows: Mapping[dt.date, int], totals: Mapping[dt.date, int]
) -> Tuple[Optional[float], Optional[Tuple[dt.date, float]]]:
    """(share of all clicks that the rows have, the day with the least and its share) over the days both know."""
    days = [date for date in rows if totals.get(date)]
    if not days:
        return None, None
    by_day = {date: rows[date] / totals[date] for date in days}
    least = min(days, key=lambda date: (by_day[date], date))
    return round(sum(rows[date] for date in days) / sum(totals[date] for date in days), 4), (
        least, round(by_day[least], 4)
    )


# -- repair


@dataclasses.dataclass(frozen=True)
class Repair:
    """What was done: flaws mended here, days fetched again (with the run's result), wrong days that Google no longer
    has, and days left to the next sync."""

    mended: int
    fetched: int
    gone: int
    left: int
    result: Optional[Result]


def repair(
    findings: Sequence[Finding],
    store: Store,
    config_for: Optional[Callable[[Sequence[Dataset], dt.date, dt.date], SyncConfig]],
    today: dt.date,
    halt: Halt,
) -> Repair:
    """Mend *findings* in the closed *store*, then fetch the days that are wrong, and only those.

    *config_for* makes the configuration of the run that fetches; without it (no credentials) days are reopened and
    the next sync that covers them fetches them.  Raises StoreLocked when a sync is at work on one of the datasets.
    """
    oldest = pacific.oldest_day(today)
    flaws = [flaw for finding in findings for flaw in finding.flaws + finding.different]
    # A day that Google no longer has stays as it is: better a wrong row than none.
    flaws = [flaw for flaw in flaws if flaw.kind != "rows" or flaw.date is not None and flaw.date >= oldest]
    wanted = {finding.dataset: {date for date in finding.wrong_days() if date >= oldest} for finding in findings}
    wanted = {dataset: dates for dataset, dates in wanted.items() if dates}
    gone = sum(date < oldest for finding in findings for date in finding.wrong_days())
    if flaws:
        _mend(flaws, store)
    result = None
    if wanted and config_for is not None:
        dates = [date for each in wanted.values() for date in each]
        config = config_for(list(wanted), min(dates), max(dates))
        run = Sync(config, today=today, only=wanted)
        halt.on_set(lambda: run.halt(halt.reason))
        result = run.run()
    fetched = result.days if result is not None else 0
    left = sum(map(len, wanted.values())) - fetched
    return Repair(len({flaw[:3] for flaw in flaws}), fetched, gone, left, result)


def _mend(flaws: Sequence[Flaw], store: Store) -> None:
    halt, began = Halt(), time.monotonic()
    store.open()
    try:
        store.begin(halt)
        run_id = store.start_run('{"verify": "repair"}')
        held = store.claim({flaw.dataset for flaw in flaws})
        if held:
            dataset, holder = next(iter(held.items()))
            raise StoreLocked(f"{dataset} is {holder}; repair it afterwards")
        store.mend(flaws)
        seconds = round(time.monotonic() - began, 3)
        store.save_run(run_id, RunFigures(COMPLETE, 0, 0, 0, 0, 0, seconds), ended=True)
        store.commit()
    finally:
        store.rollback()
        store.close()


# -- all of it


@dataclasses.dataclass(frozen=True)
class Verification:
    """What ``verify`` found and did.  ``calls`` were made for it, those of the repair not included."""

    findings: List[Finding]
    calls: int
    repair: Optional[Repair] = None

    @property
    def wrong(self) -> bool:
        """True when something was wrong and has not been mended."""
        if self.repair is None:
            return any(finding.wrong for finding in self.findings)
        done = self.repair.result is None or self.repair.result.status == COMPLETE
        return bool(self.repair.gone) or not done or self.repair.left > 0

    def as_dict(self) -> Dict[str, Any]:
        """The object that ``--json`` prints."""
        values: Dict[str, Any] = {
            "status": "wrong" if self.wrong else "repaired" if self.repair else "ok",
            "calls": self.calls,
            "datasets": [finding.as_dict() for finding in self.findings],
        }
        if self.repair is not None:
            result = self.repair.result
            values["repair"] = {
                "mended": self.repair.mended, "fetched": self.repair.fetched, "gone": self.repair.gone,
                "left": self.repair.left, "calls": result.calls if result else 0,
                "status": result.status if result else "",
            }
        return values


def verify(
    store_url: Union[str, Store],
    *,
    sites: Optional[Sequence[str]] = None,
    credentials: Any = None,
    pages: int = 100,
    mend: bool = False,
    halt: Optional[Halt] = None,
    today: Optional[dt.date] = None,
    seed: Optional[int] = None,
    announce: Callable[[str], None] = logger.info,
    **settings: Any,
) -> Verification:
    """Verify a store.  Without *credentials* no call is made; with them, *pages* random pages are compared with
    Google's answers, and the clicks of rows with queries with the site's.  *mend* repairs what is wrong.

    *settings* are those of SyncConfig (``api_root``, ``qpm_limit``, ...).  *announce* is told what is about to be done.
    Raises what a sync raises, and Halted after ``halt.set``.
    """
    if not 0 <= pages <= ROW_LIMIT:
        raise ConfigError(f"pages must be from 0 to {ROW_LIMIT}, not {pages}")
    halt = halt or Halt()
    today = today or pacific.today()
    store = open_store(store_url) if isinstance(store_url, str) else store_url
    store.open(writing=False)
    calls = 0
    try:
        findings = examine(store, sites)
        if credentials is not None and findings:
            config = SyncConfig(
                sites=[finding.dataset.site for finding in findings], store=store, credentials=credentials, **settings
            )
            calls = _ask_google(findings, store, config, halt, pages, today, random.Random(seed), announce)
    finally:
        store.close()
    if not mend or not any(finding.wrong for finding in findings):
        return Verification(findings, calls)

    def config_for(datasets: Sequence[Dataset], start: dt.date, end: dt.date) -> SyncConfig:
        return SyncConfig(
            sites=list(dict.fromkeys(dataset.site for dataset in datasets)), store=store, credentials=credentials,
            start=start, end=end, **settings,
        )

    return Verification(findings, calls, repair(findings, store, config_for if credentials else None, today, halt))


def _ask_google(
    findings: Sequence[Finding],
    store: Store,
    config: SyncConfig,
    halt: Halt,
    pages: int,
    today: dt.date,
    dice: random.Random,
    announce: Callable[[str], None],
) -> int:
    """Spot checks and totals; the calls they cost."""
    registry = SocketRegistry()
    halt.on_set(registry.abort)
    access = open_credentials(config.credentials)
    client = Client(
        api_root=config.api_root, credentials=access, registry=registry, halt=halt, http_timeout=config.http_timeout,
        data_state=config.data_state, decode=make_decoder(), ca_bundle=config.ca_bundle,
    )
    quota = Quota(
        site_budget=config.budget, user_budget=config.budget, project_budget=int(PROJECT_QPM * config.qpm_target),
        burst=config.batch_size, account=access.account, halt=halt, enabled=config.rate_limit_enabled,
    )
    if config.rate_limit_enabled:
        quota.share(config.ledger or store.quota_ledger())
    check = SpotCheck(store, client, quota, halt, dice=dice)
    oldest = pacific.oldest_day(today)
    try:
        samples = check.choose(findings, pages, oldest)
        totals = len({
            (each.dataset.site, each.dataset.search_type)
            for each in findings if "query" in each.dataset.report.dimensions and each.last and each.last >= oldest
        })
        announce(f"{len(samples)} pages and {totals} totals are compared with Google: {len(samples) + totals} calls")
        check.compare(samples, findings)
        check.explain(findings, oldest)
    finally:
        quota.close()
        client.close()
    return check.calls
