"""The floor: the rows gscthreads writes, into the same table with the same settings, prepared before the clock starts.

No client can be much faster, as long as it writes these rows from one connection.  Two plain ways: *the floor* is
``executemany``, as one would write it; statements of many rows, as gscthreads itself writes them, are shown beside it.
"""

from __future__ import annotations

import collections
import sqlite3
from typing import Any, Callable, Dict, List, Tuple

from gscthreads.stores import open_store

from .meter import Meter
from .task import Task

#: What a connection of the store sets for itself.
PRAGMAS = ("synchronous", "cache_size", "temp_store", "wal_autocheckpoint")

Write = Callable[[sqlite3.Connection, int], object]


def many(task: Task) -> Dict[str, Any]:
    """executemany, one tuple a row."""
    return _run(task, _prepare_many)


def values(task: Task) -> Dict[str, Any]:
    """Multi-row VALUES, as many rows a statement as SQLite's parameters allow."""
    return _run(task, _prepare_values)


def _run(task: Task, prepare: Callable[[str, List[Tuple[Any, ...]]], Write]) -> Dict[str, Any]:
    store = open_store(f"sqlite:///{task.path}")
    store.open()  # makes the tables, and says which settings it writes them with
    settings = {name: store.read(f"PRAGMA {name}")[0][0] for name in PRAGMAS}
    store.close()
    plan = _days(task, prepare)
    database = sqlite3.connect(task.path, isolation_level=None)
    for name, value in settings.items():
        database.execute(f"PRAGMA {name} = {value}")
    meter = Meter()
    for number, (write, _) in enumerate(plan):
        if number % 2 == 0:  # both reports of a day make one transaction
            database.execute("BEGIN IMMEDIATE")
        write(database, number + 1)
        if number % 2:
            database.execute("COMMIT")
    database.close()
    return {**meter.read(), "rss": 0.0, "rows": sum(rows for _, rows in plan),
            "query_rows": sum(rows for _, rows in plan[1::2])}


def _days(task: Task, prepare: Callable[[str, List[Tuple[Any, ...]]], Write]) -> List[Tuple[Write, int]]:
    """(how to write, rows) of every day: page, page_query, page, ...  Days of equal content share the rows."""
    source = sqlite3.connect(task.prepared)
    names = [column[1] for column in source.execute("PRAGMA table_info(gsc_fact)")]
    key = [column[1] for column in source.execute("PRAGMA table_info(gsc_fact)") if column[5]]
    names.remove("day")
    dates: Dict[str, Dict[str, int]] = collections.defaultdict(dict)
    for number, date, report in source.execute(
            "SELECT d.id, d.date, s.report FROM gsc_day d JOIN gsc_dataset s ON s.id = d.dataset"):
        dates[report][date] = number
    ready: Dict[int, Tuple[Write, int]] = {}
    usual: Dict[str, List[int]] = {}
    for report, numbers in dates.items():
        for number in numbers.values():
            rows = source.execute(f"SELECT {', '.join(names)} FROM gsc_fact WHERE day = {number}"
                                  f" ORDER BY {', '.join(name for name in key if name != 'day')}").fetchall()
            insert = f"INSERT INTO gsc_fact (day, {', '.join(names)}) VALUES "
            ready[number] = prepare(insert, rows), len(rows)
        shortest = sorted(numbers.values(), key=lambda number: ready[number][1])
        usual[report] = shortest[:4]
    source.close()
    return [ready[dates[report].get(date.isoformat(), usual[report][place % len(usual[report])])]
            for place, date in enumerate(task.days()) for report in ("page", "page_query")]


def _prepare_many(insert: str, rows: List[Tuple[Any, ...]]) -> Write:
    def write(database: sqlite3.Connection, day: int) -> None:
        # the day as a literal: the prepared tuples serve every day of equal content
        database.executemany(f"{insert} ({day}, {','.join('?' * len(rows[0]))})", rows)

    return write


def _prepare_values(insert: str, rows: List[Tuple[Any, ...]]) -> Write:
    width = len(rows[0])
    size = (32_766 if sqlite3.sqlite_version_info >= (3, 32) else 999) // width
    chunks = []
    for start in range(0, len(rows), size):
        chunk = rows[start:start + size]
        marks = f"(?1,{','.join('?' * width)})"
        chunks.append((insert + ",".join([marks] * len(chunk)), [value for row in chunk for value in row]))

    def write(database: sqlite3.Connection, day: int) -> None:
        for statement, flat in chunks:
            database.execute(statement, [day, *flat])

    return write
