"""Whole syncs in seeded chaos, each ended by a comparison of every view with the truth; in subprocesses, with the
command that repeats a failure.  Exit status 1 when any failed.
"""

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

EPILOG = """\
examples:
  python -m tests.chaos --seeds 0:1000               a thousand seeds in SQLite, about 15 minutes on two cores
  python -m tests.chaos --seeds 0:1000 --store postgres
      in a Postgres of our own, whose connections are cut and which is restarted in the middle of runs
  python -m tests.chaos --seeds 417 -v               one seed, in this process, with all that was drawn
  python -m tests.chaos --kills 200                  kill -9 at every boundary of a transaction, 200 times at random
      instants, in storms, and of two runs on one store; SQLite and Postgres (tests/chaos/test_kills.py)

At the end it prints how many seeds, runs, calls and faults there were, and of each of these how many seeds had any:
differences from the truth, acknowledged slices fetched again, hangs, threads or descriptors left behind, uptime of
99 % or less without a crash; all are failures.  A note is a run that gave up although later ones did not.
"""

#: What is counted of failures, and the words that tell them (tests/chaos/runner.py and checks.py).
KINDS = {
    "differences": ("instead of", "gsc_", "integrity_check", "rows left", "rows of days", "count as running"),
    "slices fetched again": ("again although", "delivered twice", "made calls"),
    "hangs": ("hang", "a halt took", "or hung"),
    "leaks": ("left behind",),
    "uptime": ("uptime",),
}

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

#: Seeds one subprocess does, one after another.
CHUNK = 20

#: Seconds after which a subprocess prints all stacks and dies: something hangs that the runner's own watch misses.
DEADLINE = 300


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__, epilog=EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0:100", metavar="A:B", help="from A to B - 1, or one seed (default 0:100)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="subprocesses at a time (default 2)")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite",
                        help="what to store into (default sqlite)")
    parser.add_argument("--postgres", action="store_const", const="postgres", dest="store", help=argparse.SUPPRESS)
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="instead of seeds, N kills and what belongs"
                        " to them; --store is both")
    parser.add_argument("--fail-fast", action="store_true", help="stop at the first failure")
    parser.add_argument("-v", "--verbose", action="store_true", help="run in this process, tell every round")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kills:
        command = [sys.executable, "-m", "pytest", "tests/chaos/test_kills.py", "-s", "-o", "timeout=0"]
        return subprocess.run(command, cwd=ROOT, env={**os.environ, "GSCTHREADS_KILLS": str(options.kills)}).returncode
    postgres = options.store == "postgres"
    first, _, stop = options.seeds.partition(":")
    seeds = list(range(int(first), int(stop or int(first) + 1)))
    if options.child or options.verbose:
        return _child(seeds, options.verbose, postgres)
    return _many(seeds, options.jobs, options.fail_fast, postgres)


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
    kinds = dict.fromkeys(KINDS, 0)
    uptimes: List[float] = [1.0]

    def fail(seed: int, text: str, failures: List[str]) -> None:
        with lock:
            failed.append(seed)
            for kind, words in KINDS.items():
                kinds[kind] += any(word in each for word in words for each in failures)
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
                        uptimes.append(report["uptime"])
                        notes.extend(f"seed {report['seed']}: {each}" for each in report["notes"])
                    if report["failures"]:
                        fail(report["seed"], report["text"], report["failures"])
                    if over.is_set():
                        child.kill()
                        break
                reader.join()
            if todo and not over.is_set():
                words = f"seed {todo[0]}: the process died (status {child.returncode}) or hung"
                again = f"  again: python -m tests.chaos --seeds {todo[0]} -v{' --postgres' * postgres}"
                fail(todo[0], f"{words}\n{errors[0]}{again}", [words])
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
          f"{longest}")
    print(f"{', '.join(f'{kind} {count}' for kind, count in kinds.items())}; lowest uptime {min(uptimes):.2%}; failed:"
          f" {sorted(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
