"""Counts of a run, the snapshot that shows them while it goes on, and the result that keeps them."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any, Dict, List, Optional

COMPLETE, FAILED, HALTED, PARKED, RUNNING = "complete", "failed", "halted", "parked", "running"


class Counters:
    """Named whole numbers that several threads add to.  Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _values; nothing blocks while it is held
        self._values: Dict[str, int] = {}

    def add(self, **amounts: int) -> None:
        with self._lock:
            for name, amount in amounts.items():
                self._values[name] = self._values.get(name, 0) + amount

    def put(self, **values: int) -> None:
        with self._lock:
            self._values.update(values)

    def __getitem__(self, name: str) -> int:
        with self._lock:
            return self._values.get(name, 0)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A run at one moment.  ``days`` of ``days_owed`` are published; ``qpm`` counts the calls of the last 60 s;
    ``eta`` is the seconds left at the pace so far, None while unknown; ``queue_fill`` is 0..1; ``slowed`` has the calls
    a minute for each site that refused calls as too fast; ``concurrency`` is the workers that one site gets;
    ``waiting`` says what the run waits for, "" when it works."""

    status: str
    days: int
    days_owed: int
    rows: int
    calls: int
    http_batches: int
    retries: int
    in_flight: int
    open_days: int
    queue_size: int
    queue_fill: float
    qpm: int
    peak_qpm: int
    seconds: float
    eta: Optional[float]
    slowed: Dict[str, float] = dataclasses.field(default_factory=dict)
    concurrency: int = 0
    waiting: str = ""


@dataclasses.dataclass(frozen=True)
class DatasetResult:
    """What a run did for one dataset.  ``error`` is "" unless it failed or was parked."""

    site: str
    report: str
    search_type: str
    status: str
    days: int
    rows: int
    calls: int
    error: str


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run did.  ``status``: complete, failed (at least one dataset failed), halted or parked (both resumable
    by the same call).  ``days`` and ``rows`` were published by this run, ``calls`` sent by it, retries included;
    ``peak_qpm`` is the greatest number of its calls to one site in any 60 seconds; ``reason`` says why it ended early.

    Supervision: ``uptime`` is the share of the workers' time not lost to crashes, ``restarts`` counts those, ``faults``
    counts the slices that failed by class of error, ``halt_seconds`` runs from the halt to the end (None without one),
    ``concurrency`` is the most workers that one site got, ``resume_at`` says when a parked run is worth starting again
    (ISO 8601, UTC; "" unless Google's quota parked it)."""

    status: str
    days: int
    rows: int
    calls: int
    http_batches: int
    retries: int
    seconds: float
    peak_qpm: int
    datasets: List[DatasetResult]
    reason: str = ""
    uptime: float = 1.0
    restarts: int = 0
    faults: Dict[str, int] = dataclasses.field(default_factory=dict)
    halt_seconds: Optional[float] = None
    concurrency: int = 0
    resume_at: str = ""

    def as_dict(self) -> Dict[str, Any]:
        """The object that ``--json`` prints."""
        values = dataclasses.asdict(self)
        for name in ("reason", "resume_at"):
            if not values[name]:
                del values[name]
        return values

    @property
    def exit_status(self) -> int:
        """0 complete, 1 failed, 3 halted or parked."""
        return {COMPLETE: 0, FAILED: 1}.get(self.status, 3)
