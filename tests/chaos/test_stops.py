"""Refusals that no trying again helps against: the run ends at once with words, and the same call goes on later."""

from __future__ import annotations

import pytest

import gscthreads
from gscthreads.errors import CredentialsError
from gscthreads.simulator import GROUPS

from . import checks, seams, small

DATES = small.days(12)

#: What a run ends with, for each kind of refusal (gsc-api.md 5.2), and words of Google's that it tells.
PARKING = {"load_403": "load quota", "daily_403": "Daily Limit Exceeded", "daily_429": "Queries per day"}
FAILING = {
    "forbidden_403": "sufficient permission", "scope_403": "insufficient authentication scopes",
    "api_disabled_403": "it is disabled", "quota_project_403": "requires a quota project",
    "not_found_404": "not found", "invalid_400": "not a valid aggregation type",
}


@pytest.fixture(scope="module")
def shared():
    with small.simulator() as running, seams.slices_of(small.LIMIT):
        yield running


@pytest.fixture
def sim(shared):
    yield shared
    shared.faults.clear()


def assert_goes_on(sim, path, acknowledged, dates=DATES):
    seen = len(sim.log)
    result = gscthreads.Sync(small.config(sim, f"sqlite:///{path}", dates)).run()
    assert (result.status, result.resume_at) == ("complete", ""), result.reason
    assert not acknowledged.intersection(small.asked_since(sim, seen))
    small.assert_truth(sim, path, dates)


def test_every_refusal_of_the_look_alike_that_lasts_is_tried_here():
    assert {*PARKING, *FAILING, "token_invalid_grant"} == {*GROUPS["load"], *GROUPS["final"]}


@pytest.mark.parametrize("after", [0, 9])
@pytest.mark.parametrize("name", [*PARKING, *FAILING])
def test_a_refusal_that_lasts_ends_the_run_without_hammering_and_loses_nothing(name, after, sim, tmp_path):
    path, seen = tmp_path / "search.db", len(sim.log)
    script = sim.faults.script(name, times=None, after=after)
    sync = gscthreads.Sync(small.config(sim, f"sqlite:///{path}", DATES, max_concurrency=2))
    result = sync.run()
    sim.faults.clear()
    assert (result.status, result.exit_status) == (("parked", 3) if name in PARKING else ("failed", 1))
    words = {**PARKING, **FAILING}[name]
    assert any(words in each.error for each in result.datasets)
    assert bool(result.resume_at) == (name in PARKING)
    # What was under way together is all that asks in vain: two workers' batches and what went ahead, and once more
    # alone for each of the two datasets, because a batch as a whole might have been refused.
    assert 1 <= script.hits <= 20
    assert len(small.asked_since(sim, seen)) == result.calls <= after + 20
    acknowledged = checks.ledger(path, small.LIMIT)
    assert bool(acknowledged) == bool(after)
    assert_goes_on(sim, path, acknowledged)


def test_a_refresh_that_fails_for_good_in_the_middle_ends_the_run_with_words(sim, tmp_path):
    path, points = tmp_path / "search.db", seams.Seams()

    def revoke(words):
        sim.faults.script("token_invalid_grant", times=None)
        sim.revoke(refresh=False)

    points.at("store.commit.after", 4, revoke)
    store = seams.SeamStore(gscthreads.stores.open_store(f"sqlite:///{path}"), points)
    sync = gscthreads.Sync(small.config(sim, store, DATES))
    with pytest.raises(CredentialsError, match="invalid_grant"):
        sync.run()
    sim.faults.clear()
    acknowledged = checks.ledger(path, small.LIMIT)
    assert acknowledged
    assert_goes_on(sim, path, acknowledged)
