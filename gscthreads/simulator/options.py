"""Every switch of the simulator, in one validated, live-changeable object."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Mapping, Optional, Union

INT_STYLES = ("12", "12.0")


@dataclasses.dataclass
class Options:
    """How the look-alike behaves.  Every field but the seed can be changed while it runs.

    Numbers Google doesn't publish are off (None) until asked for; see gsc-api.md 3 and 9.
    """

    #: Everything generated follows from this number.
    seed: int = 0
    #: Seconds every query takes, before its rows are counted (gsc-api.md 8 suggests 0.08).
    latency: float = 0.0
    #: Further seconds per row served (gsc-api.md 8 suggests 0.000105).
    latency_per_row: float = 0.0
    #: Up to this many further seconds, at random.
    latency_jitter: float = 0.0
    #: Queries of one HTTP batch worked on at once (gsc-api.md 8: about 3 to 8).
    lanes: int = 4
    #: Most rows per day and search type (gsc-api.md 2.7).
    cap: int = 50_000
    #: Most rows for a grouping with query but without page (gsc-api.md 2.7, unproven); None switches it off.
    query_only_cap: Optional[int] = 5_000
    #: Rows of equal clicks come in another order at every call: True (or "table") anywhere in the day, so that
    #: paging may meet a row twice and another never; "slice" only within the slice served.
    shuffle_ties: Union[bool, str] = False
    #: Slices after the first begin with the last row of the slice before, in addition to their own rows.
    boundary_duplicates: bool = False
    #: How integral numbers are written: "12" (today) or "12.0" (older captures, gsc-api.md 2.6).
    int_style: str = "12"
    #: Spell metadata keys first_incomplete_date, as Google's page does, not firstIncompleteDate as its wire does.
    snake_metadata: bool = False
    #: Parts of a batch answer come in another order than they were asked for.
    shuffle_parts: bool = False
    #: Whether the limits below are enforced; calls are counted either way.
    quota: bool = True
    #: Queries per 60 seconds for one site, one user, the project (gsc-api.md 3); None switches a limit off.
    site_qpm: Optional[int] = 1_200
    user_qpm: Optional[int] = 1_200
    project_qpm: Optional[int] = 40_000
    #: Queries per second and site, the undocumented burst cap.
    burst_qps: Optional[int] = None
    #: The limit shown in the project's Cloud console, per 60 seconds; exceeding it gives 429.
    cloud_qpm: Optional[int] = None
    #: Load units per site in 10 minutes and in 24 hours; a query costs days x (1 plain, 10 page or query, 30 both).
    load_10min: Optional[float] = None
    load_day: Optional[float] = None
    #: Whether a refused call uses quota too (unknown; the cautious assumption is yes).
    refused_calls_count: bool = True
    #: Retry-After of quota refusals and 503s: seconds, or any text (a date, nonsense) as it is; None sends no such
    #: header, like Google.
    retry_after: Optional[Union[int, str]] = None
    #: Seconds an access token is valid (gsc-api.md 6).
    token_lifetime: float = 3_599
    #: Contents of days repeat with this period, so that long runs are cheap to generate; None: every day its own.
    distinct_days: Optional[int] = None
    #: Days from a day to its final data: with 2, the day before yesterday is the last final one (gsc-api.md 2.8).
    freshness: int = 2
    #: Months of history (gsc-api.md 2.7); a site with its own ``first_day`` ignores this, None keeps everything.
    retention_months: Optional[int] = 16
    #: Refuse calls without a valid access token.
    require_auth: bool = True
    #: Most bytes of encoded answers kept ready.
    cache_bytes: int = 256 << 20
    #: What the fault ``slow`` adds, what ``drip`` waits between two bytes, how much ``huge`` and ``gzip_bomb`` send.
    slow_seconds: float = 2.0
    drip_interval: float = 1.0
    huge_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        self._check(dataclasses.asdict(self))

    @staticmethod
    def _check(values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if name not in DEFAULTS:
                raise ValueError(f"no option {name!r}; there are: {', '.join(sorted(DEFAULTS))}")
            if value is None and name in OPTIONAL:
                continue
            default = SAMPLES[name]
            if name == "int_style":
                good = value in INT_STYLES
            elif name == "shuffle_ties":
                good = value in (True, False, "table", "slice")
            elif name == "retry_after" and isinstance(value, str):
                good = value.isprintable() and value.encode("latin-1", "replace").decode("latin-1") == value
            elif isinstance(default, bool):
                good = isinstance(value, bool)
            else:
                kinds = (int,) if isinstance(default, int) else (int, float)
                good = isinstance(value, kinds) and not isinstance(value, bool)
                good = good and (name == "seed" or value >= (1 if name in ("lanes", "distinct_days") else 0))
            if not good:
                raise ValueError(f"option {name}={value!r} is not allowed; the default is {DEFAULTS[name]!r}")

    def update(self, values: Mapping[str, Any]) -> None:
        """Change several options at once: all of them or, if one is wrong (ValueError), none."""
        self._check(values)
        if values.get("seed", self.seed) != self.seed:
            raise ValueError("the seed can't change while the simulator runs: its data would no longer be its own")
        for name, value in values.items():
            setattr(self, name, value)

    def as_dict(self) -> Dict[str, Any]:
        """Every option and its present value."""
        return dataclasses.asdict(self)


#: Option name -> default.
DEFAULTS: Dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Options)}

#: Options that may be None.
OPTIONAL = {field.name for field in dataclasses.fields(Options) if "Optional" in str(field.type)}

#: A value of the right type for every option: the default, or for those that are off by default an example.
SAMPLES: Dict[str, Any] = {
    **DEFAULTS, "burst_qps": 10, "cloud_qpm": 60, "load_10min": 1e5, "load_day": 1e6, "retry_after": 30,
    "token_lifetime": 3599.0, "distinct_days": 7,
}
