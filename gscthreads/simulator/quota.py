"""Google's quotas: moving windows per site, user and project, a burst cap, and load buckets (gsc-api.md 3).

Every query is charged at the moment it is worked on, under one lock, so the counts are exact.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Callable, Deque, Dict, List, NamedTuple, Optional, Tuple

from .errors import Refusal, rate_limit, resource_exhausted, usage
from .options import Options

MINUTE = 60.0

#: Limits of everything that isn't Search Analytics: calls, seconds (gsc-api.md 3).
INSPECTIONS_PER_SITE = ((600, 60.0), (2_000, 86_400.0))
OTHERS_PER_USER = ((20, 1.0), (200, 60.0))


class Window:
    """What happened in the last ``seconds``: amounts with the monotonic time of each."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.total = 0.0
        self.highest = 0.0
        self._events: Deque[Tuple[float, float]] = deque()

    def level(self, now: float) -> float:
        """The sum of the amounts still inside the window."""
        events = self._events
        while events and events[0][0] <= now - self.seconds:
            self.total -= events.popleft()[1]
        return self.total

    def add(self, now: float, amount: float = 1.0) -> None:
        """Count something that happens now."""
        self._events.append((now, amount))
        self.total += amount
        self.highest = max(self.highest, self.level(now))


class Charge(NamedTuple):
    """One Search Analytics query: whose it is and what it costs in load units."""

    site: str
    user: str
    load: float


def load_of(days: int, named: List[str]) -> float:
    """Load units of a query over ``days`` that groups or filters by the ``named`` dimensions (our weights)."""
    heavy = ("page" in named) + ("query" in named)
    return days * (1.0, 10.0, 30.0)[heavy]


class Quota:
    """All windows.  ``clock`` is monotonic seconds."""

    def __init__(self, options: Options, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._clock = clock
        self._lock = threading.Lock()
        #: Every query sent, whatever became of it: what a client's pace is judged by.
        self._seen: Dict[Tuple[str, str], Window] = {}
        #: What counts against the limits.
        self._charged: Dict[Tuple[str, str], Window] = {}

    def charge(self, charge: Charge) -> None:
        """Count a query; raises Refusal when a limit is exceeded."""
        with self._lock:
            now = self._clock()
            refusal = self._verdict(charge, now) if self._options.quota else None
            for scope, name in (("site", charge.site), ("user", charge.user), ("project", "")):
                self._window(self._seen, scope, name, MINUTE).add(now)
                if refusal is None or self._options.refused_calls_count:
                    self._window(self._charged, scope, name, MINUTE).add(now)
            if refusal is None or self._options.refused_calls_count:
                self._window(self._charged, "burst", charge.site, 1.0).add(now)
            if refusal is None:
                self._window(self._charged, "load_10min", charge.site, 600.0).add(now, charge.load)
                self._window(self._charged, "load_day", charge.site, 86_400.0).add(now, charge.load)
        if refusal is not None:
            raise refusal

    def _verdict(self, charge: Charge, now: float) -> Optional[Refusal]:
        options = self._options

        def over(limit: Optional[float], scope: str, name: str, seconds: float, amount: float = 1.0) -> bool:
            return limit is not None and self._window(self._charged, scope, name, seconds).level(now) + amount > limit

        if over(options.cloud_qpm, "project", "", MINUTE):
            return resource_exhausted("cloud_quota")
        if over(options.project_qpm, "project", "", MINUTE):
            return usage("project_quota", "QPS")
        if over(options.user_qpm, "user", charge.user, MINUTE):
            return usage("user_quota", "QPS")
        if over(options.site_qpm, "site", charge.site, MINUTE):
            return usage("site_quota", "QPS")
        if over(options.burst_qps, "burst", charge.site, 1.0):
            return usage("burst", "QPS")
        if over(options.load_10min, "load_10min", charge.site, 600.0, charge.load):
            return usage("load_10min", "load")
        if over(options.load_day, "load_day", charge.site, 86_400.0, charge.load):
            return usage("load_day", "load")
        return None

    def charge_other(self, user: str, inspected_site: Optional[str] = None) -> None:
        """Count a call that isn't Search Analytics: an inspection of a site's URL, or anything else."""
        with self._lock:
            now = self._clock()
            scope, name = ("inspect", inspected_site) if inspected_site is not None else ("other", user)
            limits = OTHERS_PER_USER if inspected_site is None else INSPECTIONS_PER_SITE
            windows = [(limit, self._window(self._charged, f"{scope}{seconds:.0f}", name, seconds))
                       for limit, seconds in limits]
            refused = self._options.quota and any(window.level(now) + 1 > limit for limit, window in windows)
            for _, window in windows:
                window.add(now)
        if refused:
            raise rate_limit(scope, 429, "rateLimitExceeded", "Rate Limit Exceeded")

    @staticmethod
    def _window(windows: Dict[Tuple[str, str], Window], scope: str, name: str, seconds: float) -> Window:
        window = windows.get((scope, name))
        if window is None:
            window = windows[scope, name] = Window(seconds)
        return window

    def highest(self) -> Dict[str, Dict[str, int]]:
        """Most queries seen in any 60 seconds: {"site": {name: n}, "user": {name: n}, "project": {"": n}}."""
        with self._lock:
            result: Dict[str, Dict[str, int]] = {"site": {}, "user": {}, "project": {}}
            for (scope, name), window in self._seen.items():
                result[scope][name] = int(window.highest)
            return result
