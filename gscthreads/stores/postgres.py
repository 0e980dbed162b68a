"""The Postgres store: one schema, any number of runs and readers, on one machine or many.

A run is known by its line in gsc_run.  Every transaction of a run begins by adding one to ``serial`` there, if the run
still counts as running and ``serial`` is what the run itself expects.  That one statement is the sign of life, the
fence against a run that was taken for dead, the answer to "did the commit happen?" after a connection broke in the
middle of one, and the proof that a server which has come back (as a stand-by, say) still has what was committed.

A run is dead when its process is gone, which only the same machine can tell; when it isn't connected any more and has
given no sign of life for ``BACK_SECONDS``; or when it has given none for ``LEASE_SECONDS``.  A missing connection alone
says nothing: it may have been cut, and a run that has nothing to write notices that with its next sign of life.  Nor
can silence count from before the server began to answer.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import functools
import io
import os
import socket
import threading
import time
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple, TypeVar, Union

from ..errors import LeaseLost, StoreError, StoreLost, StoreMissing
from ..halt import Halt, Halted
from ..model import Dataset, Rows, SliceKey
from ..quota import QuotaLedger
from . import postgres_schema as schema
from .base import FAILED, HELD, LEASE_SECONDS, OPEN, Acknowledged, RunFigures
from .layout import laid_out
from .postgres_link import Connect, Link, check_schema, connector, numbers, texts
from .postgres_sync import PostgresLedger, is_gone, lock_key, machine
from .sql import REMEMBERED, SQLStore, dataset_of, plain, stamp

#: Seconds to wait for a server that went away in the middle of a run (it restarts, or fails over), and for locks.
PATIENCE = 300.0

#: Seconds within which a run that lives has connected again: it gives a sign of life every 10, and has 5 to connect.
BACK_SECONDS = 20.0

#: Seconds for which a halted run waits for an answer of the server, before it asks it to break off what it is at, and
#: before it gives the server up; and after the halt, before it gives a server up that answers, but slowly.
_PROMPT, _GRACE, _LEAVE = 0.25, 0.5, 0.7

#: Seconds after which an answer is slow.
_SLOW = 0.03

_OLDEST_SERVER = 120000

T = TypeVar("T")


class _Transaction(NamedTuple):
    """The run in whose name a transaction was begun, and the ``serial`` it will have when it is committed."""

    run: int
    serial: int


class PostgresStore(SQLStore):
    """A store in the database that *where* names: a ``postgresql://`` URL, or a function that makes a connection of
    psycopg2.  *schema*: that of our tables; "": the role's first one (mostly ``public``); it is made if missing.
    *role*: who to be there, and who owns the tables; "": the one who logs in."""

    _words = {"sums": schema.SUMS, "weights": f"sum({schema.WEIGHT})"}

    def __init__(self, where: Union[str, Connect], *, schema: str = "", role: str = "",
                 label: str = "Postgres") -> None:
        super().__init__()
        if isinstance(where, str):
            connect, label, named = connector(where)
            schema = schema or named
        else:
            connect = where
        self._connect = connect
        self._label, self._schema, self._role = label, check_schema(schema), role
        self._link = self._new_link()
        self._opened = False
        self._halt: Optional[Halt] = None
        self._run: Optional[_Transaction] = None  # as last committed
        self._pending: Optional[_Transaction] = None  # as it will be once this transaction is
        self._ended = False  # this transaction ends the run
        self._begun_on = self._known_on = 0  # the connection of this transaction, and the one that gsc_run tells of
        self._closed = threading.Event()

    @property
    def label(self) -> str:
        """What messages call the place; no secrets."""
        return self._label

    def _new_link(self) -> Link:
        return Link(self._connect, self._label, schema=self._schema, role=self._role)

    # -- open and close

    def open(self, *, writing: bool = True, halt: Optional[Halt] = None) -> None:
        if self._opened:
            raise StoreError(f"this store object is in use; make another one for {self.label}")
        self._link = self._new_link()
        self._opened, self._link.access = True, "WRITE" if writing else "ONLY"
        if halt is not None:
            self._listen(halt)
        try:
            self._check_server()
            self._migrate(writing=writing)
        except StoreLost as error:  # there is nothing yet that would be worth waiting for
            self.close()
            if halt is not None and halt.is_set():
                raise Halted from error
            raise StoreError(str(error)) from error
        except BaseException:
            self.close()
            raise

    def _check_server(self) -> None:
        version = self._link.connect().server_version
        if version < _OLDEST_SERVER:
            raise StoreError(f"{self.label} runs Postgres {version // 10000}; this needs 12 or newer")

    def _migrate(self, *, writing: bool) -> None:
        """Bring the tables up to date; one process does it, the others wait."""
        newest = len(schema.MIGRATIONS)
        version = self.together(self._version)
        if version == newest:
            return
        if version > newest:
            raise StoreError(f"{self.label} was written by a newer gscthreads (schema {version}); upgrade this one")
        if not writing:
            if version == 0:
                raise StoreMissing(f"{self.label} holds nothing of gscthreads yet; run a sync first")
            raise StoreError(f"{self.label} was written by an older gscthreads; run a sync once to bring it up to date")
        self._link.begin(f"SET LOCAL lock_timeout = {int(PATIENCE * 1000)}")
        try:
            self._alone("migrations")
            if not self._link.one("SELECT count(*) FROM pg_namespace WHERE nspname = %s", (self._link.schema,)):
                self._link.execute(f'CREATE SCHEMA "{self._link.schema}"')
            version = self._version()
            for script in schema.MIGRATIONS[version:]:
                self._link.execute(script)
            self._link.execute("DELETE FROM gsc_meta")
            self._link.execute("INSERT INTO gsc_meta (version) VALUES (%s)", (newest,))
            self._link.commit()
        finally:
            self._link.rollback()

    def _version(self) -> int:
        """The version of our tables, 0 when there are none."""
        if self._link.one("SELECT to_regclass(%s)", (f'"{self._link.schema}".gsc_meta',)) is None:
            return 0
        return int(self._link.one("SELECT coalesce(max(version), 0) FROM gsc_meta"))

    def close(self, *, discard: bool = False) -> None:
        if self._run is not None and self._link.connected():
            self._let_go(self._run)
        self._closed.set()
        self._link.forget()
        self._opened = False
        self._halt = self._run = self._pending = None
        self._forget_ids()

    def _let_go(self, run: _Transaction) -> None:
        """A run whose end nobody noted ends with its store: its leases need not be waited for."""
        with contextlib.suppress(StoreError):
            self._link.rollback()
            if self._link.connected() and self._link.begin(
                "UPDATE gsc_run SET status = 'killed' WHERE id = %s AND status = 'running' AND serial = %s", run
            ).rowcount == 1:
                self._link.execute("DELETE FROM gsc_lease WHERE run = %s", (run.run,))
                self._link.commit()

    def quota_ledger(self) -> QuotaLedger:
        return PostgresLedger(Link(
            self._connect, self.label, schema=self._link.schema, role=self._role, statement_timeout=30.0
        ))

    # -- transactions

    def begin(self, halt: Halt) -> None:
        self._listen(halt)
        self._patiently(self._begin)

    def _begin(self) -> None:
        self._pending, self._ended = None, False
        if self._run is None:
            self._link.begin()
            self._begun_on = self._link.made
            return
        run, serial = self._run
        if self._link.begin(
            "UPDATE gsc_run SET beat = clock_timestamp(), serial = serial + 1"
            " WHERE id = %s AND status = 'running' AND serial = %s", self._run
        ).rowcount != 1:
            found = self._link.rows("SELECT status, serial FROM gsc_run WHERE id = %s", (run,))
            if found and found[0] == ("running", serial):  # another process looked at the line just then
                raise StoreLost(f"{self.label}: the run's line was being changed")
            self.rollback()
            if found and found[0][0] != "running":
                raise LeaseLost(f"another sync of {self.label} took this one for dead and went on in its place")
            raise LeaseLost(f"{self.label} has lost transactions that it had confirmed (a fail-over?)")
        self._begun_on = self._link.made
        if self._begun_on != self._known_on:
            backend = self._link.backend()
            self._link.execute("UPDATE gsc_run SET backend_pid = %s, backend_start = %s WHERE id = %s", (*backend, run))
        self._pending = _Transaction(run, serial + 1)

    def commit(self) -> None:
        pending = self._pending
        try:
            self._link.commit()
        except StoreLost as error:
            if pending is None:
                raise StoreError(f"{error}; whether the transaction was committed is not known") from error
            self._link.forget()
            if not self._patiently(functools.partial(self._has_committed, pending)):
                raise
        if pending is not None:
            self._known_on = self._begun_on
        self._run = None if self._ended else pending
        self._pending = None

    def _has_committed(self, pending: _Transaction) -> bool:
        """Whether the transaction in doubt is there; waits while the server is still at it (the line is locked)."""
        self._link.begin()
        try:
            found = self._link.rows("SELECT serial FROM gsc_run WHERE id = %s FOR UPDATE", (pending.run,))
        finally:
            self._link.rollback()
        return bool(found) and found[0][0] == pending.serial

    def rollback(self) -> None:
        self._link.rollback()
        self._pending = None
        self._forget_ids()

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """*attempt* until it neither loses the connection nor meets a lock.  Raises Halted (after a halt nothing is
        attempted twice), or StoreLost when patience ends."""
        deadline = time.monotonic() + PATIENCE
        pause = 0.0  # a connection that broke is found out only by its next use: the first time proves nothing
        while True:
            try:
                return attempt()
            except StoreLost as error:
                self._link.rollback()
                if time.monotonic() > deadline:
                    raise
                if self._wait(pause):
                    raise Halted from error
                pause = 0.1

    def _wait(self, seconds: float) -> bool:
        if self._halt is None:
            time.sleep(seconds)
            return False
        return self._halt.wait(seconds)

    def _listen(self, halt: Halt) -> None:
        """A server that doesn't answer must not keep a halted run."""
        if self._halt is halt:
            return
        self._halt = halt
        self._closed.set()
        link, closed = self._link, threading.Event()
        self._closed = closed

        def watch() -> None:
            asked = False
            while not closed.wait(0.05):
                waiting = link.waiting()
                if waiting > _GRACE or waiting > _SLOW and time.monotonic() > (halt.set_at or 0.0) + _LEAVE:
                    link.give_up()
                elif waiting > _PROMPT and not asked:
                    asked = True
                    link.cancel()

        halt.on_set(threading.Thread(target=watch, name=f"{__name__}-watch", daemon=True).start)

    def _alone(self, name: str) -> None:
        """Be the only transaction that does what *name* names, until it ends."""
        deadline = time.monotonic() + PATIENCE
        while not self._link.one("SELECT pg_try_advisory_xact_lock(%s)", (self._lock_key(name),)):
            if self._wait(0.02):
                raise Halted
            if time.monotonic() > deadline:
                raise StoreLost(f"{self.label}: another process keeps its lock on {name}")

    def _lock_key(self, name: str) -> int:
        return lock_key(self._link.schema, name)

    def together(self, question: Callable[[], T]) -> T:
        if self._link.in_transaction:
            return question()
        if not self._opened:
            raise StoreError(f"{self.label} is not open")
        self._link.begin()
        try:
            return question()
        finally:
            self._link.rollback()

    # -- rows

    def stage(self, dataset: Dataset, key: SliceKey, rows: Rows, ack: Acknowledged) -> None:
        day = self._day(dataset, key.date)
        self._link.execute("DELETE FROM gsc_stage WHERE day = %s AND start_row = %s", (day, key.start_row))
        self._copy("gsc_stage", {"day": day, "start_row": key.start_row}, dataset, rows)
        self._link.execute(
            f"UPDATE gsc_day SET status = %s WHERE id = %s AND status = %s; {schema.NOTE_STAGED}",
            (OPEN, day, FAILED, day, key.start_row, ack.received, ack.fetched_on, ack.data_state, day, key.start_row),
        )

    def publish(self, dataset: Dataset, date: dt.date, rows: Optional[Rows], *, status: str, calls: int) -> int:
        day = self._day(dataset, date)
        pages = dataset.report.name == "page"
        gone = self._withdraw(dataset, day, pages)
        if rows is None:
            count = int(self._link.execute(schema.PUBLISH_STAGED, (day,)).rowcount)
        else:
            count = self._copy("gsc_fact", {"day": day}, dataset, rows)
        if pages:
            self._add_lifetime(dataset, day, date, gone)
        # In one go, as wherever no answer is needed: to a server far away each statement takes its time.
        self._link.execute(
            f"{schema.FORGET_SLICES}; {schema.NOTE_SUMS}; UPDATE gsc_day SET status = %s, rows = %s, calls = %s,"
            " published_at = clock_timestamp(), error = NULL WHERE id = %s",
            (day, day, day, day, status, count, calls, day),
        )
        return count

    def _withdraw(self, dataset: Dataset, day: int, pages: bool) -> Sequence[int]:
        """Take a published day's rows out; those of its pages that gsc_lifetime counts."""
        gone: Sequence[int] = ()
        if pages:
            gone = self._link.one(schema.LIFETIME_GONE, (day,)) or ()
            if gone:
                self._link.execute(schema.LIFETIME_SUBTRACT, (self._dataset(dataset), day))
        self._link.execute("DELETE FROM gsc_fact WHERE day = %s", (day,))
        return gone

    def _add_lifetime(self, dataset: Dataset, day: int, date: dt.date, gone: Sequence[int]) -> None:
        number = self._dataset(dataset)
        self._link.execute(schema.LIFETIME_ADD, (number, date, date, day))
        gone = gone and self._link.one(schema.LIFETIME_STILL_GONE, (list(gone), day)) or ()
        if gone:
            self._link.execute(schema.LIFETIME_DROP, (number, gone))
            self._link.execute(schema.LIFETIME_REDATE, (number, gone, date))

    def _forget_slices(self, day: int) -> None:
        self._link.execute(schema.FORGET_SLICES, (day, day))

    def _copy(self, table: str, fixed: Dict[str, int], dataset: Dataset, rows: Rows) -> int:
        """COPY *rows*, each after the *fixed* columns, into *table*; the number of rows."""
        ids = self._page_ids(rows.pages) if "page" in dataset.report.dimensions else [0]
        if len(set(ids)) < len(ids):
            rows, ids = _merged(rows, ids)
        layout = laid_out(rows, ids, self._segment_column(rows))
        written = {
            name: numbers(column) for name, column in zip(layout._fields, layout)
            if column is not None and name != "query"
        }
        if layout.query is not None:
            written["query"] = texts(layout.query)
        if rows.kept:
            start = "".join(f"{value}\t" for value in fixed.values())
            lines = f"\n{start}".join(map("\t".join, zip(*written.values())))
            self._link.copy(
                f"COPY {table} ({', '.join([*fixed, *written])}) FROM STDIN",
                io.BytesIO(f"{start}{lines}\n".encode("utf-8")),
            )
        return rows.kept

    # -- small integers for texts

    def _page_ids(self, pages: Sequence[str]) -> List[int]:
        known = self._pages
        if len(known) + len(pages) > REMEMBERED:
            known.clear()
        missing = [page for page in pages if page not in known]
        if missing:
            self._find_pages(missing)
            if any(page not in known for page in missing):
                self._alone("pages")  # until the end of the transaction: nobody else makes one of these
                self._find_pages([page for page in missing if page not in known])
                self._add_pages([page for page in missing if page not in known])
        return [known[page] for page in pages]

    def _find_pages(self, pages: List[str]) -> None:
        places, ids = self._link.rows(
            "SELECT array_agg(w.place::integer), array_agg(p.id)"
            " FROM unnest(%s::text[]) WITH ORDINALITY AS w (page, place) JOIN gsc_page p ON p.page = w.page",
            ([plain(page) for page in pages],),
        )[0]
        self._pages.update((pages[place - 1], number) for place, number in zip(places or (), ids or ()))

    def _add_pages(self, pages: List[str]) -> None:
        first = int(self._link.one("SELECT coalesce(max(id), 0) + 1 FROM gsc_page"))
        by_text: Dict[str, int] = {}  # two pages that differ by what Postgres can't store are one there
        for page in pages:
            self._pages[page] = by_text.setdefault(plain(page), first + len(by_text))
        lines = "".join(f"{number}\t{text}\n" for text, number in zip(texts(list(by_text)), by_text.values()))
        self._link.copy("COPY gsc_page (id, page) FROM STDIN", io.BytesIO(lines.encode("utf-8")))

    def _segment(self, names: Sequence[str]) -> int:
        values = list(map(plain, names))
        question = (
            "SELECT id FROM gsc_segment WHERE coalesce(country, '') = %s AND coalesce(device, '') = %s"
            " AND coalesce(appearance, '') = %s"
        )
        found = self._link.rows(question, values)
        if not found:
            self._alone("pages")
            found = self._link.rows(question, values) or self._link.rows(
                "INSERT INTO gsc_segment (id, country, device, appearance)"
                " SELECT coalesce(max(id), 0) + 1, %s, %s, %s FROM gsc_segment RETURNING id",
                [value or None for value in values],
            )
        return int(found[0][0])

    def _day(self, dataset: Dataset, date: dt.date) -> int:
        number = self._days.get((dataset, date))
        if number is None:
            number = int(self._link.one(schema.BEGIN_DAY, (self._dataset(dataset), date) * 2))
            self._days[dataset, date] = number
        return number

    # -- runs

    def start_run(self, settings: str) -> int:
        self._alone("runs")
        for number, in self._link.rows("SELECT id FROM gsc_run WHERE status = 'running' ORDER BY id"):
            self._lives(number)
        run = int(self._link.one(
            "INSERT INTO gsc_run (started_at, status, settings, host, machine, pid, beat, backend_pid, backend_start)"
            " VALUES (clock_timestamp(), 'running', %s, %s, %s, %s, clock_timestamp(), %s, %s) RETURNING id",
            (settings, plain(socket.gethostname()), machine(), os.getpid(), *self._link.backend()),
        ))
        self._pending = _Transaction(run, 0)
        return run

    def claim(self, datasets: Iterable[Dataset]) -> Dict[Dataset, str]:
        self._alone("runs")
        run = self._pending.run if self._pending is not None else 0
        numbers = {self._dataset(dataset): dataset for dataset in datasets}
        leases = self._link.rows(
            "SELECT l.dataset, r.id, r.pid, r.host,"
            " to_char(r.started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"
            " FROM gsc_lease l JOIN gsc_run r ON r.id = l.run WHERE r.id <> %s AND l.dataset = ANY (%s)",
            (run, list(numbers)),
        )
        alive = {other for other in {lease[1] for lease in leases} if self._lives(other)}
        held = {numbers.pop(number): HELD.format(*words) for number, other, *words in leases if other in alive}
        self._link.execute(
            "INSERT INTO gsc_lease (dataset, run) SELECT unnest(%s::integer[]), %s"
            " ON CONFLICT (dataset) DO UPDATE SET run = excluded.run", (list(numbers), run)
        )
        return held

    def holders(self) -> Dict[Dataset, str]:
        found = self.together(lambda: self._link.rows(schema.HOLDERS, (LEASE_SECONDS, BACK_SECONDS)))
        return {
            dataset_of(*names): HELD.format(pid, host, since)
            for host, where, pid, since, *names in found if not _is_gone(host, where, pid)
        }

    def _lives(self, run: int) -> bool:
        """Whether a run that counts as running does; if not, it becomes killed and its leases are free.

        What a dead process has left its server process to do is waited for: that has locked the run's line.
        """
        found = self._link.rows("SELECT host, machine, pid FROM gsc_run WHERE id = %s", (run,))
        gone = bool(found) and _is_gone(*found[0])
        dead = self._link.execute(schema.KILL, (run, gone, LEASE_SECONDS, BACK_SECONDS))
        if dead.rowcount != 1:
            return bool(self._link.rows("SELECT 1 FROM gsc_run WHERE id = %s AND status = 'running'", (run,)))
        self._link.execute("DELETE FROM gsc_lease WHERE run = %s", (run,))
        return False

    def save_run(self, run_id: int, figures: RunFigures, *, ended: bool) -> None:
        self._link.execute(
            "UPDATE gsc_run SET status = %s, days = %s, rows = %s, calls = %s, retries = %s, peak_qpm = %s,"
            " seconds = %s, uptime = %s, restarts = %s, faults = %s, halt_seconds = %s,"
            " ended_at = CASE WHEN %s THEN clock_timestamp() END WHERE id = %s",
            (*figures, ended, run_id),
        )
        if ended:
            self._link.execute("DELETE FROM gsc_lease WHERE run = %s", (run_id,))
            self._ended = True

    # -- statements

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Any:
        if values:
            statement = statement.replace("%", "%%").replace("?", "%s")
        return self._link.execute(statement, values)

    def read(self, statement: str, values: Sequence[Any] = ()) -> List[Tuple[Any, ...]]:
        found = self.together(lambda: self.execute(statement, values).fetchall())
        return [tuple(map(_portable, row)) for row in found]

    def interrupt(self) -> None:
        if self._link.waiting():
            self._link.cancel()


def _is_gone(host: str, where: Optional[str], pid: int) -> bool:
    """Whether a process is known to have ended: on this machine, that is."""
    return (host, where) == (plain(socket.gethostname()), machine()) and is_gone(pid)


def _merged(rows: Rows, ids: Sequence[int]) -> Tuple[Rows, List[int]]:
    """*rows* whose pages differ only by what Postgres can't store: those of one id are one page's, ranked anew."""
    by_id: Dict[int, List[Any]] = {}
    for number, (_, group) in zip(ids, rows.groups):
        by_id.setdefault(number, []).extend(group)
    groups = [(str(number), sorted(group, key=lambda row: row[:6])) for number, group in by_id.items()]
    return Rows.of(groups), list(by_id)


def _portable(value: Any) -> Any:
    """A value as SQLite would give it."""
    if isinstance(value, dt.datetime):
        return stamp(value)
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value
