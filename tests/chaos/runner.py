"""``run_seed``: draw, run again and again as a cron would, until complete; then compare with the truth."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import faulthandler
import logging
import os
import random
import signal
import tempfile
import threading
import time
from typing import Any, Dict, List, Optional
from unittest import mock

import gscthreads
from gscthreads import pacific
from gscthreads.errors import CredentialsError
from gscthreads.simulator import FAULTS, Simulator, Site
from gscthreads.simulator.faults import Script
from gscthreads.stores import open_store

from . import checks
from .schedule import SITE, STOPPING, Round, Scenario, draw
from .seams import (
    STORE_ERRORS, WORKER_ERRORS, Looks, Recorder, Seams, SeamStore, WallClock, installed, neighbour, on_purpose,
    retry_after_up_to, slices_of, switch_interval, wall_clock,
)

#: Seconds after which a run is called hanging.
HANG = 60.0

#: Seconds after which a halt is one that did not work; no judgement of its speed.
NO_HALT = 15.0


@dataclasses.dataclass
class Report:
    """What became of one seed."""

    seed: int
    failures: List[str] = dataclasses.field(default_factory=list)
    notes: List[str] = dataclasses.field(default_factory=list)
    rounds: List[str] = dataclasses.field(default_factory=list)
    calls: int = 0
    faults: int = 0
    halts: List[float] = dataclasses.field(default_factory=list)  # seconds from halt to the end of the run
    uptime: float = 1.0  # the lowest of the runs in which no worker was made to crash
    seconds: float = 0.0
    scenario: str = ""

    @property
    def ok(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {'ok' if self.ok else 'FAILED'} in {self.seconds:.1f} s, {self.calls} calls,"
                 f" {self.faults} faults"]
        lines += [f"  ! {each}" for each in self.failures] + [f"  ? {each}" for each in self.notes]
        if not self.ok:
            lines += [f"  round {number}: {each}" for number, each in enumerate(self.rounds, 1)]
            lines += [f"  {self.scenario}", f"  again: python -m tests.chaos --seeds {self.seed}:{self.seed + 1} -v"]
        return "\n".join(lines)


class _Errors(logging.Handler):
    """Collects exceptions that the package logged although nobody raised them on purpose."""

    def __init__(self, excused: str = "nothing") -> None:
        super().__init__(logging.WARNING)
        self.excused = excused
        self.found: List[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not on_purpose(error) and self.excused not in record.getMessage():
            self.found.append(f"logged {record.getMessage()}: {error!r}")


def run_seed(seed: int, server: Any = None) -> Report:
    """One scenario from beginning to end.  Not to be called from several threads: it patches the process.

    *server*: a Postgres of our own (tests/postgres_server.py) to store into; its connections are cut now and then, and
    it is restarted in the middle of a run.
    """
    scenario = draw(seed)
    report = Report(seed, scenario=repr(scenario))
    began = time.monotonic()
    before = checks.Belongings()
    # Without its server a run can't write that it has ended; the next one does.
    log, errors = logging.getLogger("gscthreads"), _Errors("nothing" if server is None else "note the end")
    level, propagate = log.level, log.propagate
    log.setLevel(logging.WARNING)
    log.propagate = False
    log.addHandler(errors)
    try:
        with tempfile.TemporaryDirectory(prefix="gscthreads-chaos-") as folder:
            place = os.path.join(folder, "search.db") if server is None else server.database()
            _Chaos(scenario, report, place, server).run()
    finally:
        log.removeHandler(errors)
        log.setLevel(level)
        log.propagate = propagate
    report.failures += errors.found
    if not any("hang" in each for each in report.failures):
        report.failures += before.leaks()
    report.seconds = time.monotonic() - began
    return report


class _Chaos:
    def __init__(self, scenario: Scenario, report: Report, path: str, server: Any = None) -> None:
        self.scenario = scenario
        self.report = report
        self.path = path
        self.server = server
        self.dice = random.Random(scenario.seed)
        self.stop: Optional[Script] = None
        self.restart: Optional[threading.Event] = None  # set: the server is to be restarted
        self.seams = Seams()
        self.recorder = Recorder()
        self.today = pacific.today()
        self.dates = sorted(self.today - dt.timedelta(days=age) for age in scenario.ages)
        self.seen = 0
        self.acknowledged: "set[Any]" = set()
        self._halted_at: Optional[float] = None

    def run(self) -> None:
        scenario = self.scenario
        sizes = {self.today - dt.timedelta(days=age): rows for age, rows in scenario.sizes.items()}
        site = Site(SITE, rows_per_day=lambda date: sizes.get(date, 0), pages=scenario.pages, nasty=scenario.nasty)
        with contextlib.ExitStack() as stack:
            self.sim = stack.enter_context(Simulator(sites=[site], **scenario.options))
            self.sim.clock.set(self.today)
            if self.server is not None:
                # A run that ends while the server is away leaves its leases, and a process that lives.
                stack.enter_context(mock.patch("gscthreads.stores.postgres.BACK_SECONDS", 0.5))
            stack.enter_context(slices_of(scenario.limit))
            stack.enter_context(switch_interval(scenario.switch))
            stack.enter_context(installed(self.seams, self.recorder))
            stack.enter_context(retry_after_up_to(scenario.longest_wait))
            everywhere: List[Any] = []
            if scenario.jumps:
                clock = WallClock(random.Random(scenario.seed))
                everywhere.append(clock.jump)
                stack.enter_context(wall_clock(clock))
            if scenario.company and self.server is None:
                stack.enter_context(neighbour(self.path))
                everywhere.append(Looks(checks.url_of(self.path), random.Random(scenario.seed)).look)
            self.seams.everywhere = lambda: [each() for each in everywhere] and None
            complete = False
            for plan in scenario.rounds:
                complete = self.round(plan) == "complete"
                if self.report.failures or complete:
                    break
            if complete and scenario.anew and not self.report.failures:
                self.change(scenario.ages[-1])
                for plan in scenario.anew:
                    complete = self.round(plan) == "complete"
            if complete and scenario.young and not self.report.failures:
                # What changed while a day of several slices was under way shows once all of it is fetched anew.
                complete = self.round(Round(faults=False)) == "complete"
            if not self.report.failures and not complete:
                self.report.failures.append("still not complete after the last round")
            if not self.report.failures:
                self.check()
            stats = self.sim.stats()
            self.report.calls, self.report.faults = stats["calls"], sum(stats["faults"].values())
            if stats["internal_errors"]:
                self.report.failures.append(f"{stats['internal_errors']} errors of the look-alike itself")

    def round(self, plan: Round) -> str:
        """One run of the sync; its status."""
        self.prepare(plan)
        store = SeamStore(open_store(checks.url_of(self.path)), self.seams, self.recorder)
        config = gscthreads.SyncConfig(
            sites=[SITE], store=store, credentials=self.sim.credentials(), start=self.dates[0], end=self.dates[-1],
            api_root=self.sim.url, force=plan.force, wait=self.server is not None, **self.scenario.settings,
        )
        run = gscthreads.Sync(config, today=None if self.scenario.jumps else self.today)
        for point in (plan.halt,) if plan.halt else ():
            self.seams.at(*point, lambda words: self.halt(run, words))
        timer = None
        if plan.halt_after is not None:
            timer = threading.Timer(plan.halt_after, self.halt, (run, "chaos: after a while"))
            timer.daemon = True
        run.start()
        if timer is not None:
            timer.start()
        status = self.wait(run, plan)
        if timer is not None:
            timer.cancel()
            timer.join()
        self.after(plan, status)
        return status

    def prepare(self, plan: Round) -> None:
        sim, seams = self.sim, self.seams
        seams.reset()
        self._halted_at = None
        sim.faults.clear()
        for name, chance in self.scenario.faults.items() if plan.faults else ():
            sim.faults.set(name, chance)
        sim.options.update({"retry_after": plan.retry_after})
        self.stop = sim.faults.script(*plan.stop) if plan.stop else None
        for name, times, after in plan.hangs:
            sim.faults.script(name, times, after)
        for point, passage, index in plan.errors:
            kinds: Any = STORE_ERRORS if point.startswith("store.") else WORKER_ERRORS
            seams.at(point, passage, _raiser(kinds[index]))
        if self.server is not None:
            self.prepare_server(plan)
        if plan.revoke:
            seams.at(*plan.revoke, lambda words: sim.revoke(refresh=False))
        if plan.change is not None:
            self.change(plan.change)
        if plan.force:
            self.recorder.new_round(forget=True)

    def prepare_server(self, plan: Round) -> None:
        dice = self.dice
        points = [f"store.{name}.{when}" for name in ("begin", "stage", "publish", "save_run", "commit")
                  for when in ("before", "after")]
        if not plan.faults:  # the last round, without excuses
            return
        for _ in range(dice.randrange(4)):
            self.seams.at(dice.choice(points), dice.randint(2, 12), lambda words: self.cut())
        restart = self.restart = threading.Event()
        if dice.random() < 0.3:
            self.seams.at(dice.choice(points), dice.randint(2, 8), lambda words: restart.set())

    def cut(self) -> None:
        with contextlib.suppress(self.server.Error):  # it is being restarted
            self.server.cut(self.path)

    def change(self, age: int) -> None:
        rows = [(f"https://example.com/changed/{number}", f"query {self.seen}", "usa", "MOBILE", 1, 5 + number, 2.0)
                for number in range(self.seen % min(4, self.scenario.limit))]
        self.sim.put_day(SITE, "web", self.today - dt.timedelta(days=age), rows)

    def halt(self, run: Any, words: str) -> None:
        self._halted_at = self._halted_at or time.monotonic()
        run.halt(words)

    def wait(self, run: Any, plan: Round) -> str:
        error: Optional[BaseException] = None
        try:
            if self.restart is not None:
                self.wait_to_restart(run)
            run.wait(HANG)
        except TimeoutError:
            self.report.failures.append(f"hang: the run still goes on after {HANG:g} s\n{stacks()}")
            run.halt("hang")
        except BaseException as caught:
            error = caught
            refused = self.stop is not None and self.stop.name == "token_invalid_grant" and self.stop.hits
            if not on_purpose(caught) and not (refused and isinstance(caught, CredentialsError)):
                self.report.failures.append(f"ended by {caught!r}")
        if self._halted_at is not None:
            self.report.halts.append(time.monotonic() - self._halted_at)
            if self.report.halts[-1] > NO_HALT:
                self.report.failures.append(f"a halt took {self.report.halts[-1]:.1f} s")
        result = run.result
        status = result.status if result is not None else "broken"
        words = f"{status} ({result.reason if result else error!r}) acted {self.seams.acted}"
        self.report.rounds.append(f"{words} of {plan}")
        # A failing token server is left alone for a second: too long for the pauses of these runs.
        if plan.quiet and status != "complete" and "[auth]" not in words:
            self.report.notes.append(f"round {len(self.report.rounds)} had no excuse: {words}")
            if not plan.faults:
                self.report.failures.append(f"a run without any fault ended as {words}")
        self.check_stop(plan, status, words)
        if result is not None and not self.seams.acted:
            self.report.uptime = min(self.report.uptime, result.uptime)
            if result.uptime <= 0.99 or result.restarts:
                self.report.failures.append(f"uptime {result.uptime:.2%}, {result.restarts} restarts without a crash")
        if status == "complete" and (error is not None or result.exit_status != 0):
            self.report.failures.append(f"complete, but {error!r} and exit status {result.exit_status}")
        return status

    def check_stop(self, plan: Round, status: str, words: str) -> None:
        """A refusal for good ends the run, and as it should if nothing else did."""
        stop = self.stop
        if stop is None or not stop.hits or stop.times is not None or FAULTS[stop.name].scope != "query":
            return
        alone = not plan.disturbed and not plan.faults and self.server is None
        if status == "complete" or alone and status != STOPPING[stop.name]:
            self.report.failures.append(f"after {stop.name} for good a run ended as {words}")

    def wait_to_restart(self, run: Any) -> None:
        """Restart the server once that is asked for; from this thread, with which it ends."""
        restart, self.restart = self.restart, None
        until = time.monotonic() + HANG
        while run.result is None and time.monotonic() < until:
            if restart.wait(0.01):
                self.server.stop(self.dice.choice((signal.SIGINT, signal.SIGQUIT)))
                self.server.start()
                return
            with contextlib.suppress(TimeoutError):
                run.wait(0.01)

    def after(self, plan: Round, status: str) -> None:
        """Between two runs: nothing goes on, nothing acknowledged was asked for."""
        failures = self.report.failures
        if failures:
            return
        failures += checks.settled(self.sim)
        entries = self.sim.log.since(self.seen)
        self.seen += len(entries)
        again = self.acknowledged.intersection(checks.asked(entries))
        if again and not plan.force:
            failures.append(f"fetched again although acknowledged in the ledger: {sorted(again)[:3]}")
        failures += self.recorder.wrong
        self.recorder.new_round()
        self.acknowledged = checks.ledger(self.path, self.scenario.limit)

    def check(self) -> None:
        scenario, report = self.scenario, self.report
        calls = self.sim.stats()["calls"]
        if not scenario.young and (self.round(Round(faults=False)) != "complete" or self.sim.stats()["calls"] != calls):
            report.failures.append("a run of finished days made calls")
        settings = scenario.settings
        state = settings.get("data_state", "final")
        common: Dict[str, Any] = {"site": SITE, "reports": settings["reports"], "kinds": settings["search_types"],
                                  "dates": self.dates, "state": state}
        report.failures += checks.differences(self.sim, self.path, top_queries=settings["top_queries"], **common)
        report.failures += checks.wrong_days(
            self.sim, self.path, today=self.today, limit=scenario.limit, until_empty=settings["until_empty"],
            exact_calls=not scenario.options["boundary_duplicates"], **common,
        )


def _raiser(kind: Any) -> Any:
    def action(words: str) -> None:
        raise kind(words)

    return action


def stacks() -> str:
    """What every thread does now."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()
