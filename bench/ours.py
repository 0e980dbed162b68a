"""gscthreads as a contestant."""

from __future__ import annotations

import os
import time
from typing import Any, Dict, List, Tuple

from .meter import Meter
from .task import Task


class Unavailable(Exception):
    """This gscthreads can't do that yet."""


def run(task: Task) -> Dict[str, Any]:
    """One sync with the task's settings."""
    import gscthreads  # here, so that the caller could hide msgspec first

    store = task.settings.get("store") or f"sqlite:///{task.path}"
    try:
        config = gscthreads.SyncConfig(
            sites=list(task.sites), store=store, credentials=task.credentials, start=task.start, end=task.end,
            api_root=task.url, rate_limit_enabled=task.quota, search_types=tuple(task.search_types),
            **{name: value for name, value in task.settings.items() if name != "store"})
        sync = gscthreads.Sync(config)
    except gscthreads.ConfigError as problem:
        raise Unavailable(str(problem)) from problem
    waits = AcknowledgeTimes()
    meter = Meter()
    result = sync.run()
    measured = meter.read()
    if result.status != "complete":
        raise RuntimeError(f"the run ended {result.status}: {result.reason}")
    query_rows = sum(each.rows for each in result.datasets if each.report == "page_query")
    size = sum(os.path.getsize(task.path + end) for end in ("", "-wal") if os.path.exists(task.path + end))
    return {**measured, "rows": result.rows, "query_rows": query_rows, "retries": result.retries,
            "client_calls": result.calls, "peak_qpm": result.peak_qpm, "bytes": size, "waits": waits.milliseconds()}


def clear_postgres(url: str) -> None:
    """Drop our tables, so that there is something to copy: the database is there for the benchmark alone."""
    try:
        import psycopg2
        from gscthreads.stores import open_store

        open_store(url)
    except Exception as problem:
        raise Unavailable(str(problem)) from problem
    database = psycopg2.connect(url)
    with database, database.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema AND tablename ~ '^gsc_'")
        for (table,) in cursor.fetchall():
            cursor.execute(f'DROP TABLE "{table}" CASCADE')
    database.close()


class AcknowledgeTimes:
    """From a slice's answer being complete to the slice being durable and the plan knowing it.

    Reaches into two private places of the package; where they are gone, there is no such figure.
    """

    def __init__(self) -> None:
        self._began: Dict[Any, float] = {}
        self._took: List[float] = []
        try:
            from gscthreads.client import _Replies
            from gscthreads.plan import DatasetPlan

            self._wrap(_Replies, DatasetPlan)
        except (ImportError, AttributeError):
            pass

    def _wrap(self, replies: Any, plan: Any) -> None:
        settle, acknowledge = replies.settle, plan.acknowledge

        def settle_timed(this: Any, index: int, part: Any) -> None:
            wanted = this._waiting.get(index)
            if wanted is not None:
                self._began[wanted.dataset, wanted.key] = time.perf_counter()
            settle(this, index, part)

        def acknowledge_timed(this: Any, key: Any, *rest: Any) -> None:
            acknowledge(this, key, *rest)
            began = self._began.pop((this.dataset, key), None)
            if began is not None:
                self._took.append(1000 * (time.perf_counter() - began))

        replies.settle, plan.acknowledge = settle_timed, acknowledge_timed

    def milliseconds(self) -> Tuple[float, float]:
        """(median, 99th percentile); zeros when nothing was seen."""
        took = sorted(self._took)
        return (took[len(took) // 2], took[int(len(took) * 0.99)]) if took else (0.0, 0.0)
