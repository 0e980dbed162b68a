"""How a run and its datasets end."""

from __future__ import annotations

import datetime as dt

import pytest

from gscthreads.ending import Ending, dataset_ending, run_ending
from gscthreads.errors import Denied, LoadQuota, Transient
from gscthreads.figures import COMPLETE, FAILED, HALTED, PARKED, DatasetResult
from gscthreads.model import Dataset, Report
from gscthreads.plan import DatasetPlan, OwedDay
from gscthreads.stores.base import Park

DATASET = Dataset("sc-domain:one.example", Report("page", ("page",)), "web")
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
