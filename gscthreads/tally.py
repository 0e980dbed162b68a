"""What a run has done so far, in figures."""

from __future__ import annotations

import json
import time
from typing import Callable, Dict, List, Optional, Sequence

from .ending import Ending
from .errors import ApiError
from .figures import Counters, DatasetResult, Result
from .model import Dataset, Slice
from .stores.base import RunFigures


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
        days, rows, calls, retries = self._counts("days", "rows", "calls", "retries")
        faults = json.dumps(self._faults, sort_keys=True)
        return RunFigures(
            status, days, rows, calls, retries, self._peak_qpm(), self._seconds(), self._uptime(), self._restarts,
            faults, halt_seconds,
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
        days, rows, calls, batches, retries = self._counts("days", "rows", "calls", "http_batches", "retries")
        return Result(
            ending.status, days, rows, calls, batches, retries, self._seconds(), self._peak_qpm(), datasets,
            ending.reason, self._uptime(), self._restarts, dict(sorted(self._faults.items())), halt_seconds,
            concurrency, resume_at,
        )

    def _counts(self, *names: str) -> List[int]:
        return [self.counters[name] for name in names]

    def _seconds(self) -> float:
        return round(self._clock() - self._started, 3)

    def _uptime(self) -> float:
        return round(1.0 - self._lost / self._worked, 5) if self._worked else 1.0
