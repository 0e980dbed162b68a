"""The values that cross threads: reports, datasets, slices and what became of them.  All immutable."""

from __future__ import annotations

import datetime as dt
import itertools
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from .errors import ApiError

#: Most rows of one call (gsc-api.md 2.1, rowLimit).
ROW_LIMIT = 25_000

#: Search types of the API, in the spelling of its documentation (gsc-api.md 2.1, ``type``).
SEARCH_TYPES = ("web", "image", "video", "news", "discover", "googleNews")

#: Dimensions a report may have (gsc-api.md 2.2).  ``hour`` is left out: the store keeps whole days.
DIMENSIONS = ("date", "page", "query", "country", "device", "searchAppearance")


class Report(NamedTuple):
    """A named tuple of dimensions; a row of the report has one value for each."""

    name: str
    dimensions: Tuple[str, ...]


class Dataset(NamedTuple):
    """One site, one report, one search type: the unit that owns days."""

    site: str
    report: Report
    search_type: str

    def __str__(self) -> str:
        return f"{self.site} {self.report.name} {self.search_type}"


class SliceKey(NamedTuple):
    """One call's worth of a day: rows ``start_row`` to ``start_row + ROW_LIMIT - 1`` of ``date``; with a *page*, of
    that page's rows only, as ``verify`` asks for them."""

    date: dt.date
    start_row: int
    page: Optional[str] = None

    def __str__(self) -> str:
        return f"{self.date}+{self.start_row}"


class Account(NamedTuple):
    """Whose calls they are: names that tell users and Cloud projects apart, "" when unknown.  No secrets."""

    user: str = ""
    project: str = ""


class Slice(NamedTuple):
    """A slice key together with the dataset it belongs to."""

    dataset: Dataset
    key: SliceKey

    def __str__(self) -> str:
        return f"{self.dataset} {self.key}"


#: One row without its page: (-clicks, -impressions, query, country, device, appearance, ctr, position).
#: A dimension the report lacks is "".  Negated counts make the natural tuple order the order of rank
#: (most clicks, then most impressions, then query).  ``ctr`` is None when it equals clicks / impressions
#: exactly, so that it need not be stored; ``position`` is None where Google sends none (discover, googleNews).
Row = Tuple[int, int, str, str, str, str, Optional[float], Optional[float]]


class Rows(NamedTuple):
    """The decoded rows of one slice, column by column: a few long lists cost the interpreter (and its cyclic garbage
    collector) far less than a tuple a row.

    ``received`` counts the rows Google sent, ``kept`` those left after removing rows whose dimensions repeat;
    whether the day goes on is decided by ``received``.  ``first_incomplete`` is the first date Google calls
    unsettled (gsc-api.md 2.6, metadata), when it says so.

    The rows of ``pages[0]`` come first, ``counts[0]`` of them in order of rank, then those of ``pages[1]``, and so on;
    a report without ``page`` has one page, named "".  A column is None when the report lacks the dimension, and where
    all its values are None.  See ``Row`` for ctr and position; clicks and impressions are not negated here.
    """

    received: int
    kept: int
    pages: Sequence[str]
    first_incomplete: Optional[dt.date] = None
    counts: Sequence[int] = ()
    clicks: Sequence[int] = ()
    impressions: Sequence[int] = ()
    query: Optional[Sequence[str]] = None
    country: Optional[Sequence[str]] = None
    device: Optional[Sequence[str]] = None
    appearance: Optional[Sequence[str]] = None
    ctr: Optional[Sequence[Optional[float]]] = None
    position: Optional[Sequence[Optional[float]]] = None

    @property
    def groups(self) -> List[Tuple[str, List[Row]]]:
        """The same row by row: [(page, its rows in order of rank)].  Slow: for tests and small amounts."""
        texts = [column or [""] * self.kept for column in (self.query, self.country, self.device, self.appearance)]
        rates = [column or [None] * self.kept for column in (self.ctr, self.position)]
        rows: Iterator[Row] = zip(
            [-count for count in self.clicks], [-count for count in self.impressions], *texts, *rates
        )
        return [(page, list(itertools.islice(rows, count))) for page, count in zip(self.pages, self.counts)]

    @classmethod
    def of(cls, groups: Sequence[Tuple[str, Sequence[Row]]]) -> "Rows":
        """The inverse of ``groups``."""
        rows = [row for _, group in groups for row in group]
        clicks, impressions, *rest = map(list, zip(*rows)) if rows else [[] for _ in range(8)]
        texts: List[Any] = [column if any(column) else None for column in rest[:4]]
        rates: List[Any] = [None if set(column) <= {None} else column for column in rest[4:]]
        return cls(
            len(rows), len(rows), [page for page, _ in groups], None, [len(group) for _, group in groups],
            [-count for count in clicks], [-count for count in impressions], *texts, *rates
        )


class Fetched(NamedTuple):
    """Google answered this slice."""

    slice: Slice
    rows: Rows


class Failed(NamedTuple):
    """This slice has no rows.  ``alone`` is True when the fault is the slice's own, False when a whole HTTP batch
    was hit (so that it doesn't use up the slice's attempts)."""

    slice: Slice
    error: ApiError
    alone: bool = True
