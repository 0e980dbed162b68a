"""How long to wait after a fault, and when to give a dead service up.  Pure: the caller brings time and chance."""

from __future__ import annotations

from typing import NamedTuple


class Backoff(NamedTuple):
    """Truncated exponential backoff with full jitter (Google's general advice, gsc-api.md 5.2)."""

    base: float
    cap: float

    def delay(self, failures: int, jitter: float) -> float:
        """Seconds to wait after the *failures*-th fault in a row (1, 2, ...); *jitter* is uniform in 0..1."""
        return jitter * min(self.cap, self.base * 2.0 ** min(failures - 1, 60))


class Breaker:
    """Tells a service that is down from slices that fail: HTTP batches that brought nothing, one after another.

    Batches that were under way together fail together, so one outage counts once however many it hits: a failure
    counts only when its batch was sent after the last one that counted.  Not thread-safe.
    """

    def __init__(self, limit: int, backoff: Backoff) -> None:
        self._limit = limit
        self._backoff = backoff
        self._strikes = 0
        self._last_strike = float("-inf")
        self.paused_until = float("-inf")

    def succeeded(self) -> None:
        """Some slice was answered."""
        self._strikes = 0

    def failed(self, sent_at: float, now: float, jitter: float) -> bool:
        """A batch sent at *sent_at* brought nothing.  True when the service is to be given up."""
        if sent_at < self._last_strike:
            return False
        self._strikes += 1
        self._last_strike = now
        if self._strikes > 1:  # the first may be chance; the slices' own backoff is enough then
            self.paused_until = now + self._backoff.delay(self._strikes - 1, jitter)
        return self._strikes >= self._limit
