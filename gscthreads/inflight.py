"""The HTTP batches under way, and what has come of each.  Pure; the coordinator keeps it."""

from __future__ import annotations

import itertools
from typing import AbstractSet, Dict, List, NamedTuple, Optional, Sequence, Set

from .errors import ApiError
from .model import Slice
from .worker import Batch, BatchEnded


class Fate(NamedTuple):
    """What came of an HTTP batch.  ``productive``: some slice was answered.  ``error``: the last that a slice met.
    ``silent``: the slices of which the worker said nothing."""

    productive: bool
    error: Optional[ApiError]
    silent: List[Slice]


class InFlight:
    """The HTTP batches that workers have, or will soon.  ``len()`` counts them.  Not thread-safe."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._batches: Dict[int, Batch] = {}
        self._batch_of: Dict[Slice, int] = {}  # until the slice has an outcome
        self._productive: Set[int] = set()
        self._last_error: Dict[int, ApiError] = {}

    def __len__(self) -> int:
        return len(self._batches)

    def at(self, site: str) -> int:
        """HTTP batches of *site*."""
        return sum(batch.site == site for batch in self._batches.values())

    def begin(self, slices: Sequence[Slice], again: AbstractSet[Slice]) -> Batch:
        """A new batch of leased *slices*, *again* of which were leased before."""
        batch = Batch(next(self._numbers), slices, frozenset(again))
        self._batches[batch.number] = batch
        self._batch_of.update((slice_, batch.number) for slice_ in slices)
        return batch

    def answered(self, slice_: Slice) -> None:
        """The slice brought rows."""
        number = self._batch_of.pop(slice_, None)
        if number is not None:
            self._productive.add(number)

    def failed(self, slice_: Slice, error: Optional[ApiError]) -> None:
        """The slice brought none; *error* says why, None when what it brought can't be used."""
        number = self._batch_of.pop(slice_, None)
        if number is not None and error is not None:
            self._last_error[number] = error

    def ended(self, ended: BatchEnded) -> Fate:
        """The batch's last outcome is here."""
        number = ended.batch.number
        batch = self._batches.pop(number)
        for slice_ in ended.unsent:
            del self._batch_of[slice_]
        silent = [slice_ for slice_ in batch.slices if self._batch_of.get(slice_) == number]
        for slice_ in silent:
            del self._batch_of[slice_]
        fate = Fate(number in self._productive, self._last_error.pop(number, None), silent)
        self._productive.discard(number)
        return fate
