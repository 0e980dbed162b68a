"""The rate limit: bucket arithmetic exhaustively, the lock around it with threads."""

from __future__ import annotations

import bisect
import itertools
import json
import queue
import sys
import threading
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gscthreads.halt import Halt
from gscthreads.errors import StoreLocked
from gscthreads.quota import Grant, LocalLedger, Quota, TokenBucket
from tests.properties import examples


class Taken(NamedTuple):
    name: str
    calls: int
    at: float


class Bucket(TokenBucket):
    """Names its grants, as Quota does."""

    numbers = itertools.count()

    def take(self, calls, now):
        taken = Taken(f"grant {next(self.numbers)}", calls, now)
        super().take(taken.name, calls, now)
        return taken

    def settle(self, taken, now, **refused):
        super().settle(taken.name, taken.calls, now, sent_at=taken.at, **refused)

    def refund(self, taken, now):
        super().refund(taken.name, now)

    @property
    def full_burst(self):
        return self._full_burst

    def reloaded(self):
        """Itself after a trip through a ledger."""
        return type(self)(self.budget, self._full_burst, json.loads(json.dumps(self.state())))


def take(bucket, calls, now):
    """Take as soon as it is allowed; (take, when)."""
    for _ in range(100_000):
        wait = bucket.wait_for(calls, now)
        if wait <= 0:
            return bucket.take(calls, now), now
        now += wait
    raise AssertionError("never granted")


@examples(120)
@given(
    budget=st.sampled_from([1, 2, 5, 48, 960]),
    burst=st.integers(1, 60),
    asks=st.lists(
        st.tuples(st.integers(1, 60), st.floats(0, 40), st.floats(0, 1), st.floats(0, 30)), min_size=1, max_size=60
    ),
)
def test_no_60_seconds_of_the_servers_clock_see_more_than_the_budget(budget, burst, asks):
    property_holds(budget, burst, asks)


def property_holds(budget, burst, asks):
    """An ask: calls, seconds until its answer is complete, where in them the server charges, idle seconds before."""
    bucket = Bucket(budget, burst)
    now, charged, open_takes = 0.0, [], []
    for calls, service, place, idle in asks:
        now += idle
        while True:
            for done, taken in [each for each in open_takes if each[0] <= now]:
                bucket.settle(taken, done)
            open_takes = [each for each in open_takes if each[0] > now]
            wait = bucket.wait_for(min(calls, bucket.burst), now)
            if wait <= 0:
                break
            now = min([now + wait, *(done for done, _ in open_takes)])
        calls = min(calls, bucket.burst)
        taken = bucket.take(calls, now)
        bucket = bucket.reloaded()
        open_takes.append((now + service, taken))
        charged += [now + place * service] * calls
    charged.sort()
    for index, moment in enumerate(charged):
        assert index + 1 - bisect.bisect_right(charged, moment - 60.0) <= budget


@pytest.mark.parametrize("budget, burst", [(960, 50), (960, 1), (48, 50), (2, 50)])
def test_sustained_pace_uses_the_budget_and_a_burst_is_one_batch(budget, burst):
    bucket = Bucket(budget, burst)
    now, times = 0.0, []
    while now < 240:
        taken, now = take(bucket, 1, now)
        bucket.settle(taken, now)
        times.append(now)
    second_minute = sum(60 <= each < 120 for each in times)
    assert second_minute >= 0.95 * (budget - bucket.full_burst) - 1  # capacity and a minute's refill are the budget
    assert sum(each == 0.0 for each in times) <= bucket.full_burst


def test_a_call_under_way_occupies_the_window_until_a_minute_after_its_answer():
    bucket = Bucket(10, 10)
    first = bucket.take(2, 0.0)
    assert bucket.used(80.0) == 2
    bucket.settle(first, 80.0)
    assert bucket.used(139.9) == 2
    assert bucket.used(141.0) == 0


def test_a_refund_is_as_if_never_taken():
    bucket, other = Bucket(960, 50), Bucket(960, 50)
    bucket.refund(bucket.take(50, 0.0), 0.0)
    assert bucket.wait_for(50, 0.0) == other.wait_for(50, 0.0) == 0.0
    assert bucket.used(0.0) == 0


def test_calls_of_a_process_that_died_occupy_the_window_until_the_server_must_be_done():
    bucket = Bucket(10, 10)
    bucket.take(2, 0.0)
    assert bucket.used(89.9) == 2
    assert bucket.used(90.0) == 0


def test_calls_of_a_process_that_shows_signs_of_life_stay_and_come_back_when_it_was_late_with_them():
    bucket = Bucket(10, 10)
    first, second = bucket.take(2, 0.0), bucket.take(1, 0.0)
    bucket.renew({first.name, "unknown"}, 60.0)
    assert bucket.used(149.0) == 2
    assert bucket.used(150.0) == 0
    bucket.settle(second, 151.0)
    assert bucket.used(200.0) == 1
    assert bucket.used(212.0) == 0


def test_after_a_restart_of_the_machine_the_clock_begins_anew_and_the_log_empties_within_a_minute():
    bucket = Bucket(10, 10)
    bucket.settle(bucket.take(2, 5000.0), 5000.0)
    bucket.take(3, 5000.0)
    bucket = bucket.reloaded()
    assert bucket.used(7.0) == 5
    assert bucket.used(67.0) == 0
    assert bucket.wait_for(2, 67.0) == 0.0


def test_refusals_lower_the_pace_and_make_batches_small_and_nothing_goes_out_at_once():
    bucket = Bucket(960, 50)
    bucket.settle(bucket.take(25, 0.0), 1.0, refused=20)
    assert bucket.rate(1.0) == pytest.approx(910 / 120) and bucket.burst == 1
    assert bucket.reloaded().burst == 1
    assert bucket.wait_for(1, 1.0) == pytest.approx(120 / 910)


def test_calls_answered_within_a_moment_leave_the_log_together_so_that_it_stays_short():
    bucket = Bucket(960, 50)
    for number in range(200):
        bucket.settle(bucket.take(1, 0.0), number / 200)
    assert len(bucket.state()["leaving"]) <= 5
    assert [bucket.used(moment) for moment in (60.0, 61.5)] == [200, 0]


def test_small_batches_at_full_pace_leave_more_of_the_minute_to_pace():
    full = 910 / 60
    bucket = Bucket(960, 50, {"pace": {"pace": full, "ceiling": full, "stepped_at": 100.0}})
    assert bucket.burst == 2 and bucket.rate(100.0) == pytest.approx(958 / 60)
    slower = Bucket(960, 50, {"pace": {"pace": full / 2, "ceiling": full, "stepped_at": 100.0}})
    assert slower.burst == 1 and slower.rate(100.0) == pytest.approx(full / 2)


class Clock:
    """Time that moves only when somebody waits."""

    def __init__(self):
        self.now = 0.0
        self.lock = threading.Lock()

    def __call__(self):
        return self.now

    def is_set(self):
        return False

    def wait(self, seconds):
        with self.lock:
            self.now += seconds / 8
        return False


def make(clock, halt=None, **more):
    values = {"site_budget": 60, "user_budget": 90, "project_budget": 10_000, "burst": 10, **more}
    return Quota(halt=halt or clock, clock=clock, **values)


def test_eight_threads_never_pass_the_budgets_of_site_and_user():
    clock = Clock()
    quota = make(clock)
    sent = {"a": [], "b": []}

    def work(site):
        for _ in range(15):
            grant = quota.acquire(site, 5)
            sent[site].append(grant.at)
            quota.sent(grant)
            quota.settle(grant)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=("ab"[number % 2],)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    finally:
        sys.setswitchinterval(interval)
    for times, budget in ((sent["a"], 60), (sent["b"], 60), (sent["a"] + sent["b"], 90)):
        for moment in times:
            assert 5 * sum(moment - 60.0 < each <= moment for each in times) <= budget
    assert 5 <= quota.peak_qpm() <= 60


def test_a_halt_lets_a_waiting_worker_go():
    halt = Halt()
    quota = Quota(site_budget=10, user_budget=10, project_budget=10, burst=10, halt=halt)
    assert quota.acquire("a", quota.burst("a")) is not None
    results = []
    waiter = threading.Thread(target=lambda: results.append(quota.acquire("a", 10)))
    waiter.start()
    halt.set("enough")
    waiter.join(10)
    assert results == [None]


def test_switched_off_it_only_counts():
    clock = Clock()
    quota = make(clock, enabled=False)
    for _ in range(100):
        grant = quota.acquire("a", 10)
        quota.sent(grant)
        quota.settle(grant)
    assert clock.now == 0.0
    assert quota.peak_qpm() == 1000


# -- the bucket, further


@examples(80)
@given(budget=st.sampled_from([1, 2, 5, 48, 960]), burst=st.integers(1, 60), idle=st.floats(0, 1e6))
def test_after_however_long_a_rest_no_more_than_a_burst_goes_out_at_once(budget, burst, idle):
    bucket, now = Bucket(budget, burst), 0.0
    last, now = take(bucket, 1, now)
    bucket.settle(last, now)
    now, taken = now + idle + 200.0, 0
    while bucket.wait_for(1, now) <= 0:
        bucket.settle(bucket.take(1, now), now)
        taken += 1
        assert taken <= bucket.full_burst
    assert taken == bucket.full_burst
    assert bucket.full_burst <= min(burst, max(1, budget // 4))


@pytest.mark.parametrize("budget, burst", [(1, 1), (2, 50), (5, 5), (48, 50), (48, 1), (960, 1), (960, 24), (960, 50)])
def test_capacity_and_a_minutes_refill_are_the_budget_and_all_of_the_refill_is_used(budget, burst):
    bucket = Bucket(budget, burst)
    assert bucket.full_burst + 60.0 * bucket.pace.full == pytest.approx(budget)
    now, times = 0.0, []
    while now < 600:
        taken, now = take(bucket, 1, now)
        bucket.settle(taken, now)
        times.append(now)
    for minute in range(1, 9):
        sent = sum(60 * minute <= each < 60 * (minute + 1) for each in times)
        # the margin and the steps of the log take 0.35 s of each minute
        assert sent >= max(60 * bucket.pace.full, 1 if budget == 1 else 0) * 0.99 - 1
        if burst <= budget / 20:
            assert sent >= 0.95 * budget * 0.99 - 1


def test_batches_too_use_all_of_the_refill():
    bucket, now, sent = Bucket(960, 50), 0.0, []
    while now < 300:
        taken, now = take(bucket, 50, now)
        bucket.settle(taken, now + 2.0)
        sent.append((now, 50))
    assert 3 * 910 - 50 <= sum(calls for at, calls in sent if 120 <= at < 300) <= 3 * 960


@examples(80)
@given(
    steps=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 12), st.integers(1, 12), st.floats(0, 5)), max_size=25),
    budget=st.sampled_from([5, 48, 960]),
)
def test_calls_given_back_leave_no_trace(steps, budget):
    plain, other, now = Bucket(budget, 12), Bucket(budget, 12), 0.0
    for idle, calls, returned, held in steps:
        now += idle
        if plain.wait_for(calls, now) <= 0:
            for bucket in (plain, other):
                bucket.settle(bucket.take(calls, now), now)
        ghost = other.take(min(returned, other.burst), now)
        now += held
        other.refund(ghost, now)
        other.refund(ghost, now)  # twice is once
        for ask in (1, 5, 12):
            assert other.wait_for(ask, now) == pytest.approx(plain.wait_for(ask, now), abs=1e-6)
        assert other.used(now) == plain.used(now)


def test_an_answer_that_came_is_not_given_back():
    bucket = Bucket(10, 10)
    taken = bucket.take(2, 0.0)
    bucket.settle(taken, 1.0)
    bucket.refund(taken, 1.0)
    assert bucket.used(61.0) == 2 and bucket.used(61.4) == 0


def test_a_clock_that_goes_back_gives_nothing_away():
    bucket = Bucket(60, 10)
    bucket.settle(bucket.take(10, 100.0), 100.0)
    assert bucket.wait_for(1, 50.0) > 0
    assert bucket.used(50.0) == 10
    assert bucket.wait_for(10, 100.0) == pytest.approx(12.0)


@pytest.mark.parametrize("budget, burst", [(0, 1), (1, 0), (-5, 5)])
def test_a_bucket_has_at_least_one_call(budget, burst):
    with pytest.raises(ValueError, match="must be at least 1"):
        TokenBucket(budget, burst)


# -- the quota, further


def test_a_user_budget_is_shared_by_the_sites_and_the_peak_is_a_sites():
    clock = Clock()
    quota = make(clock, site_budget=60, user_budget=80, burst=1)
    grants = []
    while clock.now < 59:
        for site in "ab":
            grants.append(quota.acquire(site, 1))
            quota.sent(grants[-1])
            quota.settle(grants[-1])
    assert len([grant for grant in grants if grant.at <= 59]) <= 80
    assert quota.sent_last_minute() == len([grant for grant in grants if grant.at > clock.now - 60])
    assert 20 < quota.peak_qpm() <= 41


def test_the_smallest_burst_of_site_user_and_project_counts():
    assert make(Clock(), site_budget=960, user_budget=960, burst=50).burst("a") == 50
    assert make(Clock(), site_budget=960, user_budget=40, burst=50).burst("a") == 10
    assert make(Clock(), site_budget=8, burst=50).burst("a") == 2
    assert make(Clock(), site_budget=8, burst=50, enabled=False).burst("a") == 50


def test_refusals_slow_only_their_own_site_down():
    clock = Clock()
    quota = make(clock, site_budget=960, user_budget=960, burst=40)
    quota.settle(quota.acquire("a", 40), refused=40)
    assert quota.burst("a") < 40
    assert quota.burst("b") == 40


def test_a_refunded_grant_was_never_sent():
    clock = Clock()
    quota = make(clock)
    quota.refund(quota.acquire("a", 10))
    assert (quota.sent_last_minute(), quota.peak_qpm()) == (0, 0)
    first, second = quota.acquire("a", 4), quota.acquire("a", 6)
    assert clock.now == 0.0  # nobody waited
    quota.sent(second)
    quota.refund(first)
    assert (quota.sent_last_minute(), quota.peak_qpm()) == (6, 6)


class Gate:
    """A halt that never comes; who waits is held until let go by name."""

    def __init__(self):
        self.now = 0.0
        self.waiting = queue.Queue()
        self.doors = {}

    def __call__(self):
        return self.now

    def is_set(self):
        return False

    def wait(self, seconds):
        name = threading.current_thread().name
        door = self.doors[name] = threading.Event()
        self.waiting.put((name, seconds))
        assert door.wait(30)
        return False


def test_who_came_first_goes_first_however_little_the_next_one_asks_for():
    gate, granted = Gate(), queue.Queue()
    quota = make(gate)
    quota.acquire("a", 9)  # of 10

    def ask(site, calls):
        quota.acquire(site, calls)
        granted.put(threading.current_thread().name)

    large = threading.Thread(target=ask, args=("a", 10), name="large")
    small = threading.Thread(target=ask, args=("a", 1), name="small")
    other = threading.Thread(target=ask, args=("b", 1), name="other")
    large.start()
    name, seconds = gate.waiting.get(timeout=30)
    assert (name, seconds) == ("large", pytest.approx(9 / (50 / 60)))
    small.start()
    assert gate.waiting.get(timeout=30)[0] == "small"  # although there is one left
    other.start()
    assert granted.get(timeout=30) == "other"  # another site has a queue of its own
    gate.now = 30.0
    gate.doors["small"].set()
    assert gate.waiting.get(timeout=30)[0] == "small"
    gate.doors["large"].set()
    assert granted.get(timeout=30) == "large"
    gate.now = 60.0
    gate.doors["small"].set()
    assert granted.get(timeout=30) == "small"
    for thread in (large, small, other):
        thread.join(30)


def test_only_who_waits_for_calls_counts_as_waiting_and_not_who_waits_for_the_ledger():
    gate = Gate()
    ledger = Ledger(gate)
    quota = make(gate, ledger=ledger)
    quota.acquire("a", 10)  # of 10
    ledger.busy = 1
    thread = threading.Thread(target=quota.acquire, args=("a", 5), name="one")
    thread.start()
    gate.waiting.get(timeout=30)
    assert not quota.is_waited_for("a")
    gate.doors["one"].set()
    gate.waiting.get(timeout=30)
    assert quota.is_waited_for("a") and not quota.is_waited_for("b")
    gate.now = 60.0
    gate.doors["one"].set()
    thread.join(30)
    assert not thread.is_alive() and not quota.is_waited_for("a")


def test_who_gives_up_makes_way_for_the_next():
    class Interrupted(Exception):
        pass

    class Halting(Clock):
        def wait(self, seconds):
            if not self.now:
                self.now = 1.0
                raise Interrupted
            return super().wait(seconds)

    quota = make(Halting())
    quota.acquire("a", 10)
    with pytest.raises(Interrupted):
        quota.acquire("a", 10)
    assert quota.acquire("a", 1).calls == 1


def test_after_a_halt_nothing_is_granted():
    halt = Halt()
    quota = Quota(site_budget=10, user_budget=10, project_budget=10, burst=10, halt=halt)
    halt.set("x")
    assert quota.acquire("a", 1) is None
    assert quota.peak_qpm() == 0


LATE = [(12, 40.0, 1.0, 0.0), (12, 0.0, 0.0, 40.0)] + [(1, 0.0, 0.0, 0.0)] * 60


def test_late_charges_are_allowed_for():
    property_holds(48, 12, LATE)


@pytest.mark.parametrize("broken", ["settle at once", "no log", "double refill"])
def test_a_bucket_that_breaks_the_guarantee_is_found_out(broken, monkeypatch):
    """The property above is worth something only if it fails when it should."""

    class Broken(Bucket):
        def take(self, calls, now):
            taken = super().take(calls, now)
            if broken == "settle at once":
                super().settle(taken, now)
            return taken

        def settle(self, taken, now):
            if broken != "settle at once":
                super().settle(taken, now)

        def wait_for(self, calls, now):
            if broken == "no log":
                self._leaving.clear()
            if broken in ("no log", "double refill"):
                self._occupied = 0
            if broken == "double refill":
                self._level = max(self._level, 1.0)
            return super().wait_for(calls, now)

    monkeypatch.setitem(globals(), "Bucket", Broken)
    with pytest.raises(AssertionError):
        # A batch charged late, at the end of its answer, when the next one is sent; then single calls.
        property_holds(48, 12, LATE)


# -- budgets that several share


class Ledger(LocalLedger):
    """Keeps JSON, as a store does, and is busy now and then."""

    busy = 0

    def update(self, keys, change):
        if self.busy:
            self.busy -= 1
            raise StoreLocked("not now")
        found = super().update(keys, change)
        self._states = json.loads(json.dumps(self._states))
        return found


def test_two_processes_on_one_ledger_share_the_budget_one_after_the_other_and_at_once():
    clock = Clock()
    ledger = Ledger(clock)
    first, second = make(clock, ledger=ledger), make(clock, ledger=ledger)
    times = []
    for number in range(30):
        quota = (first, second)[number % 2]
        grant = quota.acquire("a", 5)
        quota.settle(grant)
        times += [grant.at] * grant.calls
    third = make(clock, ledger=ledger)
    for _ in range(30):
        grant = third.acquire("a", 5)
        third.settle(grant)
        times += [grant.at] * grant.calls
    for moment in times:
        assert sum(moment - 60.0 < each <= moment for each in times) <= 60


def test_a_busy_ledger_is_asked_again_and_learns_of_every_answer():
    clock = Clock()
    ledger = Ledger(clock)
    quota = make(clock, ledger=ledger)
    ledger.busy = 3
    grant = quota.acquire("a", 5)
    ledger.busy = 3
    quota.settle(grant)
    clock.now += 15.0
    quota.renew()
    assert ledger.update(["site a"], lambda states, now: states["site a"]["open"]) == {}


def test_signs_of_life_keep_what_is_under_way_in_the_log():
    clock = Clock()
    ledger = LocalLedger(clock)
    quota = make(clock, ledger=ledger)
    quota.acquire("a", 10)
    for _ in range(20):
        clock.now += 10.0
        quota.renew()
    (calls, leaves_at), = ledger.update(["site a"], lambda states, now: states["site a"]["open"]).values()
    assert (calls, leaves_at) == (10, 200.0 + 90.0)


def test_signs_of_life_are_given_now_and_then_and_wait_for_nobody():
    clock, asked = Clock(), []

    class Asked(LocalLedger):
        def update(self, keys, change):
            asked.append(keys[0])
            return super().update(keys, change)

    quota = make(clock, ledger=Asked(clock))
    first, _ = quota.acquire("a", 1), quota.acquire("b", 1)

    def renewed(now):
        clock.now = now
        asked.clear()
        quota.renew()
        assert not quota._turn.locked() or now == 10.0
        return list(asked)

    assert renewed(9.0) == []
    with quota._turn:  # somebody has the ledger, for long perhaps
        assert renewed(10.0) == []
    assert renewed(10.5) == []
    assert renewed(11.0) == ["site a", "site b"]  # soon again
    assert renewed(20.0) == []
    quota.settle(first)
    assert renewed(21.0) == ["site b"]


def test_a_slowed_site_gets_less_than_was_asked_for_and_the_others_learn_of_it():
    clock = Clock()
    ledger = Ledger(clock)
    first = make(clock, ledger=ledger, site_budget=960, user_budget=960, burst=40)
    second = make(clock, ledger=ledger, site_budget=960, user_budget=960, burst=40)
    first.settle(first.acquire("a", 40), refused=35)
    assert second.burst("a") == 40  # not asked yet
    assert second.acquire("a", 40).calls == 1
    assert second.burst("a") == 1
    assert second.paces()["a"] == pytest.approx(460.0)


def test_a_quota_that_was_closed_grants_from_a_ledger_of_its_own():
    clock = Clock()
    closed = []

    class Closing(Ledger):
        def close(self):
            closed.append(True)

    quota = make(clock, ledger=Closing(clock))
    quota.close()
    assert closed and quota.acquire("a", 5).calls == 5


def set_clock_pair():
    """(our clock, a ledger whose wall clock runs alike until it is set)."""
    clock, wall = Clock(), Clock()

    def pass_time(seconds):
        clock.now += seconds
        wall.now += seconds

    return clock, wall, pass_time, LocalLedger(wall)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_servers_clock_that_is_put_forward_empties_no_log_and_moves_it_once(processes):
    clock, wall, pass_time, ledger = set_clock_pair()
    runs = [make(clock, ledger=ledger, site_budget=60, user_budget=600, burst=10) for _ in range(processes)]
    open_grants = [run.acquire("a", 1) for run in runs]
    answered = runs[0].acquire("a", 5)
    pass_time(1.0)
    runs[0].settle(answered)
    wall.now += 3600.0
    pass_time(1.0)
    for run in runs:
        run._update("a", lambda buckets, now: None)

    def used():
        return runs[0]._update("a", lambda buckets, now: buckets[0].used(now))

    assert used() == processes + 5
    pass_time(57.0)
    assert used() == processes + 5  # 59 seconds after the answer
    pass_time(3.0)
    assert used() == processes
    for run, grant in zip(runs, open_grants):
        run.settle(grant)
    pass_time(61.0)
    assert used() == 0


def test_a_servers_clock_that_is_put_forward_brings_no_calls():
    clock, wall, pass_time, ledger = set_clock_pair()
    quota = make(clock, ledger=ledger, site_budget=60, user_budget=600, burst=10)
    while isinstance(quota._try("a", 10), Grant):
        pass
    before = quota._try("a", 10)
    wall.now += 3600.0
    assert quota._try("a", 10) == pytest.approx(before)


def test_a_long_rest_is_no_clock_that_was_set():
    clock, wall, pass_time, ledger = set_clock_pair()
    quota = make(clock, ledger=ledger, site_budget=60, user_budget=600, burst=10)
    quota.settle(quota.acquire("a", 10))
    pass_time(3600.0)
    assert quota._update("a", lambda buckets, now: buckets[0].used(now)) == 0
