"""What a worker thread does with an HTTP batch: ask the quota, send, deliver, report the end.  Never raises."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from typing import Callable, Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Tuple, Union

from .client import Client
from .errors import BurstQuota, CredentialsError
from .gate import site_pause
from .halt import Halt, Halted
from .model import Failed, Fetched, Slice
from .outcomes import Outcomes
from .quota import Grant, Quota

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Slices of one site that go out together (or in parts, while the site is slowed down)."""

    number: int
    slices: Sequence[Slice]
    again: FrozenSet[Slice] = frozenset()  # those that were sent before

    @property
    def site(self) -> str:
        return self.slices[0].dataset.site


class BatchEnded(NamedTuple):
    """Always a batch's last outcome, unless the run halts.  ``sent_at``: monotonic seconds, when its first part was
    begun, None when none was.  ``error``: what the worker died of.  ``seconds``: how long it was at work.  ``unsent``:
    slices that were kept back, as the site wants no calls for a while."""

    batch: Batch
    sent_at: Optional[float] = None
    error: Optional[BaseException] = None
    seconds: float = 0.0
    unsent: Sequence[Slice] = ()


class SitesListed(NamedTuple):
    """Answer to ``list_sites``: (siteUrl, permissionLevel) of each, or the error."""

    entries: Union[List[Tuple[str, str]], BaseException]


class Worker:
    """The work of all worker threads: one object serves all.  Thread-safe.

    All it keeps is until when a site wants no calls.  The coordinator learns of that too, but not before batches that
    wait for their quota would have been sent.
    """

    def __init__(
        self,
        *,
        client: Client,
        quota: Quota,
        outcomes: Outcomes,
        halt: Halt,
        on_sent: Callable[[Sequence[Slice], int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._quota = quota
        self._outcomes = outcomes
        self._halt = halt
        self._on_sent = on_sent
        self._clock = clock
        self._closed_until: Dict[str, float] = {}  # by site; of two written at once either will do

    def run(self, batch: Batch) -> None:
        """Fetch *batch*.  Every slice gets one outcome, or none; then the batch ends."""
        sent: List[float] = []
        unsent: Sequence[Slice] = ()
        error: Optional[BaseException] = None
        began = self._clock()
        try:
            unsent = self._fetch(batch, sent)
        except Halted:
            return
        except BaseException as caught:  # also SystemExit, which a pool thread would swallow with its outcome
            if not isinstance(caught, CredentialsError):
                logger.exception("worker died on HTTP batch %d of %s", batch.number, batch.site)
            error = caught
        self._outcomes.put(BatchEnded(batch, sent[0] if sent else None, error, self._clock() - began, unsent))

    def list_sites(self) -> None:
        """Ask which sites the account has."""
        try:
            self._outcomes.put(SitesListed(self._client.sites()))
        except Halted:
            return
        except BaseException as error:  # advice is all that is lost; but the coordinator waits for the answer
            self._outcomes.put(SitesListed(error))

    def _fetch(self, batch: Batch, sent: List[float]) -> Sequence[Slice]:
        """Fetch *batch*, in as many parts as the quota grants it; note in *sent* when each was begun.  What the site
        wants no calls for is given back."""
        done = 0
        while done < len(batch.slices) and not self._is_closed(batch.site):
            grant = self._quota.acquire(batch.site, len(batch.slices) - done)
            if grant is None:
                raise Halted
            if self._halt.is_set():
                self._quota.refund(grant)
                raise Halted
            if self._is_closed(batch.site):  # since we began to wait
                self._quota.refund(grant)
                break
            part = batch.slices[done : done + grant.calls]
            done += len(part)
            self._fetch_part(batch, part, grant, sent)
        return batch.slices[done:]

    def _is_closed(self, site: str) -> bool:
        return self._clock() < self._closed_until.get(site, -math.inf)

    def _fetch_part(self, batch: Batch, part: Sequence[Slice], grant: Grant, sent: List[float]) -> None:
        refused, sent_out = 0, False

        def on_request() -> None:
            nonlocal sent_out
            sent_out = True
            self._quota.sent(grant)
            self._on_sent(part, sum(slice_ in batch.again for slice_ in part))

        def deliver(outcome: Union[Fetched, Failed]) -> None:
            nonlocal refused
            if isinstance(outcome, Failed):
                refused += isinstance(outcome.error, BurstQuota)
                # Faults may be the slice's own: whether they are, the plan knows.
                pause = site_pause(outcome.error) if isinstance(outcome.error, BurstQuota) else 0.0
                if pause:
                    until = self._clock() + pause
                    self._closed_until[batch.site] = max(until, self._closed_until.get(batch.site, until))
            if not self._outcomes.put(outcome):
                raise Halted

        try:  # from here on: a grant that nobody settles would count for as long as the run lives
            sent.append(self._clock())
            self._client.fetch(part, deliver, on_request)
        finally:
            if sent_out:
                self._quota.settle(grant, refused=refused)
            else:
                self._quota.refund(grant)
