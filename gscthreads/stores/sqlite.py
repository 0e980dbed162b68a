"""The SQLite store: one file, WAL, one writer (the coordinator thread), any number of readers."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import itertools
import operator
import os
import socket
import sqlite3
import time
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from ..errors import ConfigError, StoreError, StoreFull, StoreLocked, StoreMissing
from ..halt import Halt, Halted
from ..model import Dataset, Rows, SliceKey
from . import schema
from .base import FAILED, OPEN, Acknowledged, DayRecord, RunFigures, Store

#: Seconds to wait for another writer of the same file (a reader never blocks us, nor we it).
PATIENCE = 60.0

#: Window functions (3.25), upsert (3.24), row values (3.15).
_OLDEST_SQLITE = (3, 25, 0)

#: Most page URLs remembered; about 20 MB.  Beyond it the memory starts anew and ids are looked up again.
_REMEMBERED_PAGES = 100_000


class SQLiteStore(Store):
    """A store in the file *path*."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.created = False
        self._lock_created = False
        self._db: Optional[sqlite3.Connection] = None
        self._lock: Optional[sqlite3.Connection] = None
        self._datasets: Dict[Dataset, int] = {}
        self._days: Dict[Tuple[Dataset, dt.date], int] = {}
        self._pages: Dict[str, int] = {}
        self._segments: Dict[Tuple[str, str, str], int] = {}
        self._top_queries = 20

    # -- open and close

    def open(self, *, exclusive: bool = True) -> None:
        if self._db is not None or self._lock is not None:
            raise StoreLocked(f"this store object is in use; make another one for {self.path}")
        self.created = False
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old: this needs 3.25 or newer (or Postgres)")
        existed = os.path.exists(self.path) and os.path.getsize(self.path) > 0
        self._check_path(existed=existed, exclusive=exclusive)
        self._lock_created = not os.path.exists(self.path + "-sync")
        try:
            with self._errors():
                if exclusive:
                    self._take_lock()
                    self.created = not os.path.exists(self.path)
                self._db = self._connect()
                if exclusive:
                    self._migrate()
                else:
                    self._db.execute("PRAGMA query_only = ON")
                    self._check_ours()
        except BaseException:
            self.close(discard=True)
            raise

    def close(self, *, discard: bool = False) -> None:
        database, self._db, lock, self._lock = self._db, None, self._lock, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):
                database.close()
        if lock is None:
            return
        made = (["", "-wal", "-shm"] if self.created else []) + (["-sync"] if self._lock_created else [])
        for suffix in made if discard else []:  # under the lock, so that nobody else has opened what goes
            with contextlib.suppress(OSError):
                os.unlink(self.path + suffix)
        self.created = False
        with contextlib.suppress(sqlite3.Error):
            lock.close()

    def _check_path(self, *, existed: bool, exclusive: bool) -> None:
        folder = os.path.dirname(os.path.abspath(self.path))
        if os.path.isdir(self.path):
            raise StoreError(f"{self.path} is a folder; name a file in it")
        if not os.path.isdir(folder):
            raise StoreError(f"the folder {folder} does not exist; make it first")
        if not exclusive and not existed:
            raise StoreMissing(f"{self.path} does not exist yet; run a sync first")
        if exclusive and not os.access(self.path if existed else folder, os.W_OK):
            raise StoreError(f"no permission to write {self.path if existed else folder}")
        if existed:
            try:
                with open(self.path, "rb") as file:
                    head = file.read(16)
            except OSError as error:
                raise StoreError(f"can't read {self.path}: {error.strerror}") from error
            if head != b"SQLite format 3\0":
                raise StoreError(f"{self.path} is not a SQLite database; choose another file")

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=0.5, isolation_level=None, cached_statements=64)
        database.execute("PRAGMA cache_size = -16000")  # KiB: holds the B-tree of the days being written
        database.execute("PRAGMA temp_store = MEMORY")
        return database

    def _take_lock(self) -> None:
        """One sync at a time: an exclusive lock on a file beside the database, which the system drops if we die."""
        while True:
            lock = sqlite3.connect(self.path + "-sync", timeout=0, isolation_level=None)
            try:
                lock.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                lock.close()
                if not _is_busy(error):
                    raise
                raise StoreLocked(f"{self.path} is being written by another sync{self._holder()}") from error
            if os.path.exists(self.path + "-sync"):
                self._lock = lock
                return
            lock.close()  # its holder discarded it just before letting go: what we locked has no name any more

    def _holder(self) -> str:
        with contextlib.suppress(sqlite3.Error):
            database = sqlite3.connect(self.path, timeout=1.0)
            try:
                row = database.execute(
                    "SELECT pid, host, started_at FROM gsc_run WHERE status = 'running' ORDER BY id DESC LIMIT 1"
                ).fetchone()
            finally:
                database.close()
            if row:
                return f" (process {row[0]} on {row[1]}, since {row[2]}); wait for it or halt it"
        return "; wait for it or halt it"

    def _check_ours(self) -> int:
        """The schema version of the file, 0 when it is empty; StoreError when it is somebody else's."""
        application = self._one("PRAGMA application_id")
        version = int(self._one("PRAGMA user_version"))
        if application != schema.APPLICATION_ID:
            if application or version or self._one("SELECT count(*) FROM sqlite_master"):
                raise StoreError(f"{self.path} is another program's database; choose another file")
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
        for number, script in enumerate(schema.MIGRATIONS[version:], version + 1):
            database.executescript(
                f"BEGIN IMMEDIATE; {script}\n PRAGMA application_id = {schema.APPLICATION_ID};"
                f"PRAGMA user_version = {number}; COMMIT;"
            )
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
                    return
                except sqlite3.OperationalError as error:
                    if not _is_busy(error):
                        raise
                    if halt.wait(0.02):
                        raise Halted from error
                    if time.monotonic() > deadline:
                        raise StoreLocked(f"{self.path} is locked by another program that writes to it") from error

    def commit(self) -> None:
        with self._errors():
            self._connection().execute("COMMIT")

    def rollback(self) -> None:
        with contextlib.suppress(sqlite3.Error, StoreError):
            self._connection().execute("ROLLBACK")
        for memory in (self._datasets, self._days, self._pages, self._segments):
            memory.clear()  # may hold ids that were rolled back

    # -- the ledger

    def prepare(self, datasets: Iterable[Dataset], *, top_queries: int) -> None:
        self._top_queries = top_queries
        with self._errors():
            for dataset in datasets:
                row = self._connection().execute(
                    "SELECT id, dimensions, top_queries FROM gsc_dataset"
                    " WHERE site = ? AND report = ? AND search_type = ?",
                    (dataset.site, dataset.report.name, dataset.search_type),
                ).fetchone()
                if row is None:
                    continue
                if row[1] != ",".join(dataset.report.dimensions):
                    raise ConfigError(
                        f"report {dataset.report.name!r} is stored with dimensions {row[1]};"
                        f" give {','.join(dataset.report.dimensions)} another name"
                    )
                if row[2] != top_queries:
                    self._connection().execute(
                        "UPDATE gsc_dataset SET top_queries = ? WHERE id = ?", (top_queries, row[0])
                    )

    def ledger(self, dataset: Dataset, start: dt.date, end: dt.date) -> Dict[dt.date, DayRecord]:
        days: Dict[dt.date, DayRecord] = {}
        with self._errors():
            found = self._connection().execute(
                "SELECT d.date, d.status, a.start_row, a.received, a.fetched_on, a.data_state"
                " FROM gsc_dataset s JOIN gsc_day d ON d.dataset = s.id LEFT JOIN gsc_slice a ON a.day = d.id"
                " WHERE s.site = ? AND s.report = ? AND s.search_type = ? AND d.date BETWEEN ? AND ?",
                (dataset.site, dataset.report.name, dataset.search_type, start.isoformat(), end.isoformat()),
            )
            for date, status, start_row, received, fetched_on, data_state in found:
                slices: Dict[int, Acknowledged] = {}
                record = days.setdefault(dt.date.fromisoformat(date), DayRecord(status, slices))
                if start_row is not None:
                    acknowledged = Acknowledged(received, dt.date.fromisoformat(fetched_on), data_state)
                    record.slices[start_row] = acknowledged  # type: ignore[index]
        return days

    def unstage(self, dataset: Dataset, dates: Iterable[dt.date]) -> None:
        with self._errors():
            for date in dates:
                self._forget_slices(self._day(dataset, date))

    def fail_day(self, dataset: Dataset, date: dt.date, error: str) -> None:
        with self._errors():
            self._connection().execute(
                "UPDATE gsc_day SET status = CASE WHEN status = ? THEN ? ELSE status END, error = ? WHERE id = ?",
                (OPEN, FAILED, error[:500], self._day(dataset, date)),
            )

    # -- rows

    def stage(self, dataset: Dataset, key: SliceKey, rows: Rows, ack: Acknowledged) -> None:
        with self._errors():
            day = self._day(dataset, key.date)
            database = self._connection()
            database.execute("DELETE FROM gsc_stage WHERE day = ? AND start_row = ?", (day, key.start_row))
            self._insert(schema.STAGE, (day, key.start_row), self._columns(dataset, rows))
            database.execute("UPDATE gsc_day SET status = ? WHERE id = ? AND status = ?", (OPEN, day, FAILED))
            database.execute(
                "INSERT OR REPLACE INTO gsc_slice (day, start_row, received, fetched_on, data_state)"
                " VALUES (?, ?, ?, ?, ?)",
                (day, key.start_row, ack.received, ack.fetched_on.isoformat(), ack.data_state),
            )

    def publish(self, dataset: Dataset, date: dt.date, rows: Optional[Rows], *, status: str, calls: int) -> int:
        with self._errors():
            database = self._connection()
            day = self._day(dataset, date)
            replaced = database.execute("SELECT 1 FROM gsc_fact WHERE day = ? LIMIT 1", (day,)).fetchone() is not None
            if replaced:
                self._withdraw(dataset, day)
            if rows is None:
                count = database.execute(schema.PUBLISH_STAGED, (day,)).rowcount
            else:
                count = self._insert(schema.FACTS, (day,), self._columns(dataset, rows))
            if dataset.report.name == "page":
                self._add_lifetime(dataset, day, date, replaced=replaced)
            self._forget_slices(day)
            database.execute(
                "UPDATE gsc_day SET status = ?, rows = ?, calls = ?, published_at = ?, error = NULL WHERE id = ?",
                (status, count, calls, _now(), day),
            )
            return count

    def _withdraw(self, dataset: Dataset, day: int) -> None:
        """Take a published day's rows out, remembering its pages in gsc_gone for ``_add_lifetime``."""
        database = self._connection()
        if dataset.report.name == "page":
            database.execute("DELETE FROM temp.gsc_gone")
            database.execute("INSERT INTO temp.gsc_gone SELECT page FROM gsc_fact WHERE day = ?", (day,))
            database.execute(schema.LIFETIME_SUBTRACT, (self._dataset(dataset), day))
        database.execute("DELETE FROM gsc_fact WHERE day = ?", (day,))

    def _add_lifetime(self, dataset: Dataset, day: int, date: dt.date, *, replaced: bool) -> None:
        database = self._connection()
        number = self._dataset(dataset)
        database.execute(schema.LIFETIME_ADD, (number, day, date.isoformat()))
        if replaced:
            database.execute(
                "DELETE FROM temp.gsc_gone WHERE page IN (SELECT page FROM gsc_fact WHERE day = ?)", (day,)
            )
            database.execute(schema.LIFETIME_DROP, (number,))
            database.execute(schema.LIFETIME_REDATE, (number, date.isoformat()))

    def _forget_slices(self, day: int) -> None:
        self._connection().execute("DELETE FROM gsc_stage WHERE day = ?", (day,))
        self._connection().execute("DELETE FROM gsc_slice WHERE day = ?", (day,))

    def _columns(self, dataset: Dataset, rows: Rows) -> List[_Column]:
        """page, rank, query, segment, clicks, impressions, ctr and position, in the order of gsc_fact's key, so that
        the table is written as if appended to: dense pages, no searching."""
        ids = self._page_ids(rows.pages) if "page" in dataset.report.dimensions else [0]
        counts = rows.counts
        segments = self._segment_column(rows)
        columns: List[Optional[Sequence[Any]]] = [
            rows.query, segments, rows.clicks, rows.impressions, rows.ctr, rows.position
        ]
        groups = sorted(range(len(ids)), key=ids.__getitem__)
        if groups != list(range(len(ids))):
            starts = list(itertools.accumulate(counts, initial=0))
            take = operator.itemgetter(
                *itertools.chain.from_iterable([range(starts[group], starts[group + 1]) for group in groups])
            )
            columns = [None if column is None else take(column) for column in columns]
            ids = [ids[group] for group in groups]
            counts = [counts[group] for group in groups]
        pages: Optional[List[int]] = None if ids == [0] else ids
        ranks: Optional[List[int]] = None
        if rows.kept != len(ids):
            pages = pages and list(itertools.chain.from_iterable(map(itertools.repeat, ids, counts)))
            ranks = list(itertools.chain.from_iterable([range(1, count + 1) for count in counts]))
        return [
            _column(pages, "0"), _column(ranks, "1"), _column(columns[0]), _column(columns[1], "0"),
            *map(_column, columns[2:]),
        ]

    def _insert(self, into: str, fixed: Tuple[int, ...], columns: Sequence[_Column]) -> int:
        """Insert *columns*, after the *fixed* ones, *into* a table; the number of rows.

        As few statements as possible: every call of SQLite lets go of the interpreter lock, and getting it back can
        cost a whole JSON decode.  As few values as possible: binding them is half the work.
        """
        bound = [values for _, values in columns if values is not None]
        width, count = len(bound), len(bound[0])
        flat: List[Any] = [0] * (width * count)
        for place, values in enumerate(bound):
            flat[place::width] = values
        first = [f"?{number}" for number in range(1, 1 + len(fixed))]
        marks = f"({','.join(first + [expression for expression, _ in columns])})"
        for start, size, room in _chunks(count, (_MOST_PARAMETERS - 1 - len(fixed)) // width):
            values = [*fixed, *flat[start * width : (start + size) * width], *[0] * ((room - size) * width), size]
            self._connection().execute(
                f"INSERT INTO {into} SELECT * FROM (VALUES {','.join([marks] * room)}) LIMIT ?", values
            )
        return count

    # -- small integers for texts

    def _page_ids(self, pages: Sequence[str]) -> List[int]:
        known = self._pages
        if len(known) + len(pages) > _REMEMBERED_PAGES:
            known.clear()
        missing = [page for page in pages if page not in known]
        if missing:
            for start, size, room in _chunks(len(missing), _MOST_PARAMETERS - 1):
                chunk = missing[start : start + size]
                # One line, whatever is found: each further one would let go of the interpreter lock.
                places, ids = self._connection().execute(
                    _find_pages(room), [*chunk, *[""] * (room - size), size]
                ).fetchone()
                if places is not None:
                    found = map(chunk.__getitem__, map(int, places.split(",")))
                    known.update(zip(found, map(int, ids.split(","))))
            new = [page for page in missing if page not in known]
            first = int(self._one("SELECT coalesce(max(id), 0) + 1 FROM gsc_page"))
            fresh = range(first, first + len(new))
            if new:
                self._insert("gsc_page (id, page)", (), [("?", fresh), ("?", new)])
            known.update(zip(new, fresh))
        return [known[page] for page in pages]

    def _segment_column(self, rows: Rows) -> Optional[List[int]]:
        """The segment of each row, None where no report has any; a dimension the report lacks is NULL in the table."""
        if rows.country is rows.device is rows.appearance is None:
            return None
        database = self._connection()
        if len(self._segments) > _REMEMBERED_PAGES:
            self._segments.clear()
        texts = [column or [""] * rows.kept for column in (rows.country, rows.device, rows.appearance)]
        for segment in set(zip(*texts)):
            if segment in self._segments:
                continue
            values = [text or None for text in segment]
            found = database.execute(
                "SELECT id FROM gsc_segment WHERE country IS ? AND device IS ? AND appearance IS ?", values
            ).fetchone()
            if found is None:
                insert = "INSERT INTO gsc_segment (country, device, appearance) VALUES (?, ?, ?)"
                found = (database.execute(insert, values).lastrowid,)
            self._segments[segment] = found[0]
        return [self._segments[segment] for segment in zip(*texts)]

    def _dataset(self, dataset: Dataset) -> int:
        number = self._datasets.get(dataset)
        if number is None:
            database = self._connection()
            names = (dataset.site, dataset.report.name, dataset.search_type)
            database.execute(
                "INSERT OR IGNORE INTO gsc_dataset (site, report, search_type, dimensions, top_queries)"
                " VALUES (?, ?, ?, ?, ?)",
                (*names, ",".join(dataset.report.dimensions), self._top_queries),
            )
            number = self._datasets[dataset] = int(
                self._one("SELECT id FROM gsc_dataset WHERE site = ? AND report = ? AND search_type = ?", names)
            )
        return number

    def _day(self, dataset: Dataset, date: dt.date) -> int:
        number = self._days.get((dataset, date))
        if number is None:
            place = (self._dataset(dataset), date.isoformat())
            self._connection().execute(
                "INSERT OR IGNORE INTO gsc_day (dataset, date, status) VALUES (?, ?, 'open')", place
            )
            number = int(self._one("SELECT id FROM gsc_day WHERE dataset = ? AND date = ?", place))
            self._days[dataset, date] = number
        return number

    # -- runs

    def start_run(self, settings: str) -> int:
        with self._errors():
            database = self._connection()
            # We hold the lock, so whoever still counts as running was killed.
            database.execute("UPDATE gsc_run SET status = 'killed' WHERE status = 'running'")
            inserted = database.execute(
                "INSERT INTO gsc_run (started_at, status, settings, host, pid) VALUES (?, 'running', ?, ?, ?)",
                (_now(), settings, socket.gethostname(), os.getpid()),
            )
            return int(inserted.lastrowid or 0)

    def save_run(self, run_id: int, figures: RunFigures, *, ended: bool) -> None:
        with self._errors():
            self._connection().execute(
                "UPDATE gsc_run SET status = ?, days = ?, rows = ?, calls = ?, retries = ?, peak_qpm = ?, seconds = ?,"
                " ended_at = ? WHERE id = ?",
                (*figures, _now() if ended else None, run_id),
            )

    def read(self, statement: str, values: Sequence[Any] = ()) -> List[Tuple[Any, ...]]:
        with self._errors():
            return self._connection().execute(statement, values).fetchall()

    # -- helpers

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise StoreError(f"{self.path} is not open")
        return self._db

    def _one(self, statement: str, values: Sequence[Any] = ()) -> Any:
        return self._connection().execute(statement, values).fetchone()[0]

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """sqlite3's errors as ours, saying what to do."""
        try:
            yield
        except sqlite3.Error as error:
            text = str(error)
            if "full" in text:
                raise StoreFull(f"no room left for {self.path}; free some, then run the same command again") from error
            if _is_busy(error):
                raise StoreLocked(f"{self.path} is locked by another program that writes to it") from error
            if "readonly" in text:
                raise StoreError(f"{self.path} is read-only") from error
            if "unable to open" in text:
                raise StoreError(f"can't open {self.path} for writing") from error
            if "not a database" in text or "malformed" in text:
                raise StoreError(f"{self.path} is damaged or not a SQLite database: {text}") from error
            raise StoreError(f"{self.path}: {text}") from error


#: Parameters one statement may have: SQLite's default limit since 3.32, and before.
_MOST_PARAMETERS = 32766 if sqlite3.sqlite_version_info >= (3, 32) else 999

#: Most rows one statement inserts; a prepared statement takes about 200 bytes a row, and several are kept.
_MOST_ROWS = 8192

#: The SQL expression of an inserted column, and its values when the expression has a ?.
_Column = Tuple[str, Optional[Sequence[Any]]]


def _column(values: Optional[Sequence[Any]], constant: str = "NULL") -> _Column:
    """*values*, or *constant* for all rows when there are none.  None is never bound: sqlite3 is slow to."""
    if values is None:
        return constant, None
    if None in values:
        return "nullif(?, '')", ["" if value is None else value for value in values]
    return "?", values


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


def _is_busy(error: sqlite3.Error) -> bool:
    return "locked" in str(error) or "busy" in str(error)


def _now() -> str:
    return dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
