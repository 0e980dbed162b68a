"""Query answers as bytes: JSON written by hand for speed, and a cache bounded by bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from json.encoder import encode_basestring
from typing import Callable, Dict, Hashable, List, NamedTuple, Optional, Tuple, Union

from .squeeze import Squeezed
from .tables import TableRow


class Style(NamedTuple):
    """How an answer is written."""

    pretty: bool = True
    #: Integral numbers as 12 or as 12.0.
    floats: bool = False
    #: Rows without position.
    feed: bool = False
    gzipped: bool = False


def number(value: float, floats: bool) -> str:
    """A double as Google writes it: shortest form that reads back the same, integral ones as 12 (or 12.0)."""
    text = repr(float(value))
    return text[:-2] if not floats and text.endswith(".0") else text


def _plain_row(keys: Tuple[str, ...], clicks: str, seen: str, ctr: str, position: str) -> str:
    head = f'{{"keys":[{",".join(keys)}],' if keys else "{"
    tail = f',"position":{position}}}' if position else "}"
    return f'{head}"clicks":{clicks},"impressions":{seen},"ctr":{ctr}{tail}'


def _pretty_row(keys: Tuple[str, ...], clicks: str, seen: str, ctr: str, position: str) -> str:
    listed = ",\n        ".join(keys)
    head = f'    {{\n      "keys": [\n        {listed}\n      ],\n' if keys else "    {\n"
    tail = f',\n      "position": {position}\n    }}' if position else "\n    }"
    return f'{head}      "clicks": {clicks},\n      "impressions": {seen},\n      "ctr": {ctr}{tail}'


def body(rows: List[TableRow], aggregation: str, metadata: Optional[Tuple[str, str]], style: Style) -> bytes:
    """The JSON of one answer; ``rows`` and ``metadata`` are left out where there are none (gsc-api.md 2.6)."""
    one, quoted, floats = (_pretty_row if style.pretty else _plain_row), encode_basestring, style.floats
    dot = ".0" if floats else ""
    texts = []
    for keys, clicks, seen, position in rows:
        ctr = clicks / seen
        texts.append(one(
            tuple([quoted(key) for key in keys]), f"{clicks}{dot}", f"{seen}{dot}",
            number(ctr, floats), "" if style.feed else number(position, floats)))
    parts = []
    if style.pretty:
        if texts:
            parts.append('  "rows": [\n' + ",\n".join(texts) + "\n  ]")
        parts.append(f'  "responseAggregationType": "{aggregation}"')
        if metadata:
            parts.append('  "metadata": {\n    "%s": "%s"\n  }' % metadata)
        text = "{\n" + ",\n".join(parts) + "\n}\n"
    else:
        if texts:
            parts.append('"rows":[' + ",".join(texts) + "]")
        parts.append(f'"responseAggregationType":"{aggregation}"')
        if metadata:
            parts.append('"metadata":{"%s":"%s"}' % metadata)
        text = "{" + ",".join(parts) + "}"
    # Google escapes angle brackets; outside of strings there are none.
    text = text.replace("<", "\\u003c").replace(">", "\\u003e")
    return text.encode("utf-8", "backslashreplace")


class Encoded(NamedTuple):
    """An answer's body, ready to be sent: plain bytes, or a compressed piece."""

    data: Union[bytes, Squeezed]
    rows: int

    @property
    def size(self) -> int:
        """Bytes it takes to keep."""
        return len(self.data.data if isinstance(self.data, Squeezed) else self.data)


class Answers:
    """Encoded answers, kept until they take up more than ``limit()`` bytes; least recently used ones go first."""

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: "OrderedDict[Hashable, Encoded]" = OrderedDict()
        self._bytes = 0
        self._making: Dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, make: Callable[[], Encoded]) -> Encoded:
        """The kept answer, or a new one; two threads never make the same one at once."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                found = self._kept.get(key)
            if found is not None:
                return found
            found = make()
            with self._lock:
                self._making.pop(key, None)
                if found.size <= self._limit():
                    self._kept[key] = found
                    self._bytes += found.size
                while self._bytes > self._limit() and self._kept:
                    _, dropped = self._kept.popitem(last=False)
                    self._bytes -= dropped.size
        return found

    @property
    def bytes_kept(self) -> int:
        """Bytes of all answers kept."""
        with self._lock:
            return self._bytes
