"""The bounded way from the workers to the coordinator."""

from __future__ import annotations

import collections
import contextlib
import queue
import threading
from typing import Any, Deque, List

from .halt import Halt, get_or_none, put_or_halt
from .model import Fetched

#: Most decoded rows waiting for the coordinator (about 320 bytes each), however large the queue: one full slice.  More
#: would only wait longer, and be out of the processor's cache by then.
MAX_WAITING_ROWS = 25_000


_WAKE = object()


class Turns:
    """A lock for ``with`` that goes to whoever has waited longest; a plain one often goes to who had it last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the rest, for a moment
        self._taken = False
        self._waiting: Deque[threading.Lock] = collections.deque()

    def __enter__(self) -> None:
        turn = threading.Lock()
        turn.acquire()
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            self._waiting.append(turn)
        turn.acquire()

    def __exit__(self, *error: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False


class Outcomes:
    """A ``queue.Queue`` of at most *size* outcomes that is bounded by rows too.  Thread-safe.

    Workers wait for room, a halt lets them go.  The coordinator never waits for room: it only takes.

    Who decodes rows to put holds the ``turn`` meanwhile.  Decoding holds the interpreter lock anyway; one after another
    it takes the memory of one slice instead of one a worker, no slice is overtaken again and again, and nothing is
    decoded that can't be put yet.
    """

    def __init__(self, size: int, halt: Halt) -> None:
        self.turn = Turns()
        self._queue: "queue.Queue[Any]" = queue.Queue(size)
        self._size = size
        self._halt = halt
        self._room = threading.Condition()  # guards the rest
        self._rows = 0
        self._kept_out = 0  # threads that wait for room

    def put(self, outcome: Any) -> bool:
        """Hand *outcome* over, waiting for room.  False, and not handed over, when the halt came first."""
        rows = _rows_of(outcome)
        with self._room:
            self._kept_out += 1
            try:
                while self._rows and self._rows + rows > MAX_WAITING_ROWS:
                    if self._halt.is_set():
                        return False
                    self._room.wait(0.1)
            finally:
                self._kept_out -= 1
            self._rows += rows
        if put_or_halt(self._queue, outcome, self._halt):
            return True
        self._give(rows)
        return False

    def take(self, seconds: float, *, most_rows: int) -> List[Any]:
        """Outcomes waiting, in order: at least one unless none comes within *seconds*, at most *most_rows* rows."""
        found: List[Any] = []
        rows = 0
        while rows < most_rows:
            outcome = get_or_none(self._queue, 0.0 if found else seconds)
            if outcome is None or outcome is _WAKE:
                break
            found.append(outcome)
            rows += _rows_of(outcome)
        return found

    def wake(self) -> None:
        """Let a waiting ``take`` return at once."""
        with contextlib.suppress(queue.Full):  # full: it isn't waiting
            self._queue.put_nowait(_WAKE)

    def settled(self, outcomes: List[Any]) -> None:
        """Taken *outcomes* need no memory any more."""
        self._give(sum(map(_rows_of, outcomes)))

    def fill(self) -> float:
        """Share of the queue in use, 0..1."""
        return len(self) / self._size

    def pressed(self) -> bool:
        """True when the coordinator is behind: somebody waits for room, or the queue is half full."""
        return self._kept_out > 0 or self.fill() > 0.5

    def __len__(self) -> int:
        # Without qsize(), whose lock a signal handler that halts would wait for in the very thread that holds it.
        return len(self._queue.queue)

    def _give(self, rows: int) -> None:
        if rows:
            with self._room:
                self._rows -= rows
                self._room.notify_all()


def _rows_of(outcome: Any) -> int:
    return outcome.rows.kept if isinstance(outcome, Fetched) else 0
