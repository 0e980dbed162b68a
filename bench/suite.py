"""Runs workloads: one look-alike, the contestants in turn, several rounds; and keeps what was measured."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import statistics
import sys
import tempfile
import time
from types import TracebackType
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Type

from gscthreads import pacific

from . import contestants, warm
from .lookalike import Lookalike
from .task import Task
from .workloads import Workload, last_day

Run = Dict[str, Any]


def say(text: str) -> None:
    """Progress, on stderr: the table goes to stdout."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Suite:
    """Runs workloads one after another; use it in a ``with``, which ends the look-alike.

    ``only``: contestants that take part, empty for all.
    """

    def __init__(self, repeat: int, only: Sequence[str] = (), run: Callable[..., Run] = contestants.run) -> None:
        self.runs: List[Run] = []
        self.skipped: Dict[str, str] = {}
        self.failed: List[str] = []
        self._repeat = repeat
        self._only = only
        self._run = run
        self._last = last_day(pacific.today())
        self._held = contextlib.ExitStack()
        self._folder = self._held.enter_context(tempfile.TemporaryDirectory(prefix="gscthreads-bench-"))
        self._server: Optional[Lookalike] = None
        self._serving: Tuple[Any, ...] = ()
        self._stopping = contextlib.ExitStack()

    def __enter__(self) -> "Suite":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self._stopping.close()
        self._held.close()

    def work(self, workload: Workload) -> None:
        """Every contestant, in turn, round after round."""
        names = [name for name in workload.contestants if not self._only or name in self._only]
        if not names:
            return
        rounds = self._repeat if workload.repeats else 1
        for number in range(rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:  # each once first, each once after each other
                if name in self.skipped:
                    continue
                server = self._serve(workload)
                server.pace(workload)
                try:
                    self._steps(server, workload, name, number)
                except RuntimeError as problem:  # a contestant's trouble, told in full on stderr, is not the suite's
                    say(f"{workload.name}: {problem}")
                    self.failed.append(f"{workload.name}: {problem}")

    def _serve(self, workload: Workload) -> Lookalike:
        """A server with this workload's data: the present one, when it has them."""
        data = (workload.days, workload.rows, workload.long_rows, workload.pages, workload.sites, workload.warm)
        if self._server is not None and self._serving == data and workload.warm:
            return self._server
        self._stopping.close()
        say(f"{workload.name}: starting the look-alike" + (" and warming it up" if workload.warm else ""))
        self._server = self._stopping.enter_context(Lookalike(workload, self._folder, self._last))
        self._serving = data
        if workload.warm:
            self._server.spell_long_days()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._prepared)
            self._run("warm", Task(self._server.url, self._server.credentials, workload.sites_named(), self._last,
                                   self._last, self._prepared, dates=warm.dates(workload, self._last)))
        return self._server

    @property
    def _prepared(self) -> str:
        return os.path.join(self._folder, "prepared.db")

    def _steps(self, server: Lookalike, workload: Workload, name: str, number: int) -> None:
        """One contestant: one sync, or several of the same store that reach back further and further."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            path = os.path.join(folder, "search.db")
            done = 0
            for days in workload.steps or (workload.days_of(name),):
                start = self._last - dt.timedelta(days=days - 1)
                task = Task(server.url, server.credentials, workload.sites_named(), start, self._last, path,
                            quota=workload.quota, search_types=workload.search_types, prepared=self._prepared)
                before = server.stats()
                run = self._run(name, task)
                if "skipped" in run:
                    say(f"{name}: skipped, {run['skipped']}")
                    self.skipped[name] = run["skipped"]
                    return
                after = server.stats()
                most = max([0, *after["max_60s"]["site"].values(), *after["max_60s"]["user"].values()])
                run.update(
                    workload=workload.name, contestant=name, round=number, days=days, days_added=days - done,
                    days_of_workload=workload.days, calls=after["calls"] - before["calls"],
                    http_requests=after["http_requests"] - before["http_requests"] - 1,  # less the first stats
                    refused=sum(after["refusals"].values()) - sum(before["refusals"].values()),
                    calls_expected=workload.calls(days) - workload.calls(done), server_cpu=after["cpu"] - before["cpu"],
                    server_seconds=workload.server_seconds(days), max_60s=most, load=os.getloadavg()[0])
                done = days
                self.runs.append(run)
                label = f"{workload.name} {number + 1}: {name}" + (f" to {days} days" if workload.steps else "")
                say(f"{label:<40} {run['wall']:7.1f} s  {run['rows'] / run['wall']:9,.0f} rows/s")

    def medians(self) -> List[Run]:
        """One line a workload, contestant and number of days: the median of each figure over the rounds."""
        groups: Dict[Tuple[str, str, int], List[Run]] = {}
        for run in self.runs:
            groups.setdefault((run["workload"], run["contestant"], run["days"]), []).append(run)
        lines = []
        for runs in groups.values():
            line = dict(runs[0], rounds=len(runs))
            for name, value in runs[0].items():
                if isinstance(value, (int, float)) and name not in ("days", "round"):
                    line[name] = statistics.median(run[name] for run in runs)
                elif name == "waits":
                    line[name] = [statistics.median(run[name][place] for run in runs) for place in (0, 1)]
            line["wall_all"] = [run["wall"] for run in runs]
            lines.append(line)
        return lines
