"""How long to wait, and when to stop trying: pure arithmetic, with the caller's clock and dice."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gscthreads.backoff import UNLIKELY, Backoff, Breaker, Health
from tests.properties import examples

# -- pauses


@pytest.mark.parametrize(
    "failures, expected", [(1, 1), (2, 2), (3, 4), (4, 8), (6, 32), (7, 60), (8, 60), (61, 60), (10**6, 60)]
)
def test_a_pause_doubles_with_each_failure_up_to_its_cap(failures, expected):
    assert Backoff(1.0, 60.0).delay(failures, 1.0) == expected


@examples(100)
@given(st.floats(0, 3600), st.floats(0, 3600), st.integers(1, 10**9), st.floats(0, 1))
def test_a_pause_is_never_longer_than_its_cap_and_full_jitter_reaches_down_to_nothing(base, cap, failures, jitter):
    backoff = Backoff(base, cap)
    assert 0.0 <= backoff.delay(failures, jitter) <= backoff.delay(failures, 1.0) <= cap
    assert backoff.delay(failures, 0.0) == 0.0
    assert backoff.delay(failures, 1.0) <= backoff.delay(failures + 1, 1.0)


def test_without_a_base_nothing_is_waited_for():
    assert Backoff(0.0, 60.0).delay(50, 1.0) == 0.0


# -- chance


def health(answered, failed):
    found = Health()
    for _ in range(answered):
        found.answered()
    for _ in range(failed):
        found.failed()
    return found


@pytest.mark.parametrize(
    "answered, failed, failures, expected",
    [
        (0, 0, 1, False), (0, 100, 1, False),  # nothing was ever answered
        (100, 0, 1, False), (100, 1, 1, False),  # nothing else fails: the one failure is the asker's
        (100, 2, 1, True),  # 1 of 101 others
        (100, 2, 3, False),  # but not three times in a row
        (1, 2, 16, True), (1, 2, 17, False),  # every second one: 0.5 ** 17 < 1e-5
        (100, 101, 16, True), (100, 101, 17, False),
        (10, 1000, 1000, True), (10, 1000, 1200, False),
    ],
)
def test_failures_in_a_row_are_chance_when_the_rate_of_the_others_makes_them_likely(
    answered, failed, failures, expected
):
    assert health(answered, failed).is_chance(failures) is expected


def test_the_askers_own_failures_say_nothing_about_the_others():
    assert health(10, 5).is_chance(1, own=4)
    assert not health(10, 5).is_chance(1, own=5)
    assert not health(10, 5).is_chance(1, own=9)


def test_the_odds_can_be_chosen():
    assert health(1, 2).is_chance(6, odds=0.01) and not health(1, 2).is_chance(7, odds=0.01)


@examples(100)
@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 50))
def test_more_failures_in_a_row_are_never_more_likely(answered, failed, failures):
    found = health(answered, failed)
    assert found.is_chance(failures) or not found.is_chance(failures + 1)


def test_at_a_fault_rate_of_a_third_a_good_slice_is_given_up_in_less_than_one_of_ten_thousand_cases():
    found = health(200, 100)
    most = max(number for number in range(1, 100) if found.is_chance(number))
    assert (1 / 3) ** most > UNLIKELY >= (1 / 3) ** (most + 2)


# -- the breaker


def test_an_outage_counts_once_however_many_batches_it_hits():
    breaker = Breaker(2, Backoff(0.0, 0.0))
    # Sixty-four batches under way since 0.0 fail one after the other.
    assert not any(breaker.failed(0.0, 1.0 + number, 1.0) for number in range(64))
    assert breaker.failed(1.0, 65.0, 1.0)  # sent after the first strike, and in vain too


def test_a_batch_sent_before_the_last_strike_is_no_news():
    breaker = Breaker(3, Backoff(0.0, 0.0))
    assert not breaker.failed(0.0, 10.0, 1.0)
    assert not breaker.failed(11.0, 20.0, 1.0)
    assert not breaker.failed(19.9, 30.0, 1.0)
    assert breaker.failed(20.0, 31.0, 1.0)


def test_an_answer_resets_the_count():
    breaker = Breaker(2, Backoff(0.0, 0.0))
    for number in range(100):  # nothing but every second answer: never two in a row
        assert not breaker.failed(2 * number, 2 * number + 1, 1.0)
        breaker.succeeded()


def test_a_service_that_never_answers_is_given_up_after_the_limit_and_not_before_its_patience():
    backoff = Backoff(1.0, 60.0)
    breaker = Breaker(5, backoff)  # patience: 1 + 2 + 4 + 8 + 16
    outcomes = [(number, breaker.failed(number, number + 0.5, 1.0)) for number in range(0, 40)]
    assert [number for number, given_up in outcomes if given_up][0] == 31
    quick = Breaker(5, Backoff(0.0, 0.0))
    assert [quick.failed(number, number, 1.0) for number in range(6)] == [False] * 4 + [True] * 2


def test_a_limit_of_one_has_no_patience():
    assert Breaker(1, Backoff(10.0, 60.0)).failed(0.0, 0.0, 1.0)
    breaker = Breaker(1, Backoff(10.0, 60.0), strikes=3)
    assert [breaker.failed(now, now, 1.0) for now in (0.0, 0.1, 0.2)] == [False, False, True]


def test_pauses_grow_from_the_second_strike_on():
    breaker, now, pauses = Breaker(9, Backoff(1.0, 10.0)), 0.0, []
    for number in range(7):
        breaker.failed(now, now, 1.0)
        pauses.append(max(0.0, breaker.paused_until - now))
        now = max(now, breaker.paused_until) + 0.5
    assert pauses == [0.0, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_pauses_have_jitter():
    breaker = Breaker(9, Backoff(8.0, 60.0))
    breaker.failed(0.0, 0.0, 1.0)
    breaker.failed(0.0, 0.0, 0.25)
    assert breaker.paused_until == 2.0


@pytest.mark.parametrize("seed", range(5))
def test_a_service_of_which_half_the_batches_fail_at_random_is_never_given_up(seed):
    dice, breaker = random.Random(seed), Breaker(3, Backoff(0.0, 0.0))
    for number in range(20):
        breaker.succeeded()
        breaker.failed(number, number, 0.0)
    given_up = False
    for number in range(20, 2000):
        if dice.random() < 0.5:
            given_up = given_up or breaker.failed(number, number, 0.0)
        else:
            breaker.succeeded()
    assert not given_up


def test_a_service_that_stops_answering_is_given_up_although_it_was_shaky_before():
    breaker = Breaker(3, Backoff(0.0, 0.0))
    for number in range(100):
        breaker.succeeded()
        breaker.failed(number, number, 0.0)
    strikes = 0
    while not breaker.failed(1000 + strikes, 1000 + strikes, 0.0):
        strikes += 1
        assert strikes < 60
    assert strikes >= 15  # 0.5 ** 16 > 1e-5


def test_where_half_of_all_batches_fail_only_a_run_beyond_chance_is_a_reason_to_pause():
    breaker = Breaker(99, Backoff(1.0, 10.0))
    for number in range(100):
        breaker.succeeded()
        breaker.failed(number, number, 1.0)
        assert not breaker.probing
    strikes = 1
    while not breaker.probing:
        breaker.failed(100 + strikes, 100 + strikes, 1.0)
        strikes += 1
    assert strikes == 7  # 0.5 ** 7 < 0.01


def test_after_a_pause_one_batch_at_a_time_finds_out():
    breaker = Breaker(9, Backoff(1.0, 10.0))
    breaker.failed(0.0, 0.0, 1.0)
    assert not breaker.probing
    breaker.failed(0.0, 0.5, 1.0)
    assert breaker.probing and breaker.paused_until == 1.5
    breaker.failed(2.0, 2.5, 1.0)
    assert breaker.probing
    breaker.succeeded()
    assert not breaker.probing and breaker.paused_until < 0.0


def test_who_begins_anew_has_no_strikes():
    breaker = Breaker(2, Backoff(0.0, 0.0))
    breaker.failed(0.0, 0.0, 1.0)
    assert breaker.failed(1.0, 1.0, 1.0)
    breaker.begin_anew()
    assert not breaker.failed(2.0, 2.0, 1.0)
    assert breaker.failed(3.0, 3.0, 1.0)
