"""From settings and options to a run."""

from __future__ import annotations

import logging
import os
from typing import Any, Dict, Mapping, Optional, Tuple

from ...config import SyncConfig
from ...errors import ConfigError
from ...quota import QuotaLedger
from ...stores import open_store
from ...stores.base import Store
from ...sync import Sync
from . import conf, db

logger = logging.getLogger(__name__)

_warned_of_uwsgi = False


def make_sync(overrides: Mapping[str, Any]) -> Sync:
    """A run, not started yet.  ConfigError inside a transaction of the database it would write to."""
    refuse_atomic(overrides)
    _warn_of_uwsgi()
    return Sync(sync_config(overrides))


def refuse_atomic(overrides: Mapping[str, Any]) -> None:
    """ConfigError inside a transaction of the database that the settings, or *overrides*, name."""
    alias, _ = _place(merged(overrides))
    if alias is not None:
        db.refuse_atomic(alias)


def sync_config(overrides: Mapping[str, Any]) -> SyncConfig:
    """The settings with *overrides*, which are keys in lower case; None stands for "as the settings say"."""
    values = merged(overrides)
    for name, option in (("credentials", "--credentials"), ("sites", "--site")):
        if not values.get(name):
            raise ConfigError(f"no {name}: set GSCTHREADS[{name.upper()!r}], or give {option}")
    return SyncConfig(**keywords(overrides))


def keywords(overrides: Mapping[str, Any]) -> Dict[str, Any]:
    """The same as keywords of SyncConfig."""
    values = merged(overrides)
    values["store"] = make_store(overrides)
    values.pop("database", None)
    if isinstance(values.get("ledger"), str):
        values["ledger"] = _redis(values["ledger"])
    return values


def _redis(url: str) -> QuotaLedger:
    try:
        from ..redis import RedisLedger

        return RedisLedger(url)
    except ImportError as error:
        raise ConfigError(f"GSCTHREADS['LEDGER'] needs redis-py ({error}): pip install redis") from error
    except ValueError as error:
        raise ConfigError(f"GSCTHREADS['LEDGER']: {error}") from error


def make_store(overrides: Mapping[str, Any]) -> Store:
    """The store that the settings, or ``database`` or ``store`` of *overrides*, name; not opened yet."""
    alias, url = _place(merged(overrides))
    return open_store(url) if alias is None else db.store(alias)


def _place(values: Mapping[str, Any]) -> Tuple[Optional[str], Any]:
    """(alias, None) or (None, URL)."""
    url = values.get("store")
    return (str(values.get("database") or "default"), None) if url is None else (None, url)


def merged(overrides: Mapping[str, Any]) -> Dict[str, Any]:
    """The settings with *overrides* in their place."""
    values: Dict[str, Any] = {"credentials": os.environ.get("GSCTHREADS_CREDENTIALS") or None, **conf.read()}
    given = {name: value for name, value in overrides.items() if value is not None}
    for name in given:
        if name.upper() not in conf.KEYS:
            known = [key.lower() for key in conf.KEYS]
            raise ConfigError(f"unknown setting {name!r}.  {conf.suggestion(name, known)}")
    if given.get("store") is not None and given.get("database") is not None:
        raise ConfigError("database (an alias) and store (a URL) name two places; give one")
    if "store" in given or "database" in given:  # either replaces whatever the settings name
        values.pop("store", None)
        values.pop("database", None)
    values.update(given)
    return values


def _warn_of_uwsgi() -> None:
    """Log once when uWSGI was started without threads: those that a sync starts would hardly run."""
    global _warned_of_uwsgi
    if _warned_of_uwsgi:
        return
    try:
        import uwsgi
    except ImportError:
        return
    if not getattr(uwsgi, "has_threads", True):  # not by its options: newer ones have threads without being told
        _warned_of_uwsgi = True
        logger.warning("uWSGI runs without threads, so those of a sync may stand still between requests: set"
                       " enable-threads = true, or run manage.py gsc_sync outside of uWSGI")


def after_migrate(using: str, **rest: Any) -> None:
    """Bring the store's tables up to date whenever its database was migrated."""
    if using == conf.alias():
        db.ensure_schema(using)
