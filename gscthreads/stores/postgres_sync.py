"""What runs on one Postgres share beside the rows: the budgets, locks, and the proof that one's process is gone."""

from __future__ import annotations

import contextlib
import json
import os
import time
import zlib
from typing import Any, Callable, Sequence, TypeVar

from ..errors import StoreError, StoreLocked, StoreLost
from ..quota import QuotaLedger, States
from .postgres_link import Link

#: Seconds to wait for a lock on the budgets: so many times as long as another run holds it while the network is as slow
#: as it is.
_LEAST_WAIT, _MOST_WAIT, _TURNS = 0.05, 2.0, 8

T = TypeVar("T")


def lock_key(schema: str, name: str) -> int:
    """The key of an advisory lock (a signed 64-bit integer) of our tables in *schema*.  "gsct" in its upper half keeps
    it apart from other programs' locks."""
    return 0x67736374 << 32 | zlib.crc32(f"{schema}.{name}".encode())


def machine() -> str:
    """What tells this machine, since it was started, and the process ids that count here (a container has its own) from
    all others; "" where there is no telling."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def is_gone(pid: int) -> bool:
    """True when no process of this ``machine`` has the number *pid*."""
    if not machine():  # also: Windows, where asking would end the process
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        pass
    return False


class PostgresLedger(QuotaLedger):
    """The budgets in gsc_quota, on a connection of its own.  Times are those of the server's clock."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._link.lock_timeout = _LEAST_WAIT

    def update(self, keys: Sequence[str], change: Callable[[States, float], T]) -> T:
        try:
            return self._update(sorted(keys), change)
        except StoreLost as error:  # also while the server starts again: ask later
            raise StoreLocked(str(error)) from error
        except ValueError as error:
            words = f"{self._link.label}: gsc_quota is damaged ({error}); empty it when no sync runs"
            raise StoreError(words) from error
        finally:
            if self._link.in_transaction:
                self._link.rollback()

    def _update(self, keys: Sequence[str], change: Callable[[States, float], T]) -> T:
        # What a crash of the server forgets is the last half second (docs/postgres.md); a flush to disk with the line
        # locked would be paid for by all runs, twice for each HTTP batch.
        # The time is asked when the rows are ours: they may have been waited for.
        cursor = self._link.begin(
            "SET LOCAL synchronous_commit = off;"
            " INSERT INTO gsc_quota (key, state) SELECT unnest(%s::text[]), '{}' ON CONFLICT DO NOTHING;"
            " SELECT 1 FROM gsc_quota WHERE key = ANY (%s) ORDER BY key FOR UPDATE;"
            " SELECT extract(epoch FROM clock_timestamp()), array_agg(key), array_agg(state)"
            " FROM gsc_quota WHERE key = ANY (%s)",
            (list(keys), list(keys), list(keys)),
        )
        now, known, texts = cursor.fetchone()
        states: Any = {key: json.loads(text) for key, text in zip(known or (), texts or ())}
        now = float(now)
        found = change(states, now)
        texts = [json.dumps(states[key], separators=(",", ":")) for key in keys]
        asked_at = time.monotonic()
        self._link.execute(
            "UPDATE gsc_quota q SET state = w.state FROM unnest(%s::text[], %s::text[]) AS w (key, state)"
            " WHERE q.key = w.key AND q.state <> w.state; COMMIT",
            (list(keys), texts),
        )
        self._link.in_transaction = False
        self._link.lock_timeout = min(_MOST_WAIT, max(_LEAST_WAIT, _TURNS * (time.monotonic() - asked_at)))
        return found

    def interrupt(self) -> None:
        if self._link.waiting() > 0.2:
            self._link.give_up()

    def close(self) -> None:
        with contextlib.suppress(StoreError):
            self._link.forget()
