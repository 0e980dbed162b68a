"""Processes to be killed: ``Zygote`` forks one sync after another from a process that has imported everything.

A fork costs milliseconds where a new interpreter costs half a second, and the process it is forked from has no
threads.  Run as a module this is that process: it reads orders, one JSON line each, and answers how the child ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

import gscthreads
from gscthreads.stores import open_store

from . import seams

#: Where a process may die: around each step of a transaction.
BOUNDARIES = frozenset(
    f"store.{name}.{when}" for name in ("open", "begin", "stage", "publish", "commit")
    for when in ("before", "after")
)


class Ended(NamedTuple):
    """How a child ended.  ``status``: that of the run, None when it was killed.  ``passed``: boundaries it passed."""

    status: Optional[str]
    passed: List[str]


class Zygote:
    """A process that forks children on order.  Use as a context manager."""

    def __enter__(self) -> "Zygote":
        package = __package__ or "chaos"
        folder = Path(__file__).resolve().parents[len(package.split("."))]
        root = Path(__file__).resolve().parents[2]
        paths = os.pathsep.join([str(root), str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{package}.child"], cwd=root, env={**os.environ, "PYTHONPATH": paths}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        return self

    def __exit__(self, *exc: object) -> None:
        with self._process:
            self._process.stdin.close()

    def sync(self, settings: Dict[str, Any], *, limit: int, die_at: int = 0, die_in: str = "",
             die_after: float = 0.0) -> Ended:
        """One run, killed at boundary number *die_at* (1 is the first), when first at point *die_in*, or after
        *die_after* seconds."""
        order = {"settings": settings, "limit": limit, "die_at": die_at, "die_in": die_in, "die_after": die_after}
        self._process.stdin.write(json.dumps(order, default=str) + "\n")
        self._process.stdin.flush()
        return Ended(*json.loads(self._process.stdout.readline()))


class _Killer:
    """Stands in for ``Seams``: tells each boundary passed, and at one of them kills the process."""

    def __init__(self, die_at: int, die_in: str, out: int) -> None:
        self._die_at = die_at
        self._die_in = die_in
        self._out = out
        self._count = 0

    def hit(self, point: str) -> None:
        if point in BOUNDARIES:
            self._count += 1
            os.write(self._out, point.encode() + b"\n")
        if point == self._die_in or point in BOUNDARIES and self._count == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)


def _run(order: Dict[str, Any], out: int) -> None:
    settings = dict(order["settings"])
    inner = open_store(settings.pop("store"))
    store: Any = seams.SeamStore(inner, _Killer(order["die_at"], order["die_in"], out))  # type: ignore[arg-type]
    with seams.slices_of(order["limit"]):
        result = gscthreads.Sync(gscthreads.SyncConfig(store=store, **settings)).run()
    os.write(out, f"status {result.status}\n".encode())


def _fork(order: Dict[str, Any]) -> Ended:
    source, out = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.close(source)
            _run(order, out)
            code = 0
        finally:
            os._exit(code)
    os.close(out)
    if order["die_after"]:
        time.sleep(order["die_after"])  # the random instant itself; nobody waits for anything
        os.kill(pid, signal.SIGKILL)
    with open(source, encoding="ascii") as file:
        lines = file.read().split("\n")[:-1]
    _, ended = os.waitpid(pid, 0)
    if os.WIFEXITED(ended) and os.WEXITSTATUS(ended):
        raise RuntimeError("the child failed, see its traceback")
    status = lines.pop()[7:] if lines and lines[-1].startswith("status ") else None
    return Ended(status, lines)


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(_fork(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
