"""Ctrl-C and kill, for the command line only: the package itself installs no signal handler."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Callable, Optional


def halt_on_signals(halt: Callable[[str], object]) -> None:
    """The first SIGINT or SIGTERM calls *halt* with its name; a second one ends the process the usual way."""

    def handle(number: int, frame: Optional[FrameType]) -> None:
        signal.signal(number, signal.SIG_DFL)
        halt(signal.Signals(number).name)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
