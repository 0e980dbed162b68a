"""What processes that sync one SQLite file share beside it: a mutex and the budgets (``-sync``), and one lock file for
each run (``-run-...``), by which the others see that it lives.

The locks are SQLite's own, on files that hold no data of the user: they work wherever the database itself works, and
the system drops them when a process dies, however it dies.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import sqlite3
import time
import uuid
from typing import Any, Callable, Iterator, Optional, Sequence

from ..errors import StoreError, StoreFull, StoreLocked
from ..halt import Halt, Halted
from ..quota import QuotaLedger, States, T

#: Seconds to wait for another process that opens (and perhaps migrates) the same file.
_PATIENCE = 60.0

#: Bytes free below which an I/O error is put down to a full disk.
_LEAST_ROOM = 256 * 1024


class RunLock:
    """The lock file of one run, held from construction to ``close``."""

    def __init__(self, path: str) -> None:
        self.token = uuid.uuid4().hex[:12]
        self._path = _lock_path(path, self.token)
        self._lock: Optional[sqlite3.Connection] = _locked(self._path, "BEGIN EXCLUSIVE")
        if self._lock is None:
            raise StoreError(f"can't lock {self._path}")

    def close(self) -> None:
        """Let go; twice is fine."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            self._lock.close()
            self._lock = None


def is_running(path: str, token: str) -> bool:
    """True while the run with *token* holds its lock.  Clears away what a dead one left.

    Looked for with a lock that others may have too, or of two who look at once one would take the other for the run.
    """
    lock_path = _lock_path(path, token)
    if not token or not os.path.exists(lock_path):
        return False
    lock = _locked(lock_path, "BEGIN; SELECT count(*) FROM sqlite_master")
    if lock is None:
        return True
    with contextlib.suppress(OSError):
        os.unlink(lock_path)
    lock.close()
    return False


def others(path: str, token: str) -> bool:
    """True when another run has a lock file."""
    return any(not name.endswith(f"-run-{token}") for name in glob.glob(glob.escape(path) + "-run-*"))


def _lock_path(path: str, token: str) -> str:
    return f"{path}-run-{token}"


def _locked(path: str, statements: str) -> Optional[sqlite3.Connection]:
    """A connection that holds the lock on *path* that *statements* take, None when somebody else's is in the way."""
    # Whoever halts closes from another thread than the one that opened.
    lock = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        lock.execute("PRAGMA journal_mode = OFF")  # nothing is ever written: no journal file beside it
        for statement in statements.split(";"):
            lock.execute(statement).fetchone()
        return lock
    except BaseException as error:
        lock.close()
        if isinstance(error, sqlite3.OperationalError) and is_busy(error):
            return None
        raise


class SyncFile(QuotaLedger):
    """The file beside the database: budgets, and a mutex for opening.  Times are those of ``time.monotonic``, which is
    the same clock for all processes of a machine."""

    def __init__(self, path: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path + "-sync"
        self._clock = clock
        self._db: Optional[sqlite3.Connection] = None

    @contextlib.contextmanager
    def alone(self, halt: Optional[Halt] = None, patience: float = _PATIENCE) -> Iterator[None]:
        """Hold the mutex.  Raises StoreLocked when another process keeps it for *patience* seconds, ``Halted`` when
        *halt* comes earlier."""
        database = self._begin_patiently(halt or Halt(), patience)
        try:
            yield
        finally:
            with contextlib.suppress(sqlite3.Error):
                database.execute("ROLLBACK")

    def update(self, keys: Sequence[str], change: Callable[[States, float], T]) -> T:
        with explained(self.path, "delete it when no sync runs"):
            database = self._connection()
            database.execute("BEGIN IMMEDIATE")
            try:
                states: Any = {key: {} for key in keys}
                marks = ",".join("?" * len(keys))
                for key, state in database.execute(
                    f"SELECT key, state FROM gsc_quota WHERE key IN ({marks})", list(keys)
                ):
                    states[key] = json.loads(state)
                found = change(states, self._clock())
                for key in keys:
                    database.execute("INSERT OR REPLACE INTO gsc_quota (key, state) VALUES (?, ?)",
                                     (key, json.dumps(states[key], separators=(",", ":"))))
                database.execute("COMMIT")
                return found
            except ValueError as error:
                raise StoreError(f"{self.path} is damaged ({error}); delete it when no sync runs") from error
            finally:
                if database.in_transaction:  # a full disk has rolled it back already
                    with contextlib.suppress(sqlite3.Error):
                        database.execute("ROLLBACK")

    def close(self) -> None:
        database, self._db = self._db, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):
                database.close()

    def _begin_patiently(self, halt: Halt, patience: float) -> sqlite3.Connection:
        deadline = time.monotonic() + patience
        while True:
            try:
                database = self._connection()
                database.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
                if time.monotonic() > deadline:
                    raise StoreLocked(f"{self.path} is held by another process") from error
                if halt.wait(0.01):
                    raise Halted from error
                continue
            if os.path.exists(self.path) and os.stat(self.path).st_ino == self._inode:
                return database
            self.close()  # its holder discarded it just before letting go: what we locked has no name any more

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            # Used by one thread at a time (the quota's lock sees to it), but not always the same.
            database = sqlite3.connect(self.path, timeout=0.05, isolation_level=None, check_same_thread=False)
            try:
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("PRAGMA synchronous = OFF")  # after a power cut the minute is long over
                database.execute("CREATE TABLE IF NOT EXISTS gsc_quota (key TEXT PRIMARY KEY, state TEXT NOT NULL)")
            except BaseException:
                database.close()
                raise
            self._db = database
            self._inode = os.stat(self.path).st_ino
        return self._db


def is_busy(error: sqlite3.Error) -> bool:
    """True when another connection holds the file."""
    return "locked" in str(error) or "busy" in str(error)


@contextlib.contextmanager
def explained(path: str, if_damaged: str) -> Iterator[None]:
    """sqlite3's errors about the file *path* as ours, saying what to do."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        if "full" in text or ("disk I/O error" in text and _no_room(path)):
            raise StoreFull(f"no room left for {path}; free some, then run the same command again") from error
        if is_busy(error):
            raise StoreLocked(f"{path} is locked by another program that writes to it") from error
        if "readonly" in text:
            raise StoreError(f"{path} is read-only") from error
        if "unable to open" in text:
            raise StoreError(f"can't open {path} for writing") from error
        if "not a database" in text or "malformed" in text:
            raise StoreError(f"{path} is damaged or not a SQLite database ({text}); {if_damaged}") from error
        raise StoreError(f"{path}: {text}") from error


def _no_room(path: str) -> bool:
    """True when the file system is as good as full: SQLite calls it an I/O error when its WAL index (32 KB) does not
    fit."""
    try:
        return shutil.disk_usage(os.path.dirname(os.path.abspath(path))).free < _LEAST_ROOM
    except OSError:
        return False
