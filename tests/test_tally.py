"""The figures of a run."""

from __future__ import annotations

import datetime as dt

from gscthreads.ending import Ending
from gscthreads.errors import BurstQuota, Transient
from gscthreads.figures import COMPLETE, HALTED, PARKED, RUNNING, Counters
from gscthreads.model import Dataset, Report, Slice, SliceKey
from gscthreads.tally import Tally

DATASET = Dataset("sc-domain:one.example", Report("page", ("page",)), "web")
OTHER = DATASET._replace(search_type="image")
DAYS = [dt.date(2026, 1, number) for number in (1, 2, 3)]
BROKEN, HALT = Transient("broken"), Ending(HALTED, "Ctrl-C")


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
