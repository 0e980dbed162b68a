"""``demo``: a whole backfill against the look-alike, and what a person would look at first.  Needs no account."""

from __future__ import annotations

import argparse
import sys
from typing import List

from .config import SyncConfig
from .errors import ConfigError
from .figures import Result
from .progress import Progress
from .signals import halt_on_signals
from .stores import open_store
from .stores.base import Store
from .summary import result_text, table
from .sync import Sync

SITE = "sc-domain:example.com"

_TOP_PAGES = """
SELECT page, clicks, impressions, round(position, 1), days_seen FROM gsc_page_lifetime
WHERE site = ? ORDER BY clicks DESC, impressions DESC, page LIMIT ?
"""

_TOP_QUERIES = """
SELECT query, sum(clicks) AS clicks, sum(impressions) FROM gsc_top_queries
WHERE site = ? AND page = ? AND date > (SELECT date(max(date), '-28 days') FROM gsc_days)
GROUP BY query ORDER BY 2 DESC, 3 DESC, 1 LIMIT 3
"""

_ASK_FOR_MORE = """\
Ask for more, with any SQLite client, for example  sqlite3 {path}  or  python -m sqlite3 {path}  (3.12+):

  -- clicks by month
  SELECT substr(date, 1, 7) AS month, sum(clicks) FROM gsc_page_daily GROUP BY month;

  -- the best queries of one page, day by day
  SELECT date, rank, query, clicks, position FROM gsc_top_queries
  WHERE page = '{page}' AND rank <= 3 ORDER BY date DESC, rank LIMIT 30;

  -- is any day missing?
  SELECT report, status, count(*), min(date), max(date) FROM gsc_days GROUP BY report, status;

Run the demo again: finished days cost no call.  Your own site:  {prog} sync --help"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``demo``."""
    parser.add_argument("--days", type=int, default=150, metavar="N", help="days to backfill (default 150)")
    parser.add_argument("--rows-per-day", type=int, default=2000, metavar="N",
                        help="page_query rows of each day (default 2000; Google shows at most 50,000)")
    parser.add_argument("--store", default="sqlite:///gscthreads-demo.db",
                        help="where the copy goes (default sqlite:///gscthreads-demo.db)")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """Start the look-alike, sync from it, show the result."""
    from .simulator import Simulator, Site

    if not 1 <= args.days <= 480:
        raise ConfigError(f"--days must be from 1 to 480, not {args.days}")
    if not 0 <= args.rows_per_day <= 50_000:
        raise ConfigError(f"--rows-per-day must be from 0 to 50000, not {args.rows_per_day}")
    prog = args.prog.rsplit(" ", 1)[0] if hasattr(args, "prog") else "gscthreads"
    with Simulator(sites=[Site(SITE, rows_per_day=args.rows_per_day)], seed=1) as simulator:
        config = SyncConfig(
            sites=[SITE],
            store=args.store,
            credentials=simulator.credentials(),
            start=f"-{args.days}d",
            end="yesterday",
            api_root=simulator.url,
        )
        print(f"A look-alike of Google's API serves {SITE} at {simulator.url}.")
        print(f"Copying {args.days} days of page and page_query into {args.store}, "
              f"at most {config.budget} calls a minute ...", flush=True)
        sync = Sync(config)
        halt_on_signals(sync.halt)
        with sync, Progress(sync, quiet=args.quiet, stream=sys.stderr):
            result = sync.start().wait()
    print()
    print(result_text(result))
    print(_against_quota(result, config))
    store = open_store(args.store)
    store.open(writing=False)
    try:
        page = _show_top_pages(store)
    finally:
        store.close()
    print(_ASK_FOR_MORE.format(path=args.store.partition(":///")[2], page=page, prog=prog))
    return result.exit_status


def _against_quota(result: Result, config: SyncConfig) -> str:
    if not result.calls:
        return "Every day was there already, and final: no call was made."
    fastest = max(0.0, result.calls - config.batch_size) / ((config.budget - config.batch_size) / 60)
    return (
        f"The quota allows {config.budget} calls a minute, in steps of {config.batch_size}: "
        f"these {result.calls} calls could not take less than {fastest:.1f} s.  They took {result.seconds:.1f} s."
    )


def _show_top_pages(store: Store) -> str:
    """Print the pages with the most clicks, each with its best queries of the last four weeks; the first page."""
    pages = store.read(_TOP_PAGES, (SITE, 10))
    rows: List[List[object]] = []
    for page, clicks, impressions, position, days in pages:
        queries = "; ".join(query for query, _, _ in store.read(_TOP_QUERIES, (SITE, page)))
        rows.append([page, clicks, impressions, position, days, queries])
    print("\nTop pages, and what people searched for when they found them")
    print(table(("page", "clicks", "impressions", "position", "days", "top queries of the last 28 days"), rows))
    print()
    return str(pages[0][0]) if pages else "https://example.com/"
