"""Google's answer -> the error class that says what to do.  Knows HTTP codes and Google's reason words; decides
nothing else.  Pure.  Source: gsc-api.md 5.1 (shapes) and 5.2 (table)."""

from __future__ import annotations

import datetime as dt
import email.utils
import re
import time
import urllib.parse
from typing import Any, Iterable, List, Mapping, NamedTuple, Optional, Type

from .errors import ApiError, BadRequest, BurstQuota, DailyQuota, Denied, LoadQuota, Transient, Unauthorized
from .nesting import loads

#: Longest Retry-After that is believed, in seconds: a broken proxy must not park a run for a day.
MAX_RETRY_AFTER = 900.0

_TRANSIENT_STATUSES = frozenset({408, 425, 500, 502, 503, 504})
_RATE_REASONS = frozenset({"ratelimitexceeded", "userratelimitexceeded", "quotaexceeded", "resource_exhausted"})
_ACCESS_REASONS = frozenset(
    {
        "forbidden",
        "insufficientpermissions",
        "access_token_scope_insufficient",
        "accessnotconfigured",
        "service_disabled",
    }
)


class _Refusal(NamedTuple):
    message: str
    reasons: List[str]
    domains: List[str]


def classify(status: int, body: bytes, headers: Mapping[str, str]) -> ApiError:
    """The error that stands for an HTTP answer other than 200.  Never raises, whatever the body holds."""
    refusal = _read_refusal(body)
    reason = refusal.reasons[0] if refusal.reasons else ""
    message = refusal.message or _plain_text(body) or f"HTTP {status} without an explanation"
    error = _error_class(status, refusal)
    return error(message, status=status, reason=reason, retry_after=parse_retry_after(headers.get("Retry-After")))


def refusal_in(answer: object, body: bytes, headers: Mapping[str, str]) -> Optional[ApiError]:
    """The error in an answer with status 200, parsed and as it came; None when it tells of none."""
    error = answer.get("error") if isinstance(answer, dict) else None
    if error is None:
        return None
    code = error.get("code") if isinstance(error, dict) else None
    return classify(code if isinstance(code, int) and 400 <= code <= 599 else 500, body, headers)


def parse_retry_after(value: Optional[str], *, now: Optional[float] = None) -> Optional[float]:
    """Seconds a Retry-After header asks for (delta or HTTP date), capped at MAX_RETRY_AFTER; None when unusable."""
    if not value:
        return None
    text = value.strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text):
        seconds = float(text)
    else:
        try:
            moment = email.utils.parsedate_to_datetime(text)
            if moment.tzinfo is None:  # asctime's form names no zone: HTTP's dates are in UTC (RFC 9110, 5.6.7)
                moment = moment.replace(tzinfo=dt.timezone.utc)
            seconds = moment.timestamp() - (time.time() if now is None else now)
        except (TypeError, ValueError, IndexError, OverflowError, OSError):
            return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def clean(text: str, secrets: Iterable[object]) -> str:
    """A server's words in one short line, without any of *secrets* that it repeats."""
    for secret in secrets:
        if isinstance(secret, str) and len(secret) >= 6:
            for form in (secret, urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret)):
                text = text.replace(form, "***")
    return " ".join(_printable(text).split())[:300]


def _error_class(status: int, refusal: _Refusal) -> Type[ApiError]:
    text = refusal.message.lower()
    reasons = {reason.lower() for reason in refusal.reasons}
    if status == 401 or "autherror" in reasons:
        return Unauthorized
    if status in (403, 429):
        # Quota comes as 403 as often as 429, and sometimes without a reason: reasons and words decide, the status
        # only when they are silent (5.2).
        about_quota = (
            status == 429
            or bool(reasons & _RATE_REASONS)
            or "dailylimitexceeded" in reasons
            or "usagelimits" in (domain.lower() for domain in refusal.domains)
            and not reasons & _ACCESS_REASONS
        )
        if about_quota or ("quota" in text and not reasons & _ACCESS_REASONS):
            return _quota_class(text, reasons)
        return Denied if reasons or refusal.message else Transient  # a 403 that isn't Google's JSON is a proxy's
    if status in _TRANSIENT_STATUSES or status >= 500:
        return Transient
    return BadRequest


def _quota_class(text: str, reasons: "set[str]") -> Type[ApiError]:
    if "dailylimitexceeded" in reasons or "per day" in text or "daily" in text:
        return DailyQuota
    if "load quota" in text:
        return LoadQuota
    return BurstQuota


def _read_refusal(body: bytes) -> _Refusal:
    try:
        error = loads(body, "replace")["error"]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return _Refusal("", [], [])
    if not isinstance(error, dict):
        return _Refusal("", [], [])
    reasons: List[str] = []
    domains: List[str] = []
    for name in ("errors", "details"):
        items = error.get(name)
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict):
                reasons += _text(item.get("reason"))
                domains += _text(item.get("domain"))
    reasons += _text(error.get("status"))
    message = (_text(error.get("message")) or [""])[0]
    return _Refusal(message, [reason[:100] for reason in reasons], domains)


def _text(value: Any) -> List[str]:
    """*value* in a list, as one line that every terminal, log and database takes; [] when it is no text."""
    if not isinstance(value, str) or not value:
        return []
    return [_printable(value[:1000])]


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _plain_text(body: bytes) -> str:
    """The readable words of a body that isn't Google's JSON (a proxy's HTML page), one short line."""
    text = re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", body[:4000].decode("utf-8", "replace"), flags=re.S | re.I)
    return " ".join(_printable(text).split())[:200]
