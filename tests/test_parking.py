"""How long a site is left alone whose load quota is spent."""

from __future__ import annotations

import datetime as dt

import pytest

from gscthreads.errors import BurstQuota, DailyQuota, LoadQuota
from gscthreads.parking import next_park

LOAD, DAILY = LoadQuota("load quota exceeded"), DailyQuota("per day")


def utc(day, hour, minute=0):
    return dt.datetime(2026, 1, day, hour, minute, tzinfo=dt.timezone.utc)


MIDNIGHT = utc(6, 8)  # in Los Angeles, for all of 5 January there


def test_the_first_time_for_15_minutes():
    park = next_park(LOAD, None, utc(5, 12))
    assert (park.since, park.until, park.reason) == (utc(5, 12), utc(5, 12, 15), "load quota exceeded")


def test_waited_in_vain_until_the_next_pacific_day():
    first = next_park(LOAD, None, utc(5, 12))
    second = next_park(LOAD, first, utc(5, 12, 15))
    assert (second.since, second.until) == (utc(5, 12), MIDNIGHT)
    assert next_park(LOAD, second, utc(5, 20)) == second  # asked too early: nothing new
    assert next_park(LOAD, second, MIDNIGHT).until == utc(7, 8)


def test_who_asks_too_early_has_learnt_nothing():
    first = next_park(LOAD, None, utc(5, 12))
    assert next_park(LOAD, first, utc(5, 12, 14)) == first


@pytest.mark.parametrize("last", [None, "short"])
def test_a_daily_quota_comes_back_at_midnight(last):
    first = next_park(LOAD, None, utc(5, 12)) if last else None
    assert next_park(DAILY, first, utc(5, 12, 5)).until == MIDNIGHT


def test_a_park_of_another_day_or_of_a_clock_that_was_wrong_says_nothing():
    old = next_park(LOAD, None, utc(3, 12))
    assert next_park(LOAD, old, utc(5, 12)).until == utc(5, 12, 15)
    ahead = next_park(LOAD, None, utc(9, 12))
    assert next_park(LOAD, ahead, utc(5, 12)).until == utc(5, 12, 15)


def test_endless_burst_refusals_park_like_the_load_quota():
    assert next_park(BurstQuota("QPS"), None, utc(5, 12)).until == utc(5, 12, 15)
