"""multipart: what goes out, and that what comes in gives the same parts however it is cut."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gscthreads import multipart
from gscthreads.errors import Transient
from gscthreads.multipart import Matcher, Part, PartParser, boundary_of, compose
from tests.properties import examples


def parse(data, boundary="B", cuts=()):
    """(parts, did it end properly) of *data*, fed in pieces cut at *cuts*."""
    parser = PartParser(boundary)
    parts = []
    places = [0, *sorted(cuts), len(data)]
    try:
        for start, end in zip(places, places[1:]):
            parts += parser.feed(data[start:end])
        parser.finish()
    except Transient as error:
        return parts, error.reason
    return parts, ""


def plain(parts):
    return [(p.content_id, p.status, dict(p.headers), p.body) for p in parts]


def answer(*parts, boundary="B", end="\r\n"):
    """A batch answer of (content id header or None, status line, body)."""
    lines = []
    for content_id, status, body in parts:
        lines += [f"--{boundary}", "Content-Type: application/http"]
        lines += [f"Content-ID: {content_id}"] if content_id is not None else []
        lines += ["", status, "Content-Type: application/json; charset=UTF-8", "", body]
    return end.join([*lines, f"--{boundary}--", ""]).encode()


TWO = answer(("<response-a-0>", "HTTP/1.1 200 OK", '{"rows":1}'), ("<response-a-1>", "HTTP/1.1 403 Forbidden", "{}"))


def test_compose_is_what_google_documents():
    data = compose([("id-0", "POST /a?b=c", b'{"x":1}'), ("id-1", "POST /d", b"{}")], "BB")
    assert data == (
        b"--BB\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\nContent-ID: <id-0>\r\n\r\n"
        b"POST /a?b=c HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n"
        b'{"x":1}\r\n'
        b"--BB\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\nContent-ID: <id-1>\r\n\r\n"
        b"POST /d HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
        b"{}\r\n--BB--\r\n"
    )


@pytest.mark.parametrize(
    "content_type, boundary",
    [
        ("multipart/mixed; boundary=batch_x-1", "batch_x-1"),
        ('Multipart/Mixed; charset=utf-8; Boundary="==a b=="', "==a b=="),
        ('multipart/mixed;boundary="a\\"b"', 'a"b'),
        ("multipart/mixed; boundary=abc; charset=UTF-8", "abc"),
        ("multipart/mixed", None),
        ("multipart/mixed; boundary=", None),
        ("multipart/mixed; notboundary=x", None),
        ("application/json; boundary=x", None),
        ("text/html", None),
        ("", None),
        ("multipart/mixed; boundary=x", "x"),
        ("multipart/mixed; boundary=" + "x" * 200, "x" * 200),
        ("multipart/mixed; boundary=" + "x" * 201, None),
        ("multipart/mixed; boundary=\xe9", None),
    ],
)
def test_boundary(content_type, boundary):
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_two_parts(end):
    parts, fault = parse(TWO.replace(b"\r\n", end.encode()))
    assert fault == ""
    assert [(p.content_id, p.status, p.body) for p in parts] == [("a-0", 200, b'{"rows":1}'), ("a-1", 403, b"{}")]
    assert parts[0].headers["content-TYPE"] == "application/json; charset=UTF-8"


def test_preamble_epilogue_padding_and_text_like_a_boundary():
    body = '{"a":"--B", \n--Bc\n--B-\n --B--\n"b":1}'
    data = b"hello\r\n--Bx\r\n" + answer(("<x>", "HTTP/1.1 200 OK", body)).replace(b"--B\r\n", b"--B \t \r\n", 1)
    parts, fault = parse(data + b"bye\r\n--B\r\nContent-ID: y\r\n\r\nHTTP/1.1 200 OK\r\n\r\n{}\r\n--B\r\n")
    assert fault == ""
    assert [(p.content_id, p.body.decode()) for p in parts] == [("x", body)]


@pytest.mark.parametrize(
    "header, content_id",
    [
        ("<response-u-7>", "u-7"),
        ("<u-7>", "u-7"),
        ("response-u-7", "u-7"),
        ("u-7", "u-7"),
        ("<response-u%2D7>", "u-7"),
        ("%3Cresponse-u-7%3E", "u-7"),
        ("<response-u + 7>", "u + 7"),
        ("  <Response-u-7>  ", "u-7"),
        ("", None),
        ("<>", None),
        (None, None),
    ],
)
def test_content_ids(header, content_id):
    parts, _ = parse(answer((header, "HTTP/1.1 200 OK", "{}")))
    assert parts[0].content_id == content_id


def test_folded_headers():
    data = (
        b"--B\r\nContent-Type: application/http\r\nContent-ID:\r\n <response-u\r\n\t-7>\r\n\r\n"
        b"HTTP/1.1 429 Too Many\r\nRetry-After:\r\n  7\r\nbroken line\r\n: no name\r\nRetry-After: 9\r\n\r\n{}\r\n--B--"
    )
    (part,), fault = parse(data)
    assert fault == ""
    assert part.status == 429
    assert dict(part.headers) == {"Retry-After": "7"}
    assert part.content_id == "u -7"


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"HTTP/1.1 200 OK\r\n\r\n{}", (200, b"{}")),  # no inner headers
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"")),
        (b"HTTP/1.1 204 No Content\r\n", (204, b"")),
        (b"HTTP/1.1 204", (204, b"")),
        (b"HTTP/2 200\r\n\r\n{}", (200, b"{}")),
        (b"HTTP/1.1 2000 OK\r\n\r\n{}", (0, b"")),
        (b"HTTP/1.1" + b" " * 1000 + b"200 OK\r\n\r\n{}", (0, b"")),
        (b"HTTP/" + b"1" * 1000 + b" 200 OK\r\n\r\n{}", (0, b"")),
        (b"HTTP/1.1 abc OK\r\n\r\n{}", (0, b"")),
        (b"nonsense\r\n\r\n{}", (0, b"")),
        (b"{}", (0, b"")),
        (b"", (0, b"")),
    ],
)
def test_inner_answers(content, expected):
    data = b"--B\r\nContent-ID: <response-a>\r\n\r\n" + content + b"\r\n--B--\r\n"
    (part,), fault = parse(data)
    assert (part.status, part.body, part.content_id, fault) == (*expected, "a", "")


def test_part_without_any_own_headers():
    for start in (b"--B\r\n\r\n", b"--B\r\n"):
        (part,), _ = parse(start + b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n{}\r\n--B--")
        assert (part.content_id, part.status, dict(part.headers), part.body) == (None, 200, {"A": "b"}, b"{}")


def test_empty_parts_are_parts():
    parts, fault = parse(b"--B\r\n--B\n--B\r\n\r\n--B--")
    assert [p.status for p in parts] == [0, 0, 0]
    assert fault == ""


def test_a_part_counts_only_with_its_whole_delimiter():
    second = TWO.index(b"\r\n--B\r\n")
    last = TWO.index(b"\r\n--B--")
    for size in range(len(TWO) + 1):
        parts, fault = parse(TWO[:size])
        assert len(parts) == (size >= second + len(b"\r\n--B\r\n")) + (size >= last + len(b"\r\n--B--"))
        assert (fault == "") == (size >= last + len(b"\r\n--B--"))


def test_header_blocks_are_limited():
    big = b"X: " + b"y" * multipart.MAX_HEADERS
    inner = b"--B\r\nContent-ID: a\r\n\r\nHTTP/1.1 200 OK\r\n" + big + b"\r\n\r\n{}\r\n--B--"
    outer = b"--B\r\nContent-ID: a\r\n" + big + b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n{}\r\n--B--"
    assert [(p.content_id, p.status) for p in parse(inner)[0]] == [("a", 0)]
    assert [(p.content_id, p.status) for p in parse(outer)[0]] == [(None, 0)]


def test_parts_are_limited_in_size(monkeypatch):
    monkeypatch.setattr(multipart, "MAX_PART", 1000)
    monkeypatch.setattr(multipart, "MAX_HEADERS", 100)
    data = answer(("a", "HTTP/1.1 200 OK", "{}"), ("b", "HTTP/1.1 200 OK", "x" * 2000), ("c", "HTTP/1.1 200 OK", "{}"))
    for cuts in ((), range(1, len(data))):
        parts, fault = parse(data, cuts=cuts)
        assert [p.content_id for p in parts] == ["a"]
        assert fault == "tooLarge"


@pytest.mark.parametrize("size", [1, 7, 500, 10**6])
def test_any_number_of_parts_of_allowed_size_may_come_at_once(monkeypatch, size):
    monkeypatch.setattr(multipart, "MAX_PART", 1000)
    monkeypatch.setattr(multipart, "MAX_HEADERS", 100)
    data = answer(*[(f"a-{number}", "HTTP/1.1 200 OK", "x" * 1000) for number in range(20)])
    parts, fault = parse(data, cuts=range(size, len(data), size))
    assert [p.content_id for p in parts] == [f"a-{number}" for number in range(20)]
    assert fault == ""


def test_a_part_may_be_as_large_as_the_largest_slice():
    body = '{"keys":["https://a.com/","a query"],"clicks":1,"impressions":2},' * 25_000 * 5
    data = answer(("a", "HTTP/1.1 200 OK", body), ("b", "HTTP/1.1 200 OK", "{}"))
    parts, fault = parse(data, cuts=range(16_384, len(data), 16_384))
    assert fault == "" and [p.content_id for p in parts] == ["a", "b"]
    assert parts[0].body == body.encode()


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(multipart, "MAX_PART", 1000)
    monkeypatch.setattr(multipart, "MAX_HEADERS", 100)
    parser = PartParser("B")
    for _ in range(1000):
        assert parser.feed(b"preamble " * 100) == []
        assert len(parser._buffer) < 1000
    with pytest.raises(Transient):
        parser.feed(b"\n--B\n")
        for _ in range(1000):
            parser.feed(b"a part without end ")
            assert len(parser._buffer) < 2000


@pytest.mark.parametrize("most", [1, 2])
def test_after_the_end_and_after_a_fault_nothing_is_kept(monkeypatch, most):
    monkeypatch.setattr(multipart, "MAX_PARTS", most)
    parser = PartParser("B")
    assert len(parser.feed(TWO + b"an epilogue\r\n--B\r\n")) == most
    assert not parser._buffer
    if most == 2:
        assert parser.feed(TWO) == [] and not parser._buffer
        parser.finish()
    else:
        for ask in (lambda: parser.feed(b"more"), parser.finish):
            with pytest.raises(Transient, match="more than 1 parts"):
                ask()


def test_number_of_parts_is_limited(monkeypatch):
    monkeypatch.setattr(multipart, "MAX_PARTS", 2)
    parts, fault = parse(answer(*[("a", "HTTP/1.1 200 OK", "{}")] * 3))
    assert (len(parts), fault) == (2, "tooLarge")


def test_bytes_looked_at_are_linear():
    """Every byte is searched a bounded number of times, even when fed one by one."""
    looked_at = []

    class Buffer(bytearray):
        def find(self, what, start=0, end=None):
            looked_at.append(len(self) - start)
            return super().find(what, start) if end is None else super().find(what, start, end)

    parser = PartParser("B")
    parser._buffer = Buffer(b"\n")
    data = b"--B\n\nHTTP/1.1 200 OK\n\n" + b"\n--Bx" * 2000 + b"x" * 20000
    for place in range(len(data)):
        parser.feed(data[place : place + 1])
    assert sum(looked_at) < 10 * len(data)


# What a part may look like to a mean server: delimiters cut short, padded, doubled, wrong line ends.
_PIECES = st.sampled_from(
    [b"--B", b"\r\n--B", b"\n--B", b"\n--B\n", b"\r\n--B\r\n", b"--B--", b"\n--B--", b"\r", b"\n", b"\r\n", b" ", b"-"]
    + [b"Content-ID: <response-a>\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 403\n\n", b"X: y\n", b'{"rows":[]}', b"x"]
    + [b" " * 300, b"\t" * 250]
)


@examples(400)
@given(st.lists(_PIECES, max_size=40).map(b"".join), st.data())
def test_cuts_do_not_matter(data, draw):
    whole = parse(data)
    cuts = draw.draw(st.lists(st.integers(0, len(data)), max_size=30))
    for pieces in (cuts, range(1, len(data))):
        parts, fault = parse(data, cuts=pieces)
        assert (plain(parts), fault) == (plain(whole[0]), whole[1])


@examples(200)
@given(
    st.lists(st.tuples(st.integers(200, 599), st.text("{}[]\"ab \n\r-B'", max_size=30)), max_size=6),
    st.sampled_from(["\r\n", "\n"]),
    st.data(),
)
def test_what_was_written_is_read(contents, end, draw):
    contents = [(status, body) for status, body in contents if "--B" not in body]
    data = answer(*[(f"<response-{i}>", f"HTTP/1.1 {s} X", b) for i, (s, b) in enumerate(contents)], end=end)
    parts, fault = parse(data, cuts=draw.draw(st.lists(st.integers(0, len(data)), max_size=30)))
    assert fault == ""
    if end == "\n":  # "\r" at the end of a body would belong to the delimiter
        contents = [(status, body[:-1] if body[-1:] == "\r" else body) for status, body in contents]
    assert [(p.content_id, p.status, p.body.decode()) for p in parts] == [
        (str(i), s, b) for i, (s, b) in enumerate(contents)
    ]


class TestMatcher:
    def match(self, matcher, *parts, cut=None):
        data = answer(*parts)[:cut]
        found, fault = [], ""
        try:
            for index, part in matcher.match([data], "B"):
                found.append((index, part.body.decode()))
        except Transient as error:
            fault = error.reason
        return found, fault

    def test_ids_decide_not_the_order(self):
        matcher = Matcher(3)
        ok = "HTTP/1.1 200 OK"
        parts = [(f"<response-{matcher.content_ids[i]}>", ok, str(i)) for i in (2, 0)]
        parts += [("<response-other-1>", ok, "?"), (None, ok, "?")]
        assert self.match(matcher, *parts) == ([(2, "2"), (0, "0")], "")

    def test_ids_differ_from_batch_to_batch(self):
        assert not set(Matcher(3).content_ids) & set(Matcher(3).content_ids)

    def test_order_decides_when_there_are_no_ids(self):
        parts = [(None, "HTTP/1.1 200 OK", str(i)) for i in range(3)]
        assert self.match(Matcher(3), *parts) == ([(0, "0"), (1, "1"), (2, "2")], "")
        assert self.match(Matcher(4), *parts) == ([], "")
        assert self.match(Matcher(2), *parts) == ([], "")
        assert self.match(Matcher(3), *parts, cut=-6) == ([], "broken")

    @pytest.mark.parametrize("place", range(4))
    @pytest.mark.parametrize("known", [False, True])
    def test_the_order_says_nothing_once_a_part_has_an_id(self, place, known):
        matcher, ok = Matcher(3), "HTTP/1.1 200 OK"
        parts = [(None, ok, str(i)) for i in range(3)]
        parts.insert(place, (f"<response-{matcher.content_ids[1] if known else 'other'}>", ok, "labelled"))
        assert self.match(matcher, *parts) == ([(1, "labelled")] if known else [], "")

    def test_parts_without_id_are_kept_in_the_size_that_slices_have(self):
        dice = random.Random(1)
        bodies = ["".join(dice.choices("0123456789abcdef", k=300_000)) for _ in range(5)]
        parts = [(None, "HTTP/1.1 200 OK", body) for body in bodies]
        assert self.match(Matcher(5), *parts) == (list(enumerate(bodies)), "")

    def test_parts_without_id_are_not_hoarded(self, monkeypatch):
        monkeypatch.setattr(multipart, "_MAX_HELD", 5)
        parts = [(None, "HTTP/1.1 200 OK", str(i)) for i in range(3)]
        assert self.match(Matcher(3), *parts) == ([], "")
        assert self.match(Matcher(1), *parts) == ([], "")  # nor are those that were kept all there were


def test_part_is_a_value():
    assert Part("a", 200, {}, b"") == Part("a", 200, {}, b"")
