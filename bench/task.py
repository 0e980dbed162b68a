"""What a contestant is told: where the server is, which days, where to write."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from typing import Any, Dict, List, Sequence, Tuple

#: Dimensions of the reports copied.
REPORTS: Dict[str, Tuple[str, ...]] = {"page": ("page",), "page_query": ("page", "query")}


@dataclasses.dataclass(frozen=True)
class Task:
    """One run.  ``path``: the database file.  ``prepared``: a store whose days the floor writes again and again.
    ``dates``: single days, of the warm-up only."""

    url: str
    credentials: str
    sites: Sequence[str]
    start: dt.date
    end: dt.date
    path: str
    quota: bool = False
    search_types: Sequence[str] = ("web",)
    prepared: str = ""
    settings: Dict[str, Any] = dataclasses.field(default_factory=dict)
    dates: Sequence[str] = ()

    def days(self) -> List[dt.date]:
        """Newest first, as gscthreads goes."""
        return [self.end - dt.timedelta(days=number) for number in range((self.end - self.start).days + 1)]

    def dumps(self) -> str:
        """As JSON."""
        return json.dumps(dataclasses.asdict(self), default=str)

    @staticmethod
    def loads(text: str) -> "Task":
        """From JSON."""
        values = json.loads(text)
        for name in ("start", "end"):
            values[name] = dt.date.fromisoformat(values[name])
        return Task(**values)
