"""What people read at the end of a sync, and in ``status``."""

from __future__ import annotations

import datetime as dt
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from .figures import Result
from .stores import open_store
from .stores.base import Store


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, widest: int = 70) -> str:
    """A plain table: numbers to the right with thousands separators, long text cut."""
    cells = [[_cell(value, widest) for value in row] for row in rows]
    widths = [max(len(line[column]) for line in [list(header), *cells]) for column in range(len(header))]
    right = [
        bool(rows) and all(isinstance(row[column], (int, float)) or row[column] is None for row in rows)
        for column in range(len(header))
    ]

    def line(values: Sequence[str]) -> str:
        padded = (
            value.rjust(width) if flag else value.ljust(width) for value, width, flag in zip(values, widths, right)
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, cells)])


def _cell(value: Any, widest: int) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    text = "".join(char if char.isprintable() else " " for char in str(value))  # a URL must not steer the terminal
    return text if len(text) <= widest else text[: widest - 1] + "…"


def result_text(result: Result) -> str:
    """A run's result for people."""
    rows = [
        (each.site, each.report, each.search_type, each.status, each.days, each.rows, each.calls)
        for each in result.datasets
    ]
    pace = f"{result.rows / result.seconds:,.0f} rows/s" if result.rows and result.seconds else "nothing to do"
    return (
        table(("site", "report", "type", "status", "days", "rows", "calls"), rows)
        + f"\n{result.status}: {result.days:,} days, {result.rows:,} rows in {result.seconds:,.1f} s ({pace}); "
        f"{result.calls:,} calls in {result.http_batches:,} HTTP requests, {result.retries:,} of them retries, "
        f"peak {result.peak_qpm:,} a minute"
    )


def read_status(store_url: Union[str, Store], *, sites: Optional[Sequence[str]] = None) -> Dict[str, Any]:
    """What the store holds, dataset by dataset, and its last runs.

    ``missing`` counts days without a line in the ledger between a dataset's first and last.
    """
    store = open_store(store_url)
    store.open(writing=False)
    try:
        days = store.read("SELECT site, report, search_type, date, status, rows FROM gsc_days ORDER BY 1, 2, 3, 4")
        runs = store.read(
            "SELECT run_id, started_at, ended_at, status, days, rows, calls, retries, peak_qpm, seconds"
            " FROM gsc_runs ORDER BY run_id DESC LIMIT 5"
        )
    finally:
        store.close()
    datasets: Dict[Tuple[str, str, str], Dict[str, Any]] = {}
    for site, report, search_type, date, status, rows in days:
        if sites and site not in sites:
            continue
        entry = datasets.setdefault(
            (site, report, search_type),
            {"site": site, "report": report, "search_type": search_type, "first": str(date), "days": 0, "rows": 0,
             "final": 0, "provisional": 0, "open": 0, "failed": 0},
        )
        entry["last"] = str(date)
        entry[status] += 1
        entry["days"] += 1
        entry["rows"] += rows
    for entry in datasets.values():
        span = (dt.date.fromisoformat(entry["last"]) - dt.date.fromisoformat(entry["first"])).days + 1
        entry["missing"] = span - entry["days"]
    names = ("run_id", "started_at", "ended_at", "status", "days", "rows", "calls", "retries", "peak_qpm", "seconds")
    return {"datasets": list(datasets.values()), "runs": [dict(zip(names, run)) for run in runs]}


def status_text(found: Dict[str, Any]) -> str:
    """``read_status`` for people."""
    counts = ("rows", "final", "provisional", "open", "failed", "missing")
    columns: Sequence[str] = ("site", "report", "search_type", "first", "last", *counts)
    datasets: List[Dict[str, Any]] = found["datasets"]
    if not datasets:
        text = "No days yet."
    else:
        text = table(columns, [[entry[name] for name in columns] for entry in datasets])
        if any(entry["missing"] or entry["open"] or entry["failed"] for entry in datasets):
            text += "\nOpen, failed and missing days are fetched by the next sync that covers them."
    if found["runs"]:
        columns = ("run_id", "started_at", "status", "days", "rows", "calls", "retries", "peak_qpm", "seconds")
        text += "\n\nLast runs\n" + table(columns, [[run[name] for name in columns] for run in found["runs"]])
    return text
