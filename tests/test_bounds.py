"""Answers made to fill the memory: their day fails in clear words, other days are copied, and memory stays bounded."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gscthreads import pacific
from gscthreads.simulator import Simulator, Site

SITE = "sc-domain:example.com"
LAST = pacific.today() - dt.timedelta(days=20)
UNLIMITED = {"site_qpm": 10**9, "user_qpm": 10**9, "project_qpm": 10**9}
LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
PEAK = 'print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read()).group(1)) // 1024)'

SYNC = f"""
import json, re, sys, gscthreads
store, url, credentials, start, end, size = sys.argv[1:]
result = gscthreads.sync("{SITE}", start=start, end=end, store=store, api_root=url, batch_size=int(size),
                         credentials=json.loads(credentials), rate_limit_enabled=False, reports=["page"],
                         max_attempts=2, backoff_base=0.01, backoff_cap=0.02)
print(json.dumps([result.status, result.days, result.reason]))
{PEAK}
"""


def run(code, *values):
    done = subprocess.run([sys.executable, "-c", code, *map(str, values)], cwd=Path(__file__).parent.parent, check=True,
                          stdout=subprocess.PIPE, text=True, timeout=170)
    return done.stdout.splitlines()


@LINUX
@pytest.mark.parametrize("fault", ["gzip_bomb", "huge"])
@pytest.mark.parametrize("size", [1, 4])
def test_one_day_that_is_a_bomb(fault, size, tmp_path):
    with Simulator(sites=[Site(SITE, rows_per_day=50)], seed=1, huge_bytes=1 << 28, **UNLIMITED) as sim:
        sim.faults.script(fault, times=None, date=LAST)
        lines = run(SYNC, f"sqlite:///{tmp_path}/search.db", sim.url, json.dumps(sim.credentials()),
                    LAST - dt.timedelta(days=7), LAST, size)
    status, days, reason = json.loads(lines[0])
    assert (status, days) == ("failed", 7)
    assert "answer larger than 64 MiB" in reason
    assert int(lines[1]) < 400


DECODE = f"""
import datetime as dt, re, sys
from gscthreads.errors import Transient
from gscthreads.model import Dataset, Report, Slice, SliceKey
from gscthreads.rows import make_decoder
wanted = Slice(Dataset("a", Report("r", ("page", "query")), "web"), SliceKey(dt.date(2026, 1, 1), 0))
unit, megabytes = sys.argv[1].encode(), int(sys.argv[2])
body = b'{{"rows":[' + unit * ((megabytes << 20) // len(unit)) + unit[:-1] + b"]}}"
for fast in (True, False):
    try:
        make_decoder(fast=fast)(body, wanted)
    except Transient:
        continue
    sys.exit("taken for an answer")
{PEAK}
"""


@LINUX
@pytest.mark.parametrize(
    "unit", ['"ab",', "1.5,", "{},", "[],", '{"a":1},', "[[1e5]],", '{"keys":["a","b"],"clicks":1},']
)
def test_what_a_small_answer_may_become(unit):
    """Every byte of JSON can become twenty of objects."""
    (peak,) = run(DECODE, unit, 15)
    assert int(peak) < 150
