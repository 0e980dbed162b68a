"""python -m bench: every workload, every contestant, side by side; a table of medians, ratios and targets.

The look-alike and each contestant are processes of their own.  Contestants take turns, round after round, since on a
shared machine only figures of one run side by side can be compared.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
from typing import Any, Dict

from . import contestants, micro, report
from .suite import Suite, say
from .targets import targets
from .workloads import WORKLOADS

MICRO = "micro"


def main() -> int:
    """Measure and print; 0 whether targets are met or not, 1 when a contestant broke down."""
    options = _parse()
    if options.list:
        print("workloads:\n" + "\n".join(f"  {each.name:<20} {each.text}" for each in WORKLOADS))
        print(f"  {MICRO:<20} what the rate-limit check takes, bytes a stored row\n")
        print("contestants:\n" + "\n".join(f"  {name:<20} {text}" for name, text in contestants.CONTESTANTS.items()))
        return 0
    if options.show:
        with open(options.show, encoding="utf-8") as file:
            print(report.render(json.load(file)))
        return 0
    data = _measure(options)
    print(report.render(data))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
    return 1 if data["failed"] else 0


def _measure(options: argparse.Namespace) -> Dict[str, Any]:
    chosen = [each.scaled(days=options.days, quick=options.quick) for each in WORKLOADS
              if not options.only or each.name in options.only]
    began = time.time()
    data: Dict[str, Any] = {"machine": report.machine(), "options": vars(options), "micro": {},
                            "workloads": {each.name: each.text for each in chosen}}
    if not options.only or MICRO in options.only:
        say("micro: rate-limit check, bytes a row")
        data["micro"] = {"rate_limit": micro.rate_limit(), "bytes_per_row": micro.bytes_per_row()}
    run = functools.partial(contestants.run, settings=options.settings)
    with Suite(options.repeat or (1 if options.quick else 3), options.contestant, run) as suite:
        try:
            for workload in chosen:
                suite.work(workload)
        except KeyboardInterrupt:
            say("interrupted: these are the figures so far")
    found = suite.medians()
    return {**data, "runs": suite.runs, "medians": found, "skipped": suite.skipped, "failed": suite.failed,
            "targets": [each._asdict() for each in targets(found, data["micro"])], "seconds": time.time() - began,
            "load_at_the_end": [round(each, 2) for each in os.getloadavg()]}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=0, metavar="N", help="rounds (default 3, with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="a small version of everything, about two minutes")
    parser.add_argument("--days", type=int, default=0, metavar="N", help="days of rollout and bare (default 180)")
    parser.add_argument("--only", action="append", default=[], choices=[*(each.name for each in WORKLOADS), MICRO],
                        help="this workload; repeatable")
    parser.add_argument("--contestant", action="append", default=[], choices=list(contestants.CONTESTANTS),
                        help="this contestant; repeatable")
    parser.add_argument("--settings", type=json.loads, default={}, metavar="JSON",
                        help="further SyncConfig settings for gscthreads, to try them: '{\"max_open_days\": 100}'")
    parser.add_argument("--json", metavar="FILE", help="write everything measured to FILE")
    parser.add_argument("--show", metavar="FILE", help="print the tables of a FILE that --json wrote, and stop")
    parser.add_argument("--list", action="store_true", help="name workloads and contestants and stop")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
