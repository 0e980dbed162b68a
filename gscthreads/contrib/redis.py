"""The budgets in Redis: one for all machines that sync with one account, whatever store each of them writes to.

    gscthreads.sync(site, store=..., credentials=..., ledger=RedisLedger("redis://localhost:6379/1"))

Redis is needed while calls are made: without it there is no saying what others have sent.
"""

from __future__ import annotations

import json
import time
from typing import Any, Callable, Dict, Optional, Sequence, TypeVar, Union

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..errors import StoreError, StoreLocked, StoreLost
from ..quota import QuotaLedger, States

#: Seconds to wait for an answer.  Short, because whoever waits can't be halted.
_ANSWER = 0.4

#: Seconds for which a server that went away in the middle of a run (a restart, a fail-over) is waited for.
_PATIENCE = 300.0

#: Seconds after which a budget nobody uses is forgotten: nightly runs know what last night's learnt about the pace.
_KEPT = 2 * 86_400

#: Times that somebody else may be quicker before it counts as "not our turn".
_TRIES = 5

T = TypeVar("T")


class RedisLedger(QuotaLedger):
    """Budgets in the Redis that *where* names: a ``redis://``, ``rediss://`` or ``unix://`` URL, or a client of
    redis-py (its time-outs then bound how long a halt takes).  Times are those of the server's clock.  Thread-safe.

    *prefix*: of the keys' names.  They share a hash tag, so that a cluster keeps them together.
    """

    def __init__(self, where: Union[str, Any], *, prefix: str = "gscthreads") -> None:
        if isinstance(where, str):
            limits: Dict[str, Any] = {"socket_timeout": _ANSWER, "retry": Retry(NoBackoff(), 0)}
            if not where.startswith("unix:"):  # redis-py before 5 doesn't know it there, and nobody needs it
                limits["socket_connect_timeout"] = _ANSWER
            where = redis.Redis.from_url(where, **limits)
        self._client: Any = where
        self._prefix = prefix
        self._answered = False
        self._away_since: Optional[float] = None

    def update(self, keys: Sequence[str], change: Callable[[States, float], T]) -> T:
        try:
            found = self._update(list(keys), change)
        except (redis.AuthenticationError, redis.exceptions.AuthorizationError) as error:
            raise StoreError(f"Redis: {error}") from error
        except (redis.ConnectionError, redis.TimeoutError, redis.exceptions.ReadOnlyError) as error:
            raise self._away(error) from error
        except redis.RedisError as error:
            raise StoreError(f"Redis: {error}") from error
        except ValueError as error:
            words = f"Redis: a budget is damaged ({error}); delete {self._key('*')} when no sync runs"
            raise StoreError(words) from error
        self._answered, self._away_since = True, None
        return found

    def close(self) -> None:
        self._client.close()

    def _key(self, name: str) -> str:
        return f"{{{self._prefix}}}:{name}"

    def _update(self, keys: Sequence[str], change: Callable[[States, float], T]) -> T:
        names = [self._key(key) for key in keys]
        with self._client.pipeline() as pipe:
            for _ in range(_TRIES):
                try:
                    pipe.watch(*names)
                    kept = pipe.mget(names)
                    seconds, micros = pipe.time()
                    states: Any = {key: json.loads(state) if state else {} for key, state in zip(keys, kept)}
                    found = change(states, seconds + micros / 1e6)
                    pipe.multi()
                    for key, name in zip(keys, names):
                        pipe.set(name, json.dumps(states[key], separators=(",", ":")), ex=_KEPT)
                    pipe.execute()
                    return found
                except redis.WatchError:
                    continue  # what *change* did has not happened: it is done again to what is there now
        raise StoreLocked("others change the budgets all the time")

    def _away(self, error: Exception) -> StoreError:
        """What to make of a server that doesn't answer."""
        if not self._answered:  # nothing was begun yet that would be worth waiting for
            return StoreError(f"Redis can't be used: {error}")
        now = time.monotonic()
        self._away_since = self._away_since or now
        if now - self._away_since > _PATIENCE:
            return StoreLost(f"Redis has been away for {_PATIENCE:.0f} s: {error}")
        return StoreLocked(f"Redis: {error}")
