"""What the chaos runs found once, each small and certain."""

from __future__ import annotations

import pytest

import gscthreads
from gscthreads.stores import open_store

from . import checks, seams, small


def test_a_slice_committed_just_before_the_coordinator_dies_is_not_thrown_away_with_the_new_store(tmp_path):
    path = tmp_path / "search.db"

    def die(words):
        raise RuntimeError(words)

    with small.simulator() as sim, seams.slices_of(small.LIMIT):
        points = seams.Seams()
        points.at("store.commit.after", 2, die)  # the first is that of the run's own line
        store = seams.SeamStore(open_store(f"sqlite:///{path}"), points)
        with pytest.raises(RuntimeError, match="chaos"):
            gscthreads.Sync(small.config(sim, store, small.days(6))).run()
        assert path.exists()
        acknowledged, seen = checks.ledger(path, small.LIMIT), len(sim.log)
        assert acknowledged
        assert gscthreads.Sync(small.config(sim, f"sqlite:///{path}", small.days(6))).run().status == "complete"
        assert not acknowledged.intersection(small.asked_since(sim, seen))
        small.assert_truth(sim, path, small.days(6))
