"""Stores, by URL."""

from __future__ import annotations

from typing import Union

from ..errors import ConfigError
from .base import Store


def open_store(url: Union[str, Store]) -> Store:
    """The store that *url* names, not opened yet: ``sqlite:///file.db`` (``sqlite:////absolute/file.db``), or
    ``postgresql://user:password@host/database`` (``?schema=name``, and libpq's own parameters).

    A Store is itself.  Raises ConfigError for anything else.
    """
    if isinstance(url, Store):
        return url
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "sqlite":
        path = rest[1:] if rest.startswith("/") else ""
        if not path or path == ":memory:":
            raise ConfigError(f"store {_shown(url)} names no file; use sqlite:///search.db or"
                              " sqlite:////absolute/search.db")
        from .sqlite import SQLiteStore

        return SQLiteStore(path)
    if separator and scheme in ("postgresql", "postgres"):
        try:
            from .postgres import PostgresStore
        except ImportError as error:
            raise ConfigError(f"a store in Postgres needs psycopg2, also beside psycopg 3 ({error}):"
                              " pip install psycopg2-binary") from error
        return PostgresStore(url)
    if not separator and url.endswith((".db", ".sqlite", ".sqlite3")):
        raise ConfigError(f"store {_shown(url)} is a bare file name; write sqlite:/// before it")
    raise ConfigError(f"store {_shown(url)} is of no known kind; use sqlite:///search.db or"
                      " postgresql://user:password@host/database")


def _shown(url: str) -> str:
    """*url* for a message, unless it may hold a password."""
    if "@" in url or "=" in url:
        scheme, separator, _ = url.partition("://")
        return f"{scheme}://..." if separator and "@" not in scheme and "=" not in scheme else "..."
    return repr(url)
