"""The SQLite store: one file, WAL, one writer (the coordinator thread), any number of readers."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import os
import re
import socket
import sqlite3
import time
from typing import Any, ContextManager, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from ..errors import LeaseLost, StoreError, StoreLocked, StoreMissing
from ..halt import Halt, Halted
from ..model import Dataset, Rows, SliceKey
from ..quota import QuotaLedger
from . import schema
from .base import FAILED, HELD, LEASE_SECONDS, OPEN, Acknowledged, RunFigures
from .layout import laid_out
from .sql import REMEMBERED, SQLStore, dataset_of, stamp
from .sqlite_sync import RunLock, SyncFile, explained, is_busy, is_running, others

#: Seconds to wait for another writer of the same file (a reader never blocks us, nor we it).
PATIENCE = 60.0

#: Window functions (3.25), upsert (3.24), row values (3.15).
_OLDEST_SQLITE = (3, 25, 0)


class SQLiteStore(SQLStore):
    """A store in the file *path*.

    *shared*: the file may hold another program's tables, beside which ours are made (each name begins with ``gsc_``).
    A file that was once shared is known again without being told.
    """

    _words = {"sums": schema.SUMS, "weights": schema.SUM_OF_WEIGHTS}

    def __init__(self, path: str, *, shared: bool = False) -> None:
        super().__init__()
        self.path = path
        self.shared = shared
        self.created = False
        self._sync = SyncFile(path)
        self._sync_created = False
        self._run_lock: Optional[RunLock] = None
        self._run_id: Optional[int] = None
        self._db: Optional[sqlite3.Connection] = None

    # -- open and close

    def open(self, *, writing: bool = True, halt: Optional[Halt] = None) -> None:
        if self._db is not None:
            raise StoreError(f"this store object is in use; make another one for {self.path}")
        self.created = False
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old: this needs 3.25 or newer (or Postgres)")
        self._check_path(writing=writing)
        try:
            with self._errors():
                if writing:
                    self._open_for_writing(halt)
                else:
                    self._db = self._connect()
                    self._db.execute("PRAGMA query_only = ON")
                    if not self._check_ours():
                        raise StoreMissing(f"{self.path} holds nothing of gscthreads yet; run a sync first")
        except BaseException:
            self.close(discard=True)
            raise

    def _open_for_writing(self, halt: Optional[Halt]) -> None:
        self._sync_created = not os.path.exists(self._sync.path)
        with self._sync.alone(halt):
            self._run_lock = RunLock(self.path)  # first: who is about to discard the database looks for it
            self.created = not self.shared and not os.path.exists(self.path)
            self._db = self._connect()
            self._migrate()

    def close(self, *, discard: bool = False) -> None:
        database, self._db = self._db, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):
                database.close()
        self._run_id = None
        self._forget_ids()
        run_lock, self._run_lock = self._run_lock, None
        if run_lock is not None:
            if discard and (self.created or self._sync_created):
                self._discard(run_lock.token)
            run_lock.close()
        self.created = self._sync_created = False
        self._sync.close()

    def _discard(self, token: str) -> None:
        """Remove what ``open`` made, unless another run has come since."""
        made = (["", "-wal", "-shm"] if self.created else []) + (
            ["-sync", "-sync-wal", "-sync-shm"] if self._sync_created else []
        )
        # Whoever holds the mutex for longer is about to use the database.
        with contextlib.suppress(sqlite3.Error, StoreError), self._sync.alone(patience=0.2):
            for suffix in [] if others(self.path, token) else made:
                with contextlib.suppress(OSError):
                    os.unlink(self.path + suffix)

    def quota_ledger(self) -> QuotaLedger:
        return SyncFile(self.path)

    def _check_path(self, *, writing: bool) -> None:
        existed = os.path.exists(self.path) and os.path.getsize(self.path) > 0
        folder = os.path.dirname(os.path.abspath(self.path))
        if os.path.isdir(self.path):
            raise StoreError(f"{self.path} is a folder; name a file in it")
        if not os.path.isdir(folder):
            raise StoreError(f"the folder {folder} does not exist; make it first")
        if not writing and not existed:
            raise StoreMissing(f"{self.path} does not exist yet; run a sync first")
        if writing and not os.access(self.path if existed else folder, os.W_OK):
            raise StoreError(f"no permission to write {self.path if existed else folder}")
        # It is never opened but by SQLite: closing a file drops all locks that this process has on it, those of other
        # stores too, and then somebody else takes the log with their commits for left behind, and deletes it.
        if existed and not os.access(self.path, os.R_OK):
            raise StoreError(f"no permission to read {self.path}")

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=0.5, isolation_level=None, cached_statements=64)
        try:
            database.execute("PRAGMA cache_size = -16000")  # KiB: holds the B-tree of the days being written
            database.execute("PRAGMA temp_store = MEMORY")
        except BaseException:
            database.close()
            raise
        return database

    def _check_ours(self) -> int:
        """The schema version of the file, 0 when it has no tables of ours; StoreError when it is somebody else's."""
        application = self._one("PRAGMA application_id")
        version = int(self._one("PRAGMA user_version"))
        if application != schema.APPLICATION_ID:
            if self._one("SELECT count(*) FROM sqlite_master WHERE name = 'gsc_meta'"):
                self.shared = True
                version = int(self._one("SELECT coalesce(max(version), 0) FROM gsc_meta"))
            elif self.shared:
                version = 0
            elif application or version or self._one("SELECT count(*) FROM sqlite_master"):
                raise StoreError(f"{self.path} is another program's database; choose another file")
        else:
            self.shared = False
        if version > len(schema.MIGRATIONS):
            raise StoreError(f"{self.path} was written by a newer gscthreads (schema {version}); upgrade this one")
        return version

    def _migrate(self) -> None:
        database = self._connection()
        version = self._check_ours()
        database.execute("PRAGMA journal_mode = WAL")
        # NORMAL: a kill loses nothing; a power cut may lose the newest commits whole, never a part of one.
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA wal_autocheckpoint = 8000")  # pages: 32 MB between checkpoints
        for script in schema.upgrades(version, shared=self.shared):
            database.executescript(f"BEGIN IMMEDIATE; {script} COMMIT;")
        database.execute("CREATE TEMP TABLE gsc_gone (page INTEGER PRIMARY KEY)")

    # -- transactions

    def begin(self, halt: Halt) -> None:
        database = self._connection()
        deadline = time.monotonic() + PATIENCE
        with self._errors():
            database.execute("PRAGMA busy_timeout = 0")  # a wait inside SQLite could not be interrupted by a halt
            while True:
                try:
                    database.execute("BEGIN IMMEDIATE")
                    break
                except sqlite3.OperationalError as error:
                    if not is_busy(error):
                        raise
                    if halt.wait(0.02):
                        raise Halted from error
                    if time.monotonic() > deadline:
                        raise StoreLocked(f"{self.path} is locked by another program that writes to it") from error
            if self._run_id is not None:
                alive = database.execute(
                    "UPDATE gsc_run SET beat = ? WHERE id = ? AND status = 'running'", (time.monotonic(), self._run_id)
                )
                if alive.rowcount != 1:
                    self.rollback()
                    raise LeaseLost(f"another sync of {self.path} took this one for dead and went on in its place")

    def commit(self) -> None:
        with self._errors():
            self._connection().execute("COMMIT")

    def rollback(self) -> None:
        with contextlib.suppress(sqlite3.Error, StoreError):
            self._connection().execute("ROLLBACK")
        self._forget_ids()

    # -- rows

    def stage(self, dataset: Dataset, key: SliceKey, rows: Rows, ack: Acknowledged) -> None:
        day = self._day(dataset, key.date)
        self.execute("DELETE FROM gsc_stage WHERE day = ? AND start_row = ?", (day, key.start_row))
        self._insert(schema.STAGE, (day, key.start_row), self._columns(dataset, rows))
        self.execute("UPDATE gsc_day SET status = ? WHERE id = ? AND status = ?", (OPEN, day, FAILED))
        self.execute(
            schema.NOTE_STAGED, (day, key.start_row, ack.received, ack.fetched_on.isoformat(), ack.data_state)
        )

    def publish(self, dataset: Dataset, date: dt.date, rows: Optional[Rows], *, status: str, calls: int) -> int:
        day = self._day(dataset, date)
        replaced, staged = self.read(schema.PRESENT, (day,))[0]
        if replaced:
            self._withdraw(dataset, day)
        if rows is None:
            count = self.execute(schema.PUBLISH_STAGED, (day,)).rowcount
        else:
            count = self._insert(schema.FACTS, (day,), self._columns(dataset, rows))
        if dataset.report.name == "page":
            self._add_lifetime(dataset, day, date, replaced=replaced)
        if staged:
            self._forget_slices(day)
        self.execute(schema.NOTE_PUBLISHED, (day, status, count, calls, _now()))
        return count

    def _withdraw(self, dataset: Dataset, day: int) -> None:
        """Take a published day's rows out, remembering its pages in gsc_gone for ``_add_lifetime``."""
        if dataset.report.name == "page":
            self.execute("DELETE FROM temp.gsc_gone")
            self.execute("INSERT INTO temp.gsc_gone SELECT page FROM gsc_fact WHERE day = ? AND rank = 1", (day,))
            self.execute(schema.LIFETIME_SUBTRACT, (self._dataset(dataset), day))
        self.execute("DELETE FROM gsc_fact WHERE day = ?", (day,))

    def _add_lifetime(self, dataset: Dataset, day: int, date: dt.date, *, replaced: bool) -> None:
        number = self._dataset(dataset)
        self.execute(schema.LIFETIME_ADD, (number, day, date.isoformat()))
        if replaced:
            self.execute(
                "DELETE FROM temp.gsc_gone WHERE page IN (SELECT page FROM gsc_fact WHERE day = ?)", (day,)
            )
            self.execute(schema.LIFETIME_DROP, (number,))
            self.execute(schema.LIFETIME_REDATE, (number, date.isoformat()))

    def _forget_slices(self, day: int) -> None:
        self.execute("DELETE FROM gsc_stage WHERE day = ?", (day,))
        self.execute("DELETE FROM gsc_slice WHERE day = ?", (day,))

    def _columns(self, dataset: Dataset, rows: Rows) -> List[_Column]:
        """page, rank, query, segment, clicks, impressions, ctr and position of *rows*, in the order of gsc_fact's key:
        dense pages, no searching."""
        ids = self._page_ids(rows.pages) if "page" in dataset.report.dimensions else [0]
        page, rank, query, segment, clicks, impressions, ctr, position = laid_out(
            rows, ids, self._segment_column(rows)
        )
        return [
            _column(page, "0"), _column(rank, "1"), _column(query), _column(segment, "0"),
            _column(clicks), _column(impressions), _numbers(ctr), _numbers(position),
        ]

    def _insert(self, into: str, fixed: Tuple[int, ...], columns: Sequence[_Column]) -> int:
        """Insert *columns*, after the *fixed* ones, *into* a table; the number of rows.

        As few statements as possible: every call of SQLite lets go of the interpreter lock, and getting it back can
        cost a whole JSON decode.  As few values as possible: binding them is half the work.
        """
        bound = [values for _, values in columns if values is not None]
        width, count, before = len(bound), len(bound[0]), len(fixed)
        first = [f"?{number}" for number in range(1, 1 + before)]
        marks = f"({','.join(first + [expression for expression, _ in columns])})"
        for start, size, room in _chunks(count, (_MOST_PARAMETERS - 1 - before) // width):
            values: List[Any] = [0] * (before + width * room + 1)
            values[:before] = fixed
            for place, column in enumerate(bound, before):
                values[place : before + width * size : width] = column[start : start + size]
            values[-1] = size
            self.execute(
                f"INSERT INTO {into} SELECT * FROM (VALUES {','.join([marks] * room)}) LIMIT ?", values
            )
        return count

    # -- small integers for texts

    def _page_ids(self, pages: Sequence[str]) -> List[int]:
        known = self._pages
        if len(known) + len(pages) > REMEMBERED:
            known.clear()
        missing = [page for page, number in zip(pages, map(known.get, pages)) if number is None]
        if missing:
            for start, size, room in _chunks(len(missing), _MOST_PARAMETERS - 1):
                chunk = missing[start : start + size]
                # One line, whatever is found: each further one would let go of the interpreter lock.
                places, ids = self.read(_find_pages(room), [*chunk, *[""] * (room - size), size])[0]
                if places is not None:
                    found = map(chunk.__getitem__, map(int, places.split(",")))
                    known.update(zip(found, map(int, ids.split(","))))
            new = [page for page in missing if page not in known]
            first = int(self._one("SELECT coalesce(max(id), 0) + 1 FROM gsc_page"))
            fresh = range(first, first + len(new))
            if new:
                self._insert("gsc_page (id, page)", (), [("?", fresh), ("?", new)])
            known.update(zip(new, fresh))
        return list(map(known.__getitem__, pages))

    def _segment(self, names: Sequence[str]) -> int:
        values = [name or None for name in names]
        found = self.read("SELECT id FROM gsc_segment WHERE country IS ? AND device IS ? AND appearance IS ?", values)
        if found:
            return int(found[0][0])
        insert = "INSERT INTO gsc_segment (country, device, appearance) VALUES (?, ?, ?)"
        return int(self.execute(insert, values).lastrowid or 0)

    def _day(self, dataset: Dataset, date: dt.date) -> int:
        number = self._days.get((dataset, date))
        if number is None:
            place = (self._dataset(dataset), date.isoformat())
            inserted = self.execute(
                "INSERT OR IGNORE INTO gsc_day (dataset, date, status) VALUES (?, ?, 'open')", place
            )
            if inserted.rowcount:
                number = int(inserted.lastrowid or 0)
            else:
                number = int(self._one("SELECT id FROM gsc_day WHERE dataset = ? AND date = ?", place))
            self._days[dataset, date] = number
        return number

    # -- runs

    def start_run(self, settings: str) -> int:
        for run in self.read("SELECT id, token, beat FROM gsc_run WHERE status = 'running'"):
            self._lives(*run)
        inserted = self.execute(
            "INSERT INTO gsc_run (started_at, status, settings, host, pid, token, beat)"
            " VALUES (?, 'running', ?, ?, ?, ?, ?)",
            (_now(), settings, socket.gethostname(), os.getpid(), self._token(), time.monotonic()),
        )
        self._run_id = int(inserted.lastrowid or 0)
        return self._run_id

    def claim(self, datasets: Iterable[Dataset]) -> Dict[Dataset, str]:
        held: Dict[Dataset, str] = {}
        for dataset in datasets:
            number = self._dataset(dataset)
            found = self.read(
                "SELECT r.id, r.token, r.beat, r.pid, r.host, r.started_at FROM gsc_lease l"
                " JOIN gsc_run r ON r.id = l.run WHERE l.dataset = ? AND r.id <> ?", (number, self._run_id)
            )
            if found and self._lives(*found[0][:3]):
                held[dataset] = HELD.format(*found[0][3:])
            else:
                self.execute("INSERT OR REPLACE INTO gsc_lease (dataset, run) VALUES (?, ?)", (number, self._run_id))
        return held

    def holders(self) -> Dict[Dataset, str]:
        found = self.read(
            "SELECT s.site, s.report, s.dimensions, s.search_type, r.token, r.beat, r.pid, r.host, r.started_at"
            " FROM gsc_lease l JOIN gsc_run r ON r.id = l.run JOIN gsc_dataset s ON s.id = l.dataset"
            " WHERE r.status = 'running'"
        )
        return {
            dataset_of(*names): HELD.format(*words)
            for *names, token, beat, pid, host, since in found
            for words in [(pid, host, since)]
            if time.monotonic() - beat < LEASE_SECONDS and self._may_run(token)
        }

    def _may_run(self, token: str) -> bool:
        """Whether the run with *token* runs, as far as that can be told: who may only read can't try its lock."""
        try:
            return is_running(self.path, token)
        except sqlite3.Error:
            return True

    def _lives(self, run_id: int, token: str, beat: float) -> bool:
        """Whether a run that counts as running does; if not, it becomes killed and its leases are free."""
        with self._errors():
            if is_running(self.path, token) and time.monotonic() - beat < LEASE_SECONDS:
                return True
        self.execute("UPDATE gsc_run SET status = 'killed' WHERE id = ?", (run_id,))
        self.execute("DELETE FROM gsc_lease WHERE run = ?", (run_id,))
        return False

    def _token(self) -> str:
        return self._run_lock.token if self._run_lock is not None else ""

    def save_run(self, run_id: int, figures: RunFigures, *, ended: bool) -> None:
        self.execute(
            "UPDATE gsc_run SET status = ?, days = ?, rows = ?, calls = ?, retries = ?, peak_qpm = ?, seconds = ?,"
            " uptime = ?, restarts = ?, faults = ?, halt_seconds = ?, ended_at = ? WHERE id = ?",
            (*figures, _now() if ended else None, run_id),
        )
        if ended:
            self.execute("DELETE FROM gsc_lease WHERE run = ?", (run_id,))
            self._run_id = None

    # -- statements

    def worded(self, statement: str) -> str:
        if not self.read("SELECT 1 FROM pragma_table_info('gsc_day') WHERE name = 'ctrs'"):
            # A file that was not written to since schema._PROOFS came has no such sums yet.
            statement = re.sub(r"\b(d\.ctrs|a\.(kept|clicks|impressions|positions|ctrs))\b", "NULL", statement)
        return super().worded(statement)

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        with self._errors():
            return self._connection().execute(statement, values)

    def read(self, statement: str, values: Sequence[Any] = ()) -> List[Tuple[Any, ...]]:
        with self._errors():
            return self.execute(statement, values).fetchall()

    def interrupt(self) -> None:
        database = self._db
        if database is not None:
            with contextlib.suppress(sqlite3.Error):  # it was closed just then
                database.interrupt()

    # -- helpers

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise StoreError(f"{self.path} is not open")
        return self._db

    def _one(self, statement: str, values: Sequence[Any] = ()) -> Any:
        return self.read(statement, values)[0][0]

    def _errors(self) -> ContextManager[None]:
        """sqlite3's errors as ours, saying what to do."""
        return explained(self.path, "name another")


#: Parameters one statement may have: SQLite's default limit since 3.32, and before.
_MOST_PARAMETERS = 32766 if sqlite3.sqlite_version_info >= (3, 32) else 999

#: Most rows one statement inserts; a prepared statement takes about 200 bytes a row, and several are kept.
_MOST_ROWS = 8192

#: The SQL expression of an inserted column, and its values when the expression has a ?.
_Column = Tuple[str, Optional[Sequence[Any]]]


def _column(values: Optional[Sequence[Any]], constant: str = "NULL") -> _Column:
    """*values*, or *constant* for all rows when there are none."""
    return (constant, None) if values is None else ("?", values)


def _numbers(values: Optional[Sequence[Optional[float]]]) -> _Column:
    """*values*, some of which may be None, which is never bound: sqlite3 is slow to."""
    if values is not None and None in values:
        return "nullif(?, '')", ["" if value is None else value for value in values]
    return _column(values)


def _chunks(count: int, most: int) -> Iterator[Tuple[int, int, int]]:
    """(start, size, room) of the chunks in which to insert *count* rows, at most *most* a statement: there are *size*
    rows for the *room* of the statement, whose sizes are few, so that statements stay prepared."""
    most = min(most, _MOST_ROWS)
    for start in range(0, count, most):
        size = min(most, count - start)
        room = most
        while room // 2 >= size:
            room //= 2
        yield start, size, room


@functools.lru_cache(maxsize=16)
def _find_pages(room: int) -> str:
    wanted = ",".join([f"({number},?)" for number in range(room)])
    return (
        f"WITH wanted (place, page) AS (SELECT * FROM (VALUES {wanted}) LIMIT ?)"
        " SELECT group_concat(place), group_concat(id) FROM wanted CROSS JOIN gsc_page USING (page)"
    )


def _now() -> str:
    return stamp(dt.datetime.now(dt.timezone.utc))
