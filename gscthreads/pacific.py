"""The Pacific calendar: Search Console's days (gsc-api.md 2.1), what is final (2.8) and what is gone (2.7).  Pure.

Written out because the standard library of Python 3.8 has no time zones and Windows has no zone files.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from typing import List, Optional

from .errors import ConfigError

#: Google keeps 16 months (gsc-api.md 2.7, retention).
RETENTION_MONTHS = 16

_ALLOWED = "YYYY-MM-DD, today, yesterday, -30d (days ago) or 16m (months ago)"


def pacific_offset(moment: dt.datetime) -> dt.timedelta:
    """UTC offset of Pacific time at *moment* (UTC, naive or aware).

    Daylight time from the second Sunday of March, 02:00 standard time (10:00 UTC), to the first Sunday of November,
    02:00 daylight time (09:00 UTC): Energy Policy Act of 2005, in force since 2007.
    """
    moment = moment.replace(tzinfo=None)
    begins = dt.datetime.combine(_sunday(moment.year, 3, 2), dt.time(10))
    ends = dt.datetime.combine(_sunday(moment.year, 11, 1), dt.time(9))
    return dt.timedelta(hours=-7 if begins <= moment < ends else -8)


def today(now: Optional[float] = None) -> dt.date:
    """The Pacific date at *now*, epoch seconds; default: at this moment."""
    moment = _utc(time.time() if now is None else now)
    return (moment + pacific_offset(moment)).date()


def next_midnight(now: float) -> float:
    """Epoch seconds of the first Pacific midnight after *now*: when daily quotas come back."""
    day = today(now) + dt.timedelta(days=1)
    # The clocks change at 02:00, so the offset at midnight is that of the evening before.
    midnight = dt.datetime.combine(day, dt.time())
    guess = midnight + dt.timedelta(hours=8)
    return (midnight - pacific_offset(guess - dt.timedelta(hours=1)) - dt.datetime(1970, 1, 1)).total_seconds()


def oldest_day(today: dt.date) -> dt.date:
    """The first day Google still has."""
    return months_before(today, RETENTION_MONTHS)


def months_before(date: dt.date, months: int) -> dt.date:
    """The same day *months* calendar months earlier, or that month's last day."""
    count = date.year * 12 + date.month - 1 - months
    year, month = divmod(count, 12)
    first_of_next = dt.date(year + (month == 11), (month + 1) % 12 + 1, 1)
    return dt.date(year, month + 1, min(date.day, (first_of_next - dt.timedelta(days=1)).day))


def parse_day(text: str, today: dt.date) -> dt.date:
    """A date as people write it, relative to *today*.  Raises ConfigError naming *text* and what is allowed."""
    word = text.strip().lower()
    if word in ("today", "yesterday"):
        return today - dt.timedelta(days=word == "yesterday")
    relative = re.fullmatch(r"-?(\d{1,4})([dm])", word, re.ASCII)
    try:
        if relative:
            count = int(relative.group(1))
            return today - dt.timedelta(days=count) if relative.group(2) == "d" else months_before(today, count)
        if re.fullmatch(r"\d{4}-\d\d-\d\d", word, re.ASCII):
            return dt.date.fromisoformat(word)
    except (ValueError, OverflowError):
        pass
    raise ConfigError(f"date {text!r} is not one; write {_ALLOWED}")


def days_between(start: dt.date, end: dt.date) -> List[dt.date]:
    """Every date from *start* to *end*, both included, oldest first."""
    return [start + dt.timedelta(days=number) for number in range((end - start).days + 1)]


def is_final(
    date: dt.date,
    rows: int,
    today: dt.date,
    *,
    final_after_days: int,
    empty_final_after_days: int,
    first_incomplete: Optional[dt.date] = None,
) -> bool:
    """True when a day fetched on *today* with *rows* rows will not change any more.

    An empty day may just be late, so it takes longer (lessons.md); a day Google itself calls incomplete never is.
    """
    if first_incomplete is not None and date >= first_incomplete:
        return False
    return (today - date).days >= (final_after_days if rows else empty_final_after_days)


def _sunday(year: int, month: int, number: int) -> dt.date:
    first = dt.date(year, month, 1)
    return first + dt.timedelta(days=6 - first.weekday() + 7 * (number - 1))


def _utc(seconds: float) -> dt.datetime:
    return dt.datetime(1970, 1, 1) + dt.timedelta(seconds=seconds)
