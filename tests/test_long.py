"""Real processes against the real look-alike at the real minute: quota shared by four, burst limits nobody told.

GSCTHREADS_LONG=1 runs them at full length (about 4 and 14 minutes each; ``-n 4`` runs all side by side, since they
mostly wait); otherwise there is only a version whose minute is 3 seconds long.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

import gscthreads
from gscthreads import pacific
from gscthreads.simulator import Simulator, Site
from gscthreads.simulator import quota as simulated_quota

LONG = os.environ.get("GSCTHREADS_LONG", "") not in ("", "0")
long_only = pytest.mark.skipif(not LONG, reason="takes minutes: GSCTHREADS_LONG=1")
ROOT = Path(__file__).resolve().parent.parent
SITE = "sc-domain:example.com"
KINDS = ("web", "image", "video", "news")
REPORTS = ("page", "page_query")
LAST = pacific.today() - dt.timedelta(days=20)

#: The command line, in a process whose minute is as long as it is told.
SHORT_MINUTE = """
import sys
import gscthreads.quota
gscthreads.quota.WINDOW = float(sys.argv.pop(1))
from gscthreads import cli
sys.exit(cli.main(sys.argv[1:]))
"""


class Lookalike:
    """``gscthreads simulate`` as a process, talked to over HTTP only."""

    def __init__(self, folder, *words):
        self.credentials = str(folder / "credentials.json")
        command = [sys.executable, "-m", "gscthreads", "simulate", "--write-credentials", self.credentials,
                   "--distinct-days", "1", "--rows-per-day", "10", "--pages", "5", "--retention-months", "none", *words]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.url = re.search(r"http://\S+", self._process.stdout.readline()).group(0)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        with self._process:
            self._process.terminate()

    def control(self, path, value=None):
        data = None if value is None else json.dumps(value).encode()
        with urllib.request.urlopen(f"{self.url}/_sim/{path}", data) as response:
            return json.load(response)

    def stats(self):
        return self.control("stats")

    def entries(self):
        return self.control("log")["entries"]


def sync_words(url, credentials, path, days, *words):
    found = ["sync", "--site", SITE, "--store", f"sqlite:///{path}", "--credentials", credentials, "--api-root", url,
             "--start", str(LAST - dt.timedelta(days=days - 1)), "--end", str(LAST), "--quiet", "--json"]
    return found + [word for report in REPORTS for word in ("--report", report)] + list(words)


def together(*commands):
    """Run them at the same time: [(exit status, result, stderr)]."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(subprocess.Popen(words, **pipes)) for words in commands]
        ended = [(*process.communicate(), process.returncode) for process in running]
    return [(status, json.loads(out.splitlines()[-1]), err) for out, err, status in ended]


def assert_all_there_once(path, entries, found, days):
    """Every slice was served once, and published; returns how many there are."""
    asked = [(each["search_type"], *each["dimensions"], each["start_date"], each["start_row"]) for each in entries
             if each["status"] == 200]
    assert len(asked) == len(set(asked)) == len(KINDS) * len(REPORTS) * days
    with contextlib.closing(sqlite3.connect(str(path))) as database:
        assert database.execute("SELECT status, count(*) FROM gsc_days GROUP BY 1").fetchall() == [
            ("final", len(asked))]
        assert database.execute("SELECT count(*) FROM gsc_stage").fetchone() == (0,)
    assert sum(result["days"] for _, result, _ in found) == len(asked)
    return len(asked)


def test_four_processes_share_a_short_minute(tmp_path, monkeypatch):
    """What the long one does, with 32 calls in 2 seconds for everybody."""
    minute, limit, days = 2.0, 40, 12
    monkeypatch.setattr(simulated_quota, "MINUTE", minute)
    with Simulator(sites=[Site(SITE, rows_per_day=10, pages=5)], site_qpm=limit, user_qpm=limit) as sim:
        credentials = tmp_path / "credentials.json"
        credentials.write_text(json.dumps(sim.credentials()))
        credentials.chmod(0o600)
        path = tmp_path / "search.db"
        found = together(*(
            [sys.executable, "-c", SHORT_MINUTE, str(minute), *sync_words(
                sim.url, str(credentials), path, days, "--search-type", kind, "--qpm-limit", str(limit),
                "--batch-size", "4")] for kind in KINDS))
        assert [status for status, _, _ in found] == [0] * 4, found
        stats = sim.stats()
        assert stats["max_60s"]["site"][SITE] <= 32 and stats["refusals"] == {}
        calls = assert_all_there_once(path, [each.as_dict() for each in sim.log], found, days)
        assert calls == stats["calls"] == 96


@long_only
@pytest.mark.timeout(900)
@pytest.mark.parametrize("share", ["each a search type", "all the same, waiting for each other"])
def test_four_processes_on_3000_slices_hold_googles_quota(share, tmp_path):
    path, days = tmp_path / "search.db", 375
    with Lookalike(tmp_path) as google:
        def command(*words):
            return [sys.executable, "-m", "gscthreads",
                    *sync_words(google.url, google.credentials, path, days, *words)]

        if share == "each a search type":
            commands = [command("--search-type", kind) for kind in KINDS]
        else:
            commands = [command("--wait", *(word for kind in KINDS for word in ("--search-type", kind)))] * 4
        found = together(*commands)
        assert [status for status, _, _ in found] == [0] * 4, found
        stats = google.stats()
        calls = assert_all_there_once(path, google.entries(), found, days)
    most = stats["max_60s"]["site"][SITE]
    seconds = [result["seconds"] for _, result, _ in found]
    print(f"{calls} slices in {max(seconds):.0f} s, {stats['calls']} calls, at most {most} in 60 s,"
          f" refusals {stats['refusals']}")
    assert calls == stats["calls"] == 3000
    assert most <= 960 and stats["refusals"] == {}
    assert max(seconds) < 60 * calls / 850  # held, and used


def rates(entries, start, end):
    """(accepted a second, share refused) of the calls from *start* to *end* seconds after the first."""
    found = [each["status"] == 200 for each in entries if start <= each["time"] - entries[0]["time"] < end]
    return sum(found) / (end - start), found.count(False) / len(found)


@long_only
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name, qpm_limit, phases", [
    # (server's limit, seconds, seconds that it may take to find out).  A budget of 32,000 a minute is none here.
    ("5", 40_000, [(5, 360, 60)]),
    ("20", 40_000, [(20, 360, 60)]),
    ("5, then 20", 40_000, [(5, 300, 60), (20, 480, 240)]),
    # With Google's budget, 960 a minute, the pace is 15.2 a second: of 20 only whole batches are too much.
    ("5, then 20, budget of 960", 1200, [(5, 240, 60), (20, 480, 240)]),
])
def test_it_settles_near_a_burst_limit_nobody_told(name, qpm_limit, phases, tmp_path):
    reports = ["page", "page_query", "query", "device", "page,device", "page,country", "country,device", "query,device"]
    with Lookalike(tmp_path, "--site-qpm", "none", "--user-qpm", "none", "--latency", "0.08") as google:
        config = gscthreads.SyncConfig(
            sites=[SITE], store=f"sqlite:///{tmp_path / 'search.db'}", credentials=google.credentials,
            api_root=google.url, start=LAST - dt.timedelta(days=430), end=LAST, reports=reports,
            search_types=list(KINDS), qpm_limit=qpm_limit,
        )
        with gscthreads.Sync(config) as run:
            for number, (limit, seconds, _) in enumerate(phases):
                google.control("options", {"burst_qps": limit})
                if not number:
                    run.start()
                with pytest.raises(TimeoutError):  # there is more to do than fits that time
                    run.wait(seconds)
            run.halt("measured")
            result = run.wait(30)
        entries = google.entries()
    assert result.status == "halted" and result.reason == "measured"
    began, found = 0.0, []
    for limit, seconds, learning in phases:
        rate, refused = rates(entries, began + learning, began + seconds)
        _, after_a_minute = rates(entries, began + 60, began + seconds)
        found.append((limit, rate, refused, after_a_minute))
        print(f"limit {limit}/s: {rate:.2f}/s accepted after {learning} s, {100 * refused:.2f} % of calls refused,"
              f" {100 * after_a_minute:.2f} % after the first minute")
        began += seconds
    for limit, rate, refused, after_a_minute in found:
        full = qpm_limit * 0.8 / 60 - 50 / 60
        assert min(0.8 * limit, 0.95 * full) <= rate <= 1.01 * limit
        assert refused < 0.02 and after_a_minute < 0.02
