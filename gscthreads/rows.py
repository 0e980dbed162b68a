"""One slice's JSON body -> ``Rows``: checked, free of repeats, grouped by page, in order of rank.

Pure.  Everything Google sends is untrusted: whatever is not exactly the documented shape (gsc-api.md 2.6) raises
``Transient``, so that the slice is asked for again.

Fast, because it works column by column (a check of a whole column, ``set(map(type, column))``, costs a tenth of the
same check row by row; lists of text and numbers are no work for the cyclic garbage collector), and piece by piece
(what was just parsed is still in the processor's cache, and its memory is used again for the next piece).
"""

from __future__ import annotations

import collections
import datetime as dt
import itertools
import json
import math
import operator
import re
from typing import Any, Callable, Dict, List, Mapping, NoReturn, Optional, Sequence, Set, Tuple, Union

from .errors import ApiError, Transient
from .model import DIMENSIONS, ROW_LIMIT, Rows, Slice
from .nesting import is_deep, outside_texts
from .refusals import refusal_in

#: Counts above this can't have come from a double without loss (all four metrics are doubles, gsc-api.md 2.6).
_MAX_COUNT = 2**53 - 1

#: Bytes of JSON parsed at once.  Other threads get the interpreter lock in between, and the dicts and lists of a piece
#: are fewer than start a garbage collection.
_PIECE = 24 * 1024

_LARGEST_PIECE = 16 * _PIECE

_KEY_COLUMNS = ("query", "country", "device", "searchAppearance")  # the dimensions besides page, in the order of Rows

_FAULTS = (ValueError, TypeError, KeyError, AttributeError, OverflowError)  #: what a wrong shape raises

#: Columns of some rows, of the right types: keys (a sequence for each dimension), clicks, impressions, ctr, position.
Columns = Tuple[Sequence[Sequence[str]], List[int], List[int], List[Optional[float]], List[Optional[float]]]

#: JSON text of a list of rows -> Columns.  Arguments: the text and the number of dimensions.
Parser = Callable[[bytes, int], Columns]


def make_decoder(
    *, fast: Optional[bool] = None, order: Optional[Mapping[str, int]] = None
) -> Callable[[bytes, Slice], Rows]:
    """The function that decodes a slice's body.  *fast* None takes msgspec where it is installed (the ``fast``
    extra), False the standard library; both give the same rows.  Thread-safe.

    *order* (page -> number, of which any thread may read while another adds to it): pages come in order of their
    numbers, when all have one.  A store that keeps them in that order has then nothing to move.
    """
    parsers = () if fast is False else _fast_parsers()
    return lambda body, slice_: decode(body, slice_, parsers, order)


def decode(
    body: bytes, slice_: Slice, fast: Sequence[Parser] = (), order: Optional[Mapping[str, int]] = None
) -> Rows:
    """The rows of one answer.  An answer without "rows" is an empty one.  Raises ``Transient`` (or the class that
    fits, when the body is an error in spite of its status) for anything that isn't an answer to *slice_*."""
    if is_deep(body):
        raise Transient("the answer is nested too deeply to be one", reason="malformed")
    escaped = b"\\" in body and (b"\\ud" in body or b"\\uD" in body)
    for parse in (*fast, _parse_rows):
        try:
            return _decode_pieces(body, _Table(slice_, escaped=escaped, order=order), parse)
        except (RecursionError, *_FAULTS):
            pass  # the next one knows better, the last one knows why
    try:
        return _decode_whole(body, _Table(slice_, escaped=escaped, order=order))
    except ApiError:
        raise
    except RecursionError:
        raise Transient("the answer is nested too deeply to be one", reason="malformed") from None
    except _FAULTS as error:
        raise Transient(f"the answer is not what the API documents: {error}"[:300], reason="malformed") from error


# -- from bytes to columns


def _decode_pieces(body: bytes, table: "_Table", parse: Parser) -> Rows:
    """The same as ``_decode_whole`` for what is written as Google writes it; raises for all else, valid or not.

    A piece ends at a comma between two braces.  That it stood between two rows, not inside a text or something nested,
    is certain once the piece, which begins where a row does, is valid JSON by itself.
    """
    head, end = _HEAD.match(body), body.rfind(b"},{")
    if head is None or end < 0:
        raise ValueError("rows do not come first, or are spaced out")
    start = head.end()
    while start <= end:
        cut = body.find(b"},{", start + _PIECE, end)
        cut = end if cut < 0 else cut
        if cut - start > _LARGEST_PIECE:
            raise ValueError("a row that long")
        table.add(*parse(b"[" + body[start : cut + 1] + b"]", table.width))
        start = cut + 2
    if len(body) - start > _LARGEST_PIECE:
        raise ValueError("a row that long")
    answer = _loads(head.group() + body[start:], object_pairs_hook=_unique)
    table.add(*_take_apart(answer["rows"], table.width))
    return table.rows(answer.get("metadata"))


_ROWS = re.compile(rb'"rows"[ \t\n\r]*:')  # never in a text, whose quotes have a backslash
_HEAD = re.compile(rb"[ \t\n\r]*\{[ \t\n\r]*" + _ROWS.pattern + rb"[ \t\n\r]*\[")


def _unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    """An object, refused when a name repeats: the last one would count, for instance other "rows"."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name that repeats")
    return found


def _decode_whole(body: bytes, table: "_Table") -> Rows:
    _check_size(body)
    answer = _loads(body)
    if not isinstance(answer, dict):
        raise ValueError(f"a {type(answer).__name__} where an object belongs")
    if len(_ROWS.findall(body)) > 1:
        raise ValueError("rows that come twice")  # the last ones would count
    rows = answer.get("rows")  # null means absent
    if not isinstance(rows, (list, type(None))):
        raise ValueError("rows that are not a list")
    refusal = None if rows else refusal_in(answer, body, {})
    if refusal is not None:
        raise refusal
    # An empty answer still names its aggregation type (gsc-api.md 2.6); a proxy's {"message": ...} must not empty
    # a day.
    if rows is None and answer.get("responseAggregationType") is None:
        raise ValueError("neither rows nor responseAggregationType")
    if rows:
        table.add(*_take_apart(rows, table.width))
    return table.rows(answer.get("metadata"))


def _check_size(body: bytes) -> None:
    """Refuse a body that would become far more Python objects than a slice is, before it is parsed.

    A row has one object, one list and about six commas; with some margin for those inside URLs and queries nobody
    needs to tell them apart.
    """
    if _has_many(body) and _has_many(outside_texts(body, b"{[,")):
        raise ValueError("it has far more parts than a slice of rows")


def _has_many(body: bytes) -> bool:
    most = 8 * ROW_LIMIT
    return body.count(b"{") > most or body.count(b"[") > most or body.count(b",") > 40 * ROW_LIMIT


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _loads(text: bytes, **hooks: Any) -> Any:
    return json.loads(text.decode("utf-8"), parse_constant=_not_finite, **hooks)


def _parse_rows(text: bytes, dimensions: int) -> Columns:
    return _take_apart(_loads(text), dimensions)


def _take_apart(rows: List[Any], dimensions: int) -> Columns:
    keys = [row.get("keys") for row in rows]
    columns: Sequence[Sequence[Any]] = ()
    if dimensions:
        if set(map(type, keys)) != {list} or set(map(len, keys)) != {dimensions}:
            raise ValueError(f"keys that are not lists of {dimensions}")
        columns = list(zip(*keys))
        if set(map(type, itertools.chain.from_iterable(columns))) != {str}:
            raise ValueError("a dimension that is not text")
    elif any(keys):
        raise ValueError("keys in an answer that has no dimensions")
    return (
        columns,
        _counts("clicks", [row["clicks"] for row in rows]),
        _counts("impressions", [row["impressions"] for row in rows]),
        _numbers("ctr", [row.get("ctr") for row in rows]),
        _numbers("position", [row.get("position") for row in rows]),
    )


def _fast_parsers() -> Sequence[Parser]:
    """The same as ``_parse_rows`` through msgspec's typed decoders, where it is installed (and not too old).  The first
    takes rows as Google writes them today, and leaves nothing to check; the second takes 12.0 for 12, and rows without
    position."""
    try:
        import msgspec

        return _fast_parser(msgspec, exact=True), _fast_parser(msgspec, exact=False)
    except (ImportError, AttributeError, TypeError):
        return ()


def _fast_parser(msgspec: Any, *, exact: bool) -> Parser:
    decoders = {
        dimensions: _typed_decoder(msgspec, dimensions, exact=exact) for dimensions in range(1, len(DIMENSIONS) + 1)
    }

    def parse(text: bytes, dimensions: int) -> Columns:
        try:
            rows = decoders[dimensions].decode(text)  # KeyError without dimensions: a single row
        except msgspec.DecodeError as error:  # also for half a surrogate pair, which the standard library lets pass
            raise ValueError(str(error)) from error
        keys = [row.keys for row in rows]
        texts = [list(map(operator.attrgetter(name), keys)) for name in _NAMES[:dimensions]]
        clicks, impressions = [row.clicks for row in rows], [row.impressions for row in rows]
        ctr, position = [row.ctr for row in rows], [row.position for row in rows]
        if exact:
            return texts, clicks, impressions, ctr, position
        return (
            texts,
            _counts("clicks", clicks),
            _counts("impressions", impressions),
            _numbers("ctr", ctr),
            _numbers("position", position),
        )

    return parse


_NAMES = tuple(f"key{number}" for number in range(len(DIMENSIONS)))


def _typed_decoder(msgspec: Any, dimensions: int, *, exact: bool) -> Any:
    """A decoder of lists of rows with that many keys.  Nothing it makes burdens the cyclic garbage collector."""
    keys = msgspec.defstruct(
        "Keys", [(name, str) for name in _NAMES[:dimensions]], array_like=True, forbid_unknown_fields=True, gc=False
    )
    count: Any = int if exact else Union[int, float]
    rates: List[Any] = [(name, float) if exact else (name, Optional[float], None) for name in ("ctr", "position")]
    row = msgspec.defstruct(
        "Row",
        [("clicks", count), ("impressions", count), ("keys", keys), *rates],
        forbid_unknown_fields=True,  # it doesn't check what it skips: a name with a broken letter, say
        gc=False,
    )
    return msgspec.json.Decoder(List[row])  # type: ignore[valid-type]


# -- from columns to rows


class _Table:
    """The rows of one answer, checked as they are added.  Raises one of _FAULTS for what is not an answer."""

    def __init__(self, slice_: Slice, *, escaped: bool, order: Optional[Mapping[str, int]]) -> None:
        self.width = len(slice_.dataset.report.dimensions)
        self._names = slice_.dataset.report.dimensions
        self._date = slice_.key.date.isoformat()
        self._escaped = escaped
        self._order = order
        self._numbers: Dict[str, int] = collections.defaultdict(itertools.count().__next__)  # page -> its number
        self._keys: Dict[str, List[Any]] = {name: [] for name in self._names if name != "date"}  # a page as its number
        self._seen: Set[int] = set()  # hash of each row's dimensions
        self._clicks: List[int] = []
        self._impressions: List[int] = []
        self._most_clicks = self._most_impressions = 0
        self._ctr: List[Optional[float]] = []
        self._position: List[Optional[float]] = []

    def add(
        self,
        keys: Sequence[Sequence[str]],
        clicks: List[int],
        impressions: List[int],
        ctr: List[Optional[float]],
        position: List[Optional[float]],
    ) -> None:
        """Append rows: parts of equal length of every column."""
        columns: List[Sequence[Any]] = []
        for name, column in zip(self._names, keys):
            if self._escaped:  # only a \u escape can have made half a surrogate pair, which no database stores
                column = [_storable(value) for value in column]
            if name == "date":  # every row of a slice shares it
                if set(column) != {self._date}:
                    raise ValueError("rows of another date")
                continue
            columns.append(list(map(self._numbers.__getitem__, column)) if name == "page" else column)
            self._keys[name] += columns[-1]
        self._seen.update(map(hash, zip(*columns)))
        self._most_clicks = max(self._most_clicks, max(clicks))
        self._most_impressions = max(self._most_impressions, max(impressions))
        if min(clicks) < 0 or min(impressions) < 0 or max(self._most_clicks, self._most_impressions) > _MAX_COUNT:
            raise ValueError("clicks or impressions out of range")
        self._clicks += clicks
        self._impressions += impressions
        self._ctr += _unlike(ctr, clicks, impressions)
        self._position += position
        if len(self._clicks) > 2 * ROW_LIMIT:  # a few above the limit can be rows that repeat (gsc-api.md 7.2)
            raise ValueError(f"more than {2 * ROW_LIMIT} rows where at most {ROW_LIMIT} were asked for")

    def rows(self, metadata: Any) -> Rows:
        """All rows, without repeats, by page and rank."""
        received = len(self._clicks)
        first_incomplete = _first_incomplete(metadata)
        if not received:
            return Rows(0, 0, [], first_incomplete)
        kept: Sequence[int] = range(received) if len(self._seen) == received else self._without_repeats()
        numbers: Optional[Sequence[int]] = self._keys.get("page")
        pages = [""] if numbers is None else list(self._numbers)
        groups = self._groups(pages)
        if len(pages) == len(kept):
            order, counts = kept if groups is None else [kept[group] for group in groups], [1] * len(pages)
        else:
            counts = [len(kept)]
            if numbers is not None:  # a Counter lists pages in the order it met them: that of their numbers
                met = numbers if len(kept) == received else map(numbers.__getitem__, kept)
                counts = list(collections.Counter(met).values())
            if groups is not None and numbers is not None:
                places = sorted(range(len(groups)), key=groups.__getitem__)
                numbers, counts = list(map(places.__getitem__, numbers)), [counts[group] for group in groups]
            order = self._ranked(kept, numbers, len(pages))
        if groups is not None:
            pages = [pages[group] for group in groups]
        found: List[Any] = [
            self._clicks,
            self._impressions,
            *map(self._keys.get, _KEY_COLUMNS),
            _some(self._ctr),
            _some(self._position),
        ]
        if len(order) == 1:  # the others repeat the first
            found = [column and column[:1] for column in found]
        elif order != range(received):
            take = operator.itemgetter(*order)
            found = [column and take(column) for column in found]
        return Rows(received, len(order), pages, first_incomplete, counts, *found)

    def _without_repeats(self) -> Sequence[int]:
        """The indexes of the first of rows with equal dimensions (gsc-api.md 7.2: a row may come twice)."""
        first: Dict[Any, int] = {}
        columns = self._keys.values()
        for index, identity in enumerate(zip(*columns) if columns else itertools.repeat((), len(self._clicks))):
            first.setdefault(identity, index)
        return list(first.values())

    def _groups(self, pages: List[str]) -> Optional[List[int]]:
        """The numbers of *pages* in the order they shall have; None when that is as it is, or isn't known."""
        if not self._order:
            return None
        places: List[Any] = list(map(self._order.get, pages))
        if None in places:
            return None
        groups = sorted(range(len(pages)), key=places.__getitem__)
        return None if groups == list(range(len(pages))) else groups

    def _ranked(self, kept: Sequence[int], numbers: Optional[Sequence[int]], pages: int) -> List[int]:
        """The indexes *kept*, by page (*numbers*), then most clicks, most impressions, and texts.

        Sort keys are whole numbers, held by doubles as long as those are exact: doubles sort fastest.
        """
        width = self._most_impressions + 1
        span = (self._most_clicks + 1) * width  # sort keys of one page
        number = float if pages * span < 2**53 else int
        ends = [number(page * span) for page in range(pages)]
        keys = [
            ends[page] - (clicks * width + impressions)
            for page, clicks, impressions in zip(numbers or itertools.repeat(0), self._clicks, self._impressions)
        ]
        order = sorted(kept, key=keys.__getitem__)
        ranked = [keys[index] for index in order]
        texts = [column for column in map(self._keys.get, _KEY_COLUMNS) if column is not None]
        if not texts:
            return order
        text = texts[0].__getitem__ if len(texts) == 1 else list(zip(*texts)).__getitem__
        equal = map(operator.eq, ranked, itertools.islice(ranked, 1, None))
        end = 0
        for second in itertools.compress(itertools.count(1), equal):  # equal to the one before it
            if second < end:
                continue
            end = second + 1
            while end < len(ranked) and ranked[end] == ranked[second]:
                end += 1
            order[second - 1 : end] = sorted(order[second - 1 : end], key=text)
        return order


def _storable(value: str) -> str:
    """*value* with each lone surrogate, which UTF-8 can't hold, replaced by U+FFFD."""
    return _LONE.sub("\ufffd", value)


_LONE = re.compile("[\ud800-\udfff]")


def _counts(name: str, column: List[Any]) -> List[int]:
    """A column of clicks or impressions as ints; the wire has 12 or 12.0 (gsc-api.md 2.6)."""
    types = set(map(type, column))
    if types == {int}:
        return column
    if not types <= {int, float} or not all(float(value).is_integer() for value in column):
        raise ValueError(f"{name} that are not whole numbers")
    return list(map(int, column))


def _numbers(name: str, column: List[Any]) -> List[Optional[float]]:
    """A column of doubles, None where the row lacks it."""
    types = set(map(type, column))
    if types == {float}:
        if not math.isfinite(sum(column)) and not all(map(math.isfinite, column)):
            raise ValueError(f"{name} that is not finite")
        return column
    if not types <= {float, int, type(None)}:
        raise ValueError(f"{name} that is not a number")
    column = [None if value is None else float(value) for value in column]
    if not all(value is None or math.isfinite(value) for value in column):
        raise ValueError(f"{name} that is not finite")
    return column


def _unlike(ctr: List[Optional[float]], clicks: List[int], impressions: List[int]) -> List[Optional[float]]:
    """*ctr* without the values that are clicks / impressions exactly."""
    if 0 not in impressions and (
        not any(clicks) and not any(ctr) and None not in ctr  # as in most rows, which are the least clicked
        or list(map(operator.truediv, clicks, impressions)) == ctr
    ):
        return [None] * len(ctr)
    return [None if shown and part / shown == rate else rate for part, shown, rate in zip(clicks, impressions, ctr)]


def _some(column: List[Optional[float]]) -> Optional[List[Optional[float]]]:
    """*column*, or None when nothing is in it."""
    return None if column[0] is None and column.count(None) == len(column) else column


def _first_incomplete(metadata: Any) -> Optional[dt.date]:
    """The documentation spells the key one way, the wire another (gsc-api.md 2.6): take both."""
    if not isinstance(metadata, dict):
        return None
    value = metadata.get("firstIncompleteDate") or metadata.get("first_incomplete_date")
    try:
        return dt.date(*map(int, value[:10].split("-"))) if isinstance(value, str) else None
    except (ValueError, TypeError):
        return None
