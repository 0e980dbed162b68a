"""gscthreads as a Django app (docs/django.md): settings, management commands, read-only models and admin pages.

    INSTALLED_APPS = [..., "gscthreads.contrib.django"]
    GSCTHREADS = {"SITES": ["sc-domain:example.com"], "CREDENTIALS": "/etc/gsc.json", "DATABASE": "default"}

Then ``manage.py gsc_sync``, or from code

    from gscthreads.contrib.django import sync
    result = sync(start="-30d")

Importing this starts nothing, asks no database and reads no setting.
"""

from __future__ import annotations

from typing import Any, Dict

import django

from ...figures import Result
from ...sync import Sync

__all__ = ["make_sync", "sync", "task_settings"]

if django.VERSION < (3, 2):  # newer ones find the only AppConfig by themselves, and warn of this
    default_app_config = __name__ + ".apps.GscthreadsConfig"


def sync(**overrides: Any) -> Result:
    """Sync as settings.GSCTHREADS says; *overrides* are its keys in lower case (``sites``, ``start``, ``database``).

    Blocks until the run is over.  A dataset that fails is told in the result; ConfigError (also inside
    ``transaction.atomic``), CredentialsError and StoreError are raised.
    """
    return make_sync(**overrides).run()


def make_sync(**overrides: Any) -> Sync:
    """The same as a ``Sync`` that is not started yet: to start, watch, halt and wait for."""
    from . import running  # not at import: settings may not be ready

    return running.make_sync(overrides)


def task_settings() -> Dict[str, Any]:
    """What ``gscthreads.contrib.celery`` wants as the Celery application's setting ``gscthreads``."""
    from . import running

    found = running.keywords({})
    return {name: value for name, value in found.items() if name not in ("start", "end")}  # each task's own
