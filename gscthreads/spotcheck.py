"""A copy against Google: random pages, and the totals of each day, against fresh answers, at a stated number of calls.

Whatever Google refuses, what was found without it still counts: a site that can't be asked is noted with the reason.
"""

from __future__ import annotations

import datetime as dt
import logging
import random
import time
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .audit import Flaw
from .backoff import Backoff
from .client import Client, Outcome
from .errors import (
    ApiError,
    BurstQuota,
    CredentialsError,
    Denied,
    GscError,
    LoadQuota,
    StoreError,
    Transient,
    Unauthorized,
)
from .findings import Finding, read_date
from .halt import Halt, Halted
from .model import Dataset, Failed, Rows, Slice, SliceKey
from .parking import next_park
from .quota import Grant, Quota
from .stores.base import FINAL, Park, Store

logger = logging.getLogger(__name__)

#: What passes when it is tried again; anything else is Google's word.
_PASSING = (Transient, BurstQuota, Unauthorized)


class Sample(NamedTuple):
    """One page of one day, to be compared."""

    slice: Slice
    stored: List[Tuple[Any, ...]]


class _NoBudget(GscError):
    """The ledger of the budgets can't be used, so no call may be made."""


#: Characters of the longest expression that a filter takes (gsc-api.md 2.4).
_LONGEST_FILTER = 4_096

#: A row's dimensions and numbers, as gsc_performance shows them.
_COLUMNS = "query, country, device, clicks, impressions, ctr, position"


class SpotCheck:
    """Compares samples with fresh answers, within the budgets that all runs on the store share.

    *parks*: sites whose load quota was spent when they were asked last: before its end a parked site isn't asked.
    """

    def __init__(
        self,
        store: Store,
        client: Client,
        quota: Quota,
        halt: Halt,
        *,
        tries: int = 5,
        backoff: Backoff = Backoff(1.0, 60.0),
        parks: Optional[Mapping[str, Park]] = None,
        dice: Optional[random.Random] = None,
        wait: Optional[Callable[[float], bool]] = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._client = client
        self._quota = quota
        self._halt = halt
        self._tries = tries
        self._backoff = backoff
        self._parks = parks or {}
        self._dice = dice or random.Random()
        self._wait = wait or halt.wait
        self._wall = wall
        self.calls = 0
        self.unasked: Dict[str, str] = {}  #: site -> why Google was not asked, or not about all
        self.parked: Dict[str, Optional[Park]] = {}  #: parks to be noted, None where the site answers again
        self._partly: Dict[str, str] = {}  # as unasked, of sites that answered some of what they were asked
        for site, park in self._parks.items():
            if wall() < park.until.timestamp():
                self.unasked[site] = _parked_words(park.reason, park)

    def choose(self, findings: Sequence[Finding], count: int, oldest: dt.date) -> List[Sample]:
        """*count* random pages of final days that Google still has, each dataset's share by its days."""
        days = [
            (finding.dataset, read_date(date))
            for finding in findings
            if "page" in finding.dataset.report.dimensions and finding.dataset.site not in self.unasked
            for date, rows in self._store.read(
                "SELECT date, rows FROM gsc_days WHERE site = ? AND report = ? AND search_type = ? AND status = ?",
                (finding.dataset.site, finding.dataset.report.name, finding.dataset.search_type, FINAL),
            )
            if rows and read_date(date) >= oldest
        ]
        samples: Dict[Slice, Sample] = {}
        for _ in range(4 * count if days else 0):  # the same page may be drawn twice
            if len(samples) == count:
                break
            self._check_halt()
            sample = self._draw(*self._dice.choice(days))
            if sample is not None:
                samples[sample.slice] = sample
        return list(samples.values())

    def _draw(self, dataset: Dataset, date: dt.date) -> Optional[Sample]:
        place = (dataset.site, dataset.report.name, dataset.search_type, date.isoformat())
        where = "FROM gsc_performance WHERE site = ? AND report = ? AND search_type = ? AND date = ?"
        # None: rows whose page has lost its name, which the audit tells.  U+FFFD stands for what a store can't hold:
        # Google would not know the page by it.  Nor can it be asked for pages longer than a filter may be.
        pages = [page for page, in self._store.read(f"SELECT DISTINCT page {where}", place)
                 if page is not None and "\ufffd" not in page and len(page) <= _LONGEST_FILTER]
        if not pages:
            return None
        page = self._dice.choice(pages)
        rows = self._store.read(f"SELECT {_COLUMNS} {where} AND page = ?", (*place, page))
        return Sample(Slice(dataset, SliceKey(date, 0, page)), rows)

    def totals(self, findings: Sequence[Finding], oldest: dt.date) -> List[Tuple[str, str]]:
        """The (site, search type) whose totals ``explain`` asks for: one call each."""
        return list(dict.fromkeys(
            (each.dataset.site, each.dataset.search_type)
            for each in findings
            if "query" in each.dataset.report.dimensions and each.last and each.last >= oldest
            and each.dataset.site not in self.unasked
        ))

    def ask(self, findings: Sequence[Finding], samples: Sequence[Sample], oldest: dt.date) -> None:
        """Compare *samples*, and the clicks of each day, with Google; note in *findings* what was found out."""
        try:
            self.compare(samples, findings)
            self.explain(findings, oldest)
        except (CredentialsError, _NoBudget) as error:  # whichever site is next would meet the same
            for finding in findings:
                self.unasked.setdefault(finding.dataset.site, str(error))
        for site, words in self._partly.items():
            self.unasked.setdefault(site, words)

    def compare(self, samples: Sequence[Sample], findings: Sequence[Finding]) -> None:
        """Ask Google for each sample, and note in *findings* what differs."""
        by_dataset = {finding.dataset: finding for finding in findings}
        answers = self._fetch([sample.slice for sample in samples])
        unanswered: Dict[str, List[Any]] = {}
        answered = set()
        for sample in samples:
            rows = answers.get(sample.slice)
            finding = by_dataset[sample.slice.dataset]
            if not isinstance(rows, Rows):
                unanswered.setdefault(sample.slice.dataset.site, []).append(rows)
                continue
            answered.add(sample.slice.dataset.site)
            finding.checked += 1
            words, more = difference(sample.stored, rows)
            finding.more += more
            if words:
                key = sample.slice.key
                finding.different.append(Flaw("rows", sample.slice.dataset, key.date, f"{key.page}: {words}"))
        for site, errors in unanswered.items():
            why = next(filter(None, errors), None) or Transient("no answer")
            (self._partly if site in answered else self.unasked).setdefault(site, f"{len(errors)} pages: {why}")

    def explain(self, findings: Sequence[Finding], oldest: dt.date) -> None:
        """Note which share of a site's clicks the rows with queries account for: one call a site and search type."""
        for place in self.totals(findings, oldest):
            if place[0] in self.unasked:
                continue
            ours = [each for each in findings if (each.dataset.site, each.dataset.search_type) == place]
            start = max(oldest, min(each.first for each in ours if each.first is not None))
            end = max(each.last for each in ours if each.last is not None)
            try:
                totals = self._totals(*place, start, end)
            except (LoadQuota, Denied) as error:
                self._refuse(place[0], error)
                continue
            except ApiError as error:
                self._partly.setdefault(place[0], f"clicks of each day: {error}")
                continue
            for finding in ours:
                if "query" in finding.dataset.report.dimensions:
                    finding.explained, finding.explained_days = share(self._clicks(finding.dataset), totals)

    def _clicks(self, dataset: Dataset) -> Dict[dt.date, int]:
        self._check_halt()
        found = self._store.read(
            "SELECT date, sum(clicks) FROM gsc_performance WHERE site = ? AND report = ? AND search_type = ?"
            " GROUP BY date",
            (dataset.site, dataset.report.name, dataset.search_type),
        )
        return {read_date(date): int(clicks) for date, clicks in found}

    # -- calls

    def _totals(self, site: str, search_type: str, start: dt.date, end: dt.date) -> Mapping[dt.date, int]:
        for attempt in range(1, self._tries + 1):
            try:
                return self._ask_totals(site, search_type, start, end)
            except _PASSING as error:
                if attempt == self._tries:
                    raise
                self._pause(attempt, error)
        raise AssertionError("unreachable")

    def _ask_totals(self, site: str, search_type: str, start: dt.date, end: dt.date) -> Mapping[dt.date, int]:
        grant = self._acquire(site, 1)
        refused = 0
        try:
            totals = self._client.clicks_by_day(site, search_type, start, end)
        except BurstQuota:
            refused = 1
            raise
        finally:
            self._settle(grant, refused)
        self._answered(site)
        return totals

    def _fetch(self, slices: Sequence[Slice]) -> Dict[Slice, Any]:
        """{slice: its Rows, or the ApiError that was left after all tries}; nothing for sites that were refused before
        it was their turn."""
        answers: Dict[Slice, Any] = {}
        for attempt in range(1, self._tries + 1):
            left = [
                each for each in slices
                if each.dataset.site not in self.unasked and isinstance(answers.get(each), (type(None), *_PASSING))
            ]
            if not left:
                break
            if attempt > 1:
                self._pause(attempt - 1, answers.get(left[0]))
            for site in dict.fromkeys(each.dataset.site for each in left):
                self._fetch_site(site, [each for each in left if each.dataset.site == site], answers)
        return answers

    def _fetch_site(self, site: str, slices: List[Slice], answers: Dict[Slice, Any]) -> None:
        while slices and site not in self.unasked:
            most = self._quota.burst(site) if self._client.batch_supported else 1
            # After a park one call finds out whether the quota is back.
            most = 1 if site in self._parks and site not in self.parked else most
            grant = self._acquire(site, min(len(slices), most))
            part, slices = slices[: grant.calls], slices[grant.calls :]
            refused = 0

            def deliver(outcome: Outcome) -> None:
                nonlocal refused
                if not isinstance(outcome, Failed):
                    answers[outcome.slice] = outcome.rows
                    self._answered(site)
                    return
                answers[outcome.slice] = outcome.error
                refused += isinstance(outcome.error, BurstQuota)
                if isinstance(outcome.error, (LoadQuota, Denied)):
                    self._refuse(site, outcome.error)

            try:
                self._client.fetch(part, deliver)
            finally:
                self._settle(grant, refused)

    def _refuse(self, site: str, error: ApiError) -> None:
        """*site* is not asked any more."""
        words = str(error)
        if isinstance(error, LoadQuota):
            now = dt.datetime.fromtimestamp(self._wall(), dt.timezone.utc)
            park = self.parked[site] = next_park(error, self._parks.get(site), now)
            words = _parked_words(words, park)
        self.unasked.setdefault(site, words)

    def _answered(self, site: str) -> None:
        if site in self._parks:
            self.parked.setdefault(site, None)

    def _acquire(self, site: str, calls: int) -> Grant:
        try:
            grant = self._quota.acquire(site, calls)
        except StoreError as error:
            raise _NoBudget(str(error)) from error
        if grant is None:
            raise Halted
        self.calls += grant.calls
        logger.debug("%d calls to %s", grant.calls, site)
        return grant

    def _settle(self, grant: Grant, refused: int) -> None:
        try:
            self._quota.settle(grant, refused=refused)
        except StoreError as error:
            raise _NoBudget(str(error)) from error

    def _check_halt(self) -> None:
        if self._halt.is_set():
            raise Halted

    def _pause(self, failures: int, error: Optional[ApiError]) -> None:
        after = (error.retry_after or 0.0) if error is not None else 0.0
        if self._wait(max(after, self._backoff.delay(failures, random.random()))):
            raise Halted


def _parked_words(reason: str, park: Park) -> str:
    return f"{reason}; worth trying again at {park.until:%Y-%m-%d %H:%M} UTC"


# -- pure


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
) -> Tuple[Optional[float], Dict[dt.date, float]]:
    """(share of all clicks that the rows have, the share of each day) over the days both know."""
    days = sorted(date for date in rows if totals.get(date))
    if not days:
        return None, {}
    by_day = {date: round(rows[date] / totals[date], 4) for date in days}
    return round(sum(rows[date] for date in days) / sum(totals[date] for date in days), 4), by_day
