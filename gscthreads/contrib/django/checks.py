"""System checks: settings that can't work are told by ``manage.py check``, each with what to do."""

from __future__ import annotations

import importlib.util
import os
from typing import Any, Iterator, List, Mapping

from django.conf import settings
from django.core import checks
from django.db import connections

from . import conf


def register() -> None:
    """Called when the app is ready."""
    checks.register(check_settings, "gscthreads")


def check_settings(app_configs: Any, **rest: Any) -> List[checks.CheckMessage]:
    """Reads the settings, and nothing else."""
    if not hasattr(settings, "GSCTHREADS"):
        return [checks.Warning("GSCTHREADS is not set.", id="gscthreads.W001", hint=(
            "Set GSCTHREADS = {'SITES': ['sc-domain:example.com'], 'CREDENTIALS': 'credentials.json'} (docs/django.md),"
            " or take the app out of INSTALLED_APPS."))]
    found: List[checks.CheckMessage] = [
        checks.Error(problem.words, hint=problem.hint, id=f"gscthreads.E{problem.number:03}")
        for problem in conf.problems()
    ]
    if not found:
        found += _check_presence(conf.read())
    alias = conf.alias()
    if alias is not None:
        found += _check_database(alias)
    return found


def _check_presence(given: Mapping[str, Any]) -> Iterator[checks.CheckMessage]:
    """No more than warnings: commands and code may give them each time."""
    if given.get("sites") is None:
        yield checks.Warning("GSCTHREADS names no SITES: gsc_sync needs --site each time.", id="gscthreads.W003",
                             hint="Set GSCTHREADS['SITES'] = ['sc-domain:example.com'].")
    if given.get("credentials") is None and not os.environ.get("GSCTHREADS_CREDENTIALS"):
        yield checks.Warning(
            "GSCTHREADS names no CREDENTIALS: gsc_sync needs --credentials each time.", id="gscthreads.W004",
            hint="Set GSCTHREADS['CREDENTIALS'] to the path of a JSON file (docs/django.md), or"
                 " $GSCTHREADS_CREDENTIALS.",
        )


def _check_database(alias: str) -> Iterator[checks.CheckMessage]:
    if alias not in connections:
        known = ", ".join(sorted(connections))
        yield checks.Error(f"GSCTHREADS['DATABASE'] is {alias!r}, which is none of DATABASES.",
                           hint=f"Known are {known}.", id="gscthreads.E005")
        return
    connection = connections[alias]
    name = str(connection.settings_dict.get("NAME") or "")
    if connection.vendor == "sqlite":
        if name == ":memory:":  # not Django's own name for a test database in memory: most tests never sync
            yield checks.Warning(f"The database {alias!r} is in memory: gsc_sync can't work with it.",
                                 hint="Give it a file as NAME.", id="gscthreads.W002")
    elif connection.vendor != "postgresql":
        yield checks.Error(
            f"GSCTHREADS keeps its data in the database {alias!r}, which is {connection.display_name}.",
            hint="Name an alias of a SQLite or Postgres database as DATABASE, or give STORE a URL such as"
                 " sqlite:////var/lib/search.db.",
            id="gscthreads.E006",
        )
    elif importlib.util.find_spec("psycopg2") is None:
        yield checks.Error("gscthreads can't reach Postgres without psycopg2 (Django itself uses psycopg 3 here).",
                           hint="pip install psycopg2-binary", id="gscthreads.E007")
