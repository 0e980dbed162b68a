"""What every store in SQL does alike: the ledger, the sites that are parked, and what it remembers of ids.

Statements have ``?`` for values.  How rows are written, and how a run is known to live, is not here: there each dialect
has ways of its own.
"""

from __future__ import annotations

import abc
import datetime as dt
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, TypeVar

from ..errors import ConfigError
from ..model import Dataset, Report, Rows
from .base import FAILED, OPEN, Acknowledged, DayRecord, Park, Store

#: The condition that finds a dataset's line by ``names_of``.
_NAMED = "site = ? AND report = ? AND search_type = ?"

_LEDGER = f"""
SELECT d.date, d.status, a.start_row, a.received, a.fetched_on, a.data_state
FROM gsc_dataset s JOIN gsc_day d ON d.dataset = s.id LEFT JOIN gsc_slice a ON a.day = d.id
WHERE {_NAMED} AND d.date BETWEEN ? AND ?
"""

T = TypeVar("T")

#: Longest message kept.
_MESSAGE = 500

#: Most page URLs remembered; about 20 MB.  Beyond it the memory starts anew and ids are looked up again.
REMEMBERED = 100_000


class SQLStore(Store):
    """A store in SQL.  Each dialect says how it runs a statement."""

    #: ``sums``: selects rows, clicks, impressions, positions and ctrs, which prove the rows of what follows its FROM;
    #: ``weights``: sums gsc_lifetime.weight anew from rows of gsc_fact f.
    _words: Mapping[str, str]

    def __init__(self) -> None:
        self._datasets: Dict[Dataset, int] = {}
        self._days: Dict[Tuple[Dataset, dt.date], int] = {}
        self._pages: Dict[str, int] = {}
        self._segments: Dict[Tuple[str, str, str], int] = {}
        self._top_queries = 20

    def page_order(self) -> Mapping[str, int]:
        return self._pages

    @abc.abstractmethod
    def execute(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """Run *statement* inside the present transaction."""

    def together(self, questions: Callable[[], T]) -> T:
        """What *questions* returns, which reads: all of it inside the present transaction, or one."""
        return questions()

    def worded(self, statement: str) -> str:
        """*statement* in the words of the dialect."""
        return statement.format(**self._words)

    @abc.abstractmethod
    def _day(self, dataset: Dataset, date: dt.date) -> int:
        """Inside a transaction: what stands for the day in the tables; begins it."""

    @abc.abstractmethod
    def _forget_slices(self, day: int) -> None:
        """Inside a transaction: a day's staged slices go."""

    @abc.abstractmethod
    def _segment(self, names: Sequence[str]) -> int:
        """Inside a transaction: what stands for a country, device and appearance; adds it."""

    def number(self, dataset: Dataset) -> int:
        """What stands for *dataset* in the tables, 0 when it was never begun."""
        found = self.read(f"SELECT id FROM gsc_dataset WHERE {_NAMED}", names_of(dataset))
        return int(found[0][0]) if found else 0

    def _dataset(self, dataset: Dataset) -> int:
        """Inside a transaction: the same, having begun it."""
        number = self._datasets.get(dataset) or self.number(dataset)
        if not number:
            self.execute(
                "INSERT INTO gsc_dataset (site, report, search_type, dimensions, top_queries) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                (*names_of(dataset), ",".join(dataset.report.dimensions), self._top_queries),
            )
            number = self.number(dataset)
        self._datasets[dataset] = number
        return number

    def _segment_column(self, rows: Rows) -> Optional[List[int]]:
        """The segment of each row, None where no report has any; a dimension the report lacks is NULL in the table."""
        if rows.country is rows.device is rows.appearance is None:
            return None
        if len(self._segments) > REMEMBERED:
            self._segments.clear()
        columns = [column or [""] * rows.kept for column in (rows.country, rows.device, rows.appearance)]
        for segment in set(zip(*columns)) - self._segments.keys():
            self._segments[segment] = self._segment(segment)
        return [self._segments[segment] for segment in zip(*columns)]

    def _forget_ids(self) -> None:
        """They may be those of a transaction that was rolled back, or of another database."""
        for memory in (self._datasets, self._days, self._pages, self._segments):
            memory.clear()

    def datasets(self) -> List[Dataset]:
        found = self.read("SELECT site, report, dimensions, search_type FROM gsc_dataset")
        return sorted(dataset_of(*names) for names in found)

    # -- the ledger

    def prepare(self, datasets: Iterable[Dataset], *, top_queries: int) -> None:
        self._top_queries = top_queries
        # All at once: there may be thousands of datasets, and a server far away.
        known = {(site, report, search_type): values for site, report, search_type, *values in self.read(
            "SELECT site, report, search_type, id, dimensions, top_queries FROM gsc_dataset")}
        for dataset in datasets:
            wanted = ",".join(dataset.report.dimensions)
            number, dimensions, ranked = known.get(names_of(dataset), (0, wanted, top_queries))
            if dimensions != wanted:
                raise ConfigError(
                    f"report {dataset.report.name!r} is stored with dimensions {dimensions}; give {wanted} another name"
                )
            if ranked != top_queries:
                self.execute("UPDATE gsc_dataset SET top_queries = ? WHERE id = ?", (top_queries, number))
            self._datasets[dataset] = number  # 0: not yet begun

    def ledger(self, dataset: Dataset, start: dt.date, end: dt.date) -> Dict[dt.date, DayRecord]:
        days: Dict[dt.date, DayRecord] = {}
        found = self.read(_LEDGER, (*names_of(dataset), start.isoformat(), end.isoformat()))
        for date, status, start_row, received, fetched_on, data_state in found:
            slices: Dict[int, Acknowledged] = {}
            record = days.setdefault(dt.date.fromisoformat(date), DayRecord(status, slices))
            if start_row is not None:
                acknowledged = Acknowledged(received, dt.date.fromisoformat(fetched_on), data_state)
                record.slices[start_row] = acknowledged  # type: ignore[index]
        return days

    def unstage(self, dataset: Dataset, dates: Iterable[dt.date]) -> None:
        for date in dates:
            self._forget_slices(self._day(dataset, date))

    def fail_day(self, dataset: Dataset, date: dt.date, error: str) -> None:
        self.execute(
            "UPDATE gsc_day SET status = CASE WHEN status = ? THEN ? ELSE status END, error = ? WHERE id = ?",
            (OPEN, FAILED, plain(error)[:_MESSAGE], self._day(dataset, date)),
        )

    # -- parked sites

    def parks(self) -> Dict[str, Park]:
        found = self.read("SELECT site, since, until, reason FROM gsc_park")
        return {site: Park(_moment(since), _moment(until), reason) for site, since, until, reason in found}

    def park(self, site: str, park: Optional[Park]) -> None:
        self.execute("DELETE FROM gsc_park WHERE site = ?", (site,))
        if park is not None:
            self.execute(
                "INSERT INTO gsc_park (site, since, until, reason) VALUES (?, ?, ?, ?)",
                (site, stamp(park.since), stamp(park.until), plain(park.reason)[:_MESSAGE]),
            )


def names_of(dataset: Dataset) -> Tuple[str, str, str]:
    """The columns by which gsc_dataset knows *dataset*."""
    return dataset.site, dataset.report.name, dataset.search_type


def dataset_of(site: str, report: str, dimensions: str, search_type: str) -> Dataset:
    """The dataset with these columns in gsc_dataset."""
    return Dataset(site, Report(report, tuple(dimensions.split(",")) if dimensions else ()), search_type)


def plain(text: str) -> str:
    """*text* as every database can store it: Postgres has no NUL."""
    return text.replace("\0", "\ufffd")


def stamp(moment: dt.datetime) -> str:
    """*moment* in UTC, to the second."""
    return moment.astimezone(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _moment(text: str) -> dt.datetime:
    return dt.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.timezone.utc)
