"""Decoding: both decoders alike, everything checked, nothing altered."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gscthreads.errors import ApiError, Transient
from gscthreads.model import ROW_LIMIT, Dataset, Report, Slice, SliceKey
from gscthreads.rows import make_decoder

pytest.importorskip("msgspec")
SLOW, FAST = make_decoder(fast=False), make_decoder(fast=True)
DAY = dt.date(2026, 3, 1)


def slice_of(*dimensions):
    return Slice(Dataset("sc-domain:a.com", Report("r", dimensions), "web"), SliceKey(DAY, 0))


PAGE_QUERY = slice_of("page", "query")


def answer(*rows, **more):
    return json.dumps({"rows": list(rows), "responseAggregationType": "byPage", **more}).encode()


def row(keys=("p", "q"), clicks=1, impressions=2, ctr=0.5, position=1.5):
    return {"keys": list(keys), "clicks": clicks, "impressions": impressions, "ctr": ctr, "position": position}


def both(body, slice_=PAGE_QUERY):
    found = [decode(body, slice_) for decode in (SLOW, FAST)]
    assert found[0] == found[1] and repr(found[0]) == repr(found[1])
    return found[0]


def refused(body, slice_=PAGE_QUERY):
    for decode in (SLOW, FAST):
        with pytest.raises(Transient):
            decode(body, slice_)


counts = st.integers(0, 2**40)
numbers = st.one_of(counts, counts.map(float))
valid = st.lists(
    st.fixed_dictionaries(
        {"keys": st.tuples(st.sampled_from("abc"), st.text(max_size=6)).map(list), "clicks": numbers,
         "impressions": numbers},
        optional={"ctr": st.floats(0, 1), "position": st.one_of(st.floats(0, 1e6), st.integers(1, 99))},
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(valid, st.booleans())
def test_both_decoders_give_the_same_rows_once_each_grouped_and_in_order_of_rank(rows, pretty):
    body = json.dumps({"rows": rows, "responseAggregationType": "x"}, indent=2 if pretty else None).encode()
    found = both(body)
    first = {}
    for each in rows:
        page, query = (key.encode("utf-8", "surrogatepass").decode("utf-8", "replace") for key in each["keys"])
        first.setdefault((page, query), (int(each["clicks"]), int(each["impressions"])))
    assert found.received == len(rows) and found.kept == len(first)
    assert {(page, row[2]): (-row[0], -row[1]) for page, group in found.groups for row in group} == first
    for _, group in found.groups:
        assert [row[:3] for row in group] == sorted(row[:3] for row in group)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["rows", "keys", "clicks", "impressions", "ctr", "position", "error", "metadata",
                         "responseAggregationType"]), inner, max_size=5), max_leaves=20,
).map(lambda value: json.dumps(value).encode())))
def test_garbage_raises_nothing_but_our_errors(body):
    for decode in (SLOW, FAST):
        try:
            decode(body, PAGE_QUERY)
        except ApiError:
            pass


def test_numbers_are_kept_bit_for_bit():
    position, ctr = 12.345678901234567, 0.33333333333333337
    body = b'{"rows":[{"keys":["p","q"],"clicks":12.0,"impressions":36,"ctr":0.33333333333333337,' \
           b'"position":12.345678901234567}]}'
    assert both(body).groups == [("p", [(-12, -36, "q", "", "", "", ctr, position)])]


def test_ctr_is_left_out_only_when_the_division_gives_it_back():
    found = both(answer(row(("p", "a"), 1, 3, 1 / 3), row(("p", "b"), 0, 0, 0.0), row(("p", "c"), 1, 3, 0.333)))
    assert {each[2]: each[6] for each in found.groups[0][1]} == {"a": None, "b": 0.0, "c": 0.333}


def test_discover_has_no_position_and_an_empty_answer_no_rows():
    body = b'{"rows":[{"keys":["p","q"],"clicks":1,"impressions":2,"ctr":0.5}]}'
    assert both(body).groups[0][1][0][7] is None
    assert both(b'{"responseAggregationType":"byProperty"}').received == 0
    assert both(b'{"rows":[]}').received == 0
    assert both(answer({"clicks": 3, "impressions": 4, "ctr": 0.75, "position": 1.0}), slice_of()).kept == 1


def test_repeats_count_once_as_first_served_and_still_count_as_received():
    found = both(answer(row(clicks=9), row(clicks=8), row(("p", "z"))))
    assert (found.received, found.kept) == (3, 2)
    assert found.groups[0][1][0][:3] == (-9, -2, "q")


def test_a_date_dimension_is_checked_and_left_out():
    assert both(answer(row(("2026-03-01", "p"))), slice_of("date", "page")).groups[0][0] == "p"
    refused(answer(row(("2026-03-02", "p"))), slice_of("date", "page"))


@pytest.mark.parametrize("key", ["firstIncompleteDate", "first_incomplete_date"])
def test_both_spellings_of_the_first_incomplete_date(key):
    assert both(answer(row(), metadata={key: "2026-02-28"})).first_incomplete == dt.date(2026, 2, 28)
    assert both(answer(row(), metadata={key: "soon"})).first_incomplete is None


def test_strings_arrive_as_they_are_and_half_a_surrogate_becomes_storable():
    nasty = "tab\t nl\n quote\" back\\ 🙂 שלום \x00 %E2%82%AC"
    assert both(answer(row((nasty, "q")))).groups[0][0] == nasty
    both(b'{"rows":[{"keys":["\\ud83d","q"],"clicks":1,"impressions":1}]}').groups[0][0].encode("utf-8")


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"<html>", b'{"rows":null}', b'{"rows":{}}', b'{"rows":[null]}', b'{"rows":[{}]}',
     answer(row(("p",))), answer(row(("p", "q", "r"))), answer(row(("p", 3))), answer(row(("p", None))),
     answer(row(clicks="1")), answer(row(clicks=1.5)), answer(row(clicks=-1)), answer(row(clicks=None)),
     answer(row(clicks=2**60)), answer(row(clicks=True)), answer(row(position="1")), answer(row(ctr=[])),
     answer(row()).replace(b"1.5", b"NaN"), answer(row()).replace(b"1.5", b"1e999"),
     answer(row()).replace(b"1.5", b"Infinity"), answer(row())[:-3], b"\xff" + answer(row()),
     b'{"rows":' + b"[" * 100_000, json.dumps({"rows": [{"clicks": 1, "impressions": 1}]}).encode()],
)
def test_whatever_is_not_the_documented_shape_is_asked_for_again(body):
    refused(body)


def test_more_rows_than_asked_for_are_bounded():
    refused(answer(*[row(("p", str(number))) for number in range(2 * ROW_LIMIT + 1)]))
