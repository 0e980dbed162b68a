"""What one 25,000-row slice costs, step by step, in this process:  python -m bench.slice_cost

Prints the best and the median of several rounds in milliseconds.  No server, no threads.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import statistics
import tempfile
import time
from typing import Any, Callable, List

from gscthreads.halt import Halt
from gscthreads.model import ROW_LIMIT, Dataset, Report, Slice, SliceKey
from gscthreads.rows import make_decoder
from gscthreads.stores import open_store
from gscthreads.stores.base import Acknowledged

DAY = dt.date(2026, 1, 1)
PAGE = Dataset("sc-domain:example.com", Report("page", ("page",)), "web")
PAGE_QUERY = Dataset("sc-domain:example.com", Report("page_query", ("page", "query")), "web")


def body(dimensions: int, pages: int, seed: int = 2) -> bytes:
    """A full slice as Google sends it: 60-character URLs, 25-character queries, by clicks, most of them 0."""
    dice = random.Random(seed)
    keys = set()
    while len(keys) < ROW_LIMIT:
        page = len(keys) if dimensions == 1 else int(pages * dice.random() ** 2)
        keys.add((page, dice.randrange(ROW_LIMIT)))
    rows = []
    for number, (page, query) in enumerate(sorted(keys, key=lambda key: dice.random())):
        clicks = 2000 // (number + 1)
        impressions = max(1, clicks + int(1 / (0.003 + dice.random())))
        names = [f"https://www.example.com/blog/a-page-with-a-long-name-{page:07}", f"some search words {query:07}"]
        rows.append({"keys": names[:dimensions], "clicks": clicks, "impressions": impressions,
                     "ctr": clicks / impressions,
                     "position": dice.randrange(impressions, 50 * impressions) / impressions})
    return json.dumps({"rows": rows, "responseAggregationType": "byPage"}, separators=(",", ":")).encode()


def timed(name: str, work: Callable[[int], Any], rounds: int = 8) -> None:
    """Print how long *work* takes, called with 0, 1, 2, ..."""
    times: List[float] = []
    for number in range(rounds):
        began = time.perf_counter()
        work(number)
        times.append(1000 * (time.perf_counter() - began))
    print(f"{name:<58} best {min(times):7.1f} ms   median {statistics.median(times):7.1f} ms")


def main() -> None:
    """Run every step."""
    halt, slow, fast = Halt(), make_decoder(fast=False), make_decoder()
    text = body(2, 4000)
    slice_ = Slice(PAGE_QUERY, SliceKey(DAY, 0))
    timed("json.loads alone", lambda number: json.loads(text))
    timed("decode, check, group, rank: standard library", lambda number: slow(text, slice_))
    timed("the same with msgspec, where installed", lambda number: fast(text, slice_))
    page_query = slow(text, slice_)
    page = slow(body(1, ROW_LIMIT), Slice(PAGE, SliceKey(DAY, 0)))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "bench.db")
        store = open_store(f"sqlite:///{path}")
        store.open()

        def publish(dataset: Dataset, rows: Any) -> Callable[[int], None]:
            def work(number: int) -> None:
                store.begin(halt)
                store.publish(dataset, DAY + dt.timedelta(days=number), rows, status="final", calls=1)
                store.commit()

            return work

        def stage(number: int) -> None:
            store.begin(halt)
            key = SliceKey(DAY + dt.timedelta(days=100 + number), 0)
            store.stage(PAGE_QUERY, key, page_query, Acknowledged(ROW_LIMIT, DAY, "final"))
            store.commit()

        def publish_staged(number: int) -> None:
            store.begin(halt)
            store.publish(PAGE_QUERY, DAY + dt.timedelta(days=100 + number), None, status="final", calls=1)
            store.commit()

        timed("publish a page_query day of one slice", publish(PAGE_QUERY, page_query))
        timed("publish a page day of one slice, 25,000 pages", publish(PAGE, page))
        timed("replace it", publish(PAGE, page))
        timed("stage a slice", stage)
        timed("publish a staged day", publish_staged)
        rows = store.read("SELECT sum(rows) FROM gsc_days")[0][0]
        store.close()
        print(f"{os.path.getsize(path) / rows:.1f} bytes a row, of {rows:,}")


if __name__ == "__main__":
    main()
