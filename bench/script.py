"""What somebody would write by hand: google-api-python-client, one table a report, executemany."""

from __future__ import annotations

import concurrent.futures
import datetime as dt
import json
import sqlite3
import threading
from typing import Any, Dict, Iterator, List, Tuple

from google.oauth2.credentials import Credentials
from googleapiclient.discovery import build

from .meter import Meter
from .task import REPORTS, Task

TABLES = """
CREATE TABLE page (site TEXT, date TEXT, page TEXT, clicks INTEGER, impressions INTEGER, ctr REAL, position REAL,
                   PRIMARY KEY (site, date, page));
CREATE TABLE page_query (site TEXT, date TEXT, page TEXT, query TEXT, clicks INTEGER, impressions INTEGER, ctr REAL,
                         position REAL, PRIMARY KEY (site, date, page, query));
"""

LIMIT = 25_000


def connect(task: Task) -> Any:
    """A client of the API; one a thread, for httplib2 is not thread-safe."""
    with open(task.credentials, encoding="utf-8") as file:
        info = json.load(file)
    # not from_authorized_user_file: it asks Google for tokens, whatever the file's token_uri says
    credentials = Credentials(None, refresh_token=info["refresh_token"], token_uri=info["token_uri"],
                              client_id=info["client_id"], client_secret=info["client_secret"])
    return build("searchconsole", "v1", static_discovery=True, cache_discovery=False, credentials=credentials,
                 client_options={"api_endpoint": task.url})


def answers(service: Any, site: str, date: str, report: str) -> Iterator[List[Dict[str, Any]]]:
    """The slices of a day, one call each."""
    start = 0
    while True:
        asked = {"startDate": date, "endDate": date, "dimensions": list(REPORTS[report]), "rowLimit": LIMIT,
                 "startRow": start}
        rows = service.searchanalytics().query(siteUrl=site, body=asked).execute().get("rows", [])
        yield rows
        if len(rows) < LIMIT:
            return
        start += LIMIT


def write(database: sqlite3.Connection, site: str, date: str, report: str, rows: List[Dict[str, Any]]) -> None:
    """One slice, one transaction."""
    marks = ",".join("?" * (len(REPORTS[report]) + 6))
    values = [(site, date, *row["keys"], row["clicks"], row["impressions"], row["ctr"], row["position"])
              for row in rows]
    with database:
        database.executemany(f"INSERT OR REPLACE INTO {report} VALUES ({marks})", values)


def jobs(task: Task) -> List[Tuple[str, dt.date, str]]:
    """(site, date, report) of everything asked for."""
    return [(site, date, report) for site in task.sites for date in task.days() for report in REPORTS]


def sequential(task: Task) -> Dict[str, Any]:
    """One call after another."""
    meter = Meter()
    database = open_database(task)
    service = connect(task)
    for site, date, report in jobs(task):
        for rows in answers(service, site, date.isoformat(), report):
            write(database, site, date.isoformat(), report, rows)
    return finish(database, meter)


def pooled(task: Task) -> Dict[str, Any]:
    """The same on eight threads, with a lock around the database."""
    meter = Meter()
    database = open_database(task)
    lock = threading.Lock()
    mine = threading.local()

    def work(job: Tuple[str, dt.date, str]) -> None:
        if not hasattr(mine, "service"):
            mine.service = connect(task)
        site, date, report = job
        for rows in answers(mine.service, site, date.isoformat(), report):
            with lock:
                write(database, site, date.isoformat(), report, rows)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for done in pool.map(work, jobs(task)):
            assert done is None
    return finish(database, meter)


def open_database(task: Task) -> sqlite3.Connection:
    """The script's own tables, in WAL mode like ours."""
    database = sqlite3.connect(task.path, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.executescript(TABLES)
    return database


def finish(database: sqlite3.Connection, meter: Meter) -> Dict[str, Any]:
    """Close, then count: closing writes the log back into the file, as it does for everybody."""
    counts = {report: database.execute(f"SELECT count(*) FROM {report}").fetchone()[0] for report in REPORTS}
    database.close()
    return {**meter.read(), "rows": sum(counts.values()), "query_rows": counts["page_query"]}
