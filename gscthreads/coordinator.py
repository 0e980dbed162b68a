"""The coordinator: the only thread that touches the plan and the store.

    lease -> (workers) -> outcomes -> persist -> commit -> acknowledge -> next slice, or publish -> telemetry

It persists and acknowledges in one transaction and tells the plan afterwards, so memory is never ahead of the
database.  ``step`` does one round and can be called without any thread.
"""

from __future__ import annotations

import datetime as dt
import logging
import math
import random
import time
from typing import AbstractSet, Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Set, TypeVar

from . import pacific, sites
from .backoff import Backoff, Breaker
from .concurrency import BATCH, MOST, Workers
from .config import SyncConfig
from .ending import Ending, dataset_ending, run_ending
from .errors import (
    ApiError,
    BadRequest,
    BurstQuota,
    ConfigError,
    CredentialsError,
    Denied,
    LeaseLost,
    StoreError,
    StoreLost,
    Transient,
    Unauthorized,
)
from .figures import COMPLETE, FAILED, HALTED, PARKED, RUNNING, Result
from .halt import Halt, Halted
from .inflight import InFlight
from .model import ROW_LIMIT, Dataset, Failed, Fetched, Rows, Slice
from .outcomes import Outcomes
from .parking import Parks, Proof, next_park
from .plan import ENDLESS, SOLO_AFTER, DatasetPlan, OwedDay, Plan, Verdict, next_start_row, owed
from .quota import WINDOW
from .stores.base import FINAL, PROVISIONAL, Acknowledged, DayRecord, Store
from .tally import Tally
from .worker import Batch, BatchEnded, SitesListed

logger = logging.getLogger(__name__)

#: Seconds between looks at deadlines: the longest pause of a round.
TICK = 0.25

#: Seconds for which a transaction that the store loses again and again is repeated.
_PATIENCE = 300.0

#: Seconds after a halt in which what is already fetched is still put into the store.
DRAIN = 0.2

#: Seconds between attempts to write the end of a halted run.
_AGAIN = 0.005

#: Most rows put into one transaction.
_GROUP_ROWS = 50_000

#: Seconds between signs of life when nothing is written, and between looks whether another run let go of a dataset.
_BEAT, _LOOK = 10.0, 1.0

#: HTTP batches leased beyond one for each worker, so that no worker waits while the coordinator writes.
_LEASED_AHEAD = 1

#: Days to be fetched, by dataset, when not all that a configuration names are wanted.
Only = Mapping[Dataset, AbstractSet[dt.date]]

T = TypeVar("T")


class _Adopted(NamedTuple):
    """A dataset that is ours to sync: what it owes, and the rows of each day that only wanted publishing."""

    plan: DatasetPlan
    days_owed: int
    published: List[int]


class _Stored(NamedTuple):
    """A slice that is in a transaction: where its day goes on, None when it is whole, and then its rows."""

    slice: Slice
    received: int
    following: Optional[int]
    published: Optional[int]


class Coordinator:
    """One run's loop.  Not thread-safe, except ``workers`` and ``waiting``."""

    def __init__(
        self,
        *,
        config: SyncConfig,
        store: Store,
        outcomes: Outcomes,
        halt: Halt,
        tally: Tally,
        submit: Callable[[Batch], None],
        list_sites: Callable[[], None],
        most: Callable[[str], int],
        waits_for_quota: Callable[[str], bool],
        tick: Callable[[float], object],
        today: dt.date,
        only: Optional[Only] = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._store = store
        self._outcomes = outcomes
        self._halt = halt
        self._tally = tally
        self._submit = submit
        self._list_sites = list_sites
        self._most = most
        self._waits_for_quota = waits_for_quota
        self._tick = tick
        self._today = today
        self._only = only
        self._clock = clock
        self._wall = wall
        self._jitter = jitter
        backoff = Backoff(config.backoff_base, config.backoff_cap)
        self.plan = Plan(batch_size=config.batch_size, max_attempts=config.max_attempts, backoff=backoff)
        self._in_flight = InFlight()
        self._workers = Workers(
            config.workers,
            most=min(MOST, config.max_in_flight),
            rate=config.budget / WINDOW if config.rate_limit_enabled else math.inf,
        )
        # Before batches that one slice breaks are taken for a service that is down, it and then a neighbour go alone.
        self._breaker = Breaker(config.max_attempts, backoff, strikes=SOLO_AFTER + 2)
        self._struck: Set[str] = set()  # sites that did not answer an HTTP batch since something was answered
        self._parks = Parks()
        self._held: Dict[Dataset, str] = {}  # datasets that another run syncs -> who
        self._dates: List[dt.date] = []
        self._run_id: Optional[int] = None
        self._planned = False
        self._may_hold_rows = False  # the store: from the first commit of rows on, even if that one failed
        self._beat_at = self._looked_at = clock()
        self._throttled = False
        self._alerted = False
        self._asked_for_sites = False
        self._awaiting_sites = False
        self._advice: Dict[str, str] = {}
        self._waiting = ""  # written here, read by snapshots
        self._park_reason = ""
        self._halted = False

    # -- the life of a run

    def open(self) -> None:
        """Open the store, lease the datasets and plan what is owed.  Raises StoreError or ConfigError, having written
        nothing."""
        self._dates = self._config.days(self._today)
        datasets = self._config.datasets() if self._only is None else list(self._only)
        self._store.open(halt=self._halt)

        def start() -> "tuple[int, tuple[Dict[Dataset, str], List[_Adopted]]]":
            self._store.prepare(self._while_on(datasets), top_queries=self._config.top_queries)
            run_id = self._store.start_run(self._config.settings())
            self._parks.load(self._store.parks())
            return run_id, self._claim(datasets)

        self._run_id, claimed = self._transact(start)
        self._plan(*claimed)
        self._planned = True
        for dataset, holder in self._held.items():
            logger.warning("%s is %s%s", dataset, holder, ": waiting" if self._config.wait else "")

    def _claim(self, wanted: List[Dataset]) -> "tuple[Dict[Dataset, str], List[_Adopted]]":
        """Inside a transaction: lease what can be leased of *wanted*; (those that others hold, what the rest owes)."""
        held = self._store.claim(self._while_on(wanted))
        return held, [self._adopt(dataset) for dataset in self._while_on(wanted) if dataset not in held]

    def _while_on(self, datasets: List[Dataset]) -> Iterator[Dataset]:
        """*datasets*, until a halt comes (Halted): with a server far away each takes its time."""
        for dataset in datasets:
            if self._halt.is_set():
                raise Halted
            yield dataset

    def _adopt(self, dataset: Dataset) -> "_Adopted":
        """Inside a transaction: what *dataset* owes; days that only want publishing are published."""
        dates = self._dates if self._only is None else sorted(self._only[dataset])
        ledger = self._store.ledger(dataset, dates[0], dates[-1])
        found = owed(
            dates,
            ledger,
            self._today,
            data_state=self._config.data_state,
            final_after_days=self._config.final_after_days,
            force=self._config.force,
            until_empty=self._config.until_empty,
        )
        days = within_retention(found.days, ledger, self._today)
        newest = self._config.order == "newest"
        plan = DatasetPlan(dataset, days, max_open_days=self._config.max_open_days, newest=newest)
        self._store.unstage(dataset, found.stale)
        published = [self._publish(dataset, date, None, calls, None) for date, calls in found.whole]
        return _Adopted(plan, len(days) + len(found.whole), published)

    def _plan(self, held: Dict[Dataset, str], adopted: List[_Adopted]) -> None:
        """What ``_claim`` found is committed: work on it."""
        self._held = held
        for plan, days_owed, published in adopted:
            self._tally.owes(plan.dataset, days_owed)
            for rows in published:
                self._tally.published(plan.dataset, rows)
            self.plan.add(plan)
            self._mind_park(plan.dataset.site)

    def _mind_park(self, site: str) -> None:
        """A site that was parked and has not been answered since is asked when its time has come, and with care; or at
        once, for whoever starts us too early may know that its quota is back."""
        park = self._parks.get(site)
        if park is None:
            return
        left = park.until.timestamp() - self._wall()
        if left > 0 and self._config.wait_for_quota:
            self.plan.gate(site).close(self._clock() + left)
        else:
            self.plan.gate(site).probe()

    def run(self) -> None:
        """Work until nothing is owed, and note that; or until the halt: then settle what is at hand for a moment."""
        while self.step():
            pass
        if not self._halt.is_set():
            self._note_end(self._result(None))  # here a halt can still cut short the waiting for whoever else writes
        while self._halt.is_set() and not self._leaving():
            outcomes = self._outcomes.take(0.0, most_rows=ROW_LIMIT)
            if not outcomes:
                return
            self._settle(outcomes)

    def _leaving(self) -> bool:
        """True once a halt has come, and the moment is over in which what is at hand is still put into the store."""
        set_at = self._halt.set_at
        return set_at is not None and self._clock() > set_at + DRAIN

    def step(self) -> bool:
        """One round: lease, wait for outcomes, settle them.  False when the run is over."""
        if self._halt.is_set():
            return False
        self._tick(self._clock())
        self._keep_leases()
        self._lease()
        open_days = sum(plan.open_days for plan in self.plan.datasets.values())
        self._tally.counters.put(in_flight=self.plan.in_flight, open_days=open_days)
        self._waiting = self._what_it_waits_for()
        if self.plan.finished and not self._in_flight and not self._awaiting_sites and not self._waits_for_others():
            return self._ask_for_sites()
        self._settle(self._outcomes.take(self._pause(), most_rows=_GROUP_ROWS))
        return True

    def close(self, error: Optional[BaseException] = None, *, halted: bool = False) -> Result:
        """Note the end of the run, close the store, and say what was done.  *error*: what ended it, if anything;
        *halted*: whether a halt came before it was over."""
        self._halted = halted
        result = self._result(error)
        patient = True  # once more in any case: a connection that broke is found out only by its next use
        while self._run_id is not None:
            try:
                self._note_end(result)
            except Halted as caught:  # somebody else writes, or the server is gone
                if not patient:
                    logger.warning("could not note the end of the run: %s", caught.__cause__)
                    break
                patient = not self._leaving()
                Halt().wait(_AGAIN)
        # Calls were made: the budgets beside the store remember them, and what became of them is in gsc_runs.
        self._store.close(discard=result.status == FAILED and not self._may_hold_rows and not result.calls)
        return result

    def _note_end(self, result: Result) -> None:
        """Tell the store how the run ended, once.  Only Halted is raised: the run's own outcome matters more."""
        run_id = self._run_id
        if run_id is None:
            return
        figures = self._tally.figures(result.status, result.halt_seconds)
        try:
            self._store.rollback()
            self._transact(lambda: self._store.save_run(run_id, figures, ended=True))
        except Halted:
            raise
        except LeaseLost:
            pass  # who took over has noted it
        except Exception:
            logger.warning("could not note the end of the run", exc_info=True)
        self._run_id = None

    # -- leasing

    def _lease(self) -> None:
        now = self._clock()
        self.plan.wake(now)
        if now < self._breaker.paused_until or self._throttle():
            return
        if self._workers.fixed is None:
            self._see_workers(now)
        while len(self._in_flight) < (1 if self._breaker.probing else self._most_batches()):
            slices = self.plan.lease(workers=self.workers(), out=len(self._in_flight), most=self._largest_batch)
            if not slices:
                return
            again = {each for each in slices if self.plan.datasets[each.dataset].leases(each.key) > 1}
            self._submit(self._in_flight.begin(slices, again))

    def _throttle(self) -> bool:
        """True while the result queue, once 80 % full, is not yet down to half.  Says when it is half full."""
        fill = self._outcomes.fill()
        if fill > 0.8 and not self._throttled:
            logger.warning("the result queue is %d %% full: no new calls until it is half empty", fill * 100)
        elif fill > 0.5 and not self._alerted:
            logger.warning("the result queue is %d %% full: the store is slower than the API", fill * 100)
        self._alerted = fill > 0.5
        self._throttled = fill > 0.8 or (self._throttled and fill > 0.5)
        return self._throttled

    def _pause(self) -> float:
        """Seconds to wait for outcomes: until a delayed slice could be leased, at most a tick."""
        due = self.plan.next_due()
        if due is None or self._throttled or len(self._in_flight) >= self._most_batches():
            return TICK
        return min(TICK, max(0.0, max(due, self._breaker.paused_until) - self._clock()))

    def _most_batches(self) -> int:
        ahead = math.inf if self._workers.fixed is None else self._workers.fixed + _LEASED_AHEAD
        return int(min(self._config.max_in_flight, ahead))

    def workers(self) -> int:
        """Workers that one site gets now.  Thread-safe."""
        return self._workers.most_now()

    def _largest_batch(self, site: str) -> int:
        if self._workers.fixed is not None:
            return self._most(site)
        workers = self._workers.at(site)
        if self._in_flight.at(site) >= workers:
            return 0
        few = self._waits_for_quota(site) or self.plan.available(site) < BATCH * workers
        return min(BATCH // 2 if few else BATCH, self._most(site))

    def _see_workers(self, now: float) -> None:
        for site in {plan.dataset.site for plan in self.plan.datasets.values() if plan.unfinished}:
            idle = not self.plan.available(site)
            bound = idle or self._waits_for_quota(site) or self._outcomes.pressed()
            self._workers.look(now, site, bound=bound)

    # -- other runs on the same store, and quotas that are spent

    def _keep_leases(self) -> None:
        """Give a sign of life now and then; ask for datasets that another run held."""
        now = self._clock()
        look = self._waits_for_others() and now - self._looked_at >= _LOOK
        if not look and now - self._beat_at < _BEAT:
            return
        self._beat_at = now
        if not look:
            self._transact(lambda: None)
            return
        self._looked_at, held = now, list(self._held)
        self._plan(*self._transact(lambda: self._claim(held)))
        for dataset in held:
            if dataset not in self._held:
                logger.info("%s was let go: going on with it", dataset)

    def _waits_for_others(self) -> bool:
        return bool(self._held) and self._config.wait

    def _park_site(self, site: str, error: ApiError) -> None:
        """Google wants no calls for a while: note until when, and sleep that long if we are to wait."""
        now = dt.datetime.fromtimestamp(self._wall(), dt.timezone.utc)
        park = next_park(error, self._parks.get(site), now)
        if park != self._parks.get(site):
            self._transact(lambda: self._store.park(site, park))
        self._parks.refused(site, park)
        if self._config.wait_for_quota:
            self.plan.pause_site(site, self._clock() + (park.until - now).total_seconds())
        doing = "waiting" if self._config.wait_for_quota else "parked"
        logger.warning("%s: %s until %s: %s", site, doing, park.until, error)

    def _sleeps(self, site: str) -> bool:
        """True while a parked site is waited for."""
        park = self._parks.get(site)
        return park is not None and self._config.wait_for_quota and self._wall() < park.until.timestamp()

    def waiting(self) -> str:
        """What the run waits for, in words; "" while it works.  Thread-safe."""
        return self._waiting

    def _what_it_waits_for(self) -> str:
        if self._in_flight:
            return ""
        closed = {plan.dataset.site for plan in self.plan.datasets.values() if plan.gate.closed and not plan.stopped}
        words = []
        for site in sorted(closed):
            left = self.plan.gate(site).until - self._clock()
            until = dt.datetime.fromtimestamp(self._wall() + left, dt.timezone.utc)
            words.append(f"quota of {site}, until {until:%Y-%m-%d %H:%M} UTC" if self._parks.get(site)
                         else f"{site}, until {until:%H:%M:%S} UTC, as it asked for")
        return "; ".join(words + ([str(holder) for holder in self._held.values()] if self._config.wait else []))

    # -- settling

    def _settle(self, outcomes: List[Any]) -> None:
        fetched = [outcome for outcome in outcomes if isinstance(outcome, Fetched)]
        failed = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
        if fetched:
            self._persist(fetched)
        self._outcomes.settled(outcomes)
        for outcome in failed:
            self._settle_failed(outcome)
        for outcome in outcomes:
            if isinstance(outcome, BatchEnded):
                self._settle_ended(outcome)
            elif isinstance(outcome, SitesListed):
                self._settle_sites(outcome)

    def _persist(self, outcomes: List[Fetched]) -> None:
        """One transaction for all: rows, acknowledgements, whole days published; then the plan learns of it."""
        for each in [each for each in outcomes if each.slice.key.start_row >= ENDLESS and each.rows.received]:
            outcomes.remove(each)
            if self.plan.datasets[each.slice.dataset].slot(each.slice.key) is not None:
                self._settle_endless(each.slice)
        outcomes = [each for each in outcomes if self.plan.datasets[each.slice.dataset].fetched(each.slice.key)]
        if not outcomes:
            return

        def write() -> "tuple[List[_Stored], Proof]":
            # When it leaves, what is not in the transaction yet stays out: that may take long, with a server far away.
            stored = [self._persist_one(slice_, rows) for slice_, rows in outcomes if not self._leaving()]
            proof = self._parks.answered({each.slice.dataset for each in stored}, self.plan)
            for site in proof.over:
                self._store.park(site, None)
            if self._run_id is not None:
                self._store.save_run(self._run_id, self._tally.figures(RUNNING, None), ended=False)
            self._may_hold_rows = True
            return stored, proof

        stored, proof = self._transact(write)
        self._beat_at = self._clock()
        self._parks.accept(proof)
        for one in stored:
            self._acknowledged(one)
        self._breaker.succeeded()
        self._struck.clear()

    def _acknowledged(self, stored: _Stored) -> None:
        dataset, key = stored.slice
        plan = self.plan.datasets[dataset]
        if plan.first_try(key):
            self.plan.health.answered()
        plan.acknowledge(key, stored.following, stored.received)
        if stored.published is not None:
            self._tally.published(dataset, stored.published)
        self._in_flight.answered(stored.slice)
        self._workers.answered(dataset.site)

    def _transact(self, work: Callable[[], T]) -> T:
        """Do *work* in a transaction; once more when the store lost that, so *work* changes nothing but the store."""
        deadline = None
        while True:
            self._store.begin(self._halt)
            try:
                found = work()
                self._store.commit()
                return found
            except StoreLost as error:
                self._store.rollback()
                now = self._clock()
                deadline = deadline or now + _PATIENCE
                if now > deadline:
                    raise
                logger.warning("%s; doing the transaction again", error)
                if self._halt.wait(0.1):
                    raise Halted from error
            except BaseException:
                self._store.rollback()
                raise

    def _persist_one(self, slice_: Slice, rows: Rows) -> _Stored:
        dataset, key = slice_
        following = next_start_row(key.start_row, rows.received, until_empty=self._config.until_empty)
        alone = following is None and key.start_row == 0  # the day's only slice
        if not alone:
            ack = Acknowledged(rows.received, self._today, self._config.data_state)
            self._store.stage(dataset, key, rows, ack)
            logger.debug("acknowledged %s: %d rows", slice_, rows.received)
        published = None
        if following is None:
            calls = self.plan.datasets[dataset].calls(key.date) + 1
            published = self._publish(dataset, key.date, rows if alone else None, calls, rows.first_incomplete)
        return _Stored(slice_, rows.received, following, published)

    def _publish(
        self, dataset: Dataset, date: dt.date, rows: Optional[Rows], calls: int, first_incomplete: Optional[dt.date]
    ) -> int:
        final = pacific.is_final(
            date,
            1 if rows is None else rows.kept,  # a day of several slices is not empty
            self._today,
            final_after_days=self._config.final_after_days,
            empty_final_after_days=self._config.empty_final_after_days,
            first_incomplete=first_incomplete,
        )
        return self._store.publish(dataset, date, rows, status=FINAL if final else PROVISIONAL, calls=calls)

    def _settle_failed(self, outcome: Failed) -> None:
        slice_, error, alone = outcome
        self._in_flight.failed(slice_, error)
        self._tally.failed(error)
        verdict = self.plan.failed(slice_, error, alone=alone, now=self._clock(), jitter=self._jitter())
        plan = self.plan.datasets[slice_.dataset]
        news = verdict is Verdict.DAY_FAILED or error in (plan.error, plan.parked)  # not each slice of a refused site
        logger.log(logging.WARNING if news else logging.DEBUG, "%s: %s (%s)", slice_, error, verdict.value)
        if isinstance(error, BurstQuota):
            self._workers.refused(slice_.dataset.site)
        if verdict is Verdict.PARKED and plan.parked is error:  # not for each slice of its batch
            self._park_site(slice_.dataset.site, error)
        if verdict is Verdict.DAY_FAILED:
            self._transact(lambda: self._store.fail_day(slice_.dataset, slice_.key.date, str(error)))

    def _settle_endless(self, slice_: Slice) -> None:
        """A day that never comes to an end: the server ignores startRow, say.  Give it up, with what is staged."""
        error = BadRequest(f"{slice_.key.date} has {slice_.key.start_row} rows and still more; it can't be right")
        logger.warning("%s: %s", slice_, error)
        self._in_flight.failed(slice_, None)
        self.plan.datasets[slice_.dataset].fail_day(slice_.key, error)

        def give_up() -> None:
            self._store.unstage(slice_.dataset, [slice_.key.date])
            self._store.fail_day(slice_.dataset, slice_.key.date, str(error))

        self._transact(give_up)

    def _settle_ended(self, ended: BatchEnded) -> None:
        batch = ended.batch
        fate = self._in_flight.ended(ended)
        if isinstance(ended.error, (CredentialsError, StoreError)):
            raise ended.error
        self._tally.worked(ended.seconds, crashed=ended.error is not None)
        for slice_ in ended.unsent:
            self.plan.datasets[slice_.dataset].release(slice_.key)
        for slice_ in fate.silent:
            words = f"the worker died: {type(ended.error).__name__}: {ended.error}"
            self._settle_failed(Failed(slice_, Transient(words, reason="workerDied")))
        if fate.productive:
            self._workers.ended(batch.site, len(batch.slices) - len(ended.unsent), ended.seconds)
        error = fate.error
        if fate.productive or ended.sent_at is None or not isinstance(error, (Transient, Unauthorized)):
            return
        self._struck.add(batch.site)
        if self._breaker.failed(ended.sent_at, self._clock(), self._jitter()):
            logger.error("giving up: %s", error)
            self.plan.give_up(error, {site for site in self._struck if not self._sleeps(site)})
            self._struck.clear()  # the other sites have not been asked, or may find the service well when they wake
            self._breaker.begin_anew()

    # -- sites that Google refuses

    def _ask_for_sites(self) -> bool:
        """At the end, when a site was refused, look once which ones the account has.  True when we have to wait."""
        refused = any(isinstance(plan.error, Denied) for plan in self.plan.datasets.values())
        if not refused or self._asked_for_sites:
            return False
        self._asked_for_sites = self._awaiting_sites = True
        self._list_sites()
        return True

    def _settle_sites(self, listed: SitesListed) -> None:
        self._awaiting_sites = False
        if isinstance(listed.entries, BaseException):
            logger.debug("could not list the sites: %s", listed.entries)
            return
        for plan in self.plan.datasets.values():
            if isinstance(plan.error, Denied):
                self._advice[plan.dataset.site] = sites.advice(plan.dataset.site, listed.entries)

    # -- figures

    def park(self, reason: str) -> None:
        """The run can't go on now but can later, by the same command."""
        self._park_reason = reason

    def _result(self, error: Optional[BaseException]) -> Result:
        early = Ending(HALTED, self._halt.reason)
        if self._park_reason:
            early = Ending(PARKED, self._park_reason)
        elif error is not None:
            early = Ending(FAILED, str(error))
        datasets = []
        for plan in self.plan.datasets.values():
            site = plan.dataset.site
            ending = dataset_ending(plan, early, park=self._parks.get(site), advice=self._advice.get(site, ""))
            datasets.append(self._tally.dataset_result(plan.dataset, ending))
        for dataset, holder in self._held.items():
            datasets.append(self._tally.dataset_result(dataset, Ending(PARKED, holder)))
        # Before it is planned no dataset can tell: what ended the run did so before there was anything to do.
        ending = run_ending(early, datasets) if self._planned else early
        return self._tally.result(
            ending,
            datasets,
            halt_seconds=self.halt_seconds(ending.status),
            concurrency=self._workers.peak,
            resume_at=self._resume_at() if ending.status == PARKED else "",
        )

    def halt_seconds(self, status: str) -> Optional[float]:
        """From the halt to now, when a halt ended the run: also one of which a dataset had failed or was parked."""
        set_at = self._halt.set_at
        if set_at is None or not self._halted or status == COMPLETE:
            return None
        return round(time.monotonic() - set_at, 3)

    def _resume_at(self) -> str:
        """When the first of the parked sites is worth asking again."""
        until = self._parks.first_end(
            {plan.dataset.site for plan in self.plan.datasets.values() if plan.parked is not None}
        )
        return until.strftime("%Y-%m-%dT%H:%M:%SZ") if until else ""


def within_retention(days: List[OwedDay], ledger: Mapping[dt.date, DayRecord], today: dt.date) -> List[OwedDay]:
    """*days* without those that Google no longer has (gsc-api.md 2.7).

    Asking for such a day is a mistake (ConfigError), unless it was begun in time: then it is only too late for it.
    """
    oldest = pacific.oldest_day(today)
    gone = [day.date for day in days if day.date < oldest]
    unknown = [date for date in gone if date not in ledger]
    if unknown:
        raise ConfigError(
            f"{min(unknown)} is before {oldest}, the oldest day Google still has (16 months); start at {oldest} or 16m"
        )
    if gone:
        logger.warning("%d unfinished days before %s stay as they are: Google no longer has them", len(gone), oldest)
    return [day for day in days if day.date >= oldest]
