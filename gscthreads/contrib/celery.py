"""Syncs as Celery tasks: one for each site and range of dates, and one that queues them for many sites.

    app = Celery("project", broker=..., include=["gscthreads.contrib.celery"])

    def search_data():
        return {"store": os.environ["GSC_STORE"], "credentials": "/etc/project/credentials.json"}

    app.conf.gscthreads = search_data

    sync_site.delay("sc-domain:example.com", "-30d", "yesterday")

Only site, start and end travel through the broker.  Everything else, credentials above all, is a setting of the
application: a dict, or (better, because Celery shows its settings to whoever asks the workers) a function that returns
one.  Its keys are those of SyncConfig, ``sites`` for ``sync_sites``, and ``ledger``, which may be the URL of a Redis.

A task that can go on later asks to be tried again; a wrong setting, bad credentials or a site that Google refuses is an
error at once.  All of it may be repeated, moved to another worker or killed at any instant.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import signal
import threading
from types import FrameType
from typing import Any, Dict, Iterator, List, NoReturn, Optional, Sequence

from celery import shared_task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.utils.time import maybe_iso8601
from celery.worker import state as worker_state

from ..config import SyncConfig
from ..errors import ConfigError, GscError, StoreError
from ..figures import COMPLETE, FAILED, HALTED, Result
from ..stores import open_store
from ..stores.base import Store
from ..sync import Sync

#: Seconds before a task that can go on later is tried again: at first, and at most.  Not more, because a broker without
#: timers (Redis) takes a message that waits for an hour for lost, and delivers it once more.
FIRST_PAUSE, LONGEST_PAUSE = 60.0, 1800.0

#: Times in a row that a task is tried again because of faults that pass.  Waiting for a quota or another process has no
#: such limit: give the task ``expires`` if it must not go on for ever.
MOST_FAULTS = 5

#: Why a task is tried again: something that may pass; a site or a database that others use; Google's quota; or it was
#: just somebody else's turn.
FAULT, BUSY, QUOTA, TURN = "fault", "busy", "quota", "turn"

#: The message header in which a try tells the next one why it is made, and how often in a row it was for that.
#: Celery's own ``retries`` counts all of them.  No argument, because arguments are what people tell tasks apart by.
_HEADER = "gscthreads"

#: Seconds between looks whether the task was revoked.
_LOOK = 0.5

#: Kinds of faults that no repetition mends.
_LASTING = {"Denied", "BadRequest"}


class SyncFailed(GscError):
    """At least one dataset could not be synced, and won't be by trying again."""


class SyncUnfinished(GscError):
    """The same task goes on where this one stopped."""


@shared_task(bind=True, acks_late=True, reject_on_worker_lost=True, max_retries=None)
def sync_site(self: Any, site: str, start: str = "16m", end: str = "yesterday") -> Dict[str, Any]:
    """Copy *site* from *start* to *end* (as the command line takes them; relative ones are looked at when the task
    runs, also when it runs again)."""
    settings = _settings(self.app)
    settings.pop("sites", None)
    if self.request.retries:
        _wait_for_quota(self, settings.get("store"), site)
    run = Sync(SyncConfig(sites=[site], start=start, end=end, **settings))
    try:
        result = _watch(run, self.request.id)
    except SoftTimeLimitExceeded as error:
        _again(self, error, TURN if _moved(run) else FAULT, seconds=0.0)
    except StoreError as error:
        _again(self, error, FAULT, moved=_moved(run))
    if result.status == COMPLETE:
        return {"site": site, **{name: getattr(result, name) for name in (
            "status", "days", "rows", "calls", "http_batches", "retries", "seconds", "peak_qpm")}}
    if result.status == HALTED:
        _end_halted(self, result)
    unfinished = SyncUnfinished(result.reason)
    if result.status == FAILED:
        if _LASTING & result.faults.keys():
            raise SyncFailed(result.reason)
        _again(self, unfinished, FAULT, moved=_moved(run))
    if result.resume_at:
        until = dt.datetime.strptime(result.resume_at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.timezone.utc)
        _again(self, unfinished, QUOTA, seconds=_until(until))
    _again(self, unfinished, BUSY, moved=_moved(run))


@shared_task(bind=True)
def sync_sites(
    self: Any, sites: Optional[Sequence[str]] = None, start: str = "16m", end: str = "yesterday"
) -> List[str]:
    """Queue a ``sync_site`` for each of *sites* (default: the setting ``sites``), and return the ids of those tasks.
    They expire when this one would have."""
    if sites is None:
        sites = _settings(self.app).get("sites")
    if not sites or isinstance(sites, str):
        raise ConfigError("sites must be a list of properties, in the call or in the application's setting gscthreads")
    return [sync_site.apply_async((site, start, end), expires=_expires(self)).id for site in sites]


def _settings(app: Any) -> Dict[str, Any]:
    """What the application says of its syncs, as keywords of SyncConfig (and ``sites``)."""
    found = app.conf.get("gscthreads")
    if callable(found):
        found = found()
    if not isinstance(found, dict):
        raise ConfigError("the Celery application needs a setting gscthreads: a dict, or a function that returns one,"
                          " with store, credentials and any other setting of SyncConfig")
    settings = dict(found)
    for name in settings.keys() & {"start", "end"}:
        raise ConfigError(f"{name} is an argument of the task, no setting of the application")
    if isinstance(settings.get("ledger"), str):
        from .redis import RedisLedger

        settings["ledger"] = RedisLedger(settings["ledger"])
    return settings


def _watch(run: Sync, task_id: Optional[str]) -> Result:
    """Run it to its end, or halt it when the task is revoked or out of time."""
    with _halted_by_sigterm(run), run:
        run.start()
        while True:
            try:
                return run.wait(timeout=_LOOK)
            except TimeoutError:
                if task_id in worker_state.revoked:  # where nobody can be terminated: threads, greenlets, solo
                    run.halt("the task was revoked")


@contextlib.contextmanager
def _halted_by_sigterm(run: Sync) -> Iterator[None]:
    """Where SIGTERM would end the process (a child of the prefork pool, whose task is revoked or whose worker shuts
    down) it halts *run* first.  Then the process ends by it, as its parent expects."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    came: List[int] = []

    def halt(number: int, frame: Optional[FrameType]) -> None:
        came.append(number)
        run.halt("SIGTERM")

    signal.signal(signal.SIGTERM, halt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if came:
            os.kill(os.getpid(), signal.SIGTERM)


def _end_halted(task: Any, result: Result) -> NoReturn:
    """The task was revoked, or the worker goes away and another one takes the message."""
    if task.request.id not in worker_state.revoked:
        raise Reject(result.reason, requeue=True)
    task.backend.mark_as_revoked(task.request.id, result.reason, request=task.request)
    raise Ignore(result.reason)


def _wait_for_quota(task: Any, store: Any, site: str) -> None:
    """Don't ask Google before the moment that the last try was told; a wait of hours comes here in several steps."""
    if not isinstance(store, (str, Store)):  # which SyncConfig has words for
        return
    opened = open_store(store)
    try:
        opened.open(writing=False)
    except StoreError:  # not there yet, or something that the sync itself deals with; or another one is using it
        return
    try:
        park = opened.parks().get(site)
    except StoreError:
        return
    finally:
        opened.close()  # the sync opens it again
    if park is not None and park.until > dt.datetime.now(dt.timezone.utc):
        _again(task, SyncUnfinished(park.reason), QUOTA, seconds=_until(park.until))


def _until(moment: dt.datetime) -> float:
    """Seconds to *moment*, at most ``LONGEST_PAUSE``."""
    return min(LONGEST_PAUSE, max(1.0, (moment - dt.datetime.now(dt.timezone.utc)).total_seconds() + 1.0))


def _moved(run: Sync) -> bool:
    """Whether *run* has brought the copy forward: then whatever ended it has come for the first time."""
    return run.result is not None and run.result.days > 0


def _again(
    task: Any, error: Exception, why: str, *, moved: bool = False, seconds: Optional[float] = None
) -> NoReturn:
    """Have the task tried again, unless it was because of ``MOST_FAULTS`` faults in a row; without a worker it is just
    an error.

    The pause is *seconds*, or doubles each time that the same reason comes again and nothing has *moved* in between.
    """
    times = 1 if moved else 1 + _times(task, why)
    if task.request.called_directly or task.request.is_eager or (why == FAULT and times > MOST_FAULTS):
        raise error
    if seconds is None:
        seconds = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(times - 1, 10))
    headers = {**(task.request.headers or {}), _HEADER: [why, times]}
    task.request.update(headers=headers, expires=_expires(task))  # which retry() carries on
    raise task.retry(exc=error, countdown=seconds)


def _expires(task: Any) -> Optional[dt.datetime]:
    """When the task expires.  Its message says that as text, which Celery 5.2 won't send again: it drops the task."""
    expires: Optional[dt.datetime] = maybe_iso8601(task.request.expires)
    return expires


def _times(task: Any, why: str) -> int:
    """How many tries in a row, up to the last one, are told to have ended for this reason."""
    told = (task.request.headers or {}).get(_HEADER)
    if told is None:  # older Celeries (5.2) have each header as an attribute of the request, and no dict of them
        told = task.request.get(_HEADER)
    if isinstance(told, (list, tuple)) and len(told) == 2 and told[0] == why and isinstance(told[1], int):
        return told[1]
    return 0
