"""What the simulator served: a log of queries, and counters."""

from __future__ import annotations

import dataclasses
import datetime as dt
import threading
from typing import Any, Dict, Iterator, List, Optional, Tuple


@dataclasses.dataclass(frozen=True)
class Entry:
    """One query served, refused or spoilt."""

    #: Monotonic seconds at which it was charged.
    time: float
    site: str
    user: str
    dimensions: Tuple[str, ...]
    search_type: str
    #: None where the request could not be read.
    start_date: Optional[dt.date]
    end_date: Optional[dt.date]
    start_row: int
    row_limit: int
    #: HTTP status the client was sent for this query (or should have been, where a fault cut the answer off).
    status: int
    rows: int
    #: Number of the HTTP batch it came in, None for a plain call.
    batch: Optional[int]
    #: The fault that hit the query or its HTTP request.
    fault: Optional[str]
    #: The limit or check that refused it, for example "site_quota".
    refusal: Optional[str] = None

    def as_dict(self) -> Dict[str, Any]:
        """The entry in JSON types."""
        values = dataclasses.asdict(self)
        for name in ("start_date", "end_date"):
            values[name] = values[name].isoformat() if values[name] else None
        return values


class Journal:
    """The log, oldest first; behaves like a list that only grows, and counts what else happens."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: List[Entry] = []
        self._counts: Dict[str, int] = {}
        self._faults: Dict[str, int] = {}
        self._refusals: Dict[str, int] = {}

    def add(self, entry: Entry) -> None:
        """Log a query."""
        with self._lock:
            self._entries.append(entry)
            if entry.refusal:
                self._refusals[entry.refusal] = self._refusals.get(entry.refusal, 0) + 1

    def count(self, what: str) -> int:
        """Add one to a counter and return its new value."""
        with self._lock:
            self._counts[what] = self._counts.get(what, 0) + 1
            return self._counts[what]

    def refuse(self, kind: str) -> None:
        """Count a refusal that no log entry stands for."""
        with self._lock:
            self._refusals[kind] = self._refusals.get(kind, 0) + 1

    def fault(self, name: str) -> None:
        """Count a fault that happened."""
        with self._lock:
            self._faults[name] = self._faults.get(name, 0) + 1

    def clear(self) -> None:
        """Forget the log (the counters stay)."""
        with self._lock:
            self._entries.clear()

    def since(self, number: int) -> List[Entry]:
        """The entries from ``number`` (0 is the first) on."""
        with self._lock:
            return self._entries[max(0, number):]

    def __len__(self) -> int:
        with self._lock:
            return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.since(0))

    def __getitem__(self, index: int) -> Entry:
        with self._lock:
            return self._entries[index]

    def counters(self) -> Dict[str, Any]:
        """Counts, faults and refusals so far."""
        with self._lock:
            names = ("http_requests", "calls", "batches", "token_posts", "internal_errors")
            counts: Dict[str, Any] = {name: self._counts.get(name, 0) for name in names}
            return {**counts, "faults": dict(self._faults), "refusals": dict(self._refusals)}
