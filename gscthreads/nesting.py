"""JSON of others that is nested deeper than anything Google sends.  Pure.

Parsing it ends in a RecursionError; but before CPython 3.10 the whole process may abort ("Cannot recover from stack
overflow", bpo-42500) when the garbage collector happens to call somebody just then.  So there it is not parsed at all.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

#: Deepest nesting that is parsed; Google's answers have five.
MOST = 100

_CAN_ABORT = sys.version_info < (3, 10)

_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"', re.S)


def is_deep(data: bytes) -> bool:
    """Whether *data* must not be parsed.  Costs about 1 ms a megabyte, and nothing where no process aborts."""
    if not _CAN_ABORT or data.count(b"[") + data.count(b"{") <= MOST:
        return False
    # Brackets in texts, which are few, may keep others from being paired.
    return len(_unpaired(data)) > MOST and len(_unpaired(_TEXT.sub(b"", data))) > MOST


def _unpaired(data: bytes) -> bytes:
    """The brackets left of *data* when the innermost pairs are taken away as often as anything may be nested."""
    left = data.translate(None, _NO_BRACKETS)
    for _ in range(MOST):
        fewer = left.replace(b"[]", b"").replace(b"{}", b"")
        if len(fewer) == len(left):
            break
        left = fewer
    return left


def loads(data: bytes, errors: str = "strict") -> Any:
    """``json.loads``, but a ValueError (or a RecursionError) for what is nested too deeply."""
    if is_deep(data):
        raise ValueError("it is nested too deeply")
    return json.loads(data.decode("utf-8", errors))
