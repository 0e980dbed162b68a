"""The token server: one request to it, its answers and refusals in plain words.  (gsc-api.md 6, grants and errors.)

No secret gets into a message: what a server repeats of a request is blanked out.
"""

from __future__ import annotations

import contextlib
import math
import re
import urllib.parse
from typing import Any, Dict, Mapping, NoReturn

import requests

from .body import Body, send_fault
from .errors import CredentialsError, Transient
from .keyfile import SCOPE, SIGN_IN
from .nesting import loads
from .refusals import clean, parse_retry_after

GOOGLE_TOKEN_URI = "https://oauth2.googleapis.com/token"

TIMEOUT = (10.0, 30.0)  #: seconds to connect to the token server and to wait for its answer
MAX_ANSWER = 64 * 1024  #: bytes of a token server's answer

_ADVICE = {  # by OAuth error code
    "invalid_client": "client_id and client_secret do not belong together, or this OAuth client was deleted",
    "deleted_client": "This OAuth client was deleted; sign in again with another one",
    "invalid_scope": f"{SCOPE} was not granted; sign in again and grant it",
}
USER_ADVICE = {
    **_ADVICE,
    "invalid_grant": "The sign-in has ended: it was revoked, the password was changed, it was not used for 6 months, "
    "the OAuth consent screen is still in Testing (sign-ins then last 7 days), or the organisation asks for a new one. "
    f"Sign in again to make a new file, e.g. {SIGN_IN}",
    "unauthorized_client": "The refresh_token was not made with this client_id; sign in again with this client",
}
SERVICE_ADVICE = {
    **_ADVICE,
    "invalid_grant": "The service account or its key was deleted, the subject doesn't exist, or this computer's clock "
    "is wrong. Check the clock, else make a new key for the service account",
    "unauthorized_client": "A Workspace admin must allow the service account's client ID (domain-wide delegation) the "
    f"scope {SCOPE}; without delegation leave the subject out and add the service account as a user of the site",
}
_PASSING = frozenset({"internal_failure", "server_error", "temporarily_unavailable", "rate_limit_exceeded"})


class Token:
    """An access token and the seconds it lasts from when it was asked for.  Not a tuple, whose repr would show it."""

    def __init__(self, value: str, lifetime: float) -> None:
        self.value = value
        self.lifetime = lifetime


class Answer:
    """A token server's answer, in the shape google-auth wants."""

    def __init__(self, status: int, headers: Mapping[str, str], data: bytes) -> None:
        self.status = status
        self.headers = headers
        self.data = data


def ask(http: requests.Session, uri: str, form: Dict[str, str], advice: Mapping[str, str]) -> Dict[str, Any]:
    """The token server's answer to *form*.  Raises CredentialsError or Transient."""
    answer = send(http, "POST", uri, data=form, headers={}, timeout=TIMEOUT)
    server = urllib.parse.urlsplit(uri).netloc
    if 300 <= answer.status < 400:
        message = f"{server} answers with a redirect (HTTP {answer.status}); credentials are never sent after one"
        raise CredentialsError(f"{message}. Check token_uri")
    try:
        found = loads(answer.data)
    except (ValueError, RecursionError):
        found = None
    if answer.status >= 400:
        _refuse(answer.status, found if isinstance(found, dict) else {}, server, form, advice)
    if answer.status != 200 or not isinstance(found, dict):
        raise Transient(f"{server} answers HTTP {answer.status} without a JSON object", reason="auth")
    return found


def send(http: requests.Session, method: str, url: str, *, headers: Mapping[str, str], **options: Any) -> Answer:
    """One request to a token server, its answer of limited size.  Raises Transient for whatever may pass."""
    server = urllib.parse.urlsplit(url).netloc
    # Body can't undo br and zstd, which requests may offer.  The empty auth keeps ~/.netrc out.
    options.update(headers={**headers, "Accept-Encoding": "gzip"}, auth=lambda request: request)
    options.update(stream=True, allow_redirects=False)
    try:
        response = http.request(method, url, **options)
    except Exception as error:
        fault = send_fault(error, server, TIMEOUT[1], foreign=False)
        if fault is None:
            raise
        raise (fault if isinstance(fault, Transient) else CredentialsError(str(fault))) from fault.__cause__
    with contextlib.closing(response):
        status = response.status_code
        if status in (408, 429) or status >= 500:
            # Transient.status stays None: it is the API's, where 501 says that there are no batches.
            wait = parse_retry_after(response.headers.get("Retry-After"))
            raise Transient(f"{server} answers HTTP {status}", reason="auth", retry_after=wait)
        body = Body(response, max_bytes=MAX_ANSWER)
        data = body.read_all() if status == 200 else body.read_start(MAX_ANSWER)
        return Answer(status, response.headers, data)


def _refuse(
    status: int, answer: Mapping[str, Any], server: str, form: Mapping[str, str], advice: Mapping[str, str]
) -> NoReturn:
    """Raise what an answer 4xx means, in Google's words and ours."""
    error: Any = answer.get("error")
    words = answer.get("error_description")
    if isinstance(error, dict):  # the shape of other Google APIs
        error, words = error.get("status"), error.get("message")
    code = error if isinstance(error, str) else ""
    secrets = [form[name] for name in ("client_secret", "refresh_token", "assertion") if name in form]
    said = ": ".join(clean(word, secrets) for word in (code, words) if isinstance(word, str) and word)
    message = f"{server} refuses an access token: {said or 'no reason given'} (HTTP {status})"
    if code in _PASSING:
        raise Transient(message, reason="auth")
    hint = advice.get(code) or (advice["invalid_client"] if status == 401 else "")
    raise CredentialsError(f"{message}. {hint}" if hint else message)


def read_token(answer: Mapping[str, Any]) -> Token:
    token = answer.get("access_token")
    try:
        lifetime = float(answer.get("expires_in", 3600))  # some servers send a string
    except (TypeError, ValueError, OverflowError):
        lifetime = math.nan
    if not isinstance(token, str) or not is_token(token) or not lifetime > 0:
        raise Transient("the token server's answer has no usable access_token and expires_in", reason="auth")
    return Token(token, lifetime)


def is_token(value: str) -> bool:
    """Whether *value* can stand in a header as one word."""
    return re.fullmatch(r"[!-~]+", value) is not None
