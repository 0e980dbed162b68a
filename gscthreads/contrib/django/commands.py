"""What the management commands share: the command line's own options, with the settings behind them."""

from __future__ import annotations

import argparse
import re
from typing import Any, Dict, List, Optional, Sequence

import django
from django.core.management.base import BaseCommand, CommandError

from ...errors import ConfigError, CredentialsError, GscError
from . import conf

#: Options of these names stand in for settings.
_SETTINGS = {key.lower() for key in conf.KEYS}


class StoreCommand(BaseCommand):
    """A command on the store.  An option that is not given is as the settings say."""

    #: The process's exit status when ``run_from_argv`` ends by a CommandError (Django 3.1 has its own way).
    _status: Optional[int] = None
    #: Whether this is ``manage.py``, whose signals and terminal are ours, or ``call_command``.
    from_command_line = False

    def adopt(self, parser: argparse.ArgumentParser, actions: Sequence[argparse.Action]) -> None:
        """Make those of *actions* (in *parser*) that stand for settings optional: what is absent is as they say."""
        for action in actions:
            if action.dest not in _SETTINGS:
                continue
            action.required = False
            action.default = argparse.SUPPRESS
            if isinstance(action.help, str):
                action.help = re.sub(r" \[\$\w+\]$", "", action.help)
        parser.add_argument("--database", default=argparse.SUPPRESS, metavar="ALIAS",
                            help="the database that holds the data (default: as GSCTHREADS says)")

    def given(self, options: Dict[str, Any]) -> Dict[str, Any]:
        """The options that replace settings."""
        return {name: value for name, value in options.items() if name in _SETTINGS and value is not None}

    def run_from_argv(self, argv: List[str]) -> None:
        self.from_command_line = True
        from ...cli import with_relative_dates

        try:
            super().run_from_argv([*argv[:2], *with_relative_dates(argv[2:])])
        except SystemExit as exit:
            if self._status is not None:
                exit.code = self._status
            raise

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self.work(options)
        except (ConfigError, CredentialsError) as error:
            raise self.failure(error, 2) from error
        except GscError as error:
            raise self.failure(error, 1) from error

    def work(self, options: Dict[str, Any]) -> None:
        """What the command does."""
        raise NotImplementedError

    def failure(self, reason: object, status: int) -> CommandError:
        """The error to raise; the process then ends with *status*."""
        self._status = status
        if django.VERSION < (3, 1):
            return CommandError(str(reason))
        return CommandError(str(reason), returncode=status)
