"""How long to leave a site alone whose load quota is spent.  Pure.

Google's advice (gsc-api.md 3 and 5.2): the short load quota is measured in chunks of 10 minutes, so wait 15 minutes;
if that does not help it is the daily one, which comes back at midnight, Pacific time.
"""

from __future__ import annotations

import datetime as dt
from typing import Optional

from . import pacific
from .errors import ApiError, LoadQuota
from .stores.base import Park

#: The wait that Google advises.
SHORT = dt.timedelta(minutes=15)


def next_park(error: ApiError, last: Optional[Park], now: dt.datetime) -> Park:
    """When to ask a site again that refused with *error* at *now* (UTC).

    *last*: the park the site was in and has not been answered since.  Who asks before its end and is refused has
    learnt nothing new; who waited in vain waits for the next Pacific day.
    """
    words = str(error)
    midnight = dt.datetime.fromtimestamp(pacific.next_midnight(now.timestamp()), dt.timezone.utc)
    if isinstance(error, LoadQuota) and error.daily:
        return Park(last.since if last else now, midnight, words)
    if last is None or last.since > now or now - last.until > dt.timedelta(days=1):
        return Park(now, now + SHORT, words)
    if now < last.until:
        return last
    return Park(last.since, midnight, words)
