"""``manage.py gsc_sync``."""

from __future__ import annotations

import json
import logging
from typing import Any, Dict, List, Optional

from .....errors import ConfigError, GscError
from .....figures import Result
from .....progress import Progress
from ...commands import StoreCommand
from ...running import make_sync, sync_config

_EXITS = """Exit status: 0 every day asked for is published; 1 at least one dataset failed, the others went on; 2 bad
usage or configuration, nothing was done; 3 halted or parked, the same command goes on where this one stopped."""


class Command(StoreCommand):
    help = ("Copies Search Console's search traffic into the database, whole days only; run it every night."
            "  What is not given is as settings.GSCTHREADS says.  " + _EXITS)

    def add_arguments(self, parser: Any) -> None:
        from .....cli import sync_options

        known = set(parser._actions)
        sync_options(parser)
        self.adopt(parser, [action for action in parser._actions if action not in known])

    def work(self, options: Dict[str, Any]) -> None:
        quiet = options["quiet"] or options["verbosity"] == 0
        given, as_json = self.given(options), options["json"]
        if options["dry_run"]:
            from .....estimate import estimate
            from .....pacific import today

            found = estimate(sync_config(given), today())
            self.stdout.write(json.dumps(found.as_dict()) if as_json else found.text())
            return
        if self.from_command_line and options["verbosity"] > 1:
            _log_to_stderr(logging.INFO if options["verbosity"] == 2 else logging.DEBUG)
        run = make_sync(given)
        if self.from_command_line:
            from .....signals import halt_on_signals

            halt_on_signals(run.halt)
        error: Optional[GscError] = None
        with run:
            run.start()
            try:
                with Progress(run, quiet=quiet or not self.from_command_line):
                    run.wait()
            except GscError as caught:
                error = caught
        if run.result is not None:
            if as_json:
                self.stdout.write(json.dumps(run.result.as_dict()))
            elif error is None and not quiet:
                from .....summary import result_text

                self.stdout.write(result_text(run.result))
        if error is not None:
            raise self.failure(error, 2 if isinstance(error, ConfigError) else 1) from error
        if run.result is not None and run.result.exit_status:
            raise self.failure(_reasons(run.result), run.result.exit_status)


def _reasons(result: Result) -> str:
    """Why not every day is there, a line for each error."""
    lines: Dict[str, List[str]] = {}
    for each in result.datasets:
        if each.error:
            lines.setdefault(f"{each.site}: {each.error}", []).append(f"{each.report} {each.search_type}")
    told = [f"{line} ({', '.join(names)})" for line, names in lines.items()]
    return "\n".join(told) or f"{result.status}: {result.reason}"


def _log_to_stderr(level: int) -> None:
    """For ``--verbosity 2`` and more: what a project's LOGGING does not show already."""
    logger = logging.getLogger(__name__.partition(".contrib.")[0])
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level)
