"""``python -m tests.chaos --seeds 0:1000``: many seeds, in subprocesses, with the command that repeats a failure."""

from __future__ import annotations

import argparse
import dataclasses
import faulthandler
import json
import os
import queue
import subprocess
import sys
import threading
from typing import List

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

#: Seeds one subprocess does, one after another.
CHUNK = 20

#: Seconds after which a subprocess prints all stacks and dies: something hangs that the runner's own watch misses.
DEADLINE = 300


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seeds", default="0:100", help="first:stop, or one seed")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--postgres", action="store_true", help="store into a Postgres that is restarted in between")
    parser.add_argument("--fail-fast", action="store_true")
    parser.add_argument("-v", "--verbose", action="store_true", help="run in this process, tell every round")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    first, _, stop = options.seeds.partition(":")
    seeds = list(range(int(first), int(stop or int(first) + 1)))
    if options.child or options.verbose:
        return _child(seeds, options.verbose, options.postgres)
    return _many(seeds, options.jobs, options.fail_fast, options.postgres)


def _child(seeds: List[int], verbose: bool, postgres: bool) -> int:
    from tests.postgres_server import own_server

    from .runner import run_seed

    server = own_server() if postgres else None
    failed = 0
    for seed in seeds:
        faulthandler.dump_traceback_later(DEADLINE, exit=True)
        report = run_seed(seed, server)
        faulthandler.cancel_dump_traceback_later()
        failed += not report.ok
        if verbose:
            print(report.scenario, *report.rounds, report, sep="\n")
        else:
            print(json.dumps({**dataclasses.asdict(report), "text": str(report)}), flush=True)
    return 1 if failed else 0


def _many(seeds: List[int], jobs: int, fail_fast: bool, postgres: bool) -> int:
    chunks: "queue.Queue[List[int]]" = queue.Queue()
    for start in range(0, len(seeds), CHUNK):
        chunks.put(seeds[start:start + CHUNK])
    lock, over = threading.Lock(), threading.Event()
    failed: List[int] = []
    figures = {"seeds": 0, "calls": 0, "faults": 0, "rounds": 0}
    halts: List[float] = []
    notes: List[str] = []

    def fail(seed: int, text: str) -> None:
        with lock:
            failed.append(seed)
            print(text, flush=True)
        if fail_fast:
            over.set()

    def work() -> None:
        while not over.is_set():
            try:
                todo = chunks.get_nowait()
            except queue.Empty:
                return
            command = [sys.executable, "-m", "tests.chaos", "--child", "--seeds", f"{todo[0]}:{todo[-1] + 1}"]
            command += ["--postgres"] * postgres
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            with subprocess.Popen(command, cwd=ROOT, **pipes) as child:
                errors: List[str] = []
                reader = threading.Thread(target=lambda: errors.append(child.stderr.read()))
                reader.start()
                for line in child.stdout:
                    report = json.loads(line)
                    todo.remove(report["seed"])
                    with lock:
                        figures["seeds"] += 1
                        figures["calls"] += report["calls"]
                        figures["faults"] += report["faults"]
                        figures["rounds"] += len(report["rounds"])
                        halts.extend(report["halts"])
                        notes.extend(f"seed {report['seed']}: {each}" for each in report["notes"])
                    if report["failures"]:
                        fail(report["seed"], report["text"])
                    if over.is_set():
                        child.kill()
                        break
                reader.join()
            if todo and not over.is_set():
                fail(todo[0], f"seed {todo[0]}: the process died (status {child.returncode}) or hung\n{errors[0]}"
                              f"  again: python -m tests.chaos --seeds {todo[0]} -v"
                              f"{' --postgres' * postgres}")
                if todo[1:]:
                    chunks.put(todo[1:])

    threads = [threading.Thread(target=work) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for note in notes:
        print("note:", note)
    longest = f", {len(halts)} halts, slowest {max(halts):.3f} s" if halts else ""
    print(f"{figures['seeds']} seeds, {figures['rounds']} runs, {figures['calls']} calls, {figures['faults']} faults"
          f"{longest}; failed: {sorted(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
