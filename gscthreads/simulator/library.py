"""Sites and their days: which days have data, and the facts of each, made up on demand and kept for a while."""

from __future__ import annotations

import dataclasses
import datetime as dt
import threading
from collections import OrderedDict
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple, Union

from .clock import Clock, months_before
from .facts import EPOCH, TYPE_SHARE, ExplicitDay, GeneratedDay, Writer
from .options import Options
from .words import page_urls

#: How many days' facts are kept (a day of 25,000 pairs takes some 5 MB).
KEPT_DAYS = 8

#: Hours from the beginning of a day until 100 % of it are counted.
SETTLING_HOURS = 72

PERMISSIONS = ("siteOwner", "siteFullUser", "siteRestrictedUser", "siteUnverifiedUser")

Facts = Union[GeneratedDay, ExplicitDay]


@dataclasses.dataclass
class Site:
    """A property of the simulated account.

    ``rows_per_day`` is the number of distinct (page, query) rows a day of search type web has, or a function of
    the date that returns it; the other search types have a share of that.  ``pages`` is the number of its URLs,
    ``anonymised`` the share of clicks without a query.  Without ``first_day`` the site is as old as Google's
    memory (Options.retention_months); ``last_day`` is the last day with data.
    """

    name: str
    permission: str = "siteOwner"
    rows_per_day: Union[int, Callable[[dt.date], int]] = 1_000
    pages: int = 200
    nasty: bool = False
    anonymised: float = 0.3
    first_day: Optional[dt.date] = None
    last_day: Optional[dt.date] = None

    def __post_init__(self) -> None:
        if self.permission not in PERMISSIONS:
            raise ValueError(f"permission={self.permission!r}: must be one of {', '.join(PERMISSIONS)}")
        if not 0 <= self.anonymised < 1:
            raise ValueError(f"anonymised={self.anonymised!r}: must be at least 0 and less than 1")
        if self.pages < 1:
            raise ValueError(f"pages={self.pages!r}: must be at least 1")

    def rows(self, date: dt.date) -> int:
        """Distinct (page, query) rows of a day, search type web."""
        return max(0, self.rows_per_day(date) if callable(self.rows_per_day) else self.rows_per_day)


@dataclasses.dataclass(frozen=True)
class DayKey:
    """Names the content of a day.  Days with equal keys have equal facts, so answers can be kept by key."""

    site: str
    search_type: str
    #: The ordinal whose dice are thrown, or minus the number of the ``put_day`` that spelled the day out.
    content: int
    rows: int
    percent: int


class Library:
    """All facts of all sites, thread-safe."""

    def __init__(self, sites: Iterable[Site], options: Options, clock: Clock) -> None:
        self.sites: Dict[str, Site] = {site.name: site for site in sites}
        self._options = options
        self.clock = clock
        self._lock = threading.Lock()
        self._writers: Dict[str, Writer] = {}
        self._writer_locks: Dict[str, threading.Lock] = {}
        self._days: "OrderedDict[DayKey, Facts]" = OrderedDict()
        self._explicit: Dict[Tuple[str, str, dt.date], int] = {}
        self._spelled: Dict[int, ExplicitDay] = {}

    def put_day(self, site: str, search_type: str, date: dt.date, rows: Sequence[Sequence[Any]]) -> None:
        """Replace a day's facts by the given ones; no rows make it a day without data."""
        if site not in self.sites:
            raise KeyError(f"no site {site!r}")
        day = ExplicitDay(rows)
        with self._lock:
            number = len(self._spelled) + 1
            self._spelled[number] = day
            self._explicit[site, search_type, date] = number

    def last_final(self) -> dt.date:
        """The last day whose data is final now."""
        return self.clock.today() - dt.timedelta(days=self._options.freshness)

    def day_key(self, site: str, search_type: str, date: dt.date, final_only: bool) -> Optional[DayKey]:
        """What names this day's content now, or None where it has (or shows) none."""
        if date > (self.last_final() if final_only else self.clock.today()):
            return None
        with self._lock:
            spelled = self._explicit.get((site, search_type, date))
        if spelled is not None:
            return DayKey(site, search_type, -spelled, len(self._spelled[spelled].rows), 100)
        about = self.sites[site]
        months = self._options.retention_months
        if about.first_day is not None:
            if date < about.first_day:
                return None
        elif months is not None and date < months_before(self.clock.today(), months):
            return None
        if about.last_day is not None and date > about.last_day:
            return None
        ordinal = date.toordinal()
        if self._options.distinct_days:
            ordinal = EPOCH + (ordinal - EPOCH) % self._options.distinct_days
        rows = about.rows(date)
        rows = rows if search_type == "web" else round(rows * TYPE_SHARE[search_type])
        return DayKey(site, search_type, ordinal, rows, self._percent(date)) if rows else None

    def _percent(self, date: dt.date) -> int:
        if date <= self.last_final():
            return 100
        age = self.clock.now() - dt.datetime.combine(date, dt.time())
        return max(1, min(99, int(age.total_seconds() / 36 / SETTLING_HOURS)))

    def facts(self, key: DayKey) -> Facts:
        """The facts a key names."""
        if key.content < 0:
            return self._spelled[-key.content]
        with self._lock:
            if key in self._days:
                self._days.move_to_end(key)
                return self._days[key]
            lock = self._writer_locks.setdefault(key.site, threading.Lock())
        with lock:
            facts: Facts = self._writer(key.site).day(key.search_type, key.content, key.rows).scaled(key.percent)
        with self._lock:
            self._days[key] = facts
            while len(self._days) > KEPT_DAYS:
                self._days.popitem(last=False)
        return facts

    def _writer(self, site: str) -> Writer:
        """Called with the site's lock held."""
        if site not in self._writers:
            about = self.sites[site]
            urls = page_urls(site, about.pages, about.nasty)
            self._writers[site] = Writer(self._options.seed, site, urls, about.nasty, about.anonymised)
        return self._writers[site]

    def dates(self, start: dt.date, end: dt.date, site: str, search_type: str) -> List[dt.date]:
        """The dates of a range on which the site might have data; far-off ends are clamped (gsc-api.md 2.7)."""
        about = self.sites[site]
        months = self._options.retention_months
        first = about.first_day
        if first is None and months is not None:
            first = months_before(self.clock.today(), months)
        with self._lock:
            spelled = [date for (name, kind, date) in self._explicit if (name, kind) == (site, search_type)]
        first = min([start] if first is None else [first, *spelled])
        start, end = max(start, first), min(end, self.clock.today())
        return [start + dt.timedelta(days=number) for number in range((end - start).days + 1)]
