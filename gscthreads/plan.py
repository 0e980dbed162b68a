"""The schedule: which slices are owed, leased, fetched, acknowledged.  Pure: no thread, lock, socket, clock or chance.

    OWED -> LEASED -> FETCHED -> ACKNOWLEDGED        LEASED -> OWED (released, or to be tried again) or FAILED

A plan holds several datasets.  They are served fairly: sites in turn, and inside an HTTP batch, which never mixes
sites, the site's datasets in turn.  Only the coordinator touches a plan.
"""

from __future__ import annotations

import collections
import datetime as dt
import enum
import heapq
from typing import (
    AbstractSet,
    Callable,
    Deque,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from .backoff import Backoff, Health
from .errors import ApiError, BadRequest, BurstQuota, Denied, LoadQuota, Transient, Unauthorized
from .gate import Gate, site_pause
from .model import ROW_LIMIT, Dataset, Slice, SliceKey
from .refusals import MAX_RETRY_AFTER
from .stores.base import FINAL, Acknowledged, DayRecord

#: Rows after which a day is called endless; Google shows at most 50,000 a day and search type (gsc-api.md 2.7).
ENDLESS = 400 * ROW_LIMIT

#: Disruptions (faults of a whole HTTP batch) after which a slice is sent alone, and, per attempt allowed, given up.
SOLO_AFTER = 2
_DISRUPTIONS_PER_ATTEMPT = 3

#: Leases after which a slice's next try waits until no new day can be begun: bad days must not hold up good ones.
_EARLY_LEASES = 2

#: Times its share that a slice may at most fail while chance explains it.
_PATIENCE = 10

#: Refusals for quota, of one slice or with a pause for the whole site, after which a site is parked although each would
#: pass: the limit is not what we were told.
_MOST_REFUSALS = 12


class OwedDay(NamedTuple):
    """A day that is not finished: where to go on, and how many of its calls are already acknowledged."""

    date: dt.date
    start_row: int = 0
    calls: int = 0


class Owed(NamedTuple):
    """What a dataset owes.  ``whole``: days with every slice acknowledged, only to be published (with their calls).
    ``stale``: days whose acknowledged slices must not be used any more."""

    days: List[OwedDay]
    whole: List[Tuple[dt.date, int]]
    stale: List[dt.date]


def next_start_row(start_row: int, received: int, *, until_empty: bool = False) -> Optional[int]:
    """Where a day goes on after a slice of *received* rows; None when that slice was its last.

    The only place that knows when a day ends: a slice that comes back short is the last (invariant 7).
    """
    if received == 0 or (received < ROW_LIMIT and not until_empty):
        return None
    return start_row + ROW_LIMIT


def owed(
    dates: Iterable[dt.date],
    ledger: Mapping[dt.date, DayRecord],
    today: dt.date,
    *,
    data_state: str,
    final_after_days: int,
    force: bool = False,
    until_empty: bool = False,
) -> Owed:
    """What of *dates* is still to be fetched, given the *ledger*.  Final days owe nothing, unless *force*."""
    result = Owed([], [], [])
    for date in dates:
        record = ledger.get(date)
        if record is None:
            result.days.append(OwedDay(date))
            continue
        if record.status == FINAL and not force:
            if record.slices:  # left by a forced run that was halted
                result.stale.append(date)
            continue
        if record.slices and (force or not _fresh(date, record.slices, today, data_state, final_after_days)):
            result.stale.append(date)
            result.days.append(OwedDay(date))
            continue
        start_row, calls = _resume(record.slices, until_empty=until_empty)
        if start_row is None:
            result.whole.append((date, calls))
        else:
            result.days.append(OwedDay(date, start_row, calls))
    return result


def _fresh(
    date: dt.date, slices: Mapping[int, Acknowledged], today: dt.date, data_state: str, final_after_days: int
) -> bool:
    """Slices of one day must show the same moment: settled data does, unsettled data only within a Pacific date."""
    return all(
        ack.data_state == data_state and (ack.fetched_on == today or (ack.fetched_on - date).days >= final_after_days)
        for ack in slices.values()
    )


def _resume(slices: Mapping[int, Acknowledged], *, until_empty: bool) -> Tuple[Optional[int], int]:
    start_row, calls = 0, 0
    while start_row in slices:
        calls += 1
        following = next_start_row(start_row, slices[start_row].received, until_empty=until_empty)
        if following is None:
            return None, calls
        start_row = following
    return start_row, calls


class SliceState(enum.Enum):
    OWED = "owed"
    LEASED = "leased"
    FETCHED = "fetched"
    ACKNOWLEDGED = "acknowledged"
    FAILED = "failed"


_MOVES: Dict[SliceState, Set[SliceState]] = {
    SliceState.OWED: {SliceState.LEASED},
    SliceState.LEASED: {SliceState.OWED, SliceState.FETCHED, SliceState.FAILED},
    SliceState.FETCHED: {SliceState.ACKNOWLEDGED},
    SliceState.ACKNOWLEDGED: set(),
    SliceState.FAILED: set(),
}


#: Slices that one batch should have at least: Google works on 3 to 8 of a batch at once (gsc-api.md 8), so fewer take
#: as long.  The first number where more would leave a worker idle now, the second towards the end.
_LANES, _MORE_LANES = 4, 8


def batch_share(available: int, owed: int, *, workers: int, out: int) -> int:
    """How many slices the next HTTP batch should have, when *out* are under way: enough to keep Google's lanes busy,
    and few enough that

    - all idle workers get some of the slices *available* now;
    - no worker is long busy with the last of those *owed* while the others have nothing left: the batches become
      smaller towards the end (guided self-scheduling; about half the usual share, since answers take unequal time).
    """
    of_available = -(-available // max(1, workers - out))
    of_owed = -(-owed // (2 * workers - 1))
    return max(_LANES, min(of_available, max(_MORE_LANES, of_owed)))


#: Slices owed by a site, for each worker, from which on its longest come first: what is left at the very end are short
#: ones, with which all workers end at about the same time.  Until then its datasets take turns, so that a run that is
#: halted leaves about as many days of each.
_TOWARDS_THE_END = 40


class Verdict(enum.Enum):
    """What became of a slice that failed."""

    RETRY = "retry"
    DAY_FAILED = "day failed"
    DATASET_FAILED = "dataset failed"
    PARKED = "parked"


class _Slot:
    """One slice's state and its misfortunes, by kind, since each kind has a limit of its own."""

    __slots__ = ("key", "state", "leases", "attempts", "disruptions", "refusals", "unauthorized")

    def __init__(self, key: SliceKey) -> None:
        self.key = key
        self.state = SliceState.OWED
        self.leases = self.attempts = self.disruptions = self.refusals = self.unauthorized = 0

    def move(self, state: SliceState) -> None:
        if state not in _MOVES[self.state]:
            raise RuntimeError(f"slice {self.key} can't go from {self.state.value} to {state.value}")
        self.state = state


class DatasetPlan:
    """One dataset's days and slices."""

    def __init__(self, dataset: Dataset, days: Sequence[OwedDay], *, max_open_days: int, newest: bool) -> None:
        self.dataset = dataset
        self.owed_days = len(days)
        self.published: int = 0
        self.failed_days: Dict[dt.date, ApiError] = {}
        self.error: Optional[ApiError] = None  # ends the dataset
        self.parked: Optional[ApiError] = None  # ends it for this run
        self.gate = Gate()  # its site's, once it is part of a plan
        self._max_open_days = max_open_days
        self._newest = newest
        self._waiting: Deque[dt.date] = collections.deque()  # days not begun, in order
        self._ready: List[Tuple[int, int, _Slot]] = []  # heap: follow-ups and retries, before new days
        self._late: List[Tuple[int, int, _Slot]] = []  # heap: what failed repeatedly, after new days
        self._delayed: List[Tuple[float, int, int, _Slot]] = []  # heap by due time
        self._slots: Dict[SliceKey, _Slot] = {}  # owed, leased or fetched, by key: the guard against doubles
        self._open: Dict[dt.date, int] = {}  # days with acknowledged slices -> how many
        self._in_flight = 0
        self._first_slices_in_flight = 0
        self._slices_seen = self._rows_seen = 0
        self._days_seen = self._long_days = 0  # days whose first slice was answered; those that go on after it
        for day in sorted(days, key=lambda day: self._rank(day.date)):
            if day.calls:
                self._open[day.date] = day.calls
                self._push(_Slot(SliceKey(day.date, day.start_row)))
            else:
                self._waiting.append(day.date)

    # -- leasing

    @property
    def stopped(self) -> bool:
        return self.error is not None or self.parked is not None

    @property
    def unfinished(self) -> bool:
        """True while something is leased, or owed and still wanted."""
        owed = self._waiting or self._ready or self._late or self._delayed
        return bool(self._in_flight) or not self.stopped and bool(owed)

    @property
    def owed(self) -> int:
        """Slices known to be owed and not leased."""
        if self.stopped:
            return 0
        return len(self._waiting) + len(self._ready) + len(self._late) + len(self._delayed)

    @property
    def rows_a_slice(self) -> float:
        """Rows that a slice has, on average, as far as is known."""
        return self._rows_seen / max(1, self._slices_seen)

    @property
    def open_days(self) -> int:
        return len(self._open)

    @property
    def in_flight(self) -> int:
        return self._in_flight

    def available(self) -> int:
        """Slices that may be leased now."""
        return 0 if self.stopped else self.gate.admits(len(self._ready) + self._new_days() + len(self._late))

    def _new_days(self) -> int:
        """Days that may be begun now."""
        room = self._max_open_days - len(self._open)
        if room <= 0:
            return 0
        # Of the days under way some will stay open: all, for what is known before the first answer, then twice as many
        # as did so far.
        long_days, seen = (self._long_days, self._days_seen) if self._days_seen else (1, 1)
        if long_days:
            room = max(room, room * seen // (2 * long_days)) - self._first_slices_in_flight
            return max(0, min(room, len(self._waiting)))
        return len(self._waiting)

    @property
    def next_goes_alone(self) -> bool:
        """True when the next slice was in HTTP batches that failed whole: it may be what breaks them."""
        retries = self._ready or ([] if self._new_days() else self._late)
        return bool(retries) and retries[0][2].disruptions >= SOLO_AFTER

    def lease(self) -> Slice:
        """The next slice, to be called only when ``available()``."""
        if self._ready:
            slot = heapq.heappop(self._ready)[2]
        elif self._new_days():
            slot = _Slot(SliceKey(self._waiting.popleft(), 0))
            self._slots[slot.key] = slot
        else:
            slot = heapq.heappop(self._late)[2]
        slot.move(SliceState.LEASED)
        slot.leases += 1
        self._in_flight += 1
        self.gate.in_flight += 1
        if slot.key.start_row == 0:
            self._first_slices_in_flight += 1
        return Slice(self.dataset, slot.key)

    def leases(self, key: SliceKey) -> int:
        """How often the slice has been leased."""
        return self._slots[key].leases

    def wake(self, now: float) -> None:
        """Make the delayed slices that are due ready."""
        while self._delayed and self._delayed[0][0] <= now:
            self._push(heapq.heappop(self._delayed)[3])

    @property
    def resting(self) -> bool:
        """True when its site is left alone, for the rest of this run or for a while."""
        return self.parked is not None or self.gate.closed

    def next_due(self) -> Optional[float]:
        if self.stopped:
            return None
        dues = [self.gate.until] if self.gate.closed else [entry[0] for entry in self._delayed[:1]]
        return dues[0] if dues else None

    # -- outcomes

    def fetched(self, key: SliceKey) -> bool:
        """The slice has an answer.  False when it was not leased: a second answer, to be ignored."""
        slot = self._slots.get(key)
        if slot is None or slot.state is not SliceState.LEASED:
            return False
        self.gate.answered()
        self._landed(slot, SliceState.FETCHED)
        return True

    def first_try(self, key: SliceKey) -> bool:
        """True when the slice has been leased once."""
        return self._slots[key].leases == 1

    def acknowledge(self, key: SliceKey, following: Optional[int], rows: int = 0) -> None:
        """The slice is durable.  *following* is the start row of the day's next slice, None when the day is whole;
        *rows*: how many it had."""
        self._slots.pop(key).move(SliceState.ACKNOWLEDGED)
        self._slices_seen += 1
        self._rows_seen += rows
        if key.start_row == 0:
            self._days_seen += 1
            self._long_days += following is not None
        if following is None:
            self._open.pop(key.date, None)
            self.published += 1
        else:
            self._open[key.date] = self._open.get(key.date, 0) + 1
            self._push(_Slot(SliceKey(key.date, following)))

    def calls(self, date: dt.date) -> int:
        """Slices of the day acknowledged so far."""
        return self._open.get(date, 0)

    def release(self, key: SliceKey) -> None:
        """The lease ended without an answer: owed again, as if never leased."""
        slot = self._slots.get(key)
        if slot is not None and slot.state is SliceState.LEASED:
            self._landed(slot, SliceState.OWED)
            slot.leases -= 1
            self._push(slot)

    def retry(self, key: SliceKey, due: float) -> None:
        slot = self._slots[key]
        self._landed(slot, SliceState.OWED)
        heapq.heappush(self._delayed, (due, *self._place(slot), slot))

    def fail_day(self, key: SliceKey, error: ApiError) -> None:
        """Give the slice's day up; the dataset's other days go on."""
        self._landed(self._slots.pop(key), SliceState.FAILED)
        self._open.pop(key.date, None)
        self.failed_days[key.date] = error

    def slot(self, key: SliceKey) -> Optional[_Slot]:
        slot = self._slots.get(key)
        return slot if slot is not None and slot.state is SliceState.LEASED else None

    def _landed(self, slot: _Slot, state: SliceState) -> None:
        slot.move(state)
        self._in_flight -= 1
        self.gate.in_flight -= 1
        if slot.key.start_row == 0:
            self._first_slices_in_flight -= 1

    def _push(self, slot: _Slot) -> None:
        self._slots[slot.key] = slot
        heapq.heappush(self._late if slot.leases > _EARLY_LEASES else self._ready, (*self._place(slot), slot))

    def _place(self, slot: _Slot) -> Tuple[int, int]:
        return self._rank(slot.key.date), slot.key.start_row

    def _rank(self, date: dt.date) -> int:
        return -date.toordinal() if self._newest else date.toordinal()


def _at_most(limit: int, counts: Iterable[int]) -> int:
    """The sum of *counts*, or something from *limit* on as soon as it is as much."""
    total = 0
    for count in counts:
        total += count
        if total >= limit:
            break
    return total


class Plan:
    """All datasets of a run: what to lease next, and what an outcome means."""

    def __init__(self, *, batch_size: int, max_attempts: int, backoff: Backoff) -> None:
        self.datasets: Dict[Dataset, DatasetPlan] = {}
        self.health = Health()
        self._batch_size = batch_size
        self._max_attempts = max_attempts
        self._backoff = backoff
        self._sites: Deque[str] = collections.deque()  # in turn
        self._of_site: Dict[str, Deque[DatasetPlan]] = {}
        self._gates: Dict[str, Gate] = {}

    def add(self, plan: DatasetPlan) -> None:
        self.datasets[plan.dataset] = plan
        site = plan.dataset.site
        if site not in self._of_site:
            self._sites.append(site)
            self._of_site[site] = collections.deque()
        self._of_site[site].append(plan)
        plan.gate = self.gate(site)

    def gate(self, site: str) -> Gate:
        """Whether *site* may be asked now: one for all its datasets."""
        return self._gates.setdefault(site, Gate())

    @property
    def in_flight(self) -> int:
        """Slices under way."""
        return sum(gate.in_flight for gate in self._gates.values())

    @property
    def finished(self) -> bool:
        return not any(plan.unfinished for plan in self.datasets.values())

    def wake(self, now: float) -> None:
        """Make the delayed slices that are due ready; end the pauses that are over."""
        for gate in self._gates.values():
            gate.wake(now)
        for plan in self.datasets.values():
            plan.wake(now)

    def lease(self, *, workers: int, out: int, most: Callable[[str], int]) -> List[Slice]:
        """The next HTTP batch, [] when nothing can, or should, be leased now.

        *workers*: how many there are; *out*: HTTP batches under way.  *most(site)* is the greatest batch the site may
        have, 0 when it has enough for now.
        """
        plans = [plan for plan in self.datasets.values() if plan.unfinished]
        # No batch has more than batch_size: further ones need not be counted, and there may be thousands of datasets.
        many = 2 * workers * max(self._batch_size, self.in_flight)
        available = _at_most(many, (plan.available() for plan in plans))
        owed = _at_most(many, (plan.owed for plan in plans))
        if out >= workers and available < owed and available * workers < self.in_flight:
            return []  # nobody waits for it, and it will be larger when the days now under way are published
        share = batch_share(available, owed, workers=workers, out=out)
        sites = {plan.dataset.site for plan in plans}
        for _ in range(len(self._sites)):
            site = self._sites[0]
            self._sites.rotate(-1)
            if site not in sites:
                continue
            largest = most(site)
            if largest:
                # One worker that takes all the quota there is leaves the others waiting for it.
                largest = min(largest, max(_MORE_LANES, largest // workers))
            batch = self._lease_site(site, min(self._batch_size, share, largest), workers) if largest else []
            if batch:
                return self._longest_first(batch)
        return []

    def _lease_site(self, site: str, most: int, workers: int) -> List[Slice]:
        plans = self._of_site[site]
        longest = sum(plan.owed for plan in plans) < _TOWARDS_THE_END * workers
        batch: List[Slice] = []
        while len(batch) < max(1, most):
            plan = self._next(plans, longest=longest)
            if plan is None or (batch and plan.next_goes_alone):
                break
            alone = plan.next_goes_alone
            batch.append(plan.lease())
            plans.remove(plan)
            plans.append(plan)
            if alone:
                break
        return batch

    @staticmethod
    def _next(plans: Deque[DatasetPlan], *, longest: bool) -> Optional[DatasetPlan]:
        """Whose turn it is of those that may lease a slice."""
        able = (plan for plan in plans if plan.available())
        return max(able, key=lambda plan: plan.rows_a_slice, default=None) if longest else next(able, None)

    def _longest_first(self, batch: List[Slice]) -> List[Slice]:
        """Who starts the longest last has idle lanes beside them in the end."""
        return sorted(batch, key=lambda slice_: -self.datasets[slice_.dataset].rows_a_slice)

    def available(self, site: str) -> int:
        """Slices of *site* that may be leased now."""
        return sum(plan.available() for plan in self._of_site[site])

    def next_due(self) -> Optional[float]:
        """When the next delayed slice is due, None when none waits."""
        dues = (plan.next_due() for plan in self.datasets.values())
        return min((due for due in dues if due is not None), default=None)

    def failed(self, slice_: Slice, error: ApiError, *, alone: bool, now: float, jitter: float) -> Verdict:
        """Decide about a slice without an answer.  *jitter*: uniform in 0..1."""
        plan, key = self.datasets[slice_.dataset], slice_.key
        slot = plan.slot(key)
        if slot is None:
            return Verdict.RETRY  # not leased (any more): its fate is settled elsewhere
        if slot.leases == 1:
            self.health.failed()
        if isinstance(error, (Denied, BadRequest)):
            if alone:
                return self._end(plan, key, error)
            # Perhaps the batch as such is refused (too large, say): what each slice gets alone will tell.
            slot.disruptions = max(slot.disruptions, SOLO_AFTER - 1)
        pause = site_pause(error)
        if isinstance(error, Transient) and alone and self.health.is_chance(slot.attempts + 1, odds=0.01):
            pause = 0.0  # others get through: it speaks of this slice only
        if pause:
            plan.gate.close(now + pause)
        for_long = pause >= MAX_RETRY_AFTER or plan.gate.in_vain >= _MOST_REFUSALS
        if isinstance(error, LoadQuota) or isinstance(error, BurstQuota) and for_long:
            return self._park(slice_, error)
        wait = self._count(slot, error, alone, jitter)
        if wait is None:
            if isinstance(error, BurstQuota):
                return self._park(slice_, error)
            if isinstance(error, Unauthorized):
                return self._end(plan, key, error)
            plan.fail_day(key, error)
            return Verdict.DAY_FAILED
        plan.retry(key, now + max(wait, error.retry_after or 0.0))
        return Verdict.RETRY

    def _count(self, slot: _Slot, error: ApiError, alone: bool, jitter: float) -> Optional[float]:
        """Seconds until the slice's next try, None when it has had its share."""
        if isinstance(error, Unauthorized):
            slot.unauthorized += 1
            if self._exhausted(slot.unauthorized, self._max_attempts):
                return None
            return 0.0 if slot.unauthorized == 1 else self._backoff.delay(slot.unauthorized - 1, jitter)
        if isinstance(error, BurstQuota):
            slot.refusals += 1
            spent = self._exhausted(slot.refusals, _MOST_REFUSALS)
            return None if spent else self._backoff.delay(slot.refusals, jitter)
        if alone:
            slot.attempts += 1
            count, most = slot.attempts, self._max_attempts
        else:
            slot.disruptions += 1
            count, most = slot.disruptions, self._max_attempts * _DISRUPTIONS_PER_ATTEMPT
        if self._exhausted(count, most):
            return None
        # While faults come at random there is nothing to wait for: others get through.
        streak = 1 if self.health.is_chance(count, odds=0.01) else min(count, self._max_attempts)
        return self._backoff.delay(streak, jitter)

    def _exhausted(self, failures: int, most: int) -> bool:
        return failures >= most and (failures >= most * _PATIENCE or not self.health.is_chance(failures))

    def _end(self, plan: DatasetPlan, key: SliceKey, error: ApiError) -> Verdict:
        plan.release(key)
        plan.error = plan.error or error  # the first cause stays
        return Verdict.DATASET_FAILED

    def _park(self, slice_: Slice, error: ApiError) -> Verdict:
        self.datasets[slice_.dataset].release(slice_.key)
        for plan in self._of_site[slice_.dataset.site]:
            plan.parked = plan.parked or error
        return Verdict.PARKED

    def of_site(self, site: str) -> List[DatasetPlan]:
        """The plans of one site's datasets."""
        return list(self._of_site.get(site, ()))

    def pause_site(self, site: str, until: float) -> None:
        """Instead of ending a parked site for this run, go on with it at *until*."""
        for plan in self._of_site[site]:
            plan.parked = None
        self.gate(site).close(until)

    def give_up(self, error: ApiError, sites: AbstractSet[str]) -> None:
        """The service is down for *sites*: end their datasets that still owe something."""
        for site in sites:
            for plan in self._of_site[site]:
                if plan.unfinished:
                    plan.error = plan.error or error
