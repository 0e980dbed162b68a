"""From a checked query to its rows: which days, filtered, grouped, capped and in order (gsc-api.md 2.4 to 2.8)."""

from __future__ import annotations

import datetime as dt
import random
import threading
import zlib
from collections import OrderedDict
from operator import itemgetter
from typing import Any, Callable, Dict, Hashable, List, NamedTuple, Optional, Tuple

from .clock import Clock, hours_of
from .facts import FEEDS, Cell, GeneratedDay
from .library import DayKey, Library
from .options import Options
from .query import Filter, Query

#: One row: keys, clicks, impressions, position.
TableRow = Tuple[Tuple[str, ...], int, int, float]

#: Where a dimension is in a Cell.
PLACE_IN_CELL = {"page": 0, "query": 1, "country": 2, "device": 3, "hour": 4}

#: Rows of all tables kept (about 200 bytes each).
KEPT_ROWS = 400_000

#: Hours back that hourly data reaches, and hours by which it lags (gsc-api.md 2.8).
HOURLY_DAYS = 10
HOURLY_LAG = dt.timedelta(hours=3)

#: Search appearances, each with the share of URLs that have it: one in so many.
APPEARANCES = (("REVIEW_SNIPPET", 4), ("VIDEO", 7), ("AMP_BLUE_LINK", 11), ("NEWS_SHOWCASE", 13))


def appearances(page: str) -> List[str]:
    """The search appearances of a URL."""
    mark = zlib.crc32(page.encode("utf-8", "surrogatepass"))
    return [name for name, one_in in APPEARANCES if mark % one_in == 0]


class Wanted(NamedTuple):
    """Everything that decides a table's rows, hashable: answers are kept by it."""

    site: str
    dimensions: Tuple[str, ...]
    filters: Tuple[Filter, ...]
    property_wise: bool
    #: (date, day content); the date is "" where the rows don't depend on it.
    days: Tuple[Tuple[str, DayKey], ...]
    #: Hours not yet counted begin here, as a naive UTC time; None unless grouped by hour.
    until: Optional[dt.datetime]
    cap: int
    query_only_cap: Optional[int]


class Tables:
    """Makes and keeps the row tables of queries.  Thread-safe; one table is never made twice at once."""

    def __init__(self, library: Library, options: Options, clock: Clock) -> None:
        self._library = library
        self._options = options
        self._clock = clock
        self._lock = threading.Lock()
        self._tables: "OrderedDict[Wanted, List[TableRow]]" = OrderedDict()
        self._rows = 0
        self._making: Dict[Hashable, threading.Lock] = {}

    def wanted(self, site: str, query: Query) -> Wanted:
        """What this query asks for, at this moment."""
        dates = self._library.dates(query.start, query.end, site, query.search_type)
        until = None
        if query.data_state == "hourly_all":
            dates = [date for date in dates if (self._clock.today() - date).days < HOURLY_DAYS]
            until = self._clock.utc().replace(minute=0, second=0, microsecond=0) - HOURLY_LAG
        dated = "date" in query.dimensions or "hour" in query.dimensions
        days = []
        for date in dates:
            key = self._library.day_key(site, query.search_type, date, query.data_state == "final")
            if key is not None:
                if until is not None:
                    key = key.__class__(key.site, key.search_type, key.content, key.rows, 100)
                days.append((date.isoformat() if dated else "", key))
        return Wanted(site, query.dimensions, query.filters, query.aggregation != "byPage", tuple(days), until,
                      self._options.cap, self._options.query_only_cap)

    def rows(self, wanted: Wanted) -> List[TableRow]:
        """All rows of a table, capped, in canonical order."""
        with self._lock:
            found = self._tables.get(wanted)
            if found is not None:
                self._tables.move_to_end(wanted)
                return found
            making = self._making.setdefault(wanted, threading.Lock())
        with making:
            with self._lock:
                found = self._tables.get(wanted)
            if found is None:
                found = self._make(wanted)
                self._keep(wanted, found)
        return found

    def _keep(self, wanted: Wanted, rows: List[TableRow]) -> None:
        with self._lock:
            self._tables[wanted] = rows
            self._rows += len(rows) + 1
            self._making.pop(wanted, None)
            while self._rows > KEPT_ROWS and len(self._tables) > 1:
                _, dropped = self._tables.popitem(last=False)
                self._rows -= len(dropped) + 1

    def _make(self, wanted: Wanted) -> List[TableRow]:
        caps = [wanted.cap]
        if wanted.query_only_cap is not None and "query" in wanted.dimensions and wanted.property_wise:
            caps.append(wanted.query_only_cap)
        if "date" in wanted.dimensions:
            # Dates ascending, clicks descending within; the cap is each day's (ours: gsc-api.md 2.7 leaves it open).
            rows: List[TableRow] = []
            for day in wanted.days:
                rows += ranked(self._grouped(wanted, (day,)))[:min(caps)]
            return rows
        return ranked(self._grouped(wanted, wanted.days))[:min(caps)]

    def _grouped(self, wanted: Wanted, days: Tuple[Tuple[str, DayKey], ...]) -> List[TableRow]:
        if wanted.dimensions == ("page", "query") and not wanted.filters and len(days) == 1:
            facts = self._library.facts(days[0][1])
            if isinstance(facts, GeneratedDay):
                return pair_rows(facts)
        sums: Dict[Any, List[Any]] = {}
        named = [item.dimension for item in wanted.filters] + list(wanted.dimensions)
        places = "country" in named or "device" in named
        keep = cell_test(wanted.filters, "query" in named)
        for date, key in days:
            hours = []
            if wanted.until is not None:
                # A day's facts are dealt over all its hours; those not yet counted are left out afterwards.
                hours = [hour.key for hour in hours_of(dt.date.fromisoformat(date))]
            ready = counted_hours(date, wanted.until)
            keys_of = key_maker(wanted.dimensions, date)
            for cell in self._library.facts(key).cells(wanted.property_wise, places, hours):
                if (hours and cell[4] not in ready) or not keep(cell):
                    continue
                for keys in keys_of(cell):
                    found = sums.get(keys)
                    if found is None:
                        sums[keys] = [cell[5], cell[6], cell[7]]
                    else:
                        found[0] += cell[5]
                        found[1] += cell[6]
                        found[2] += cell[7]
        return [(keys, clicks, seen, float(depth / seen)) for keys, (clicks, seen, depth) in sums.items()]


def counted_hours(date: str, until: Optional[dt.datetime]) -> Dict[str, None]:
    """The hours of a date that began before ``until``."""
    if until is None:
        return {}
    return {hour.key: None for hour in hours_of(dt.date.fromisoformat(date)) if hour.utc <= until}


def pair_rows(facts: GeneratedDay) -> List[TableRow]:
    """The rows of (page, query) without going through cells: by far the commonest question."""
    rows: List[TableRow] = []
    for page, query, clicks, extra, repeat, depth in facts.pairs:
        if query is not None:
            seen = clicks + extra + repeat
            rows.append(((page, query), clicks, seen, (seen + depth) / seen))
    return rows


def ranked(rows: List[TableRow]) -> List[TableRow]:
    """Most clicks first; ties stay in the order of the facts, which is canonical."""
    rows.sort(key=itemgetter(1), reverse=True)
    return rows


def key_maker(dimensions: Tuple[str, ...], date: str) -> Callable[[Cell], List[Tuple[str, ...]]]:
    """A function from a cell to the keys of the rows it counts for."""
    if dimensions == ("searchAppearance",):
        return lambda cell: [(name,) for name in appearances(cell[0])]
    if not dimensions:
        return lambda cell: [()]
    if "date" not in dimensions:
        places = [PLACE_IN_CELL[name] for name in dimensions]
        if len(places) == 1:
            return lambda cell: [(cell[places[0]],)]  # type: ignore[list-item]
        pick = itemgetter(*places)
        return lambda cell: [pick(cell)]
    at = dimensions.index("date")
    before = [PLACE_IN_CELL[name] for name in dimensions[:at]]
    after = [PLACE_IN_CELL[name] for name in dimensions[at + 1:]]
    return lambda cell: [
        (*(str(cell[place]) for place in before), date, *(str(cell[place]) for place in after))]


def cell_test(filters: Tuple[Filter, ...], query_named: bool) -> Callable[[Cell], bool]:
    """Whether a cell counts.  Anonymous searches vanish once the query is grouped or filtered by (gsc-api.md 2.7)."""
    tests: List[Tuple[str, Callable[[str], bool]]] = [(item.dimension, item.test()) for item in filters]
    known: Dict[Tuple[int, str], bool] = {}

    def passes(number: int, value: str) -> bool:
        answer = known.get((number, value))
        if answer is None:
            name, test = tests[number]
            answer = any(map(test, appearances(value))) if name == "searchAppearance" else test(value)
            known[number, value] = answer
        return answer

    places = [PLACE_IN_CELL.get(name, 0) for name, _ in tests]

    def keep(cell: Cell) -> bool:
        if query_named and cell[1] is None:
            return False
        return all(passes(number, str(cell[place])) for number, place in enumerate(places))

    return keep


def cut(rows: List[TableRow], query: Query, options: Options, rng: random.Random) -> List[TableRow]:
    """One slice of a table, with the disorder the options ask for."""
    first, limit = query.start_row, query.row_limit
    shuffled = options.shuffle_ties
    if shuffled and shuffled != "slice":
        rows = shuffle_ties(rows, rng)
    served = rows[first:first + limit]
    if shuffled == "slice":
        served = shuffle_ties(served, rng)
    if options.boundary_duplicates and 0 < first and served:
        served = [rows[first - 1], *served]
    return served


def shuffle_ties(rows: List[TableRow], rng: random.Random) -> List[TableRow]:
    """The rows with neighbours of equal clicks in random order."""
    shuffled: List[TableRow] = []
    start = 0
    for at in range(1, len(rows) + 1):
        if at == len(rows) or rows[at][1] != rows[start][1]:
            group = rows[start:at]
            rng.shuffle(group)
            shuffled += group
            start = at
    return shuffled


def has_position(search_type: str) -> bool:
    """Discover and News rows have no position (gsc-api.md 2.3)."""
    return search_type not in FEEDS
