"""One connection to Postgres: made when it is needed, forgotten when it is lost, its errors told in our words.

Nothing is kept in the session between two transactions (settings are ``SET LOCAL``, locks belong to transactions,
nothing is prepared), so that a pooler in transaction mode (pgbouncer) may stand between.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import re
import socket
import threading
import time
import urllib.parse
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import psycopg2
import psycopg2.extensions

from ..errors import ConfigError, StoreError, StoreFull, StoreLost

#: Makes a connection of psycopg2, in whatever thread calls it.
Connect = Callable[[], Any]

#: What a connection is made with, unless the URL says otherwise.  A server that went without a word is noticed after
#: a minute (libpq's own default is two hours).
DEFAULTS: Dict[str, Any] = {
    "connect_timeout": 5, "application_name": "gscthreads",
    "keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3,
}

#: SQLSTATEs of a transaction that may be done again: serialization failure, deadlock, lock or statement time-out,
#: idle too long; the server shuts down, has crashed, starts, or has no connection to spare.
_AGAIN = {"40001", "40P01", "55P03", "57014", "25P03", "57P01", "57P02", "57P03", "57P05", "53300"}

#: What psycopg2 makes of a connection that broke.
_BREAKS = (psycopg2.OperationalError, psycopg2.InterfaceError, psycopg2.DatabaseError)

#: Disk full.
_FULL = {"53100"}


class Link:
    """Runs statements, always inside a transaction.  One thread at a time.

    *label* names the place in messages, without a password.  *role*: who to be in place of the one who logged in
    (``SET ROLE``).  Every method raises StoreError, ``StoreFull`` or
    ``StoreLost``; after the latter nothing of the transaction is there, unless it came from ``commit``.
    """

    def __init__(self, connect: Connect, label: str, *, schema: str = "", role: str = "", lock_timeout: float = 0.5,
                 statement_timeout: float = 600.0) -> None:
        self.label = label
        self.schema = schema
        self.role = role
        # For each transaction, as a pooler would give a role that was set for the session to somebody else.
        self._become = 'SET LOCAL ROLE "{}";'.format(role.replace('"', '""')) if role else ""
        self.lock_timeout = lock_timeout
        self._connect = connect
        self._statement_timeout = statement_timeout
        self._connection: Any = None
        self._process = 0
        self._asked_at: Optional[float] = None
        self._making: "Optional[concurrent.futures.Future[Any]]" = None  # the connection, while it is being made
        self._given_up = False
        self._backend: Tuple[Optional[int], Any] = (None, None)  # as far as that was asked for
        self._committing = False
        self.access = "WRITE"  # or "ONLY", which also a stand-by allows
        self.in_transaction = False
        self.made = 0  # connections so far

    # -- transactions

    def begin(self, then: str = "", values: Sequence[Any] = ()) -> Any:
        """Start a transaction and run the statement *then* in it, in one round trip."""
        if self._connection is not None and self._connection.closed:
            self.forget()
        self.connect()
        self.in_transaction = True
        # What role or database have set otherwise would change our meaning: locks are for seeing what others have
        # committed meanwhile (READ COMMITTED), numbers are exact.
        # Whoever set synchronous_commit = off accepts that commits are lost after the server has confirmed them; we go
        # on from what it has confirmed, so they must not be.
        return self.execute(
            f"BEGIN ISOLATION LEVEL READ COMMITTED READ {self.access}; {self._become}"
            f" SET LOCAL lock_timeout = {int(self.lock_timeout * 1000)};"
            f" SET LOCAL statement_timeout = {int(self._statement_timeout * 1000)};"
            " SET LOCAL idle_in_transaction_session_timeout = 60000;"
            " SET LOCAL extra_float_digits = 1;"
            f' SET LOCAL search_path TO "{self.schema}", pg_temp;'
            " SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off';"
            f" {then}",
            values,
        )

    def commit(self) -> None:
        """Raises StoreLost when there is no telling whether it happened."""
        self._committing = True
        try:
            self.execute("COMMIT")
        finally:
            self._committing = self.in_transaction = False

    def rollback(self) -> None:
        """Undo; never raises."""
        self.in_transaction = False
        if self._connection is not None:
            with contextlib.suppress(StoreError):
                self.execute("ROLLBACK")
                return
            self.forget()

    # -- statements

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """The cursor of *statement*, whose place-holders are ``%s``."""
        with self._errors():
            cursor = self._usable().cursor()
            cursor.execute(statement, tuple(values) or None)
            return cursor

    def rows(self, statement: str, values: Sequence[Any] = ()) -> List[Tuple[Any, ...]]:
        """All rows of *statement*."""
        found: List[Tuple[Any, ...]] = self.execute(statement, values).fetchall()
        return found

    def one(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """The first column of the first row."""
        return self.rows(statement, values)[0][0]

    def copy(self, statement: str, file: Any) -> None:
        """``COPY ... FROM STDIN`` with what *file* has."""
        with self._errors():
            # Large pieces: each one gives up the interpreter lock.
            self._usable().cursor().copy_expert(statement, file, size=1 << 18)

    def backend(self) -> Tuple[Optional[int], Any]:
        """(process id, start) of the server process of this connection; (None, None) behind a pooler, where another
        one may serve each transaction."""
        if self.role:  # which may not see when a process of the one who logged in was started
            self.execute("SET LOCAL ROLE NONE")
        pid, started = self.rows("SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()")[0]
        if self.role:
            self.execute(self._become)
        self._backend = (pid, started) if started and pid == self._connection.get_backend_pid() else (None, None)
        return self._backend

    # -- the connection

    def connect(self) -> Any:
        """Make the connection if there is none; the connection."""
        with self._errors():
            if self._connection is not None and self._process != os.getpid():
                self._connection = None  # a fork: the connection is our parent's, not to be closed by us
            if self._connection is None:
                made = self._make()
                made.autocommit = True  # transactions begin where we say so
                self._connection, self._process = made, os.getpid()
                self._backend = (None, None)
                self.made += 1
                encoding = made.get_parameter_status("server_encoding")
                if encoding not in ("UTF8", None):
                    raise StoreError(f"{self.label} stores text as {encoding}; gscthreads needs a database in UTF8")
                if made.encoding != "UTF8":
                    made.set_client_encoding("UTF8")
            if not self.schema:
                cursor = self._connection.cursor()
                cursor.execute(f"{self._become} SELECT current_schema()")  # one query is one transaction
                found = cursor.fetchone()[0]
                if found is None:
                    raise StoreError(f"{self.label}: the role has no schema to make tables in; name one: ?schema=gsc")
                self.schema = check_schema(found)
            return self._connection

    def _make(self) -> Any:
        """A new connection.  Nothing reaches libpq while it makes one, so a thread does that, which ``give_up`` leaves
        behind: a daemon, for no interpreter waits for those, which closes what it gets too late."""
        making: "concurrent.futures.Future[Any]" = concurrent.futures.Future()

        def make() -> None:
            try:
                made = self._connect()
            except BaseException as error:
                with contextlib.suppress(concurrent.futures.InvalidStateError):
                    making.set_exception(error)
                return
            try:
                making.set_result(made)
            except concurrent.futures.InvalidStateError:
                made.close()

        self._making = making
        try:
            if self._given_up:  # looked at after _making was written, as give_up writes before it reads that
                raise StoreLost(f"{self.label} did not answer in time")
            threading.Thread(target=make, name=f"{__name__}-connect", daemon=True).start()
            return making.result()
        except concurrent.futures.CancelledError:
            raise StoreLost(f"{self.label} did not answer in time") from None
        except RuntimeError as error:  # the interpreter is exiting, or there are too many threads
            raise StoreLost(f"can't connect to {self.label}: {error}") from error
        finally:
            self._making = None

    def connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None and not self._connection.closed and self._process == os.getpid()

    def waiting(self) -> float:
        """Seconds for which the server has owed an answer.  Thread-safe."""
        asked_at = self._asked_at
        return 0.0 if asked_at is None else time.monotonic() - asked_at

    def cancel(self) -> None:
        """From another thread: ask the server to break off the statement it is at, unless that is a COMMIT.  The
        connection stays.  Returns at once, whatever the server does; nothing happens where ``backend`` knows none."""
        process = self._backend
        if process[0] is None or self._committing:
            return

        def ask() -> None:
            # Not connection.cancel(), which holds the interpreter lock for as long as the server hangs.
            with contextlib.suppress(Exception), contextlib.closing(self._connect()) as other:
                other.cursor().execute(
                    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid = %s AND backend_start = %s", process
                )

        threading.Thread(target=ask, name=f"{__name__}-cancel", daemon=True).start()

    def give_up(self) -> None:
        """From another thread: whatever waits for the server ends at once, and no other connection is made."""
        self._given_up = True
        making, connection = self._making, self._connection
        if making is not None:
            making.cancel()
        with contextlib.suppress(Exception):  # it may be closed, or being closed, by its own thread
            broken = socket.socket(fileno=os.dup(connection.fileno()))
            try:
                broken.shutdown(socket.SHUT_RDWR)
            finally:
                broken.close()

    def forget(self) -> None:
        """Close the connection; the next use makes another one."""
        connection, self._connection = self._connection, None
        self.in_transaction = False
        if connection is not None and self._process == os.getpid():
            with contextlib.suppress(psycopg2.Error):
                connection.close()

    def _usable(self) -> Any:
        """The connection, inside a transaction: never a new one in the middle of it."""
        if not self.connected():
            self._connection = None
            raise StoreLost(f"the connection to {self.label} is gone")
        return self._connection

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """psycopg2's errors as ours, saying what to do."""
        self._asked_at = time.monotonic()
        try:
            yield
        except psycopg2.Error as error:
            raise self._translated(error) from error
        except UnicodeError as error:
            raise StoreError(f"{self.label}: text that can't be stored: {error}") from error
        finally:
            self._asked_at = None

    def _translated(self, error: psycopg2.Error) -> StoreError:
        state, words = error.pgcode or "", " ".join(str(error).split()) or type(error).__name__
        if state in _FULL:
            return StoreFull(f"no room left on the server of {self.label}; free some, then run the same command again")
        if state in _AGAIN:
            return StoreLost(f"{self.label}: {words}")
        if state in ("42501", "25006"):  # privilege, read-only transaction
            return StoreError(f"{self.label}: {words}; grant the role what docs/postgres.md lists, or take another one")
        # Without a code it is libpq that complains: psycopg2 doesn't always see that the connection is gone.
        broken = not state and type(error) in _BREAKS
        if self._connection is not None and (self._connection.closed or broken):
            return StoreLost(f"the connection to {self.label} broke: {words}")
        if self._connection is None and isinstance(error, psycopg2.OperationalError) and not _hopeless(words):
            return StoreLost(f"can't reach {self.label}: {words}")
        return StoreError(f"{self.label}: {words}")


def _hopeless(words: str) -> bool:
    """Whether a connection was refused for good: libpq gives no code, only the server's words."""
    return any(each in words for each in ("authentication", "does not exist", "no pg_hba.conf entry", "password"))


def connector(url: str) -> "Tuple[Connect, str, str]":
    """(how to connect, a label without secrets, schema) of a ``postgresql://`` URL.  Raises ConfigError."""
    try:
        parts = urllib.parse.urlsplit(url)
        if parts.netloc.count("@") > 1:  # a part of the password would pass for a host
            raise ValueError
        options = urllib.parse.parse_qsl(parts.query, keep_blank_values=True)
        schema = "".join(value for name, value in options if name == "schema")
        rest = urllib.parse.urlencode([each for each in options if each[0] != "schema"], quote_via=urllib.parse.quote)
        given = psycopg2.extensions.parse_dsn(urllib.parse.urlunsplit(parts._replace(query=rest)))
    except (ValueError, psycopg2.Error):  # whose words may quote a part of the password
        raise ConfigError(
            "store is no valid Postgres URL: write postgresql://user:password@host:5432/database, with %-escapes for"
            " special characters in names and password"
        ) from None
    settings = {**DEFAULTS, **given}
    check_schema(schema)
    host, name = given.get("host", ""), given.get("dbname", "")
    label = f"postgresql://{host}/{name}" + (f" schema {schema}" if schema else "")
    return (lambda: psycopg2.connect(**settings)), label, schema


def check_schema(name: str) -> str:
    """*name*, which becomes part of statements.  Raises ConfigError unless it is a plain name, or ""."""
    if name and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,62}", name):
        raise ConfigError(f"schema {name!r} must be letters, digits, _ and - (at most 63, the first one a letter or _)")
    return name


def numbers(column: Sequence[Any]) -> List[str]:
    """Numbers and None in COPY's text format; exact."""
    if None in column:
        return ["\\N" if value is None else repr(value) for value in column]
    return list(map(repr, column))


def texts(column: Sequence[str]) -> List[str]:
    """Texts in COPY's text format.  A NUL, which Postgres can't store, becomes U+FFFD."""
    whole = "".join(column)
    if not any(each in whole for each in "\\\n\r\t\0"):  # nearly always
        return list(column)
    return [text.translate(_ESCAPES) for text in column]


_ESCAPES = {ord("\\"): "\\\\", ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t", 0: "\ufffd"}
