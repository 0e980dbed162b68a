"""What people read at the end of a sync, and in ``status``."""

from __future__ import annotations

import datetime as dt
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from .figures import COMPLETE, Result
from .stores import open_store
from .stores.base import Store
from .verify import Verification


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
    pace = f" ({result.rows / result.seconds:,.0f} rows/s)" if result.rows and result.seconds else ""
    if result.status == COMPLETE and not result.calls and not result.days:
        pace = " (nothing to do)"
    return (
        table(("site", "report", "type", "status", "days", "rows", "calls"), rows)
        + f"\n{result.status}: {result.days:,} days, {result.rows:,} rows in {result.seconds:,.1f} s{pace}; "
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


def verification_text(found: Verification) -> str:
    """What ``verify`` found, for people: a table, then a line for everything that is wrong or worth knowing."""
    if not found.findings and not found.strays:
        return "No days yet: nothing to verify."
    header = ("site", "report", "search_type", "days", "rows", "first", "last", "missing", "unfinished", "wrong",
              "at ceiling", "clicks explained", "pages checked")
    rows = []
    lines = []
    for each in found.findings:
        dataset = each.dataset
        explained = None if each.explained is None else f"{100 * each.explained:.1f} %"
        rows.append([
            dataset.site, dataset.report.name, dataset.search_type, each.days, each.rows, each.first, each.last,
            len(each.missing), len(each.unfinished), len({flaw.date for flaw in each.flaws + each.different}),
            len(each.ceiling), explained, each.checked or None,
        ])
        if each.held:
            lines.append(f"{dataset} is {each.held}: days that are not there yet don't count as wrong")
        for words, dates in (
            ("missing", each.missing), ("begun, but not whole", each.unfinished),
            ("not there, and older than what Google still has", each.gone),
            ("near Google's ceiling of 50,000 rows, so that some may be missing there", each.ceiling),
        ):
            if dates:
                lines.append(f"{dataset}: {_dates(dates)} {words}")
        for flaw in each.flaws + each.different:
            lines.append(f"{dataset}: {f'{flaw.date} ' if flaw.date else ''}{_cell(flaw.words, 200)}")
        if each.least_explained is not None:
            date, part = each.least_explained
            lines.append(f"{dataset}: the rows explain least of the site's clicks on {date}: {100 * part:.1f} %")
        if each.more:
            lines.append(f"{dataset}: for a page alone Google shows {each.more} more rows than for its whole day")
    lines += [f"{count} {words} of days that are not in the ledger" for words, count in found.strays.items()]
    lines += [f"{site}: Google was not asked: {_cell(why, 300)}" for site, why in found.unasked.items()]
    text = table(header, rows) + "".join(f"\n{line}" for line in lines)
    return f"{text}\n{_verdict(found)}"


def _verdict(found: Verification) -> str:
    done = found.repair
    if done is None:
        if found.wrong:
            return "Something is wrong.  --repair mends it, and fetches only the days that are wrong."
        return f"{'What could be compared is right' if found.unasked else 'All is well'} ({found.calls} calls)."
    text = f"Mended {done.mended} flaws, fetched {done.fetched} days again"
    if done.status:
        text += f" ({done.calls} calls, {done.status}{': ' if done.reason else ''}{_cell(done.reason, 300)})"
    if done.gone:
        text += f"; {done.gone} wrong days are older than what Google still has, and stay as they are"
    if done.left:
        text += f"; {done.left} days are left to the next sync that covers them"
    return text + "."


def _dates(dates: Sequence[dt.date]) -> str:
    shown = ", ".join(map(str, dates[:5]))
    return f"{shown} and {len(dates) - 5} more days are" if len(dates) > 5 else shown + (
        " is" if len(dates) == 1 else " are")


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
