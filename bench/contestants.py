"""Who competes, by name, and how one of them is run:  python -m bench.contestants NAME TASK  prints JSON.

Each run is a process of its own, so that peak memory, imports and interpreter state are its own too.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any, Dict, Optional

from .task import Task

#: What each one is.
CONTESTANTS = {
    "floor-many": "prepared tuples into the same table by executemany, nothing else",
    "floor-values": "prepared tuples into the same table by multi-row VALUES, nothing else",
    "script": "by hand: google-api-python-client, one call after another, executemany",
    "script-pool": "the same with ThreadPoolExecutor(8) and a lock around the database",
    "gscthreads-1x1": "gscthreads, max_concurrency=1, batch_size=1, standard library decoder",
    "gscthreads": "gscthreads, defaults, standard library decoder",
    "gscthreads-fast": "gscthreads, defaults, with the fast extra (msgspec)",
    "gscthreads-auto": "gscthreads, max_concurrency='auto', with the fast extra",
    "gscthreads-postgres": "gscthreads, defaults, standard library decoder, Postgres (GSCTHREADS_BENCH_POSTGRES_URL)",
}

POSTGRES = "GSCTHREADS_BENCH_POSTGRES_URL"

#: Further settings of SyncConfig.
SETTINGS: Dict[str, Dict[str, Any]] = {
    "gscthreads-1x1": {"max_concurrency": 1, "batch_size": 1},
    "gscthreads-auto": {"max_concurrency": "auto"},
}

#: Contestants that decode with the standard library even where msgspec is installed.
PLAIN = ("gscthreads-1x1", "gscthreads", "gscthreads-postgres")


def run(name: str, task: Task, *, settings: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
    """Run one contestant in a new process.  {"skipped": why} when it can't take part here.

    *settings*: further ones of SyncConfig for gscthreads; those that make a contestant what it is stay.
    """
    if name == "gscthreads-postgres":
        if not os.environ.get(POSTGRES):
            return {"skipped": f"{POSTGRES} is not set"}
        settings = {**(settings or {}), "store": os.environ[POSTGRES]}
    task = dataclasses.replace(task, settings={**(settings or {}), **SETTINGS.get(name, {})})
    command = [sys.executable, "-m", "bench.contestants", name]
    # by stdin: 300 site names are long, and a store URL may hold a password that a process list would show
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, input=task.dumps())
    if done.returncode:
        raise RuntimeError(f"{name} failed with exit status {done.returncode}")
    answer: Dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _here(name: str, task: Task) -> Dict[str, Any]:
    if name == "warm":
        from . import warm

        return warm.run(task)
    if name.startswith("floor"):
        from . import floor

        return floor.many(task) if name == "floor-many" else floor.values(task)
    if name.startswith("script"):
        try:
            from . import script
        except ImportError as problem:
            return {"skipped": f"{problem}; it comes with the extra 'test'"}
        return script.sequential(task) if name == "script" else script.pooled(task)
    if name in PLAIN:
        sys.modules["msgspec"] = None  # type: ignore[assignment]
    else:
        try:
            __import__("msgspec")
        except ImportError:
            return {"skipped": "msgspec is not installed; it is the extra 'fast'"}
    from . import ours

    try:
        if name == "gscthreads-postgres":
            ours.clear_postgres(task.settings["store"])
        return ours.run(task)
    except ours.Unavailable as problem:
        return {"skipped": str(problem)}


if __name__ == "__main__":
    print(json.dumps(_here(sys.argv[1], Task.loads(sys.stdin.read()))))
