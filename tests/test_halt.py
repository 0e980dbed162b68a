"""The halt: first reason wins, everybody who waits is let go, whatever comes late."""

from __future__ import annotations

import queue
import sys
import threading
import types

import pytest

from gscthreads import halt as module
from gscthreads.halt import Halt, Halted, get_or_none, held_or_halted, put_or_halt

SOON = 30  # seconds after which a test is stuck


def test_a_halt_begins_unset():
    halt = Halt()
    assert not halt.is_set() and halt.reason == ""
    assert halt.wait(0) is False


def test_the_first_reason_wins():
    halt = Halt()
    assert halt.set("quota") is True
    assert halt.set("signal") is False
    assert halt.is_set() and halt.reason == "quota" and halt.wait(SOON) is True


def test_it_knows_when_it_came(monkeypatch):
    halt, now = Halt(), iter([7.5, 8.5])
    monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda: next(now)))
    assert halt.set_at is None
    halt.set("quota")
    halt.set("signal")
    assert halt.set_at == 7.5


def test_whoever_sees_the_event_can_say_why():
    halt, seen = Halt(), []
    threads = [threading.Thread(target=lambda: seen.append((halt.wait(SOON), halt.reason))) for _ in range(4)]
    for thread in threads:
        thread.start()
    halt.set("enough")
    for thread in threads:
        thread.join(SOON)
    assert seen == [(True, "enough")] * 4


def test_of_many_threads_that_halt_exactly_one_is_the_first():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(50):
            halt, firsts, called, barrier = Halt(), [], [], threading.Barrier(4)
            halt.on_set(lambda: called.append(halt.reason))

            def run(name):
                barrier.wait()
                if halt.set(name):
                    firsts.append(name)

            threads = [threading.Thread(target=run, args=(name,)) for name in "abcd"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(SOON)
            assert len(firsts) == 1 and [halt.reason] == firsts == called
    finally:
        sys.setswitchinterval(interval)


def test_callbacks_run_once_in_order_and_see_the_halt():
    halt, calls = Halt(), []
    for name in "abc":
        halt.on_set(lambda name=name: calls.append((name, halt.is_set(), halt.reason)))
    assert calls == []
    halt.set("x")
    halt.set("y")
    assert calls == [(name, True, "x") for name in "abc"]


def test_a_callback_that_comes_late_runs_at_once():
    halt, calls = Halt(), []
    halt.set("x")
    halt.on_set(lambda: calls.append(1))
    assert calls == [1]


def test_callbacks_may_use_the_halt():
    halt, calls = Halt(), []
    halt.on_set(lambda: calls.append((halt.set("again"), halt.reason)))
    halt.on_set(lambda: halt.on_set(lambda: calls.append("nested")))
    assert halt.set("x")
    assert calls == [(False, "x"), "nested"]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_signal_handler_that_halts_in_the_midst_of_a_halt_changes_nothing(moment):
    """A second SIGINT may interrupt the first's halt between any two of its instructions, in the same thread."""
    halt, calls, inner = Halt(), [], []
    event, halt_again = halt._event.set, lambda: inner.append(halt.set("second"))

    def interrupted():
        halt._event.set = event
        if moment == "before":
            halt_again()
            event()
        else:
            event()
            halt_again()

    halt._event.set = interrupted
    halt.on_set(lambda: calls.append(halt.reason))
    assert halt.set("first") is True
    assert inner == [False] and halt.is_set()
    assert halt.reason == "first" and calls == ["first"]


def test_what_has_room_is_queued_without_waiting():
    items = queue.Queue(1)
    assert put_or_halt(items, "a", Halt()) is True
    assert items.get_nowait() == "a"


def test_after_a_halt_nothing_is_queued():
    items, halt = queue.Queue(1), Halt()
    halt.set("x")
    assert put_or_halt(items, "a", halt) is False
    assert items.empty()


def test_who_waits_for_room_goes_on_when_there_is_some():
    items, done = queue.Queue(1), []
    items.put("a")
    thread = threading.Thread(target=lambda: done.append(put_or_halt(items, "b", Halt(), tick=0.01)))
    thread.start()
    assert items.get(timeout=SOON) == "a"
    assert items.get(timeout=SOON) == "b"
    thread.join(SOON)
    assert done == [True]


def test_who_waits_for_room_is_let_go_by_the_halt():
    class Full(queue.Queue):
        """Full for ever; the halt comes while somebody waits."""

        def put(self, item, block=True, timeout=None):
            halt.set("x")
            raise queue.Full

    halt = Halt()
    assert put_or_halt(Full(1), "b", halt) is False


def test_get_or_none():
    items = queue.Queue()
    assert get_or_none(items, 0.0) is None and get_or_none(items, -1.0) is None and get_or_none(items, 0.001) is None
    items.put("a")
    items.put("b")
    assert [get_or_none(items, 0.0), get_or_none(items, SOON), get_or_none(items, 0.0)] == ["a", "b", None]


def test_a_negative_wait_is_none():
    assert Halt().wait(-5.0) is False


def test_a_wait_lasts_as_long_as_asked_for_and_never_less_than_nothing():
    halt, asked = Halt(), []
    halt._event = types.SimpleNamespace(wait=asked.append)
    for seconds in (-5.0, 0.0, 0.25, 7.0):
        halt.wait(seconds)
    assert asked == [0.0, 0.0, 0.25, 7.0]


@pytest.mark.parametrize("seconds, expected", [(-1.0, "at once"), (0.0, "at once"), (0.25, 0.25), (7.0, 7.0)])
def test_an_item_is_waited_for_as_long_as_asked_for(seconds, expected):
    items = types.SimpleNamespace(get=lambda timeout: timeout, get_nowait=lambda: "at once")
    assert get_or_none(items, seconds) == expected


# -- a lock that others may hold for long


class Busy:
    """A lock that others have for the first *times* it is asked for; *meanwhile* happens then."""

    def __init__(self, times, meanwhile=lambda: None):
        self.times, self.meanwhile, self.held, self.asked = times, meanwhile, 0, []

    def acquire(self, timeout):
        self.asked.append(timeout)
        if len(self.asked) <= self.times:
            self.meanwhile()
            return False
        self.held += 1
        return True

    def release(self):
        self.held -= 1


def test_a_lock_is_held_within_and_let_go_after_also_when_that_raises():
    lock, halt = threading.Lock(), Halt()
    with held_or_halted(lock, halt):
        assert lock.locked()
    assert not lock.locked()
    with pytest.raises(ZeroDivisionError), held_or_halted(lock, halt):
        raise ZeroDivisionError
    assert not lock.locked()


def test_a_lock_that_others_have_is_asked_for_again_and_again():
    lock = Busy(3)
    with held_or_halted(lock, Halt(), tick=0.5):
        assert lock.held == 1
    assert lock.asked == [0.5] * 4 and lock.held == 0


@pytest.mark.parametrize("times", [0, 1, 10**6])
def test_after_a_halt_nobody_begins_what_needs_the_lock(times):
    halt = Halt()
    if times == 0:
        halt.set("enough")
    lock, begun = Busy(times, lambda: halt.set("enough")), []
    with pytest.raises(Halted, match="enough"), held_or_halted(lock, halt):
        begun.append(True)
    assert not begun and lock.held == 0 and len(lock.asked) == 1


def test_who_gets_the_lock_in_the_moment_of_the_halt_lets_it_go():
    halt = Halt()

    class Late(Busy):
        def acquire(self, timeout):
            halt.set("enough")
            return super().acquire(timeout)

    lock, begun = Late(0), []
    with pytest.raises(Halted, match="enough"), held_or_halted(lock, halt):
        begun.append(True)
    assert not begun and lock.held == 0 and len(lock.asked) == 1
