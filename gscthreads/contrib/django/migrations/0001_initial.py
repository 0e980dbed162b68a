"""The models in Django's books, and the store's own schema in the database.

Newer schemas need no migration: ``migrate`` asks the store each time (running.after_migrate).
"""

from typing import Any, Dict

from django.db import migrations, models

from ..conf import alias
from ..db import ensure_schema


def make_tables(apps: Any, schema_editor: Any) -> None:
    """Here too, so that a migration that depends on this one finds the views."""
    if schema_editor.connection.alias == alias():
        ensure_schema(schema_editor.connection.alias)


def view(name: str, table: str, *names: str, fields: Dict[str, Any]) -> migrations.CreateModel:
    options: Dict[str, Any] = {"abstract": False, "managed": False, "default_permissions": ("view",), "db_table": table}
    if names:
        options["verbose_name"], options["verbose_name_plural"] = names
    return migrations.CreateModel(name=name, fields=list(fields.items()), options=options)


def whole(**options: Any) -> Any:
    return models.BigIntegerField(**options)


def text(**options: Any) -> Any:
    return models.TextField(**options)


def real(**options: Any) -> Any:
    return models.FloatField(**options)


def short(length: int, **options: Any) -> Any:
    return models.CharField(max_length=length, **options)


def traffic() -> Dict[str, Any]:
    return {"clicks": whole(), "impressions": whole(), "ctr": real(null=True), "position": real(null=True)}


def fact() -> Dict[str, Any]:
    return {
        "id": short(80, primary_key=True, serialize=False), "day_id": whole(), "page_id": whole(),
        "rank": models.IntegerField(), "site": short(500), "search_type": short(40), "date": models.DateField(),
        **traffic(),
    }


class Migration(migrations.Migration):
    initial = True
    atomic = False  # a store in Postgres makes its tables on a connection of its own
    dependencies: Any = []
    operations = [
        view("Performance", "gsc_keyed_performance", "row", "performance", fields={
            **fact(), "report": short(100), "page": text(null=True), "query": text(null=True),
            "country": short(10, null=True), "device": short(20, null=True),
        }),
        view("PageDaily", "gsc_keyed_page_daily", "page on a day", "pages by day", fields={**fact(), "page": text()}),
        view("TopQuery", "gsc_keyed_top_queries", "top query", "top queries", fields={
            **fact(), "page": text(), "query": text(),
        }),
        view("PageLifetime", "gsc_keyed_page_lifetime", "page over its lifetime", "pages over their lifetime", fields={
            "id": short(60, primary_key=True, serialize=False), "dataset_id": whole(), "page_id": whole(),
            "site": short(500), "search_type": short(40), "page": text(), **traffic(),
            "first_seen": models.DateField(), "last_seen": models.DateField(), "days_seen": models.IntegerField(),
        }),
        view("Day", "gsc_keyed_days", fields={
            "id": whole(primary_key=True, serialize=False), "site": short(500), "report": short(100),
            "search_type": short(40), "date": models.DateField(), "status": short(20), "rows": whole(),
            "calls": models.IntegerField(), "published_at": models.DateTimeField(null=True), "error": text(null=True),
        }),
        view("Run", "gsc_keyed_runs", fields={
            "run_id": whole(primary_key=True, serialize=False), "started_at": models.DateTimeField(),
            "ended_at": models.DateTimeField(null=True), "status": short(20), "days": whole(), "rows": whole(),
            "calls": whole(), "retries": whole(), "peak_qpm": models.IntegerField(), "seconds": real(),
            "settings": text(), "uptime": real(), "restarts": models.IntegerField(), "faults": text(),
            "halt_seconds": real(null=True),
        }),
        migrations.RunPython(make_tables, migrations.RunPython.noop),
    ]
