"""What a store says of itself: flaws, missing and unfinished days, days at Google's ceiling.  No call is made."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

from . import pacific
from .audit import Flaw, audit
from .halt import Halt, Halted
from .model import Dataset
from .stores.base import FINAL, PROVISIONAL, Store

#: Rows a day from which some may be missing at Google: 48,860 to 50,484 were seen where 50,000 are promised
#: (gsc-api.md 2.7).
CEILING = 48_000


@dataclasses.dataclass
class Finding:
    """What is known of one dataset.  Lists of dates are sorted; ``gone`` are missing and unfinished days that Google
    no longer has; ``held`` says who syncs the dataset at this moment; ``explained`` is the share of the site's clicks
    that the rows account for (1.0 = all), None when unknown, and ``explained_days`` that of each day; ``different``
    names pages whose rows differ from Google's."""

    dataset: Dataset
    days: int = 0
    rows: int = 0
    first: Optional[dt.date] = None
    last: Optional[dt.date] = None
    missing: List[dt.date] = dataclasses.field(default_factory=list)
    unfinished: List[dt.date] = dataclasses.field(default_factory=list)
    gone: List[dt.date] = dataclasses.field(default_factory=list)
    ceiling: List[dt.date] = dataclasses.field(default_factory=list)
    held: str = ""
    flaws: List[Flaw] = dataclasses.field(default_factory=list)
    explained: Optional[float] = None
    explained_days: Dict[dt.date, float] = dataclasses.field(default_factory=dict)
    checked: int = 0
    different: List[Flaw] = dataclasses.field(default_factory=list)
    more: int = 0  # rows Google shows for a page alone, but not for the whole day

    @property
    def wrong(self) -> bool:
        """True when something should be mended."""
        return bool(self.flaws or self.different or self.wrong_days())

    def wrong_days(self) -> Set[dt.date]:
        """Days to be fetched (again).  Those that a sync is about to bring are not wrong, only not there yet."""
        flawed = {flaw.date for flaw in self.flaws + self.different if flaw.kind == "rows" and flaw.date is not None}
        return flawed if self.held else flawed | set(self.missing) | set(self.unfinished)

    @property
    def least_explained(self) -> Optional[Tuple[dt.date, float]]:
        """The day whose clicks the rows account for least, and the share."""
        return min(self.explained_days.items(), key=lambda each: (each[1], each[0]), default=None)

    def as_dict(self) -> Dict[str, Any]:
        """For ``--json``."""
        least = self.least_explained
        return {
            "site": self.dataset.site, "report": self.dataset.report.name, "search_type": self.dataset.search_type,
            "days": self.days, "rows": self.rows, "first": _iso(self.first), "last": _iso(self.last),
            "missing": [str(date) for date in self.missing], "unfinished": [str(date) for date in self.unfinished],
            "gone": [str(date) for date in self.gone], "ceiling": [str(date) for date in self.ceiling],
            "held": self.held,
            "flaws": [{"kind": each.kind, "date": _iso(each.date), "words": each.words} for each in self.flaws],
            "explained": self.explained,
            "least_explained": least and [str(least[0]), least[1]],
            "explained_days": [
                {"date": str(date), "share": part} for date, part in sorted(self.explained_days.items())
            ],
            "checked": self.checked, "more": self.more,
            "different": [{"date": _iso(each.date), "words": each.words} for each in self.different],
        }


def _iso(date: Optional[dt.date]) -> Optional[str]:
    return None if date is None else date.isoformat()


def examine(store: Store, halt: Halt, *, oldest: dt.date, sites: Optional[Sequence[str]] = None) -> List[Finding]:
    """Everything the open *store* can say of itself, by dataset.  *oldest*: the first day Google still has."""
    holders = store.holders()  # first, lest a run that ends meanwhile leaves days that look begun and given up
    days: Dict[Tuple[str, str, str], List[Tuple[dt.date, str, int]]] = {}
    for site, report, kind, date, status, rows in store.read(
        "SELECT site, report, search_type, date, status, rows FROM gsc_days"
    ):
        days.setdefault((site, report, kind), []).append((read_date(date), status, rows))
    findings = []
    for dataset in store.datasets():
        known = days.get((dataset.site, dataset.report.name, dataset.search_type))
        if known and (not sites or dataset.site in sites):
            if halt.is_set():
                raise Halted
            finding = judge_days(dataset, known, oldest=oldest)
            finding.flaws = audit(store, dataset)
            finding.held = holders.get(dataset) or store.holders().get(dataset, "")  # a run may have begun
            if finding.held:  # a run with ``force`` stages slices of days that are final
                finding.flaws = [flaw for flaw in finding.flaws if flaw.kind != "staged"]
            findings.append(finding)
    return findings


def judge_days(
    dataset: Dataset, days: Sequence[Tuple[dt.date, str, int]], *, oldest: dt.date = dt.date.min
) -> Finding:
    """What the ledger's (date, status, rows) of a dataset mean; before *oldest* nothing can be fetched.  Pure."""
    finding = Finding(dataset)
    dates = sorted(date for date, _, _ in days)
    finding.first, finding.last = dates[0], dates[-1]
    missing = sorted(set(pacific.days_between(dates[0], dates[-1])) - set(dates))
    unfinished = []
    for date, status, rows in sorted(days):
        if status not in (FINAL, PROVISIONAL):
            unfinished.append(date)
            continue
        finding.days += 1
        finding.rows += rows
        if rows >= CEILING:
            finding.ceiling.append(date)
    finding.missing = [date for date in missing if date >= oldest]
    finding.unfinished = [date for date in unfinished if date >= oldest]
    finding.gone = sorted(date for date in missing + unfinished if date < oldest)
    return finding


def read_date(value: Any) -> dt.date:
    """A date as a store's ``read`` gives it."""
    return value if isinstance(value, dt.date) else dt.date.fromisoformat(value)
