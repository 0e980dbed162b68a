"""How many workers one site gets, as configured or found out (``max_concurrency="auto"``).  Pure: no thread or clock.

More workers help while the server gives each of them as much as before, and while the present ones can't use up the
quota (Little's law: it takes as many as the paced budget times the time a slice takes).  So one is added at a time, as
long as none has to wait for quota, the store keeps up, and the share of each holds.
"""

from __future__ import annotations

import collections
import math
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

#: Workers to begin with, and the most: each needs a few MB for the slice it is reading.
FIRST, MOST = 3, 16

#: Most slices of an HTTP batch meanwhile: as many as Google works on at once (gsc-api.md 8).  More of them come back in
#: bursts, which look as if a worker had helped or harmed, and have the others wait for quota.
BATCH = 8

#: Part of a look in which more workers would not have helped, so that none is added.  Answers come in bursts, and for a
#: moment any store is behind.
_BOUND = 1 / 3

#: Seconds of one look at how it goes, and the answers it needs at least; the same before one is taken away.
_LOOK_SECONDS, _LOOK_ANSWERS = 1.5, 6
_LONG_SECONDS, _LONG_ANSWERS = 5.0, 20

#: The share of a worker holds while it is this part of the best one seen; how fast that follows a better one; and which
#: part of what the others should gain by it must be seen after a worker was taken away, or else the server itself has
#: become slower.
_HOLDS, _FOLLOW, _GAIN = 0.7, 0.3, 0.4

#: At the beginning quota is lost until there are enough workers, so one is added for each HTTP batch that ends, until
#: they could use up the quota.  If then a batch takes more than twice as long as the best of as many slices, all of
#: that was a mistake.  A worker brings a little less than its batches alone would: it also waits.
_CREDIT, _TWICE, _WAITING = 8, 2.0, 0.8

#: Refusals as too fast in one look after which the number is cut, and what is left of it.
_REFUSED, _CUT = 2, 0.6

#: Seconds without trying more after one was taken away, and after refusals.
_CONTENT, _CAREFUL = 20.0, 120.0


class Seen(NamedTuple):
    """What happened at a site between two looks.  ``bound``: more workers would not have helped, since one waited for
    quota, answers waited for the store, or there was nothing more to ask for.  ``ended``: slices, and seconds they
    took, of each HTTP batch that ended."""

    answered: int
    refused: int
    bound: bool
    ended: Sequence[Tuple[int, float]] = ()


class Concurrency:
    """One site's number of ``workers``: *first* to begin with, at most *most*.  *rate*: calls a second that the paced
    budget lets through.  Not thread-safe; *now* is monotonic seconds."""

    def __init__(self, now: float, first: int = FIRST, most: int = MOST, rate: float = math.inf) -> None:
        self.workers = self._first = min(first, most)
        self._rate = rate
        self._most = most
        self._seen_at = now
        self._look_again(now)
        self._share: Optional[float] = None  # the best: slices per second and worker
        self._before: Optional[float] = None  # the share that made us take a worker away
        self._credit = _CREDIT
        self._quickest: Dict[int, float] = {}  # slices of a batch -> seconds it took at best, while there is credit
        self._quiet_until = float("-inf")

    def see(self, now: float, seen: Seen) -> None:
        """Take note of what was *seen* since the last call, and now and then draw a conclusion."""
        self._answered += seen.answered
        self._refused += seen.refused
        if seen.bound:
            self._bound_seconds += now - self._seen_at
        self._seen_at = now
        seconds = now - self._since
        for slices, took in seen.ended:
            if self._credit and took > 0:
                self._borrow(now, slices, took)
        if self._refused >= _REFUSED:
            # One burst too many is refused over several looks, and punished once.
            self.workers = max(1, int(self.workers * _CUT)) if now >= self._quiet_until else self.workers
            self._quiet_until = now + _CAREFUL
            self._credit = 0
            self._look_again(now)
        elif seconds >= _LOOK_SECONDS and self._answered >= _LOOK_ANSWERS:
            if self._bound_seconds >= _BOUND * seconds:
                self._look_again(now)
            else:
                self._conclude(now, seconds, self._answered / seconds / self.workers)

    def _borrow(self, now: float, slices: int, took: float) -> None:
        quickest = self._quickest[slices] = min(took, self._quickest.get(slices, took))
        self._share = max(_WAITING * slices / took, self._share or 0.0)
        self._credit -= 1
        if took > _TWICE * quickest:
            self.workers, self._credit = self._first, 0
        elif self.workers < self._most and self.workers * self._share < self._rate:
            self.workers += 1
        self._look_again(now)

    def _conclude(self, now: float, seconds: float, share: float) -> None:
        holds = self._share is None or share >= _HOLDS * self._share
        if (self._before is not None or not holds) and (seconds < _LONG_SECONDS or self._answered < _LONG_ANSWERS):
            return  # it may be chance: look for longer
        if self._before is not None and share < self._before * (1.0 + _GAIN / self.workers):
            self._share, holds = share, True  # it wasn't the worker: what is best has to be found out anew
        self._before = None
        if holds:
            if self._share is None:
                self._share = share
            self._share += _FOLLOW * max(0.0, share - self._share)
            if now >= self._quiet_until and self.workers < self._most:
                self.workers += 1
        elif self.workers > 1 and now >= self._quiet_until:
            self.workers -= 1
            self._quiet_until = now + _CONTENT
            self._before = share
        self._look_again(now)

    def _look_again(self, now: float) -> None:
        self._since = now
        self._answered = self._refused = 0
        self._bound_seconds = 0.0


class _Notes:
    """What happened at a site since the last look."""

    def __init__(self) -> None:
        self.answered = self.refused = 0
        self.ended: List[Tuple[int, float]] = []


class Workers:
    """The workers of all sites: *fixed* for each, or as many as a ``Concurrency`` finds out, at most *most*; *rate* as
    there.  Not thread-safe, except ``most_now``."""

    def __init__(self, fixed: Optional[int], *, most: int, rate: float) -> None:
        self.fixed = fixed
        self.peak = fixed or min(FIRST, most)  #: the most that one site got
        self._most = most
        self._rate = rate
        self._sites: Dict[str, Concurrency] = {}
        self._notes: Dict[str, _Notes] = collections.defaultdict(_Notes)

    def most_now(self) -> int:
        """Workers that one site gets now."""
        return self.fixed or max((each.workers for each in list(self._sites.values())), default=min(FIRST, self._most))

    def at(self, site: str) -> int:
        """Workers that *site* gets now."""
        found = self._sites.get(site)
        return self.fixed or (min(FIRST, self._most) if found is None else found.workers)

    def answered(self, site: str) -> None:
        self._noted(site).answered += 1

    def refused(self, site: str) -> None:
        self._noted(site).refused += 1

    def ended(self, site: str, slices: int, seconds: float) -> None:
        """An HTTP batch of *slices* took so long."""
        self._noted(site).ended.append((slices, seconds))

    def _noted(self, site: str) -> _Notes:
        """The site's notes; where nobody looks at them, some that nobody keeps."""
        return self._notes[site] if self.fixed is None else _Notes()

    def look(self, now: float, site: str, *, bound: bool) -> None:
        """Draw conclusions from what was noted; *bound*: see ``Seen``.  To be called often, while they are not fixed.
        """
        found = self._sites.get(site)
        if found is None:
            found = self._sites[site] = Concurrency(now, most=self._most, rate=self._rate)
        notes = self._notes.pop(site, None) or _Notes()
        found.see(now, Seen(notes.answered, notes.refused, bound, notes.ended))
        self.peak = max(self.peak, self.most_now())
