"""settings.GSCTHREADS, read whenever it is asked for, so that override_settings works."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence

from django.conf import settings

from ...config import SyncConfig
from ...errors import ConfigError

#: Keys beside the fields of SyncConfig.  STORE names another store than a database of Django's.
_OWN_KEYS = ("DATABASE", "STORE")

KEYS = tuple(sorted({field.name.upper() for field in dataclasses.fields(SyncConfig)} | set(_OWN_KEYS)))


#: How settings look whose meaning their names tell.
_EXAMPLES = {
    "sites": "Write ['sc-domain:example.com', 'https://www.example.org/'].",
    "start": "Write a date such as '2026-01-31', '-30d' (days ago) or '16m' (months ago).",
    "end": "Write a date such as '2026-01-31', 'yesterday' or '-3d' (days ago).",
    "reports": "Write ['page', 'page_query'], or dimensions: ['page,country,device'].",
    "search_types": "Write ['web', 'image'].",
    "ledger": "Write redis://localhost:6379/1, or leave it out.",
}


class Problem(NamedTuple):
    """A wrong setting: the number of the system check that tells it, what is wrong, and what to do."""

    number: int
    words: str
    hint: str


def read() -> Dict[str, Any]:
    """The settings by their names in lower case.  ConfigError when there is no telling what they mean."""
    for problem in _shape():
        raise ConfigError(f"{problem.words}  {problem.hint}")
    return {key.lower(): value for key, value in _given().items()}


def alias() -> Optional[str]:
    """The database alias that holds the data; None when STORE names another place."""
    given = _given()
    if not isinstance(given, Mapping) or given.get("STORE") is not None:
        return None
    return str(given.get("DATABASE") or "default")


def problems() -> List[Problem]:
    """Everything that is wrong with the settings, without a look at any database."""
    return list(_shape()) or list(_values())


def _given() -> Any:
    return getattr(settings, "GSCTHREADS", {})


def _shape() -> Iterator[Problem]:
    given = _given()
    if not isinstance(given, Mapping):
        yield Problem(1, f"GSCTHREADS must be a dict, not {type(given).__name__}.",
                      "For example {'SITES': ['sc-domain:example.com'], 'CREDENTIALS': 'credentials.json'}.")
        return
    for key in given:
        if key not in KEYS:
            yield Problem(2, f"GSCTHREADS has the unknown key {key!r}.", suggestion(str(key).upper()))
    if given.get("STORE") is not None and given.get("DATABASE") is not None:
        yield Problem(3, "GSCTHREADS has both DATABASE and STORE, which name two places for the data.",
                      "Keep DATABASE (an alias of DATABASES), or STORE (a URL such as sqlite:////var/lib/search.db).")


def suggestion(key: str, keys: Sequence[str] = KEYS) -> str:
    """What *key* was probably meant to be."""
    close = difflib.get_close_matches(key, keys, 1, 0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Known are {', '.join(keys)}."


def _values() -> Iterator[Problem]:
    """Each value on its own, then all of them together."""
    own: Dict[str, Any] = {"sites": ["sc-domain:example.com"], "store": "sqlite:///x.db", "credentials": {}}
    given = {key.lower(): value for key, value in _given().items() if key not in _OWN_KEYS and value is not None}
    whole = True
    if isinstance(given.get("ledger"), str):
        url = given.pop("ledger")
        if not url.startswith(("redis://", "rediss://", "unix://")):
            yield Problem(4, f"GSCTHREADS['LEDGER'] is {url!r}.", "Write redis://localhost:6379/1.")
    for name, value in given.items():
        try:
            SyncConfig(**{**own, name: value})
        except ConfigError as error:
            if name not in ("backoff_base", "backoff_cap"):  # those depend on each other
                whole = False
                yield Problem(4, f"GSCTHREADS[{name.upper()!r}]: {error}.", _meaning(name))
    if whole:
        try:
            SyncConfig(**{**own, **given})
        except ConfigError as error:
            yield Problem(4, f"GSCTHREADS: {error}.", "These settings depend on each other; change one of them.")


def _meaning(name: str) -> str:
    """What the setting *name* is for, and how it may look."""
    field = SyncConfig.__dataclass_fields__[name]
    words = field.metadata.get("help")
    if words is None:
        return _EXAMPLES[name]
    return f"It means: {words}" + ("." if field.default is None else f" (default: {field.default}).")
