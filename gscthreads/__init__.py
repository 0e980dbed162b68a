# SPDX-License-Identifier: MIT
"""gscthreads: copy Google Search Console search traffic into your own SQL database.

    import gscthreads

    result = gscthreads.sync(
        "sc-domain:example.com", start="16m", end="yesterday",
        store="sqlite:///search.db", credentials="credentials.json",
    )
    print(result.status, result.days, result.rows)

What holds, whatever happens (kill -9 included): a published day has exactly the rows Google served, each once; readers
see whole days only; what was acknowledged is never fetched again; no 60 seconds see more calls than the budget, which
all processes that sync one store share.  A dataset is synced by one of them at a time.

Threads: ``max_concurrency`` workers fetch, one coordinator thread writes.  They are started by ``Sync.start`` (or
``sync``), never at import, and are gone when ``Sync.wait`` returns.  No signal handler is installed.  Memory: about
45 MB for Python and requests, 30 MB while a slice of 25,000 rows is decoded, and at most 50,000 decoded rows (about
16 MB) on their way into the database; it grows with none of the settings.

Logging goes to the logger named like this package, which is silent until you configure it.
"""

from __future__ import annotations

import logging as _logging

from ._version import __version__
from .config import SyncConfig
from .errors import (
    ApiError,
    BadRequest,
    BurstQuota,
    ConfigError,
    CredentialsError,
    DailyQuota,
    Denied,
    GscError,
    LeaseLost,
    LoadQuota,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreLost,
    StoreMissing,
    Transient,
    Unauthorized,
)
from .figures import DatasetResult, Result, Snapshot
from .model import Dataset, Report
from .stores import open_store
from .sync import Sync, sync

__all__ = [
    "ApiError",
    "BadRequest",
    "BurstQuota",
    "ConfigError",
    "CredentialsError",
    "DailyQuota",
    "Dataset",
    "DatasetResult",
    "Denied",
    "GscError",
    "LeaseLost",
    "LoadQuota",
    "Report",
    "Result",
    "Snapshot",
    "StoreError",
    "StoreFull",
    "StoreLocked",
    "StoreLost",
    "StoreMissing",
    "Sync",
    "SyncConfig",
    "Transient",
    "Unauthorized",
    "__version__",
    "open_store",
    "sync",
]

_logging.getLogger(__name__).addHandler(_logging.NullHandler())
