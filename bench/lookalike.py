"""The look-alike in a process of its own, so that it doesn't share the contestants' interpreter lock."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import subprocess
import sys
import urllib.request
from types import TracebackType
from typing import Any, Dict, List, Optional, Type

from .meter import cpu_of
from .workloads import Workload


class Lookalike:
    """``gscthreads simulate`` with the data of one workload; use it in a ``with``."""

    def __init__(self, workload: Workload, folder: str, last: dt.date) -> None:
        self.workload = workload
        self.credentials = os.path.join(folder, f"{workload.name}-credentials.json")
        self._last = last
        command = [sys.executable, "-m", "gscthreads", "simulate", "--no-quota", "--write-credentials",
                   self.credentials, *workload.flags()]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        found = re.search(r"http://\S+", self._process.stdout.readline())
        if found is None:
            self.stop()
            raise RuntimeError("the look-alike did not start")
        self.url = found.group(0)

    def __enter__(self) -> "Lookalike":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()

    def spell_long_days(self) -> None:
        """Give the long days their rows: those of a usual day and further queries of the same pages."""
        workload = self.workload
        if not workload.long_rows:
            return
        site = workload.sites_named()[0]
        path = f"truth?site={site}&dimensions=page,query&search_type=web&date={self._last.isoformat()}"
        rows: List[List[Any]] = []
        for keys, clicks, impressions, _, position in self._control(path)["rows"]:
            rows.append([*keys, "usa", "MOBILE", clicks, impressions, position])
        more = [[page, f"{query} again", *rest] for page, query, *rest in rows]
        rows += more[len(rows) - workload.long_rows:]  # the tail: a long day is long by what is rarely searched
        for number in range(workload.days):
            if workload.is_long(number):
                date = (self._last - dt.timedelta(days=number)).isoformat()
                self._control("put_day", {"site": site, "search_type": "web", "date": date, "rows": rows})

    def pace(self, workload: Workload) -> None:
        """As slow and as strict as the workload says."""
        self._control("options", {"latency": workload.latency, "latency_per_row": workload.per_row, "lanes": 4,
                                  "quota": workload.quota})

    def stats(self) -> Dict[str, Any]:
        """What it has served so far."""
        return {**self._control("stats"), "cpu": cpu_of(self._process.pid)}

    def _control(self, path: str, value: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
        data = None if value is None else json.dumps(value).encode("utf-8")
        with urllib.request.urlopen(f"{self.url}/_sim/{path}", data) as response:
            answer: Dict[str, Any] = json.load(response)
        return answer
