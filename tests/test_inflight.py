"""The HTTP batches under way."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gscthreads.errors import Transient
from gscthreads.inflight import Fate, InFlight
from gscthreads.model import Dataset, Report, Slice, SliceKey
from gscthreads.worker import BatchEnded
from tests.properties import examples


def slices(count, site="sc-domain:one.example"):
    dataset = Dataset(site, Report("page", ("page",)), "web")
    return [Slice(dataset, SliceKey(dt.date(2026, 1, 1) + dt.timedelta(days=number), 0)) for number in range(count)]


def assert_nothing_is_kept(in_flight):
    kept = [value for name, value in vars(in_flight).items() if name != "_numbers"]
    assert len(kept) == 4 and not any(kept)


def test_a_batch_counts_until_it_has_ended():
    in_flight, two = InFlight(), "sc-domain:two.example"
    first, second = in_flight.begin(slices(2), set()), in_flight.begin(slices(1, two), set(slices(1, two)))
    assert (first.number, second.number, second.again) == (0, 1, frozenset(slices(1, two)))
    assert (len(in_flight), in_flight.at(two), in_flight.at("other")) == (2, 1, 0)
    for slice_ in second.slices:
        in_flight.answered(slice_)
    assert len(in_flight) == 2
    in_flight.ended(BatchEnded(second))
    assert (len(in_flight), in_flight.at(two)) == (1, 0)


def test_what_came_of_a_batch():
    in_flight, error = InFlight(), Transient("no", reason="x")
    batch = in_flight.begin(slices(4), set())
    in_flight.answered(batch.slices[0])
    in_flight.failed(batch.slices[1], error)
    assert in_flight.ended(BatchEnded(batch, unsent=[batch.slices[2]])) == Fate(True, error, [batch.slices[3]])


def test_a_slice_that_brought_what_can_not_be_used_is_no_answer_and_no_error():
    in_flight = InFlight()
    batch = in_flight.begin(slices(1), set())
    in_flight.failed(batch.slices[0], None)
    assert in_flight.ended(BatchEnded(batch)) == Fate(False, None, [])


def test_a_slice_that_is_under_way_again_belongs_to_its_new_batch():
    in_flight = InFlight()
    first = in_flight.begin(slices(1), set())
    in_flight.failed(first.slices[0], Transient("no", reason="x"))
    second = in_flight.begin(slices(1), set(slices(1)))
    assert in_flight.ended(BatchEnded(first)).silent == []
    in_flight.answered(second.slices[0])
    assert in_flight.ended(BatchEnded(second)) == Fate(True, None, [])


def test_words_about_a_slice_of_no_batch_are_nobodys():
    in_flight = InFlight()
    in_flight.answered(slices(1)[0])
    in_flight.failed(slices(1)[0], Transient("no", reason="x"))
    assert_nothing_is_kept(in_flight)
    batch = in_flight.begin(slices(1), set())
    assert in_flight.ended(BatchEnded(batch)) == Fate(False, None, list(batch.slices))


@examples(100)
@given(st.lists(st.sampled_from(["answered", "failed", "unsent", "silent"]), min_size=1, max_size=8))
def test_whatever_comes_of_the_slices_nothing_is_kept_after_the_end(fates):
    in_flight, error = InFlight(), Transient("no", reason="x")
    batch = in_flight.begin(slices(len(fates)), set())
    by_fate = {fate: [each for each, its in zip(batch.slices, fates) if its == fate] for fate in fates}
    for slice_ in by_fate.get("answered", ()):
        in_flight.answered(slice_)
    for slice_ in by_fate.get("failed", ()):
        in_flight.failed(slice_, error)
    assert in_flight.ended(BatchEnded(batch, unsent=by_fate.get("unsent", []))) == Fate(
        "answered" in fates, error if "failed" in fates else None, by_fate.get("silent", [])
    )
    assert_nothing_is_kept(in_flight)
    with pytest.raises(KeyError):
        in_flight.ended(BatchEnded(batch))
