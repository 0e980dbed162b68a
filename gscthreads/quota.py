"""The rate limit: never more than the budget in any 60 seconds, as the server counts them; paced; slower when refused.

Two rules hold together for each budget:

* a token bucket paces: capacity plus 60 seconds of refill is the budget, and the capacity is one HTTP batch, because
  Google refuses bursts (gsc-api.md 3);
* a log of calls guarantees: a server charges a call at some moment between sending and the end of its answer, so a
  call occupies the window from its grant until 60 seconds after it was settled, however long the answer took.
"""

from __future__ import annotations

import collections
import threading
import time
from typing import Callable, Deque, Dict, List, NamedTuple, Optional, Tuple

from .halt import Halt

#: Seconds of Google's window (gsc-api.md 3: queries per minute).
WINDOW = 60.0

#: Seconds a call stays in the log beyond the window, since clocks of two machines don't run alike.
_MARGIN = 0.1

#: Share of calls refused as too fast that calls for a slower pace, and the calls it is measured over.  Less is noise:
#: single refusals come at any pace (gsc-api.md 3), and slowing down would not end them.
_REFUSED_SHARE, _SAMPLE = 1 / 3, 20

#: Slowest pace after refusals, calls per second; what part of the full pace comes back, and how often, while none come.
_SLOWEST = 1.0
_RECOVERY, _RECOVERY_SECONDS = 0.05, 5.0

#: Seconds between looks while something unpredictable is waited for (an answer, our turn).
_LOOK = 0.05


class Take:
    """Calls granted by one bucket."""

    __slots__ = ("calls", "at", "settled", "peak_before")

    def __init__(self, calls: int, at: float, peak_before: int) -> None:
        self.calls = calls
        self.at = at
        self.settled = False
        self.peak_before = peak_before


class TokenBucket:
    """The arithmetic of one budget.  No lock, no clock, no sleep: every method is told *now*, in monotonic seconds."""

    def __init__(self, budget: int, burst: int) -> None:
        if budget < 1 or burst < 1:
            raise ValueError(f"budget {budget} and burst {burst} must be at least 1")
        self.budget = budget
        # A small budget must not go out in one burst, or nothing is left to pace.
        self.full_burst = burst if budget >= 4 * burst else max(1, budget // 4)
        self.full_pace = (budget - self.full_burst) / WINDOW
        self.pace = self.full_pace
        self.peak = 0
        self._level = float(self.full_burst)
        self._refilled_at: Optional[float] = None
        self._slowed_at: Optional[float] = None
        self._recovered_at = 0.0
        self._sample_calls = self._sample_refused = 0
        self._occupied = 0  # calls in the log
        self._leaving: Deque[Tuple[float, int]] = collections.deque()  # (when it leaves the log, calls), settled only
        self._sent: Deque[Tuple[float, Take]] = collections.deque()  # of the last 60 s
        self._sent_calls = 0

    @property
    def burst(self) -> int:
        """Most calls one take should ask for: a batch, or a second's worth while the pace is reduced."""
        return self.full_burst if self.pace >= self.full_pace else max(1, min(self.full_burst, int(self.pace)))

    def wait_for(self, calls: int, now: float) -> float:
        """0.0 when *calls* may be taken now, else seconds until it is worth asking again."""
        self._advance(now)
        wait = 0.0
        missing = min(calls, self.burst) - self._level
        if missing > 1e-9 and self.full_pace > 0:
            wait = missing / self.pace
        excess = self._occupied + calls - self.budget
        for leaves_at, leaving in self._leaving:
            if excess <= 0:
                break
            excess -= leaving
            wait = max(wait, leaves_at - now)
        if excess > 0:  # only an answer that is still under way can make room
            wait = max(wait, _LOOK)
        return wait

    def take(self, calls: int, now: float) -> Take:
        """Take *calls*.  The caller has seen ``wait_for`` return 0.0, or doesn't mind."""
        self._advance(now)
        self._level -= calls
        taken = Take(calls, now, self.peak)
        self._occupied += calls
        self._sent.append((now, taken))
        self._sent_calls += calls
        self.peak = max(self.peak, self._sent_calls)
        return taken

    def settle(self, taken: Take, now: float, *, refused: int = 0) -> None:
        """The answer to these calls is complete, or will never come: their 60 seconds begin.  Twice is fine.

        *refused* of them were refused as too fast: many of those halve the pace.
        """
        if taken.settled:
            return
        taken.settled = True
        self._leaving.append((now + WINDOW + _MARGIN, taken.calls))
        if self._slowed_at is None or taken.at > self._slowed_at:  # calls from before the last slow-down are no news
            self._sample_calls += taken.calls
            self._sample_refused += refused
        if self._sample_calls >= _SAMPLE:
            if self._sample_refused >= self._sample_calls * _REFUSED_SHARE:
                self._slow_down(now)
            self._sample_calls = self._sample_refused = 0

    def refund(self, taken: Take) -> None:
        """These calls were never sent: as if never taken."""
        if taken.settled:
            return
        taken.settled = True
        self._level = min(self.burst, self._level + taken.calls)
        self._occupied -= taken.calls
        if any(each is taken for _, each in self._sent):
            self._sent = collections.deque((at, each) for at, each in self._sent if each is not taken)
            self._sent_calls -= taken.calls
            self.peak = max(taken.peak_before, self._sent_calls)

    def _slow_down(self, now: float) -> None:
        self._advance(now)
        if self.full_pace > 0:
            self.pace = max(min(_SLOWEST, self.full_pace), self.pace / 2)
        self._slowed_at = self._recovered_at = now
        self._level = min(self._level, 0.0)

    def used(self, now: float) -> int:
        """Calls that the server may count in its window now, at most."""
        self._advance(now)
        return self._occupied

    def sent_last_minute(self, now: float) -> int:
        """Calls granted in the last 60 seconds."""
        self._advance(now)
        return self._sent_calls

    def _advance(self, now: float) -> None:
        if self._refilled_at is None:
            self._refilled_at = now
        elapsed = max(0.0, now - self._refilled_at)
        self._refilled_at = max(now, self._refilled_at)
        if self.pace < self.full_pace:
            steps = int((now - self._recovered_at) / _RECOVERY_SECONDS)
            if steps > 0:
                self._recovered_at += steps * _RECOVERY_SECONDS
                self.pace = min(self.full_pace, self.pace + steps * _RECOVERY * self.full_pace)
        self._level = min(float(self.burst), self._level + elapsed * self.pace)
        while self._leaving and self._leaving[0][0] <= now:
            self._occupied -= self._leaving.popleft()[1]
        while self._sent and self._sent[0][0] <= now - WINDOW:
            self._sent_calls -= self._sent.popleft()[1].calls


class Grant(NamedTuple):
    """Calls granted by every budget they count against."""

    site: str
    calls: int
    at: float
    takes: List[Tuple[TokenBucket, Take]]


class Quota:
    """All budgets of a run: one per site, above them one for the user and one for the project.  Thread-safe.

    *site_budget*, *user_budget*, *project_budget*: calls per 60 seconds; *burst*: calls of the largest HTTP batch.
    Not *enabled*: grants everything at once and only counts.
    """

    def __init__(
        self,
        *,
        site_budget: int,
        user_budget: int,
        project_budget: int,
        burst: int,
        halt: Halt,
        enabled: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._site_budget = site_budget
        self._burst = burst
        self._halt = halt
        self._enabled = enabled
        self._clock = clock
        self._lock = threading.Lock()  # guards everything below; held for arithmetic only, never while waiting
        self._above = [TokenBucket(user_budget, burst), TokenBucket(project_budget, burst)]
        self._sites: Dict[str, TokenBucket] = {}
        self._waiting: Dict[str, Deque[object]] = {}

    def burst(self, site: str) -> int:
        """Most calls that one HTTP batch to *site* should have now."""
        with self._lock:
            return min(bucket.burst for bucket in self._chain(site)) if self._enabled else self._burst

    def acquire(self, site: str, calls: int) -> Optional[Grant]:
        """Wait until *calls* to *site* may be sent; None when the halt came first.

        First come, first served among those who wait for one site, so that a large batch isn't starved by small ones.
        """
        turn = object()
        with self._lock:
            waiting = self._waiting.setdefault(site, collections.deque())
            waiting.append(turn)
        try:
            while not self._halt.is_set():
                with self._lock:
                    now = self._clock()
                    wait = self._wait(site, calls, now) if waiting[0] is turn else _LOOK
                    if wait <= 0.0:
                        takes = [(bucket, bucket.take(calls, now)) for bucket in self._chain(site)]
                        return Grant(site, calls, now, takes)
                self._halt.wait(wait)
            return None
        finally:
            with self._lock:
                waiting.remove(turn)

    def settle(self, grant: Grant, *, refused: int = 0) -> None:
        """The answer to the granted calls is complete, or will never come; *refused* of them came too fast."""
        with self._lock:
            now = self._clock()
            for bucket, taken in grant.takes:
                bucket.settle(taken, now, refused=refused if bucket is self._sites[grant.site] else 0)

    def refund(self, grant: Grant) -> None:
        """The granted calls were never sent."""
        with self._lock:
            for bucket, taken in grant.takes:
                bucket.refund(taken)

    def sent_last_minute(self) -> int:
        """Calls sent in the last 60 seconds, to all sites."""
        with self._lock:
            return self._above[0].sent_last_minute(self._clock())

    def peak_qpm(self) -> int:
        """The greatest number of calls to one site in any 60 seconds so far."""
        with self._lock:
            return max((bucket.peak for bucket in self._sites.values()), default=0)

    def _wait(self, site: str, calls: int, now: float) -> float:
        return max(bucket.wait_for(calls, now) for bucket in self._chain(site)) if self._enabled else 0.0

    def _chain(self, site: str) -> List[TokenBucket]:
        return [self._site(site), *self._above]

    def _site(self, site: str) -> TokenBucket:
        bucket = self._sites.get(site)
        if bucket is None:
            bucket = self._sites[site] = TokenBucket(self._site_budget, self._burst)
        return bucket
