"""What has to be looked after now and then while one thread waits for answers: deadlines, signs of life."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Callable, Optional, Type

logger = logging.getLogger(__name__)

#: Seconds between ticks, as in the coordinator's loop.
TICK = 0.25

#: Seconds to wait for a last tick that hangs (in a ledger, say); it is left behind then, and ends by itself.
_GRACE = 1.0


class Ticking:
    """Calls *tick* every quarter of a second, from a daemon thread that lives as long as the ``with`` block.

    A sync needs none: its coordinator does the same between two rounds.
    """

    def __init__(self, tick: Callable[[], object], *, seconds: float = TICK) -> None:
        self._tick = tick
        self._seconds = seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=__name__, daemon=True)

    def __enter__(self) -> Ticking:
        self._thread.start()
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._ended.set()
        self._thread.join(_GRACE)

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            try:
                self._tick()
            except Exception:  # whoever waits for the answers meets the same trouble, and tells it
                logger.debug("a tick failed", exc_info=True)
