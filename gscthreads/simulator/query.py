"""searchAnalytics.query: from a request body to a checked ``Query`` (gsc-api.md 2.1 to 2.5)."""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from .errors import invalid_argument, invalid_parameter
from .facts import FEEDS

PACKAGE = "type.googleapis.com/google.searchconsole.v1.searchanalytics."

TYPES = ("web", "image", "video", "news", "discover", "googleNews")
DIMENSIONS = ("date", "hour", "query", "page", "country", "device", "searchAppearance")
AGGREGATIONS = ("auto", "byPage", "byProperty", "byNewsShowcasePanel")
STATES = ("final", "all", "hourly_all")
OPERATORS = ("equals", "notEquals", "contains", "notContains", "includingRegex", "excludingRegex")

FIELDS = ("startDate", "endDate", "dimensions", "type", "searchType", "dimensionFilterGroups", "aggregationType",
          "rowLimit", "startRow", "dataState")

MAX_ROWS = 25_000
MAX_EXPRESSION = 4_096


class Filter(NamedTuple):
    """One condition; ``expression`` as it was sent."""

    dimension: str
    operator: str
    expression: str

    def test(self) -> Callable[[str], bool]:
        """The condition as a function.  Equality minds case for page and query only; containment never does."""
        wanted = self.expression
        if self.operator in ("equals", "notEquals"):
            if self.dimension not in ("page", "query"):
                folded = wanted.casefold()
                return _negated(lambda value: value.casefold() == folded, self.operator)
            return _negated(lambda value: value == wanted, self.operator)
        if self.operator in ("contains", "notContains"):
            lower = wanted.lower()
            return _negated(lambda value: lower in value.lower(), self.operator)
        found = re.compile(wanted).search
        return _negated(lambda value: found(value) is not None, self.operator)


def _negated(test: Callable[[str], bool], operator: str) -> Callable[[str], bool]:
    if operator.startswith(("not", "excluding")):
        return lambda value: not test(value)
    return test


class Query(NamedTuple):
    """A request that passed every check.  ``aggregation`` is the one honoured, never ``auto``."""

    start: dt.date
    end: dt.date
    dimensions: Tuple[str, ...]
    search_type: str
    filters: Tuple[Filter, ...]
    aggregation: str
    row_limit: int
    start_row: int
    data_state: str


def parse(body: bytes) -> Query:
    """Check a request body as Google does; raises Refusal (400)."""
    try:
        request = json.loads(body.decode("utf-8") or "{}")
    except ValueError:
        raise invalid_argument("Invalid JSON payload received. Unexpected token.") from None
    if not isinstance(request, dict):
        raise invalid_argument("Invalid JSON payload received. Unknown name \"\": Root element must be a message.")
    for name in request:
        if name not in FIELDS:
            raise invalid_argument(f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.')
    start, end = _date(request, "startDate"), _date(request, "endDate")
    if start > end:
        raise invalid_parameter("'startDate' must be less than or equal to 'endDate'.", "start_date")
    listed = _list(request, "dimensions")
    dimensions = tuple(_enum(value, DIMENSIONS, f"dimensions[{at}]", "Dimension") for at, value in enumerate(listed))
    kind = "type" if request.get("type") is not None else "searchType"
    search_type = _enum(request.get(kind, "web"), TYPES, kind.replace("searchType", "search_type"), "SearchType")
    state = _enum(request.get("dataState", "final"), STATES, "data_state", "DataState")
    asked = _enum(request.get("aggregationType", "auto"), AGGREGATIONS, "aggregation_type", "AggregationType")
    filters = _filters(request)
    limit = _number(request, "rowLimit", 1_000)
    if not 1 <= limit <= MAX_ROWS:
        raise invalid_parameter(f"'rowLimit' must be between 1 and {MAX_ROWS}.", "row_limit")
    first = _number(request, "startRow", 0)
    if first < 0:
        raise invalid_parameter("'startRow' must be greater than or equal to 0.", "start_row")
    _check_dimensions(dimensions, search_type, state)
    aggregation = _aggregation(asked, dimensions, search_type, filters)
    return Query(start, end, dimensions, search_type, filters, aggregation, limit, first, state)


def _date(request: Dict[str, Any], name: str) -> dt.date:
    value = request.get(name)
    wire = "start_date" if name == "startDate" else "end_date"
    if value is None:
        raise invalid_parameter(f"'{name}' is required.", wire)
    try:
        if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
            raise ValueError(value)
        return dt.datetime.strptime(value, "%Y-%m-%d").date()
    except ValueError:
        raise invalid_parameter(f"'{value}' is not a valid date. Dates must be in the format YYYY-MM-DD.",
                                wire) from None


def _list(request: Dict[str, Any], name: str) -> List[Any]:
    value = request.get(name)
    if value is None:
        return []
    # Google's JSON reader takes a lone value for a repeated field.
    return value if isinstance(value, list) else [value]


def _number(request: Dict[str, Any], name: str, default: int) -> int:
    value = request.get(name, default)
    if value is None:
        return default
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,9}", value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        wire = re.sub("([A-Z])", lambda upper: "_" + upper.group().lower(), name)
        raise invalid_argument(f"Invalid value at '{wire}' (TYPE_INT32), {json.dumps(value)}")
    return value


def _enum(value: Any, allowed: Tuple[str, ...], where: str, kind: str) -> str:
    """Both spellings are one to Google: case folds, underscores drop (gsc-api.md 2.1)."""
    if isinstance(value, str):
        folded = value.replace("_", "").lower()
        for name in allowed:
            if name.replace("_", "").lower() == folded:
                return name
    raise invalid_argument(f"Invalid value at '{where}' ({PACKAGE}{kind}), {json.dumps(value)}")


def _filters(request: Dict[str, Any]) -> Tuple[Filter, ...]:
    """All filters of all groups: filters are ANDed, and so are groups."""
    found = []
    for at, group in enumerate(_list(request, "dimensionFilterGroups")):
        where = f"dimension_filter_groups[{at}]"
        if not isinstance(group, dict):
            raise invalid_argument(f"Invalid value at '{where}' ({PACKAGE}DimensionFilterGroup), {json.dumps(group)}")
        _enum(group.get("groupType", "and"), ("and",), f"{where}.group_type", "DimensionFilterGroup.GroupType")
        for number, item in enumerate(_list(group, "filters")):
            found.append(_filter(item, f"{where}.filters[{number}]"))
    return tuple(found)


def _filter(item: Any, where: str) -> Filter:
    if not isinstance(item, dict):
        raise invalid_argument(f"Invalid value at '{where}' ({PACKAGE}DimensionFilter), {json.dumps(item)}")
    dimension = _enum(item.get("dimension"), DIMENSIONS, f"{where}.dimension", "DimensionFilter.Dimension")
    operator = _enum(item.get("operator", "equals"), OPERATORS, f"{where}.operator", "DimensionFilter.Operator")
    expression = item.get("expression", "")
    if not isinstance(expression, str):
        raise invalid_argument(f"Invalid value at '{where}.expression' (TYPE_STRING), {json.dumps(expression)}")
    if dimension in ("date", "hour"):
        raise invalid_parameter(f"Requests cannot be filtered by {dimension}.", "dimension_filter_groups")
    if len(expression) > MAX_EXPRESSION:
        raise invalid_parameter(f"Filter expression exceeds the maximum length of {MAX_EXPRESSION} characters.",
                                "dimension_filter_groups")
    if operator.endswith("Regex"):
        try:
            re.compile(expression)
        except re.error:
            raise invalid_parameter(f"'{expression}' is not a valid regular expression.",
                                    "dimension_filter_groups") from None
    return Filter(dimension, operator, expression)


def _check_dimensions(dimensions: Tuple[str, ...], search_type: str, state: str) -> None:
    """The combinations of gsc-api.md 2.3."""
    problem: Optional[str] = None
    if len(set(dimensions)) < len(dimensions):
        problem = "Duplicate dimensions are not allowed."
    elif "searchAppearance" in dimensions and len(dimensions) > 1:
        problem = "Cannot group by search appearance dimension together with another dimension"
    elif "date" in dimensions and "hour" in dimensions:
        problem = "Request cannot be grouped by both date and hour"
    elif "hour" in dimensions and state != "hourly_all":
        problem = "Grouping by HOUR requires setting dataState=HOURLY_ALL"
    elif state == "hourly_all" and "hour" not in dimensions:
        problem = "Setting dataState=HOURLY_ALL is only allowed when grouping by HOUR"
    elif search_type == "discover" and "device" in dimensions:
        problem = "Requests for Discover cannot be grouped by device"
    elif search_type in FEEDS and "query" in dimensions:
        name = "DISCOVER" if search_type == "discover" else "GOOGLE_NEWS"
        problem = f"Request for {name} cannot be grouped by query"
    if problem:
        raise invalid_parameter(problem, "dimensions")


def _aggregation(asked: str, dimensions: Tuple[str, ...], search_type: str, filters: Tuple[Filter, ...]) -> str:
    """The aggregation that ``asked`` means here; raises where it is impossible (gsc-api.md 2.5)."""
    by_page = "page" in dimensions or any(item.dimension == "page" for item in filters)
    feed = search_type in FEEDS
    if asked == "auto":
        return "byPage" if by_page or feed else "byProperty"
    if asked == "byProperty" and (by_page or feed):
        raise _impossible("BY_PROPERTY")
    if asked == "byNewsShowcasePanel":
        showcase = any(item.dimension == "searchAppearance" and item.operator == "equals"
                       and item.expression.upper() == "NEWS_SHOWCASE" for item in filters)
        if by_page or not feed or not showcase:
            raise _impossible("BY_NEWS_SHOWCASE_PANEL")
    return asked


def _impossible(name: str) -> Exception:
    return invalid_parameter(f"'{name}' is not a valid aggregation type in the context of the request.",
                             "aggregation_type")
