"""The rate limit: bucket arithmetic exhaustively, the lock around it with threads."""

from __future__ import annotations

import bisect
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
