"""What a sync would do, without a single call: the days owed, the calls and the minutes they will take."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any, Dict, List

from .config import SyncConfig
from .coordinator import within_retention
from .errors import StoreMissing
from .plan import owed
from .stores import open_store
from .stores.base import DayRecord, Store


@dataclasses.dataclass(frozen=True)
class DatasetEstimate:
    """One dataset's part.  ``calls`` is the least; a day takes one call more for each 25,000 rows it has."""

    site: str
    report: str
    search_type: str
    days: int
    calls: int
    first: str
    last: str


@dataclasses.dataclass(frozen=True)
class Estimate:
    """``minutes`` is what the quota alone demands, at ``qpm`` calls a minute."""

    days: int
    calls: int
    minutes: float
    qpm: int
    datasets: List[DatasetEstimate]

    def as_dict(self) -> Dict[str, Any]:
        return {"status": "dry-run", **dataclasses.asdict(self)}

    def text(self) -> str:
        """For people."""
        lines = [
            f"{each.site}  {each.report}  {each.search_type}: "
            + (f"{each.days} days owed, {each.first} to {each.last}" if each.days else "nothing owed")
            for each in self.datasets
        ]
        lines.append(
            f"In all {self.days} days: at least {self.calls} calls, {self.minutes:.1f} minutes at {self.qpm} calls a"
            " minute.  Days of more than 25,000 rows take more."
        )
        return "\n".join(lines)


def estimate(config: SyncConfig, today: dt.date) -> Estimate:
    """Plan like a sync would.  A store that doesn't exist yet is not made.  Raises what a sync would raise."""
    dates = config.days(today)
    store: Store = open_store(config.store) if isinstance(config.store, str) else config.store
    exists = True
    try:
        store.open(writing=False)
    except StoreMissing:
        exists = False
    try:
        found = []
        for dataset in config.datasets():
            ledger: Dict[dt.date, DayRecord] = store.ledger(dataset, dates[0], dates[-1]) if exists else {}
            days = owed(
                dates,
                ledger,
                today,
                data_state=config.data_state,
                final_after_days=config.final_after_days,
                force=config.force,
                until_empty=config.until_empty,
            ).days
            days = within_retention(days, ledger, today)
            ends = [str(edge(day.date for day in days)) if days else "" for edge in (min, max)]
            found.append(
                DatasetEstimate(dataset.site, dataset.report.name, dataset.search_type, len(days), len(days), *ends)
            )
    finally:
        store.close()
    calls = sum(each.calls for each in found)
    return Estimate(sum(each.days for each in found), calls, round(calls / config.budget, 2), config.budget, found)
