"""The rate limit: bucket arithmetic exhaustively, the lock around it with threads."""

from __future__ import annotations

import bisect
import queue
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gscthreads.halt import Halt
from gscthreads.quota import Quota, TokenBucket


def take(bucket, calls, now):
    """Take as soon as it is allowed; (take, when)."""
    for _ in range(100_000):
        wait = bucket.wait_for(calls, now)
        if wait <= 0:
            return bucket.take(calls, now), now
        now += wait
    raise AssertionError("never granted")


@settings(max_examples=120, deadline=None)
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
    bucket = TokenBucket(budget, burst)
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
        open_takes.append((now + service, taken))
        charged += [now + place * service] * calls
    charged.sort()
    for index, moment in enumerate(charged):
        assert index + 1 - bisect.bisect_right(charged, moment - 60.0) <= budget


@pytest.mark.parametrize("budget, burst", [(960, 50), (960, 1), (48, 50), (2, 50)])
def test_sustained_pace_uses_the_budget_and_a_burst_is_one_batch(budget, burst):
    bucket = TokenBucket(budget, burst)
    now, times = 0.0, []
    while now < 240:
        taken, now = take(bucket, 1, now)
        bucket.settle(taken, now)
        times.append(now)
    second_minute = sum(60 <= each < 120 for each in times)
    assert second_minute >= 0.95 * (budget - bucket.full_burst) - 1  # capacity and a minute's refill are the budget
    assert sum(each == 0.0 for each in times) <= bucket.full_burst
    assert bucket.peak <= budget


def test_a_call_under_way_occupies_the_window_until_a_minute_after_its_answer():
    bucket = TokenBucket(10, 10)
    first = bucket.take(2, 0.0)
    assert bucket.used(1000.0) == 2
    bucket.settle(first, 1000.0)
    assert bucket.used(1059.9) == 2
    assert bucket.used(1061.0) == 0


def test_a_refund_is_as_if_never_taken():
    bucket, other = TokenBucket(960, 50), TokenBucket(960, 50)
    bucket.refund(bucket.take(50, 0.0))
    assert bucket.wait_for(50, 0.0) == other.wait_for(50, 0.0) == 0.0
    assert (bucket.used(0.0), bucket.sent_last_minute(0.0), bucket.peak) == (0, 0, 0)


def test_many_refusals_halve_the_pace_once_a_batch_and_it_comes_back_step_by_step():
    bucket = TokenBucket(960, 50)
    full = bucket.pace
    first, second = bucket.take(25, 0.0), bucket.take(25, 0.0)
    bucket.settle(first, 1.0, refused=20)
    assert bucket.pace == full / 2 and bucket.burst == int(full / 2)
    bucket.settle(second, 1.0, refused=20)  # granted before the slow-down: no news
    assert bucket.pace == full / 2
    bucket.used(6.1)
    assert bucket.pace == pytest.approx(full * 0.55)
    bucket.used(1000.0)
    assert (bucket.pace, bucket.burst) == (full, 50)


def test_single_refusals_leave_the_pace_alone():
    bucket = TokenBucket(960, 50)
    for number in range(5):
        taken, now = take(bucket, 50, number * 60.0)
        bucket.settle(taken, now, refused=5)
    assert bucket.pace == bucket.full_pace


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
    assert quota.peak_qpm() <= 60


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
        quota.settle(quota.acquire("a", 10))
    assert clock.now == 0.0
    assert quota.peak_qpm() == 1000


# -- the bucket, further


@settings(max_examples=80, deadline=None)
@given(
    budget=st.sampled_from([1, 2, 5, 48, 960]),
    burst=st.integers(1, 60),
    idle=st.floats(0, 1e6),
    refused=st.booleans(),
)
def test_after_however_long_a_rest_no_more_than_a_burst_goes_out_at_once(budget, burst, idle, refused):
    bucket, now = TokenBucket(budget, burst), 0.0
    for number in range(20 if refused else 0):
        last, now = take(bucket, 1, now)
        bucket.settle(last, now, refused=1)
    now, taken = now + idle + 200.0, 0
    while bucket.wait_for(1, now) <= 0:
        bucket.settle(bucket.take(1, now), now)
        taken += 1
        assert taken <= bucket.full_burst
    assert taken == bucket.full_burst  # all that was refused is forgiven by then
    assert bucket.full_burst <= min(burst, max(1, budget // 4))


@pytest.mark.parametrize("budget, burst", [(1, 1), (2, 50), (5, 5), (48, 50), (48, 1), (960, 1), (960, 24), (960, 50)])
def test_capacity_and_a_minutes_refill_are_the_budget_and_all_of_the_refill_is_used(budget, burst):
    bucket = TokenBucket(budget, burst)
    assert bucket.full_burst + 60.0 * bucket.full_pace == pytest.approx(budget)
    now, times = 0.0, []
    while now < 600:
        taken, now = take(bucket, 1, now)
        bucket.settle(taken, now)
        times.append(now)
    for minute in range(1, 9):
        sent = sum(60 * minute <= each < 60 * (minute + 1) for each in times)
        # 0.1 s of each minute is the margin of the log, which alone limits a budget of one
        assert sent >= max(60 * bucket.full_pace, 1 if budget == 1 else 0) * 0.99 - 1
        if burst <= budget / 20:
            assert sent >= 0.95 * budget * 0.99 - 1


def test_batches_too_use_all_of_the_refill():
    bucket, now, sent = TokenBucket(960, 50), 0.0, []
    while now < 300:
        taken, now = take(bucket, 50, now)
        bucket.settle(taken, now + 2.0)
        sent.append((now, 50))
    assert 3 * 910 - 50 <= sum(calls for at, calls in sent if 120 <= at < 300) <= 3 * 960


@settings(max_examples=80, deadline=None)
@given(
    steps=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 12), st.integers(1, 12), st.floats(0, 5)), max_size=25),
    budget=st.sampled_from([5, 48, 960]),
)
def test_calls_given_back_leave_no_trace(steps, budget):
    plain, other, now = TokenBucket(budget, 12), TokenBucket(budget, 12), 0.0
    for idle, calls, returned, held in steps:
        now += idle
        if plain.wait_for(calls, now) <= 0:
            for bucket in (plain, other):
                bucket.settle(bucket.take(calls, now), now)
        ghost = other.take(min(returned, other.burst), now)
        now += held
        other.refund(ghost)
        other.refund(ghost)  # twice is once
        for ask in (1, 5, 12):
            assert other.wait_for(ask, now) == pytest.approx(plain.wait_for(ask, now), abs=1e-6)
        assert other.used(now) == plain.used(now)
        assert other.sent_last_minute(now) == plain.sent_last_minute(now)
    assert other.peak == plain.peak


def test_an_answer_that_came_is_not_given_back_and_ends_once():
    bucket = TokenBucket(10, 10)
    taken = bucket.take(2, 0.0)
    bucket.settle(taken, 1.0)
    bucket.settle(taken, 50.0)
    bucket.refund(taken)
    assert bucket.used(61.0) == 2 and bucket.used(61.2) == 0


@settings(max_examples=80, deadline=None)
@given(
    budget=st.sampled_from([1, 2, 48, 960]),
    batches=st.lists(st.tuples(st.integers(1, 50), st.floats(0, 1), st.floats(0, 20)), max_size=40),
)
def test_the_pace_stays_between_a_call_a_second_and_the_full_one_and_comes_back(budget, batches):
    bucket, now = TokenBucket(budget, 50), 0.0
    lowest = min(1.0, bucket.full_pace)
    for calls, refused, idle in batches:
        taken, now = take(bucket, min(calls, bucket.burst), now + idle)
        before = bucket.pace
        bucket.settle(taken, now, refused=round(refused * taken.calls))
        assert max(lowest, before / 2) <= bucket.pace <= bucket.full_pace
        assert 1 <= bucket.burst <= bucket.full_burst
    bucket.used(now + 100.1)  # 20 steps of 5 s, a twentieth each
    assert bucket.pace == bucket.full_pace and bucket.burst == bucket.full_burst


def test_a_slower_pace_means_smaller_batches_and_nothing_at_once():
    bucket = TokenBucket(960, 50)
    bucket.settle(bucket.take(20, 0.0), 0.0, refused=20)
    assert bucket.pace == pytest.approx(910 / 120) and bucket.burst == 7
    assert bucket.wait_for(7, 0.0) == pytest.approx(7 / bucket.pace)


def test_a_clock_that_goes_back_gives_nothing_away():
    bucket = TokenBucket(60, 10)
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
            quota.settle(grants[-1])
    assert len([grant for grant in grants if grant.at <= 59]) <= 80
    assert quota.sent_last_minute() == len([grant for grant in grants if grant.at > clock.now - 60])
    assert quota.peak_qpm() <= 41
    assert [len(grant.takes) for grant in grants[:1]] == [3]


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
    quota.acquire("a", 10)
    assert clock.now == 0.0  # nobody waited


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

    class Broken(TokenBucket):
        def take(self, calls, now):
            taken = super().take(calls, now)
            if broken == "settle at once":
                self.settle(taken, now)
            elif broken == "no log":
                self._occupied -= calls
                taken.settled = True
            return taken

        def wait_for(self, calls, now):
            if broken == "double refill":
                self._occupied, self._level = 0, max(self._level, 1.0)
            return super().wait_for(calls, now)

    monkeypatch.setitem(globals(), "TokenBucket", Broken)
    with pytest.raises(AssertionError):
        # A batch charged late, at the end of its answer, when the next one is sent; then single calls.
        property_holds(48, 12, LATE)
