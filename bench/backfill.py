"""A backfill from the look-alike, which runs in a process of its own:  python -m bench.backfill --rows 20000 --days 40

Prints rows a second, peak resident memory and CPU seconds of the syncing process, for the settings given and for
sequential plain calls, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from typing import Any, Dict

_SYNC = """
import json, resource, sys, gscthreads
store, url, credentials, days, settings = sys.argv[1:]
result = gscthreads.sync("sc-domain:example.com", start="-" + days + "d", store=store, api_root=url,
                         credentials=credentials, rate_limit_enabled=False, **json.loads(settings))
used = resource.getrusage(resource.RUSAGE_SELF)
print(f"{result.status}: {result.rows:,} rows, {result.calls} calls, {result.seconds:.1f} s, "
      f"{result.rows / result.seconds:,.0f} rows/s, "
      f"peak {used.ru_maxrss // 1024} MB, CPU {used.ru_utime + used.ru_stime:.1f} s")
"""


def main() -> None:
    """Serve, sync, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="page_query rows a day")
    parser.add_argument("--days", type=int, default=40)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--settings", type=json.loads, default={}, help="SyncConfig settings as JSON")
    parser.add_argument("--simulate", nargs="*", default=[], help="further options of simulate, without the dashes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        credentials = os.path.join(folder, "credentials.json")
        more = [f"--{option}" for option in options.simulate]
        server = subprocess.Popen(
            [sys.executable, "-m", "gscthreads", "simulate", "--rows-per-day", str(options.rows), "--pages", "4000",
             "--distinct-days", "4", "--no-quota", "--write-credentials", credentials, *more],
            stdout=subprocess.PIPE, text=True,
        )
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+", server.stdout.readline())
            assert found is not None
            sequential: Dict[str, Any] = {**options.settings, "max_concurrency": 1, "batch_size": 1}
            for number in range(options.repeat):
                for name, settings in (("as set", options.settings), ("sequential", sequential)):
                    store = f"sqlite:///{folder}/{number}-{name.replace(' ', '-')}.db"
                    values = [store, found.group(0), credentials, str(options.days), json.dumps(settings)]
                    done = subprocess.run([sys.executable, "-c", _SYNC, *values], stdout=subprocess.PIPE, text=True)
                    print(f"{name:<10} {done.stdout.strip()}", flush=True)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
