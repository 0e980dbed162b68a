"""Ctrl-C and kill, for the command line only: the package itself installs no signal handler."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Optional

from .sync import Sync


def halt_on_signals(run: Sync) -> None:
    """The first SIGINT or SIGTERM halts the run; a second one ends the process the usual way."""

    def halt(number: int, frame: Optional[FrameType]) -> None:
        signal.signal(number, signal.SIG_DFL)
        run.halt(signal.Signals(number).name)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, halt)
