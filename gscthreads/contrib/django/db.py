"""The store that lives in a database of Django's, always on connections of its own.

Django's connections belong to a thread and to a request; a sync's coordinator thread opens its own, to the same place,
and closes it.  Where that place is, is asked of Django when the store is made: test databases are respected.
"""

from __future__ import annotations

import urllib.parse
from typing import Any, Callable, Mapping

from django.db import connections, transaction
from django.db.utils import ConnectionDoesNotExist

from ...errors import ConfigError
from ...stores import schema
from ...stores.base import Store
from ...stores.sqlite import SQLiteStore

#: Parameters of psycopg 3's connect, and of Django's backend, that mean nothing to psycopg2's.
_NOT_PSYCOPG2 = frozenset({
    "assume_role", "autocommit", "context", "cursor_factory", "isolation_level", "pool", "prepare_threshold",
    "row_factory", "server_side_binding",
})

_IN_MEMORY = (
    "the database {alias!r} is in memory, where only one connection sees it; a sync needs a file or Postgres."
    "  In tests give it one: DATABASES[{alias!r}]['TEST'] = {{'NAME': BASE_DIR / 'test.sqlite3'}}"
)


def connection_of(alias: str) -> Any:
    """Django's connection of this thread, for asking where the database is.  ConfigError for an unknown alias."""
    try:
        return connections[alias]
    except ConnectionDoesNotExist:
        known = ", ".join(sorted(connections))
        raise ConfigError(f"the database {alias!r} is none of DATABASES ({known})") from None


def store(alias: str) -> Store:
    """The store in the database *alias*, not opened yet."""
    connection = connection_of(alias)
    if connection.vendor == "sqlite":
        return SQLiteStore(_sqlite_path(alias, connection), shared=True)
    if connection.vendor == "postgresql":
        try:
            from ...stores.postgres import PostgresStore
            from ...stores.postgres_link import DEFAULTS
        except ImportError as error:
            raise ConfigError(f"a store in Postgres needs psycopg2, also beside psycopg 3 ({error}):"
                              " pip install psycopg2-binary") from error
        role = (connection.settings_dict.get("OPTIONS") or {}).get("assume_role") or ""  # from Django 4.2 on
        return PostgresStore(_connector(alias, DEFAULTS), role=str(role), label=f"the database {alias!r}")
    raise ConfigError(
        f"the database {alias!r} is {connection.display_name}; a store needs SQLite or Postgres."
        "  Name another alias as DATABASE, or give STORE a URL"
    )


def _sqlite_path(alias: str, connection: Any) -> str:
    name = str(connection.settings_dict["NAME"])
    if connection.is_in_memory_db() or ":memory:" in name or "mode=memory" in name:
        raise ConfigError(_IN_MEMORY.format(alias=alias))
    if name.startswith("file:"):  # a URI, as OPTIONS = {"uri": True} allows
        return urllib.parse.unquote(urllib.parse.urlsplit(name).path)
    return name


def _connector(alias: str, defaults: Mapping[str, Any]) -> Callable[[], Any]:
    """A function that makes a new psycopg2 connection to the database *alias*, in whatever thread calls it."""

    def connect() -> Any:
        wrapper = connections[alias].copy()  # the settings of now, nothing of the request's state
        parameters = {**defaults, **wrapper.get_connection_params()}
        if "psycopg2" in wrapper.Database.__name__:  # as Django makes it, but with psycopg2's own errors
            return wrapper.get_new_connection(parameters)
        import psycopg2

        return psycopg2.connect(**{name: value for name, value in parameters.items() if name not in _NOT_PSYCOPG2})

    return connect


def refuse_atomic(alias: str) -> None:
    """ConfigError when this thread is inside ``transaction.atomic`` on *alias*.

    A sync commits on a connection of its own: the transaction around it could not undo that, and on SQLite would make
    it wait for ever.
    """
    connection = connection_of(alias)
    if not connection.in_atomic_block:
        return
    if connection.settings_dict.get("ATOMIC_REQUESTS"):
        what = (
            "ATOMIC_REQUESTS puts every view inside one: decorate the view with"
            " @transaction.non_atomic_requests, or better run manage.py gsc_sync from cron or a task queue"
        )
    else:
        what = "call it outside the atomic block, for example from manage.py gsc_sync"
    raise ConfigError(
        f"a sync can't start inside transaction.atomic on the database {alias!r}: it commits on connections of its own."
        f"  {what[0].upper()}{what[1:]}; in tests use TransactionTestCase"
    )


def ensure_schema(alias: str) -> None:
    """Make the store's tables in the database *alias*, or bring them up to date; nothing to do is fine.

    On SQLite through Django's connection: it may be in a transaction, or the only one that sees a database in memory,
    and the journal mode of a file is left as it is until a sync writes to it.
    """
    connection = connection_of(alias)
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA application_id")
            if cursor.fetchone()[0] != schema.APPLICATION_ID:  # else a file that the command line made
                _upgrade(alias, cursor)
                return
    if connection.vendor in ("sqlite", "postgresql"):
        own = store(alias)
        try:
            own.open()
        finally:
            own.close()


def _upgrade(alias: str, cursor: Any) -> None:
    cursor.execute("SELECT count(*) FROM sqlite_master WHERE name = 'gsc_meta'")
    version = 0
    if cursor.fetchone()[0]:
        cursor.execute("SELECT coalesce(max(version), 0) FROM gsc_meta")
        version = cursor.fetchone()[0]
    for script in schema.upgrades(version, shared=True):
        with transaction.atomic(using=alias):
            for statement in schema.statements(script):
                cursor.execute(statement)
