"""What a stretch of work costs this process: wall time, CPU time, peak resident memory."""

from __future__ import annotations

import re
import resource
import time
from typing import Any, Dict


class Meter:
    """Starts when made; ``read`` says what it took since."""

    def __init__(self) -> None:
        self._cpu = cpu_seconds()
        self._began = time.perf_counter()

    def read(self) -> Dict[str, Any]:
        """{"wall", "cpu": seconds since the start, "rss": the process's peak in MB}."""
        wall = time.perf_counter() - self._began
        return {"wall": wall, "cpu": cpu_seconds() - self._cpu, "rss": peak_megabytes()}


def cpu_seconds() -> float:
    """User and system time of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_megabytes() -> float:
    """The most memory this process ever had resident."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            # not ru_maxrss: that of a new process begins with the size of the one it was forked from
            found = re.search(r"VmHWM:\s+(\d+) kB", file.read())
    except OSError:
        found = None
    return (int(found.group(1)) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024


def cpu_of(pid: int) -> float:
    """CPU seconds another process has used so far; 0 where there is no /proc."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / 100.0
