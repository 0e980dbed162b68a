"""What time it is in Search Console: Pacific days and hours, settable for tests.

Search Console's days are Pacific (gsc-api.md 2.1), its hour keys carry the UTC offset of the moment (2.2).
The rule of daylight saving time is written out here because Python 3.8 has no ``zoneinfo``.
"""

from __future__ import annotations

import datetime as dt
import threading
from typing import List, NamedTuple, Optional, Union

HOUR = dt.timedelta(hours=1)


def _nth_sunday(year: int, month: int, nth: int) -> dt.date:
    first = dt.date(year, month, 1)
    return first + dt.timedelta(days=(6 - first.weekday()) % 7 + 7 * (nth - 1))


def offset_hours(utc: dt.datetime) -> int:
    """Hours to add to a naive UTC time to get Pacific time: -7 in summer, -8 in winter (rule of 2007)."""
    starts = dt.datetime.combine(_nth_sunday(utc.year, 3, 2), dt.time(10))  # 02:00 PST
    ends = dt.datetime.combine(_nth_sunday(utc.year, 11, 1), dt.time(9))  # 02:00 PDT
    return -7 if starts <= utc < ends else -8


class Hour(NamedTuple):
    """One hour of a Pacific day: its key on the wire, and the naive UTC moment at which it begins."""

    key: str
    utc: dt.datetime


def hours_of(date: dt.date) -> List[Hour]:
    """The 23, 24 or 25 hours of a Pacific day, in order."""
    hours = []
    moment = dt.datetime.combine(date, dt.time(7))  # midnight Pacific is 07:00 or 08:00 UTC
    for _ in range(27):
        offset = offset_hours(moment)
        local = moment + offset * HOUR
        if local.date() == date:
            hours.append(Hour(f"{local:%Y-%m-%dT%H:00:00}{offset:+03d}:00", moment))
        moment += HOUR
    return hours


def months_before(date: dt.date, months: int) -> dt.date:
    """The same day of the month, ``months`` earlier, or the month's last day where it has no such day."""
    index = date.year * 12 + date.month - 1 - months
    for day in range(date.day, 27, -1):
        try:
            return dt.date(index // 12, index % 12 + 1, day)
        except ValueError:
            continue  # the 31st of a month of 30 days
    return dt.date(index // 12, index % 12 + 1, min(date.day, 28))


class Clock:
    """The simulator's idea of now, used for freshness and retention only; quotas run on the monotonic clock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fixed: Optional[dt.datetime] = None

    def set(self, now: Union[dt.datetime, dt.date, None]) -> None:
        """Stop the clock at a naive Pacific time; a plain date means its noon, None means real time again."""
        if now is not None and not isinstance(now, dt.datetime):
            now = dt.datetime.combine(now, dt.time(12))
        with self._lock:
            self._fixed = now

    def now(self) -> dt.datetime:
        """Naive Pacific time."""
        with self._lock:
            if self._fixed is not None:
                return self._fixed
        utc = dt.datetime.now(dt.timezone.utc).replace(tzinfo=None)
        return utc + offset_hours(utc) * HOUR

    def today(self) -> dt.date:
        """The Pacific calendar date."""
        return self.now().date()

    def utc(self) -> dt.datetime:
        """Naive UTC time (a stopped clock inside the repeated hour of autumn means its first occurrence)."""
        now = self.now()
        summer = now + 7 * HOUR
        return summer if offset_hours(summer) == -7 else now + 8 * HOUR
