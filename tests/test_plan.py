"""The schedule, without threads, sockets or clocks."""

from __future__ import annotations

import datetime as dt
import heapq
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from gscthreads.backoff import Backoff
from gscthreads.errors import BadRequest, BurstQuota, DailyQuota, Denied, LoadQuota, Transient, Unauthorized
from gscthreads.refusals import MAX_RETRY_AFTER
from gscthreads.model import Dataset, Report, Slice, SliceKey
from gscthreads.plan import DatasetPlan, OwedDay, Plan, Verdict, batch_share, next_start_row, owed
from gscthreads.stores.base import FAILED, FINAL, OPEN, PROVISIONAL, Acknowledged, DayRecord
from tests.properties import examples

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


def lease(plan, most=1000, workers=1, out=None):
    return plan.lease(workers=workers, out=workers - 1 if out is None else out, most=lambda site: most)


def totals(plan):
    """(days owed at the start, days published, slices under way)"""
    plans = list(plan.datasets.values())
    assert plan.in_flight == sum(each.in_flight for each in plans)
    return sum(each.owed_days for each in plans), sum(each.published for each in plans), plan.in_flight


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


def test_what_is_left_is_shared_among_the_workers_in_ever_smaller_batches():
    plan = make(days=80)
    assert [len(lease(plan, workers=3, out=3)) for _ in range(9)] == [16, 13, 11, 8, 8, 8, 8, 8, 0]


@pytest.mark.parametrize("available, sizes", [(32, [11, 11, 10]), (11, [4, 4, 3]), (2, [2, 0, 0])])
def test_what_may_be_leased_now_is_enough_for_every_worker(available, sizes):
    plan = make(days=200, max_open_days=available)  # how long days are is not known yet
    assert [len(lease(plan, workers=3, out=out)) for out in range(3)] == sizes


def test_a_batch_that_would_wait_for_a_worker_waits_until_it_is_worth_it():
    plan = make(days=200, max_open_days=16)
    batches = [lease(plan, workers=2, out=out) for out in range(3)]
    assert [len(batch) for batch in batches] == [8, 8, 0]
    for number, slice_ in enumerate(batches[0], 1):
        finish(plan, slice_, 25_000)  # its day goes on
        assert len(lease(plan, workers=2, out=2)) == (6 if number == 6 else 0)  # 10 are under way
    plan = make(days=3)
    assert len(lease(plan, most=1)) == 1
    assert len(lease(plan, out=1)) == 2  # there will not be more


@examples(100)
@given(st.integers(0, 5000), st.integers(0, 5000), st.integers(1, 64), st.integers(0, 70))
def test_a_share_keeps_the_lanes_busy_and_leaves_something_for_the_others(available, more, workers, out):
    share = batch_share(available, available + more, workers=workers, out=out)
    assert share >= 4  # gsc-api.md 8: a batch is worked on in 3 to 8 lanes
    assert share == 4 or (share - 1) * max(1, workers - out) < available
    assert share <= 8 or (share - 1) * (2 * workers - 1) < available + more


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


def test_the_leases_of_a_slice_are_counted():
    plan = make(days=1, max_attempts=9)
    for number in range(1, 4):
        (slice_,) = lease(plan)
        of = plan.datasets[PAGE]
        assert (of.leases(slice_.key), of.first_try(slice_.key)) == (number, number == 1)
        fail(plan, slice_, Transient("x"))
        plan.wake(1e9)


def test_retry_after_is_kept():
    plan = make(days=1)
    (slice_,) = lease(plan)
    fail(plan, slice_, Transient("x", retry_after=33.0), now=5.0)
    assert plan.next_due() == 38.0


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("error", [BurstQuota("QPS", status=403, retry_after=30.0),
                                   Transient("down", status=503, retry_after=30.0)])
def test_retry_after_holds_the_whole_site_and_no_other_and_then_one_slice_asks(error, alone):
    plan = make(PAGE, QUERY, OTHER, days=4, batch_size=4)
    batch = lease(plan)
    assert {slice_.dataset for slice_ in batch} == {PAGE, QUERY}
    fail(plan, batch[0], error, alone=alone, now=100.0, jitter=0.0)
    plan.wake(129.9)
    assert {slice_.dataset for slice_ in lease(plan)} == {OTHER}
    assert plan.next_due() == 130.0
    for slice_ in batch[1:]:
        plan.datasets[slice_.dataset].release(slice_.key)
    plan.wake(130.0)
    (probe,) = lease(plan)
    assert lease(plan) == []
    finish(plan, probe, 1)
    assert len(lease(plan)) > 1


def test_nothing_of_a_closed_site_is_due_before_it_opens():
    plan = make(days=2)
    first, second = lease(plan)
    fail(plan, first, Transient("x"), now=100.0)
    assert plan.next_due() == 101.0
    fail(plan, second, BurstQuota("QPS", retry_after=30.0), now=100.0)
    assert plan.next_due() == 130.0
    plan.wake(130.0)
    assert plan.next_due() is None and len(lease(plan)) == 1


def test_a_parked_site_that_is_waited_for_goes_on_at_its_time_with_one_slice():
    plan = make(PAGE, QUERY, OTHER, days=1, max_attempts=9)
    slice_, _ = lease(plan)
    assert fail(plan, slice_, LoadQuota("load")) is Verdict.PARKED
    assert all(each.resting for each in plan.of_site(PAGE.site)) and plan.next_due() is None
    plan.pause_site(PAGE.site, 900.0)
    assert all(each.resting for each in plan.of_site(PAGE.site)) and not plan.datasets[PAGE].stopped
    plan.datasets[QUERY].release(SliceKey(day(0), 0))
    assert {each.dataset for each in lease(plan)} == {OTHER} and plan.next_due() == 900.0
    plan.wake(899.9)
    assert plan.available(PAGE.site) == 0 and lease(plan) == []
    plan.wake(900.0)
    assert not any(each.resting for each in plan.of_site(PAGE.site))
    (probe,) = lease(plan)
    assert probe.dataset.site == PAGE.site and lease(plan) == []


def test_a_slice_that_is_told_to_wait_while_others_get_through_waits_alone():
    plan = make(days=200, batch_size=4)
    for _ in range(10):
        bad, *others = lease(plan)
        plan.health.failed()  # another one, some time ago
        for other in others:
            plan.health.answered()
            finish(plan, other, 1)
        fail(plan, bad, Transient("down", status=503, retry_after=30.0), now=100.0, jitter=0.0)
    assert not plan.datasets[PAGE].gate.closed and len(lease(plan)) == 4
    assert plan.next_due() == 130.0
    (bad, *_) = lease(plan)
    fail(plan, bad, Transient("down", status=503, retry_after=30.0), alone=False, now=100.0, jitter=0.0)
    assert plan.datasets[PAGE].gate.closed


def test_a_refusal_for_speed_that_asks_for_as_long_as_a_spent_quota_is_one():
    plan = make(PAGE, QUERY, days=2)
    (slice_, *_) = lease(plan)
    assert fail(plan, slice_, BurstQuota("QPS", status=429, retry_after=MAX_RETRY_AFTER)) is Verdict.PARKED
    assert plan.datasets[PAGE].parked and plan.datasets[QUERY].parked
    plan = make(days=2)
    (slice_, *_) = lease(plan)
    assert fail(plan, slice_, Transient("down", status=503, retry_after=MAX_RETRY_AFTER)) is Verdict.RETRY


def test_a_site_that_asks_for_patience_again_and_again_is_parked_whichever_slices_asked():
    plan, now = make(PAGE, QUERY, days=20), 0.0
    verdicts = []
    while not plan.datasets[PAGE].parked:
        slice_, *others = lease(plan)
        assert not verdicts or not others
        for other in others:
            plan.datasets[other.dataset].release(other.key)
        verdicts.append(fail(plan, slice_, BurstQuota("QPS", retry_after=60.0), now=now))
        now += 60.0
        plan.wake(now)
    assert verdicts == [Verdict.RETRY] * 11 + [Verdict.PARKED]


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


@examples(60)
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


# -- what is owed, further


@pytest.mark.parametrize(
    "start_row, received, until_empty, expected",
    [
        (0, 0, False, None), (0, 0, True, None), (0, 1, False, None), (0, 1, True, 25_000),
        (0, 24_999, False, None), (0, 24_999, True, 25_000), (0, 25_000, False, 25_000), (0, 25_000, True, 25_000),
        (25_000, 25_000, False, 50_000),  # a day of exactly 50,000 rows is asked at 50,000 too
        (25_000, 0, False, None), (25_000, 0, True, None), (50_000, 25_000, False, 75_000), (50_000, 1, False, None),
    ],
)
def test_next_start_row_whatever_came_and_wherever(start_row, received, until_empty, expected):
    assert next_start_row(start_row, received, until_empty=until_empty) == expected


YESTERDAY = TODAY - dt.timedelta(days=1)


@pytest.mark.parametrize(
    "record, date, more, expected",
    [
        # provisional days resume or are published again like open ones
        (DayRecord(PROVISIONAL, {0: ack(25_000)}), DAY, {}, ([OwedDay(DAY, 25_000, 1)], [], [])),
        (DayRecord(PROVISIONAL, {0: ack(25_000), 25_000: ack(0)}), DAY, {}, ([], [(DAY, 2)], [])),
        (DayRecord(FAILED, {0: ack(25_000)}), DAY, {}, ([OwedDay(DAY, 25_000, 1)], [], [])),
        (DayRecord(OPEN, {}), DAY, {}, ([OwedDay(DAY)], [], [])),
        # slices behind a gap don't count
        (DayRecord(OPEN, {0: ack(25_000), 50_000: ack(3)}), DAY, {}, ([OwedDay(DAY, 25_000, 1)], [], [])),
        # multiples of the slice size
        (DayRecord(OPEN, {0: ack(25_000), 25_000: ack(25_000), 50_000: ack(0)}), DAY, {}, ([], [(DAY, 3)], [])),
        # until_empty wants an empty slice last
        (DayRecord(OPEN, {0: ack(7)}), DAY, {"until_empty": True}, ([OwedDay(DAY, 25_000, 1)], [], [])),
        (DayRecord(OPEN, {0: ack(7), 25_000: ack(0)}), DAY, {"until_empty": True}, ([], [(DAY, 2)], [])),
        (DayRecord(OPEN, {0: ack(0)}), DAY, {"until_empty": True}, ([], [(DAY, 1)], [])),
        # one slice too old spoils the day
        (DayRecord(OPEN, {0: ack(25_000, fetched_on=day(1)), 25_000: ack(25_000)}), DAY, {},
         ([OwedDay(DAY)], [], [DAY])),
        # unsettled data of an earlier Pacific date; settled or of today it may be used
        (DayRecord(OPEN, {0: ack(25_000, fetched_on=YESTERDAY)}), YESTERDAY, {},
         ([OwedDay(YESTERDAY)], [], [YESTERDAY])),
        (DayRecord(OPEN, {0: ack(25_000, fetched_on=TODAY)}), TODAY, {}, ([OwedDay(TODAY, 25_000, 1)], [], [])),
        (DayRecord(PROVISIONAL, {0: ack(5, fetched_on=YESTERDAY)}), YESTERDAY, {},
         ([OwedDay(YESTERDAY)], [], [YESTERDAY])),
        # force starts anew whatever is there, and so does a whole day
        (DayRecord(FINAL, {0: ack(25_000)}), DAY, {"force": True}, ([OwedDay(DAY)], [], [DAY])),
        (DayRecord(OPEN, {0: ack(5)}), DAY, {"force": True}, ([OwedDay(DAY)], [], [DAY])),
        (None, DAY, {"force": True}, ([OwedDay(DAY)], [], [])),
    ],
)
def test_what_a_day_owes_further(record, date, more, expected):
    assert owes(record, date=date, **more) == expected


@pytest.mark.parametrize("age, usable", [(0, False), (1, False), (2, False), (3, True), (30, True)])
def test_slices_of_an_earlier_date_are_used_once_they_showed_settled_data(age, usable):
    fetched_on = DAY + dt.timedelta(days=age)
    found = owes(DayRecord(OPEN, {0: ack(25_000, fetched_on=fetched_on)}), today=fetched_on + dt.timedelta(days=1))
    assert found == (([OwedDay(DAY, 25_000, 1)], [], []) if usable else ([OwedDay(DAY)], [], [DAY]))


def test_owed_days_keep_the_order_asked_for():
    assert [each.date for each in owed([day(2), day(0), day(1)], {}, TODAY, data_state="final",
                                       final_after_days=3).days] == [day(2), day(0), day(1)]


# -- leasing, further


def test_resumed_days_come_before_new_ones_and_go_on_where_they_stopped():
    plan = Plan(batch_size=50, max_attempts=3, backoff=Backoff(1.0, 60.0))
    wanted = [OwedDay(day(0), 25_000, 1), OwedDay(day(1)), OwedDay(day(2), 50_000, 2), OwedDay(day(3))]
    plan.add(DatasetPlan(PAGE, wanted, max_open_days=10, newest=True))
    assert [slice_.key for slice_ in lease(plan)] == [
        SliceKey(day(2), 50_000), SliceKey(day(0), 25_000), SliceKey(day(3), 0), SliceKey(day(1), 0)
    ]
    assert plan.datasets[PAGE].calls(day(2)) == 2 and plan.datasets[PAGE].calls(day(1)) == 0


def test_the_calls_of_a_day_are_counted_until_it_is_whole():
    plan, counted = make(days=1), []
    for received in (25_000, 25_000, 7):
        (slice_,) = lease(plan)
        counted.append(plan.datasets[PAGE].calls(DAY))
        finish(plan, slice_, received)
    assert counted == [0, 1, 2] and plan.datasets[PAGE].calls(DAY) == 0


def test_a_batch_is_as_large_as_batch_size_share_and_site_allow():
    assert len(lease(make(days=9, batch_size=4))) == 4
    assert len(lease(make(days=9), most=2)) == 2
    assert lease(make(days=9), most=0) == []  # the site has enough for now
    assert len(lease(make(days=180), workers=9, out=9)) == 11
    assert len(lease(make(days=90), workers=100, out=0)) == 4


def test_no_worker_takes_much_more_than_its_part_of_the_quota_there_is():
    plan = make(PAGE, days=200)
    assert len(lease(plan, most=30, workers=3)) == 10
    assert len(lease(plan, most=12, workers=3)) == 8  # fewer would take as long
    assert len(lease(plan, most=5, workers=3)) == 5


def test_the_longest_slices_of_a_batch_come_first_once_it_is_known_which_they_are():
    plan = make(PAGE, QUERY, days=100)
    batch = lease(plan, most=4)
    assert [slice_.dataset for slice_ in batch] == [PAGE, QUERY] * 2
    for slice_ in batch:
        plan.datasets[slice_.dataset].fetched(slice_.key)
        plan.datasets[slice_.dataset].acknowledge(slice_.key, None, 900 if slice_.dataset == QUERY else 30)
    assert [slice_.dataset for slice_ in lease(plan, most=6)] == [QUERY] * 3 + [PAGE] * 3


def test_no_key_is_leased_twice_however_often_one_asks():
    plan = make(PAGE, QUERY, OTHER, days=7)
    batches = iter(lambda: lease(plan, most=2, workers=2), [])
    leased = [slice_ for batch in batches for slice_ in batch]
    assert len(leased) == len(set(leased)) == 21
    assert totals(plan) == (21, 0, 21)


def test_while_days_overflow_days_under_way_count_as_open():
    plan = make(days=20, max_open_days=4)
    first = lease(plan, most=1)
    assert len(lease(plan)) == 3 and lease(plan) == []
    finish(plan, first[0], 25_000)
    assert [slice_.key.start_row for slice_ in lease(plan)] == [25_000]
    assert plan.datasets[PAGE].open_days == 1


def test_twice_as_many_of_the_days_under_way_are_expected_to_go_on_as_did_so_far():
    plan = make(days=20, max_open_days=4)
    long, *short = lease(plan, most=3)
    finish(plan, long, 25_000)
    for slice_ in short:
        finish(plan, slice_, 10)
    (follow_up,) = lease(plan, most=1)
    assert follow_up.key.start_row == 25_000
    finish(plan, follow_up, 10)
    assert len(lease(plan)) == 6 and lease(plan) == []  # one of three went on: 4 of 6 may
    assert plan.datasets[PAGE].open_days == 0


def test_days_that_fit_one_slice_are_not_held_back_by_max_open_days():
    plan = make(days=20, max_open_days=2)
    for slice_ in lease(plan):
        finish(plan, slice_, 10)
    assert len(lease(plan)) == 18


@pytest.mark.parametrize("newest", [True, False])
def test_one_open_day_at_a_time_is_sequential_paging(newest):
    sizes = [25_000, 3, 60_000, 0]
    plan, seen = make(days=4, max_open_days=1, newest=newest), []
    while not plan.finished:
        (slice_,) = lease(plan, most=1)
        seen.append(slice_.key)
        finish(plan, slice_, max(0, min(25_000, sizes[(slice_.key.date - DAY).days] - slice_.key.start_row)))
        assert plan.datasets[PAGE].open_days <= 1
    order = [3, 2, 1, 0] if newest else [0, 1, 2, 3]
    assert seen == [
        SliceKey(day(number), start_row) for number in order for start_row in range(0, sizes[number] + 1, 25_000)
        if start_row == 0 or start_row <= sizes[number]
    ]


def test_a_slice_to_be_sent_alone_does_not_wait_until_another_dataset_has_nothing_left():
    plan = make(PAGE, QUERY, days=30, max_attempts=9)
    bad = Slice(PAGE, SliceKey(day(29), 0))
    for most in (3, 2):  # two HTTP batches that fail whole; then it is QUERY's turn
        for slice_ in lease(plan, most=most):
            if slice_ == bad:
                fail(plan, slice_, Transient("reset"), alone=False)
            else:
                finish(plan, slice_, 1)
        plan.wake(1e9)
    assert [lease(plan, most=10) for _ in range(2)] == [[Slice(QUERY, SliceKey(day(27), 0))], [bad]]


def test_a_slice_to_be_sent_alone_after_the_new_days_leaves_them_together():
    plan = make(days=5, max_attempts=9)
    for number in range(3):
        (bad,) = lease(plan, most=1)
        fail(plan, bad, Transient("reset"), alone=False)
        plan.wake(1e9)
    assert [[slice_.key.date for slice_ in lease(plan)] for _ in range(3)] == [
        [day(3), day(2), day(1), day(0)], [bad.key.date], []]


def test_a_slice_that_failed_twice_waits_until_no_new_day_can_be_begun():
    plan = make(days=4, max_attempts=9)
    for number in range(2):
        (bad,) = lease(plan, most=1)
        assert bad.key.date == day(3)
        fail(plan, bad, Transient("x"))
        plan.wake(1e9)
    (bad,) = lease(plan, most=1)
    fail(plan, bad, Transient("x"))
    plan.wake(1e9)
    assert [slice_.key.date for slice_ in lease(plan)] == [day(2), day(1), day(0), day(3)]


def test_whatever_waits_is_owed_until_the_dataset_ends():
    plan = make(days=4, max_attempts=9)
    of = plan.datasets[PAGE]
    for number in range(3):  # then it comes after new days
        (bad,) = lease(plan, most=1)
        assert of.owed == 3
        fail(plan, bad, Transient("x"))
        assert of.owed == 4
        plan.wake(1e9)
        assert of.owed == 4
    long, other = lease(plan, most=2)
    finish(plan, long, 25_000)
    assert of.owed == 3  # a follow-up, a new day, and the bad one
    fail(plan, other, Transient("x"))
    assert of.owed == 4
    (follow_up,) = lease(plan, most=1)
    assert fail(plan, follow_up, Denied("no")) is Verdict.DATASET_FAILED
    assert of.owed == 0 and of.available() == 0 and not of.unfinished


# -- outcomes, further


def test_a_released_slice_is_leased_again_as_if_never_leased():
    plan = make(days=1)
    for number in range(5):
        (slice_,) = lease(plan)
        plan.datasets[PAGE].release(slice_.key)
        assert plan.datasets[PAGE].in_flight == 0
    (slice_,) = lease(plan)
    assert plan.datasets[PAGE].first_try(slice_.key) and plan.datasets[PAGE].leases(slice_.key) == 1
    plan.datasets[PAGE].fetched(slice_.key)
    plan.datasets[PAGE].release(slice_.key)  # answered meanwhile: nothing to release
    assert lease(plan) == []
    plan.datasets[PAGE].acknowledge(slice_.key, None)
    assert plan.finished and totals(plan) == (1, 1, 0)


def test_an_answer_to_what_was_not_leased_is_ignored():
    plan = make(days=2)
    of = plan.datasets[PAGE]
    assert not of.fetched(SliceKey(day(0), 0))
    (slice_,) = lease(plan, most=1)
    assert not of.fetched(SliceKey(slice_.key.date, 25_000))
    of.release(slice_.key)
    assert not of.fetched(slice_.key)
    assert fail(plan, slice_, Denied("late")) is Verdict.RETRY
    assert of.error is None and of.in_flight == 0


def test_a_failure_after_the_answer_changes_nothing():
    plan = make(days=1, max_attempts=1)
    (slice_,) = lease(plan)
    plan.datasets[PAGE].fetched(slice_.key)
    assert fail(plan, slice_, Transient("late")) is Verdict.RETRY
    plan.datasets[PAGE].acknowledge(slice_.key, None)
    assert plan.finished and not plan.datasets[PAGE].failed_days


@pytest.mark.parametrize(
    "move",
    [
        lambda of, key: of.acknowledge(key, None),
        lambda of, key: of.retry(key, 0.0),
        lambda of, key: of.fail_day(key, Transient("x")),
    ],
)
@pytest.mark.parametrize("state", ["owed", "fetched"])
def test_illegal_moves_raise(move, state):
    plan = make(days=1)
    (slice_,) = lease(plan)
    of = plan.datasets[PAGE]
    if state == "owed":
        of.release(slice_.key)
    else:
        of.fetched(slice_.key)
        of.acknowledge(slice_.key, None)
    with pytest.raises(RuntimeError if state == "owed" else KeyError):
        move(of, slice_.key)


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_a_day_has_exactly_its_attempts_and_the_others_go_on(attempts):
    plan = make(PAGE, QUERY, days=3, max_attempts=attempts)
    bad, tries = SliceKey(day(1), 0), 0
    while not plan.finished:
        plan.wake(1e9)
        for slice_ in lease(plan):
            if slice_ == (PAGE, bad):
                tries += 1
                fail(plan, slice_, Transient("x", status=500))
            else:
                finish(plan, slice_, 2)
    assert tries == attempts
    assert list(plan.datasets[PAGE].failed_days) == [day(1)] and not plan.datasets[QUERY].failed_days
    assert totals(plan) == (6, 5, 0)
    assert plan.datasets[PAGE].error is None


def test_a_day_that_fails_in_the_middle_of_paging_is_no_longer_open():
    plan = make(days=2, max_attempts=1, max_open_days=1)
    (slice_,) = lease(plan, most=1)
    finish(plan, slice_, 25_000)
    (follow_up,) = lease(plan)
    assert fail(plan, follow_up, Transient("x")) is Verdict.DAY_FAILED
    assert plan.datasets[PAGE].open_days == 0
    assert [slice_.key for slice_ in lease(plan)] == [SliceKey(day(0), 0)]


def troubled(*, answered, failed, max_attempts):
    """A plan of one day, leased, after so many first tries of other slices."""
    plan = make(days=1, max_attempts=max_attempts)
    for _ in range(answered):
        plan.health.answered()
    for _ in range(failed):
        plan.health.failed()
    (slice_,) = lease(plan)
    return plan, slice_


def failing(plan, slice_):
    """The verdicts on *slice_*, which always fails, with when its next try is due."""
    while not plan.finished:
        yield fail(plan, slice_, Transient("x")), plan.next_due()
        plan.wake(1e9)
        lease(plan)


def test_where_half_of_all_answers_are_broken_a_run_of_failures_is_no_reason_to_give_up():
    verdicts = [verdict for verdict, _ in failing(*troubled(answered=50, failed=50, max_attempts=3))]
    assert verdicts == [Verdict.RETRY] * (len(verdicts) - 1) + [Verdict.DAY_FAILED]
    assert 3 < len(verdicts) <= 30  # 0.5 ** 17 < 1e-5, and never more than ten times its share


def test_where_half_of_all_answers_are_broken_a_slice_waits_longer_only_when_its_run_is_beyond_chance():
    tries = failing(*troubled(answered=50, failed=50, max_attempts=9))
    assert [due for _, due in itertools.islice(tries, 7)] == [1.0] * 6 + [60.0]  # 0.5 ** 7 < 0.01


def test_even_where_hardly_anything_works_a_slice_has_no_more_than_ten_times_its_share():
    verdicts = [verdict for verdict, _ in failing(*troubled(answered=1, failed=1000, max_attempts=3))]
    assert verdicts == [Verdict.RETRY] * 29 + [Verdict.DAY_FAILED]


def test_a_refused_http_batch_is_no_verdict_on_its_slices():
    plan = make(days=2, max_attempts=3)
    for slice_ in lease(plan):
        assert fail(plan, slice_, BadRequest("too large", status=413), alone=False) is Verdict.RETRY
    plan.wake(1e9)
    (first,) = lease(plan)
    assert fail(plan, first, BadRequest("unknown dimension", status=400)) is Verdict.DATASET_FAILED
    assert plan.datasets[PAGE].error.status == 400


def test_a_refused_http_batch_leaves_each_slice_its_one_attempt():
    plan = make(days=2, max_attempts=1)
    for slice_ in lease(plan):
        assert fail(plan, slice_, BadRequest("too large", status=413), alone=False) is Verdict.RETRY
    plan.wake(1e9)
    assert [len(lease(plan)) for _ in range(3)] == [1, 1, 0]


def test_the_first_cause_stays():
    plan = make(PAGE, QUERY, days=3)
    batch = lease(plan)
    of_page = [slice_ for slice_ in batch if slice_.dataset == PAGE]
    of_query = [slice_ for slice_ in batch if slice_.dataset == QUERY]
    first, load = Denied("first"), LoadQuota("load")
    fail(plan, of_page[0], first)
    fail(plan, of_query[0], load)
    fail(plan, of_query[1], DailyQuota("later"))
    fail(plan, of_page[1], Denied("later"))
    fail(plan, of_page[2], Transient("later"))
    assert plan.datasets[PAGE].error is first
    assert plan.datasets[QUERY].parked is load and plan.datasets[QUERY].error is None
    assert not plan.finished  # one is still under way
    finish(plan, of_query[2], 1)
    assert plan.finished and lease(plan) == [] and plan.next_due() is None


def test_what_was_under_way_when_the_site_was_parked_still_counts():
    plan = make(days=2)
    first, second = lease(plan)
    fail(plan, first, LoadQuota("load"))
    finish(plan, second, 25_000)
    assert plan.finished  # parked: its follow-up is left to the next run
    assert totals(plan) == (2, 0, 0) and plan.datasets[PAGE].open_days == 1


def test_refusals_for_speed_are_retried_and_in_the_end_park_the_site():
    plan = make(PAGE, OTHER, days=1, max_attempts=2)
    (bad,) = lease(plan)
    verdicts = []
    while not plan.datasets[PAGE].parked:
        verdicts.append(fail(plan, bad, BurstQuota("QPS")))
        plan.wake(1e9)
        while lease(plan):
            pass
    assert verdicts == [Verdict.RETRY] * 11 + [Verdict.PARKED]
    assert not plan.datasets[OTHER].parked


def test_a_token_that_is_never_accepted_ends_the_dataset():
    plan = make(days=1, max_attempts=3)
    (slice_,) = lease(plan)
    verdicts = []
    while not plan.finished:
        verdicts.append(fail(plan, slice_, Unauthorized("401")))
        plan.wake(1e9)
        lease(plan)
    assert verdicts == [Verdict.RETRY, Verdict.RETRY, Verdict.DATASET_FAILED]


def test_giving_up_ends_only_what_is_unfinished():
    plan = make(PAGE, OTHER, days=1)
    (done,) = lease(plan)
    finish(plan, done, 1)
    error = Transient("down")
    plan.give_up(error, {PAGE.site, OTHER.site})
    assert plan.finished
    assert [plan.datasets[each].error for each in (PAGE, OTHER)] == (
        [None, error] if done.dataset == PAGE else [error, None])


def test_giving_up_ends_only_the_sites_that_were_asked():
    plan = make(PAGE, OTHER, days=1)
    error = Transient("down")
    plan.give_up(error, {PAGE.site})
    assert [plan.datasets[each].error for each in (PAGE, OTHER)] == [error, None]


def test_delays_grow_with_the_attempts_and_the_jitter_is_full():
    for jitter, dues in ((1.0, [1.0, 2.0, 4.0, 8.0]), (0.5, [0.5, 1.0, 2.0, 4.0]), (0.0, [0.0] * 4)):
        plan = make(days=1, max_attempts=9)
        (slice_,) = lease(plan)
        found = []
        for number in range(4):
            fail(plan, slice_, Transient("x"), jitter=jitter)
            found.append(plan.next_due())
            plan.wake(1e9)
            lease(plan)
        assert found == dues


# -- any interleaving, with crashes


class AnyInterleaving(RuleBasedStateMachine):
    """A plan against a model of Google and of the store; every rule is one event that may happen at any time."""

    @initialize(
        sizes=st.lists(
            st.one_of(st.sampled_from([0, 24_999, 25_000, 25_001, 50_000, 75_000, 80_000]), st.integers(0, 80_000)),
            min_size=1, max_size=6,
        ),
        max_open_days=st.integers(1, 7),
        newest=st.booleans(),
    )
    def begin(self, sizes, max_open_days, newest):
        self.sizes, self.max_open_days, self.newest = sizes, max_open_days, newest
        self.staged = {dataset: {} for dataset in (PAGE, QUERY, OTHER)}
        self.published = {dataset: set() for dataset in self.staged}
        self.acknowledged, self.calls, self.undisturbed = [], [], True
        self.leased = []
        self.make_plan()

    def make_plan(self):
        self.begun = set()  # slices leased from this plan
        self.plan = Plan(batch_size=5, max_attempts=10**6, backoff=Backoff(0.0, 0.0))
        for dataset in self.staged:
            ledger = {date: DayRecord(OPEN, slices) for date, slices in self.staged[dataset].items()}
            ledger.update((date, DayRecord(FINAL, {})) for date in self.published[dataset])
            dates = [day(number) for number in range(len(self.sizes))]
            found = owed(dates, ledger, TODAY, data_state="final", final_after_days=3)
            assert not found.stale and not found.whole
            self.plan.add(
                DatasetPlan(dataset, found.days, max_open_days=self.max_open_days, newest=self.newest))

    @rule(workers=st.integers(1, 4), most=st.integers(1, 6))
    def lease(self, workers, most):
        self.plan.wake(0.0)
        open_days = {dataset: plan.open_days for dataset, plan in self.plan.datasets.items()}
        batch = self.plan.lease(workers=workers, out=0, most=lambda site: most)
        assert not set(batch) & set(self.leased)
        assert len({slice_.dataset.site for slice_ in batch}) <= 1 and len(batch) <= min(5, most)
        assert not set(batch) & set(self.acknowledged)
        self.leased += batch
        self.calls += batch
        self.check_open_days([each for each in batch if each.key.start_row == 0 and each not in self.begun], open_days)
        self.begun.update(batch)

    def check_open_days(self, begun, open_days):
        """How long the days under way are is only guessed (docs/architecture.md); before there was an answer all of
        them may be long."""
        for dataset in {slice_.dataset for slice_ in begun}:
            assert open_days[dataset] < self.max_open_days
            if self.undisturbed and not self.begun & set(self.acknowledged):
                under_way = {slice_.key.date for slice_ in self.leased if slice_.dataset == dataset}
                assert len(under_way | set(self.staged[dataset])) <= self.max_open_days

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def answer(self, data):
        self.answered(self.leased.pop(data.draw(st.integers(0, len(self.leased) - 1))))

    def answered(self, slice_):
        plan = self.plan.datasets[slice_.dataset]
        (date, start_row, _), staged = slice_.key, self.staged[slice_.dataset]
        received = max(0, min(25_000, self.sizes[(date - DAY).days] - start_row))
        following = next_start_row(start_row, received)
        assert plan.fetched(slice_.key)
        assert not plan.fetched(slice_.key)  # the same answer again
        if following is None:
            assert date not in self.published[slice_.dataset], "published twice"
            assert sorted(staged.pop(date, {})) == list(range(0, start_row, 25_000)), "published with a hole"
            self.published[slice_.dataset].add(date)
        else:
            staged.setdefault(date, {})[start_row] = ack(received)
        self.acknowledged.append(slice_)
        plan.acknowledge(slice_.key, following)

    @precondition(lambda self: self.leased)
    @rule(
        data=st.data(),
        error=st.sampled_from([Transient("x"), BurstQuota("x"), Unauthorized("x"), None]),
        alone=st.booleans(),
    )
    def fail(self, data, error, alone):
        slice_ = self.leased.pop(data.draw(st.integers(0, len(self.leased) - 1)))
        self.undisturbed = False
        self.plan.health.answered()  # so that no run of failures is held against a slice
        self.plan.health.failed()
        if error is None:
            self.plan.datasets[slice_.dataset].release(slice_.key)
        elif fail(self.plan, slice_, error, alone=alone) is Verdict.PARKED:
            self.restart()

    @rule()
    def restart(self):
        """Killed and started again: only what the store has is known."""
        self.undisturbed = self.undisturbed and not self.leased
        self.leased = []
        self.make_plan()

    def teardown(self):
        if not hasattr(self, "plan"):
            return
        for number in range(10_000):
            self.lease(1, 6)
            if self.plan.finished:
                break
            assert self.leased, "nothing under way, nothing to lease, yet not finished"
            self.answered(self.leased.pop())
        expected = {
            Slice(dataset, SliceKey(day(number), start_row))
            for dataset in self.staged
            for number, rows in enumerate(self.sizes)
            for start_row in range(0, rows + 1, 25_000)
        }
        assert len(self.acknowledged) == len(expected) and set(self.acknowledged) == expected
        assert all(len(dates) == len(self.sizes) for dates in self.published.values())
        if self.undisturbed:
            assert len(self.calls) == len(expected)


TestAnyInterleaving = AnyInterleaving.TestCase
TestAnyInterleaving.settings = examples(60, stateful_step_count=40)


# -- how long it takes: a simulated server, which works on *lanes* slices of each HTTP batch at once


def takes(workers, lanes, *, days=180):
    """Seconds from the first lease to the last answer, and those it would take if no lane ever had nothing to do.  14
    days of page_query have two slices; a slice takes 0.08 s and 0.105 ms a row."""
    dates = [dt.date(2026, 3, 1) - dt.timedelta(days=number) for number in range(days)]
    rows = {date: 26_930 if number * 14 // 180 != (number + 1) * 14 // 180 else 20_900
            for number, date in enumerate(dates)}
    plan = Plan(batch_size=50, max_attempts=5, backoff=Backoff(1.0, 60.0))
    for dataset in (PAGE, QUERY):
        plan.add(DatasetPlan(dataset, [OwedDay(date) for date in dates], max_open_days=16, newest=True))
    events, leased_ahead, numbers = [], [], itertools.count()
    out = busy = 0
    now = work = 0.0

    def send(batch):
        nonlocal work
        free, end = [now] * lanes, now
        for slice_ in batch:
            whole = 3_000 if slice_.dataset == PAGE else rows[slice_.key.date]
            received = min(25_000, whole - slice_.key.start_row)
            lane = min(range(lanes), key=free.__getitem__)
            free[lane] += 0.08 + 0.000105 * received
            work += 0.08 + 0.000105 * received
            end = max(end, free[lane])  # the answer has its parts in order
            heapq.heappush(events, (end, next(numbers), slice_, received))
        heapq.heappush(events, (end, next(numbers), None, 0))

    while True:
        while out <= workers:  # one is leased ahead
            batch = plan.lease(workers=workers, out=out, most=lambda site: 50)
            if not batch:
                break
            out += 1
            leased_ahead.append(batch)
        while leased_ahead and busy < workers:
            busy += 1
            send(leased_ahead.pop(0))
        if not events:
            assert plan.finished
            return now, work / workers / lanes
        now, _, slice_, received = heapq.heappop(events)
        if slice_ is None:
            out, busy = out - 1, busy - 1
            continue
        dataset = plan.datasets[slice_.dataset]
        assert dataset.fetched(slice_.key)
        dataset.acknowledge(slice_.key, next_start_row(slice_.key.start_row, received), received)


@pytest.mark.parametrize("workers, lanes, most", [(1, 1, 1.01), (3, 4, 1.1), (3, 8, 1.25), (6, 4, 1.2)])
def test_hardly_a_lane_has_nothing_to_do(workers, lanes, most):
    took, best = takes(workers, lanes)
    assert best <= took <= most * best


def test_towards_the_end_the_longest_come_first_so_that_short_ones_are_left():
    plan = make(PAGE, QUERY, days=300)
    for dataset, rows in ((PAGE, 30), (QUERY, 900)):
        for _ in range(100):
            key = plan.datasets[dataset].lease().key
            plan.datasets[dataset].fetched(key)
            plan.datasets[dataset].acknowledge(key, None, rows)
    seen = [sum(slice_.dataset == QUERY for slice_ in batch) / len(batch)
            for batch in iter(lambda: lease(plan, workers=3, most=6), [])]
    assert seen[0] == 0.5 and 1.0 in seen
    assert seen == sorted(seen[: seen.index(1.0)]) + sorted(seen[seen.index(1.0):], reverse=True)
    assert seen[-1] == 0.0
