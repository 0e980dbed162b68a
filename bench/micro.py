"""Figures that need no server: what the rate-limit check takes, what a stored row takes."""

from __future__ import annotations

import datetime as dt
import os
import statistics
import tempfile
import time
from typing import Dict

from gscthreads.halt import Halt
from gscthreads.model import Slice, SliceKey
from gscthreads.quota import Quota
from gscthreads.rows import make_decoder
from gscthreads.stores import open_store

from .slice_cost import DAY, PAGE_QUERY, body


def rate_limit(batches: int = 2_000, calls: int = 50) -> Dict[str, float]:
    """Milliseconds to ask for a batch's calls and to settle them, when they are to be had."""
    now = 0.0
    quota = Quota(site_budget=960, user_budget=960, project_budget=32_000, burst=calls, halt=Halt(),
                  clock=lambda: now)
    took = []
    for _ in range(batches):
        now += 4.0  # the bucket is full again: what is measured is the arithmetic, not the pace
        began = time.perf_counter()
        grant = quota.acquire("sc-domain:example.com", calls)
        assert grant is not None
        quota.settle(grant)
        took.append(1000 * (time.perf_counter() - began))
    took.sort()
    return {"median_ms": statistics.median(took), "p99_ms": took[int(len(took) * 0.99)]}


def bytes_per_row(days: int = 20) -> float:
    """Size of a store of full page_query slices, 60-character URLs and 25-character queries, by its rows."""
    rows = make_decoder()(body(2, 4000), Slice(PAGE_QUERY, SliceKey(DAY, 0)))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "size.db")
        store = open_store(f"sqlite:///{path}")
        store.open()
        for number in range(days):
            store.begin(Halt())
            store.publish(PAGE_QUERY, DAY + dt.timedelta(days=number), rows, status="final", calls=1)
            store.commit()
        store.close()
        return os.path.getsize(path) / (days * rows.kept)
