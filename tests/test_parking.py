"""How long a site is left alone whose load quota is spent, and when that is over."""

from __future__ import annotations

import datetime as dt

import pytest

from gscthreads.backoff import Backoff
from gscthreads.errors import BurstQuota, DailyQuota, LoadQuota
from gscthreads.model import Dataset, Report
from gscthreads.parking import Parks, next_park
from gscthreads.plan import DatasetPlan, OwedDay, Plan

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
    park = next_park(DAILY, first, utc(5, 12, 5))
    assert (park.since, park.until) == (utc(5, 12) if last else utc(5, 12, 5), MIDNIGHT)


def test_refusals_of_the_same_moment_do_not_shorten_a_park():
    daily = next_park(DAILY, None, utc(5, 12))
    assert next_park(LOAD, daily, utc(5, 12)) == daily


def test_a_park_of_another_day_or_of_a_clock_that_was_wrong_says_nothing():
    old = next_park(LOAD, None, utc(3, 12))
    assert next_park(LOAD, old, utc(5, 12)).until == utc(5, 12, 15)
    ahead = next_park(LOAD, None, utc(9, 12))
    assert next_park(LOAD, ahead, utc(5, 12)).until == utc(5, 12, 15)


def test_endless_burst_refusals_park_like_the_load_quota():
    assert next_park(BurstQuota("QPS"), None, utc(5, 12)).until == utc(5, 12, 15)


# -- when a park is over

SITE = "sc-domain:one.example"
PAGES, QUERIES = (Dataset(SITE, Report(name, (name,)), "web") for name in ("page", "query"))
SHORT = next_park(LOAD, None, utc(5, 12))


def parked(*, done=(), site=SITE):
    """Parks of *site*, and a plan in which its datasets owe a day each, except those *done*."""
    parks = Parks()
    parks.load({site: SHORT})
    plan = Plan(batch_size=9, max_attempts=3, backoff=Backoff(1.0, 60.0))
    for dataset in (PAGES, QUERIES):
        days = [] if dataset in done else [OwedDay(dt.date(2026, 1, 1))]
        plan.add(DatasetPlan(dataset, days, max_open_days=9, newest=True))
    return parks, plan


def test_a_park_is_over_when_all_that_want_something_were_answered():
    parks, plan = parked()
    first = parks.answered({PAGES}, plan)
    assert first == ({SITE: {PAGES}}, [])
    assert parks.answered({QUERIES}, plan) == ({SITE: {QUERIES}}, [])  # the first was not accepted
    parks.accept(first)
    both = parks.answered({QUERIES}, plan)
    assert both == ({}, [SITE]) and parks.get(SITE) == SHORT
    parks.accept(both)
    assert parks.get(SITE) is None and parks.answered({PAGES}, plan) == ({}, [])


def test_who_owes_nothing_is_not_waited_for():
    parks, plan = parked(done=[QUERIES])
    assert parks.answered({PAGES}, plan).over == [SITE]


def test_a_refusal_in_between_begins_it_anew():
    parks, plan = parked()
    parks.accept(parks.answered({PAGES}, plan))
    parks.refused(SITE, SHORT)
    assert parks.answered({QUERIES}, plan) == ({SITE: {QUERIES}}, [])


@pytest.mark.parametrize("resting", ["closed", "parked"])
def test_what_was_under_way_when_the_refusal_came_proves_nothing(resting):
    parks, plan = parked(done=[QUERIES])
    if resting == "closed":
        plan.gate(SITE).close(9.0)
    else:
        plan.datasets[PAGES].parked = LOAD
    assert parks.answered({PAGES}, plan) == ({}, [])


def test_other_sites_are_not_concerned():
    parks, plan = parked(site="sc-domain:two.example")
    assert parks.answered({PAGES, QUERIES}, plan) == ({}, [])


def test_a_site_may_be_refused_before_anything_was_loaded():
    parks = Parks()
    assert parks.get(SITE) is None and parks.first_end([SITE]) is None
    parks.refused(SITE, SHORT)
    assert parks.get(SITE) == SHORT


def test_the_first_end_of_several():
    parks, _ = parked()
    later = next_park(DAILY, None, utc(5, 12))
    parks.refused("sc-domain:two.example", later)
    assert parks.first_end(["sc-domain:two.example", "unknown"]) == MIDNIGHT
    assert parks.first_end(["sc-domain:two.example", SITE]) == utc(5, 12, 15)
    assert parks.first_end([]) is None
