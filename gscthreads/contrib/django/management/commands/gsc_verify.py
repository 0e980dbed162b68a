"""``manage.py gsc_verify``: the command line's ``verify``, on the store that the settings name."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any, Dict, Optional

from ...commands import StoreCommand
from ...running import make_store


class Command(StoreCommand):
    help = "Holds what the database has of Search Console against itself."

    def add_arguments(self, parser: Any) -> None:
        command = _command()
        if command is None:
            return
        actions = [action for action in command._actions if action.dest not in ("help", "verbose", "store")]
        for action in actions:
            parser._add_action(action)
        store = parser.add_argument("--store", metavar="URL", help="look there instead: sqlite:////var/lib/search.db")
        self.adopt(parser, [store])

    def work(self, options: Dict[str, Any]) -> None:
        command = _command()
        if command is None:
            raise self.failure("this gscthreads has no verify", 2)
        arguments = argparse.Namespace(**{**options, "command": "verify", "verbose": 0,
                                          "store": make_store(self.given(options))})
        with contextlib.redirect_stdout(self.stdout):
            status = int(command.get_default("run")(arguments))
        if status:
            raise self.failure("the database is not as it was written; see above", status)


def _command() -> Optional[argparse.ArgumentParser]:
    """The command line's parser of ``verify``."""
    from .....cli import command_parser

    return command_parser("verify")
