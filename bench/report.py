"""The tables, as plain text."""

from __future__ import annotations

import importlib
import os
import platform
import sqlite3
import subprocess
from typing import Any, Callable, Dict, Sequence

from .targets import Measured, Target, rate, scaled, targets
from .workloads import SEQUENTIAL


def machine() -> Dict[str, Any]:
    """What it ran on, and how busy that was."""
    found: Dict[str, Any] = {
        "cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version, "load": [round(load, 2) for load in os.getloadavg()]}
    for module in ("msgspec", "googleapiclient", "requests"):
        try:
            found[module] = getattr(importlib.import_module(module), "__version__", "installed")
        except ImportError:
            found[module] = None
    try:
        found["commit"] = subprocess.run(["git", "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE,
                                         stderr=subprocess.DEVNULL, text=True).stdout.strip()
    except OSError:
        found["commit"] = ""
    return found


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns as wide as they need to be; the first *left* flush left."""
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) if place < left else cell.rjust(width)
                         for place, (cell, width) in enumerate(zip(cells, widths))).rstrip()

    return "\n".join([line(head), line(["-" * width for width in widths]), *map(line, rows)])


def results(workload: str, text: str, medians: Sequence[Dict[str, Any]]) -> str:
    """One workload's table; columns in which there is nothing to say are left out."""
    measured = Measured(medians)
    floor, script = measured.floor(workload), measured.get(workload, "script")
    columns: Dict[str, Callable[[Dict[str, Any]], str]] = {
        "contestant": lambda line: str(line["contestant"]),
        "days": lambda line: f"{line['days']:.0f}",
        "wall s": lambda line: f"{line['wall']:.1f}",
        "scaled s": lambda line: f"{scaled(line):.1f}" if line["days"] < line["days_of_workload"]
        and line["contestant"] in SEQUENTIAL else "",
        "rows/s": lambda line: f"{rate(line):,.0f}",
        "CPU s": lambda line: f"{line['cpu']:.1f}",
        "server CPU": lambda line: f"{line['server_cpu']:.1f}",
        "RSS MB": lambda line: f"{line['rss']:.0f}" if line["rss"] else "",
        "calls": _calls,
        "a request": lambda line: f"{line['calls'] / line['http_requests']:.1f}" if line["http_requests"] > 0 else "",
        "at once": lambda line: f"{line['server_seconds'] / line['wall']:.1f}" if line["server_seconds"] else "",
        "time/floor": lambda line: f"{rate(floor) / rate(line):.2f}" if floor else "",
        "CPU/floor": lambda line: f"{line['cpu'] / floor['cpu']:.2f}" if floor else "",
        "rate/script": lambda line: f"{rate(line) / rate(script):.2f}" if script else "",
        "durable ms": lambda line: "/".join(f"{wait:.0f}" for wait in line.get("waits") or () if wait),
    }
    cells = {name: [show(line) for line in measured.all(workload)] for name, show in columns.items()}
    cells = {name: column for name, column in cells.items() if any(column)}
    return f"{workload}: {text}\n\n{table(list(cells), list(zip(*cells.values())))}"


def _calls(line: Dict[str, Any]) -> str:
    if line["contestant"].startswith("floor"):
        return ""
    text = f"{line['calls']:.0f}"
    if line["calls"] != line["calls_expected"]:
        text += f" (for {line['calls_expected']:.0f})"
    return text + (f", {line['refused']:.0f} refused" if line["refused"] else "")


NOTES = """\
Medians.  scaled s: wall time carried over from the days done to those of the workload; the sequential contestants of
rollout do fewer days, and rates are of what was done.  server CPU: the look-alike's, on the same machine.  a request:
calls in one HTTP request, on average; at once: slices the server had in work, on average.  time/floor: time a row to
that of floor-many; CPU/floor: the same of CPU time, which other work on the machine disturbs less.  rate/script:
rows/s to those of the script.  durable ms: from a slice's answer being complete to its acknowledgement, median/99th
percentile."""


def verdicts(found: Sequence[Target]) -> str:
    """The table of targets."""
    words = {True: "met", False: "MISSED", None: "-"}
    return table(["what", "target", "measured", ""], [[each.what, each.target, each.measured, words[each.met]]
                                                      for each in found], left=4)


def render(data: Dict[str, Any]) -> str:
    """Everything a run measured, as it is kept by --json."""
    texts = [", ".join(f"{name} {value}" for name, value in data["machine"].items())
             + f", load at the end {data['load_at_the_end']}"]
    if data["options"].get("settings"):
        texts.append(f"with settings {data['options']['settings']}")
    texts += [results(name, text, data["medians"]) for name, text in data["workloads"].items()
              if any(line["workload"] == name for line in data["medians"])]
    texts += [NOTES] if data["medians"] else []
    told = [f"{name}: skipped, {why}" for name, why in data["skipped"].items()]
    told += [f"FAILED: {what}" for what in data["failed"]]
    texts += ["\n".join(told)] if told else []
    found = targets(data["medians"], data["micro"])
    if data["options"]["only"]:
        found = [each for each in found if each.met is not None]
    return "\n\n".join([*texts, verdicts(found), f"{data['seconds']:.0f} s in all"])
