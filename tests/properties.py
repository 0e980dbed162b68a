"""How many examples the property tests try.

As they stand: a few, and the same ones each time, so that a red run speaks of a change and not of chance.
GSCTHREADS_EXAMPLES=50 tries 50 times as many, new ones each time (docs/architecture.md has the command).
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import settings

TIMES = int(os.environ.get("GSCTHREADS_EXAMPLES", "0"))


def examples(count: int, **more: Any) -> settings:
    return settings(max_examples=count * max(1, TIMES), deadline=None, derandomize=not TIMES, **more)
