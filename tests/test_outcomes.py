"""The bounded way from the workers to the coordinator: room by number and by rows, halts, wake-ups."""

from __future__ import annotations

import contextlib
import datetime as dt
import queue
import random
import sys
import threading

import pytest

from gscthreads import outcomes as module
from gscthreads.errors import Transient
from gscthreads.halt import Halt
from gscthreads.model import Dataset, Failed, Fetched, Report, Rows, Slice, SliceKey
from gscthreads.outcomes import MAX_WAITING_ROWS, Outcomes, Turns

SOON = 30  # seconds after which a test is stuck
DATASET = Dataset("sc-domain:a.com", Report("page", ("page",)), "web")
DATE = dt.date(2026, 3, 10)


def fetched(kept, number=0):
    return Fetched(Slice(DATASET, SliceKey(DATE + dt.timedelta(days=number), 0)), Rows(kept, kept, []))


def failed():
    return Failed(Slice(DATASET, SliceKey(DATE, 0)), Transient("x"))


class Putter:
    """A thread that puts outcomes; ``waiting`` is set each time it is about to wait for room."""

    def __init__(self, outcomes, *items):
        self.waiting, self.results = threading.Event(), queue.Queue()
        room, wait = outcomes._room, outcomes._room.wait

        def watched(timeout=None):
            self.waiting.set()
            return wait(timeout)

        room.wait = watched
        self.thread = threading.Thread(target=lambda: [self.results.put(outcomes.put(item)) for item in items])
        self.thread.start()

    def result(self):
        return self.results.get(timeout=SOON)


def test_outcomes_come_in_order_and_as_they_were():
    outcomes, items = Outcomes(10, Halt()), [fetched(5), failed(), "batch ended", fetched(0)]
    assert all([outcomes.put(item) for item in items])
    taken = outcomes.take(0.0, most_rows=10**9)
    assert [id(item) for item in taken] == [id(item) for item in items]
    assert outcomes.take(0.0, most_rows=10**9) == []


def test_the_fill_is_the_share_of_the_queue_in_use():
    outcomes = Outcomes(8, Halt())
    assert (outcomes.fill(), len(outcomes)) == (0.0, 0)
    for _ in range(6):
        outcomes.put(failed())
    assert (outcomes.fill(), len(outcomes)) == (0.75, 6)
    outcomes.take(0.0, most_rows=1)
    assert outcomes.fill() == 0.0


@pytest.mark.parametrize(
    "sizes, most, groups",
    [
        ([10, 10, 10], 20, [2, 1]), ([10, 10, 10], 11, [2, 1]), ([10, 10, 10], 10, [1, 1, 1]), ([50, 1], 10, [1, 1]),
        ([0, 0, 10, 0], 10, [3, 1]), ([0, 0, 0], 1, [3]),
    ],
)
def test_a_take_ends_with_the_outcome_that_reaches_the_rows_asked_for(sizes, most, groups):
    outcomes = Outcomes(10, Halt())
    for number, size in enumerate(sizes):
        outcomes.put(fetched(size, number))
    assert [len(outcomes.take(0.0, most_rows=most)) for _ in groups] == groups


def test_rows_wait_for_room_until_others_are_settled_not_merely_taken():
    outcomes = Outcomes(100, Halt())
    first = [fetched(MAX_WAITING_ROWS - 10, 1), fetched(10, 2)]
    for item in first:
        assert outcomes.put(item)
    putter = Putter(outcomes, fetched(1, 3))
    assert putter.waiting.wait(SOON)
    assert outcomes.take(0.0, most_rows=10**9) == first
    putter.waiting.clear()
    assert putter.waiting.wait(SOON)  # looked again, and found no room
    assert putter.results.empty() and len(outcomes) == 0
    outcomes.settled(first[1:])
    assert putter.result() is True
    assert outcomes.take(SOON, most_rows=1) == [fetched(1, 3)]
    putter.thread.join(SOON)


def test_the_coordinator_is_behind_when_somebody_waits_for_room_or_the_queue_is_more_than_half_full():
    outcomes = Outcomes(100, Halt())
    first = fetched(MAX_WAITING_ROWS)
    assert outcomes.put(first) and not outcomes.pressed()
    putter = Putter(outcomes, fetched(1))
    assert putter.waiting.wait(SOON)
    assert outcomes.pressed()
    outcomes.settled([first])
    assert putter.result() is True and not outcomes.pressed()
    putter.thread.join(SOON)
    outcomes = Outcomes(4, Halt())
    pressed = [outcomes.put(failed()) and outcomes.pressed() for _ in range(4)]
    assert pressed == [False, False, True, True]


def test_one_slice_larger_than_the_bound_passes_when_it_is_alone():
    outcomes = Outcomes(10, Halt())
    large, small = fetched(MAX_WAITING_ROWS * 3), fetched(1)
    assert outcomes.put(large)
    putter = Putter(outcomes, small)
    assert putter.waiting.wait(SOON)
    outcomes.settled(outcomes.take(0.0, most_rows=1))
    assert putter.result() is True
    assert outcomes.take(SOON, most_rows=1) == [small]
    putter.thread.join(SOON)


def test_what_has_no_rows_needs_no_room_for_rows():
    outcomes = Outcomes(10, Halt())
    outcomes.put(fetched(MAX_WAITING_ROWS))
    assert outcomes.put(failed()) and outcomes.put("batch ended")
    assert len(outcomes) == 3


@pytest.mark.parametrize("bound", ["rows", "number"])
def test_a_halt_releases_who_waits_for_room(bound):
    halt = Halt()
    outcomes = Outcomes(1 if bound == "number" else 10, halt)
    outcomes.put(fetched(MAX_WAITING_ROWS if bound == "rows" else 1))
    putter = Putter(outcomes, fetched(5), failed())
    if bound == "rows":
        assert putter.waiting.wait(SOON)
    halt.set("enough")
    assert [putter.result(), putter.result()] == [False, False]
    putter.thread.join(SOON)
    assert len(outcomes) == 1  # what was put before is still there to be settled


def test_what_a_halt_kept_out_takes_no_room():
    halt = Halt()
    outcomes = Outcomes(1, halt)
    outcomes.put(failed())
    halt.set("enough")
    assert outcomes.put(fetched(MAX_WAITING_ROWS)) is False
    assert outcomes._rows == 0


def test_a_waiting_take_is_woken_at_once_and_with_nothing():
    outcomes, taken = Outcomes(10, Halt()), queue.Queue()
    thread = threading.Thread(target=lambda: taken.put(outcomes.take(10 * SOON, most_rows=1)))
    thread.start()
    outcomes.wake()
    assert taken.get(timeout=SOON) == []
    thread.join(SOON)


def test_a_wake_up_loses_no_outcome():
    outcomes = Outcomes(10, Halt())
    outcomes.put(fetched(1))
    outcomes.wake()
    outcomes.put(fetched(2))
    assert outcomes.take(0.0, most_rows=100) == [fetched(1)]
    assert outcomes.take(0.0, most_rows=100) == [fetched(2)]


def test_a_full_queue_needs_no_waking():
    outcomes = Outcomes(1, Halt())
    outcomes.put(failed())
    outcomes.wake()
    assert len(outcomes.take(0.0, most_rows=1)) == 1
    assert len(outcomes) == 0


def test_the_halt_itself_can_wake():
    halt = Halt()
    outcomes = Outcomes(10, halt)
    halt.on_set(outcomes.wake)
    taken = queue.Queue()
    thread = threading.Thread(target=lambda: taken.put(outcomes.take(10 * SOON, most_rows=1)))
    thread.start()
    halt.set("enough")
    assert taken.get(timeout=SOON) == []
    thread.join(SOON)


def test_many_threads_never_have_more_rows_waiting_than_the_bound_and_lose_none(monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING_ROWS", 100)
    outcomes, most, taken = Outcomes(7, Halt()), 0, []

    def put(seed):
        dice = random.Random(seed)
        for number in range(60):
            assert outcomes.put(fetched(dice.choice([0, 1, 30, 60]), seed * 100 + number))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=put, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        while len(taken) < 240:
            group = outcomes.take(SOON, most_rows=50)
            assert group, "nothing came"
            most = max(most, outcomes._rows)
            outcomes.settled(group)
            taken += group
        for thread in threads:
            thread.join(SOON)
    finally:
        sys.setswitchinterval(interval)
    assert 0 < most <= 100 and outcomes._rows == 0
    dates = [item.slice.key.date for item in taken]
    assert len(set(dates)) == 240
    for seed in range(4):  # each worker's in its order
        own = [date for date in dates if seed * 100 <= (date - DATE).days < seed * 100 + 100]
        assert own == sorted(own) and len(own) == 60


# -- turns


def test_turns_go_to_whoever_has_waited_longest():
    turns, order = Turns(), []

    def take(number):
        with turns:
            order.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    with turns:
        for number, thread in enumerate(threads):
            thread.start()
            while len(turns._waiting) <= number:  # it is in the line
                pass
        assert order == []
    for thread in threads:
        thread.join()
    assert order == list(range(8))
    take(8)
    assert order[-1] == 8


def test_one_has_the_turn_at_a_time_whatever_the_others_do():
    turns, inside, most = Turns(), [0], [0]

    def work():
        for number in range(300):
            with contextlib.suppress(ValueError), turns:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1
                if number % 7 == 0:
                    raise ValueError  # also then it goes on

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert most == [1] and inside == [0] and not turns._waiting and not turns._taken
