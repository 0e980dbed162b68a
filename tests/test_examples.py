"""What the documentation shows, run as it is shown."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gscthreads.simulator import Simulator, Site

ROOT = Path(__file__).resolve().parent.parent
SITE, OTHER = "sc-domain:example.com", "https://www.example.org/"
UNLIMITED = {"site_qpm": 10**9, "user_qpm": 10**9, "project_qpm": 10**9}


def blocks(name, language):
    """The code blocks of a document."""
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.S | re.M)


#: Programs by the name in their first line.
PROGRAMS = {code.splitlines()[0][2:]: code for name in ("examples", "celery") for code in blocks(name, "python")}


@pytest.fixture
def sim():
    with Simulator(sites=[Site(SITE, rows_per_day=20), Site(OTHER, rows_per_day=20)], seed=1, **UNLIMITED) as simulator:
        yield simulator


@pytest.fixture
def folder(tmp_path, sim):
    """Where the programs lie, with credentials."""
    (tmp_path / "credentials.json").write_text(json.dumps(sim.credentials()))
    (tmp_path / "credentials.json").chmod(0o600)
    for name, code in PROGRAMS.items():
        (tmp_path / name).write_text(code)
    return tmp_path


def run(folder, code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        timeout=120, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]]), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_program(folder, sim, name):
    """Run it with the look-alike in the place of Google."""
    return run(folder, f"""
import functools, gscthreads, runpy
gscthreads.sync = functools.partial(gscthreads.sync, api_root={sim.url!r})
gscthreads.SyncConfig = functools.partial(gscthreads.SyncConfig, api_root={sim.url!r})
runpy.run_path({name!r}, run_name="__main__")
""")


def days(folder):
    """How many days of each site can be read; none before there is a store."""
    with contextlib.suppress(sqlite3.OperationalError):
        with contextlib.closing(sqlite3.connect(f"file:{folder / 'search.db'}?mode=ro", uri=True)) as database:
            return dict(database.execute("SELECT site, count(*) FROM gsc_days WHERE status <> 'open' GROUP BY 1"))
    return {}


def test_every_program_is_run_here():
    assert sorted(PROGRAMS) == [
        "best_pages.py", "nightly.py", "project.py", "test_report.py", "watched.py", "weekly.py"
    ]


def test_the_script_and_reading_what_it_copied(folder, sim):
    said = run_program(folder, sim, "nightly.py")
    assert said.count("complete, 30 days") == 4
    assert days(folder) == {SITE: 60, OTHER: 60}
    best = run_program(folder, sim, "best_pages.py").splitlines()
    assert len(best) == 10 and not [line for line in best if line.endswith("(None)")]


def test_reading_into_pandas(folder, sim):
    if not os.environ.get("GSCTHREADS_REQUIRE_PANDAS"):  # set in CI: its absence is a failure then, not a skip
        pytest.importorskip("pandas", reason="pandas is not installed: pip install pandas")
    run_program(folder, sim, "nightly.py")
    assert "ctr" in run_program(folder, sim, "weekly.py")


def test_watching_and_stopping(folder, sim):
    assert run_program(folder, sim, "watched.py").startswith("complete")
    assert days(folder) == {SITE: 120}


def test_the_look_alike_in_a_test_of_one_s_own(folder):
    assert "1 passed" in run(folder, "import pytest, sys; sys.exit(pytest.main(['test_report.py']))")


def test_the_line_for_cron_needs_no_lock_around_it(folder, sim):
    (line,) = blocks("examples", "cron")
    assert re.match(r"[\d,]+ [\d,]+ \* \* \*  gscthreads sync ", line) and "%" not in line
    command = line.split("  ", 1)[1].strip().replace("/srv/search", str(folder))
    command = command.replace("gscthreads", f"{sys.executable} -m gscthreads", 1)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GSCTHREADS_API_ROOT": sim.url}

    def start():
        return subprocess.Popen(["sh", "-c", f"exec {command}"], env=environment, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)

    sim.faults.script("hang", times=1)
    first = start()
    while not sim.stats()["hanging"]:
        assert first.poll() is None, first.communicate()
        threading.Event().wait(0.01)
    second = start()
    out, err = second.communicate(timeout=60)
    assert (second.returncode, out) == (3, "") and "being synced by process" in err
    sim.release_hangs()
    first.send_signal(signal.SIGTERM)  # 16 months at Google's pace take longer than a test
    first.communicate(timeout=60)
    assert first.returncode == 3


#: What the test changes of project.py: where Google is, and that a night is a second.
IN_A_HURRY = """
app.conf.gscthreads = lambda: dict(search_data(), api_root={root!r})
for entry in app.conf.beat_schedule.values():
    entry["schedule"] = 1.0
"""


def test_celery_beat_and_a_worker_do_what_the_schedule_says(folder, sim):
    import redis_server  # skips without redis-py

    redis_server.needed("celery")
    server = redis_server.server()
    with open(folder / "project.py", "a") as file:
        file.write(IN_A_HURRY.format(root=sim.url))
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]]), "BROKER": server.broker(),
        "GSC_STORE": f"sqlite:///{folder / 'search.db'}", "GSC_CREDENTIALS": str(folder / "credentials.json"),
    }
    (commands,) = [code.splitlines() for code in blocks("celery", "sh")]
    assert [command.split()[3] for command in commands] == ["worker", "beat"]
    running = []
    try:
        for command in commands:
            with open(folder / f"{command.split()[3]}.log", "wb") as log:
                running.append(subprocess.Popen(
                    [sys.executable, "-m", *command.split(), "-l", "INFO"], cwd=folder, env=environment, stdout=log,
                    stderr=log, preexec_fn=redis_server.die_with_parent))
        for _ in range(60 * 50):
            if days(folder) == {SITE: 30, OTHER: 30}:
                break
            assert [process.poll() for process in running] == [None, None]
            threading.Event().wait(0.02)
        assert days(folder) == {SITE: 30, OTHER: 30}
        assert "due task search data of the last days" in (folder / "beat.log").read_text()
    finally:
        for process in reversed(running):
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        server.close()
        for log in folder.glob("*.log"):
            print(f"-- {log.name}\n{log.read_text(errors='replace')}")
