"""Read-only models over what the views show.

Unmanaged: the store makes and changes its own tables and views (``migrate`` asks it to), and tests without migrations
don't make tables in their place.  Views have no key; these models read the ``gsc_keyed_*`` views, the same lines with
one.  They read the database that GSCTHREADS names, without a router.
"""

from __future__ import annotations

from typing import Any

from django.db import models
from django.utils import timezone

from . import conf
from .moments import MomentField


class ReadOnly(TypeError):
    """The rows are Google's."""


def _refuse(*args: Any, **options: Any) -> None:
    raise ReadOnly("gscthreads's rows can only be read; a sync writes them")


class _Lines(models.QuerySet):
    """Postgres itself would let some of the views be written through."""

    update = delete = bulk_create = bulk_update = _raw_delete = _refuse


class StoreManager(models.Manager.from_queryset(_Lines)):  # type: ignore[misc]
    """Reads the store's database unless told otherwise (``using``)."""

    def get_queryset(self) -> Any:
        found = super().get_queryset()
        return found if self._db else found.using(conf.alias())


class _View(models.Model):
    objects = StoreManager()

    class Meta:
        abstract = True
        managed = False
        default_permissions = ("view",)

    save = delete = _refuse


class _Traffic(models.Model):
    clicks = models.BigIntegerField()
    impressions = models.BigIntegerField()
    ctr = models.FloatField("CTR", null=True)
    position = models.FloatField(null=True)

    class Meta:
        abstract = True


class _Fact(_View):
    """A line of one day.  ``id`` is day, page and rank, joined by ``-``: see ``key_parts``."""

    id = models.CharField(primary_key=True, max_length=80)
    day_id = models.BigIntegerField()
    page_id = models.BigIntegerField()
    rank = models.IntegerField(help_text="1 is the page's best query of the day")
    site = models.CharField(max_length=500)
    search_type = models.CharField(max_length=40)
    date = models.DateField()

    key_parts = ("day_id", "page_id", "rank")

    class Meta(_View.Meta):
        abstract = True


class Performance(_Fact, _Traffic):
    """A row as Google served it; a dimension that its report lacks is None."""

    report = models.CharField(max_length=100)
    page = models.TextField(null=True)
    query = models.TextField(null=True)
    country = models.CharField(max_length=10, null=True)
    device = models.CharField(max_length=20, null=True)

    class Meta(_View.Meta):
        db_table = "gsc_keyed_performance"
        verbose_name = "row"
        verbose_name_plural = "performance"

    def __str__(self) -> str:
        return " · ".join(str(part) for part in (self.date, self.page, self.query, self.country, self.device) if part)


class PageDaily(_Fact, _Traffic):
    """A page on a day (report ``page``)."""

    page = models.TextField()

    class Meta(_View.Meta):
        db_table = "gsc_keyed_page_daily"
        verbose_name = "page on a day"
        verbose_name_plural = "pages by day"

    def __str__(self) -> str:
        return f"{self.date} · {self.page}"


class TopQuery(_Fact, _Traffic):
    """One of a page's best queries on a day (report ``page_query``)."""

    page = models.TextField()
    query = models.TextField()

    class Meta(_View.Meta):
        db_table = "gsc_keyed_top_queries"
        verbose_name = "top query"
        verbose_name_plural = "top queries"

    def __str__(self) -> str:
        return f"{self.date} · {self.page} · {self.rank}. {self.query}"


class PageLifetime(_View, _Traffic):
    """A page over all days held (report ``page``)."""

    id = models.CharField(primary_key=True, max_length=60)
    dataset_id = models.BigIntegerField()
    page_id = models.BigIntegerField()
    site = models.CharField(max_length=500)
    search_type = models.CharField(max_length=40)
    page = models.TextField()
    first_seen = models.DateField()
    last_seen = models.DateField()
    days_seen = models.IntegerField()

    key_parts = ("dataset_id", "page_id")

    class Meta(_View.Meta):
        db_table = "gsc_keyed_page_lifetime"
        verbose_name = "page over its lifetime"
        verbose_name_plural = "pages over their lifetime"

    def __str__(self) -> str:
        return str(self.page)


class Day(_View):
    """A day of a dataset: the ledger."""

    STATUSES = [(name, name) for name in ("open", "provisional", "final", "failed")]

    id = models.BigIntegerField(primary_key=True)
    site = models.CharField(max_length=500)
    report = models.CharField(max_length=100)
    search_type = models.CharField(max_length=40)
    date = models.DateField()
    status = models.CharField(max_length=20, choices=STATUSES)
    rows = models.BigIntegerField()
    calls = models.IntegerField()
    published_at = MomentField(null=True)
    error = models.TextField(null=True)

    class Meta(_View.Meta):
        db_table = "gsc_keyed_days"

    def __str__(self) -> str:
        return f"{self.date} · {self.site} · {self.report} · {self.search_type}"


class Run(_View):
    """A run of a sync."""

    STATUSES = [(name, name) for name in ("running", "complete", "failed", "halted", "parked", "killed")]

    run_id = models.BigIntegerField("run", primary_key=True)
    started_at = MomentField()
    ended_at = MomentField(null=True)
    status = models.CharField(max_length=20, choices=STATUSES)
    days = models.BigIntegerField()
    rows = models.BigIntegerField()
    calls = models.BigIntegerField()
    retries = models.BigIntegerField()
    peak_qpm = models.IntegerField("peak QPM", help_text="most calls to one site in any 60 seconds")
    seconds = models.FloatField()
    settings = models.TextField()
    uptime = models.FloatField(help_text="share of the workers' time not lost to crashes")
    restarts = models.IntegerField()
    faults = models.TextField(help_text="how often each class of error was met")
    halt_seconds = models.FloatField(null=True)

    class Meta(_View.Meta):
        db_table = "gsc_keyed_runs"

    def __str__(self) -> str:
        started = timezone.localtime(self.started_at) if timezone.is_aware(self.started_at) else self.started_at
        return f"run {self.run_id}, {started:%Y-%m-%d %H:%M}, {self.status}"
