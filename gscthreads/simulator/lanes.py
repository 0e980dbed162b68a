"""Work on the parts of a batch side by side, and hand the results over in order."""

from __future__ import annotations

import threading
from typing import Callable, Dict, Generic, Iterator, List, Optional, Sequence, TypeVar

T = TypeVar("T")


class Lanes(Generic[T]):
    """Runs jobs on ``width`` threads; iterating yields their results in the order of the jobs.

    No job starts more than ``ahead`` places before the one whose result is next, so that a slow reader of the
    results bounds the memory they take.  ``close()`` (or leaving the iteration) ends the threads.
    """

    def __init__(self, jobs: Sequence[Callable[[], T]], width: int, ahead: Optional[int] = None) -> None:
        self._jobs = jobs
        self._width = max(1, min(width, len(jobs)))
        self._ahead = ahead if ahead is not None else 2 * self._width
        # Guards everything below; notified when any of it changes.
        self._changed = threading.Condition()
        self._results: Dict[int, T] = {}
        self._next_job = 0
        self._next_result = 0
        self._failure: Optional[BaseException] = None
        self._closed = False

    def __iter__(self) -> Iterator[T]:
        threads: List[threading.Thread] = []
        try:
            for number in range(self._width):
                thread = threading.Thread(target=self._work, name=f"gsc-simulator-lane-{number}", daemon=True)
                threads.append(thread)
                thread.start()
            for number in range(len(self._jobs)):
                yield self._take(number)
        finally:
            self.close()

    def close(self) -> None:
        """Start no further job."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _take(self, number: int) -> T:
        with self._changed:
            while number not in self._results:
                if self._failure is not None:
                    raise self._failure
                self._changed.wait()
            self._next_result = number + 1
            self._changed.notify_all()
            return self._results.pop(number)

    def _work(self) -> None:
        while True:
            with self._changed:
                while (not self._closed and self._next_job < len(self._jobs)
                       and self._next_job >= self._next_result + self._ahead):
                    self._changed.wait()
                if self._closed or self._next_job >= len(self._jobs):
                    return
                number = self._next_job
                self._next_job += 1
            try:
                result = self._jobs[number]()
            except BaseException as problem:  # handed to whoever iterates
                with self._changed:
                    self._failure = problem
                    self._changed.notify_all()
                return
            with self._changed:
                self._results[number] = result
                self._changed.notify_all()
