"""For the tests of projects that sync into their test database."""

from __future__ import annotations

import os
import re
from typing import Any

from django.db import transaction
from django.db.backends.base.creation import TEST_DATABASE_PREFIX

from ...errors import ConfigError
from . import conf, db

#: What a sync fills.  By name, since a project may have tables of its own that begin with ``gsc_``.
TABLES = (
    "gsc_lease", "gsc_park", "gsc_quota", "gsc_run", "gsc_lifetime", "gsc_stage", "gsc_fact", "gsc_slice", "gsc_day",
    "gsc_dataset", "gsc_page", "gsc_segment",
)


def erase(alias: str = "") -> None:
    """Forget every row, day and run in the database *alias* (default: that of the settings), for example in tearDown.

    TransactionTestCase empties the tables of managed models only, and ours are the store's.  ConfigError when the
    database is not a test database.
    """
    connection = db.connection_of(alias or conf.alias() or "default")
    if not _is_for_tests(connection):
        raise ConfigError(
            f"the database {connection.alias!r} ({connection.settings_dict['NAME']}) is not a test database, so nothing"
            " was erased: call erase() in a test that Django's test runner or pytest-django gave one"
        )
    present = set(connection.introspection.table_names())
    quoted = [connection.ops.quote_name(name) for name in TABLES if name in present]
    if not quoted:
        return
    with connection.constraint_checks_disabled(), transaction.atomic(using=connection.alias):
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute(f"TRUNCATE {', '.join(quoted)}")
            else:
                for name in quoted:
                    cursor.execute(f"DELETE FROM {name}")


def _is_for_tests(connection: Any) -> bool:
    """Whether a test runner has made this database: in memory, or of the name that DATABASES or Django gives them,
    with a worker's number behind it when tests run in parallel."""
    if connection.vendor == "sqlite" and connection.is_in_memory_db():
        return True
    name = str(connection.settings_dict["NAME"])
    given = str((connection.settings_dict.get("TEST") or {}).get("NAME") or "")
    if given:
        stem, ending = os.path.splitext(given) if connection.vendor == "sqlite" else (given, "")
        return re.fullmatch(rf"{re.escape(stem)}(_\d+)?{re.escape(ending)}", name) is not None
    return os.path.basename(name).startswith(TEST_DATABASE_PREFIX)
