"""Decoding one slice: both decoders must agree, and whatever is not an answer must become an ApiError."""

from __future__ import annotations

import datetime as dt
import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gscthreads import rows as decoding
from gscthreads.errors import ApiError, BurstQuota, Denied, Transient, Unauthorized
from gscthreads.model import ROW_LIMIT, Dataset, Report, Rows, Slice, SliceKey
from gscthreads.rows import _fast_parsers, make_decoder
from tests.properties import examples

DATE = dt.date(2026, 3, 10)
SLOW = make_decoder(fast=False)
FAST = make_decoder(fast=True)
BOTH = pytest.mark.parametrize("decode", [SLOW, FAST], ids=["json", "msgspec"])


def wanted(*dimensions):
    return Slice(Dataset("sc-domain:a.com", Report("r", dimensions), "web"), SliceKey(DATE, 0))


PAGE_QUERY = wanted("page", "query")


def row(*keys, clicks=1, impressions=2, **more):
    return {"keys": list(keys), "clicks": clicks, "impressions": impressions, **more}


def answer(*rows, **more):
    """Written without spaces, as Google writes it: only such answers are decoded piece by piece."""
    return json.dumps({"rows": list(rows), "responseAggregationType": "byPage", **more}, separators=(",", ":")).encode()


def read(decode, body, slice_=PAGE_QUERY):
    """What *decode* makes of *body*: Rows, or the class of its ApiError; anything else that is raised is a bug."""
    try:
        return decode(body, slice_)
    except ApiError as error:
        return type(error)


def test_the_fast_decoder_is_really_tested():
    pytest.importorskip("msgspec")
    assert len(_fast_parsers()) == 2


# -- answers

text = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("\x00\t\n\r\x1b\x7f\x85\u2028\ufeff\ufffe\U0001f600\"\\/'%,"),
        st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF),
    ),
    max_size=12,
)
count = st.integers(0, 10**7)
SPACED = st.sampled_from([(",", ":"), (", ", ": ")])  # the first is how Google writes


@st.composite
def rows_of(draw, dimensions):
    found = []
    for keys in draw(st.lists(st.tuples(*[text] * len(dimensions)), max_size=12)):
        clicks, more = draw(count), draw(count)
        impressions = clicks + more
        one = {"clicks": clicks, "impressions": impressions}
        if draw(st.booleans()):
            one = {name: float(value) for name, value in one.items()}
        if dimensions or draw(st.booleans()):
            one["keys"] = [DATE.isoformat() if name == "date" else key for name, key in zip(dimensions, keys)]
        ctr = draw(st.sampled_from(["exact", "near", "none", "null", "int"]))
        if ctr != "none":
            exact = clicks / impressions if impressions else 0.0
            one["ctr"] = {"exact": exact, "near": math.nextafter(exact, 2) if hasattr(math, "nextafter") else 2.0,
                          "null": None, "int": 0}[ctr]
        if draw(st.booleans()):
            one["position"] = draw(st.one_of(st.none(), st.integers(1, 100), st.floats(1, 1000)))
        found.append(one)
    return found


ALL_BUT_DATE = ("page", "query", "country", "device", "searchAppearance")
DIMENSIONS = [(), ("page",), ("page", "query"), ("date",), ("date", "page", "query", "country", "device"),
              ("device", "page"), ("query",), ("searchAppearance",)]


@examples(250)
@given(st.data(), st.sampled_from(DIMENSIONS), st.booleans(), st.sampled_from([None, "2026-03-09", "x", 5]), SPACED)
def test_both_decoders_give_the_same_rows_of_any_answer(data, dimensions, ascii_only, incomplete, spaces):
    whole = {"rows": data.draw(rows_of(dimensions)), "responseAggregationType": "byPage"}
    if incomplete is not None:
        whole["metadata"] = {"first_incomplete_date": incomplete}
    try:
        body = json.dumps(whole, ensure_ascii=ascii_only, separators=spaces).encode("utf-8")
    except UnicodeEncodeError:  # lone surrogates travel only as escapes
        body = json.dumps(whole, separators=spaces).encode()
    slice_ = wanted(*dimensions)
    found = SLOW(body, slice_)
    assert repr(FAST(body, slice_)) == repr(found)  # repr: 1 is not 1.0, nor 0.0 -0.0
    assert_sane(found, whole["rows"], dimensions)


def assert_sane(found: Rows, sent, dimensions):
    """The definition of Rows, row by row."""
    assert found.received == len(sent)
    assert found.kept == sum(len(rows) for _, rows in found.groups)
    pages = [page for page, _ in found.groups]
    assert len(set(pages)) == len(pages)
    expected = {}
    for one in sent:
        named = dict(zip(dimensions, one.get("keys") or ()))
        identity = tuple(storable(named.get(name, "")) for name in ALL_BUT_DATE)
        expected.setdefault(identity, one)
    kept = {(page, *row[2:6]): row for page, rows in found.groups for row in rows}
    assert kept.keys() == expected.keys()
    for identity, (clicks, impressions, _, _, _, _, ctr, position) in kept.items():
        one = expected[identity]
        assert (-clicks, -impressions) == (one["clicks"], one["impressions"])
        assert type(clicks) is type(impressions) is int
        rate = one.get("ctr")
        assert ctr == (None if rate is None or one["impressions"] and one["clicks"] / one["impressions"] == rate
                       else rate)
        assert position == one.get("position") and type(position) in (float, type(None))
    for _, rows in found.groups:
        assert [row[:6] for row in rows] == sorted(row[:6] for row in rows)


def storable(value):
    """What is left of *value* in a database: JSON joins surrogate pairs, and half a pair has no UTF-8."""
    whole = json.loads(json.dumps(value))
    return "".join("\ufffd" if 0xD800 <= ord(char) <= 0xDFFF else char for char in whole)


@BOTH
@pytest.mark.parametrize("number", ["12", "12.0", "1.2e1", "120e-1"])
def test_counts_come_whole_or_with_a_point(decode, number):
    body = '{"rows":[{"keys":["p","q"],"clicks":%s,"impressions":%s}]}' % (number, number)
    assert repr(decode(body.encode(), PAGE_QUERY).groups) == repr([("p", [(-12, -12, "q", "", "", "", None, None)])])


@BOTH
def test_numbers_are_kept_bit_for_bit(decode):
    body = b'{"rows":[{"keys":["p","q"],"clicks":12.0,"impressions":36,"ctr":0.33333333333333337,' \
           b'"position":12.345678901234567}]}'
    assert repr(decode(body, PAGE_QUERY).groups) == repr(
        [("p", [(-12, -36, "q", "", "", "", 0.33333333333333337, 12.345678901234567)])])


@BOTH
def test_what_google_leaves_out_is_none(decode):
    ((_, rows),) = decode(answer(row("p", "a"), row("p", "b", ctr=0.5), row("p", "c", ctr=0.25, position=3)),
                          PAGE_QUERY).groups
    assert [each[2:] for each in rows] == [
        ("a", "", "", "", None, None), ("b", "", "", "", None, None), ("c", "", "", "", 0.25, 3.0)
    ]


@BOTH
@pytest.mark.parametrize(
    "clicks, impressions, ctr, kept",
    [
        (1, 3, 1 / 3, None), (1, 3, 0.333, 0.333), (1, 3, 0.33333333333333337, 0.33333333333333337),
        (0, 5, 0, None), (0, 5, 0.0, None), (5, 5, 1, None), (0, 0, 0, 0.0), (0, 0, 0.5, 0.5), (2, 1, 2, None),
        (0, 5, 0.1, 0.1), (3, 3, None, None),
    ],
)
def test_ctr_is_none_exactly_when_the_counts_give_it_back(decode, clicks, impressions, ctr, kept):
    ((_, ((*_, found, _),)),) = decode(
        answer(row("p", "q", clicks=clicks, impressions=impressions, ctr=ctr)), PAGE_QUERY).groups
    assert repr(found) == repr(kept)


@BOTH
def test_rows_stand_by_clicks_then_impressions_then_query_within_their_page(decode):
    sent = [("p", "b", 1, 9), ("o", "z", 0, 1), ("p", "a", 1, 9), ("p", "c", 2, 2), ("p", "d", 1, 10),
            ("o", "A", 0, 1), ("p", "B", 1, 9), ("p", "\u00e4", 1, 9)]
    random.Random(1).shuffle(sent)
    found = decode(answer(*(row(page, query, clicks=part, impressions=whole) for page, query, part, whole in sent)),
                   PAGE_QUERY)
    assert {page: [each[2] for each in rows] for page, rows in found.groups} == {
        "p": ["c", "d", "B", "a", "b", "\u00e4"], "o": ["A", "z"]
    }


@BOTH
def test_rows_alike_in_counts_and_query_stand_by_country_then_device(decode):
    sent = [("q", "usa", "MOBILE"), ("q", "deu", "TABLET"), ("a", "usa", "TABLET"), ("q", "deu", "DESKTOP")]
    ((_, found),) = decode(answer(*[row("p", *keys) for keys in sent]), wanted("page", "query", "country", "device")
                           ).groups
    assert [each[2:5] for each in found] == sorted(sent)


@BOTH
@pytest.mark.parametrize("most", [2**20, 2**30, 2**52])
def test_counts_of_any_size_are_told_apart(decode, most):
    sent = [row("p", query, clicks=most, impressions=most + more) for query, more in (("a", 0), ("b", 2), ("c", 1))]
    sent.append(row("p", "d", clicks=most + 1, impressions=most))
    ((_, found),) = decode(answer(*sent), PAGE_QUERY).groups
    assert [each[2] for each in found] == ["d", "b", "c", "a"]


@BOTH
def test_rows_that_repeat_are_removed_and_the_first_stays(decode):
    found = decode(answer(row("p", "q", clicks=5, impressions=9), row("p", "r"), row("p", "q", clicks=7, impressions=9),
                          row("o", "q"), row("p", "q", clicks=5, impressions=9)), PAGE_QUERY)
    assert (found.received, found.kept) == (5, 3)
    assert dict(found.groups)["p"][0][:3] == (-5, -9, "q")


@BOTH
@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_row_that_repeats_is_one_row(decode, count):
    found = decode(answer(*[row("p", "q", ctr=0.3, position=2.5)] * count), PAGE_QUERY)
    assert (found.received, found.kept, list(found.counts)) == (count, 1, [1])
    assert [column and list(column) for column in found[5:]] == [[1], [2], ["q"], None, None, None, [0.3], [2.5]]


@BOTH
def test_dimensions_land_in_their_places_whatever_their_order(decode):
    found = decode(answer(row("MOBILE", "q", "deu", "p")), wanted("device", "query", "country", "page"))
    assert found.groups == [("p", [(-1, -2, "q", "deu", "MOBILE", "", None, None)])]
    assert decode(answer(row("AMP")), wanted("searchAppearance")).groups == [
        ("", [(-1, -2, "", "", "", "AMP", None, None)])]


@BOTH
def test_a_report_without_dimensions_has_one_row(decode):
    for keys in ({}, {"keys": None}, {"keys": []}):
        found = decode(answer({"clicks": 3, "impressions": 4, **keys}), wanted())
        assert found.groups == [("", [(-3, -4, "", "", "", "", None, None)])]
    assert read(decode, answer(row("p")), wanted()) is Transient


@BOTH
def test_the_date_is_checked_and_left_out(decode):
    slice_ = wanted("date", "page")
    assert decode(answer(row("2026-03-10", "p")), slice_).groups == [("p", [(-1, -2, "", "", "", "", None, None)])]
    for other in ("2026-03-09", "2026-3-10", "", "2026-03-10T00:00:00"):
        assert read(decode, answer(row("2026-03-10", "p"), row(other, "q")), slice_) is Transient


@BOTH
@pytest.mark.parametrize(
    "sent, stored",
    [("\x00", "\x00"), ("a\tb\nc\r", "a\tb\nc\r"), ("\ud800", "\ufffd"), ("x\udc00y", "x\ufffdy"),
     ("\ud83d\ude00", "\U0001f600"), ("\ude00\ud83d", "\ufffd" * 2), ("", ""), (" ", " "), ("\ufeff", "\ufeff"),
     ("\\u0041", "\\u0041"), ("'; DROP TABLE x; --", "'; DROP TABLE x; --"), ("e\u0301", "e\u0301")],
    ids=ascii,
)
def test_texts_arrive_unaltered_and_fit_utf_8(decode, sent, stored):
    ((page, ((_, _, query, *_),)),) = decode(answer(row(sent, sent)), PAGE_QUERY).groups
    assert (page, query) == (stored, stored)
    assert query.encode("utf-8").decode("utf-8") == query


@BOTH
def test_long_urls_that_differ_at_their_ends_stay_apart(decode):
    long = "https://a.com/" + "x" * 2000
    assert decode(answer(row(long + "1", "q"), row(long + "2", "q")), PAGE_QUERY).kept == 2


# -- piece by piece


def no_recourse(monkeypatch, decode):
    """Whoever parses answers whole, or with the standard library although there is msgspec, fails."""
    monkeypatch.setattr(decoding, "_decode_whole", lambda *_: pytest.fail("the answer was parsed whole"))
    if decode is FAST and _fast_parsers():
        monkeypatch.setattr(decoding, "_parse_rows", lambda *_: pytest.fail("msgspec did not take it"))


def many(count, **more):
    """Rows of three pages, with ties and repeats, the most clicked last."""
    return [row(f"p{number % 3}", f"q{number // 6}" + "x" * (number % 50), clicks=number // 4, impressions=10**6,
                **more) for number in range(count)]


@BOTH
@pytest.mark.parametrize(
    "sent",
    [many(2), many(9, ctr=0.5, position=1.5), many(9, position=3), [row("p", "a", clicks=12.0), row("p", "b")],
     many(9000, ctr=0.25, position=7.5)],
    ids=["two", "few", "no ctr", "12.0", "many"],
)
def test_what_is_written_as_google_writes_it_is_never_parsed_whole(decode, monkeypatch, sent):
    expected = SLOW(json.dumps({"rows": sent}).encode(), PAGE_QUERY)
    no_recourse(monkeypatch, decode)
    assert repr(decode(answer(*sent), PAGE_QUERY)) == repr(expected)


@BOTH
@pytest.mark.parametrize("number", range(1, len(decoding.DIMENSIONS) + 1))
def test_any_number_of_dimensions_is_decoded_piece_by_piece(decode, monkeypatch, number):
    slice_ = wanted(*decoding.DIMENSIONS[:number])
    sent = [row(*[DATE.isoformat() if name == "date" else f"{name} {place % 3}" for name in slice_.dataset.report[1]],
                clicks=place, ctr=0.25, position=7.5) for place in range(6)]
    expected = SLOW(json.dumps({"rows": sent}).encode(), slice_)
    no_recourse(monkeypatch, decode)
    assert repr(decode(answer(*sent), slice_)) == repr(expected)


@pytest.mark.parametrize("fields, exact", [("1,2,0.5,1.5", True), ("1.0,2,0.5,1.5", False), ("1,2.0,0.5,1.5", False)])
def test_the_fastest_parser_takes_what_google_writes_and_leaves_the_rest_to_the_next(fields, exact):
    pytest.importorskip("msgspec")
    names = ("clicks", "impressions", "ctr", "position")
    text = ",".join(f'"{name}":{field}' for name, field in zip(names, fields.split(",")))
    piece = b'[{"keys":["p","q"],%b}]' % text.encode()
    first, second = _fast_parsers()
    expected = ([["p"], ["q"]], [1], [2], [0.5], [1.5])
    assert repr(second(piece, 2)) == repr(expected)
    if exact:
        assert repr(first(piece, 2)) == repr(expected)
    else:
        with pytest.raises(ValueError):
            first(piece, 2)


@BOTH
@pytest.mark.parametrize("size", [1, 60, 200, 1000, 10**6])
def test_however_an_answer_is_cut_its_rows_are_the_same(decode, monkeypatch, size):
    sent = many(60, ctr=0.25, position=7.5)
    random.Random(size).shuffle(sent)
    expected = SLOW(json.dumps({"rows": sent}).encode(), PAGE_QUERY)
    monkeypatch.setattr(decoding, "_PIECE", size)
    no_recourse(monkeypatch, decode)
    assert repr(decode(answer(*sent), PAGE_QUERY)) == repr(expected)


@BOTH
@pytest.mark.parametrize("size", [1, 10**6])
@pytest.mark.parametrize("query", ["},{", '"},{"', "]},{[", '{"keys":["p","q"],"clicks":1,"impressions":1},{'])
def test_a_text_like_the_end_of_a_row_ends_none(decode, monkeypatch, size, query):
    monkeypatch.setattr(decoding, "_PIECE", size)
    sent = [row("p", query + str(number)) for number in range(3)]
    found = decode(answer(*sent, metadata={"x": [{}, {}]}), PAGE_QUERY)
    assert [(page, [each[2] for each in rows]) for page, rows in found.groups] == [
        ("p", [query + str(number) for number in range(3)])]


@BOTH
def test_a_row_of_any_length_is_taken(decode):
    long = "x" * 500_000
    for sent in ([row(long, "a"), row("p", "b")], [row("p", "b"), row(long, "a")]):
        assert sorted(decode(answer(*sent), PAGE_QUERY).pages) == ["p", long]


@BOTH
@pytest.mark.parametrize("count", [1, 3])
def test_rows_count_whatever_stands_beside_them(decode, count):
    sent = [row("p", str(number)) for number in range(count)]
    assert decode(answer(*sent, error={"code": 500, "message": "no"}), PAGE_QUERY).received == count


@BOTH
@pytest.mark.parametrize("again", [[], None, [row("p", "c")], [row("p", "c"), row("p", "d"), row("p", "e")]])
def test_rows_that_come_twice_are_no_answer_however_they_are_written(decode, again):
    """The second ones would count: [] would empty the day."""
    twice = b',"rows":%b}' % json.dumps(again, separators=(",", ":")).encode()
    for body in (answer(row("p", "a"), row("p", "b")), answer(row("p", "a")), answer()):
        for written in (body, body.replace(b"},{", b"}, {"), body.replace(b'"rows":', b' "rows" :')):
            assert read(decode, written[:-1] + twice) is Transient


@BOTH
def test_rows_that_only_talk_of_rows_are_some(decode):
    sent = [row("rows", '"rows":'), row('"rows" :[]', "rows")]
    assert decode(answer(*sent), PAGE_QUERY).received == decode(answer(*sent)[:-1] + b" }", PAGE_QUERY).received == 2


# -- empty answers


@BOTH
@pytest.mark.parametrize(
    "body",
    [b'{"responseAggregationType":"byPage"}', b'{"rows":[],"responseAggregationType":"byPage"}', b'{"rows":[]}',
     b'{"rows":null,"responseAggregationType":"byPage"}', b'{"error":null,"responseAggregationType":"byPage"}',
     b'{"rows":[],"error":null}', b' {"rows" : [ ] , "unknown": {"a": [1, null]}} \n'],
)
def test_an_answer_without_rows_is_empty(decode, body):
    assert decode(body, PAGE_QUERY) == Rows(0, 0, [])


@BOTH
@pytest.mark.parametrize(
    "body",
    [b"{}", b'{"rows":null}', b'{"responseAggregationType":null}', b'{"message":"login required"}',
     b'{"\x80rows":[1],"responseAggregationType":"byPage"}', b'{"\x00rows":[1],"responseAggregationType":"byPage"}',
     b'{"rows":{}}', b'{"rows":""}', b'{"rows":0,"responseAggregationType":"byPage"}', b'{"rows":false}', b"",
     b"null", b"[]", b"0", b'""', b"<html>502</html>", b'{"rows":[]', b'{"rows":[]}]', b"\xff\xfe{}",
     b'\xef\xbb\xbf{"rows":[]}', b'{"rows":[],"x":' + b"[" * 100_000],
    ids=lambda body: ascii(body[:30]),
)
def test_what_is_no_answer_never_empties_a_day(decode, body):
    assert read(decode, body) is Transient


@BOTH
@pytest.mark.parametrize(
    "more, expected",
    [({"firstIncompleteDate": "2026-03-09"}, dt.date(2026, 3, 9)), ({"first_incomplete_date": "2026-03-09"}, "same"),
     ({"first_incomplete_hour": "2026-03-09T05:00:00-08:00"}, None), ({"firstIncompleteDate": "soon"}, None),
     ({"firstIncompleteDate": 20260309}, None), ({"firstIncompleteDate": "2026-02-30"}, None), ({}, None), ([], None),
     ("2026-03-09", None), (None, None)],
)
def test_the_first_incomplete_date_is_read_when_there_is_a_readable_one(decode, more, expected):
    expected = dt.date(2026, 3, 9) if expected == "same" else expected
    assert decode(answer(row("p", "q"), metadata=more), PAGE_QUERY).first_incomplete == expected
    assert decode(answer(metadata=more), PAGE_QUERY).first_incomplete == expected


# -- broken answers


@BOTH
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "-1", "0.5", "1e300", "true",
                                   '"12"', "null", "[]", "9" * 400, "9" * 5000, "9007199254740993"])
@pytest.mark.parametrize("name", ["clicks", "impressions"])
def test_counts_that_are_none(decode, name, value):
    fields = {"clicks": "1", "impressions": "1", name: value}
    body = '{"rows":[{"keys":["p","q"],%s}]}' % ",".join(f'"{key}":{text}' for key, text in fields.items())
    assert read(decode, body.encode()) is Transient


@BOTH
@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("broken", [{"clicks": -1}, {"impressions": -1}, {"clicks": 2**53}, {"impressions": 2**53}])
def test_a_count_out_of_range_is_found_in_whichever_row_it_is(decode, monkeypatch, place, broken):
    sent = [row("p", str(number)) for number in range(5)]
    sent[place].update(broken)
    assert read(decode, answer(*sent)) is Transient
    monkeypatch.setattr(decoding, "_PIECE", 1)
    assert read(decode, answer(*sent)) is Transient


@BOTH
@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "true", '"1"', "[]", "{}", "9" * 400])
@pytest.mark.parametrize("name", ["ctr", "position"])
def test_rates_and_positions_that_are_none(decode, name, value):
    body = '{"rows":[{"keys":["p","q"],"clicks":1,"impressions":3,"%s":%s}]}' % (name, value)
    assert read(decode, body.encode()) is Transient


@BOTH
def test_finite_numbers_are_taken_although_their_sum_is_none(decode):
    sent = [row("p", query, position=1.5e308) for query in "abcd"]
    ((_, found),) = decode(answer(*sent), PAGE_QUERY).groups
    assert [each[-1] for each in found] == [1.5e308] * 4


@BOTH
def test_counts_up_to_what_a_double_holds_exactly_are_taken(decode):
    most = 2**53 - 1
    ((_, (found,)),) = decode(answer(row("p", "q", clicks=most, impressions=most)), PAGE_QUERY).groups
    assert found[:2] == (-most, -most)
    for more in (most + 1, most + 2, most + 3):
        assert read(decode, answer(row("p", "q", clicks=more, impressions=more))) is Transient


@BOTH
@pytest.mark.parametrize(
    "keys", [[], ["p"], ["p", "q", "r"], ["p", None], ["p", 1], ["p", ["q"]], None, "pq", {"p": "q"}, 7]
)
def test_keys_that_do_not_fit_the_report(decode, keys):
    broken = {**row(clicks=2), "keys": keys}
    for sent in ([row("p", "q"), broken], [broken, row("p", "q")], [broken]):
        assert read(decode, answer(*sent)) is Transient


@BOTH
@pytest.mark.parametrize("broken", [{}, {"keys": ["p", "q"]}, {"keys": ["p", "q"], "clicks": 1}, [], None, 1, "row"])
def test_rows_that_lack_something(decode, broken):
    assert read(decode, answer(row("p", "q"), broken)) is Transient


@BOTH
def test_far_more_rows_than_asked_for_are_refused_and_a_few_more_taken(decode):
    def sent(count):
        return b'{"rows":[' + b",".join(b'{"keys":["p","%d"],"clicks":0,"impressions":1}' % number for number in
                                        range(count)) + b"]}"

    assert decode(sent(ROW_LIMIT + 3), PAGE_QUERY).received == ROW_LIMIT + 3
    assert read(decode, sent(2 * ROW_LIMIT + 1)) is Transient


@pytest.mark.parametrize("part, most", [(b"{}", 8 * ROW_LIMIT), (b"[]", 8 * ROW_LIMIT), (b"0", 40 * ROW_LIMIT)])
def test_an_answer_of_far_more_parts_than_rows_have_is_refused_before_it_is_parsed(part, most):
    body = b'{"rows":[],"x":[' + b",".join([part] * (most - 9)) + b"]}"
    assert SLOW(body, PAGE_QUERY).received == 0
    with pytest.raises(Transient, match="far more parts"):
        SLOW(body[:-2] + b"," + b",".join([part] * 20) + b"]}", PAGE_QUERY)


@BOTH
@pytest.mark.parametrize("sign", ["[", "{", ",", '\\"['])
def test_what_is_inside_urls_is_no_part_of_an_answer(decode, sign):
    """Also where rows are not what comes first, so that the answer is parsed whole."""
    count = 6_000
    rows = b",".join(b'{"keys":["p","%d%s"],"clicks":0,"impressions":1}' % (number, sign.encode() * 200)
                     for number in range(count))
    body = b'{"responseAggregationType":"byPage","rows":[' + rows + b"]}"
    assert decode(body, PAGE_QUERY).received == count


@BOTH
@pytest.mark.parametrize(
    "error, expected",
    [
        ({"code": 403, "message": "Search Analytics QPS quota exceeded.",
          "errors": [{"domain": "usageLimits", "reason": "quotaExceeded"}]}, BurstQuota),
        ({"code": 403, "message": "no", "errors": [{"domain": "global", "reason": "forbidden"}]}, Denied),
        ({"code": 401, "message": "x"}, Unauthorized), ({"code": 503}, Transient), ({"code": 200}, Transient),
        ({"code": True}, Transient), ({"code": "403"}, Transient), ({}, Transient), ("invalid_grant", Transient),
        (0, Transient), ([], Transient), (False, Transient),
    ],
)
@pytest.mark.parametrize("beside", [{}, {"rows": []}, {"rows": None}, {"responseAggregationType": "byPage"}])
def test_an_error_with_status_200_counts_as_the_error_it_is(decode, error, expected, beside):
    assert read(decode, json.dumps({"error": error, **beside}).encode()) is expected


@BOTH
@pytest.mark.parametrize("field", [b'"posi\xfftion":1.5', b'"x":"\xed\xa0\x80"'])
def test_what_is_not_read_is_checked_too(decode, field):
    """msgspec would skip it: a damaged name, and the position is gone."""
    body = b'{"rows":[{"keys":["p","q"],"clicks":1,"impressions":2,%b},{"keys":["p","r"],"clicks":1,"impressions":2}]}'
    assert read(decode, body % field) is Transient


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 10**20), st.floats(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["rows", "keys", "clicks", "impressions", "ctr", "position", "error", "code", "message",
                             "metadata", "firstIncompleteDate", "responseAggregationType", "x"]),
            inner, max_size=5,
        ),
    ),
    max_leaves=20,
)


@examples(300)
@given(st.one_of(
    json_values,
    st.fixed_dictionaries({"rows": st.lists(st.fixed_dictionaries(
        {"clicks": json_values, "impressions": json_values},
        optional={"keys": st.one_of(json_values, st.just(["p", "q"])), "ctr": json_values, "position": json_values},
    ), max_size=2)}, optional={"error": json_values, "metadata": json_values}),
), SPACED)
def test_of_any_json_both_decoders_make_the_same_and_raise_nothing_but_api_errors(value, spaces):
    body = json.dumps(value, separators=spaces).encode()
    assert repr(read(FAST, body)) == repr(read(SLOW, body))


@examples(200)
@given(st.binary(max_size=60), st.integers(0, 60), st.integers(0, 60))
def test_of_any_bytes_both_decoders_make_the_same_and_raise_nothing_but_api_errors(noise, start, length):
    good = answer(row("p", "q", ctr=0.5, position=1.0))
    for body in (noise, good[: start * 2], good[:start] + noise + good[start + length:]):
        assert repr(read(FAST, body)) == repr(read(SLOW, body))


# -- order


@BOTH
@examples(100)
@given(
    numbers=st.lists(st.integers(0, 50), min_size=12, max_size=12),
    rows=st.lists(
        st.tuples(st.integers(0, 11), st.integers(0, 6), st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=40
    ),
    known=st.integers(0, 12),
)
def test_pages_come_in_the_order_of_a_hint_and_nothing_else_changes(decode, numbers, rows, known):
    body = answer(*[row(f"p{page}", f"q{query}", clicks=clicks, impressions=shown, ctr=0.5, position=1.5)
                    for page, query, clicks, shown in rows])
    order = {f"p{page}": number for page, number in enumerate(numbers) if page <= known}
    plain, hinted = decode(body, PAGE_QUERY), make_decoder(fast=decode is FAST, order=order)(body, PAGE_QUERY)
    if all(page in order for page in plain.pages):
        assert hinted.pages == sorted(plain.pages, key=order.__getitem__)
    else:
        assert hinted.pages == plain.pages
    assert sorted(hinted.groups) == sorted(plain.groups)
    assert hinted[:2] == plain[:2]


@BOTH
def test_a_page_a_row_comes_in_the_order_of_a_hint(decode):
    body = answer(*[row(page, clicks=clicks, impressions=9, ctr=clicks / 9, position=clicks + 0.5)
                    for page, clicks in (("c", 5), ("a", 3), ("b", 1), ("a", 2))])
    found = make_decoder(fast=decode is FAST, order={"a": 1, "b": 2, "c": 3})(body, wanted("page"))
    assert [(page, [(-clicks, position) for clicks, *_, position in rows]) for page, rows in found.groups] == [
        ("a", [(3, 3.5)]), ("b", [(1, 1.5)]), ("c", [(5, 5.5)])]
