"""How long to wait after a fault, and when to stop trying.  Pure: the caller brings time and chance."""

from __future__ import annotations

from typing import NamedTuple


class Backoff(NamedTuple):
    """Truncated exponential backoff with full jitter (Google's general advice, gsc-api.md 5.2)."""

    base: float
    cap: float

    def delay(self, failures: int, jitter: float) -> float:
        """Seconds to wait after the *failures*-th fault in a row (1, 2, ...); *jitter* is uniform in 0..1."""
        return jitter * min(self.cap, self.base * 2.0 ** min(failures - 1, 60))


#: Odds below which a run of failures is not put down to chance: a day in 100,000 may be given up wrongly.
UNLIKELY = 1e-5


class Health:
    """How often first tries fail in this run, so that bad luck is not taken for a bad slice or a dead service.

    Where every second answer is broken, five failures in a row say nothing about a slice; where nothing else fails
    they say all.  First tries only: bad slices are tried again and again, and would make failure look normal.
    Not thread-safe.
    """

    def __init__(self) -> None:
        self._answered = 0
        self._failed = 0

    def answered(self) -> None:
        """A try brought rows."""
        self._answered += 1

    def failed(self) -> None:
        """A try was in vain."""
        self._failed += 1

    def is_chance(self, failures: int, *, own: int = 1, odds: float = UNLIKELY) -> bool:
        """True when *failures* in a row are likely enough at the rate of the others; never before a first answer.
        *own*: how many of the counted failures are the asker's."""
        others = self._failed - own
        if others <= 0 or not self._answered:
            return False
        return bool((others / (others + self._answered)) ** failures > odds)


class Breaker:
    """Tells a service that is down: HTTP batches that brought nothing, one after another, for a while.

    Batches that were under way together fail together, so one outage counts once however many it hits: a failure
    counts only when its batch was sent after the last one that counted.  Not thread-safe.

    It takes as many failures as a slice has *attempts*, and at least *strikes*.
    """

    def __init__(self, attempts: int, backoff: Backoff, *, strikes: int = 1) -> None:
        self._limit = max(attempts, strikes)
        self._backoff = backoff
        self._health = Health()
        # As long as one slice's tries may take: give a short outage the time to end.
        self._patience = sum(backoff.delay(number, 1.0) for number in range(1, attempts + 1)) * (attempts > 1)
        self._last_strike = float("-inf")
        self.begin_anew()

    def begin_anew(self) -> None:
        """What was under way is settled, one way or the other: none has failed."""
        self._strikes = 0
        self._first_strike = self.paused_until = float("-inf")

    @property
    def probing(self) -> bool:
        """True from a pause on, until something is answered: one HTTP batch at a time is enough to find out."""
        return self.paused_until > float("-inf")

    def succeeded(self) -> None:
        """Some slice was answered."""
        self.begin_anew()
        self._health.answered()

    def failed(self, sent_at: float, now: float, jitter: float) -> bool:
        """A batch sent at *sent_at* brought nothing.  True when the service is to be given up."""
        if sent_at < self._last_strike:
            return False
        self._health.failed()
        self._strikes += 1
        self._last_strike = now
        if self._strikes == 1:
            self._first_strike = now
        elif not self._health.is_chance(self._strikes, own=self._strikes, odds=0.01):
            # Else the slices' own backoff is enough.
            self.paused_until = now + self._backoff.delay(self._strikes - 1, jitter)
        return (
            self._strikes >= self._limit
            and now - self._first_strike >= self._patience
            and not self._health.is_chance(self._strikes, own=self._strikes)
        )
