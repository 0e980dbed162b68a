"""Memory does not follow the batch size: full batches of full slices, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gscthreads.simulator import Simulator, Site

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")

SYNC = """
import json, re, sys, gscthreads
store, url, credentials = sys.argv[1:]
result = gscthreads.sync("sc-domain:example.com", start="-60d", end="-11d", store=store, api_root=url, batch_size=50,
                         credentials=json.loads(credentials), rate_limit_enabled=False, max_open_days=200)
# not getrusage: its ru_maxrss of a new process begins with the size of the one it was forked from
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read()).group(1))
print(json.dumps([result.status, result.rows, peak // 1024]))
"""


def test_fifty_full_slices_a_batch_and_three_workers_stay_under_200_mb(tmp_path):
    site = Site("sc-domain:example.com", rows_per_day=25_000, pages=4_000)
    unlimited = {"site_qpm": 10**9, "user_qpm": 10**9, "project_qpm": 10**9}
    with Simulator(sites=[site], seed=1, distinct_days=3, **unlimited) as sim:
        values = [f"sqlite:///{tmp_path}/search.db", sim.url, json.dumps(sim.credentials())]
        done = subprocess.run([sys.executable, "-c", SYNC, *values], cwd=Path(__file__).parent.parent, check=True,
                              stdout=subprocess.PIPE, text=True, timeout=170)
    status, rows, megabytes = json.loads(done.stdout)
    print(f"peak resident: {megabytes} MB")
    assert (status, rows > 1_200_000) == ("complete", True)
    assert megabytes < 200
