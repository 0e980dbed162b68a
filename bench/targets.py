"""The targets, each beside what was measured."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

#: Calls a minute the defaults allow themselves for one site.
BUDGET = 960

#: Slices the server works on at once: workers of the defaults, lanes of one batch.
WORKERS, LANES = 3, 4


class Target(NamedTuple):
    """``met`` is None when it was not measured."""

    what: str
    target: str
    measured: str
    met: Optional[bool]


class Measured:
    """Looks medians up."""

    def __init__(self, medians: Sequence[Dict[str, Any]]) -> None:
        self._lines = {(line["workload"], line["contestant"], line["days"]): line for line in medians}

    def get(self, workload: str, contestant: str) -> Optional[Dict[str, Any]]:
        """A contestant's line; that of the most days where there are several."""
        found = [line for (work, name, _), line in self._lines.items() if (work, name) == (workload, contestant)]
        return max(found, key=lambda line: int(line["days"])) if found else None

    def all(self, workload: str) -> List[Dict[str, Any]]:
        """Every line of a workload, in the order measured."""
        return [line for (work, _, _), line in self._lines.items() if work == workload]

    def floor(self, workload: str) -> Optional[Dict[str, Any]]:
        """Prepared tuples, written by executemany."""
        return self.get(workload, "floor-many")


def rate(line: Dict[str, Any]) -> float:
    """Rows a second."""
    return float(line["rows"] / line["wall"])


def scaled(line: Dict[str, Any]) -> float:
    """Seconds, of a shorter range carried over to the whole one."""
    return float(line["wall"] * line["days_of_workload"] / line["days"])


def targets(medians: Sequence[Dict[str, Any]], micro: Dict[str, Any]) -> List[Target]:
    """All of them, in the order of the table they were agreed in."""
    measured = Measured(medians)
    return [*_bare(measured), *_postgres(measured), *_rollout(measured), *_growth(measured), *_micro(measured, micro)]


def _at_most(what: str, most: float, ratio: Optional[float], more: str = "") -> Target:
    met = None if ratio is None else ratio <= most
    return Target(what, f"at most {most:g} x", "not measured" if ratio is None else f"{ratio:.2f} x{more}", met)


def _at_least(what: str, least: float, ratio: Optional[float]) -> Target:
    met = None if ratio is None else ratio >= least
    return Target(what, f"at least {least:g} x", "not measured" if ratio is None else f"{ratio:.2f} x", met)


def _bare(measured: Measured) -> Iterator[Target]:
    floor, script = measured.floor("bare"), measured.get("bare", "script")
    lower = measured.get("bare", "floor-values")
    for name, most, least in (("gscthreads", 2.5, 1.3), ("gscthreads-fast", 1.6, 2.2)):
        mine = measured.get("bare", name)
        above = scaled(mine) / scaled(floor) if mine and floor else None
        faster = rate(mine) / rate(script) if mine and script else None
        other = f" ({scaled(mine) / scaled(lower):.2f} x that of multi-row statements)" if mine and lower else ""
        yield _at_most(f"bare, {name}: time to the floor's", most, above, other)
        yield _at_least(f"bare, {name}: rows/s to the script's", least, faster)


def _postgres(measured: Measured) -> Iterator[Target]:
    mine, sqlite = measured.get("bare", "gscthreads-postgres"), measured.get("bare", "gscthreads")
    yield Target("bare, gscthreads-postgres: rows/s", "at least 100,000",
                 f"{rate(mine):,.0f}" if mine else "not measured", rate(mine) >= 100_000 if mine else None)
    yield _at_most("bare, gscthreads-postgres: time to that on SQLite", 1.5,
                   scaled(mine) / scaled(sqlite) if mine and sqlite else None)


def _rollout(measured: Measured) -> Iterator[Target]:
    for name in ("gscthreads", "gscthreads-fast", "gscthreads-auto"):
        mine, bare = measured.get("rollout", name), measured.get("bare", name)
        if mine is None or bare is None or mine["days"] != bare["days"]:
            yield Target(f"rollout, {name}: wall time to its bound", "at most 1.15 x", "not measured", None)
            continue
        bounds = {"quota": mine["calls_expected"] / BUDGET * 60, "its bare time": bare["wall"]}
        if name != "gscthreads-auto":  # which has as many workers as it likes
            bounds["server"] = mine["server_seconds"] / (WORKERS * LANES)
        bound = max(bounds, key=lambda each: bounds[each])
        ratio = mine["wall"] / bounds[bound]
        yield Target(f"rollout, {name}: wall time to its bound", "at most 1.15 x",
                     f"{ratio:.2f} x ({mine['wall']:.1f} s; {bound} {bounds[bound]:.1f} s)", ratio <= 1.15)
    one = measured.get("rollout", "gscthreads-1x1")
    for name, least in (("gscthreads", 9.0), ("gscthreads-auto", 15.0)):
        mine = measured.get("rollout", name)
        yield _at_least(f"rollout, {name}: faster than sequential gscthreads", least,
                        rate(mine) / rate(one) if mine and one else None)
    pool = measured.get("rollout", "script-pool")
    mine = measured.get("rollout", "gscthreads-auto")
    yield _at_least("rollout, gscthreads-auto: faster than the script with 8 threads", 3.0,
                    rate(mine) / rate(pool) if mine and pool else None)


def _growth(measured: Measured) -> Iterator[Target]:
    lines = sorted(measured.all("growth"), key=lambda line: int(line["days"]))
    if len(lines) < 2:
        yield Target("growth: rows/s and memory", "within 10 %, under 200 MB", "not measured", None)
        return
    first, last = lines[0], lines[-1]
    ratio = rate(last) / rate(first)
    yield Target(f"growth: rows/s at {last['days']} days to those at {first['days']}", "at least 0.9 x",
                 f"{ratio:.2f} x", ratio >= 0.9)
    peaks = [line["rss"] for line in lines]  # flat: what the queue happens to hold at the peak moves it by some MB
    yield Target("growth: resident memory", "flat, under 200 MB", ", ".join(f"{peak:.0f}" for peak in peaks) + " MB",
                 max(peaks) < 200 and max(peaks) <= 1.25 * peaks[0])


def _micro(measured: Measured, micro: Dict[str, Any]) -> Iterator[Target]:
    check = micro.get("rate_limit")
    yield Target("rate-limit check, a batch", "under 1 ms",
                 f"median {check['median_ms']:.3f} ms, p99 {check['p99_ms']:.3f} ms" if check else "not measured",
                 check["p99_ms"] < 1 if check else None)
    for workload in ("rollout", "bare"):
        for name in ("gscthreads", "gscthreads-fast"):
            line = measured.get(workload, name)
            waits = line.get("waits") if line else None
            yield Target(f"{workload}, {name}: answer complete to durable, p99", "under 250 ms",
                         f"{waits[1]:.0f} ms (median {waits[0]:.0f} ms)" if waits and waits[1] else "not measured",
                         waits[1] < 250 if waits and waits[1] else None)
    ours = [line for workload in ("rollout", "bare", "small", "quota", "growth") for line in measured.all(workload)
            if line["contestant"].startswith("gscthreads")]
    wrong = [line for line in ours if line["calls"] != line["calls_expected"]]
    told = ", ".join(f"{line['workload']} {line['contestant']}: {line['calls']:.0f} for {line['calls_expected']:.0f}"
                     for line in wrong)
    yield Target("calls made", "those of sequential paging", (told or "exactly those") if ours else "not measured",
                 not wrong if ours else None)
    yield _same_rows(measured)
    for name in ("gscthreads-fast", "gscthreads-auto"):
        quota = measured.get("quota", name)
        told = f"{quota['max_60s']:.0f} of {quota['calls']:.0f} in {quota['wall']:.0f} s" if quota else "not measured"
        yield Target(f"quota, {name}: most calls in any 60 s, by the server's count", f"at most {BUDGET}", told,
                     quota["max_60s"] <= BUDGET if quota else None)
    size = micro.get("bytes_per_row")
    yield Target("bytes a page_query row", "at most 60", f"{size:.1f}" if size else "not measured",
                 size <= 60 if size else None)


def _same_rows(measured: Measured) -> Target:
    """Nobody is fast by leaving rows out."""
    seen: Dict[Any, Dict[float, str]] = {}
    for workload in ("rollout", "bare", "small"):
        for line in measured.all(workload):
            seen.setdefault((workload, line["days"]), {})[line["rows"]] = line["contestant"]
    odd = [f"{workload}: " + ", ".join(f"{name} {rows:,.0f}" for rows, name in found.items())
           for (workload, _), found in seen.items() if len(found) > 1]
    return Target("rows stored", "the same by every contestant", ("; ".join(odd) or "the same") if seen
                  else "not measured", not odd if seen else None)
