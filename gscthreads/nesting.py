"""JSON of others that is nested deeper than anything Google sends.  Pure.

Parsing it ends in a RecursionError; but in CPython 3.8, and in 3.9 at first, the whole process may abort ("Cannot
recover from stack overflow", bpo-42500) when the garbage collector happens to call somebody just then.  So there it is
not parsed at all.
"""

from __future__ import annotations

import json
import sys
from typing import Any

#: Nesting up to which all is parsed, and from twice of which on nothing; Google's answers have five.
MOST = 100

_CAN_ABORT = sys.version_info < (3, 10)


def is_deep(data: bytes) -> bool:
    """Whether *data* must not be parsed.  Costs about 1.3 ms a megabyte, and nothing where no process aborts."""
    if not _CAN_ABORT or data.count(b"[") + data.count(b"{") <= MOST:
        return False
    left = outside_texts(data, b"[]{}")
    for _ in range(MOST):  # take the innermost pairs away
        fewer = left.replace(b"[]", b"").replace(b"{}", b"")
        if len(fewer) == len(left):
            return len(left) > MOST  # an answer that was cut off leaves a few
        left = fewer
    return bool(left)


def outside_texts(data: bytes, kept: bytes) -> bytes:
    """Those of the bytes *kept* that are in no text of the JSON *data*."""
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    others = bytes(set(range(256)) - set(kept + b'"'))
    # Two quotes with nothing that is kept between them change nothing about what is inside a text.
    return b"".join(data.translate(None, others).replace(b'""', b"").split(b'"')[::2])


def loads(data: bytes, errors: str = "strict") -> Any:
    """``json.loads``, but a ValueError (or a RecursionError) for what is nested too deeply."""
    if is_deep(data):
        raise ValueError("it is nested too deeply")
    return json.loads(data.decode("utf-8", errors))
