"""Moments of the store as Django expects to find them in the database."""

from __future__ import annotations

from typing import Any, Tuple

import django
from django.conf import settings
from django.db import models
from django.db.models.expressions import Col
from django.utils.functional import cached_property


class _MomentColumn(Col):
    """What SQLite holds as text in UTC, in the time zone that Django takes such text to be in.

    That is UTC as a rule; but with USE_TZ = False it is the project's own, and DATABASES may name another one.  Done in
    SQL, it holds for whatever is asked of the column: filters, parts of dates, order, the admin's date hierarchy.
    """

    def as_sqlite(self, compiler: Any, connection: Any) -> Tuple[str, Any]:
        sql, values = self.as_sql(compiler, connection)
        zone = connection.timezone_name
        if zone == "UTC":
            return sql, values
        if not settings.USE_TZ:  # Django has made TIME_ZONE the process's own
            return f"datetime({sql}, 'localtime')", values
        zones = [zone, "UTC"] if django.VERSION >= (3, 0) else [zone]  # from (implied before) and to
        return f"django_datetime_trunc('second', {sql}, {', '.join(['%s'] * len(zones))})", [*values, *zones]


class MomentField(models.DateTimeField):
    """A DateTimeField whose column is read by ``_MomentColumn``."""

    def get_col(self, alias: str, output_field: Any = None) -> Any:
        return _MomentColumn(alias, self, output_field)

    @cached_property
    def cached_col(self) -> Any:
        return _MomentColumn(self.model._meta.db_table, self)

    def deconstruct(self) -> Any:
        """To migrations it is a DateTimeField, wherever this package was copied to."""
        name, _, args, options = super().deconstruct()
        return name, "django.db.models.DateTimeField", args, options
