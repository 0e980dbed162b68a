"""Progress of a run on stderr: a tqdm bar on a terminal that has tqdm, plain lines otherwise."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import Any, Optional, TextIO, Type

from .figures import Snapshot
from .sync import Sync


class Progress:
    """Shows *run* while the ``with`` block lasts.  *quiet*: shows nothing."""

    def __init__(self, run: Sync, *, quiet: bool, stream: Optional[TextIO] = None) -> None:
        self._run = run
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._interval = 0.5 if self._live else 10.0  # a log file wants fewer lines
        self._bar: Any = None
        self._over = threading.Event()
        self._thread: Optional[threading.Thread] = None
        if not quiet:
            self._thread = threading.Thread(target=self._loop, name=f"{__name__}", daemon=True)

    def __enter__(self) -> "Progress":
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(2.0)

    def _loop(self) -> None:
        self._bar = _tqdm(self._stream) if self._live else None
        while not self._over.wait(self._interval):
            self._show(self._run.snapshot())
        if self._bar is not None:
            self._show(self._run.snapshot())
            self._bar.close()
        elif self._live:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _show(self, now: Snapshot) -> None:
        if self._bar is not None:
            self._bar.total = now.days_owed
            self._bar.n = now.days
            self._bar.set_postfix_str(
                f"{now.rows:,} rows, {now.calls:,} calls, {now.qpm} QPM, {now.in_flight} in flight"
            )
            self._bar.refresh()
            return
        line = describe(now)
        self._stream.write(f"\r{line}\x1b[K" if self._live else line + "\n")
        self._stream.flush()


def describe(now: Snapshot) -> str:
    """One line about a run."""
    if now.waiting:
        return f"{now.days:,}/{now.days_owed:,} days; waiting for {now.waiting}"
    left = "" if now.eta is None else f", {_duration(now.eta)} left"
    return (
        f"{now.days:,}/{now.days_owed:,} days, {now.rows:,} rows, {now.calls:,} calls, {now.qpm} QPM, "
        f"{now.in_flight} in flight{left}"
    )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _tqdm(stream: TextIO) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(unit="day", file=stream, dynamic_ncols=True)
