"""One slice's JSON body -> ``Rows``: checked, free of repeats, grouped by page, in order of rank.

Pure.  Everything Google sends is untrusted: whatever is not exactly the documented shape (gsc-api.md 2.6) raises
``Transient``, so that the slice is asked for again.  Works column by column, because a check of a whole column
(``set(map(type, column))``) costs a tenth of the same check row by row, and lists of text and numbers are no work for
the cyclic garbage collector.
"""

from __future__ import annotations

import collections
import contextlib
import datetime as dt
import itertools
import json
import math
import operator
import re
from typing import Any, Callable, Dict, List, NamedTuple, NoReturn, Optional, Sequence, Tuple, Union

from .errors import ApiError, Transient
from .model import DIMENSIONS, ROW_LIMIT, Rows, Slice
from .refusals import classify

#: Counts above this can't have come from a double without loss (all four metrics are doubles, gsc-api.md 2.6).
_MAX_COUNT = 2**53 - 1

_LONG = 16 * 1024 * 1024  #: bytes above which commas are counted too

#: Bytes of JSON parsed at once: other threads get the interpreter lock in between, and the parsed rows stay in the
#: processor's cache until they are taken apart.
_PIECE = 64 * 1024

_KEY_COLUMNS = ("query", "country", "device", "searchAppearance")  # the dimensions besides page, in the order of Rows

_FAULTS = (ValueError, TypeError, KeyError, AttributeError, OverflowError)  #: what a wrong shape raises


class _Columns(NamedTuple):
    """An answer taken apart, hardly checked yet: one list of keys a dimension."""

    keys: List[List[Any]]
    clicks: List[Any]
    impressions: List[Any]
    ctr: List[Any]
    position: List[Any]
    metadata: Any


Loader = Callable[[bytes, int], _Columns]


def make_decoder(*, fast: Optional[bool] = None) -> Callable[[bytes, Slice], Rows]:
    """The function that decodes a slice's body.  *fast* None takes msgspec where it is installed (the ``fast``
    extra), False the standard library; both give the same rows.  Thread-safe."""
    load = _load_json if fast is False else _fast_loader() or _load_json
    return lambda body, slice_: decode(body, slice_, load)


def decode(body: bytes, slice_: Slice, load: Optional[Loader] = None) -> Rows:
    """The rows of one answer.  An answer without "rows" is an empty one.  Raises ``Transient`` (or the class that
    fits, when the body is an error in spite of its status) for anything that isn't an answer to *slice_*."""
    try:
        _check_size(body)
        columns = (load or _load_json)(body, len(slice_.dataset.report.dimensions))
        escaped = b"\\" in body and (b"\\ud" in body or b"\\uD" in body)
        return _rows(columns, slice_, escaped=escaped)
    except ApiError:
        raise
    except RecursionError:
        raise Transient("the answer is nested too deeply to be one", reason="malformed") from None
    except _FAULTS as error:
        raise Transient(f"the answer is not what the API documents: {error}"[:300], reason="malformed") from error


def _check_size(body: bytes) -> None:
    """Refuse a body that would become far more Python objects than a slice is, before it is parsed.

    A row has one object and one list; the margin is for brackets inside URLs and queries.
    """
    most = 8 * ROW_LIMIT
    if body.count(b"{") > most or body.count(b"[") > most or (len(body) > _LONG and body.count(b",") > 40 * ROW_LIMIT):
        raise ValueError("it has far more parts than a slice of rows")


def _rows(columns: _Columns, slice_: Slice, *, escaped: bool) -> Rows:
    received = len(columns.clicks)
    if received > 2 * ROW_LIMIT:  # a few above the limit can be rows that repeat (gsc-api.md 7.2)
        raise ValueError(f"{received} rows where at most {ROW_LIMIT} were asked for")
    first_incomplete = _first_incomplete(columns.metadata)
    if not received:
        return Rows(0, 0, [], first_incomplete)
    keys = _key_columns(columns.keys, slice_.dataset.report.dimensions, slice_.key.date, escaped=escaped)
    clicks = _counts("clicks", columns.clicks)
    impressions = _counts("impressions", columns.impressions)
    ctr = _unlike(_numbers("ctr", columns.ctr), clicks, impressions)
    position = _numbers("position", columns.position)
    pages = keys.get("page")
    texts = [keys.get(name) for name in _KEY_COLUMNS]
    order = _without_repeats(received, list(keys.values()))
    counts: Dict[str, int] = {"": len(order)}
    if pages is not None:
        counts = collections.Counter(pages if len(order) == received else [pages[index] for index in order])
    if len(counts) < len(order):
        order = _ranked(order, pages, counts, clicks, impressions, texts)
    found: List[Any] = [clicks, impressions, *texts, ctr, position]
    if order != range(received):
        found = [column and [column[index] for index in order] for column in found]
    return Rows(received, len(order), list(counts), first_incomplete, list(counts.values()), *found)


def _key_columns(
    columns: List[List[Any]], dimensions: Sequence[str], date: dt.date, *, escaped: bool
) -> Dict[str, List[str]]:
    """{dimension: its values}, checked; ``date``, which every row of a slice shares, is checked and left out."""
    keys = dict(zip(dimensions, columns))
    for name, column in keys.items():
        if set(map(type, column)) != {str}:
            raise ValueError(f"a {name} that is not text")
    if escaped:  # only a \u escape can have made half a surrogate pair, which no database stores
        keys = {name: [_storable(value) for value in column] for name, column in keys.items()}
    if "date" in keys and set(keys.pop("date")) != {date.isoformat()}:
        raise ValueError("rows of another date")
    return keys


def _storable(value: str) -> str:
    """*value* with each lone surrogate, which UTF-8 can't hold, replaced by U+FFFD."""
    return value.encode("utf-8", "surrogatepass").decode("utf-8", "replace") if _LONE.search(value) else value


_LONE = re.compile("[\ud800-\udfff]")


def _counts(name: str, column: List[Any]) -> List[int]:
    """A column of clicks or impressions as ints; the wire has 12 or 12.0 (gsc-api.md 2.6)."""
    types = set(map(type, column))
    if types != {int}:
        if not types <= {int, float} or not all(float(value).is_integer() for value in column):
            raise ValueError(f"{name} that are not whole numbers")
        column = list(map(int, column))
    if min(column) < 0 or max(column) > _MAX_COUNT:
        raise ValueError(f"{name} out of range")
    return column


def _numbers(name: str, column: List[Any]) -> Optional[List[Optional[float]]]:
    """A column of doubles, None where the row lacks it; None when all rows lack it."""
    types = set(map(type, column))
    if types == {float}:
        if not math.isfinite(sum(column)):
            raise ValueError(f"{name} that is not finite")
        return column
    if types == {type(None)}:
        return None
    if not types <= {float, int, type(None)}:
        raise ValueError(f"{name} that is not a number")
    column = [None if value is None else float(value) for value in column]
    if not all(value is None or math.isfinite(value) for value in column):
        raise ValueError(f"{name} that is not finite")
    return column


def _unlike(
    ctr: Optional[List[Optional[float]]], clicks: List[int], impressions: List[int]
) -> Optional[List[Optional[float]]]:
    """*ctr* without the values that are clicks / impressions exactly; None when none is left."""
    if ctr is None:
        return None
    with contextlib.suppress(ZeroDivisionError):
        if list(map(operator.truediv, clicks, impressions)) == ctr:
            return None
    left = [
        None if shown and part / shown == rate else rate for part, shown, rate in zip(clicks, impressions, ctr)
    ]
    return None if left.count(None) == len(left) else left


def _without_repeats(received: int, columns: List[List[str]]) -> Sequence[int]:
    """The indexes of the rows, only the first of those with equal dimensions (gsc-api.md 7.2: a row may come twice)."""
    everything = range(received)
    if columns and len(set(map(hash, zip(*columns)))) == received:
        return everything
    first: Dict[Any, int] = {}
    for index, identity in zip(everything, zip(*columns) if columns else itertools.repeat(())):
        first.setdefault(identity, index)
    return everything if len(first) == received else list(first.values())


def _ranked(
    order: Sequence[int],
    pages: Optional[List[str]],
    counts: Dict[str, int],
    clicks: List[int],
    impressions: List[int],
    texts: List[Optional[List[str]]],
) -> List[int]:
    """The indexes *order*, by page in the order of *counts*, then most clicks, most impressions, and text.

    The sort keys are whole numbers, held by doubles as long as those are exact: doubles sort fastest.
    """
    order = list(order)
    for column in reversed(texts):
        if column is not None:
            order.sort(key=column.__getitem__)
    width = max(impressions) + 1
    span = (max(clicks) + 1) * width  # sort keys of one page
    number: Callable[[int], Any] = float if len(counts) * span < 2**53 else int
    width, starts = number(width), itertools.count(number(0), number(span))
    if pages is None:
        keys = [-part * width - shown for part, shown in zip(clicks, impressions)]
    else:
        start = dict(zip(counts, starts))
        keys = [start[page] - part * width - shown for page, part, shown in zip(pages, clicks, impressions)]
    order.sort(key=keys.__getitem__)
    return order


def _first_incomplete(metadata: Any) -> Optional[dt.date]:
    """The documentation spells the key one way, the wire another (gsc-api.md 2.6): take both."""
    if not isinstance(metadata, dict):
        return None
    value = metadata.get("firstIncompleteDate") or metadata.get("first_incomplete_date")
    try:
        return dt.date(*map(int, value[:10].split("-"))) if isinstance(value, str) else None
    except (ValueError, TypeError):
        return None


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _load_json(body: bytes, dimensions: int) -> _Columns:
    try:
        return _load_in_pieces(body, dimensions)
    except (RecursionError, *_FAULTS):
        return _load_whole(body, dimensions)  # which knows why


def _load_in_pieces(body: bytes, dimensions: int) -> _Columns:
    """The same as ``_load_whole`` for what is written as Google writes it; raises for all else, valid or not.

    A piece ends at a comma between two braces.  That it stood between two rows, not inside a text or something nested,
    is certain once the piece, which begins where a row does, is valid JSON by itself.
    """
    head, end = _HEAD.match(body), body.rfind(b"},{")
    if head is None or end < 0:
        raise ValueError("rows do not come first, or are spaced out")
    columns = _Columns([[] for _ in range(dimensions)], [], [], [], [], None)
    start = head.end()
    while start <= end:
        cut = body.find(b"},{", start + _PIECE, end)
        cut = end if cut < 0 else cut
        _add(columns, _parse(b"[" + body[start : cut + 1] + b"]"), dimensions)
        start = cut + 2
    answer = _parse(head.group() + body[start:], object_pairs_hook=_unique)
    _add(columns, answer["rows"], dimensions)
    return columns._replace(metadata=answer.get("metadata"))


_HEAD = re.compile(rb'[ \t\n\r]*\{[ \t\n\r]*"rows"[ \t\n\r]*:[ \t\n\r]*\[')


def _unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    """An object, refused when a name repeats: the last one would count, for instance other "rows"."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name that repeats")
    return found


def _load_whole(body: bytes, dimensions: int) -> _Columns:
    answer = _parse(body)
    if not isinstance(answer, dict):
        raise ValueError(f"a {type(answer).__name__} where an object belongs")
    rows = answer.get("rows")  # null means absent
    if not isinstance(rows, (list, type(None))):
        raise ValueError("rows that are not a list")
    if answer.get("error") is not None and not rows:
        raise _refused(answer, body)
    if rows is None:
        # An empty answer still names its aggregation type (gsc-api.md 2.6); a proxy's {"message": ...} must not empty
        # a day.
        if answer.get("responseAggregationType") is None:
            raise ValueError("neither rows nor responseAggregationType")
        rows = []
    columns = _Columns([[] for _ in range(dimensions)], [], [], [], [], answer.get("metadata"))
    _add(columns, rows, dimensions)
    return columns


def _parse(text: bytes, **hooks: Any) -> Any:
    return json.loads(text.decode("utf-8"), parse_constant=_not_finite, **hooks)


def _add(columns: _Columns, rows: List[Any], dimensions: int) -> None:
    """Append *rows* to *columns*."""
    if not rows:
        return
    keys = [row.get("keys") for row in rows]
    if not dimensions:
        if any(keys):
            raise ValueError("keys in an answer that has no dimensions")
    else:
        if set(map(type, keys)) != {list} or set(map(len, keys)) != {dimensions}:
            raise ValueError(f"keys that are not lists of {dimensions}")
        for column, values in zip(columns.keys, zip(*keys)):
            column += values
    columns.clicks.extend([row["clicks"] for row in rows])
    columns.impressions.extend([row["impressions"] for row in rows])
    columns.ctr.extend([row.get("ctr") for row in rows])
    columns.position.extend([row.get("position") for row in rows])


def _refused(answer: Dict[str, Any], body: bytes) -> ApiError:
    """An error that came with status 200."""
    error = answer["error"]
    code = error.get("code") if isinstance(error, dict) else None
    return classify(code if isinstance(code, int) and 400 <= code <= 599 else 500, body, {})


def _fast_loader() -> Optional[Loader]:
    """The same through msgspec's typed decoder, or None where it isn't installed (or too old to be typed)."""
    try:
        import msgspec

        decoders = {dimensions: _typed_decoder(msgspec, dimensions) for dimensions in range(1, len(DIMENSIONS) + 1)}
    except (ImportError, AttributeError, TypeError):
        return None

    def load(body: bytes, dimensions: int) -> _Columns:
        if not dimensions:
            return _load_json(body, dimensions)
        try:
            answer: Any = decoders[dimensions].decode(body)
        except msgspec.DecodeError:  # refused, like half a surrogate pair, which the standard library lets pass
            return _load_json(body, dimensions)
        rows = answer.rows
        if not rows:  # msgspec overlooks faults in what it skips; none may empty a day
            return _load_json(body, dimensions)
        keys = [row.keys for row in rows]
        return _Columns(
            [list(map(operator.attrgetter(name), keys)) for name in _NAMES[:dimensions]],
            [row.clicks for row in rows],
            [row.impressions for row in rows],
            [row.ctr for row in rows],
            [row.position for row in rows],
            answer.metadata,
        )

    return load


_NAMES = tuple(f"key{number}" for number in range(len(DIMENSIONS)))


def _typed_decoder(msgspec: Any, dimensions: int) -> Any:
    """A decoder of answers whose rows have that many keys.  Nothing of it burdens the cyclic garbage collector."""
    keys = msgspec.defstruct(
        "Keys",
        [(name, str) for name in _NAMES[:dimensions]],
        array_like=True,
        forbid_unknown_fields=True,
        gc=False,
    )
    row = msgspec.defstruct(
        "Row",
        [
            ("clicks", Union[int, float]),
            ("impressions", Union[int, float]),
            ("keys", keys),
            ("ctr", Optional[float], None),
            ("position", Optional[float], None),
        ],
        gc=False,
    )
    answer = msgspec.defstruct(
        "Answer",
        [
            ("rows", Optional[List[row]], None),  # type: ignore[valid-type]
            ("responseAggregationType", Any, None),
            ("metadata", Any, None),
            ("error", Any, None),
        ],
    )
    return msgspec.json.Decoder(answer)
