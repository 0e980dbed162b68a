"""How long to leave a site alone whose load quota is spent, and when that is over.  Pure.

Google's advice (gsc-api.md 3 and 5.2): the short load quota is measured in chunks of 10 minutes, so wait 15 minutes;
if that does not help it is the daily one, which comes back at midnight, Pacific time.
"""

from __future__ import annotations

import datetime as dt
from typing import AbstractSet, Dict, Iterable, List, Mapping, NamedTuple, Optional, Set

from . import pacific
from .errors import ApiError, LoadQuota
from .model import Dataset
from .plan import Plan
from .stores.base import Park

#: The wait that Google advises.
SHORT = dt.timedelta(minutes=15)


def next_park(error: ApiError, last: Optional[Park], now: dt.datetime) -> Park:
    """When to ask a site again that refused with *error* at *now* (UTC).

    *last*: the park the site was in and has not been answered since.  Who asks before its end and is refused has
    learnt nothing new; who waited in vain waits for the next Pacific day.
    """
    words = str(error)
    midnight = dt.datetime.fromtimestamp(pacific.next_midnight(now.timestamp()), dt.timezone.utc)
    if isinstance(error, LoadQuota) and error.daily:
        return Park(last.since if last else now, midnight, words)
    if last is None or last.since > now or now - last.until > dt.timedelta(days=1):
        return Park(now, now + SHORT, words)
    if now < last.until:
        return last
    return Park(last.since, midnight, words)


class Proof(NamedTuple):
    """What answers told of parked sites.  ``proven``: the datasets answered since, of each that is still parked;
    ``over``: sites whose park has ended."""

    proven: Dict[str, Set[Dataset]]
    over: List[str]


class Parks:
    """The sites that are parked, as in the store.  Not thread-safe.

    A site's reports cost differently, so one may be answered while another is refused: the park, and with it the memory
    of how long it has lasted, ends when all that still want something have been answered.  Not by what was under way
    when the refusal came: only who asks after a pause learns that the quota is back.
    """

    def __init__(self) -> None:
        self._parks: Dict[str, Park] = {}
        self._proven: Dict[str, Set[Dataset]] = {}

    def load(self, parks: Mapping[str, Park]) -> None:
        """What the store has."""
        self._parks = dict(parks)

    def get(self, site: str) -> Optional[Park]:
        """How *site* is parked, None when it is not."""
        return self._parks.get(site)

    def refused(self, site: str, park: Park) -> None:
        """*site* was refused, and is now parked so."""
        self._proven.pop(site, None)
        self._parks[site] = park

    def answered(self, datasets: AbstractSet[Dataset], plan: Plan) -> Proof:
        """What it tells that *datasets* were answered; ``accept`` it once the store knows."""
        proven = {site: set(found) for site, found in self._proven.items()}
        for dataset in datasets:
            if dataset.site in self._parks and not plan.datasets[dataset].resting:
                proven.setdefault(dataset.site, set()).add(dataset)
        over = [
            site for site, found in proven.items()
            if all(each.dataset in found or not each.unfinished for each in plan.of_site(site))
        ]
        return Proof({site: found for site, found in proven.items() if site not in over}, over)

    def accept(self, proof: Proof) -> None:
        """*proof* is noted in the store."""
        self._proven = proof.proven
        for site in proof.over:
            del self._parks[site]

    def first_end(self, sites: Iterable[str]) -> Optional[dt.datetime]:
        """When the first of the parked *sites* is worth asking again."""
        return min((self._parks[site].until for site in sites if site in self._parks), default=None)
