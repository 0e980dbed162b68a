"""What is copied: sites, days, rows, and how slow and how strict the server is."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any, Dict, List, Tuple

#: Days of the published workload, and how many of them have more rows than fit one slice: 374 calls for two reports.
PUBLISHED_DAYS, PUBLISHED_LONG_DAYS = 180, 14

#: page_query rows of a usual day and of a long one: 3,846,420 in 180 days, 21,369 a day.
ROWS, LONG_ROWS = 20_900, 26_930

#: Rows of one slice at most; a full one has a successor.
SLICE = 25_000

CONCURRENT = ("script-pool", "gscthreads", "gscthreads-fast", "gscthreads-auto", "gscthreads-postgres")
SEQUENTIAL = ("script", "gscthreads-1x1")
FLOOR = ("floor-many", "floor-values")


@dataclasses.dataclass(frozen=True)
class Workload:
    """One line of work for several contestants.

    ``latency``, ``per_row``: seconds a slice takes and each of its rows adds.  ``rows``: page_query rows a day.
    ``long_rows``: those of the long days, 0 for none.  ``short``: days that sequential contestants do instead of
    ``days``, where doing all of them would only be waiting.  ``steps``: days after each of several syncs of one store.
    ``warm``: have the server make up all its answers before the first clock starts; without, each contestant gets
    a server of its own, whose counts begin with it.
    """

    name: str
    text: str
    days: int
    rows: int
    pages: int
    contestants: Tuple[str, ...]
    sites: int = 1
    long_rows: int = 0
    latency: float = 0.0
    per_row: float = 0.0
    quota: bool = False
    short: int = 0
    search_types: Tuple[str, ...] = ("web",)
    steps: Tuple[int, ...] = ()
    repeats: bool = True
    warm: bool = True

    def days_of(self, contestant: str) -> int:
        """Days this contestant copies."""
        return min(self.short, self.days) if self.short and contestant in SEQUENTIAL else self.days

    def long_days(self, days: int) -> int:
        """How many of the newest *days* are long."""
        return len([number for number in range(days) if self.is_long(number)])

    def is_long(self, number: int) -> bool:
        """Whether the day *number* days before the last one is long: 14 of 180, evenly spread."""
        share = PUBLISHED_LONG_DAYS, PUBLISHED_DAYS
        return bool(self.long_rows) and number * share[0] // share[1] != (number + 1) * share[0] // share[1]

    def calls(self, days: int) -> int:
        """Calls that sequential paging makes for the newest *days*: one a day and report, two for a long day."""
        more = self.long_days(days) * (self.long_rows // SLICE)
        return self.sites * len(self.search_types) * (2 * days + more)

    def server_seconds(self, days: int) -> float:
        """Time the server takes for all of it, one slice after another."""
        long_days = self.long_days(days)
        rows = days * self.pages + (days - long_days) * self.rows + long_days * self.long_rows
        return self.sites * (self.calls(days) / self.sites * self.latency + rows * self.per_row)

    def sites_named(self) -> List[str]:
        """Names of its properties."""
        return ["sc-domain:example.com"] + [f"sc-domain:site{number}.example" for number in range(1, self.sites)]

    def flags(self) -> List[str]:
        """Options of ``gscthreads simulate``; how slow and strict it is comes later, once it has warmed up."""
        values: Dict[str, Any] = {"rows-per-day": self.rows, "pages": self.pages, "retention-months": "none",
                                  "distinct-days": 4 if self.sites == 1 else 1}
        sites = [f"--site={name}" for name in self.sites_named()]
        return [f"--{name}={value}" for name, value in values.items()] + sites

    def scaled(self, *, days: int = 0, quick: bool = False) -> "Workload":
        """A shorter one: *days* for the long ones, or all of them cut to what two minutes hold."""
        if quick:
            values = _QUICK[self.name]
            return dataclasses.replace(self, text=f"shortened from: {self.text}", **values)
        if days and self.name in ("rollout", "bare"):
            return dataclasses.replace(self, days=days, text=f"{days} days of: {self.text}")
        return self


#: What --quick changes.
_QUICK: Dict[str, Dict[str, Any]] = {
    "rollout": dict(days=26, short=2),
    "bare": dict(days=26),
    "small": dict(sites=60),
    "quota": dict(days=40),
    "growth": dict(days=40, steps=(10, 20, 40)),
}

_FULL: Dict[str, Any] = dict(days=PUBLISHED_DAYS, rows=ROWS, long_rows=LONG_ROWS, pages=3_000)

WORKLOADS = (
    Workload("rollout", "the published workload: 180 days, page and page_query, 374 calls, 3.85 M query rows, "
             "0.08 s + 0.105 ms a row per slice, 4 lanes, quota on",
             contestants=(*SEQUENTIAL, *CONCURRENT), latency=0.08, per_row=0.000105, quota=True, short=20, **_FULL),
    Workload("bare", "the same without latency and quota: what the client itself costs",
             contestants=(*FLOOR, *SEQUENTIAL, *CONCURRENT), **_FULL),
    Workload("small", "300 sites x 5 days x 200 rows, no latency, no quota", days=5, rows=200, pages=40, sites=300,
             contestants=(*SEQUENTIAL, *CONCURRENT)),
    Workload("quota", "3,000 tiny slices of one site, quota on: the server's count of any 60 s stays within 960",
             days=375, rows=10, pages=5, quota=True, search_types=("web", "image", "video", "news"),
             contestants=("gscthreads-fast", "gscthreads-auto"), repeats=False, warm=False),
    Workload("growth", "30, 120, 480 days into one store: rows a second and memory must not depend on its size",
             days=480, rows=ROWS, pages=3_000, steps=(30, 120, 480), contestants=("gscthreads-fast",), repeats=False),
)


def last_day(today: dt.date) -> dt.date:
    """The newest day copied: old enough to be final."""
    return today - dt.timedelta(days=4)
