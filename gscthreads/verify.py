"""``verify``: is the copy right?  Held against itself without a call, and against Google with a stated number.

    findings       what the store says of itself
    spotcheck      random pages, and the totals of each day, against fresh answers
    repair         mends what can be mended here, and fetches just the days that are wrong
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import logging
import random
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple
from typing import TypeVar, Union

from . import audit, pacific
from .audit import Flaw
from .auth import Credentials, open_credentials
from .backoff import Backoff
from .client import Client
from .config import PROJECT_QPM, SyncConfig
from .errors import ConfigError, CredentialsError, StoreError, StoreLocked
from .figures import COMPLETE, FAILED, Result
from .findings import Finding, examine
from .halt import Halt, Halted
from .model import ROW_LIMIT, Dataset
from .quota import Quota
from .rows import make_decoder
from .sockets import SocketRegistry
from .spotcheck import SpotCheck
from .stores import open_store
from .stores.base import Park, RunFigures, Store
from .sync import Sync
from .ticking import Ticking

logger = logging.getLogger(__name__)

#: Seconds after a halt for which the thread that verifies is waited for; one that hangs where no halt reaches (name
#: resolution) is left behind and ends by itself.
_GRACE = 1.5

#: Settings that say what a day holds and when it is final: a repair takes those of the dataset's last sync.
_KEPT = ("data_state", "final_after_days", "empty_final_after_days", "until_empty")

#: Most runs looked at for them.
_RUNS = 1000

T = TypeVar("T")


# -- repair


class Group(NamedTuple):
    """Datasets of one site and search type that were synced with the same settings: one run repairs them."""

    site: str
    search_type: str
    settings: Tuple[Tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class Repair:
    """What was done: flaws mended here, days fetched again (with how many calls, and how that ended: "" when there was
    nothing to fetch), wrong days that Google no longer has, and days left to the next sync."""

    mended: int
    fetched: int
    gone: int
    left: int
    calls: int = 0
    status: str = ""
    reason: str = ""


def repair(
    findings: Sequence[Finding],
    strays: Mapping[str, int],
    store: Store,
    config_for: Optional[Callable[[Group, Sequence[Dataset], dt.date, dt.date], SyncConfig]],
    groups: Mapping[Dataset, Group],
    today: dt.date,
    halt: Halt,
) -> Repair:
    """Mend *findings* and drop *strays* in the closed *store*, then fetch the days that are wrong, and only those.

    *config_for* makes the configuration of a run that fetches; without it (no credentials) days are reopened and
    the next sync that covers them fetches them.  *groups*: which datasets go together.  Raises StoreLocked when a sync
    is at work on one of the datasets.
    """
    oldest = pacific.oldest_day(today)
    flaws = [flaw for finding in findings for flaw in finding.flaws + finding.different]
    # A day that Google no longer has stays as it is: better a wrong row than none.
    flaws = [flaw for flaw in flaws if flaw.kind != "rows" or flaw.date is not None and flaw.date >= oldest]
    wanted = {finding.dataset: {date for date in finding.wrong_days() if date >= oldest} for finding in findings}
    wanted = {dataset: dates for dataset, dates in wanted.items() if dates}
    gone = sum(date < oldest for finding in findings for date in finding.wrong_days())
    if flaws or strays:
        with Ticking(_interrupting(store, halt)):
            _mend(flaws, strays, store, halt)
    results: List[Result] = []
    error = ""
    if config_for is not None:
        try:
            for result in _fetch(wanted, config_for, groups, today, halt):
                results.append(result)
        except CredentialsError as caught:  # what was found and mended must be told all the same
            error = str(caught)
    fetched = sum(result.days for result in results)
    status = next((result.status for result in results if result.status != COMPLETE), COMPLETE if results else "")
    reason = next((result.reason for result in results if result.reason), "")
    return Repair(
        len({flaw[:3] for flaw in flaws}) + len(strays), fetched, gone, sum(map(len, wanted.values())) - fetched,
        sum(result.calls for result in results), FAILED if error else status, error or reason,
    )


def _fetch(
    wanted: Mapping[Dataset, Set[dt.date]],
    config_for: Callable[[Group, Sequence[Dataset], dt.date, dt.date], SyncConfig],
    groups: Mapping[Dataset, Group],
    today: dt.date,
    halt: Halt,
) -> Iterator[Result]:
    """Fetch the *wanted* days, one run for each group."""
    for group in dict.fromkeys(groups[dataset] for dataset in wanted):
        only = {dataset: dates for dataset, dates in wanted.items() if groups[dataset] == group}
        dates = [date for each in only.values() for date in each]
        run = Sync(config_for(group, list(only), min(dates), max(dates)), today=today, only=only)
        halt.on_set(lambda run=run: run.halt(halt.reason))  # type: ignore[misc]
        yield run.run()
        if halt.is_set():
            return


def _mend(flaws: Sequence[Flaw], strays: Mapping[str, int], store: Store, halt: Halt) -> None:
    began = time.monotonic()
    store.open(halt=halt)
    try:
        store.begin(halt)
        run_id = store.start_run('{"verify": "repair"}')
        held = store.claim({flaw.dataset for flaw in flaws})
        if held:
            dataset, holder = next(iter(held.items()))
            raise StoreLocked(f"{dataset} is {holder}; repair it afterwards")
        if strays:  # before days come that may get their numbers
            audit.drop_strays(store)
        audit.mend(store, flaws)
        seconds = round(time.monotonic() - began, 3)
        store.save_run(run_id, RunFigures(COMPLETE, 0, 0, 0, 0, 0, seconds), ended=True)
        if halt.is_set():
            raise Halted
        store.commit()
    finally:
        store.rollback()
        store.close()


def how_synced(store: Store, datasets: Sequence[Dataset]) -> Dict[Dataset, Group]:
    """How each of *datasets* in the open *store* was synced last, so that a repair leaves settings as they are."""
    ranked = {
        (site, report, kind): top_queries for site, report, kind, top_queries in store.read(
            "SELECT site, report, search_type, top_queries FROM gsc_dataset"
        )
    }
    runs = []
    for text, in store.read(f"SELECT settings FROM gsc_runs ORDER BY run_id DESC LIMIT {_RUNS}"):
        try:
            settings = json.loads(text)
        except ValueError:  # not written by us
            continue
        if isinstance(settings, dict):
            runs.append(settings)
    groups = {}
    for dataset in datasets:
        names = {"sites": dataset.site, "reports": dataset.report.name, "search_types": dataset.search_type}
        last: Dict[str, Any] = next(
            (run for run in runs if all(value in run.get(name, ()) for name, value in names.items())), {}
        )
        kept = {name: last[name] for name in _KEPT if name in last}
        kept["top_queries"] = ranked[dataset.site, dataset.report.name, dataset.search_type]
        groups[dataset] = Group(dataset.site, dataset.search_type, tuple(sorted(kept.items())))
    return groups


# -- all of it


@dataclasses.dataclass(frozen=True)
class Verification:
    """What ``verify`` found and did.  ``calls`` were made for it, those of the repair not included.  ``strays``: what
    is stored of days that are not in the ledger, which no reader sees.  ``unasked``: sites that Google was not asked
    about, or not all that was meant, and why."""

    findings: List[Finding]
    calls: int
    repair: Optional[Repair] = None
    strays: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unasked: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def wrong(self) -> bool:
        """True when something was wrong and has not been mended."""
        if self.repair is None:
            return bool(self.strays) or any(finding.wrong for finding in self.findings)
        return self.repair.gone > 0 or self.repair.left > 0 or self.repair.status not in ("", COMPLETE)

    @property
    def exit_status(self) -> int:
        """That of the command: 1 something is wrong, 3 Google could not be asked, 0 all is well."""
        return 1 if self.wrong else 3 if self.unasked else 0

    def as_dict(self) -> Dict[str, Any]:
        """The object that ``--json`` prints."""
        status = "wrong" if self.wrong else "repaired" if self.repair else "incomplete" if self.unasked else "ok"
        values: Dict[str, Any] = {
            "status": status,
            "calls": self.calls,
            "datasets": [finding.as_dict() for finding in self.findings],
            "strays": dict(self.strays),
            "unasked": dict(self.unasked),
        }
        if self.repair is not None:
            values["repair"] = dataclasses.asdict(self.repair)
        return values


def verify(
    store_url: Union[str, Store],
    *,
    sites: Optional[Sequence[str]] = None,
    credentials: Any = None,
    pages: int = 100,
    mend: bool = False,
    halt: Optional[Halt] = None,
    today: Optional[dt.date] = None,
    seed: Optional[int] = None,
    announce: Callable[[str], None] = logger.info,
    **settings: Any,
) -> Verification:
    """Verify a store.  Without *credentials* no call is made; with them, *pages* random pages are compared with
    Google's answers, and the clicks of rows with queries with the site's.  *mend* repairs what is wrong.

    *settings* are those of SyncConfig (``api_root``, ``qpm_limit``, ...).  A repair takes those that say what a day
    holds (``data_state``, ``top_queries``, ...) from the last sync, unless they are given.  *announce* is told, from
    another thread, what is about to be done.  Raises what a sync raises, and Halted after ``halt.set``; but what Google
    refuses is told beside what was found.
    """
    if not 0 <= pages <= ROW_LIMIT:
        raise ConfigError(f"pages must be from 0 to {ROW_LIMIT}, not {pages}")
    store = open_store(store_url) if isinstance(store_url, str) else store_url
    halt = halt or Halt()
    work = _Verify(store, sites, credentials, pages, halt, today or pacific.today(), seed, announce, settings)
    return _in_a_thread(lambda: work.run(mend), halt)


def _in_a_thread(work: Callable[[], T], halt: Halt) -> T:
    """What *work* returns or raises; Halted soon after a halt, whatever it does.

    Signal handlers run in the main thread between any two instructions, and halting takes locks (that of the sockets,
    those inside of Event): whoever holds one of them must not be the thread that a handler interrupts.
    """
    results: List[T] = []
    errors: List[BaseException] = []
    ended = threading.Event()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, name=__name__, daemon=True).start()
    try:
        while not ended.wait(0.1):
            if halt.set_at is not None and time.monotonic() > halt.set_at + _GRACE:
                logger.warning("verifying did not end at once; it ends by itself")
                raise Halted
    except BaseException as error:  # Ctrl-C, where nobody handles it
        halt.set(type(error).__name__)
        raise
    if errors:
        raise errors[0]
    return results[0]


def _interrupting(store: Store, halt: Halt) -> Callable[[], None]:
    """A tick that, once halted, breaks off whatever *store* is working on."""
    return lambda: store.interrupt() if halt.is_set() else None


class _Verify:
    """The work of one ``verify``, from opening the store to closing it."""

    def __init__(
        self,
        store: Store,
        sites: Optional[Sequence[str]],
        credentials: Any,
        pages: int,
        halt: Halt,
        today: dt.date,
        seed: Optional[int],
        announce: Callable[[str], None],
        settings: Mapping[str, Any],
    ) -> None:
        self._store = store
        self._sites = sites
        self._pages = pages
        self._halt = halt
        self._today = today
        self._seed = seed
        self._announce = announce
        self._settings = settings
        self._credentials = credentials
        self._access: Optional[Credentials] = None
        if credentials is not None:  # here, lest a typing error is told after minutes
            self._config = self._config_of(list(sites or ()) or ["all"])
            self._access = open_credentials(credentials)

    def _config_of(self, sites: Sequence[str], **more: Any) -> SyncConfig:
        return SyncConfig(
            sites=sites, store=self._store, credentials=self._credentials, **{**more, **self._settings}
        )

    def run(self, mend: bool) -> Verification:
        """Look, ask, mend."""
        try:
            found, groups = self._look()
            if mend and found.wrong:
                config_for = self._repairing if self._access is not None else None
                done = repair(
                    found.findings, found.strays, self._store, config_for, groups, self._today, self._halt
                )
                found = dataclasses.replace(found, repair=done)
        except StoreError as error:
            if self._halt.is_set():  # what it was working on was broken off
                raise Halted from error
            raise
        if self._halt.is_set():
            raise Halted
        return found

    def _look(self) -> Tuple[Verification, Dict[Dataset, Group]]:
        store, halt, check = self._store, self._halt, None
        store.open(writing=False, halt=halt)
        try:
            with Ticking(_interrupting(store, halt)):
                findings = examine(store, halt, oldest=pacific.oldest_day(self._today), sites=self._sites)
                if halt.is_set():
                    raise Halted
                strays = audit.strays(store)
                groups = how_synced(store, [finding.dataset for finding in findings])
            if self._access is not None and findings:
                check = self._ask(self._access, findings)
        finally:
            store.close()
        if check is None:
            return Verification(findings, 0, None, strays), groups
        if check.parked:
            with Ticking(_interrupting(store, halt)):
                _note_parks(check.parked, store, halt)
        return Verification(findings, check.calls, None, strays, check.unasked), groups

    def _ask(self, access: Credentials, findings: Sequence[Finding]) -> SpotCheck:
        """Spot checks and totals."""
        config, store, halt = self._config, self._store, self._halt
        registry = SocketRegistry()
        halt.on_set(registry.abort)
        client = Client(
            api_root=config.api_root, credentials=access, registry=registry, halt=halt,
            http_timeout=config.http_timeout, data_state=config.data_state, decode=make_decoder(),
            ca_bundle=config.ca_bundle,
        )
        quota = Quota(
            site_budget=config.budget, user_budget=config.budget,
            project_budget=int(PROJECT_QPM * config.qpm_target), burst=config.batch_size, account=access.account,
            halt=halt, enabled=config.rate_limit_enabled,
        )
        if config.rate_limit_enabled:
            quota.share(config.ledger or store.quota_ledger())
        interrupt = _interrupting(store, halt)

        def tick() -> None:
            interrupt()
            registry.expire(time.monotonic())
            quota.renew()

        check = SpotCheck(
            store, client, quota, halt, tries=config.max_attempts,
            backoff=Backoff(config.backoff_base, config.backoff_cap), parks=store.parks(),
            dice=random.Random(self._seed),
        )
        oldest = pacific.oldest_day(self._today)
        try:
            with Ticking(tick):
                samples = check.choose(findings, self._pages, oldest)
                totals = len(check.totals(findings, oldest))
                self._announce(
                    f"{len(samples)} pages and {totals} totals are compared with Google: {len(samples) + totals} calls"
                )
                check.ask(findings, samples, oldest)
        finally:
            quota.close()
            client.close()
        return check

    def _repairing(self, group: Group, datasets: Sequence[Dataset], start: dt.date, end: dt.date) -> SyncConfig:
        return self._config_of(
            [group.site], start=start, end=end, reports=[dataset.report for dataset in datasets],
            search_types=[group.search_type], **dict(group.settings),
        )


def _note_parks(parks: Mapping[str, Optional[Park]], store: Store, halt: Halt) -> None:
    """What was learnt of load quotas, for whoever asks next.  Who may only read can't tell them."""
    try:
        store.open(halt=halt)
        try:
            store.begin(halt)
            for site, park in parks.items():
                store.park(site, park)
            store.commit()
        finally:
            store.rollback()
            store.close()
    except StoreError as error:
        logger.warning("could not note that the load quota is spent: %s", error)
