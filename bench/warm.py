"""Before any clock starts: have the look-alike make up and encode every distinct answer, in each style asked for.

What gscthreads fetches on the way is kept: the floor writes those rows again and again.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Dict, List

from .task import REPORTS, Task
from .workloads import Workload


def dates(workload: Workload, last: dt.date) -> List[str]:
    """Days that between them have all the contents there are: four usual ones and every long one."""
    usual = [number for number in range(min(workload.days, 20)) if not workload.is_long(number)][:4]
    long = [number for number in range(workload.days) if workload.is_long(number)]
    return [(last - dt.timedelta(days=number)).isoformat() for number in (*usual, *long)]


def run(task: Task) -> Dict[str, Any]:
    """Fetch ``task.dates`` as gscthreads does, into the task's path, and as the script does."""
    import gscthreads

    days = [dt.date.fromisoformat(date) for date in task.dates]
    for day in days:
        result = gscthreads.sync(list(task.sites), store=f"sqlite:///{task.path}", credentials=task.credentials,
                                 start=day, end=day, api_root=task.url, rate_limit_enabled=False)
        if result.status != "complete":
            raise RuntimeError(f"warming up ended {result.status}: {result.reason}")
    try:
        from . import script
    except ImportError:
        return {}
    service = script.connect(task)
    for site in task.sites:
        for day in days:
            for report in REPORTS:
                for _ in script.answers(service, site, day.isoformat(), report):
                    pass
    return {}
