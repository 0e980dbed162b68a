"""A small site with days of several small slices, for the tests that plan each accident by hand."""

from __future__ import annotations

import datetime as dt
from typing import Any, List

import gscthreads
from gscthreads import pacific
from gscthreads.simulator import Simulator, Site

from . import checks

SITE = "sc-domain:example.com"
LIMIT = 10  # rows of a slice, by seams.slices_of
TODAY = pacific.today()
LAST = TODAY - dt.timedelta(days=20)
SIZES = (25, 10, 0, 9, 31, 1)


def days(count: int) -> List[dt.date]:
    return [LAST - dt.timedelta(days=number) for number in range(count)]


def rows_of(date: dt.date) -> int:
    return SIZES[(LAST - date).days % len(SIZES)]


def simulator(**options: Any) -> Simulator:
    unlimited = {"site_qpm": 10**9, "user_qpm": 10**9, "project_qpm": 10**9}
    return Simulator(sites=[Site(SITE, rows_per_day=rows_of, pages=12, nasty=True)],
                     **{"seed": 7, **unlimited, **options})


def config(sim: Simulator, store: Any, dates: List[dt.date], **settings: Any) -> gscthreads.SyncConfig:
    values = {"rate_limit_enabled": False, "batch_size": 3, "backoff_base": 0.01, "backoff_cap": 0.1, **settings}
    return gscthreads.SyncConfig(sites=[SITE], store=store, credentials=sim.credentials(), start=dates[-1],
                                 end=dates[0], api_root=sim.url, **values)


def assert_truth(sim: Simulator, path: Any, dates: List[dt.date], limit: int = LIMIT) -> None:
    common: Any = {"site": SITE, "reports": ["page", "page_query"], "kinds": ["web"], "dates": dates, "state": "final"}
    different = checks.differences(sim, str(path), **common)
    assert different == [], different  # pytest explains assertions of test modules only
    wrong = checks.wrong_days(sim, str(path), today=TODAY, limit=limit, until_empty=False, exact_calls=True, **common)
    assert wrong == [], wrong


def asked_since(sim: Simulator, seen: int) -> List[Any]:
    """What the look-alike was asked after the first *seen* queries, once nobody asks any more."""
    assert checks.settled(sim) == []
    return checks.asked(sim.log.since(seen))
