"""Whether one site may be asked now, and how carefully.  Pure: the caller brings the time."""

from __future__ import annotations

import math

from .errors import ApiError, BurstQuota, Transient

#: HTTP statuses with which Retry-After speaks of everybody, not of the one request.
_FOR_ALL = (403, 429, 503)


def site_pause(error: ApiError) -> float:
    """Seconds for which the server wants no calls to the site, 0.0 when it didn't say."""
    for_all = isinstance(error, BurstQuota) or isinstance(error, Transient) and error.status in _FOR_ALL
    return error.retry_after or 0.0 if for_all else 0.0


class Gate:
    """One site's: open, closed until some moment, or ajar: one slice at a time until one is answered.

    A gate that was closed is ajar at first, because it may be too early: it costs one call to find that out, however
    many datasets wait behind it.  Not thread-safe.
    """

    def __init__(self) -> None:
        self.in_flight = 0  #: slices of the site that are under way
        self.in_vain = 0  #: how often it was closed since the last answer
        self._until = -math.inf
        self._ajar = False

    @property
    def closed(self) -> bool:
        """True while nothing may be sent (as far as ``wake`` has been told)."""
        return self._until > -math.inf

    @property
    def until(self) -> float:
        """When it opens, -inf when it is not closed."""
        return self._until

    def close(self, until: float) -> None:
        """Let nothing through before *until*; what was closed for longer stays closed."""
        self.in_vain += not self.closed
        self._until = max(until, self._until)
        self._ajar = True

    def probe(self) -> None:
        """Be careful: one slice at a time, until one is answered."""
        self._ajar = True

    def wake(self, now: float) -> None:
        if self._until <= now:
            self._until = -math.inf

    def answered(self) -> None:
        """A slice was answered.  What was under way when it closed proves nothing."""
        if not self.closed:
            self._ajar, self.in_vain = False, 0

    def admits(self, slices: int) -> int:
        """How many of *slices* may be sent now."""
        if self.closed:
            return 0
        return min(slices, 0 if self.in_flight else 1) if self._ajar else slices
