"""Admin pages to look at the data: nothing can be added, changed or deleted, and nothing needs a pass over all rows.

Millions of rows stay quick because the pages never ask them what the ledger (Day) knows: which sites, reports and dates
there are, which day is the newest, how many rows a day has.  Counts end at ``MOST_ROWS``; without a date chosen, lists
of daily rows show the newest day.
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional, Tuple

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import Max, Sum
from django.urls import NoReverseMatch, reverse
from django.utils import formats
from django.utils.functional import cached_property
from django.utils.html import format_html

from . import conf
from .models import Day, PageDaily, PageLifetime, Performance, Run, TopQuery

#: Rows a list leads to.  Who wants more narrows it down, or uses SQL.
MOST_ROWS = 10_000

#: Days that are named one by one in a query; SQLite before 3.32 takes no more than 999 values.
_MOST_DAYS = 900

_PUBLISHED = ("provisional", "final")


class BoundedPaginator(Paginator):
    """Counts no further than ``MOST_ROWS``."""

    @cached_property
    def count(self) -> int:
        return int(self.object_list.order_by()[:MOST_ROWS].count())


# -- filters whose choices come from the ledger


class _LedgerFilter(admin.SimpleListFilter):
    """Choices without a look at the rows; not shown when there is but one."""

    def lookups(self, request: Any, model_admin: Any) -> List[Tuple[str, str]]:
        name = self.parameter_name
        found = Day.objects.order_by(name).values_list(name, flat=True).distinct()
        return [(value, value) for value in found]

    def queryset(self, request: Any, queryset: Any) -> Any:
        return queryset.filter(**{self.parameter_name: self.value()}) if self.value() else queryset


class SiteFilter(_LedgerFilter):
    title = parameter_name = "site"


class ReportFilter(_LedgerFilter):
    title = parameter_name = "report"


class SearchTypeFilter(_LedgerFilter):
    title, parameter_name = "search type", "search_type"


class DeviceFilter(admin.SimpleListFilter):
    title = parameter_name = "device"

    def lookups(self, request: Any, model_admin: Any) -> List[Tuple[str, str]]:
        return [(name, name.lower()) for name in ("DESKTOP", "MOBILE", "TABLET")]

    def queryset(self, request: Any, queryset: Any) -> Any:
        return queryset.filter(device=self.value()) if self.value() else queryset


# -- pages


class _List(ChangeList):
    """A list named by what it holds: there is nothing to "select to change"."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.title = self.heading()
        if not self.result_count and not Run.objects.exists():
            self.title += ": nothing yet, run manage.py gsc_sync"

    def heading(self) -> str:
        return str(self.opts.verbose_name_plural).capitalize()

    def get_results(self, request: Any) -> None:
        super().get_results(request)
        if not self.query and not self.get_filters_params():
            self.full_result_count = self.result_count  # or the page offers to "show all" of what it shows

    def get_ordering_field_columns(self) -> Any:
        """Of the order that nobody asked for only the first column is marked: marks make columns wide."""
        marked = super().get_ordering_field_columns()
        return marked if "o" in self.params else dict(list(marked.items())[:1])


class _ReadOnlyAdmin(admin.ModelAdmin):
    actions = None
    show_full_result_count = False
    paginator = BoundedPaginator
    list_max_show_all = 500
    if hasattr(admin, "ShowFacets"):  # from Django 5.0 on; to count for each choice is a pass over all rows
        show_facets = admin.ShowFacets.NEVER
    hidden: Tuple[str, ...] = ()
    change_list_class = _List

    def get_changelist(self, request: Any, **more: Any) -> Any:
        return self.change_list_class

    def has_add_permission(self, request: Any, *rest: Any) -> bool:
        return False

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: Any, obj: Any = None) -> bool:
        return False

    def has_view_permission(self, request: Any, obj: Any = None) -> bool:
        """Nobody when the data is kept outside of Django's databases (STORE): there is nothing to show."""
        return conf.alias() is not None and super().has_view_permission(request, obj)

    def get_fields(self, request: Any, obj: Any = None) -> List[str]:
        return [field.name for field in self.model._meta.fields if field.name not in self.hidden]

    def get_object(self, request: Any, object_id: str, from_field: Optional[str] = None) -> Any:
        """By the parts of its key, which the database finds at once; the key itself is computed."""
        names = getattr(self.model, "key_parts", None)
        if names is None:
            return super().get_object(request, object_id, from_field)
        parts = object_id.split("-")
        if len(parts) != len(names) or not all(part.isdigit() for part in parts):
            return None
        return self.get_queryset(request).filter(**dict(zip(names, map(int, parts)))).first()


def _column(words: str, order: str) -> Any:
    """A column of a list: its title, and what it is sorted by."""

    def decorate(function: Any) -> Any:
        function.short_description, function.admin_order_field = words, order
        return function

    return decorate


def _number(value: Optional[float], decimals: int = 0, unit: str = "") -> str:
    """A number as the language writes it, below others of its column."""
    if value is None:
        return "–"
    text = formats.number_format(round(value, decimals), decimals, force_grouping=True) + unit  # else cut off
    return format_html('<span style="{}">{}</span>', _IN_COLUMN, text)


def _text(value: Optional[str], short: str = "", *, width: int) -> str:
    """A text that may be broken anywhere beyond *width*, or a long one would push the numbers off the screen."""
    style = f"min-width: {width}em; overflow-wrap: anywhere"
    return format_html('<div style="{}" title="{}">{}</div>', style, value, short or value) if value else "–"


_IN_COLUMN = "display: inline-block; min-width: 3.5em; text-align: right; white-space: nowrap"


class _TrafficAdmin(_ReadOnlyAdmin):
    """Clicks, impressions, CTR and position as Search Console's own screen shows them."""

    @_column("clicks", "clicks")
    def clicks_(self, row: Any) -> str:
        return _number(row.clicks)

    @_column("impressions", "impressions")
    def impressions_(self, row: Any) -> str:
        return _number(row.impressions)

    @_column("CTR", "ctr")
    def ctr_(self, row: Any) -> str:
        return _number(None if row.ctr is None else 100 * row.ctr, 1, "%")

    @_column("position", "position")
    def position_(self, row: Any) -> str:
        return _number(row.position, 1)

    @_column("page", "page")
    def page_(self, row: Any) -> str:
        """The page's address, its middle cut when it is long, without what is usual; whole when pointed at."""
        page = row.page or ""
        short = page[8:] if page.startswith("https://") else page
        return _text(page, short if len(short) <= 80 else f"{short[:45]}…{short[-34:]}", width=13)

    @_column("query", "query")
    def query_(self, row: Any) -> str:
        return _text(row.query, width=8)

    @_column("page", "page")
    def open_page(self, row: Any) -> str:
        page = row.page or ""
        if not page.startswith(("https://", "http://")):
            return page or "–"
        return format_html('<a href="{}" rel="noopener noreferrer" target="_blank">{}</a>', page, page)

    def get_fields(self, request: Any, obj: Any = None) -> List[str]:
        """What the row is about, and then its numbers."""
        names = [name for name in super().get_fields(request, obj) if f"{name}_" not in _TRAFFIC_COLUMNS]
        return ["open_page" if name == "page" else name for name in names] + list(_TRAFFIC_COLUMNS)

    def get_readonly_fields(self, request: Any, obj: Any = None) -> List[str]:
        return self.get_fields(request, obj)


_TRAFFIC_COLUMNS = ("clicks_", "impressions_", "ctr_", "position_")


class DailyList(_List):
    """A list of daily rows, which leaves to the ledger what the ledger knows."""

    def get_queryset(self, request: Any, *rest: Any, **more: Any) -> Any:
        found = super().get_queryset(request, *rest, **more)
        self.newest_only = None
        self.days = self._ledger(request.GET)
        if not any(name.startswith(("date", "day_id", "page_id")) for name in request.GET):
            self.newest_only = self.days.aggregate(newest=Max("date"))["newest"]
            self.days = self.days.filter(date=self.newest_only)
        self.counted = self._is_counted_by_ledger(request.GET)
        fill = self.counted and self.get_ordering(request, found)[0] == "-date"
        chosen = self._days_to_read(MOST_ROWS if fill else None)
        # Named one by one, the days lead the database to their rows, whatever it believes about its tables.
        return found if chosen is None else found.filter(day_id__in=chosen)

    def get_results(self, request: Any) -> None:
        super().get_results(request)
        if self.counted:
            self.result_count = self.days.aggregate(rows=Sum("rows"))["rows"] or 0
            self.full_result_count = self.full_result_count and self.result_count
        # From here on the template asks only the date hierarchy's questions: which years, months and days are there?
        self.queryset = self._ledger(request.GET)

    def heading(self) -> str:
        if self.newest_only is None:
            return super().heading()
        return f"{super().heading()} on {formats.date_format(self.newest_only, 'DATE_FORMAT')}, the newest day"

    def _ledger(self, asked: Any) -> Any:
        """The published days that the chosen site, report, search type and dates leave."""
        days = Day.objects.filter(status__in=_PUBLISHED, rows__gt=0)
        if self.model_admin.report:
            days = days.filter(report=self.model_admin.report)
        names = ("site", "report", "search_type", "date__year", "date__month", "date__day")
        try:
            return days.filter(**{name: asked[name] for name in names if asked.get(name)})
        except ValueError:  # a date that is none; the list itself has refused it
            return days.none()

    def _is_counted_by_ledger(self, asked: Any) -> bool:
        known = {"site", "report", "search_type", "date__year", "date__month", "date__day", "o", "p", "q", "all"}
        return bool(self.model_admin.counted_by_ledger and not self.query and set(asked) <= known)

    def _days_to_read(self, rows: Optional[int]) -> Optional[List[int]]:
        """The chosen days, newest first, or as many as have *rows* rows; None when they are too many to name."""
        chosen: List[int] = []
        for number, more in self.days.order_by("-date").values_list("id", "rows")[: _MOST_DAYS + 1]:
            chosen.append(number)
            rows = None if rows is None else rows - more
            if rows is not None and rows < 0:
                return chosen
        return chosen if len(chosen) <= _MOST_DAYS else None


class _DailyAdmin(_TrafficAdmin):
    """*report*: the only one there is.  *counted_by_ledger*: each row of a day in the ledger is a row here."""

    date_hierarchy = "date"
    ordering = ("-date", "-clicks", "-impressions")
    hidden: Tuple[str, ...] = ("id", "day_id", "page_id")
    report = ""
    counted_by_ledger = True
    change_list_class = DailyList


@admin.register(Performance)
class PerformanceAdmin(_DailyAdmin):
    list_display = ("date", "page_", "query_", *_TRAFFIC_COLUMNS, "country", "device", "report")
    list_filter = (SiteFilter, ReportFilter, SearchTypeFilter, DeviceFilter)
    search_fields = ("page", "query")
    hidden = ("id", "day_id", "page_id", "rank")


@admin.register(PageDaily)
class PageDailyAdmin(_DailyAdmin):
    list_display = ("date", "page_", *_TRAFFIC_COLUMNS)
    list_filter = (SiteFilter, SearchTypeFilter)
    search_fields = ("page",)
    hidden = ("id", "day_id", "page_id", "rank")
    report = "page"


@admin.register(TopQuery)
class TopQueryAdmin(_DailyAdmin):
    list_display = ("date", "page_", "rank", "query_", *_TRAFFIC_COLUMNS)
    list_filter = (SiteFilter, SearchTypeFilter)
    search_fields = ("page", "query")
    report = "page_query"
    counted_by_ledger = False  # ranks beyond top_queries are in the ledger, and not here


@admin.register(PageLifetime)
class PageLifetimeAdmin(_TrafficAdmin):
    list_display = ("page_", *_TRAFFIC_COLUMNS, "more", "days_seen", "first_seen", "last_seen")
    list_filter = (SiteFilter, SearchTypeFilter)
    search_fields = ("page",)
    ordering = ("-clicks", "-impressions")
    hidden = ("id", "dataset_id", "page_id")

    def get_fields(self, request: Any, obj: Any = None) -> List[str]:
        return [*super().get_fields(request, obj), "more"]

    @_column("more", "")
    def more(self, row: Any) -> str:
        """To the page's days and queries."""
        links: Dict[str, str] = {}
        for words, model in (("days", PageDaily), ("queries", TopQuery)):
            name = f"{model._meta.app_label}_{model._meta.model_name}_changelist"
            try:
                links[words] = reverse(f"admin:{name}", current_app=self.admin_site.name)
            except NoReverseMatch:  # an admin site of the project's own, with some of the models
                return "–"
        return format_html(
            '<span style="white-space: nowrap"><a href="{}?page_id={}">days</a> ·'
            ' <a href="{}?page_id={}">queries</a></span>',
            links["days"], row.page_id, links["queries"], row.page_id,
        )


class _LedgerAdmin(_ReadOnlyAdmin):
    """*formatted*: fields that are shown by the method of their name and ``_``, on detail pages too."""

    formatted: Tuple[str, ...] = ()

    def get_fields(self, request: Any, obj: Any = None) -> List[str]:
        return [f"{name}_" if name in self.formatted else name for name in super().get_fields(request, obj)]

    def get_readonly_fields(self, request: Any, obj: Any = None) -> List[str]:
        return self.get_fields(request, obj)

    @_column("rows", "rows")
    def rows_(self, line: Any) -> str:
        return _number(line.rows)


@admin.register(Day)
class DayAdmin(_LedgerAdmin):
    list_display = ("date", "site", "report", "search_type", "status", "rows_", "calls", "published_at")
    list_filter = ("status", SiteFilter, ReportFilter, SearchTypeFilter)
    search_fields = ("site", "report", "error")
    date_hierarchy = "date"
    ordering = ("-date", "site", "report", "search_type")
    hidden = ("id",)
    formatted = ("rows",)


@admin.register(Run)
class RunAdmin(_LedgerAdmin):
    list_display = ("run_id", "started_at", "status", "days_", "rows_", "calls_", "retries", "peak_qpm", "duration")
    list_filter = ("status",)
    date_hierarchy = "started_at"
    ordering = ("-run_id",)
    formatted = ("days", "rows", "calls", "settings", "faults")

    @_column("days", "days")
    def days_(self, run: Any) -> str:
        return _number(run.days)

    @_column("calls", "calls")
    def calls_(self, run: Any) -> str:
        return _number(run.calls)

    @_column("duration", "seconds")
    def duration(self, run: Any) -> str:
        minutes, seconds = divmod(int(run.seconds), 60)
        if not minutes:
            return f"{formats.number_format(round(run.seconds, 1), 1)} s"
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"

    @_column("settings", "")
    def settings_(self, run: Any) -> str:
        return _json(run.settings)

    @_column("faults", "")
    def faults_(self, run: Any) -> str:
        return _json(run.faults)


def _json(text: str) -> str:
    try:
        text = json.dumps(json.loads(text), indent=2, sort_keys=True)
    except ValueError:
        pass
    return format_html('<pre style="margin: 0">{}</pre>', text)
