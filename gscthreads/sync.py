"""``Sync``: wiring, and the only place that creates threads.

Who may touch what:

    plan, store             the coordinator thread only        ownership, no lock
    outcomes                workers put, coordinator takes     queue.Queue and one condition
    decoding                one worker at a time               turns, held until the rows are in outcomes
    quota                   workers                            one lock, never held while waiting
    access token            workers                            one lock, held during the refresh
    sockets                 workers register, a halt shuts     one lock
    counters                everybody                          one lock
    halt                    everybody                          Event and lock; one-way
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import datetime as dt
import logging
import threading
import time
from types import TracebackType
from typing import Any, Callable, Optional, Type, Union

from . import pacific
from .auth import open_credentials
from .client import Client
from .concurrency import MOST
from .config import GOOGLE, PROJECT_QPM, SyncConfig, check_ca_bundle, check_root
from .coordinator import Coordinator, Only
from .errors import ConfigError, GscError, LeaseLost, StoreFull, StoreLocked, StoreLost
from .figures import RUNNING, Counters, Result, Snapshot
from .halt import Halt, Halted
from .outcomes import Outcomes
from .pool import LooseThreadPool
from .quota import Quota
from .rows import make_decoder
from .sockets import SocketRegistry
from .stores import open_store
from .stores.base import Store
from .tally import Tally
from .ticking import Ticking
from .worker import Worker

logger = logging.getLogger(__name__)

#: Seconds a halted run waits for its workers; one that hangs where no halt reaches (name resolution) is left behind.
_GRACE = 0.4

#: Seconds between looks at whether the interpreter is exiting.
_WATCH = 0.25


class Sync:
    """One run: start it, watch it, halt it, wait for it.  Thread-safe.  Use each object once.

        with gscthreads.Sync(config) as run:
            run.start()
            print(run.snapshot())
            result = run.wait()

    Leaving the ``with`` block halts a run that is still going on and waits for it.  Constructing opens the
    credentials file and nothing else; no thread exists before ``start``.  *only*: instead of what *config* names, these
    days of these datasets.
    """

    def __init__(
        self, config: SyncConfig, *, today: Optional[dt.date] = None, only: Optional[Only] = None
    ) -> None:
        self.config = config
        self._only = only
        self._store: Store = open_store(config.store) if isinstance(config.store, str) else config.store
        self._credentials = open_credentials(config.credentials)
        self._today = pacific.today() if today is None else today
        config.days(self._today)  # a wrong date is an error here, not in a thread
        self._halt = Halt()
        self._counters = Counters()
        self._ended = threading.Event()
        self._lock = threading.Lock()  # guards _coordinator_thread
        self._thread: Optional[threading.Thread] = None
        self._coordinator: Optional[Coordinator] = None
        self._result: Optional[Result] = None
        self._error: Optional[BaseException] = None
        self._began = 0.0
        self._outcomes = Outcomes(config.max_queue_size, self._halt)
        burst = config.batch_size
        self._quota = Quota(
            site_budget=config.budget,
            user_budget=config.budget,
            project_budget=int(PROJECT_QPM * config.qpm_target),
            burst=burst,
            enabled=config.rate_limit_enabled,
            account=self._credentials.account,
            halt=self._halt,
        )
        self._registry = SocketRegistry()

    # -- for callers

    def start(self) -> "Sync":
        """Start the threads.  RuntimeError the second time."""
        with self._lock:
            if self._thread is not None:
                raise RuntimeError("this Sync was started already; make a new one for another run")
            self._began = time.monotonic()
            thread = threading.Thread(target=self._coordinate, name=f"{__name__}-coordinator", daemon=True)
            thread.start()  # may raise: then there is nothing to wait for
            self._thread = thread
        return self

    def halt(self, reason: str = "halt() was called") -> None:
        """Stop the run from any thread.  Returns at once; ``wait`` then returns within a second."""
        self._halt.set(reason)

    def wait(self, timeout: Optional[float] = None) -> Result:
        """The result, once the run is over.

        Raises TimeoutError when it still goes on after *timeout* seconds, and what ended the run when that was
        an error of its own (StoreError, CredentialsError, ConfigError): ``result`` then still tells what was done.
        """
        if self._thread is None:
            raise RuntimeError("start() the run before waiting for it")
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._ended.wait(1.0 if deadline is None else min(1.0, max(0.0, deadline - time.monotonic()))):
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"the run still goes on after {timeout} s")
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    @property
    def result(self) -> Optional[Result]:
        """The result of a run that is over, however it ended; None before."""
        return self._result

    def run(self) -> Result:
        """Start and wait.  An exception on the way (Ctrl-C) halts the run first."""
        with self:
            return self.start().wait()

    def snapshot(self) -> Snapshot:
        """How far the run is, at this moment."""
        counters = self._counters
        seconds = time.monotonic() - self._began if self._thread is not None else 0.0
        days, owed_days = counters["days"], counters["days_owed"]
        result, coordinator = self._result, self._coordinator
        return Snapshot(
            status=result.status if result else RUNNING,
            days=days,
            days_owed=owed_days,
            rows=counters["rows"],
            calls=counters["calls"],
            http_batches=counters["http_batches"],
            retries=counters["retries"],
            in_flight=counters["in_flight"],
            open_days=counters["open_days"],
            queue_size=len(self._outcomes),
            queue_fill=self._outcomes.fill(),
            qpm=self._quota.sent_last_minute(),
            peak_qpm=self._quota.peak_qpm(),
            seconds=result.seconds if result else seconds,
            eta=seconds / days * (owed_days - days) if days and not result else None,
            slowed=self._quota.paces(),
            concurrency=coordinator.workers() if coordinator else 0,
            waiting=coordinator.waiting() if coordinator and not result else "",
        )

    def __enter__(self) -> "Sync":
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self._thread is not None and not self._ended.is_set():
            self.halt("the with block was left" if error is None else f"{type(error).__name__}")
            self._ended.wait()

    # -- the coordinator thread

    def _coordinate(self) -> None:
        """Everything from opening the store to closing it; whatever happens, the run ends."""
        try:
            with contextlib.ExitStack() as stack:
                threads = _Threads(self.config.workers or MOST, self._halt)
                stack.callback(threads.end, _GRACE)
                self._halt.on_set(self._registry.abort)
                self._halt.on_set(self._outcomes.wake)
                coordinator, client = self._wire(threads)
                self._coordinator = coordinator
                stack.callback(client.close)
                self._drive(coordinator)
                by_itself = self._halt.set(str(self._error) if self._error else "the run is over")
                threads.end(_GRACE)
                self._quota.close()
                result = self._result = coordinator.close(self._error, halted=not by_itself)
            # Here, at the very end: what closing took belongs to it.
            self._result = dataclasses.replace(result, halt_seconds=coordinator.halt_seconds(result.status))
        except BaseException as caught:
            logger.exception("the run broke off")
            self._error = self._error or caught
        finally:
            self._halt.set("the run is over")
            self._ended.set()

    def _drive(self, coordinator: Coordinator) -> None:
        try:
            coordinator.open()
            coordinator.run()
        except Halted:
            pass
        except (StoreFull, StoreLocked, StoreLost, LeaseLost) as caught:
            coordinator.park(str(caught))
            logger.error("parked: %s", caught)
        except BaseException as caught:
            self._error = caught
            if not isinstance(caught, GscError):
                logger.exception("the coordinator failed")

    def _wire(self, threads: "_Threads") -> "tuple[Coordinator, Client]":
        config = self.config
        client = Client(
            api_root=config.api_root,
            credentials=self._credentials,
            registry=self._registry,
            halt=self._halt,
            http_timeout=config.http_timeout,
            data_state=config.data_state,
            decode=make_decoder(order=self._store.page_order()),
            turn=self._outcomes.turn,
            ca_bundle=config.ca_bundle,
        )
        tally = Tally(self._counters, peak_qpm=self._quota.peak_qpm)
        worker = Worker(
            client=client,
            quota=self._quota,
            outcomes=self._outcomes,
            halt=self._halt,
            on_sent=tally.sent,
        )
        if config.rate_limit_enabled:
            self._quota.share(self.config.ledger or self._store.quota_ledger())

        coordinator = Coordinator(
            config=config,
            store=self._store,
            outcomes=self._outcomes,
            halt=self._halt,
            tally=tally,
            submit=lambda batch: threads.submit(worker.run, batch),
            list_sites=lambda: threads.submit(worker.list_sites),
            most=lambda site: self._quota.burst(site) if client.batch_supported else 1,
            waits_for_quota=self._quota.is_waited_for,
            tick=self._tick,
            today=self._today,
            only=self._only,
        )
        return coordinator, client

    def _tick(self, now: float) -> None:
        self._registry.expire(now)
        self._quota.renew()


class _Threads:
    """The worker threads, and a watch for the interpreter's exit.

    From the moment the interpreter exits, every executor refuses work, while it may go on waiting for other people's
    threads.  So a refused no-op means: halt.  Nobody waits for a worker that hangs where no halt reaches it.
    """

    def __init__(self, workers: int, halt: Halt) -> None:
        self._halt = halt
        self._pool = LooseThreadPool(workers, thread_name_prefix=f"{__name__}-worker")
        self._canary = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix=f"{__name__}-canary")
        self._running: "set[concurrent.futures.Future[Any]]" = set()
        self._over = False
        self._watch = threading.Thread(target=self._watch_interpreter, name=f"{__name__}-watch", daemon=True)
        self._watch.start()

    def submit(self, work: Callable[..., Any], *values: Any) -> None:
        try:
            future = self._pool.submit(work, *values)
        except RuntimeError:
            self._halt.set("interpreter exit")
            return
        self._running = {each for each in self._running if not each.done()} | {future}

    def _watch_interpreter(self) -> None:
        while not self._halt.wait(_WATCH):
            try:
                self._canary.submit(int)
            except RuntimeError:
                self._halt.set("interpreter exit")

    def end(self, seconds: float) -> None:
        """After a halt: let the threads end; wait at most *seconds* for those at work.  Twice is fine: who did not let
        go the first time is not waited for again."""
        if self._over:
            return
        self._over = True
        self._halt.set("the run is over")
        begun = {each for each in self._running if not each.cancel()}  # the others would find nothing but the halt
        left = concurrent.futures.wait(begun, timeout=seconds).not_done
        if left:
            logger.warning("%d workers did not let go; they end by themselves", len(left))
        self._pool.shutdown(wait=not left)
        self._watch.join()
        self._canary.shutdown(wait=True)


def sync(
    site: Union[str, "list[str]"],
    *,
    store: Union[str, Store],
    credentials: Any,
    start: Union[str, dt.date] = "16m",
    end: Union[str, dt.date] = "yesterday",
    **settings: Any,
) -> Result:
    """Copy *site* (or several) into *store* and return what was done.  Blocks; safe to call again at any time.

    *settings* are those of SyncConfig.  A dataset that fails is told in the result; errors of the run itself
    (ConfigError, CredentialsError, StoreError) are raised.
    """
    sites = [site] if isinstance(site, str) else list(site)
    names = {field.name for field in dataclasses.fields(SyncConfig)}
    for name in settings:
        if name not in names:
            raise ConfigError(f"unknown setting {name!r}; known are {', '.join(sorted(names))}")
    config = SyncConfig(sites=sites, store=store, credentials=credentials, start=start, end=end, **settings)
    return Sync(config).run()


def list_sites(
    credentials: Any, *, api_root: str = GOOGLE, ca_bundle: Optional[str] = None, timeout: float = 45.0
) -> "list[tuple[str, str]]":
    """(siteUrl, permissionLevel) of every site the credentials can see, sorted.  Raises ApiError, CredentialsError."""
    check_root(api_root)
    check_ca_bundle(ca_bundle)
    halt = Halt()
    registry = SocketRegistry()
    client = Client(
        api_root=api_root,
        credentials=open_credentials(credentials),
        registry=registry,
        halt=halt,
        http_timeout=timeout,
        data_state="final",
        decode=make_decoder(fast=False),
        ca_bundle=ca_bundle,
    )
    try:
        with Ticking(lambda: registry.expire(time.monotonic())):
            return sorted(client.sites())
    finally:
        client.close()
