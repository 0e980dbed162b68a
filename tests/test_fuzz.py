"""Whatever bytes come back, a slice ends as checked rows of its own or as an error of ours: nothing else is raised,
nothing hangs, no rows land in another slice, and both decoders agree bit for bit.

Bounded and repeatable as it stands; GSCTHREADS_FUZZ_SECONDS=600 goes on for so long, with new examples each time.
"""

from __future__ import annotations

import collections
import datetime as dt
import functools
import gzip
import io
import json
import logging
import math
import os
import re
import time
import urllib.parse

import pytest
import requests
import urllib3.connection
import urllib3.connectionpool
from hypothesis import given, settings
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter

from gscthreads import rows as rows_module
from gscthreads.auth import open_credentials
from gscthreads.client import Client
from gscthreads.errors import ApiError, CredentialsError, Transient
from gscthreads.halt import Halt
from gscthreads.model import Dataset, Failed, Fetched, Report, Rows, Slice, SliceKey
from gscthreads.multipart import Matcher, PartParser
from gscthreads.refusals import MAX_RETRY_AFTER, parse_retry_after
from gscthreads.rows import decode, make_decoder
from gscthreads.sockets import SocketRegistry, _Answer

SECONDS = float(os.environ.get("GSCTHREADS_FUZZ_SECONDS", "0"))
PROPERTIES = 7  # tests that share those seconds
COUNTS: "collections.Counter[str]" = collections.Counter()  # cases tried
ROOT = "http://gsc.invalid"
DATE = dt.date(2026, 3, 10)
DATASET = Dataset("sc-domain:a.com", Report("page_query", ("page", "query")), "web")
MULTIPART = "multipart/mixed; boundary=B"
FAST = rows_module._fast_parsers()
USUAL, LARGEST = rows_module._PIECE, rows_module._LARGEST_PIECE
ENDED = open(os.devnull, "rb")


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.CRITICAL)  # urllib3 tells of every odd header


def for_a_while(examples):
    """Try a property with so many examples, always the same; in the long mode with new ones until its time is over."""

    def decorate(check):
        test = settings(max_examples=examples, deadline=None, derandomize=not SECONDS, database=None)(check)

        @functools.wraps(check)
        def run():
            until = time.monotonic() + SECONDS / PROPERTIES
            test()
            while time.monotonic() < until:
                test()
            if SECONDS:
                print(f"{check.__name__}: {dict(COUNTS)} cases so far")  # seen with pytest -s

        del run.__wrapped__  # its arguments are hypothesis's, not fixtures
        return pytest.mark.timeout(SECONDS / PROPERTIES + 180)(run)

    return decorate


def slices(count):
    return [Slice(DATASET, SliceKey(DATE, 25_000 * index)) for index in range(count)]


# -- the wire: everything of requests, urllib3 and http.client is real, but for the socket


class Wire:
    """Stands for a socket: ``answer(request)`` gives all that is ever read from it."""

    def __init__(self, answer):
        self.answer = answer
        self.sent = b""

    def sendall(self, data):
        self.sent += data

    def makefile(self, *args, **kwargs):
        return io.BufferedReader(io.BytesIO(self.answer(self.sent)))

    def settimeout(self, seconds):
        pass

    def fileno(self):
        return ENDED.fileno()  # looks dropped, so that no connection is used twice

    def close(self):
        pass


class WireAdapter(HTTPAdapter):
    def __init__(self, answer):
        super().__init__(max_retries=0)

        class Connection(urllib3.connection.HTTPConnection):
            response_class = _Answer

            def _new_conn(self):
                return Wire(answer)

        class Pool(urllib3.connectionpool.HTTPConnectionPool):
            ConnectionCls = Connection

        self.poolmanager.pool_classes_by_scheme = {"http": Pool}


def wired(answer):
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", WireAdapter(answer))
    return session


def client_of(session):
    return Client(
        api_root=ROOT, credentials=open_credentials(session), registry=SocketRegistry(), halt=Halt(), http_timeout=5.0,
        data_state="final", decode=make_decoder(),
    )


def fetch(answer, count):
    """The outcome of each of *count* slices, when all that comes back is ``answer(request)``."""
    with wired(answer) as session:
        batch, outcomes = slices(count), {}

        def deliver(outcome):
            assert outcome.slice not in outcomes, "delivered twice"
            outcomes[outcome.slice] = outcome

        client_of(session).fetch(batch, deliver)
    assert set(outcomes) == set(batch)
    for outcome in outcomes.values():
        if isinstance(outcome, Failed):
            assert isinstance(outcome.error, ApiError)
            assert str(outcome.error).isprintable() and len(str(outcome.error)) < 2000
        else:
            assert_checked(outcome.rows)
    return [outcomes[wanted] for wanted in batch]


def assert_checked(found):
    """What the store relies on, whatever was sent."""
    assert type(found) is Rows and 0 <= found.kept <= found.received
    groups = found.groups
    assert sum(len(rows) for _, rows in groups) == found.kept
    assert len({page for page, _ in groups}) == len(groups)
    for page, rows in groups:
        for clicks, impressions, *texts, ctr, position in rows:
            for text in (page, *texts):
                text.encode("utf-8")
            assert type(clicks) is int and -(2**53) < clicks <= 0 and type(impressions) is int
            assert -(2**53) < impressions <= 0
            for number in (ctr, position):
                assert number is None or (type(number) is float and math.isfinite(number))


# -- what is sent


def row(page, query="q", clicks=1, impressions=2):
    return {"keys": [page, query], "clicks": clicks, "impressions": impressions, "ctr": 0.5, "position": 1.25}


def body_of(index, rows=2):
    """A good answer to slice *index*, which tells that it is."""
    found = [row(f"slice-{index}", f"q{number}") for number in range(rows)]
    return json.dumps({"rows": found, "responseAggregationType": "byPage"}, separators=(",", ":")).encode()


HEX = "0123456789abcdef" * 2  # stands for a batch's unguessable id until that is known


def part_of(index, body, content_id="<response-{}>", status=b"200 OK"):
    head = [b"--B", b"Content-Type: application/http"]
    if content_id is not None:
        head.append(b"Content-ID: " + content_id.format(f"{HEX}-{index}").encode())
    return b"\r\n".join([*head, b"", b"HTTP/1.1 " + status, b"Content-Type: application/json", b"", body, b""])


def http(body, kind, *headers, chunked=False, status=b"200 OK"):
    lines = [b"HTTP/1.1 " + status, b"Content-Type: " + kind.encode(), *headers]
    if chunked:
        half = len(body) // 2
        body = b"".join(b"%x\r\n%b\r\n" % (len(data), data) for data in (body[:half], body[half:]) if data)
        body += b"0\r\n\r\n"
        lines.append(b"Transfer-Encoding: chunked")
    else:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body])


def with_ids(raw):
    """An answer in which the batch's real id stands where HEX stood (same length)."""

    def answer(request):
        found = re.search(rb"Content-ID: <([0-9a-f]{32})-0>", request)
        return raw.replace(HEX.encode(), found.group(1)) if found else raw

    return answer


TOKENS = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"--B", b"\r\n--B\r\n", b"\r\n--B--", b"--B--", b"-", b" ", b"\t" * 256, b"\0",
    b"Content-ID: ", b"<response-", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 ", b"Content-Length: 5\r\n", b"Content-Length: ",
    b"\xb2", b"9" * 5000, b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip\r\n", b"0\r\n\r\n",
    b"ffffffff\r\n",
    b"Set-Cookie: a=b; expires=\xff; max-age=9e9\r\n", b"Location: //[\r\n", b"Retry-After: 1e9\r\n",
    b"WWW-Authenticate: Digest",
    b"Retry-After: Mon, 99 Foo 99999 99:99:99 +99999\r\n", b"Connection: close\r\n", b"HTTP/1.1 100 Continue\r\n\r\n",
    b'{"rows":', b'"rows":[]', b'},{', b'"error":{"code":403}', b'"error":', b"null", b"NaN", b"1e400", b"-0", b"-0.0",
    b"[" * 3000, b"{" * 40, b"}", b"]", b"]}", b'"', b"\\", b"\\ud800", b"\\u0000", b"\xff", b"\xed\xa0\x80", b"\xc3",
    b'"keys":["a","b"]', b'"clicks":', b"9" * 400, b"1.5", b"true", b"\x1f\x8b\x08", b",", b":", b"\x00" * 20,
    "\u2028\U0001f600".encode(),
]
NOISE = st.one_of(st.sampled_from(TOKENS), st.binary(max_size=12))
PLACE = st.integers(0, 2**16)
CHANGE = st.one_of(
    st.tuples(st.just("insert"), PLACE, NOISE),
    st.tuples(st.just("replace"), PLACE, NOISE),
    st.tuples(st.just("delete"), PLACE, st.integers(1, 300)),
    st.tuples(st.just("repeat"), PLACE, st.integers(1, 300)),
    st.tuples(st.just("move"), PLACE, st.integers(1, 300)),
    st.tuples(st.just("cut"), PLACE, st.none()),
)
CHANGES = st.lists(CHANGE, max_size=5)


def changed(data, changes):
    for kind, place, what in changes:
        place %= len(data) + 1
        head, tail = data[:place], data[place:]
        if kind == "insert":
            data = head + what + tail
        elif kind == "replace":
            data = head + what + tail[len(what):]
        elif kind == "delete":
            data = head + tail[what:]
        elif kind == "repeat":
            data = head + tail[:what] * 2 + tail[what:]
        elif kind == "move":
            data = tail[:what] + head + tail[what:]
        else:
            data = head
    return data


# -- properties of the whole way


def check_single(raw):
    """*raw* is all that a server ever sends, whatever it was asked: a slice, the sites, the clicks of days."""
    COUNTS["single"] += 1
    fetch(lambda request: raw, 1)
    with wired(lambda request: raw) as session:
        client = client_of(session)
        for ask in (client.sites, lambda: client.clicks_by_day("a", "web", DATE, DATE)):
            try:
                ask()
            except ApiError as error:
                assert str(error).isprintable()


def check_batch(raw, count=3):
    COUNTS["batch"] += 1
    return fetch(with_ids(raw), count)


def check_token(raw):
    """*raw* is a token server's answer."""
    COUNTS["token"] += 1
    info = {"type": "authorized_user", "client_id": "id-of-client", "client_secret": "secret-of-client",
            "refresh_token": "refresh-token", "token_uri": "http://127.0.0.1/token"}
    with wired(lambda request: raw) as session:
        try:
            (value,) = open_credentials(info).authorize(session).values()
        except (CredentialsError, Transient) as error:
            assert str(error).isprintable() and len(str(error)) < 2000
            assert "secret-of-client" not in str(error) and "refresh-token" not in str(error)
        else:
            assert re.fullmatch(r"Bearer [!-~]+", value)


@for_a_while(300)
@given(
    st.sampled_from([body_of(0), b'{"responseAggregationType":"byPage"}', b'{"siteEntry":[{"siteUrl":"a"}]}',
                     b'{"rows":[{"keys":["2026-03-10"],"clicks":1}]}', b'{"error":{"code":403,"message":"no"}}']),
    st.sampled_from([b"200 OK", b"200 OK", b"403 Forbidden", b"302 Found", b"500 X", b"204 No", b"999 \xff"]),
    st.booleans(), st.booleans(), CHANGES, CHANGES,
)
def test_a_single_answer_of_any_bytes(body, status, packed, chunked, inner, outer):
    body = changed(body, inner)
    headers = [b"Content-Encoding: gzip"] if packed else []
    body = gzip.compress(body, 1) if packed else body
    check_single(changed(http(body, "application/json", *headers, chunked=chunked, status=status), outer))


@for_a_while(300)
@given(st.booleans(), st.booleans(), CHANGES, CHANGES)
def test_a_batch_answer_of_any_bytes(packed, chunked, inner, outer):
    body = changed(b"".join(part_of(index, body_of(index)) for index in range(3)) + b"--B--\r\n", inner)
    headers = [b"Content-Encoding: gzip"] if packed else []
    body = gzip.compress(body, 1) if packed else body
    check_batch(changed(http(body, MULTIPART, *headers, chunked=chunked), outer))


@for_a_while(200)
@given(
    st.sampled_from([b'{"access_token":"a.b-c","expires_in":3599,"token_type":"Bearer"}',
                     b'{"error":"invalid_grant","error_description":"bad refresh-token of secret-of-client"}']),
    st.sampled_from([b"200 OK", b"400 Bad Request", b"401 No", b"503 X", b"302 Found"]), CHANGES, CHANGES,
)
def test_a_token_answer_of_any_bytes(body, status, inner, outer):
    check_token(changed(http(changed(body, inner), "application/json", status=status), outer))


@for_a_while(150)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 3), st.sampled_from(["<response-{}>", "{}", "<{}>", "response-{}", " < {} >"])),
            st.tuples(st.integers(0, 3), st.sampled_from([None, "<response-x{}>", "<response-{}0>", "", "<-1>"])),
        ),
        max_size=6,
    ),
    st.lists(st.tuples(st.integers(0, 5), CHANGES), max_size=2),
    st.sampled_from([b"", b"\r\n", b"preamble\r\n--Bx\r\n"]), st.sampled_from([b"--B--\r\n", b"--B--", b""]),
)
def test_rows_land_in_no_other_slice(labels, spoilt, before, end):
    """Parts may be missing, doubled, shuffled, mislabelled or spoilt.  Slice *index* of the batch has the rows that a
    part with its label has."""
    spoilt, parts = dict(spoilt), []
    for number, (index, label) in enumerate(labels):
        parts.append(part_of(index, changed(body_of(index), spoilt.get(number, ()))))
        if label is None:
            parts[-1] = re.sub(rb"Content-ID: .*?\r\n", b"", parts[-1], count=1)
        else:
            parts[-1] = parts[-1].replace(b"<response-" + f"{HEX}-{index}>".encode(),
                                          label.format(f"{HEX}-{index}").encode(), 1)
    unlabelled = [index for index, label in labels if label is None or not label]
    for index, outcome in enumerate(check_batch(http(before + b"".join(parts) + end, MULTIPART))):
        if isinstance(outcome, Fetched) and not spoilt:
            # Without any labels the order counts, if it can (gsc-api.md 4.1).
            whole = len(unlabelled) == len(labels) == 3
            assert outcome.rows.pages == [f"slice-{unlabelled[index] if whole else index}"]


# -- the multipart parser against a plain reading of the whole answer


STATUS = rb"HTTP/[0-9]{1,3}(?:\.[0-9]{1,3})?[ \t]{1,99}([0-9]{3})(?:\s|\Z)"


def parts_by_hand(data, boundary=b"B"):
    """(content id, status, body) of each part, and whether the last delimiter was there."""
    found, start, closed = [], None, False
    data = b"\n" + data
    for mark in re.finditer(rb"\n--" + boundary + rb"(?:(--)|[ \t]*\r?(?=\n))", data):
        if not mark.group(1) and mark.end() - mark.start() - len(boundary) - 3 > 255:
            continue
        if start is not None:
            found.append(part_by_hand(data[start + 1:mark.start()]))
        start = mark.end()
        if mark.group(1):
            closed = True
            break
    return found, closed


def part_by_hand(text):
    text = text[:-1] if text.endswith(b"\r") else text
    blocks, status_first = [], re.match(STATUS, text)
    for _ in range(1 if status_first else 2):
        lines = []
        while text:
            line, _, text = text.partition(b"\n")
            line = line.rstrip(b"\r")
            if not line:
                break
            lines.append(line)
        blocks.append(lines)
    label = None
    if not status_first:
        unfolded = []
        for line in blocks[0]:
            if line[:1] in (b" ", b"\t") and unfolded:
                unfolded[-1] += b" " + line.strip()
            else:
                unfolded.append(line)
        for line in unfolded:
            name, colon, value = line.decode("latin-1").partition(":")
            if colon and name.strip().lower() == "content-id":
                label = value.strip()
                break
    status = re.match(STATUS, blocks[-1][0]) if blocks[-1] else None
    return (label, int(status.group(1)), text) if status else (label, 0, b"")


def bare(label):
    text = urllib.parse.unquote((label or "").strip().lstrip("<").rstrip(">")).strip().lstrip("<").rstrip(">")
    return (text[9:] if text.lower().startswith("response-") else text) or None


def check_parser(data, cuts=()):
    COUNTS["parser"] += 1
    expected, closed = parts_by_hand(data)
    parser, found = PartParser("B"), []
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in zip(places, places[1:]):
        found += parser.feed(data[start:end])
    try:
        parser.finish()
    except Transient:
        assert not closed
    else:
        assert closed
    assert [(part.content_id, part.status, part.body) for part in found] == [
        (bare(label), status, body) for label, status, body in expected
    ]
    matcher = Matcher(2)
    matcher._index = {HEX + "-0": 0, HEX + "-1": 1}
    try:
        matched = [(index, part.content_id) for index, part in matcher.match([data], "B")]
    except Transient:
        return
    if any(label for _, label in matched):
        assert all(label == f"{HEX}-{index}" for index, label in matched)


@for_a_while(400)
@given(CHANGES, CHANGES, st.lists(PLACE, max_size=8))
def test_the_parser_finds_what_a_plain_reading_finds(first, second, cuts):
    data = b"".join(part_of(index, b'{"rows":[%d]}' % index) for index in range(3)) + b"--B--\r\n"
    check_parser(changed(changed(data, first), second), cuts)


# -- the decoders: msgspec, the standard library in pieces, and at once


def check_decoders(body, dimensions=("page", "query")):
    COUNTS["decoders"] += 1
    wanted = Slice(Dataset("sc-domain:a.com", Report("r", dimensions), "web"), SliceKey(DATE, 0))

    def text_of(read):
        try:
            found = read()
        except ApiError as error:
            return repr(error)
        assert_checked(found)
        return repr(found)

    rows_module._LARGEST_PIECE = -1  # every piece is too large: all at once, the plain way
    try:
        whole = text_of(lambda: decode(body, wanted))
        rows_module._LARGEST_PIECE = LARGEST
        for size in (USUAL, 1):  # 1: a piece for each row
            rows_module._PIECE = size
            for fast in ((), FAST[:1], FAST[1:], FAST):
                assert text_of(lambda: decode(body, wanted, fast)) == whole, (size, len(fast))
    finally:
        rows_module._PIECE, rows_module._LARGEST_PIECE = USUAL, LARGEST


NUMBER = st.one_of(
    st.sampled_from([b"0", b"-0", b"1", b"12.0", b"0.5", b"-0.0", b"1e2", b"1E-2", b"01", b"1.", b".5", b"+1", b"- 1",
                     b"1e",
                     b"NaN", b"Infinity", b"-Infinity", b"1e400", b"1e-400", b"9007199254740991", b"9007199254740993",
                     b"18446744073709551616", b"9" * 400, b"null", b"true", b'"1"', b"[]", b"5e-324", b"2.5e-324",
                     b"1.7976931348623159e308", b"0.1e1", b"100e-2", b"123456789012345678901234567890e-29"]),
    st.from_regex(rb"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
    st.integers(0, 10**7).map(lambda number: b"%d" % number),
    st.floats(0, 1e6).map(lambda number: repr(number).encode()),
)
TEXT = st.one_of(
    st.sampled_from([b'"p"', b'"q"', b'"},{"', b'"],["', b'"\\ud83d\\ude00"', b'"\\ud800"', b'"\\u0000"', b'"\\/"',
                     b'"\\x"',
                     b'"\xc3\xa9"', b'"\xff"', b'"\xed\xa0\x80"', b'"\t"', b'""', b'"\\"}"', b"1", b"null",
                     b'"2026-03-10"',
                     b'"\xf4\x90\x80\x80"', b'"\xc0\x80"', b'"\x7f"', b'"\\u00E9"', b'"\\uD83D\xff"']),
    st.text(max_size=6).map(lambda text: json.dumps(text).encode()),
    st.text(st.characters(blacklist_categories=["Cs"]), max_size=6).map(
        lambda text: json.dumps(text, ensure_ascii=False).encode()),
)
SPACE = st.sampled_from([b"", b"", b"", b"", b" ", b"\n\t", b"\r", b"\x0c", b"\xc2\xa0"])
OTHER = st.one_of(
    NUMBER, TEXT, st.sampled_from([b"{}", b'{"a":[1,{}]}', b"[[]", b"[1,]", b"{,}", b'{"a":1,"a":2}', b"nul"])
)


@st.composite
def raw_row(draw):
    keys = b"[" + b",".join(draw(st.lists(TEXT, min_size=2, max_size=2))) + b"]"
    fields = [(b'"keys"', keys), (b'"clicks"', draw(NUMBER)), (b'"impressions"', draw(NUMBER))]
    for name in (b'"ctr"', b'"position"'):
        if draw(st.booleans()):
            fields.append((name, draw(NUMBER)))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        name = draw(st.sampled_from([b'"x"', b'"clicks"', b'"keys"', b'"\\u0063licks"', b'"\xff"', b'"ctr"', b"x"]))
        fields.insert(draw(st.integers(0, len(fields))), (name, draw(OTHER)))
    if draw(st.sampled_from([False, False, True])):
        fields = draw(st.permutations(fields))
    space = draw(SPACE)
    return b"{" + b",".join(name + space + b":" + value + space for name, value in fields) + b"}"


@for_a_while(600)
@given(
    st.lists(raw_row(), max_size=5), SPACE,
    st.lists(st.sampled_from([b'"responseAggregationType":"byPage"', b'"metadata":{"firstIncompleteDate":"2026-03-09"}',
                              b'"error":{"code":403,"message":"no"}', b'"rows":[]', b'"error":null', b'"x":"\xff"']),
             max_size=3),
    st.sampled_from([0, 0, 1]), CHANGES, st.booleans(),
)
def test_the_decoders_agree_bit_for_bit(rows, space, more, place, changes, change):
    fields = [b'"rows"' + space + b":[" + (b"," + space).join(rows) + b"]"]
    fields[place:place] = [] if not place else []
    fields = fields + more if not place else more + fields
    body = b"{" + b",".join(fields) + b"}" + space
    check_decoders(changed(body, changes) if change else body)


# -- small things


@for_a_while(200)
@given(st.one_of(
    st.text(max_size=40), st.sampled_from(TOKENS).map(lambda token: token.decode("latin-1")),
    st.lists(
        st.sampled_from("Mon, 01 Jan Feb 2026 99 99999999999 12:00:00 : + - GMT +9999 -0000 (x ) \x00 \xb2".split(" ")),
        max_size=8,
    ).map(" ".join),
))
def test_any_retry_after_is_a_bounded_number_or_none(value):
    COUNTS["retry-after"] += 1
    seconds = parse_retry_after(value)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER
