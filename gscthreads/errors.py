"""Every exception gscthreads raises, named by what to do next.

``GscError`` is the common base.  The driver's or library's own exception stays as ``__cause__``.
"""

from __future__ import annotations

import re
from typing import Optional


class GscError(Exception):
    """Base of everything raised on purpose."""


class ConfigError(GscError, ValueError):
    """A setting, date, report or site name is wrong.  The message names the field, the value and what is allowed."""


class CredentialsError(GscError):
    """No access token can be had (missing or broken file, revoked consent).  The message says how to mend it."""


class StoreError(GscError):
    """The database can't be used (not ours, read-only, broken).  Nothing already acknowledged is lost."""


class StoreLocked(StoreError):
    """Another program is writing to this database and doesn't let go.  Try again when it has ended."""


class LeaseLost(StoreError):
    """Another sync took this run for dead and went on in its place.  Nothing acknowledged is lost."""


class StoreLost(StoreError):
    """The connection to the database broke, or a transaction was broken off.  It is done again; when the database
    stays away for minutes the run parks, and the same command goes on."""


class StoreMissing(StoreError):
    """There is no store to read yet."""


class StoreFull(StoreError):
    """No room is left for the database.  The run parks; the same command goes on once there is room."""


class ApiError(GscError):
    """Google (or the way to it) refused one slice or one HTTP batch.

    ``status`` is the HTTP status, None when there was no answer; ``reason`` Google's reason or status word;
    ``retry_after`` the seconds the server asked us to wait, None when it did not say.
    """

    def __init__(
        self,
        message: str,
        *,
        status: Optional[int] = None,
        reason: str = "",
        retry_after: Optional[float] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.reason = reason
        self.retry_after = retry_after

    def hide(self, secret: str) -> None:
        """Blank out *secret*, which a server or proxy repeated, from its first letters on: it may be cut off."""
        for name in ("message", "reason"):
            setattr(self, name, re.sub(re.escape(secret[:12]) + "[!-~]*", "***", getattr(self, name)))
        self.args = (self.message,)

    def __str__(self) -> str:
        label = " ".join(str(part) for part in (self.status, self.reason) if part)
        return f"{self.message} [{label}]" if label else self.message


class Transient(ApiError):
    """A fault that passes: time-out, reset, 5xx, an answer that is broken or missing.  Retry with backoff."""


class Unauthorized(ApiError):
    """The access token is not accepted (401).  Refresh it once for all threads, then retry."""


class BurstQuota(ApiError):
    """Too many calls a second or a minute.  Slow this site down and retry."""


class LoadQuota(ApiError):
    """The load quota or a daily quota is spent.  Wait minutes or until the next Pacific day; see ``daily``."""

    daily = False


class DailyQuota(LoadQuota):
    """A quota that comes back at the next Pacific midnight."""

    daily = True


class Denied(ApiError):
    """No access to this site, wrong scope, or the API is off in the project.  This dataset ends, others go on."""


class BadRequest(ApiError):
    """Google will never answer this request.  This dataset ends, others go on."""
