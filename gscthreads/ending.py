"""How a run ended, and what it did for each dataset: in a status and in words.  Pure."""

from __future__ import annotations

from typing import NamedTuple, Optional, Sequence

from .errors import Denied
from .figures import COMPLETE, FAILED, HALTED, PARKED, DatasetResult
from .plan import DatasetPlan
from .stores.base import Park


class Ending(NamedTuple):
    """How a run, or what it did for a dataset, ended, and why ("" when complete)."""

    status: str
    reason: str = ""


def dataset_ending(plan: DatasetPlan, early: Ending, *, park: Optional[Park], advice: str) -> Ending:
    """How a dataset ended.  *early*: how the run did, in case the dataset was not yet through; *park*: of its site, if
    it is parked; *advice*: for one that Google denies."""
    if plan.error is not None:
        return Ending(FAILED, f"{plan.error}; {advice}" if advice and isinstance(plan.error, Denied)
                      else str(plan.error))
    if plan.failed_days:
        date, first = next(iter(plan.failed_days.items()))
        more = f" (and {len(plan.failed_days) - 1} more days)" if len(plan.failed_days) > 1 else ""
        return Ending(FAILED, f"{date}: {first}{more}")
    if plan.parked is not None:
        until = f"; worth trying again at {park.until:%Y-%m-%d %H:%M} UTC" if park else ""
        return Ending(PARKED, f"{plan.parked}{until}")
    if plan.published == plan.owed_days:
        return Ending(COMPLETE)
    return Ending(HALTED) if early.status == HALTED else early


def run_ending(early: Ending, datasets: Sequence[DatasetResult]) -> Ending:
    """How a run ended whose *datasets* ended so: the worst of it.  *early*: HALTED with the halt's reason, if any came,
    unless the run as such failed or was parked."""
    if early.status != HALTED:
        return early
    for status in (FAILED, PARKED, HALTED):
        for each in datasets:
            if each.status == status:
                return early if status == HALTED else Ending(status, each.error)
    return Ending(COMPLETE)
