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

_OTHERS = bytes(set(range(256)) - set(b'[]{}"'))


def is_deep(data: bytes) -> bool:
    """Whether *data* must not be parsed.  Costs about 1.3 ms a megabyte, and nothing where no process aborts."""
    if not _CAN_ABORT or data.count(b"[") + data.count(b"{") <= MOST:
        return False
    left = _brackets(data)
    for _ in range(MOST):  # take the innermost pairs away
        fewer = left.replace(b"[]", b"").replace(b"{}", b"")
        if len(fewer) == len(left):
            return len(left) > MOST  # an answer that was cut off leaves a few
        left = fewer
    return bool(left)


def _brackets(data: bytes) -> bytes:
    """The brackets of *data* that are in no text."""
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Two quotes with no bracket between them change nothing about what is inside a text.
    return b"".join(data.translate(None, _OTHERS).replace(b'""', b"").split(b'"')[::2])


def loads(data: bytes, errors: str = "strict") -> Any:
    """``json.loads``, but a ValueError (or a RecursionError) for what is nested too deeply."""
    if is_deep(data):
        raise ValueError("it is nested too deeply")
    return json.loads(data.decode("utf-8", errors))
