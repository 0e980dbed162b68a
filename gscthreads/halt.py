"""The halt: one Event with a reason, and the only places that sleep or wait for room."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from typing import Any, Callable, Iterator, List, Optional


class Halted(Exception):
    """Raised inside workers to unwind at a halt; never leaves the package."""


class Halt:
    """A one-way flag that stops a run from any thread.  Thread-safe.

    The reason is written before the event is set, and the first one wins, so whoever sees the event can say why.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._claims = itertools.count()
        # Guards reason and callbacks; nothing blocks while it is held.  Reentrant, for signal handlers that halt.
        self._lock = threading.RLock()
        self._reason = ""
        self._set_at: Optional[float] = None
        self._callbacks: List[Callable[[], None]] = []

    def set(self, reason: str) -> bool:
        """Halt because of *reason*.  True when this call was the first."""
        with self._lock:
            if next(self._claims):  # not is_set(): a signal may come between any two instructions of this
                return False
            self._reason = reason
            self._set_at = time.monotonic()
            self._event.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
        return True

    def is_set(self) -> bool:
        return self._event.is_set()

    @property
    def reason(self) -> str:
        """Why the run was halted; "" while it goes on."""
        with self._lock:
            return self._reason

    @property
    def set_at(self) -> Optional[float]:
        """When the run was halted, in monotonic seconds; None while it goes on."""
        with self._lock:
            return self._set_at

    def on_set(self, callback: Callable[[], None]) -> None:
        """Call *callback* once, from the halting thread, when the halt comes (at once if it has come)."""
        with self._lock:
            if not self._event.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def wait(self, seconds: float) -> bool:
        """Sleep *seconds* or until the halt; True when halted.  The one sleep of the package."""
        return self._event.wait(max(0.0, seconds))


def put_or_halt(items: "queue.Queue[Any]", item: Any, halt: Halt, *, tick: float = 0.1) -> bool:
    """Queue *item*, waiting for room.  False, item not queued, when *halt* comes first (noticed within *tick* s)."""
    while not halt.is_set():
        try:
            items.put(item, timeout=tick)
            return True
        except queue.Full:
            continue
    return False


@contextlib.contextmanager
def held_or_halted(lock: Any, halt: Halt, *, tick: float = 0.1) -> Iterator[None]:
    """Hold *lock*, which others may hold for long.  Halted, and not held, when *halt* comes first (noticed within
    *tick* s) or has come: who has waited long must not begin what would keep it longer."""
    while not lock.acquire(timeout=tick):
        if halt.is_set():
            raise Halted(halt.reason)
    try:
        if halt.is_set():
            raise Halted(halt.reason)
        yield
    finally:
        lock.release()


def get_or_none(items: "queue.Queue[Any]", seconds: float) -> Optional[Any]:
    """The next item, or None when none came within *seconds*."""
    try:
        return items.get(timeout=seconds) if seconds > 0 else items.get_nowait()
    except queue.Empty:
        return None
