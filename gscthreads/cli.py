"""The command line.  The only place for signals, exit statuses and logging set-up."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import logging
import os
import re
import sys
from typing import Any, Dict, List, NoReturn, Optional, Sequence

from . import pacific
from ._version import __version__
from .config import AUTO, GOOGLE, SyncConfig
from .errors import ConfigError, CredentialsError, GscError
from .figures import Result
from .halt import Halt, Halted
from .progress import Progress
from .signals import halt_on_signals
from .sync import Sync

_EXITS = """exit status:
  0  every day asked for is published
  1  at least one dataset failed (the others went on), or the store or the credentials can't be used
  2  bad usage or configuration; nothing was done
  3  halted or parked; the same command goes on where this one stopped
"""

_SYNC = """Copy search traffic into your database, day by day, whole days only.

Run it every night: finished days cost no call, young days are fetched again until Google calls them final, and holes
are filled wherever they are.  Ctrl-C, kill and power cuts are fine: nothing acknowledged is lost or fetched again.

example:
  {prog} --site sc-domain:example.com --start 16m --store sqlite:///search.db --credentials credentials.json
"""


_VERIFY = """Hold a copy against itself, and against Google.

Without credentials no call is made: rows are counted and summed against the ledger, totals computed anew, missing and
unfinished days listed.  With credentials random pages are compared with fresh answers (a call each), and the clicks of
rows with queries with the site's (a call for each site and search type): the difference is what Google leaves out.
A site whose load quota is spent, or that Google refuses, is not asked; what was found without it is told all the same.

example:
  {prog} --store sqlite:///search.db --credentials credentials.json --repair
"""

_VERIFY_EXITS = """exit status:
  0  all is well, or was repaired
  1  something is wrong
  2  bad usage or configuration
  3  halted, or Google could not be asked and nothing else is wrong
"""


class _Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: Optional[Sequence[str]] = None, *, prog: Optional[str] = None) -> int:
    """Run one command; its exit status."""
    parser = _parser(prog or _prog())
    args = parser.parse_args(with_relative_dates(sys.argv[1:] if argv is None else argv))
    if not getattr(args, "command", None):
        parser.print_help()
        return 2
    _set_up_logging(args)
    try:
        return int(args.run(args))
    except (ConfigError, CredentialsError) as error:
        return _fail(args, error, 2)
    except GscError as error:
        return _fail(args, error, 1)
    except BrokenPipeError:  # the reader of our output went away (| head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 3


def with_relative_dates(words: Sequence[str]) -> List[str]:
    """``--start -30d`` as ``--start=-30d``: argparse takes what begins with a dash for an option."""
    joined: List[str] = []
    for word in words:
        if joined and joined[-1] in ("--start", "--end") and re.fullmatch(r"-\d+[dm]", word):
            joined[-1] += "=" + word
        else:
            joined.append(word)
    return joined


def _prog() -> str:
    """How this copy is called: the installed script, or ``python -m`` whatever the package is named."""
    script = os.path.basename(sys.argv[0])
    return script if script.startswith("gscthreads") else f"python -m {__package__}"


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = _Parser(prog=prog, description="Copy Google Search Console search traffic into your own database.")
    parser.add_argument("--version", action="version", version=f"gscthreads {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    def command(name: str, run: Any, text: str, **more: Any) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **{"description": text[0].upper() + text[1:] + ".", **more},
        )
        made.set_defaults(run=run, prog=made.prog)
        made.add_argument("-v", "--verbose", action="count", default=0, help="log more to stderr; twice for every call")
        return made

    sync_options(
        command("sync", _sync, "copy search traffic into a database", epilog=_EXITS,
                description=_SYNC.format(prog=f"{prog} sync"))
    )
    status = command("status", _status, "show what a database holds, and what is missing")
    _store_option(status)
    status.add_argument("--site", action="append", help="only this site (repeatable)")
    status.add_argument("--json", action="store_true", help="print one JSON object instead")
    verify_options(
        command("verify", _verify, "prove that a copy is right, and repair it", description=_VERIFY.format(
            prog=f"{prog} verify"), epilog=_VERIFY_EXITS)
    )
    sites = command("sites", _sites, "list the sites that the credentials can read")
    _api_options(sites)
    sites.add_argument("--json", action="store_true", help="print one JSON object instead")
    if importlib.util.find_spec(f"{__package__}.simulator"):  # a vendored copy may do without it
        from .demo import add_arguments as add_demo_arguments
        from .simulator.command import add_arguments

        add_arguments(command("simulate", _simulate, "serve a local look-alike of Google's API"))
        add_demo_arguments(command("demo", _demo, "simulate, sync and show the result; needs no account"))
    return parser


def _environment(parser: argparse.ArgumentParser, flag: str, variable: str, text: str, *, required: bool) -> None:
    value = os.environ.get(variable) or None
    parser.add_argument(flag, default=value, required=required and value is None, help=f"{text} [${variable}]")


def _store_option(parser: argparse.ArgumentParser) -> None:
    _environment(parser, "--store", "GSCTHREADS_STORE",
                 "where the data lives: sqlite:///search.db or postgresql://user:password@host/database", required=True)


def _api_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    text = "authorized_user or service_account JSON file"
    _environment(parser, "--credentials", "GSCTHREADS_CREDENTIALS", text, required=required)
    _environment(parser, "--api-root", "GSCTHREADS_API_ROOT", f"where the API is (default {GOOGLE})", required=False)
    parser.add_argument("--ca-bundle", metavar="FILE", help="CA certificates to trust")


def sync_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``sync``: one for each setting that text can give."""
    parser.add_argument("--site", action="append", required=True, metavar="SITE", dest="sites",
                        help="sc-domain:example.com or https://www.example.com/ (repeatable)")
    days = "YYYY-MM-DD, yesterday, -30d (days ago) or 16m (months ago), Pacific dates"
    parser.add_argument("--start", default="16m", help=f"first day: {days} (default 16m, all that Google has)")
    parser.add_argument("--end", default="yesterday", help="last day, included (default yesterday)")
    _store_option(parser)
    _api_options(parser)
    parser.add_argument("--report", action="append", dest="reports", metavar="NAME|DIM,DIM",
                        help="page, page_query, or dimensions (repeatable; default page and page_query)")
    parser.add_argument("--search-type", action="append", dest="search_types", metavar="TYPE",
                        help="web, image, video, news, discover, googleNews (repeatable; default web)")
    parser.add_argument("--dry-run", action="store_true",
                        help="make no call: print the days owed, the calls and the minutes they will take")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line of stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress, no summary")
    tuning = parser.add_argument_group("tuning")
    for field in dataclasses.fields(SyncConfig):
        rules = field.metadata
        flag = "--" + field.name.replace("_", "-")
        if "low" in rules:
            kind: Any = int if type(field.default) is int and field.name != "qpm_limit" else float
            if rules.get("auto"):
                kind = _int_or_auto
            text = f"{rules['help']} (default {field.default:g})"
            tuning.add_argument(flag, type=kind, metavar="N", default=field.default, help=text)
        elif "choices" in rules:
            tuning.add_argument(flag, choices=rules["choices"], default=field.default, help=rules["help"])
        elif rules.get("switch") and not field.default:
            tuning.add_argument(flag, action="store_true", help=rules["help"])


def verify_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``verify``."""
    _store_option(parser)
    _api_options(parser, required=False)
    parser.add_argument("--site", action="append", dest="sites", help="only this site (repeatable)")
    parser.add_argument("--pages", type=int, default=100, metavar="N",
                        help="random pages to compare with Google, a call each (default 100)")
    parser.add_argument("--repair", action="store_true",
                        help="mend what is wrong, and fetch just the days that are (with credentials)")
    parser.add_argument("--qpm-limit", type=float, default=1200, metavar="N",
                        help="Google's calls per minute and site (default 1200)")
    last = "for a repair (default: as the dataset's last sync)"
    parser.add_argument("--data-state", choices=("final", "all"), help=f"what to ask for, {last}")
    parser.add_argument("--final-after-days", type=int, metavar="N", help=f"younger days are provisional, {last}")
    parser.add_argument("--empty-final-after-days", type=int, metavar="N",
                        help=f"the same for days without rows, {last}")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def _int_or_auto(text: str) -> Any:
    return text if text == AUTO else int(text)


def _config(args: argparse.Namespace) -> SyncConfig:
    values: Dict[str, Any] = {}
    for field in dataclasses.fields(SyncConfig):
        value = getattr(args, field.name, None)
        if value is not None:
            values[field.name] = value
    return SyncConfig(**values)


def _sync(args: argparse.Namespace) -> int:
    config = _config(args)
    if args.dry_run:
        from .estimate import estimate

        found = estimate(config, pacific.today())
        print(json.dumps(found.as_dict()) if args.json else found.text())
        return 0
    run = Sync(config)
    halt_on_signals(run.halt)
    error: Optional[GscError] = None
    with run:
        run.start()
        try:
            with Progress(run, quiet=args.quiet):
                run.wait()
        except GscError as caught:
            error = caught
    result = run.result
    if result is not None:
        _report(result, error, args)
    if error is not None:
        print(f"{_prog()} sync: error: {error}", file=sys.stderr)
    if isinstance(error, ConfigError):
        return 2
    return 1 if error is not None or result is None else result.exit_status


def _report(result: Result, error: Optional[GscError], args: argparse.Namespace) -> None:
    """Failures on stderr, a line each; the summary, or the JSON object, on stdout."""
    if error is None:
        lines: Dict[str, List[str]] = {}
        for each in result.datasets:
            if each.error:
                lines.setdefault(f"{each.site}: {each.error}", []).append(f"{each.report} {each.search_type}")
        for line, names in lines.items():
            print(f"{_prog()} sync: {line} ({', '.join(names)})", file=sys.stderr)
        if not lines and result.reason:
            print(f"{_prog()} sync: {result.status}: {result.reason}", file=sys.stderr)
    if error is None and not args.quiet and not args.json:
        from .summary import result_text

        print(result_text(result))
    if args.json:
        print(json.dumps(result.as_dict()))


def _status(args: argparse.Namespace) -> int:
    from .summary import read_status, status_text

    found = read_status(args.store, sites=args.site)
    print(json.dumps(found) if args.json else status_text(found))
    return 0


def _verify(args: argparse.Namespace) -> int:
    from .summary import verification_text
    from .verify import verify

    halt = Halt()
    given = ("api_root", "data_state", "final_after_days", "empty_final_after_days")
    settings = {name: getattr(args, name) for name in given if getattr(args, name) is not None}
    halt_on_signals(halt.set)
    try:
        found = verify(
            args.store, sites=args.sites, credentials=args.credentials, pages=args.pages, mend=args.repair, halt=halt,
            announce=lambda words: print(words, file=sys.stderr), ca_bundle=args.ca_bundle, qpm_limit=args.qpm_limit,
            **settings,
        )
    except Halted:
        print(f"{_prog()} verify: halted: {halt.reason}", file=sys.stderr)
        return 3
    print(json.dumps(found.as_dict()) if args.json else verification_text(found))
    return found.exit_status


def _sites(args: argparse.Namespace) -> int:
    from .sync import list_sites

    entries = list_sites(args.credentials, api_root=args.api_root or GOOGLE, ca_bundle=args.ca_bundle)
    if args.json:
        print(json.dumps({"sites": [{"site": site, "permission": permission} for site, permission in entries]}))
    elif not entries:
        print("The account has no sites.  Add its e-mail address as a user in Search Console.")
    for site, permission in [] if args.json else entries:
        note = "  (not verified: its data can't be read)" if permission == "siteUnverifiedUser" else ""
        print(f"{permission:<22} {site}{note}")
    return 0


def _simulate(args: argparse.Namespace) -> int:
    from .simulator.command import run

    return run(args)


def _demo(args: argparse.Namespace) -> int:
    from .demo import run

    return run(args)


def _set_up_logging(args: argparse.Namespace) -> None:
    level = {0: logging.CRITICAL, 1: logging.INFO}.get(args.verbose, logging.DEBUG)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger(__package__)
    logger.addHandler(handler)
    logger.setLevel(level)


def _fail(args: argparse.Namespace, error: Exception, status: int) -> int:
    print(f"{_prog()} {args.command}: error: {error}", file=sys.stderr)
    return status
