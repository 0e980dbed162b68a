"""For the tests of projects that sync into their test database."""

from __future__ import annotations

from django.db import transaction

from . import conf, db


def erase(alias: str = "") -> None:
    """Forget every row, day and run in the database *alias* (default: that of the settings), for example in tearDown.

    TransactionTestCase empties the tables of managed models only, and ours are the store's.
    """
    connection = db.connection_of(alias or conf.alias() or "default")
    tables = [name for name in connection.introspection.table_names() if name.startswith("gsc_") and name != "gsc_meta"]
    quoted = [connection.ops.quote_name(name) for name in tables]
    with connection.constraint_checks_disabled(), transaction.atomic(using=connection.alias):
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute(f"TRUNCATE {', '.join(quoted)}")
            else:
                for name in quoted:
                    cursor.execute(f"DELETE FROM {name}")
