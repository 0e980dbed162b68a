"""The schedule, without threads, sockets or clocks."""

from __future__ import annotations

import datetime as dt
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gscthreads.backoff import Backoff
from gscthreads.errors import BadRequest, BurstQuota, Denied, LoadQuota, Transient, Unauthorized
from gscthreads.model import Dataset, Report, SliceKey
from gscthreads.plan import DatasetPlan, OwedDay, Plan, Verdict, next_start_row, owed
from gscthreads.stores.base import FAILED, FINAL, OPEN, PROVISIONAL, Acknowledged, DayRecord

DAY = dt.date(2026, 3, 10)
TODAY = dt.date(2026, 4, 30)
PAGE = Dataset("sc-domain:a.com", Report("page", ("page",)), "web")
QUERY = Dataset("sc-domain:a.com", Report("page_query", ("page", "query")), "web")
OTHER = Dataset("sc-domain:b.com", Report("page", ("page",)), "web")


def day(number):
    return DAY + dt.timedelta(days=number)


def make(*datasets, days=5, batch_size=50, max_attempts=3, max_open_days=100, newest=True):
    plan = Plan(batch_size=batch_size, max_attempts=max_attempts, backoff=Backoff(1.0, 60.0))
    for dataset in datasets or (PAGE,):
        wanted = [OwedDay(day(number)) for number in range(days)]
        plan.add(DatasetPlan(dataset, wanted, max_open_days=max_open_days, newest=newest))
    return plan


def lease(plan, most=1000, workers=1):
    return plan.lease(workers=workers, most=lambda site: most)


def finish(plan, slice_, received):
    of = plan.datasets[slice_.dataset]
    assert of.fetched(slice_.key)
    of.acknowledge(slice_.key, next_start_row(slice_.key.start_row, received))


@pytest.mark.parametrize(
    "received, expected", [(0, None), (1, None), (24_999, None), (25_000, 25_000), (25_001, 25_000)]
)
def test_a_short_slice_is_a_days_last_and_a_full_one_has_a_successor(received, expected):
    assert next_start_row(0, received) == expected


def test_until_empty_goes_on_after_a_short_slice_and_ends_at_an_empty_one():
    assert next_start_row(25_000, 3, until_empty=True) == 50_000
    assert next_start_row(50_000, 0, until_empty=True) is None


def ack(received, fetched_on=TODAY, data_state="final"):
    return Acknowledged(received, fetched_on, data_state)


def owes(record, date=DAY, today=TODAY, **more):
    ledger = {} if record is None else {date: record}
    found = owed([date], ledger, today, data_state="final", final_after_days=3, **more)
    return found.days, found.whole, found.stale


@pytest.mark.parametrize(
    "record, expected",
    [
        (None, ([OwedDay(DAY)], [], [])),
        (DayRecord(FINAL, {}), ([], [], [])),
        (DayRecord(FINAL, {0: ack(25_000)}), ([], [], [DAY])),
        (DayRecord(PROVISIONAL, {}), ([OwedDay(DAY)], [], [])),
        (DayRecord(FAILED, {}), ([OwedDay(DAY)], [], [])),
        (DayRecord(OPEN, {0: ack(25_000)}), ([OwedDay(DAY, 25_000, 1)], [], [])),
        (DayRecord(OPEN, {0: ack(25_000), 25_000: ack(25_000)}), ([OwedDay(DAY, 50_000, 2)], [], [])),
        (DayRecord(OPEN, {0: ack(25_000), 25_000: ack(7)}), ([], [(DAY, 2)], [])),
        (DayRecord(OPEN, {25_000: ack(25_000)}), ([OwedDay(DAY)], [], [])),
        (DayRecord(OPEN, {0: ack(25_000, data_state="all")}), ([OwedDay(DAY)], [], [DAY])),
        (DayRecord(OPEN, {0: ack(25_000, fetched_on=day(2))}), ([OwedDay(DAY)], [], [DAY])),
        (DayRecord(OPEN, {0: ack(25_000, fetched_on=day(3))}), ([OwedDay(DAY, 25_000, 1)], [], [])),
    ],
)
def test_what_a_day_owes(record, expected):
    assert owes(record) == expected


def test_force_owes_final_days_anew():
    assert owes(DayRecord(FINAL, {}), force=True) == ([OwedDay(DAY)], [], [])
    assert owes(DayRecord(OPEN, {0: ack(25_000)}), force=True) == ([OwedDay(DAY)], [], [DAY])


def test_young_slices_are_used_within_their_pacific_date():
    young = TODAY - dt.timedelta(days=1)
    assert owes(DayRecord(OPEN, {0: ack(25_000)}), date=young)[0] == [OwedDay(young, 25_000, 1)]


def test_holes_are_owed_wherever_they_are():
    ledger = {day(number): DayRecord(FINAL, {}) for number in (0, 1, 3, 4, 20)}
    found = owed([day(number) for number in range(21)], ledger, TODAY, data_state="final", final_after_days=3)
    assert [owed_day.date for owed_day in found.days] == [day(2), *(day(number) for number in range(5, 20))]


@pytest.mark.parametrize("newest", [True, False])
def test_order(newest):
    dates = [slice_.key.date for slice_ in lease(make(newest=newest))]
    assert dates == sorted(dates, reverse=newest) and len(dates) == 5


def test_a_follow_up_comes_before_new_days():
    plan = make(days=3)
    (first,) = lease(plan, most=1)
    finish(plan, first, 25_000)
    assert [slice_.key for slice_ in lease(plan)][0] == SliceKey(day(2), 25_000)


def test_batches_never_mix_sites_and_sites_and_datasets_take_turns():
    plan = make(PAGE, QUERY, OTHER, days=4)
    batches = [lease(plan, most=4) for _ in range(4)]
    assert [{slice_.dataset.site for slice_ in batch} for batch in batches] == [
        {"sc-domain:a.com"}, {"sc-domain:b.com"}, {"sc-domain:a.com"}, set()
    ]
    assert [slice_.dataset for slice_ in batches[0]] == [PAGE, QUERY, PAGE, QUERY]


def test_what_is_left_is_shared_among_the_workers():
    plan = make(days=9)
    assert [len(lease(plan, workers=3)) for _ in range(4)] == [3, 2, 2, 1]


def test_open_days_are_limited_once_a_day_has_several_slices():
    plan = make(days=20, max_open_days=3)
    batch = lease(plan)
    assert len(batch) == 3
    for slice_ in batch:
        finish(plan, slice_, 25_000)
    follow_ups = lease(plan)
    assert {slice_.key.start_row for slice_ in follow_ups} == {25_000}
    assert lease(plan) == []
    finish(plan, follow_ups[0], 10)
    assert len(lease(plan)) == 1


def test_a_second_answer_is_ignored_and_an_illegal_move_raises():
    plan = make(days=1)
    (slice_,) = lease(plan)
    finish(plan, slice_, 5)
    assert not plan.datasets[PAGE].fetched(slice_.key)
    with pytest.raises(KeyError):
        plan.datasets[PAGE].acknowledge(slice_.key, None)
    other = make(days=1)
    (leased,) = lease(other)
    other.datasets[PAGE].release(leased.key)
    with pytest.raises(RuntimeError, match="can't go from owed to acknowledged"):
        other.datasets[PAGE].acknowledge(leased.key, None)
    assert plan.finished


def fail(plan, slice_, error, *, alone=True, now=0.0, jitter=1.0):
    return plan.failed(slice_, error, alone=alone, now=now, jitter=jitter)


def test_a_fault_is_retried_after_its_backoff_and_the_day_fails_after_its_attempts():
    plan = make(days=2, max_attempts=3)
    bad, good = lease(plan)
    for number, due in enumerate((1.0, 2.0)):
        assert fail(plan, bad, Transient("x"), now=100.0) is Verdict.RETRY
        assert plan.next_due() == 100.0 + due
        plan.wake(100.0 + due - 0.01)
        assert lease(plan) == []
        plan.wake(100.0 + due)
        assert lease(plan) == [bad]
    assert fail(plan, bad, Transient("x")) is Verdict.DAY_FAILED
    finish(plan, good, 1)
    assert plan.finished
    assert list(plan.datasets[PAGE].failed_days) == [bad.key.date]


def test_retry_after_is_kept():
    plan = make(days=1)
    (slice_,) = lease(plan)
    fail(plan, slice_, Transient("x", retry_after=33.0), now=5.0)
    assert plan.next_due() == 38.0


def test_faults_of_whole_batches_send_a_slice_alone_before_they_count():
    plan = make(days=3, max_attempts=1)
    for number in range(2):
        for slice_ in lease(plan):
            assert fail(plan, slice_, Transient("reset"), alone=False) is Verdict.RETRY
        plan.wake(1e9)
    assert [len(lease(plan)) for _ in range(3)] == [1, 1, 1]


@pytest.mark.parametrize("error", [Denied("no"), BadRequest("no")])
def test_no_access_and_a_bad_request_end_one_dataset_with_the_first_cause(error):
    plan = make(PAGE, QUERY, days=2)
    batch = lease(plan)
    page = [slice_ for slice_ in batch if slice_.dataset == PAGE]
    assert fail(plan, page[0], error) is Verdict.DATASET_FAILED
    fail(plan, page[1], BadRequest("later"))
    for slice_ in batch:
        if slice_.dataset == QUERY:
            finish(plan, slice_, 1)
    assert plan.finished
    assert plan.datasets[PAGE].error is error and plan.datasets[QUERY].error is None


def test_a_load_refusal_parks_all_datasets_of_the_site_and_no_other():
    plan = make(PAGE, QUERY, OTHER, days=2)
    assert fail(plan, lease(plan, most=1)[0], LoadQuota("load")) is Verdict.PARKED
    assert [bool(plan.datasets[each].parked) for each in (PAGE, QUERY, OTHER)] == [True, True, False]
    assert {slice_.dataset for slice_ in lease(plan)} == {OTHER}


def test_a_token_is_renewed_at_once_then_with_pauses():
    plan = make(days=1, max_attempts=9)
    (slice_,) = lease(plan)
    fail(plan, slice_, Unauthorized("401"), now=7.0)
    assert plan.next_due() == 7.0
    plan.wake(7.0)
    lease(plan)
    fail(plan, slice_, Unauthorized("401"), now=7.0)
    assert plan.next_due() == 8.0


def run_model(sizes, fault, seed, max_open_days, batch_size):
    """Work a plan off against a model of the server; returns the calls made and the slices acknowledged."""
    dice = random.Random(seed)
    plan = Plan(batch_size=batch_size, max_attempts=10**6, backoff=Backoff(0.0, 0.0))
    for dataset in (PAGE, QUERY):
        days = [OwedDay(day(number)) for number in range(len(sizes))]
        plan.add(DatasetPlan(dataset, days, max_open_days=max_open_days, newest=dice.random() < 0.5))
    leased, calls, done = [], [], []
    while not plan.finished:
        plan.wake(0.0)
        batch = lease(plan, most=dice.randint(1, 9), workers=dice.randint(1, 4))
        assert not set(batch) & set(leased), "leased twice"
        leased += batch
        calls += batch
        assert leased, "nothing leased, nothing to lease, yet not finished"
        slice_ = leased.pop(dice.randrange(len(leased)))
        rows = max(0, min(25_000, sizes[(slice_.key.date - DAY).days] - slice_.key.start_row))
        chance = dice.random()
        if chance < fault / 2:
            error = dice.choice([Transient("x"), BurstQuota("x"), Unauthorized("x")])
            fail(plan, slice_, error, alone=dice.random() < 0.5)
        elif chance < fault:
            plan.datasets[slice_.dataset].release(slice_.key)
        else:
            finish(plan, slice_, rows)
            done.append(slice_)
    assert all(each.published == len(sizes) and not each.failed_days for each in plan.datasets.values())
    return calls, done


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 24_999, 25_000, 25_001, 50_000, 80_000]), min_size=1, max_size=12),
    fault=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 2**32),
    max_open_days=st.integers(1, 20),
    batch_size=st.integers(1, 60),
)
def test_whatever_the_order_each_day_is_published_once_and_each_slice_acknowledged_once(
    sizes, fault, seed, max_open_days, batch_size
):
    calls, done = run_model(sizes, fault, seed, max_open_days, batch_size)
    expected = {
        (dataset, SliceKey(day(number), start_row))
        for dataset in (PAGE, QUERY)
        for number, rows in enumerate(sizes)
        for start_row in range(0, rows + 1 if rows % 25_000 == 0 else rows, 25_000)
    }
    assert len(done) == len(set(done)) and set(done) == expected
    if not fault:
        assert len(calls) == len(expected)  # invariant 7
