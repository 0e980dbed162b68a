"""The figures of a run, and how it and its datasets end."""

from __future__ import annotations

import datetime as dt

import pytest

from gscthreads.ending import Ending, dataset_ending, run_ending
from gscthreads.errors import BurstQuota, Denied, LoadQuota, Transient
from gscthreads.figures import COMPLETE, FAILED, HALTED, PARKED, RUNNING, Counters, DatasetResult
from gscthreads.model import Dataset, Report, Slice, SliceKey
from gscthreads.plan import DatasetPlan, OwedDay
from gscthreads.stores.base import Park
from gscthreads.tally import Tally

DATASET = Dataset("sc-domain:one.example", Report("page", ("page",)), "web")
OTHER = DATASET._replace(search_type="image")
DAYS = [dt.date(2026, 1, number) for number in (1, 2, 3)]
NOON = dt.datetime(2026, 1, 5, 12, tzinfo=dt.timezone.utc)
PARK = Park(NOON, NOON, "spent")

NO_ACCESS, SPENT, BROKEN = Denied("no access"), LoadQuota("spent"), Transient("broken")
HALT = Ending(HALTED, "Ctrl-C")


def plan(*, done=0, **attributes):
    made = DatasetPlan(DATASET, [OwedDay(date) for date in DAYS], max_open_days=9, newest=True)
    for _ in range(done):
        slice_ = made.lease()
        made.fetched(slice_.key)
        made.acknowledge(slice_.key, None)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    "made, early, expected",
    [
        (plan(done=3), HALT, (COMPLETE, "")),
        (plan(done=3), Ending(FAILED, "disk"), (COMPLETE, "")),
        (plan(done=2), HALT, (HALTED, "")),
        (plan(done=2), Ending(FAILED, "disk"), (FAILED, "disk")),
        (plan(), Ending(PARKED, "locked"), (PARKED, "locked")),
        (plan(error=NO_ACCESS), HALT, (FAILED, "no access; ask for it")),
        (plan(error=BROKEN), HALT, (FAILED, "broken")),
        (plan(parked=SPENT), HALT, (PARKED, "spent; worth trying again at 2026-01-05 12:00 UTC")),
        (plan(parked=SPENT, error=BROKEN), Ending(PARKED, "locked"), (FAILED, "broken")),
        (plan(failed_days={DAYS[1]: BROKEN}), HALT, (FAILED, "2026-01-02: broken")),
        (plan(failed_days=dict.fromkeys(DAYS[1:], BROKEN)), HALT, (FAILED, "2026-01-02: broken (and 1 more days)")),
        (plan(failed_days=dict.fromkeys(DAYS, BROKEN), parked=SPENT), HALT,
         (FAILED, "2026-01-01: broken (and 2 more days)")),
    ],
)
def test_how_a_dataset_ended(made, early, expected):
    assert dataset_ending(made, early, park=PARK, advice="ask for it") == expected


def test_without_advice_or_a_park_there_is_nothing_to_add():
    assert dataset_ending(plan(error=NO_ACCESS), HALT, park=None, advice="") == (FAILED, "no access")
    assert dataset_ending(plan(parked=SPENT), HALT, park=None, advice="") == (PARKED, "spent")


def ended(status, error=""):
    return DatasetResult("site", "page", "web", status, 0, 0, 0, error)


@pytest.mark.parametrize(
    "early, datasets, expected",
    [
        (HALT, [], (COMPLETE, "")),
        (HALT, [ended(COMPLETE), ended(COMPLETE)], (COMPLETE, "")),
        (HALT, [ended(COMPLETE), ended(HALTED)], HALT),
        (HALT, [ended(HALTED), ended(PARKED, "spent"), ended(PARKED, "later")], (PARKED, "spent")),
        (HALT, [ended(PARKED, "spent"), ended(FAILED, "broken")], (FAILED, "broken")),
        (Ending(PARKED, "locked"), [ended(FAILED, "broken")], (PARKED, "locked")),
        (Ending(FAILED, "disk"), [ended(COMPLETE)], (FAILED, "disk")),
    ],
)
def test_how_a_run_ended(early, datasets, expected):
    assert run_ending(early, datasets) == expected


def test_the_figures_of_a_run():
    now = [100.0]
    tally = Tally(Counters(), peak_qpm=lambda: 77, clock=lambda: now[0])
    tally.owes(DATASET, 3)
    tally.owes(OTHER, 2)
    tally.sent([Slice(DATASET, SliceKey(date, 0)) for date in DAYS], 0)
    tally.sent([Slice(OTHER, SliceKey(DAYS[0], 0))], 1)
    tally.published(DATASET, 40)
    tally.published(DATASET, 2)
    for error in (BROKEN, BurstQuota("QPS"), BROKEN):
        tally.failed(error)
    tally.worked(3.0, crashed=False)
    tally.worked(1.0, crashed=True)
    now[0] = 102.5
    figures = tally.figures(RUNNING, None)
    assert figures[:7] == (RUNNING, 2, 42, 4, 1, 77, 2.5)
    assert (figures.uptime, figures.restarts, figures.faults, figures.halt_seconds) == (
        0.75, 1, '{"BurstQuota": 1, "Transient": 2}', None
    )
    datasets = [tally.dataset_result(DATASET, Ending(COMPLETE)), tally.dataset_result(OTHER, HALT)]
    assert [each[1:] for each in map(tuple_of, datasets)] == [
        ("page", "web", COMPLETE, 2, 42, 3, ""), ("page", "image", HALTED, 0, 0, 1, "Ctrl-C")
    ]
    result = tally.result(HALT, datasets, halt_seconds=0.1, concurrency=3, resume_at="")
    assert tuple_of(result)[:8] == (HALTED, 2, 42, 4, 2, 1, 2.5, 77)
    assert tally.counters["days_owed"] == 5
    assert (result.reason, result.uptime, result.restarts, result.faults, result.halt_seconds, result.concurrency) == (
        "Ctrl-C", 0.75, 1, {"BurstQuota": 1, "Transient": 2}, 0.1, 3
    )


def test_a_dataset_that_another_run_has_and_a_run_without_work_are_all_zero():
    tally = Tally(Counters(), peak_qpm=lambda: 0, clock=lambda: 0.0)
    assert tuple_of(tally.dataset_result(DATASET, Ending(PARKED, "held")))[3:] == (PARKED, 0, 0, 0, "held")
    assert tally.figures(COMPLETE, None).uptime == 1.0


def tuple_of(value):
    return tuple(vars(value).values())
