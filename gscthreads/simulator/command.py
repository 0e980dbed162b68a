"""The command ``simulate``: the look-alike as a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import threading
from typing import Any, Dict, List, Optional, Tuple

from .faults import FAULTS, GROUPS, members
from .library import PERMISSIONS, Site
from .options import DEFAULTS, INT_STYLES, SAMPLES
from .simulator import Simulator

DESCRIPTION = """\
Serve a local look-alike of Google's Search Console API on 127.0.0.1: the same addresses, answers, batches,
errors, quotas and tokens, over made-up but deterministic data.  No account, no network, no cost.  Prints one
line with the address and a command to copy from it, then serves until Ctrl-C.
"""

EPILOG = """\
examples:
  simulate --port 8085 --write-credentials fake.json
      one small site; then: gscthreads sync --api-root http://127.0.0.1:8085 --credentials fake.json ...
  simulate --site sc-domain:a.com --site https://b.com/shop/ --rows-per-day 30000
      two sites whose days take two slices each
  simulate --latency 0.08 --latency-per-row 0.000105 --burst-qps 10
      about as slow, and as touchy, as the real thing
  simulate --fault transient=0.05 --fault hang=0.001 --seed 7
      every twentieth thing goes wrong in a way that trying again cures, and some answers never come
  simulate --fault daily_403=0.01 --fault api_disabled_403=0.01 --retry-after 30
      refusals that trying again does not cure: a day's quota is gone, the API is off in the Cloud project
  simulate --list-faults
      everything that can go wrong on purpose, with the status and shape of each

while it runs: GET /_sim/stats and /_sim/log show what was asked; POST /_sim/faults {"http_503": 0.1},
/_sim/options {"latency": 1}, /_sim/revoke and /_sim/release change it.
"""

#: Options with a flag each: name -> (metavar, help).  Switches (bools) have None as metavar.
FLAGS: Dict[str, Tuple[Optional[str], str]] = {
    "seed": ("N", "everything made up follows from this number"),
    "latency": ("SECONDS", "time every query takes"),
    "latency_per_row": ("SECONDS", "further time per row served"),
    "latency_jitter": ("SECONDS", "up to this much more, at random"),
    "lanes": ("N", "queries of one HTTP batch worked on at once"),
    "cap": ("ROWS", "most rows per day and search type; the tail is cut off silently"),
    "query_only_cap": ("ROWS", "most rows when grouped by query but not by page; 'none' switches it off"),
    "boundary_duplicates": (None, "later slices begin with the last row of the slice before"),
    "snake_metadata": (None, "spell metadata keys first_incomplete_date"),
    "shuffle_parts": (None, "answer the parts of a batch in another order"),
    "site_qpm": ("N", "queries a minute for one site; 'none' for no limit (so for all limits)"),
    "user_qpm": ("N", "queries a minute for one user"),
    "project_qpm": ("N", "queries a minute for the project"),
    "burst_qps": ("N", "queries a second for one site (Google has such a limit, but does not publish it)"),
    "cloud_qpm": ("N", "limit of the Cloud console, a minute; beyond it 429"),
    "load_10min": ("UNITS", "load in 10 minutes; a day costs 1, by page or query 10, by both 30"),
    "load_day": ("UNITS", "load in 24 hours"),
    "retry_after": ("SECONDS", "send Retry-After with quota refusals and 503s; any text is sent as it is"),
    "token_lifetime": ("SECONDS", "how long access tokens are valid"),
    "distinct_days": ("N", "days repeat with this period, which makes long runs cheap"),
    "freshness": ("DAYS", "age of the youngest day whose data is final"),
    "retention_months": ("N", "months of history; 'none' for no end"),
    "cache_bytes": ("N", "memory for encoded answers"),
    "slow_seconds": ("SECONDS", "what the fault 'slow' adds"),
    "drip_interval": ("SECONDS", "pause of the fault 'drip' after each byte"),
    "huge_bytes": ("N", "size of the faults 'huge' and 'gzip_bomb'"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the simulator's options."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--port", type=int, default=0, metavar="N", help="port on 127.0.0.1 (default: any free one)")
    parser.add_argument("--write-credentials", metavar="FILE",
                        help="write an authorized_user JSON (mode 0600) that works with this server only")
    sites = parser.add_argument_group("sites and their data")
    sites.add_argument("--site", action="append", metavar="NAME", dest="sites",
                       help="sc-domain:NAME or a URL prefix; repeatable (default: sc-domain:example.com)")
    sites.add_argument("--rows-per-day", type=int, default=2_000, metavar="N",
                       help="distinct (page, query) rows of a day (default: %(default)s)")
    sites.add_argument("--pages", type=int, default=300, metavar="N", help="URLs of a site (default: %(default)s)")
    sites.add_argument("--permission", choices=PERMISSIONS, default="siteOwner", help="permission level on the sites")
    sites.add_argument("--anonymised", type=float, default=0.3, metavar="SHARE",
                       help="share of clicks whose query is kept secret (default: %(default)s)")
    sites.add_argument("--nasty", action="store_true",
                       help="sprinkle in URLs and queries that break careless code: tabs, quotes, emoji, 2,000 letters")
    behaviour = parser.add_argument_group("behaviour")
    for name, (metavar, text) in FLAGS.items():
        flag = "--" + name.replace("_", "-")
        if metavar is None:
            behaviour.add_argument(flag, action="store_true", help=text)
        else:
            shown = "none" if DEFAULTS[name] is None else DEFAULTS[name]
            behaviour.add_argument(flag, type=_reader(name), default=DEFAULTS[name], metavar=metavar,
                                   help=f"{text} (default: {shown})")
    behaviour.add_argument("--shuffle-ties", nargs="?", const="table", default=False, choices=("table", "slice"),
                           help="rows of equal clicks come in another order at every call")
    behaviour.add_argument("--int-style", choices=INT_STYLES, default="12", help="how whole numbers are written")
    for name, text in (("quota", "enforce the limits"), ("require_auth", "refuse calls without a valid token"),
                       ("refused_calls_count", "let refused calls use quota too")):
        flag = name.replace("_", "-")
        choice = behaviour.add_mutually_exclusive_group()
        choice.add_argument(f"--{flag}", action="store_true", default=True, dest=name, help=f"{text} (default)")
        choice.add_argument(f"--no-{flag}", action="store_false", dest=name, help=argparse.SUPPRESS
                            if name != "quota" else "count calls but refuse none")
    trouble = parser.add_argument_group("trouble")
    trouble.add_argument("--fault", action="append", type=_fault, default=[], metavar="NAME=P", dest="faults",
                         help=f"let a fault, or one of a group ({', '.join(GROUPS)}), happen with probability P;"
                              " repeatable")
    trouble.add_argument("--list-faults", action="store_true", help="describe every fault and stop")


def _reader(name: str) -> Any:
    """A function that reads an option's value from the command line."""
    kind = type(SAMPLES[name])

    def read(text: str) -> Any:
        if text.lower() == "none":
            return None
        if name == "retry_after" and not text.isdecimal():
            return text
        return kind(text.replace("_", "").replace(",", "")) if kind is int else kind(text)

    read.__name__ = "number"
    return read


def _fault(text: str) -> Tuple[str, float]:
    name, equals, chance = text.partition("=")
    try:
        members(name)
        probability = float(chance) if equals else 1.0
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None
    if not 0 <= probability <= 1:
        raise argparse.ArgumentTypeError(f"{text}: a probability is from 0 to 1")
    return name, probability


def fault_list() -> str:
    """A description of every fault and group, one a line."""
    lines = ["Faults, by what they hit (query: one query, alone or in a batch; part, batch: batch answers;",
             "http: a whole HTTP request; token: a token request):", ""]
    lines += [f"  {fault.name:<20} {fault.scope:<6} {fault.description}" for fault in FAULTS.values()]
    lines += ["", "Groups (--fault GROUP=P shares P out among the members):", ""]
    lines += [f"  {name:<20} {', '.join(names)}" for name, names in GROUPS.items()]
    return "\n".join(lines)


def build(args: argparse.Namespace) -> Simulator:
    """The simulator the arguments describe; raises ValueError if a value is not allowed."""
    switches = ("quota", "require_auth", "refused_calls_count", "shuffle_ties", "int_style")
    options = {name: getattr(args, name) for name in [*FLAGS, *switches]}
    sites: List[Site] = [
        Site(name, permission=args.permission, rows_per_day=args.rows_per_day, pages=args.pages, nasty=args.nasty,
             anonymised=args.anonymised) for name in args.sites or ["sc-domain:example.com"]]
    simulator = Simulator(sites, args.port, **options)
    for name, probability in args.faults:
        simulator.faults.set(name, probability)
    return simulator


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit status."""
    if args.list_faults:
        print(fault_list())
        return 0
    try:
        simulator = build(args)
        simulator.start()
    except (ValueError, OSError, OverflowError) as problem:
        print(f"simulate: {problem}", file=sys.stderr)
        return 2
    stopped = threading.Event()
    try:
        previous = {number: signal.signal(number, lambda *_: stopped.set())
                    for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            if args.write_credentials:
                write_private(args.write_credentials, simulator.credentials())
            print(f"{simulator.url}  try: {sync_command(simulator.url, args)}", flush=True)
            while not stopped.wait(1.0):  # in pieces, so that Windows sees Ctrl-C
                pass
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    except OSError as problem:
        print(f"simulate: {problem}", file=sys.stderr)
        return 2
    finally:
        simulator.stop()
    return 0


def sync_command(url: str, args: argparse.Namespace) -> str:
    """A command that copies from this server, ready to be pasted into a shell."""
    words = ["gscthreads", "sync", "--site", (args.sites or ["sc-domain:example.com"])[0], "--start", "-10d",
             "--end", "yesterday", "--store", "sqlite:///simulated.db", "--api-root", url]
    text = " ".join(map(shlex.quote, words))
    if args.write_credentials:
        return f"{text} --credentials {shlex.quote(os.path.abspath(args.write_credentials))}"
    return f"{text} --credentials FILE  (simulate --write-credentials FILE makes one)"


def write_private(path: str, value: Dict[str, str]) -> None:
    """Write JSON to a file only its owner may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        if hasattr(os, "fchmod"):
            os.fchmod(file.fileno(), 0o600)  # the file may have been there before, open to all
        json.dump(value, file, indent=2)
        file.write("\n")
