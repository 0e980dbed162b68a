"""The row path of a run without network, plan and quota:  python -m bench.pipeline

Three threads decode full slices, one thread writes them into a SQLite store, as in a run.  Beside it the floor: the
same rows as prepared tuples, in the order of the table's key, written to the same table by ``executemany`` and nothing
else, in as many transactions.  Contestants take turns; wall and CPU seconds are the median and the best of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import itertools
import os
import queue
import sqlite3
import statistics
import tempfile
import threading
import time
from typing import Any, Callable, Dict, List, Tuple

from gscthreads.halt import Halt
from gscthreads.model import ROW_LIMIT, Fetched, Slice, SliceKey
from gscthreads.outcomes import Outcomes
from gscthreads.rows import make_decoder
from gscthreads.stores import open_store

from .slice_cost import DAY, PAGE, PAGE_QUERY, body

_DISTINCT = 5  #: bodies in memory
_GROUP_ROWS = 50_000  #: rows a transaction, as in coordinator.py


class Clock:
    """Wall and CPU seconds of the parts that run ``with`` it."""

    wall = cpu = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def __exit__(self, *error: Any) -> None:
        self.wall += time.perf_counter() - self._began[0]
        self.cpu += time.process_time() - self._began[1]


def run(path: str, bodies: List[bytes], slices: List[Slice], decode: Any, threads: int, clock: Clock) -> None:
    """Decode *slices* in *threads*, publish them in this one."""
    halt = Halt()
    outcomes = Outcomes(1000, halt)
    owed: "queue.SimpleQueue[int]" = queue.SimpleQueue()
    for number in range(len(slices)):
        owed.put(number)

    def work() -> None:
        while True:
            try:
                number = owed.get_nowait()
            except queue.Empty:
                return
            with outcomes.turn:
                outcomes.put(Fetched(slices[number], decode(bodies[number % len(bodies)], slices[number])))

    store = open_store(f"sqlite:///{path}")
    store.open()
    workers = [threading.Thread(target=work) for _ in range(threads)]
    with clock:
        for worker in workers:
            worker.start()
        left = len(slices)
        while left:
            found = outcomes.take(1.0, most_rows=_GROUP_ROWS)
            if not found:
                continue
            store.begin(halt)
            for slice_, rows in found:
                store.publish(slice_.dataset, slice_.key.date, rows, status="final", calls=1)
            store.commit()
            outcomes.settled(found)
            left -= len(found)
            del found
        for worker in workers:
            worker.join()
    store.close()


def floor(path: str, source: str, clock: Clock, *, several: int = 1) -> None:
    """Write the rows of the store *source* as prepared tuples into a new one, nothing else, timing only that.
    *several*: rows a statement."""
    store = open_store(f"sqlite:///{path}")
    store.open()
    store.close()
    with contextlib.closing(sqlite3.connect(source)) as old, \
            contextlib.closing(sqlite3.connect(path, isolation_level=None)) as new:
        for pragma in ("synchronous = NORMAL", "wal_autocheckpoint = 8000", "cache_size = -16000"):  # those of a store
            new.execute(f"PRAGMA {pragma}")
        rows = old.execute("SELECT * FROM gsc_fact ORDER BY 1, 2, 3")
        marks = f"({','.join('?' * len(rows.description))})"
        while True:
            tuples = rows.fetchmany(_GROUP_ROWS)
            flat = [list(itertools.chain.from_iterable(tuples[start : start + several]))
                    for start in range(0, len(tuples), several)] if several > 1 else []
            if not tuples:
                return
            with clock:
                new.execute("BEGIN IMMEDIATE")
                for values in flat:
                    count = len(values) // len(rows.description)
                    new.execute("INSERT INTO gsc_fact VALUES " + ",".join([marks] * count), values)
                if several == 1:
                    new.executemany(f"INSERT INTO gsc_fact VALUES {marks}", tuples)
                new.execute("COMMIT")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=3)
    parser.add_argument("--report", choices=["page", "page_query"], default="page_query")
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()
    dataset = PAGE if options.report == "page" else PAGE_QUERY
    bodies = [body(len(dataset.report.dimensions), 4000, seed=seed) for seed in range(_DISTINCT)]
    slices = [Slice(dataset, SliceKey(DAY + dt.timedelta(days=number), 0)) for number in range(options.slices)]
    found: Dict[str, List[Tuple[float, float]]] = {}
    sizes: Dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "source.db")
        run(source, bodies, slices, make_decoder(), 1, Clock())
        contestants: Dict[str, Callable[[str, Clock], None]] = {
            "floor": lambda path, clock: floor(path, source, clock),
            "floor, 500 rows a statement": lambda path, clock: floor(path, source, clock, several=500),
            "standard library": lambda path, clock: run(
                path, bodies, slices, make_decoder(fast=False), options.threads, clock),
            "msgspec": lambda path, clock: run(path, bodies, slices, make_decoder(), options.threads, clock),
        }
        if options.only:
            contestants = {name: contestants[name] for name in options.only}
        for number in range(options.repeat):
            for name, contestant in contestants.items():
                path = os.path.join(folder, "contest.db")
                clock = Clock()
                contestant(path, clock)
                found.setdefault(name, []).append((clock.wall, clock.cpu))
                sizes[name] = os.path.getsize(path) / (options.slices * ROW_LIMIT)
                for suffix in ("", "-wal", "-shm", "-sync"):
                    with contextlib.suppress(OSError):
                        os.unlink(path + suffix)
    scale = 1000 / options.slices
    base = found.get("floor")
    print(f"{'ms a slice of 25,000 rows':<30} wall: median   best  CPU: median   best   x floor: median  best   B/row")
    for name, figures in found.items():
        wall, cpu = zip(*figures)
        line = f"{name:<30} {scale * statistics.median(wall):12.1f} {scale * min(wall):6.1f}"
        line += f" {scale * statistics.median(cpu):12.1f} {scale * min(cpu):6.1f}"
        if base:
            ratios = [one[0] / other[0] for one, other in zip(figures, base)]
            line += f" {statistics.median(ratios):17.2f} {min(wall) / min(each[0] for each in base):5.2f}"
        print(f"{line} {sizes[name]:7.1f}")


if __name__ == "__main__":
    main()
