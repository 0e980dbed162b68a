"""One integer -> everything that a chaos run is made of.  Pure."""

from __future__ import annotations

import dataclasses
import random
from typing import Any, Dict, List, Optional, Tuple

from gscthreads.simulator.faults import GROUPS

from .seams import STORE_ERRORS, STORE_POINTS, WORKER_ERRORS, WORKER_POINTS

SITE = "sc-domain:example.com"

#: Faults that pass, or do no harm at all.
PASSING = (*GROUPS["transient"], *GROUPS["harmless"])

HANGING = (*GROUPS["hanging"], "huge", "gzip_bomb")

#: Refusals that no trying again helps against, and how a run ends that meets nothing else.
STOPPING = {**{name: "parked" for name in GROUPS["load"]}, **{name: "failed" for name in GROUPS["final"]}}

#: What a Retry-After header may hold: seconds, dates (which a jumping clock moves), nonsense.
RETRY_AFTER = (
    None, 0, 1, 2, 120, 3600, 10**12, "", "soon", "-5", "1.5", "1e9", "0x10", "nan", "inf", "1, 2", "\xb2",
    "Wed, 21 Oct 2015 07:28:00 GMT", "Fri, 31 Dec 2199 23:59:59 GMT", "Sunday, 06-Nov-94 08:49:37 GMT",
    "Mon, 99 Foo 99999 99:99:99 +9999",
)


@dataclasses.dataclass
class Round:
    """One run of the sync.  ``errors``: (point, passage, index of the error); ``halt``: (point, passage) or seconds."""

    faults: bool = True
    errors: List[Tuple[str, int, int]] = dataclasses.field(default_factory=list)
    hangs: List[Tuple[str, int, int]] = dataclasses.field(default_factory=list)  # fault, times, after
    halt: Optional[Tuple[str, int]] = None
    halt_after: Optional[float] = None
    revoke: Optional[Tuple[str, int]] = None
    stop: Optional[Tuple[str, Optional[int], int]] = None  # fault, times (None: for good), after
    retry_after: Any = None
    change: Optional[int] = None  # a young day (its age) that Google changes before this round
    force: bool = False

    @property
    def quiet(self) -> bool:
        """Nothing but faults that pass: the run has no excuse."""
        return not (self.disturbed or self.stop)

    @property
    def disturbed(self) -> bool:
        """What it ends with may have other reasons than Google."""
        return bool(self.errors or self.hangs or self.halt or self.halt_after is not None)


@dataclasses.dataclass
class Scenario:
    seed: int
    limit: int
    ages: List[int]  # days before today
    sizes: Dict[int, int]  # by age
    pages: int
    nasty: bool
    options: Dict[str, Any]
    settings: Dict[str, Any]
    faults: Dict[str, float]
    jumps: bool
    switch: Optional[float]
    rounds: List[Round]
    anew: List[Round] = dataclasses.field(default_factory=list)  # after Google changed an old day: --force
    longest_wait: float = 0.05  # seconds that a Retry-After is believed at most
    company: bool = False  # others open and close the database all the while

    @property
    def young(self) -> bool:
        return min(self.ages) < 12


def draw(seed: int) -> Scenario:
    dice = random.Random(f"chaos {seed}")
    real_size = dice.random() < 0.06
    limit = 25_000 if real_size else dice.choice((2, 3, 5, 10, 25, 60))
    young = not real_size and dice.random() < 0.2
    first = dice.choice((0, 1, 2, 3)) if young else 20
    count = dice.randint(3, 6) if real_size else dice.randint(3, 14)
    ages = list(range(first, first + count))
    sizes = {age: _size(dice, limit, real_size) for age in ages}
    if real_size:
        sizes[dice.choice(ages)] = dice.choice((24_999, 25_000, 25_001))
    hanging = not real_size and dice.random() < 0.35
    scenario = Scenario(
        seed, limit, ages, sizes, pages=dice.choice((1, 3, 10, 40)) * (20 if real_size else 1),
        nasty=dice.random() < 0.5, options=_options(dice, seed, limit, real_size),
        settings=_settings(dice, hanging, young), faults=_faults(dice), jumps=not young and dice.random() < 0.4,
        switch=1e-6 if dice.random() < 0.25 and not real_size else None, rounds=[],
    )
    for _ in range(dice.randint(1, 4)):
        scenario.rounds.append(_bad_round(dice, hanging, [age for age in ages if age < 3]))
    if dice.random() < 0.25:
        halted = _bad_round(dice, hanging, [])
        halted.force = True
        scenario.anew = [halted, Round(faults=False), Round(faults=False, force=True)]
    scenario.rounds += [Round(), Round(), Round(faults=False), Round(faults=False)]
    _more(random.Random(f"more chaos {seed}"), scenario)
    return scenario


def _more(dice: random.Random, scenario: Scenario) -> None:
    """What came later, with dice of its own: seeds stay what they were."""
    scenario.longest_wait = dice.choice((0.02, 0.02, 0.1, 0.3))
    scenario.company = dice.random() < 0.2
    for _ in range(dice.choice((0, 0, 0, 1, 1, 2))):
        stop = dice.choice(list(STOPPING)), dice.choice((1, 2, None, None)), min(40, int(dice.expovariate(0.15)))
        stopped = Round(faults=dice.random() < 0.5, stop=stop)
        if stop[0] == "token_invalid_grant" and dice.random() < 0.7:  # else at the first token already
            stopped.stop = (*stop[:2], 1)
            stopped.revoke = (dice.choice(("deliver.before", "fetch.before", "decode.after")), 1 + dice.randrange(9))
        scenario.rounds.insert(dice.randint(0, len(scenario.rounds) - 4), stopped)
    for plan in (*scenario.rounds, *scenario.anew):
        plan.retry_after = dice.choice((scenario.options["retry_after"], *RETRY_AFTER))


def _size(dice: random.Random, limit: int, real_size: bool) -> int:
    if real_size:
        return dice.choice((0, 1, dice.randint(2, 80)))
    edges = (0, 0, 1, limit - 1, limit, limit + 1, 2 * limit - 1, 2 * limit, 2 * limit + 1, 3 * limit)
    return dice.choice((*edges, dice.randint(0, 4 * limit), dice.randint(0, 100)))


def _options(dice: random.Random, seed: int, limit: int, real_size: bool) -> Dict[str, Any]:
    unlimited = {"site_qpm": 10**9, "user_qpm": 10**9, "project_qpm": 10**9}
    return {
        **unlimited,
        "seed": seed,
        "latency": dice.choice((0.0, 0.0, 0.002)),
        "latency_jitter": dice.choice((0.0, 0.005, 0.02)),
        "lanes": dice.randint(1, 6),
        "cap": 50_000 if real_size or dice.random() < 0.7 else dice.choice((2 * limit, 2 * limit + 1, 3 * limit)),
        "shuffle_ties": dice.choice((False, "slice")),
        "boundary_duplicates": dice.random() < 0.4,
        "int_style": dice.choice(("12", "12.0")),
        "snake_metadata": dice.random() < 0.5,
        "shuffle_parts": dice.random() < 0.5,
        "retry_after": dice.choice((None, None, 0)),
        "token_lifetime": dice.choice((3599, 3599, 1)),
        "slow_seconds": 0.05,
        "drip_interval": dice.choice((0.0005, 0.02)),
        "huge_bytes": 20_000_000,
    }


def _settings(dice: random.Random, hanging: bool, young: bool) -> Dict[str, Any]:
    base = dice.choice((0.0, 0.002, 0.01))
    reports: List[str] = ["page", "page_query"]
    if dice.random() < 0.3:
        reports.append(dice.choice(("query", "country,device", "date", "page,device", "query,country", "date,page")))
    values: Dict[str, Any] = {
        "reports": reports,
        "search_types": dice.choice((["web"], ["web"], ["web"], ["web", "image"])),
        "max_concurrency": dice.choice((1, 2, 3, "auto", 6)),
        "batch_size": dice.choice((1, 2, 5, 10, 50)),
        "max_queue_size": dice.choice((1, 2, 5, 1000)),
        "max_in_flight": dice.choice((1, 2, 10)),
        "max_open_days": dice.choice((1, 2, 16)),
        "order": dice.choice(("newest", "oldest")),
        "rate_limit_enabled": dice.random() < 0.3,
        "qpm_limit": 40_000,
        "http_timeout": dice.choice((0.3, 0.6)) if hanging else 45.0,
        "max_attempts": dice.randint(5, 8),
        "backoff_base": base,
        "backoff_cap": base * 8,
        "top_queries": dice.choice((1, 3, 20)),
        "until_empty": dice.random() < 0.1,
    }
    if young:
        values["data_state"] = dice.choice(("final", "all"))
    return values


def _faults(dice: random.Random) -> Dict[str, float]:
    names = dice.sample(PASSING, dice.choice((1, 3, 8, 15, len(PASSING))))
    total = dice.choice((0.03, 0.08, 0.15))
    faults = {name: round(dice.random() * 2 * total / len(names), 5) for name in names}
    if "token_503" in faults and len(names) < 8:
        faults["token_503"] = 0.3
    return faults


def _bad_round(dice: random.Random, hanging: bool, young: List[int]) -> Round:
    def passage() -> int:
        return min(40, 1 + int(dice.expovariate(0.25)))

    bad = Round()
    for _ in range(dice.choice((0, 1, 1, 2, 4))):
        if dice.random() < 0.5:
            bad.errors.append((dice.choice(WORKER_POINTS), passage(), dice.randrange(len(WORKER_ERRORS))))
        else:
            bad.errors.append((dice.choice(STORE_POINTS), passage(), dice.randrange(len(STORE_ERRORS))))
    if hanging:
        for _ in range(dice.randint(1, 2)):
            bad.hangs.append((dice.choice(HANGING), dice.randint(1, 2), dice.randint(0, 6)))
    kind = dice.random()
    if kind < 0.3:
        bad.halt = (dice.choice(("deliver.before", "deliver.after", "fetch.before", "acquire.before",
                                 "store.stage.after", "store.publish.after", "store.commit.before",
                                 "store.commit.after", "store.begin.before", "store.open.after")), passage())
    elif kind < 0.5:
        bad.halt_after = round(dice.random() * 0.3, 4)
    if dice.random() < 0.3:
        bad.revoke = (dice.choice(("deliver.before", "fetch.before", "decode.after")), passage())
    if young and dice.random() < 0.6:
        bad.change = dice.choice(young)
    return bad
