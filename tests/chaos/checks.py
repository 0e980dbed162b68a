"""What must hold between and after the runs: the truth, the ledger, nothing left behind."""

from __future__ import annotations

import collections
import contextlib
import datetime as dt
import gc
import math
import os
import socket
import sqlite3
import threading
import time
from typing import Any, Dict, Iterable, Iterator, List, Sequence, Set, Tuple

from gscthreads.errors import StoreMissing
from gscthreads.stores import open_store
from gscthreads.stores.base import Store

#: Seconds that threads and sockets get to end by themselves; only for saying that they never will.
MOMENT = 15.0

COLUMNS = ("page", "query", "country", "device")


@contextlib.contextmanager
def opened(place: str) -> Iterator[Any]:
    """What is stored at *place*, a SQLite file or a Postgres URL; to be asked by ``execute`` and ``?``."""
    if is_url(place):
        with contextlib.closing(open_store(place)) as store:
            store.open(writing=False)
            yield _Reader(store)
        return
    with contextlib.closing(sqlite3.connect(str(place), timeout=10)) as database, database:
        yield database


def is_url(place: str) -> bool:
    return "://" in str(place)


def url_of(place: str) -> str:
    return str(place) if is_url(place) else f"sqlite:///{place}"


class _Reader:
    def __init__(self, store: Store) -> None:
        self._store = store

    def execute(self, statement: str, values: Sequence[Any] = ()) -> "_Found":
        return _Found(self._store.read(statement, values))


class _Found(List[Tuple[Any, ...]]):
    def fetchall(self) -> "_Found":
        return self

    def fetchone(self) -> Any:
        return self[0] if self else None


def ledger(path: str, limit: int = 25_000) -> Set[Tuple[str, str, str, str, int]]:
    """(site, report, search type, date, start row) of every slice acknowledged for good."""
    if not is_url(path) and not os.path.exists(path):
        return set()
    with contextlib.ExitStack() as stack:
        try:
            database = stack.enter_context(opened(path))
        except StoreMissing:
            return set()
        if not is_url(path) and not database.execute(
            "SELECT count(*) FROM sqlite_master WHERE name = 'gsc_slice'"
        ).fetchone()[0]:
            return set()
        found = set(database.execute(
            "SELECT s.site, s.report, s.search_type, d.date, a.start_row FROM gsc_slice a"
            " JOIN gsc_day d ON d.id = a.day JOIN gsc_dataset s ON s.id = d.dataset WHERE d.status = 'open'"
        ))
        days = database.execute("SELECT site, report, search_type, date, calls FROM gsc_days WHERE status = 'final'")
        return found | {(*day, number * limit) for *day, calls in days for number in range(calls)}


def asked(entries: Iterable[Any]) -> List[Tuple[str, str, str, str, int]]:
    """The same of what the look-alike was asked."""
    return [
        (each.site, "_".join(each.dimensions), each.search_type, each.start_date.isoformat(), each.start_row)
        for each in entries if each.start_date is not None
    ]


def report_name(report: str) -> str:
    return "_".join(report.split(","))


def dimensions_of(report: str) -> List[str]:
    return ["page", "query"] if report == "page_query" else report.split(",")


def truth(sim: Any, site: str, report: str, kind: str, date: dt.date, state: str) -> List[Tuple[Any, ...]]:
    """The rows of gsc_performance that a day should have, in order."""
    dimensions = dimensions_of(report)
    rows = []
    for keys, *figures in sim.truth(site, dimensions, kind, date, dataState=state):
        named = dict(zip(dimensions, keys))
        rows.append((*(named.get(column) for column in COLUMNS), *figures))
    return sorted(rows, key=repr)


def differences(sim: Any, path: str, *, site: str, reports: Sequence[str], kinds: Sequence[str],
                dates: Sequence[dt.date], state: str = "final", top_queries: int = 20) -> List[str]:
    """Where the views differ from the truth, or from what they say of themselves."""
    wrong: List[str] = []
    with opened(path) as database:
        stored: Dict[Tuple[Any, ...], List[Tuple[Any, ...]]] = collections.defaultdict(list)
        for name, kind, date, *row in database.execute(
            "SELECT report, search_type, date, page, query, country, device, clicks, impressions, ctr, position"
            " FROM gsc_performance WHERE site = ?", (site,)
        ):
            stored[name, kind, date].append(tuple(row))
        for report in reports:
            for kind in kinds:
                for date in dates:
                    found = sorted(stored.pop((report_name(report), kind, date.isoformat()), []), key=repr)
                    right = truth(sim, site, report, kind, date, state)
                    if found != right:
                        wrong.append(_difference(f"gsc_performance {report} {kind} {date}", found, right))
        if stored:
            wrong.append(f"gsc_performance has days nobody asked for: {sorted(stored)[:3]}")
        wrong += _derived(database, top_queries)
        for table in ("gsc_stage", "gsc_slice"):
            count = database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            if count:
                wrong.append(f"{count} rows left in {table}")
        for words, in [] if is_url(path) else database.execute("PRAGMA integrity_check"):
            if words != "ok":
                wrong.append(f"integrity_check: {words}")
        orphans = database.execute("SELECT count(*) FROM gsc_fact WHERE day NOT IN (SELECT id FROM gsc_day"
                                   " WHERE status IN ('final', 'provisional'))").fetchone()[0]
        if orphans:
            wrong.append(f"{orphans} rows of days that aren't published")
    return wrong


def _derived(database: Any, top_queries: int) -> List[str]:
    """The derived views, recomputed from gsc_performance in Python."""
    daily, groups = [], collections.defaultdict(list)
    pages: Dict[Tuple[Any, ...], List[Tuple[Any, ...]]] = collections.defaultdict(list)
    for name, site, kind, date, page, query, *figures in database.execute(
        "SELECT report, site, search_type, date, page, query, clicks, impressions, ctr, position FROM gsc_performance"
        " WHERE report IN ('page', 'page_query')"
    ):
        if name == "page":
            daily.append((site, kind, date, page, *figures))
            pages[site, kind, page].append((date, *figures))
        else:
            groups[site, kind, date, page].append((-figures[0], -figures[1], query, *figures))
    ranked = []
    for place, group in groups.items():
        for rank, (_, _, query, *figures) in enumerate(sorted(group)[:top_queries], 1):
            ranked.append((*place, rank, query, *figures))
    wrong = []
    for view, right in (("gsc_page_daily", daily), ("gsc_top_queries", ranked)):
        columns = "site, search_type, date, page, "
        columns += "rank, query, clicks, impressions, ctr, position" if view == "gsc_top_queries" else (
            "clicks, impressions, ctr, position")
        found = sorted(database.execute(f"SELECT {columns} FROM {view}"), key=repr)
        right.sort(key=repr)
        if found != right:
            wrong.append(_difference(view, found, right))
    lifetime = {
        tuple(row[:3]): row[3:] for row in database.execute(
            "SELECT site, search_type, page, clicks, impressions, first_seen, last_seen, days_seen, ctr, position"
            " FROM gsc_page_lifetime")
    }
    if set(lifetime) != set(pages):
        wrong.append(_difference("pages of gsc_page_lifetime", sorted(lifetime), sorted(pages)))
    for place, rows in pages.items():
        clicks, seen = sum(row[1] for row in rows), sum(row[2] for row in rows)
        dates = [row[0] for row in rows]
        right_row = (clicks, seen, min(dates), max(dates), len(rows), clicks / seen)
        *found_row, position = lifetime.get(place, (None,) * 7)
        if tuple(found_row) != right_row:
            wrong.append(f"gsc_page_lifetime {place}: {found_row} instead of {right_row}")
        elif rows[0][4] is not None:
            mean = sum(row[4] * row[2] for row in rows) / seen
            if not math.isclose(position, mean, rel_tol=1e-8):
                wrong.append(f"gsc_page_lifetime {place}: position {position} instead of {mean}")
    return wrong


def _difference(where: str, found: Sequence[Any], right: Sequence[Any]) -> str:
    missing = collections.Counter(right) - collections.Counter(found)
    surplus = collections.Counter(found) - collections.Counter(right)
    return (f"{where}: {len(found)} rows instead of {len(right)}; missing {sum(missing.values())}"
            f" {list(missing)[:2]}, surplus {sum(surplus.values())} {list(surplus)[:2]}")


def wrong_days(sim: Any, path: str, *, site: str, reports: Sequence[str], kinds: Sequence[str],
               dates: Sequence[dt.date], today: dt.date, state: str, limit: int, until_empty: bool,
               exact_calls: bool) -> List[str]:
    """Where gsc_days doesn't say what it should."""
    wrong = []
    with opened(path) as database:
        found = {
            tuple(row[:3]): tuple(row[3:]) for row in database.execute(
                "SELECT report, search_type, date, status, rows, calls FROM gsc_days WHERE site = ?", (site,))
        }
        for report in reports:
            for kind in kinds:
                for date in dates:
                    rows = len(truth(sim, site, report, kind, date, state))
                    status = "final" if (today - date).days >= (3 if rows else 10) else "provisional"
                    calls = rows // limit + 1 + (until_empty and rows % limit > 0)
                    got = found.get((report_name(report), kind, date.isoformat()))
                    if got is None or got[:2] != (status, rows) or (exact_calls and got[2] != calls):
                        wrong.append(f"gsc_days {report} {kind} {date}: {got}, not {(status, rows, calls)}")
        running = database.execute("SELECT count(*) FROM gsc_runs WHERE status = 'running'").fetchone()[0]
        if running:
            wrong.append(f"{running} runs still count as running")
    return wrong


def sockets_and_files() -> Dict[str, int]:
    """What the file descriptors of this process point to, counted; sockets without their numbers."""
    found: Dict[str, int] = collections.Counter()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{number}")
            found["socket" if target.startswith("socket:") else target] += 1
    return found


class Belongings:
    """Threads and descriptors there are now; ``leaks`` are those that came later and don't go."""

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._files = sockets_and_files()

    def leaks(self) -> List[str]:
        until = time.monotonic() + MOMENT
        while True:
            gc.collect()
            threads = [each.name for each in threading.enumerate() if each not in self._threads]
            files = {name: count for name, count in sockets_and_files().items()
                     if count > self._files.get(name, 0) and not name.endswith("/fd")}
            if not threads and not files:
                return []
            if time.monotonic() > until:
                return [f"left behind: threads {threads}, descriptors {files}"]
            threading.Event().wait(0.01)


def settled(sim: Any) -> List[str]:
    """Wait until the run has closed its sockets and ended its threads, and the look-alike has nothing to do any more.

    The sockets of this process are the look-alike's and the client's; each connection has one of both.
    """
    until = time.monotonic() + MOMENT
    while True:
        gc.collect()
        sim.release_hangs()
        threads = [each.name for each in threading.enumerate() if each.name.startswith("gscthreads.sync")]
        mine = len(client_ports(sim))
        if not mine:
            cut_connections(sim)
        serving = [each.name for each in threading.enumerate() if each.name.startswith("gsc-simulator-")]
        if not threads and not mine and not serving:
            return []
        if time.monotonic() > until:
            return [f"the run left behind: threads {threads}, {mine} connections; the look-alike still has {serving}"]
        threading.Event().wait(0.005)


def client_ports(sim: Any) -> List[int]:
    """Local ports of this process's sockets that are connected to the look-alike."""
    server = int(sim.url.rsplit(":", 1)[1])
    own = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{number}")
            if target.startswith("socket:["):
                own.add(target[8:-1])
    with open("/proc/self/net/tcp", encoding="ascii") as file:
        fields = [line.split() for line in file.readlines()[1:]]
    return [int(each[1].split(":")[1], 16) for each in fields
            if each[9] in own and int(each[2].split(":")[1], 16) == server]


def cut_connections(sim: Any) -> None:
    """End the look-alike's side of all connections: one that sends more than a gone client's window took would wait."""
    server = sim._server
    with server._lock:
        connections = list(server._open)
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
