"""The store contract in words.  Every store keeps these promises; ``tests/test_store.py`` holds each to them."""

from __future__ import annotations

import abc
import datetime as dt
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..halt import Halt
from ..model import Dataset, Rows, SliceKey
from ..quota import LocalLedger, QuotaLedger

#: Seconds without a sign of life after which a run loses its leases.
LEASE_SECONDS = 60.0

#: What the ledger says of a day.  OPEN: begun, nothing published yet.  FAILED: given up, nothing published.
OPEN, PROVISIONAL, FINAL, FAILED = "open", "provisional", "final", "failed"


#: Who holds a dataset: process, host, since when.
HELD = "being synced by process {} on {}, since {}"


class Acknowledged(NamedTuple):
    """One slice that is durably in the store: how many rows Google sent, and when and how it was asked for."""

    received: int
    fetched_on: dt.date  # Pacific date
    data_state: str


class DayRecord(NamedTuple):
    """The ledger's entry for a day.  ``slices`` are those acknowledged since the day was last published."""

    status: str
    slices: Mapping[int, Acknowledged]


class RunFigures(NamedTuple):
    """What a run has done so far, as kept in gsc_runs.  ``uptime``: share of the workers' time not lost to crashes;
    ``restarts``: crashes; ``faults``: JSON, how often each class of error was met; ``halt_seconds``: from the halt to
    the end of the run."""

    status: str
    days: int
    rows: int
    calls: int
    retries: int
    peak_qpm: int
    seconds: float
    uptime: float = 1.0
    restarts: int = 0
    faults: str = "{}"
    halt_seconds: Optional[float] = None


class Park(NamedTuple):
    """A site whose load quota was spent: when that was first seen, and when it is worth asking again (both UTC)."""

    since: dt.datetime
    until: dt.datetime
    reason: str


class Store(abc.ABC):
    """Where rows and the ledger live.  Not thread-safe: one thread (the coordinator) opens, uses and closes it.

    Writing goes through transactions: ``begin``, any number of ``stage``, ``publish``, ``fail_day``, ``save_run``,
    then ``commit``.  What a transaction did is visible and durable when ``commit`` returns, and not at all before.
    Every method raises ``StoreError`` (``StoreFull``, ``StoreLocked``) with the driver's error as its cause.

    Several processes may have a store open.  A dataset is written by one run at a time, which holds its lease
    (``claim``).  A run that gives no sign of life (``begin``) for ``LEASE_SECONDS``, or is seen to be dead, loses its
    leases to the next that asks; its own next ``begin`` then raises ``LeaseLost``, before it has written anything.
    """

    #: True when ``open`` found no database and made one.
    created = False

    @abc.abstractmethod
    def open(self, *, writing: bool = True, halt: Optional[Halt] = None) -> None:
        """Connect, and migrate the schema forward; ``Halted`` when *halt* comes while that waits for something.

        Not *writing*: only read; a store that does not exist is ``StoreMissing``.
        """

    @abc.abstractmethod
    def close(self, *, discard: bool = False) -> None:
        """Let go of everything, leases included; twice is fine.  *discard* removes a database that this ``open``
        created, unless another process has begun to use it."""

    def quota_ledger(self) -> QuotaLedger:
        """The budgets that all runs on this store share.  Thread-safe with the store; closed by whoever asked."""
        return LocalLedger()

    def page_order(self) -> Mapping[str, int]:
        """Where pages belong in the order in which rows are kept, as far as that is known: a hint for decoders.  Any
        thread may read it at any time."""
        return {}

    @abc.abstractmethod
    def ledger(self, dataset: Dataset, start: dt.date, end: dt.date) -> Dict[dt.date, DayRecord]:
        """What is known of each day in start..end (both included); days never begun are absent."""

    @abc.abstractmethod
    def prepare(self, datasets: Iterable[Dataset], *, top_queries: int) -> None:
        """Inside a transaction: check that *datasets* agree with what is stored under their names (ConfigError), and
        note how many queries to rank."""

    @abc.abstractmethod
    def begin(self, halt: Halt) -> None:
        """Start a transaction, which is also a sign of life; waits for other writers until *halt* comes (``Halted``)
        or patience ends (``StoreLocked``).  Raises LeaseLost when this run was taken for dead."""

    @abc.abstractmethod
    def commit(self) -> None: ...

    @abc.abstractmethod
    def rollback(self) -> None:
        """Undo the transaction; never raises, fine without one."""

    @abc.abstractmethod
    def stage(self, dataset: Dataset, key: SliceKey, rows: Rows, ack: Acknowledged) -> None:
        """Keep one slice of a day of several, invisible to readers, and acknowledge it.  Idempotent."""

    @abc.abstractmethod
    def publish(self, dataset: Dataset, date: dt.date, rows: Optional[Rows], *, status: str, calls: int) -> int:
        """Replace the day by its new rows, with everything derived from it; the number of rows published.

        *rows* are those of a day of one slice; None takes the staged slices, without rows that repeat.
        """

    @abc.abstractmethod
    def unstage(self, dataset: Dataset, dates: Iterable[dt.date]) -> None:
        """Forget the staged slices of these days (they are stale, or ``force`` asks for everything anew)."""

    @abc.abstractmethod
    def fail_day(self, dataset: Dataset, date: dt.date, error: str) -> None:
        """Note that a day was given up; a day already published stays as it is."""

    @abc.abstractmethod
    def start_run(self, settings: str) -> int:
        """Note the start of a run (*settings*: JSON without secrets); its run id.  Runs found dead become killed."""

    @abc.abstractmethod
    def claim(self, datasets: Iterable[Dataset]) -> Dict[Dataset, str]:
        """Inside a transaction, after ``start_run``: lease those of *datasets* that no living run holds.  The others,
        with words that say who holds them."""

    @abc.abstractmethod
    def holders(self) -> Dict[Dataset, str]:
        """The datasets that living runs hold now, with words that say who.  Only reads."""

    @abc.abstractmethod
    def save_run(self, run_id: int, figures: RunFigures, *, ended: bool) -> None:
        """Bring a run's line in gsc_runs up to date.  *ended* gives its leases back."""

    @abc.abstractmethod
    def parks(self) -> Dict[str, Park]:
        """The sites that were parked and have not been answered since."""

    @abc.abstractmethod
    def park(self, site: str, park: Optional[Park]) -> None:
        """Inside a transaction: note that *site* is parked; None: that it answers again."""

    @abc.abstractmethod
    def datasets(self) -> List[Dataset]:
        """Every dataset that was ever begun, in order of site, report and search type."""

    @abc.abstractmethod
    def read(self, statement: str, values: Sequence[Any] = ()) -> List[Tuple[Any, ...]]:
        """All rows of a reading statement on the views, for status and demo."""

    @abc.abstractmethod
    def interrupt(self) -> None:
        """From any thread: the statement that is being worked on, if any, ends at once with a StoreError."""
