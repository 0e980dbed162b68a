"""Copies under other names, whole or without what is not needed.

On the interpreter that runs the tests: .ci/run runs this file with the oldest and newest CPython too.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from gscthreads import pacific
from gscthreads.simulator import Simulator, Site
from gscthreads.simulator import quota as simulated_quota

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "gscthreads"
SITE = "sc-domain:example.com"
LAST = pacific.today() - dt.timedelta(days=20)
DAYS = [LAST - dt.timedelta(days=number) for number in range(26)]

#: Google's minute in these tests, its quota, and what we allow ourselves of it.
MINUTE, LIMIT, BUDGET = 3.0, 40, 32

#: What docs/vendoring.md says can be left out.
COMMAND_LINE = ["__main__.py", "audit.py", "cli.py", "demo.py", "estimate.py", "findings.py", "progress.py",
                "signals.py", "spotcheck.py", "summary.py", "verify.py"]
POSTGRES = ["postgres.py", "postgres_link.py", "postgres_schema.py", "postgres_sync.py"]

#: Most that the core may weigh: what a copy needs that syncs into SQLite or Postgres.
MOST_LINES, MOST_BYTES = 9_500, 420_000


def copy(target, *without):
    shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__", ".mypy*", *without))
    for folder in target.parents:
        if (folder / "settings.json").exists():
            return
        (folder / "__init__.py").write_text("")


@pytest.fixture
def project(tmp_path, sim):
    """A folder with nothing in it but what a copy is to be told."""
    settings = {"credentials": sim.credentials(), "api_root": sim.url, "start": str(DAYS[-1]), "end": str(LAST),
                "qpm_limit": LIMIT, "batch_size": 4}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    return tmp_path


@pytest.fixture
def sim(monkeypatch):
    monkeypatch.setattr(simulated_quota, "MINUTE", MINUTE)
    with Simulator(sites=[Site(SITE, rows_per_day=20)], seed=1, site_qpm=LIMIT, user_qpm=LIMIT) as simulator:
        yield simulator


def run(project, *words):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *words], cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, timeout=120,
    )


TWO_COPIES = """
import json, logging, signal, socket, sys, threading

class Names(logging.Handler):
    seen = set()

    def emit(self, record):
        self.seen.add(record.name)

before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), list(logging.root.handlers)
import legacy.vendor.gsc as one
import other._gsc as two
assert 'gscthreads' not in sys.modules
assert one.Sync is not two.Sync and one.GscError is not two.GscError

loud = Names()
for copy in (one, two):
    logging.getLogger(copy.__name__).addHandler(loud)
    logging.getLogger(copy.__name__).setLevel(logging.DEBUG)
    __import__(copy.__name__ + '.quota')
    copy.quota.WINDOW = {minute}

settings = json.load(open('settings.json'))
runs = [copy.Sync(copy.SyncConfig(sites=['{site}'], store='sqlite:///search.db', reports=[report], **settings)).start()
        for copy, report in ((one, 'page'), (two, 'page_query'))]
threads = set()
while any(run.result is None for run in runs):
    threads.update(each.name for each in threading.enumerate())
    threading.Event().wait(0.01)
results = [run.wait() for run in runs]
assert [result.status for result in results] == ['complete', 'complete'], results

for name in ('legacy.vendor.gsc', 'other._gsc'):
    for kind in ('coordinator', 'worker_0', 'watch', 'canary_0'):
        assert name + '.sync-' + kind in threads, threads
    assert name + '.client' in loud.seen, loud.seen
assert all(name.startswith(('legacy.vendor.gsc.', 'other._gsc.')) for name in loud.seen), loud.seen
assert all(name.startswith(('legacy.vendor.gsc.', 'other._gsc.', 'MainThread')) for name in threads), threads
assert threading.active_count() == 1
assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), logging.root.handlers)
assert socket.getdefaulttimeout() is None
"""


def test_two_copies_in_one_process_share_a_store_and_its_budget_and_nothing_else(project, sim):
    copy(project / "legacy" / "vendor" / "gsc")
    copy(project / "other" / "_gsc", "simulator", "contrib", *COMMAND_LINE)
    done = run(project, "-c", TWO_COPIES.format(minute=MINUTE, site=SITE))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    stats = sim.stats()
    assert max(stats["max_60s"]["user"].values()) <= BUDGET and stats["refusals"] == {}
    asked = [(each.dimensions, each.start_date, each.start_row) for each in sim.log]
    assert len(asked) == len(set(asked)) == 2 * len(DAYS) > 1.5 * BUDGET
    with contextlib.closing(sqlite3.connect(str(project / "search.db"))) as database:
        kept = database.execute("SELECT report, date, page, coalesce(query, ''), clicks, impressions, ctr, position"
                                " FROM gsc_performance ORDER BY 1, 2, 3, 4").fetchall()
    assert kept == sorted(
        (report, str(day), *(*row.keys, "")[:2], *row[1:])
        for report, dimensions in (("page", ["page"]), ("page_query", ["page", "query"]))
        for day in DAYS for row in sim.truth(SITE, dimensions, "web", day)
    )


#: Imports every module that is there, and syncs; says nothing, although Google refuses something.
ONE_COPY = """
import importlib, json, pkgutil
import vendor.gsc as gsc

for module in pkgutil.walk_packages(gsc.__path__, 'vendor.gsc.'):
    if not module.name.endswith('__main__'):
        importlib.import_module(module.name)
settings = dict(json.load(open('settings.json')), rate_limit_enabled=False, backoff_base=0.01, backoff_cap=0.01)
result = gsc.sync('{site}', store='sqlite:///search.db', **settings)
assert (result.status, result.days) == ('complete', {days}), result
assert sorted(result.faults) == ['Transient'], result
"""


def test_a_copy_works_without_what_may_be_left_out(project, sim):
    copy(project / "vendor" / "gsc", "simulator", "contrib", *COMMAND_LINE, *POSTGRES)
    sim.options.update({"quota": False})
    sim.faults.script("http_503", times=2)
    done = run(project, "-c", ONE_COPY.format(site=SITE, days=2 * len(DAYS)))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_command_line_works_without_the_look_alike(project, sim):
    copy(project / "vendor" / "gsc", "simulator", "contrib", *POSTGRES)
    (project / "credentials.json").write_text(json.dumps(sim.credentials()))
    (project / "credentials.json").chmod(0o600)
    words = ["--site", SITE, "--store", "sqlite:///search.db", "--credentials", "credentials.json", "--api-root",
             sim.url, "--start", str(DAYS[2]), "--end", str(LAST), "--quiet", "--json"]
    done = run(project, "-m", "vendor.gsc", "sync", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["days"] == 6
    assert run(project, "-m", "vendor.gsc", "verify", "--store", "sqlite:///search.db").returncode == 0
    help_text = run(project, "-m", "vendor.gsc", "--help").stdout
    assert "sync" in help_text and "demo" not in help_text and "simulate" not in help_text


def test_a_store_that_was_left_out_is_named(project):
    copy(project / "vendor" / "gsc", *POSTGRES)
    done = run(project, "-c", "import vendor.gsc; vendor.gsc.open_store('postgresql://host/db')")
    assert "vendor.gsc.errors.ConfigError" in done.stderr and "vendor.gsc.stores.postgres" in done.stderr


def test_a_whole_copy_has_a_demo_under_its_own_name(project):
    copy(project / "somewhere" / "vendor" / "gscthreads")
    done = run(project, "-m", "somewhere.vendor.gscthreads", "demo", "--days", "3", "--rows-per-day", "40", "--quiet")
    assert done.returncode == 0, done.stderr
    assert "python -m somewhere.vendor.gscthreads sync --help" in done.stdout
    assert (project / "gscthreads-demo.db").exists()


def test_the_core_is_small():
    core = [path for path in PACKAGE.rglob("*.py")
            if path.relative_to(PACKAGE).parts[0] not in ("simulator", "contrib", *COMMAND_LINE)]
    assert lines(*core) <= MOST_LINES
    assert sum(len(path.read_text(encoding="utf-8").encode()) for path in core) <= MOST_BYTES
    assert not [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts
                and path.suffix != ".py" and path.name != "py.typed"]
    assert "SPDX-License-Identifier: MIT" in (PACKAGE / "__init__.py").read_text(encoding="utf-8")


def lines(*paths):
    return sum(path.read_text(encoding="utf-8").count("\n") for path in paths)


def test_the_documentation_names_what_may_be_left_out_and_about_how_much_it_is():
    text = (ROOT / "docs" / "vendoring.md").read_text(encoding="utf-8")
    assert f"{MOST_LINES:,} lines" in text and f"{MOST_BYTES // 1000} kB" in text
    for files, paths in (
        (["simulator/"], PACKAGE.glob("simulator/**/*.py")),
        (["contrib/"], PACKAGE.glob("contrib/**/*.py")),
        (COMMAND_LINE, [PACKAGE / name for name in COMMAND_LINE]),
        (POSTGRES, [PACKAGE / "stores" / name for name in POSTGRES]),
    ):
        (said,) = re.findall(rf"^\| {' '.join(f'`{name}`' for name in files)}.*?\| ([\d,]+) \|", text, re.M)
        assert 0.8 < lines(*paths) / int(said.replace(",", "")) < 1.2
