"""How many workers auto settles on, against simulated servers of many lanes, latencies, budgets and burst limits."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gscthreads.concurrency import FIRST, MOST, Concurrency, Seen, Workers
from tests.properties import examples


class Server:
    """Slices take *latency* seconds in one of *lanes*; more than *burst* a second are refused; *budget*: calls a second
    that our own quota lets through.  It *tells* how long each took, if so.  Time is simulated."""

    def __init__(self, *, lanes=100, latency=1.0, budget=16.0, burst=float("inf"), jitter=(), tells=False):
        self.lanes, self.latency, self.budget, self.burst = lanes, latency, budget, burst
        self.jitter = jitter or (0.0,)
        self.tells = tells

    def run(self, auto, seconds, *, look=0.25):
        """Feed *auto* for *seconds*; [(time, workers)] at each look."""
        busy, ends, history = 0, [], []
        free = [0.0] * self.lanes
        allowance, sent, number, now = 1.0, [], 0, 0.0
        while now < seconds:
            answered = refused = 0
            bound, took = False, []
            end = now + look
            while now < end:
                now += 0.01
                allowance = min(5.0, allowance + 0.01 * self.budget)
                while ends and ends[0][0] <= now:
                    ended, was_refused, began = heapq.heappop(ends)
                    busy -= 1
                    if not was_refused:
                        took.append(ended - began)
                    answered += not was_refused
                    refused += was_refused
                while busy < auto.workers:
                    if allowance < 1.0:
                        bound = True
                        break
                    allowance -= 1.0
                    sent = [at for at in sent if at > now - 1.0]
                    number += 1
                    busy += 1
                    if len(sent) >= self.burst:
                        heapq.heappush(ends, (now + 0.05, True, now))
                        continue
                    sent.append(now)
                    lane = min(range(self.lanes), key=free.__getitem__)
                    free[lane] = max(now, free[lane]) + self.latency * (1 + self.jitter[number % len(self.jitter)])
                    heapq.heappush(ends, (free[lane], False, now))
            ended = [(1, seconds) for seconds in took] if self.tells else ()
            auto.see(now, Seen(answered, refused, bound, ended))
            history.append((now, auto.workers))
        return history


def settled(history, share=0.5):
    """The mean number of workers over the last *share* of the time."""
    late = [workers for _, workers in history[int(len(history) * (1 - share)):]]
    return sum(late) / len(late)


def test_it_begins_with_three_and_adds_one_at_a_time():
    auto = Concurrency(0.0)
    numbers = [workers for _, workers in Server(lanes=100, latency=1.0, budget=1000).run(auto, 60)]
    assert numbers[0] == FIRST
    assert {after - before for before, after in zip(numbers, numbers[1:])} <= {0, 1}
    assert numbers[-1] == MOST


@pytest.mark.parametrize("tells", [False, True])
@pytest.mark.parametrize("latency", [0.5, 1.0, 2.0])
def test_a_budget_is_used_up_with_the_workers_that_littles_law_says_and_few_more(latency, tells):
    needed = 6 * latency  # 6 calls a second
    reached = settled(Server(latency=latency, budget=6.0, tells=tells).run(Concurrency(0.0, rate=6.0), 120))
    assert needed * 0.8 <= reached <= max(FIRST, needed + 2)


@pytest.mark.parametrize("tells", [False, True])
@pytest.mark.parametrize("lanes", [1, 2, 4, 8])
def test_a_server_with_few_lanes_gets_few_more_workers_than_it_has_lanes(lanes, tells):
    reached = settled(Server(lanes=lanes, latency=0.5, budget=1000, tells=tells).run(Concurrency(0.0), 240))
    assert lanes * 0.7 <= reached <= max(1.5 * FIRST, 1.8 * lanes)  # what is best was seen with three


def test_a_worker_for_each_batch_that_ends_until_they_could_use_up_the_quota():
    auto = Concurrency(0.0, rate=16.0)
    auto.see(2.0, Seen(24, 0, False, [(8, 8 / 3)] * 3))
    assert auto.workers == 6  # 6 x 3 a second, less what they wait
    auto.see(2.5, Seen(24, 0, False, [(8, 8 / 3)] * 3))
    assert auto.workers == 7
    auto.see(3.0, Seen(24, 0, False, [(8, 8 / 3)] * 3))  # 7 are enough
    assert auto.workers == 7


def test_where_slices_take_long_it_takes_more_workers_to_use_up_the_quota():
    auto = Concurrency(0.0, rate=0.9)
    auto.see(40.0, Seen(24, 0, False, [(8, 32.0)] * 6))  # a slice in four seconds, less what they wait
    assert auto.workers == 5


@pytest.mark.parametrize("sign", [Seen(8, 0, False, [(8, 5.4)]), Seen(8, 2, False)])
def test_no_more_are_taken_on_credit_after_a_sign_against_it(sign):
    auto = Concurrency(0.0, rate=100.0)
    auto.see(2.0, Seen(24, 0, False, [(8, 8 / 3)] * 3))
    auto.see(2.1, sign)
    reached = auto.workers
    assert reached <= 6
    auto.see(2.2, Seen(24, 0, False, [(8, 8 / 3)] * 3))
    assert auto.workers == reached


def test_a_quota_of_thousands_is_approached_at_once():
    history = Server(latency=2.0, budget=10.0, tells=True).run(Concurrency(0.0, most=40, rate=10.0), 60)
    assert next(now for now, workers in history if workers * 0.5 >= 0.4 * 10.0) < 7.0
    assert max(workers for _, workers in history) <= 24


def test_slow_stores_and_finished_work_are_no_reason_for_more():
    auto = Concurrency(0.0)
    for number in range(100):
        auto.see(number * 0.5, Seen(10, 0, True))
    assert auto.workers == FIRST


def test_a_store_that_was_slow_for_long_and_no_longer_is_is_no_reason_against_more():
    auto = Concurrency(0.0)
    for number in range(1, 201):
        auto.see(number * 0.5, Seen(10, 0, True))
    for number in range(201, 205):
        auto.see(number * 0.5, Seen(10, 0, False))
    assert auto.workers == FIRST + 1


def test_a_server_that_does_one_thing_at_a_time_is_left_with_one_worker_when_that_was_as_good():
    numbers = [workers for _, workers in Server(lanes=1, latency=0.2, budget=1000).run(Concurrency(0.0, first=1), 60)]
    assert numbers[0] == 1 and max(numbers) == 2 and numbers[-1] == 1


@pytest.mark.parametrize("bound, grows", [(1, True), (6, False)])  # tenths of each second
def test_a_burst_that_the_store_is_behind_with_for_a_moment_does_not_keep_it_from_more(bound, grows):
    auto = Concurrency(0.0)
    for number in range(1, 200):
        auto.see(number * 0.1, Seen(1, 0, number % 10 < bound))
    assert (auto.workers > FIRST) == grows


def test_refusals_cut_it_once_and_nothing_is_tried_for_two_minutes():
    auto = Concurrency(0.0, first=10)
    auto.see(1.0, Seen(0, 5, False))
    assert auto.workers == 6
    for tick in range(2, 110):  # the rest of the burst, then quiet
        auto.see(float(tick), Seen(20, 3 if tick < 5 else 0, False))
        assert auto.workers == 6
    for tick in range(110, 140):
        auto.see(float(tick), Seen(20, 0, False))
    assert auto.workers > 6


def test_a_burst_limit_is_met_seldom():
    server = Server(latency=1.0, budget=1000, burst=8)
    auto = Concurrency(0.0)
    history = server.run(auto, 600)
    above = sum(workers > 8 for _, workers in history) / len(history)
    assert above < 0.2 and settled(history) >= 4


def test_one_slow_look_is_chance_and_takes_nobody_away():
    auto = Concurrency(0.0, first=8)
    now = 0.0
    for part in [1.0, 1.0, 1.0, 0.4, 1.0, 1.0]:
        now += 2.0
        before = auto.workers
        auto.see(now, Seen(int(part * 2 * auto.workers), 0, False))
        assert auto.workers >= before


def test_a_server_that_becomes_slower_for_all_keeps_its_workers():
    auto, now = Concurrency(0.0), 0.0
    for share in [2.0] * 40 + [0.8] * 120:
        now += 2.0
        auto.see(now, Seen(int(share * 2 * auto.workers), 0, False))
    assert auto.workers >= MOST - 2


@examples(60)
@given(
    lanes=st.integers(1, 30), latency=st.floats(0.1, 3.0), budget=st.floats(1.0, 40.0),
    burst=st.one_of(st.just(float("inf")), st.floats(2.0, 30.0)), jitter=st.lists(st.floats(-0.5, 0.5), max_size=5),
    tells=st.booleans(),
)
def test_it_stays_in_its_bounds_whatever_the_server_does(lanes, latency, budget, burst, jitter, tells):
    server = Server(lanes=lanes, latency=latency, budget=budget, burst=burst, jitter=jitter, tells=tells)
    assert all(1 <= workers <= MOST for _, workers in server.run(Concurrency(0.0), 30))


@examples(100)
@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 10.0), st.integers(0, 50), st.integers(0, 50), st.booleans(),
            st.lists(st.tuples(st.integers(1, 8), st.floats(0.0, 100.0)), max_size=4),
        ),
        max_size=80,
    )
)
def test_it_moves_by_one_up_for_each_batch_and_at_most_a_cut_down(steps):
    auto, now, borrowed = Concurrency(0.0), 0.0, 0
    for pause, answered, refused, bound, ended in steps:
        now += pause
        before = auto.workers
        auto.see(now, Seen(answered, refused, bound, ended))
        given_back = 3 if ended else 16
        assert min(given_back, max(1, int(before * 0.6))) <= auto.workers <= before + max(1, len(ended))
        borrowed += max(0, auto.workers - before - 1)
        assert auto.workers <= before or ended or not (bound or refused > 1)
    assert borrowed <= 8


# -- of all sites

def test_workers_that_are_fixed_are_the_same_for_all_and_nothing_is_kept():
    workers = Workers(5, most=MOST, rate=16.0)
    for _ in range(3):
        workers.ended("one", 8, 1.0)
    assert (workers.at("one"), workers.most_now(), workers.peak) == (5, 5, 5)
    assert not workers._notes


def test_each_site_finds_its_own_number():
    workers = Workers(None, most=MOST, rate=100.0)
    assert (workers.at("one"), workers.most_now(), workers.peak) == (FIRST, FIRST, FIRST)
    for now in range(4):
        workers.look(float(now), "one", bound=False)
        workers.look(float(now), "two", bound=False)
        workers.ended("one", 8, 1.0)
        workers.answered("one")
    workers.look(4.0, "one", bound=False)
    assert (workers.at("one"), workers.at("two"), workers.most_now()) == (FIRST + 4, FIRST, FIRST + 4)
    for _ in range(9):
        workers.refused("one")
    workers.look(5.0, "one", bound=False)
    assert workers.at("one") == int((FIRST + 4) * 0.6)
    assert workers.peak == FIRST + 4  # it tells the most that there were


def test_what_was_noted_counts_once():
    workers = Workers(None, most=MOST, rate=100.0)
    workers.look(0.0, "one", bound=False)
    workers.ended("one", 8, 1.0)
    for now in range(1, 6):
        workers.look(float(now), "one", bound=False)
    assert workers.at("one") == FIRST + 1


def test_each_answer_and_each_refusal_counts_as_one():
    workers = Workers(None, most=MOST, rate=100.0)
    workers.look(0.0, "one", bound=False)
    for number in range(1, 7):
        assert workers.at("one") == FIRST
        workers.answered("one")
        workers.look(2.0 + number, "one", bound=False)
    assert workers.at("one") == FIRST + 1
    for left in (FIRST + 1, int((FIRST + 1) * 0.6)):
        workers.refused("one")
        workers.look(9.0, "one", bound=False)
        assert workers.at("one") == left


def test_no_more_than_the_most():
    workers = Workers(None, most=2, rate=100.0)
    assert (workers.at("one"), workers.most_now(), workers.peak) == (2, 2, 2)
    for now in range(20):
        workers.look(float(now), "one", bound=False)
        workers.ended("one", 8, 1.0)
    assert (workers.at("one"), workers.peak) == (2, 2)
