"""kill -9 at every boundary of every transaction, in storms, and at random instants.

After each kill: no acknowledged slice is asked for again, and the truth at the end.  GSCTHREADS_KILLS=200 for more
random ones, more storms, and more of two runs at once.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import itertools
import os
import random

import pytest

from . import checks, seams, small
from .child import BOUNDARIES, Zygote

KILLS = int(os.environ.get("GSCTHREADS_KILLS", "20"))

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and kill -9")


@pytest.fixture(scope="module")
def zygote():
    with Zygote() as running:
        yield running


@pytest.fixture(scope="module")
def sim():
    with small.simulator(shuffle_ties="slice", latency_jitter=0.002) as running:
        yield running


@pytest.fixture(params=["sqlite", "postgres"])
def new_place(request, tmp_path):
    """Makes places for a store: file names, or URLs of Postgres."""
    numbers = itertools.count()
    if request.param == "postgres":
        from tests import postgres_server

        return postgres_server.server().schema
    return lambda: tmp_path / f"{next(numbers)}.db"


def settings(sim, path, dates, **more):
    return {
        "sites": [small.SITE], "store": checks.url_of(path), "credentials": sim.credentials(), "start": dates[-1],
        "end": dates[0], "api_root": sim.url, "rate_limit_enabled": False, "batch_size": 3,
        **more,
    }


def statuses(path):
    with checks.opened(path) as database:
        return collections.Counter(status for status, in database.execute("SELECT status FROM gsc_runs"))


def test_a_kill_at_any_boundary_of_a_transaction_loses_nothing_and_refetches_nothing(zygote, sim, new_place):
    dates = small.days(4)
    reached = []
    # How many boundaries there are depends on how the workers' answers meet; the last ones are named instead.
    ends = [{"die_in": f"store.{name}.{when}"} for name in ("prepare", "close") for when in ("before", "after")]
    everywhere = itertools.chain(ends, ({"die_at": number} for number in itertools.count(1)))
    for death in everywhere:
        path = new_place()
        values = settings(sim, path, dates, max_concurrency=1, max_in_flight=1, batch_size=2)
        ended = zygote.sync(values, limit=small.LIMIT, **death)
        if ended.status is not None:
            break
        reached += ended.passed[-1:]
        acknowledged, seen = checks.ledger(path, small.LIMIT), len(sim.log)
        assert zygote.sync(values, limit=small.LIMIT).status == "complete", ended
        assert not acknowledged.intersection(small.asked_since(sim, seen)), ended
        small.assert_truth(sim, path, dates)
    assert ended.status == "complete" and set(reached) == BOUNDARIES and len(reached) > 40, (ended.status, reached)
    print(f"killed at {len(reached)} boundaries")


@pytest.mark.parametrize("seed", range(max(1, KILLS // 20)))
def test_a_storm_of_kills_each_a_few_boundaries_after_the_last_ends_with_the_truth(seed, zygote, sim, new_place):
    dice, dates, path = random.Random(seed), small.days(12), new_place()
    order = dice.choice(("newest", "oldest"))
    values = settings(sim, path, dates, max_concurrency=3, order=order, max_open_days=dice.choice((1, 2, 16)))
    kills = 0
    acknowledged = set()
    while True:
        seen = len(sim.log)
        ended = zygote.sync(values, limit=small.LIMIT, die_at=dice.randint(5, 20))
        assert not acknowledged.intersection(small.asked_since(sim, seen))
        found = checks.ledger(path, small.LIMIT)
        assert acknowledged <= found
        acknowledged = found
        if ended.status is not None:
            break
        kills += 1
    assert ended.status == "complete" and kills > 3
    small.assert_truth(sim, path, dates)
    assert set(statuses(path)) == {"complete", "killed"}


def test_kills_at_random_instants_lose_nothing_and_refetch_nothing(zygote, sim, new_place):
    dice, dates = random.Random(KILLS), small.days(40)
    kills = generation = 0
    while kills < KILLS:
        path = new_place()
        generation += 1
        values = settings(sim, path, dates, max_concurrency=dice.choice((1, 3)), batch_size=dice.choice((1, 4, 20)))
        acknowledged, status = set(), None
        while status is None:
            seen = len(sim.log)
            status = zygote.sync(values, limit=small.LIMIT, die_after=dice.random() * 0.25).status
            kills += status is None
            assert not acknowledged.intersection(small.asked_since(sim, seen)), (generation, kills)
            found = checks.ledger(path, small.LIMIT)
            assert acknowledged <= found
            acknowledged = found
        assert status == "complete"
        small.assert_truth(sim, path, dates)
        assert set(statuses(path)) <= {"complete", "killed"}


def test_kills_of_two_runs_that_share_a_store_with_others_lose_nothing_and_refetch_nothing(zygote, sim, new_place):
    """Each has a report of its own, and another process opens and closes the (SQLite) file all the while: who dies
    leaves its part of the log to others."""
    dice, dates, kills = random.Random(KILLS + 1), small.days(25), 0
    with Zygote() as second, concurrent.futures.ThreadPoolExecutor(2) as pool:
        while kills < max(8, KILLS // 2):
            path, acknowledged, ended = new_place(), set(), [None, None]
            runs = [
                (each, settings(sim, path, dates, reports=[report], batch_size=dice.choice((1, 4, 20))))
                for each, report in ((zygote, "page"), (second, "page_query"))
            ]
            with contextlib.nullcontext() if checks.is_url(path) else seams.neighbour(str(path)):
                while ended != ["complete", "complete"]:
                    seen = len(sim.log)
                    started = [
                        pool.submit(each.sync, values, limit=small.LIMIT, die_after=dice.random() * 0.3)
                        for each, values in runs
                    ]
                    ended = [each.result().status for each in started]
                    kills += ended.count(None)
                    assert set(ended) <= {"complete", None}
                    assert not acknowledged.intersection(small.asked_since(sim, seen)), kills
                    found = checks.ledger(path, small.LIMIT)
                    assert acknowledged <= found
                    acknowledged = found
            small.assert_truth(sim, path, dates)
            assert set(statuses(path)) <= {"complete", "killed"}
