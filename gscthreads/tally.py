"""What a run has done so far, in figures, and how it ended, in words."""

from __future__ import annotations

import json
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

from .errors import ApiError, Denied
from .figures import COMPLETE, FAILED, HALTED, PARKED, Counters, DatasetResult, Result
from .model import Dataset, Slice
from .plan import DatasetPlan
from .stores.base import Park, RunFigures


class Ending(NamedTuple):
    """How a run, or what it did for a dataset, ended, and why ("" when complete)."""

    status: str
    reason: str = ""


def dataset_ending(plan: DatasetPlan, early: Ending, *, park: Optional[Park], advice: str) -> Ending:
    """How a dataset ended.  *early*: how the run did, in case the dataset was not yet through; *park*: of its site, if
    it is parked; *advice*: for one that Google denies."""
    if plan.error is not None:
        return Ending(FAILED, f"{plan.error}; {advice}" if advice and isinstance(plan.error, Denied)
                      else str(plan.error))
    if plan.failed_days:
        date, first = next(iter(plan.failed_days.items()))
        more = f" (and {len(plan.failed_days) - 1} more days)" if len(plan.failed_days) > 1 else ""
        return Ending(FAILED, f"{date}: {first}{more}")
    if plan.parked is not None:
        until = f"; worth trying again at {park.until:%Y-%m-%d %H:%M} UTC" if park else ""
        return Ending(PARKED, f"{plan.parked}{until}")
    if plan.published == plan.owed_days:
        return Ending(COMPLETE)
    return Ending(HALTED) if early.status == HALTED else early


def run_ending(early: Ending, datasets: Sequence[DatasetResult]) -> Ending:
    """How a run ended whose *datasets* ended so: the worst of it.  *early*: HALTED with the halt's reason, if any came,
    unless the run as such failed or was parked."""
    if early.status != HALTED:
        return early
    for status in (FAILED, PARKED, HALTED):
        for each in datasets:
            if each.status == status:
                return early if status == HALTED else Ending(status, each.error)
    return Ending(COMPLETE)


class Tally:
    """The figures of one run.  Not thread-safe, except ``counters`` and ``sent``.  *peak_qpm* is asked when wanted."""

    def __init__(
        self, counters: Counters, *, peak_qpm: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.counters = counters
        self._per_dataset: Dict[Dataset, Counters] = {}
        self._peak_qpm = peak_qpm
        self._clock = clock
        self._started = clock()
        self._faults: Dict[str, int] = {}
        self._restarts = 0
        self._worked = self._lost = 0.0  # seconds of all workers, and of those that crashed

    def owes(self, dataset: Dataset, days: int) -> None:
        """*dataset* is ours to sync."""
        self._per_dataset[dataset] = Counters()
        self.counters.add(days_owed=days)

    def sent(self, slices: Sequence[Slice], again: int) -> None:
        """An HTTP batch of *slices* goes out now, *again* of them not for the first time.  Thread-safe: workers call
        it."""
        self.counters.add(calls=len(slices), http_batches=1, retries=again)
        for dataset, _ in slices:
            self._per_dataset[dataset].add(calls=1)

    def published(self, dataset: Dataset, rows: int) -> None:
        """A day of *dataset* is published."""
        self.counters.add(days=1, rows=rows)
        self._per_dataset[dataset].add(days=1, rows=rows)

    def failed(self, error: ApiError) -> None:
        """A slice has no rows."""
        name = type(error).__name__
        self._faults[name] = self._faults.get(name, 0) + 1

    def worked(self, seconds: float, *, crashed: bool) -> None:
        """A worker was at an HTTP batch for so long."""
        self._worked += seconds
        if crashed:
            self._restarts += 1
            self._lost += seconds

    def figures(self, status: str, halt_seconds: Optional[float]) -> RunFigures:
        """The run's line in gsc_runs."""
        counters = self.counters
        return RunFigures(
            status,
            counters["days"],
            counters["rows"],
            counters["calls"],
            counters["retries"],
            self._peak_qpm(),
            self._seconds(),
            self._uptime(),
            self._restarts,
            json.dumps(self._faults, sort_keys=True),
            halt_seconds,
        )

    def dataset_result(self, dataset: Dataset, ending: Ending) -> DatasetResult:
        """What was done for *dataset*, all zero when it is not ours."""
        counters = self._per_dataset.get(dataset, Counters())
        names = dataset.site, dataset.report.name, dataset.search_type
        return DatasetResult(
            *names, ending.status, counters["days"], counters["rows"], counters["calls"], ending.reason
        )

    def result(
        self, ending: Ending, datasets: List[DatasetResult], *, halt_seconds: Optional[float], concurrency: int,
        resume_at: str,
    ) -> Result:
        """What was done in all."""
        counters = self.counters
        return Result(
            ending.status,
            counters["days"],
            counters["rows"],
            counters["calls"],
            counters["http_batches"],
            counters["retries"],
            self._seconds(),
            self._peak_qpm(),
            datasets,
            ending.reason,
            self._uptime(),
            self._restarts,
            dict(sorted(self._faults.items())),
            halt_seconds,
            concurrency,
            resume_at,
        )

    def _seconds(self) -> float:
        return round(self._clock() - self._started, 3)

    def _uptime(self) -> float:
        return round(1.0 - self._lost / self._worked, 5) if self._worked else 1.0
