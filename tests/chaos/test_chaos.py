"""Seeded chaos: a whole sync under everything that can go wrong at once, compared with the truth.

50 seeds by default; GSCTHREADS_CHAOS_SEEDS="0:1000" for more, or ``python -m tests.chaos --seeds 0:1000``.
"""

from __future__ import annotations

import os

import pytest

from tests import postgres_server

from . import schedule
from .runner import run_seed

FIRST, STOP = map(int, os.environ.get("GSCTHREADS_CHAOS_SEEDS", "0:50").split(":"))

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors as Linux shows them")


@pytest.mark.parametrize("seed", range(FIRST, STOP))
def test_a_sync_in_chaos_ends_with_the_truth_and_leaves_nothing_behind(seed):
    report = run_seed(seed)
    assert report.ok, str(report)


@pytest.mark.parametrize("seed", range(FIRST, STOP, 5))
def test_the_same_in_postgres_with_connections_cut_and_the_server_restarted(seed):
    report = run_seed(seed, postgres_server.own_server())
    assert report.ok, str(report)


def test_the_same_seed_draws_the_same_scenario_and_many_seeds_draw_everything():
    assert schedule.draw(5) == schedule.draw(5)
    drawn = [schedule.draw(seed) for seed in range(1000)]
    assert {name for each in drawn for name in each.faults} == set(schedule.PASSING)
    rounds = [plan for each in drawn for plan in each.rounds]
    assert {name for plan in rounds for name, _, _ in plan.hangs} == set(schedule.HANGING)
    assert {plan.stop[0] for plan in rounds if plan.stop} == set(schedule.STOPPING)
    assert {plan.retry_after for plan in rounds} == set(schedule.RETRY_AFTER)
    points = {point for plan in rounds for point, _, _ in plan.errors}
    assert points == {*schedule.WORKER_POINTS, *schedule.STORE_POINTS}
    assert {24_999, 25_000, 25_001} <= {rows for each in drawn for rows in each.sizes.values()}
    for wanted in ("jumps", "switch", "anew", "young", "company"):
        assert {bool(getattr(each, wanted)) for each in drawn} == {True, False}, wanted
