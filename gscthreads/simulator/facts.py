"""What people searched for: the deterministic facts of one site, search type and Pacific day.

A generated day is a list of *pairs*, one per (page, query): ``(page, query, clicks, extra, repeat, depth)``.

- ``clicks + extra`` are its impressions counted by property (one per result set);
- ``clicks + extra + repeat`` are its impressions counted by page (one per URL shown), gsc-api.md 2.5;
- ``depth`` is the sum over all impressions of (position - 1), an integer as positions are;
- ``query`` is None for searches Google keeps anonymous (gsc-api.md 2.7).

Country, device and hour are made by splitting a pair into *cells* whose numbers add up to the pair's exactly,
so every grouping of a day agrees with every other one.
"""

from __future__ import annotations

import datetime as dt
import random
from fractions import Fraction
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from .words import TOPICS, topic_queries

#: A pair: page, query or None, clicks, extra, repeat, depth.
Pair = Tuple[str, Optional[str], int, int, int, int]

#: A cell: page, query or None, country, device, hour key, clicks, impressions, impressions x position.
Cell = Tuple[str, Optional[str], str, str, str, int, int, Any]

COUNTRIES = (
    "usa", "gbr", "ind", "deu", "can", "aus", "fra", "nld", "esp", "ita", "bra", "mex", "jpn", "pol", "swe", "irl",
    "zaf", "nzl", "mdv", "zzz",
)
DEVICES = ("MOBILE", "DESKTOP", "TABLET")

#: (country, device) pairs; the first nine are where most searches come from.
PLACES = [(country, device) for country in COUNTRIES for device in DEVICES]
MAIN_PLACES = 9

#: How a pair's numbers are cut into at most 6 cells: cumulative thousandths, by number of cells.
CUTS = ((), (1000,), (620, 1000), (550, 830, 1000), (500, 760, 900, 1000), (470, 700, 840, 940, 1000),
        (450, 660, 790, 880, 950, 1000))

#: Rows of a search type, as a share of those of ``web``.
TYPE_SHARE = {"web": 1.0, "image": 0.4, "video": 0.15, "news": 0.1, "discover": 0.2, "googleNews": 0.1}

#: Search types whose rows have no queries and no position (gsc-api.md 2.3).
FEEDS = ("discover", "googleNews")

#: A Wednesday from which weeks and the trend are counted.
EPOCH = dt.date(2025, 1, 1).toordinal()

#: Traffic by weekday, Monday first.
WEEK = (1.06, 1.10, 1.08, 1.04, 0.95, 0.84, 0.93)


class Row(NamedTuple):
    """One explicit fact given to ``put_day``."""

    page: str
    query: Optional[str]
    country: str
    device: str
    clicks: int
    impressions: int
    position: float


def by_property(clicks: int, impressions: int) -> int:
    """Impressions counted by property: five in eight of those without a click, rounded up (our rule)."""
    return clicks + ((impressions - clicks) * 5 + 7) // 8


def split(numbers: Tuple[int, int, int, int], cuts: Sequence[int]) -> Iterator[Tuple[int, int, int, int]]:
    """Cut (clicks, extra, repeat, depth) at cumulative thousandths into parts that add up exactly."""
    clicks, extra, repeat, depth = numbers
    total = clicks + extra + repeat
    done_c = done_e = done_r = done_d = 0
    for cut in cuts:
        here_c, here_e, here_r = clicks * cut // 1000, extra * cut // 1000, repeat * cut // 1000
        here_d = depth * (here_c + here_e + here_r) // total
        yield here_c - done_c, here_e - done_e, here_r - done_r, here_d - done_d
        done_c, done_e, done_r, done_d = here_c, here_e, here_r, here_d


class GeneratedDay:
    """The facts of a made-up day."""

    def __init__(self, pairs: List[Pair]) -> None:
        self.pairs = pairs

    def scaled(self, percent: int) -> "GeneratedDay":
        """The day as it looks while only ``percent`` of it has been counted (gsc-api.md 2.8)."""
        if percent >= 100:
            return self
        scaled = []
        for page, query, clicks, extra, repeat, depth in self.pairs:
            total = clicks + extra + repeat
            clicks, extra, repeat = clicks * percent // 100, extra * percent // 100, repeat * percent // 100
            left = clicks + extra + repeat
            if clicks + extra:
                scaled.append((page, query, clicks, extra, repeat, depth * left // total))
        return GeneratedDay(scaled)

    def cells(self, property_wise: bool, places: bool, hours: Sequence[str]) -> Iterator[Cell]:
        """The facts, split by country and device if ``places``, and by hour if any ``hours`` are given."""
        for index, (page, query, *numbers) in enumerate(self.pairs):
            clicks, extra, repeat, depth = numbers
            parts = [("", "", (clicks, extra, repeat, depth))]
            if places:
                count = min(clicks + extra, 2 + index % 5)
                first = [index % MAIN_PLACES] + [
                    MAIN_PLACES + (index + 7 * turn) % (len(PLACES) - MAIN_PLACES) for turn in range(count - 1)]
                parts = [PLACES[place] + (part,)
                         for place, part in zip(first, split((clicks, extra, repeat, depth), CUTS[count]))]
            for country, device, part in parts:
                for hour, (clicks, extra, repeat, depth) in self._hourly(index, part, hours):
                    by_page = clicks + extra + repeat
                    seen = clicks + extra if property_wise else by_page
                    if seen:
                        yield (page, query, country, device, hour, clicks, seen, seen + depth * seen // by_page)

    @staticmethod
    def _hourly(index: int, part: Tuple[int, int, int, int], hours: Sequence[str],
                ) -> Iterator[Tuple[str, Tuple[int, int, int, int]]]:
        count = min(sum(part[:3]), len(hours))
        if not count:
            if not hours:
                yield "", part
            return
        cuts = [(turn + 1) * 1000 // count for turn in range(count)]
        for turn, piece in enumerate(split(part, cuts)):
            yield hours[(index * 7 + turn * len(hours) // count) % len(hours)], piece


class ExplicitDay:
    """A day somebody spelled out.  Positions are kept as exact fractions, so that nothing is rounded twice."""

    def __init__(self, rows: Sequence[Sequence[Any]]) -> None:
        self.rows = [Row(*row) for row in rows]
        for row in self.rows:
            if not 0 <= row.clicks <= row.impressions or row.impressions < 1 or row.position < 1:
                raise ValueError(f"{row}: needs 0 <= clicks <= impressions, impressions >= 1 and position >= 1")

    def scaled(self, percent: int) -> "ExplicitDay":
        """Explicit days are served as they are, whatever their age."""
        return self

    def cells(self, property_wise: bool, places: bool, hours: Sequence[str]) -> Iterator[Cell]:
        """As GeneratedDay.cells; each fact lies in one hour."""
        for index, row in enumerate(self.rows):
            seen = by_property(row.clicks, row.impressions) if property_wise else row.impressions
            hour = hours[index % len(hours)] if hours else ""
            yield (row.page, row.query, row.country, row.device, hour, row.clicks, seen, Fraction(row.position) * seen)


class Writer:
    """Makes the days of one site up.  Not thread-safe; ``Library`` guards it."""

    def __init__(self, seed: int, site: str, urls: Sequence[str], nasty: bool, anonymised: float) -> None:
        self.seed = seed
        self.site = site
        self.urls = urls
        self.nasty = nasty
        self.anonymised = anonymised
        self._queries: Dict[int, List[str]] = {}

    def queries(self, topic: int, stop: int) -> List[str]:
        """At least the first ``stop`` queries of a topic."""
        known = self._queries.setdefault(topic, [])
        if len(known) < stop:
            known += topic_queries(topic, len(known), stop, self.nasty)
        return known

    def day(self, search_type: str, ordinal: int, rows: int) -> GeneratedDay:
        """``rows`` distinct (page, query) pairs for the day with this ordinal, plus the anonymous ones."""
        dice = random.Random(f"{self.seed}|{self.site}|{search_type}|{ordinal}")
        rng = dice.random
        volume = WEEK[ordinal % 7 - 1] * max(0.3, 1 + 0.0012 * (ordinal - EPOCH))
        volume *= 0.94 + 0.12 * rng()
        feed = search_type in FEEDS
        pairs: List[Pair] = []
        for number, count in enumerate(shares(rows, len(self.urls), feed)):
            if not count:
                continue
            page = self.urls[number]
            if feed:
                pairs.append(_pair(page, None, volume * 400 / (number + 2), rng(), rng(), number, rng()))
                continue
            # The head of a page's queries recurs day after day; where its tail begins moves with the day.
            head = count - count // 3
            shift = ordinal * 11 % (count // 3 + 1)
            known = self.queries(number % len(TOPICS), count + shift)
            weight = volume * 900 / (number + 2) ** 0.7
            clicks = extra = repeat = depth = 0
            for rank, query in enumerate(known[:head] + known[head + shift:count + shift]):
                pair = _pair(page, query, weight / (rank + 1.5), rng(), rng(), rank + number, rng())
                pairs.append(pair)
                clicks, extra, repeat, depth = (
                    clicks + pair[2], extra + pair[3], repeat + pair[4], depth + pair[5])
            if self.anonymised:
                share = self.anonymised / (1 - self.anonymised)
                clicks, extra, repeat = int(clicks * share), int(extra * share) + 1, int(repeat * share)
                pairs.append((page, None, clicks, extra, repeat, int(depth * share)))
        # Rows of equal clicks keep this order, and Google's lie in no order at all (gsc-api.md 2.6).
        dice.shuffle(pairs)
        return GeneratedDay(pairs)


def _pair(page: str, query: Optional[str], weight: float, one: float, two: float, rank: int, three: float) -> Pair:
    """Numbers of one pair: ``weight`` is what to expect of its impressions, the rest is chance in [0, 1)."""
    impressions = 1 + int(weight * (0.5 + one))
    position = 1.0 + two * (3.0 + rank % 40) * (1.0 + 1.4 * three)
    clicks = int(impressions * 0.3 / position + three * 0.7)
    if clicks > impressions:
        clicks = impressions
    rest = impressions - clicks
    extra = (rest * 5 + 7) // 8
    return page, query, clicks, extra, rest - extra, int(impressions * (position - 1.0 if position < 100 else 99.0))


def shares(rows: int, pages: int, one_each: bool) -> List[int]:
    """How many of a day's rows each page has: a long tail that adds up to ``rows`` (one each for feeds)."""
    if one_each or rows <= pages:
        return [1] * min(rows, pages)
    # Every page gets one row, the others fall to it in proportion to 1 / (place + 3).
    weights = [1 / (place + 3) for place in range(pages)]
    total = sum(weights)
    counts, cumulated, given = [], 0.0, 0
    for weight in weights:
        cumulated += weight
        upto = int((rows - pages) * cumulated / total + 1e-9)
        counts.append(1 + upto - given)
        given = upto
    counts[0] += rows - sum(counts)
    return counts
