"""The tables, as plain text."""

from __future__ import annotations

import importlib
import os
import platform
import sqlite3
import subprocess
from typing import Any, Dict, List, Sequence

from .targets import Measured, Target, rate, scaled
from .workloads import Workload


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


def results(workload: Workload, medians: Sequence[Dict[str, Any]]) -> str:
    """One workload's table."""
    measured = Measured(medians)
    lines = measured.all(workload.name)
    floor, script = measured.floor(workload.name), measured.get(workload.name, "script")
    rows: List[List[str]] = []
    for line in lines:
        waits = line.get("waits")
        rows.append([
            line["contestant"], f"{line['days']:.0f}", f"{line['wall']:.1f}",
            f"{scaled(line):.1f}" if line["days"] != line["days_of_workload"] and not workload.steps else "",
            f"{rate(line):,.0f}", f"{line['cpu']:.1f}", f"{line['server_cpu']:.1f}",
            f"{line['rss']:.0f}" if line["rss"] else "", _calls(line),
            f"{rate(floor) / rate(line):.2f}" if floor else "", f"{line['cpu'] / floor['cpu']:.2f}" if floor else "",
            f"{rate(line) / rate(script):.2f}" if script else "",
            f"{waits[0]:.0f}/{waits[1]:.0f}" if waits and waits[1] else ""])
    head = ["contestant", "days", "wall s", "scaled s", "rows/s", "CPU s", "server CPU", "RSS MB", "calls",
            "time/floor", "CPU/floor", "rate/script", "durable ms"]
    return f"{workload.name}: {workload.text}\n\n{table(head, rows)}"


def _calls(line: Dict[str, Any]) -> str:
    if line["contestant"].startswith("floor"):
        return ""
    text = f"{line['calls']:.0f}"
    if line["calls"] != line["calls_expected"]:
        text += f" (for {line['calls_expected']:.0f})"
    return text + (f", {line['refused']:.0f} refused" if line["refused"] else "")


NOTES = """\
Medians.  scaled s: wall time carried over from the days done to those of the workload; the sequential contestants of
rollout do fewer days, and rates are of what was done.  server CPU: the look-alike's, on the same machine.  time/floor:
time a row to that of the faster floor; CPU/floor: the same of CPU time, which other work on the machine disturbs less.
rate/script: rows/s to those of the script.  durable ms: from a slice's answer being complete to its acknowledgement,
median/99th percentile."""


def verdicts(found: Sequence[Target]) -> str:
    """The table of targets."""
    words = {True: "met", False: "MISSED", None: "-"}
    return table(["what", "target", "measured", ""], [[each.what, each.target, each.measured, words[each.met]]
                                                      for each in found], left=4)
