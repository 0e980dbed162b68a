"""The budgets: how many calls may go out now.  ``TokenBucket`` is the arithmetic, ``Quota`` waits and shares it.

The server counts calls in a window of 60 seconds, but not at the moment we grant them: a call may arrive late, and the
last slices of an HTTP batch may be worked on long after the first.  So a grant is limited twice: by a bucket that paces
(its capacity plus a minute's refill is the budget), and by a log in which a call stays from its grant until 60 seconds
after its answer was complete.  Whenever the server counts a call, that moment lies inside its stay in the log, and the
log never holds more than the budget.

What a bucket knows is a few JSON values.  They live in a ``QuotaLedger``, which belongs to the store, so that all
processes that sync one store share its budgets, one after another or at the same time.
"""

from __future__ import annotations

import abc
import collections
import itertools
import math
import threading
import time
import uuid
from typing import Any, Callable, Deque, Dict, List, MutableMapping, NamedTuple, Optional, Sequence, Set, Tuple, TypeVar

from .errors import StoreLocked
from .halt import Halt
from .model import Account
from .pace import Pace

#: Seconds of Google's window (gsc-api.md 3: queries per minute).
WINDOW = 60.0

#: Seconds a call stays in the log beyond the window, since clocks of two machines don't run alike.
_MARGIN = 0.1

#: Seconds without a sign of life after which whoever was granted calls counts as dead; the server may be at work on
#: them that long.  Twice that between signs.
ORPHANED, RENEWED = 30.0, 10.0

#: Calls leave the log in steps of so many seconds, which keeps it short.
_STEP = 0.25

#: Seconds by which the ledger's clock may run ahead of ours between two looks; more is a clock that was set.
_AHEAD = 5.0

#: Seconds between looks while something unpredictable is waited for (an answer, our turn).
_LOOK = 0.05

#: Seconds after a halt for which an answer of the ledger is waited for.
_GRACE = 0.3

T = TypeVar("T")
States = MutableMapping[str, Dict[str, Any]]


class QuotaLedger(abc.ABC):
    """Where the states of the budgets live.  Used by one thread at a time."""

    @abc.abstractmethod
    def update(self, keys: Sequence[str], change: Callable[[States, float], T]) -> T:
        """Let *change* read and replace the states of *keys* ({} when unknown) in one step, which no other process
        sees half done.  It is also told the time, in seconds of a clock that all processes share.

        Raises StoreLocked when it is not our turn yet.
        """

    def interrupt(self) -> None:
        """From any thread: an ``update`` that waits for an answer must not wait longer."""

    def close(self) -> None:
        """Let go of everything; twice is fine."""


class LocalLedger(QuotaLedger):
    """Budgets of one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._states: Dict[str, Dict[str, Any]] = {}

    def update(self, keys: Sequence[str], change: Callable[[States, float], T]) -> T:
        for key in keys:
            self._states.setdefault(key, {})
        return change(self._states, self._clock())


class TokenBucket:
    """The arithmetic of one budget.  No lock, no clock, no sleep: every method is told *now*, in seconds.

    *budget*: calls per 60 seconds; *burst*: calls of the largest HTTP batch; *state*: what ``state()`` returned last.
    """

    def __init__(self, budget: int, burst: int, state: Optional[Dict[str, Any]] = None) -> None:
        if budget < 1 or burst < 1:
            raise ValueError(f"budget {budget} and burst {burst} must be at least 1")
        self.budget = budget
        # A small budget must not go out in one burst, or nothing is left to pace.
        self._full_burst = burst if budget >= 4 * burst else max(1, budget // 4)
        found = state or {}
        self.pace = Pace((budget - self._full_burst) / WINDOW, found.get("pace"))
        self._level = float(found.get("level", self._full_burst))
        self._refilled_at: Optional[float] = found.get("refilled_at")
        # (when it leaves the log, calls), of answered calls, in order
        leaving = found.get("leaving", ())
        self._leaving: Deque[Tuple[float, int]] = collections.deque((at, calls) for at, calls in leaving)
        # grant -> (calls, when it leaves the log if its owner is not heard of any more), of calls under way
        self._open: Dict[str, Tuple[int, float]] = {
            grant: (calls, at) for grant, (calls, at) in found.get("open", {}).items()
        }
        self._occupied = sum(calls for _, calls in self._leaving) + sum(calls for calls, _ in self._open.values())

    def state(self) -> Dict[str, Any]:
        """Everything it knows, as JSON values."""
        return {
            "level": self._level,
            "refilled_at": self._refilled_at,
            "leaving": list(self._leaving),
            "open": self._open,
            "pace": self.pace.state(),
        }

    @property
    def burst(self) -> int:
        """Most calls one take may have: a batch, or a fraction of a second's worth while the pace is reduced."""
        return self.pace.batch(self._full_burst)

    def rate(self, now: float) -> float:
        """Calls per second at which it refills."""
        rate = self.pace.at(now)
        if self.pace.reduced and rate >= self.pace.full:  # smaller bursts leave more of the minute to pace
            rate = (self.budget - self.burst) / WINDOW
        return rate

    def wait_for(self, calls: int, now: float) -> float:
        """0.0 when *calls*, at most ``burst``, may be taken now, else seconds until it is worth asking again."""
        self._advance(now)
        wait = 0.0
        missing = calls - self._level
        if missing > 1e-9 and self.pace.full > 0:
            wait = missing / self.rate(now)
        excess = self._occupied + calls - self.budget
        for leaves_at, leaving in self._leaving:
            if excess <= 0:
                break
            excess -= leaving
            wait = max(wait, leaves_at - now)
        if excess > 0:  # only an answer that is still under way can make room
            wait = max(wait, _LOOK)
        return wait

    def take(self, grant: str, calls: int, now: float) -> None:
        """Take *calls* in the name of *grant*.  The caller has seen ``wait_for`` return 0.0, or doesn't mind."""
        self._advance(now)
        self._level -= calls
        self._open[grant] = (calls, now + ORPHANED + WINDOW)
        self._occupied += calls

    def renew(self, grants: Set[str], now: float) -> None:
        """The owner of *grants* lives, and still waits for their answers."""
        self._advance(now)
        for grant in grants & self._open.keys():
            self._open[grant] = (self._open[grant][0], now + ORPHANED + WINDOW)

    def settle(self, grant: str, calls: int, now: float, *, sent_at: float, refused: int = 0) -> None:
        """The answer to the *calls* of *grant* is complete, or will never come: their 60 seconds begin.

        *refused* of them were refused as too fast, which may change the pace.
        """
        self._advance(now)
        if self._open.pop(grant, None) is None:  # taken for dead in the meantime: it comes back
            self._occupied += calls
        leaves_at = math.ceil((now + WINDOW + _MARGIN) / _STEP) * _STEP
        together = self._leaving.pop()[1] if self._leaving and self._leaving[-1][0] >= leaves_at else 0
        self._leaving.append((leaves_at, together + calls))
        lowered = self.pace.at(now)
        self.pace.settled(now, sent_at, calls, refused)
        if self.pace.at(now) < lowered:
            self._level = min(self._level, 0.0)

    def refund(self, grant: str, now: float) -> None:
        """These calls were never sent: as if never taken."""
        self._advance(now)
        calls, _ = self._open.pop(grant, (0, 0.0))
        self._occupied -= calls
        self._level = min(float(self.burst), self._level + calls)

    def clock_was_set(self, seconds: float, before: float) -> None:
        """The clock by which we are told the time was put forward by *seconds*, after it had shown *before*.

        Else the log would be empty at once, although the server still counts what is in it.  Not twice: whoever else
        has noticed has moved everything already.
        """
        if self._refilled_at is None or self._refilled_at > before + _AHEAD:
            return
        self._refilled_at += seconds
        self._leaving = collections.deque((at + seconds, calls) for at, calls in self._leaving)
        self._open = {grant: (calls, at + seconds) for grant, (calls, at) in self._open.items()}

    def used(self, now: float) -> int:
        """Calls that the server may count in its window now, at most."""
        self._advance(now)
        return self._occupied

    def _advance(self, now: float) -> None:
        if self._refilled_at is None:
            self._refilled_at = now
        if self._refilled_at > now + WINDOW:  # the clock began anew: the machine was restarted
            self._leaving = collections.deque([(now + WINDOW, self._occupied)])
            self._open, self._refilled_at = {}, now
        elapsed = max(0.0, now - self._refilled_at)
        self._refilled_at = max(now, self._refilled_at)
        self._level = min(float(self.burst), self._level + elapsed * self.rate(now))
        while self._leaving and self._leaving[0][0] <= now:
            self._occupied -= self._leaving.popleft()[1]
        for grant in [grant for grant, (_, leaves_at) in self._open.items() if leaves_at <= now]:
            self._occupied -= self._open.pop(grant)[0]


class Grant(NamedTuple):
    """Calls granted by every budget they count against.  ``at``: seconds of the ledger's clock."""

    site: str
    calls: int
    at: float
    name: str


class _Turn:
    """A worker's place in the line for one site's calls."""

    waits = False  # the budget told it to


class _Sent(NamedTuple):
    at: float
    calls: int


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
        account: Account = Account(),
        enabled: bool = True,
        ledger: Optional[QuotaLedger] = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budgets = {"site": site_budget, "user": user_budget, "project": project_budget}
        self._burst = burst
        self._first_burst = min(TokenBucket(budget, burst).burst for budget in self._budgets.values())
        self._halt = halt
        self._account = account
        self._enabled = enabled
        self._clock = clock
        self._turn = threading.Lock()  # guards _looked and the ledger, which may wait for others
        self._ledger: QuotaLedger = ledger or LocalLedger(clock)
        self._looked: Dict[str, Tuple[float, float]] = {}  # key -> when we last looked, by our clock and the ledger's
        self._lock = threading.Lock()  # guards everything below, for a moment; may be taken while holding _turn
        self._closed = threading.Event()
        self._name = uuid.uuid4().hex[:12]
        self._numbers = itertools.count()
        self._open: Dict[str, Set[str]] = {}  # site -> our grants that are not settled
        self._renewed_at = clock()
        self._waiting: Dict[str, Deque[_Turn]] = {}
        self._bursts: Dict[str, int] = {}  # site -> as last seen
        self._paces: Dict[str, float] = {}  # site -> calls per second, of those that are slowed down
        self._sent: Dict[str, Deque[_Sent]] = {}  # site -> our calls of the last 60 s
        self._peak = 0

    def share(self, ledger: QuotaLedger) -> None:
        """From now on the budgets are those in *ledger*.  To be called before the first ``acquire``."""
        with self._turn:
            self._ledger = ledger

        def watch() -> None:
            while not self._closed.wait(_GRACE / 3):
                ledger.interrupt()

        if type(ledger).interrupt is not QuotaLedger.interrupt:
            self._halt.on_set(threading.Thread(target=watch, name=f"{__name__}-watch", daemon=True).start)

    def burst(self, site: str) -> int:
        """Most calls that one HTTP batch to *site* should have now."""
        with self._lock:
            return self._bursts.get(site, self._first_burst) if self._enabled else self._burst

    def is_waited_for(self, site: str) -> bool:
        """True while a worker was told to wait for calls to *site*."""
        with self._lock:
            return any(turn.waits for turn in self._waiting.get(site, ()))

    def paces(self) -> Dict[str, float]:
        """Calls per minute for each site that was slowed down because calls were refused as too fast."""
        with self._lock:
            return {site: round(pace * 60.0, 1) for site, pace in self._paces.items()}

    def acquire(self, site: str, calls: int) -> Optional[Grant]:
        """Wait until *calls* to *site* may be sent; None when the halt came first.  Less is granted while the site
        is slowed down: the caller sends what was granted, and asks again for the rest.

        First come, first served among those who wait for one site, so that a large batch isn't starved by small ones.
        Raises StoreError when the ledger can't be used.
        """
        turn = _Turn()
        with self._lock:
            waiting = self._waiting.setdefault(site, collections.deque())
            waiting.append(turn)
        try:
            while not self._halt.is_set():
                wait = _LOOK
                with self._lock:
                    first = waiting[0] is turn
                if first:
                    try:
                        granted = self._try(site, calls)
                    except StoreLocked:
                        wait = _LOOK / 2
                    else:
                        if isinstance(granted, Grant):
                            return granted
                        turn.waits, wait = True, granted
                self._halt.wait(wait)
            return None
        finally:
            with self._lock:
                waiting.remove(turn)

    def sent(self, grant: Grant) -> None:
        """The granted calls go out now: they are among those we have made."""
        with self._lock:
            now = self._clock()
            sent = self._sent.setdefault(grant.site, collections.deque())
            sent.append(_Sent(now, grant.calls))
            while sent[0].at <= now - WINDOW:
                sent.popleft()
            self._peak = max(self._peak, sum(each.calls for each in sent))

    def settle(self, grant: Grant, *, refused: int = 0) -> None:
        """The answer to the granted calls is complete, or will never come; *refused* of them came too fast."""

        def change(buckets: List[TokenBucket], now: float) -> None:
            for number, bucket in enumerate(buckets):
                own = refused if number == 0 else 0  # which limit refused isn't said: the site is slowed down
                bucket.settle(grant.name, grant.calls, now, sent_at=grant.at, refused=own)

        self._give_back(grant, change)

    def refund(self, grant: Grant) -> None:
        """The granted calls were never sent."""

        def change(buckets: List[TokenBucket], now: float) -> None:
            for bucket in buckets:
                bucket.refund(grant.name, now)

        self._give_back(grant, change)

    def renew(self) -> None:
        """Tell the ledger now and then that we live and wait for answers.  Cheap: call it often."""
        now = self._clock()
        with self._lock:
            if now - self._renewed_at < RENEWED or not self._enabled:
                return
            grants = {site: set(names) for site, names in self._open.items() if names}
            self._renewed_at = now
        if not self._turn.acquire(blocking=False):  # whoever holds it may wait for long
            self._renewed_at = now - RENEWED + 1.0  # soon again
            return
        try:
            for site, names in grants.items():
                self._update(site, _renew(names))
        except StoreLocked:
            self._renewed_at = now - RENEWED + 1.0
        finally:
            self._turn.release()

    def close(self) -> None:
        """Let go of the ledger.  A worker that comes back late finds one that nobody shares."""
        with self._turn:
            self._closed.set()
            ledger, self._ledger = self._ledger, LocalLedger(self._clock)
            ledger.close()

    def sent_last_minute(self) -> int:
        """Calls of this run in the last 60 seconds, to all sites."""
        with self._lock:
            now = self._clock()
            return sum(each.calls for sent in self._sent.values() for each in sent if each.at > now - WINDOW)

    def peak_qpm(self) -> int:
        """The greatest number of this run's calls to one site in any 60 seconds so far."""
        with self._lock:
            return self._peak

    def _try(self, site: str, calls: int) -> Any:
        """A Grant, or the seconds to wait."""
        name = f"{self._name}-{next(self._numbers)}"

        def change(buckets: List[TokenBucket], now: float) -> Any:
            if not self._enabled:
                return Grant(site, calls, now, name)
            most = min(calls, *(bucket.burst for bucket in buckets))
            wait = max(bucket.wait_for(most, now) for bucket in buckets)
            if wait > 0.0:
                return wait
            for bucket in buckets:
                bucket.take(name, most, now)
            return Grant(site, most, now, name)

        with self._turn:
            found = self._update(site, change)
            if isinstance(found, Grant):
                with self._lock:
                    self._open.setdefault(site, set()).add(found.name)
        return found

    def _give_back(self, grant: Grant, change: Callable[[List[TokenBucket], float], Any]) -> None:
        """Until the ledger takes it: an answer that is not noted would keep its calls in the log too long."""
        with self._lock:
            self._open.get(grant.site, set()).discard(grant.name)
        while self._enabled:
            try:
                with self._turn:
                    self._update(grant.site, change)
                return
            except StoreLocked:
                pass
            if self._halt.wait(_LOOK / 2):
                return  # its calls leave the log by themselves

    def _update(self, site: str, change: Callable[[List[TokenBucket], float], T]) -> T:
        names = {"site": site, "user": self._account.user, "project": self._account.project}
        keys = {kind: f"{kind} {name}" for kind, name in names.items()}

        def on_states(states: States, now: float) -> T:
            buckets = [TokenBucket(self._budgets[kind], self._burst, states[key]) for kind, key in keys.items()]
            for key, bucket in zip(keys.values(), buckets):
                self._mind_clock(key, bucket, now)
            found = change(buckets, now)
            for key, bucket in zip(keys.values(), buckets):
                states[key] = bucket.state()
            self._see(site, buckets, now)
            return found

        return self._ledger.update(list(keys.values()), on_states)

    def _mind_clock(self, key: str, bucket: TokenBucket, now: float) -> None:
        """Some ledgers have a server's wall clock, which may be set; ours is monotonic, and tells."""
        here = self._clock()
        looked_here, looked = self._looked.get(key, (here, now))
        self._looked[key] = here, now
        expected = looked + (here - looked_here)
        if now > expected + _AHEAD:
            bucket.clock_was_set(now - expected, expected)

    def _see(self, site: str, buckets: List[TokenBucket], now: float) -> None:
        with self._lock:
            self._bursts[site] = min(bucket.burst for bucket in buckets)
            if buckets[0].pace.reduced:
                self._paces[site] = buckets[0].rate(now)
            else:
                self._paces.pop(site, None)


def _renew(grants: Set[str]) -> Callable[[List[TokenBucket], float], None]:
    def change(buckets: List[TokenBucket], now: float) -> None:
        for bucket in buckets:
            bucket.renew(grants, now)

    return change
