"""Everything the chaos suite hooks into: one place to mend when the package changes.

``Seams`` counts what happens at named points of a run ("fetch.before", "store.commit.after", ...) and lets a plan act
there: raise, halt the run, revoke the token.  ``Recorder`` remembers what was asked, delivered and made durable.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib
import random
import sqlite3
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple

import gscthreads.client
import gscthreads.coordinator
import gscthreads.plan
import gscthreads.quota
import gscthreads.refusals
import gscthreads.stores.sqlite
import gscthreads.worker
from gscthreads.errors import StoreError, StoreFull, StoreLocked
from gscthreads.model import Fetched
from gscthreads.stores.base import FINAL, Store
from gscthreads.summary import read_status

_sync: Any = importlib.import_module("gscthreads.sync")  # the package itself has a function of that name

#: In the text of everything raised on purpose, so that it is told from what isn't.
MARK = "chaos:"

WORKER_POINTS = (
    "acquire.before", "fetch.before", "fetch.after", "deliver.before", "deliver.after", "decode.before", "decode.after",
    "worker.before", "worker.after",
)
STORE_POINTS = (
    "store.open.before", "store.open.after", "store.ledger.before", "store.ledger.after", "store.prepare.before",
    "store.start_run.after", "store.begin.before", "store.begin.after", "store.stage.before", "store.stage.after",
    "store.publish.before", "store.publish.after", "store.save_run.before", "store.save_run.after",
    "store.commit.before", "store.commit.after", "store.close.after",
)
WORKER_ERRORS: Tuple[type, ...] = (RuntimeError, MemoryError, SystemExit, OSError, KeyError, KeyboardInterrupt)


class _Caused:
    """Makes an exception as a store raises it: ours, with the driver's as its cause."""

    def __init__(self, kind: type, cause: str) -> None:
        self.kind, self.cause = kind, cause
        self.__name__ = f"{kind.__name__}({cause})"

    def __call__(self, text: str) -> BaseException:
        error: BaseException = self.kind(f"{text} {self.cause}")
        error.__cause__ = sqlite3.OperationalError(self.cause)
        return error


STORE_ERRORS: Tuple[Callable[[str], BaseException], ...] = (
    _Caused(StoreLocked, "database is locked"), _Caused(StoreFull, "database or disk is full"),
    _Caused(StoreError, "disk I/O error"), sqlite3.OperationalError, RuntimeError, MemoryError,
)


def on_purpose(error: Optional[BaseException]) -> bool:
    """Whether the suite raised *error*, or what caused it."""
    while error is not None:
        if MARK in str(error) or any(MARK in str(value) for value in error.args):
            return True
        error = error.__cause__ or error.__context__
    return False


class Seams:
    """Acts at the n-th passage of a named point.  Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._plan: Dict[Tuple[str, int], Callable[[str], None]] = {}
        self.passed: Dict[str, int] = {}
        self.acted: List[str] = []
        self.everywhere: Callable[[], None] = lambda: None

    def reset(self) -> None:
        with self._lock:
            self._plan, self.passed, self.acted = {}, {}, []

    def at(self, point: str, number: int, action: Callable[[str], None]) -> None:
        """At passage *number* (1 is the first) of *point* call *action* with a description."""
        with self._lock:
            self._plan[point, number] = action

    def hit(self, point: str) -> None:
        with self._lock:
            number = self.passed[point] = self.passed.get(point, 0) + 1
            action = self._plan.pop((point, number), None)
            if action is not None:
                self.acted.append(f"{point}#{number}")
        self.everywhere()
        if action is not None:
            action(f"{MARK} {point}#{number}")


class Recorder:
    """What was asked, delivered and made durable, as seen at the seams; ``wrong`` says what must not be.

    A slice is (site, report, search type, date, start row).  Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._durable: Set[Tuple[Any, ...]] = set()
        self._delivered: Set[Tuple[Any, ...]] = set()
        self._pending: List[Tuple[str, Tuple[Any, ...], bool]] = []
        self._provisional: Set[Tuple[Any, ...]] = set()  # days
        self.wrong: List[str] = []

    def new_round(self, *, forget: bool = False) -> None:
        """Provisional days may be asked for again by the next run; with *forget* so may everything."""
        with self._lock:
            self._delivered.clear()
            self._pending.clear()
            self._durable = set() if forget else {each for each in self._durable if each[:4] not in self._provisional}
            self._provisional.clear()

    def asked(self, slice_: Tuple[Any, ...]) -> None:
        with self._lock:
            if slice_ in self._durable:
                self.wrong.append(f"asked for again although acknowledged: {slice_}")
            elif slice_ in self._delivered:
                self.wrong.append(f"asked for again although delivered in this run: {slice_}")

    def delivered(self, slice_: Tuple[Any, ...]) -> None:
        with self._lock:
            if slice_ in self._delivered:
                self.wrong.append(f"delivered twice: {slice_}")
            self._delivered.add(slice_)

    def writing(self, verb: str, what: Tuple[Any, ...], final: bool = False) -> None:
        with self._lock:
            self._pending.append((verb, what, final))

    def rolled_back(self) -> None:
        with self._lock:
            self._pending.clear()

    def committed(self) -> None:
        with self._lock:
            for verb, what, final in self._pending:
                if verb == "stage":
                    self._durable.add(what)
                elif verb == "unstage":
                    self._durable = {each for each in self._durable if each[:4] != what}
                elif verb == "publish":
                    self._durable.add((*what, 0))
                    if not final:
                        self._provisional.add(what)
            self._pending.clear()


def name_of(dataset: Any, key: Any) -> Tuple[Any, ...]:
    return (dataset.site, dataset.report.name, dataset.search_type, key.date, key.start_row)


class SeamStore:
    """A store with a seam before and after every call.  Passes on whatever a newer contract adds."""

    def __init__(self, inner: Store, seams: Seams, recorder: Optional[Recorder] = None) -> None:
        self.inner = inner
        self._seams = seams
        self._recorder = recorder or Recorder()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.inner, name)
        if name.startswith("_") or not callable(value):
            return value

        def call(*values: Any, **named: Any) -> Any:
            self._seams.hit(f"store.{name}.before")
            result = value(*values, **named)
            self._note(name, values, named)
            self._seams.hit(f"store.{name}.after")
            return result

        return call

    def _note(self, name: str, values: Tuple[Any, ...], named: Dict[str, Any]) -> None:
        recorder = self._recorder
        if name == "commit":
            recorder.committed()
        elif name in ("rollback", "begin"):
            recorder.rolled_back()
        elif name == "stage":
            recorder.writing("stage", name_of(values[0], values[1]))
        elif name == "unstage":
            for date in values[1]:
                recorder.writing("unstage", (values[0].site, values[0].report.name, values[0].search_type, date))
        elif name == "publish":
            day = (values[0].site, values[0].report.name, values[0].search_type, values[1])
            recorder.writing("publish", day, named.get("status") == FINAL)


Store.register(SeamStore)


@contextlib.contextmanager
def installed(seams: Seams, recorder: Recorder) -> Iterator[None]:
    """Seams in workers, client, quota and decoder of every run started inside."""
    client, worker, quota = gscthreads.client.Client, gscthreads.worker.Worker, gscthreads.quota.Quota
    fetch, run, acquire, make_decoder = client.fetch, worker._fetch, quota.acquire, _sync.make_decoder

    def fetch_with_seams(self: Any, batch: Any, deliver: Any, on_request: Any) -> None:
        def deliver_with_seams(outcome: Any) -> None:
            seams.hit("deliver.before")
            deliver(outcome)
            if isinstance(outcome, Fetched):
                recorder.delivered(name_of(*outcome.slice))
            seams.hit("deliver.after")

        seams.hit("fetch.before")
        for slice_ in batch:
            recorder.asked(name_of(*slice_))
        fetch(self, batch, deliver_with_seams, on_request)
        seams.hit("fetch.after")

    def run_with_seams(self: Any, *values: Any) -> Any:
        seams.hit("worker.before")
        sent_at = run(self, *values)
        seams.hit("worker.after")
        return sent_at

    def acquire_with_seams(self: Any, *values: Any, **named: Any) -> Any:
        seams.hit("acquire.before")
        return acquire(self, *values, **named)

    def make_decoder_with_seams(**named: Any) -> Any:
        decode = make_decoder(**named)

        def decode_with_seams(body: bytes, slice_: Any) -> Any:
            seams.hit("decode.before")
            rows = decode(body, slice_)
            seams.hit("decode.after")
            return rows

        return decode_with_seams

    client.fetch, worker._fetch, quota.acquire = fetch_with_seams, run_with_seams, acquire_with_seams
    _sync.make_decoder = make_decoder_with_seams
    try:
        yield
    finally:
        client.fetch, worker._fetch, quota.acquire = fetch, run, acquire
        _sync.make_decoder = make_decoder


@contextlib.contextmanager
def slices_of(limit: int) -> Iterator[None]:
    """Slices of *limit* rows instead of 25,000, so that days of many slices cost little."""
    modules = (gscthreads.plan, gscthreads.client, gscthreads.coordinator)
    before = [module.ROW_LIMIT for module in modules]
    for module in modules:
        module.ROW_LIMIT = limit
    try:
        yield
    finally:
        for module, value in zip(modules, before):
            module.ROW_LIMIT = value


class WallClock:
    """``time.time`` that ``jump`` sets back or forth by hours; ``time.monotonic`` goes on as ever."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._lock = threading.Lock()
        self._offset = 0.0
        self._real = time.time

    def jump(self) -> None:
        with self._lock:
            if self._dice.random() < 0.2:
                self._offset = self._dice.uniform(-40, 40) * 3600

    def time(self) -> float:
        return self._real() + self._offset


@contextlib.contextmanager
def wall_clock(clock: WallClock) -> Iterator[None]:
    stores = gscthreads.stores.sqlite
    real, time.time, now = time.time, clock.time, stores._now
    stores._now = lambda: stores.stamp(dt.datetime.fromtimestamp(clock.time(), dt.timezone.utc))
    try:
        yield
    finally:
        time.time, stores._now = real, now


@contextlib.contextmanager
def retry_after_up_to(seconds: float) -> Iterator[None]:
    """No Retry-After, however large, costs more than *seconds*."""
    before, gscthreads.refusals.MAX_RETRY_AFTER = gscthreads.refusals.MAX_RETRY_AFTER, seconds
    try:
        yield
    finally:
        gscthreads.refusals.MAX_RETRY_AFTER = before


#: A program that looks into a SQLite file again and again until its standard input ends.  It makes no file.
_NEIGHBOUR = """
import contextlib, select, sqlite3, sys
address = "file:" + sys.argv[1] + "?mode=rw"
while not select.select([sys.stdin], [], [], 0.002)[0]:
    with contextlib.suppress(sqlite3.OperationalError):  # not there yet, or being written
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=1)) as database:
            database.execute("SELECT count(*) FROM gsc_run").fetchone()
"""


@contextlib.contextmanager
def neighbour(path: str) -> Iterator[None]:
    """Another process opens and closes the SQLite file *path* all the while.  Who closes a database last deletes its
    log, and who is last it learns from locks, which any other close of the file by this process would have dropped."""
    with subprocess.Popen([sys.executable, "-S", "-c", _NEIGHBOUR, path], stdin=subprocess.PIPE) as process:
        try:
            yield
        finally:
            process.stdin.close()
            if process.wait(30):
                raise RuntimeError("the neighbour failed, see its traceback")


class Looks:
    """Looks into the store from this process too, now and then, as a status page would."""

    def __init__(self, url: str, dice: random.Random) -> None:
        self._url = url
        self._dice = dice
        self._lock = threading.Lock()
        self.looked = 0

    def look(self) -> None:
        with self._lock:
            if self._dice.random() >= 0.02:
                return
            self.looked += 1
        with contextlib.suppress(StoreError):  # not there yet, or being written
            read_status(self._url)


@contextlib.contextmanager
def switch_interval(seconds: Optional[float]) -> Iterator[None]:
    before = sys.getswitchinterval()
    if seconds is not None:
        sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
