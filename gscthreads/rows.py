"""One slice's JSON body -> ``Rows``: checked, free of repeats, grouped by page, in order of rank.

Pure.  Everything Google sends is untrusted: whatever is not exactly the documented shape (gsc-api.md 2.6) raises
``Transient``, so that the slice is asked for again.  Works column by column, because a check of a whole column
(``set(map(type, column))``) costs a tenth of the same check row by row.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import math
import re
from typing import Any, Callable, Dict, List, NamedTuple, NoReturn, Optional, Sequence, Tuple

from .errors import ApiError, Transient
from .model import ROW_LIMIT, Row, Rows, Slice
from .refusals import classify

#: Counts above this can't have come from a double without loss (all four metrics are doubles, gsc-api.md 2.6).
_MAX_COUNT = 2**53 - 1

_LONG = 16 * 1024 * 1024  #: bytes above which commas are counted too

_KEY_COLUMNS = ("query", "country", "device", "searchAppearance")  # the dimensions inside a Row, in its order


class _Columns(NamedTuple):
    """An answer taken apart, nothing checked yet."""

    keys: List[Any]
    clicks: List[Any]
    impressions: List[Any]
    ctr: List[Any]
    position: List[Any]
    metadata: Any


Loader = Callable[[bytes], _Columns]


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
        columns = (load or _load_json)(body)
        return _rows(columns, slice_, escaped=b"\\u" in body)
    except ApiError:
        raise
    except RecursionError:
        raise Transient("the answer is nested too deeply to be one", reason="malformed") from None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
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
    dimensions = slice_.dataset.report.dimensions
    keys = _key_columns(columns.keys, dimensions, slice_.key.date, escaped=escaped)
    clicks = _counts("clicks", columns.clicks)
    impressions = _counts("impressions", columns.impressions)
    ctr = [
        None if shown and part / shown == rate else rate
        for part, shown, rate in zip(clicks, impressions, _numbers("ctr", columns.ctr))
    ]
    position = _numbers("position", columns.position)
    rows: List[Row] = list(
        zip(
            [-count for count in clicks],
            [-count for count in impressions],
            *(keys.get(name) or itertools.repeat("") for name in _KEY_COLUMNS),
            ctr,
            position,
        )
    )
    pages = keys.get("page") or [""] * received
    pages, rows = _without_repeats(pages, rows, list(keys.values()))
    return Rows(received, len(rows), _ranked(pages, rows), first_incomplete)


def _key_columns(
    keys: List[Any], dimensions: Sequence[str], date: dt.date, *, escaped: bool
) -> Dict[str, Sequence[str]]:
    """{dimension: its values}, checked; ``date``, which every row of a slice shares, is checked and left out."""
    if not dimensions:
        if set(map(type, keys)) != {type(None)} and any(keys):
            raise ValueError("keys in an answer that has no dimensions")
        return {}
    if set(map(type, keys)) != {list} or set(map(len, keys)) != {len(dimensions)}:
        raise ValueError(f"keys that are not lists of {len(dimensions)}")
    columns: Dict[str, Sequence[str]] = dict(zip(dimensions, zip(*keys)))
    for name, column in columns.items():
        if set(map(type, column)) != {str}:
            raise ValueError(f"a {name} that is not text")
    if escaped:  # only a \u escape can have made half a surrogate pair, which no database stores
        columns = {name: [_storable(value) for value in column] for name, column in columns.items()}
    if "date" in columns and set(columns.pop("date")) != {date.isoformat()}:
        raise ValueError("rows of another date")
    return columns


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


def _numbers(name: str, column: List[Any]) -> List[Optional[float]]:
    """A column of doubles, None where the row lacks it."""
    types = set(map(type, column))
    if types == {float}:
        if not math.isfinite(sum(column)):
            raise ValueError(f"{name} that is not finite")
        return column
    if not types <= {float, int, type(None)}:
        raise ValueError(f"{name} that is not a number")
    column = [None if value is None else float(value) for value in column]
    if not all(value is None or math.isfinite(value) for value in column):
        raise ValueError(f"{name} that is not finite")
    return column


def _without_repeats(
    pages: Sequence[str], rows: List[Row], columns: List[Sequence[str]]
) -> Tuple[Sequence[str], List[Row]]:
    """Keep the first of rows with equal dimensions (gsc-api.md 7.2: a row may come twice)."""
    identities: List[Any] = list(zip(*columns)) if columns else [()] * len(rows)
    if len(set(identities)) == len(rows):
        return pages, rows
    first: Dict[Any, int] = {}
    for index, identity in enumerate(identities):
        first.setdefault(identity, index)
    kept = list(first.values())
    return [pages[index] for index in kept], [rows[index] for index in kept]


def _ranked(pages: Sequence[str], rows: List[Row]) -> List[Tuple[str, List[Row]]]:
    groups: Dict[str, List[Row]] = {}
    for page, row in zip(pages, rows):
        group = groups.get(page)
        if group is None:
            groups[page] = [row]
        else:
            group.append(row)
    for group in groups.values():
        if len(group) > 1:
            group.sort()  # dimensions are unique here, so the order is settled before ctr, which may be None
    return list(groups.items())


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


def _load_json(body: bytes) -> _Columns:
    answer = json.loads(body.decode("utf-8"), parse_constant=_not_finite)
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
    return _Columns(
        [row.get("keys") for row in rows],
        [row["clicks"] for row in rows],
        [row["impressions"] for row in rows],
        [row.get("ctr") for row in rows],
        [row.get("position") for row in rows],
        answer.get("metadata"),
    )


def _refused(answer: Dict[str, Any], body: bytes) -> ApiError:
    """An error that came with status 200."""
    error = answer["error"]
    code = error.get("code") if isinstance(error, dict) else None
    return classify(code if isinstance(code, int) and 400 <= code <= 599 else 500, body, {})


def _fast_loader() -> Optional[Loader]:
    """The same through msgspec's typed decoder, or None where it isn't installed (or too old to be typed)."""
    try:
        import msgspec

        answer_type = msgspec.defstruct(
            "Answer",
            [
                ("rows", Optional[List[_row_type(msgspec)]], None),  # type: ignore[misc]
                ("responseAggregationType", Any, None),
                ("metadata", Any, None),
                ("error", Any, None),
            ],
        )
        decoder = msgspec.json.Decoder(answer_type)
    except (ImportError, AttributeError, TypeError):
        return None

    def load(body: bytes) -> _Columns:
        try:
            answer: Any = decoder.decode(body)
        except msgspec.DecodeError:  # refused, like half a surrogate pair, which the standard library lets pass
            return _load_json(body)
        rows = answer.rows
        if not rows:  # msgspec overlooks faults in what it skips; none may empty a day
            return _load_json(body)
        return _Columns(
            [row.keys for row in rows],
            [row.clicks for row in rows],
            [row.impressions for row in rows],
            [row.ctr for row in rows],
            [row.position for row in rows],
            answer.metadata,
        )

    return load


def _row_type(msgspec: Any) -> Any:
    return msgspec.defstruct(
        "Row",
        [
            ("clicks", float),
            ("impressions", float),
            ("keys", Optional[List[str]], None),
            ("ctr", Optional[float], None),
            ("position", Optional[float], None),
        ],
        gc=False,
    )
