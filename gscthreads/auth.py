"""Access tokens: read the credentials, get a token, share it between threads, renew it once for all of them.

Sources: gsc-api.md 6 (files, grants, errors), ecosystem.md 5 (google-auth's ``refresh`` has no lock).  No secret gets
into a message, a log line or a repr; where another library's exception might hold one, it is not chained.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import socket
import sys
import threading
import time
from typing import Any, Callable, Dict, Mapping, Optional

import requests

from .body import describe_fault
from .errors import CredentialsError, GscError, Transient
from .halt import Halt, Halted, held_or_halted
from .keyfile import SCOPE, SIGN_IN, checked_uri, field, path_of, read_file, seconds_until, signer_of
from .model import Account
from .refusals import clean
from .tokenserver import (
    GOOGLE_TOKEN_URI,
    SERVICE_ADVICE,
    TIMEOUT,
    USER_ADVICE,
    Answer,
    Token,
    ask,
    is_token,
    read_token,
    send,
)

log = logging.getLogger(__name__)

EARLY = 225.0  #: seconds before its end that a token is renewed, as google-auth does
PAUSE = 1.0  #: seconds for which a passing fault of the token server is not tried again

Clock = Callable[[], float]


class Credentials:
    """What authorizes API requests.  Thread-safe.  Made by ``open_credentials``."""

    session: Optional[requests.Session] = None  #: the user's own session, which sees to authorization itself
    account = Account()  #: whose quota the requests use, as far as it is known

    def authorize(self, http: requests.Session, halt: Optional[Halt] = None) -> Dict[str, str]:
        """Headers for one API request.  A token is fetched first, through *http*, when there is none or it ends soon.

        Raises CredentialsError when no token can be had, Transient when a later attempt may get one, Halted when *halt*
        came while other threads were at it: of those that wait for a token, at most one can hang.
        """
        return {}

    def reject(self, headers: Mapping[str, str]) -> None:
        """The API answered 401 to *headers*: never hand out that token again.  No effect once it was replaced."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lstrip('_')}>"


def open_credentials(source: object, *, clock: Clock = time.monotonic, wall: Clock = time.time) -> Credentials:
    """Credentials from a path or dict (JSON of type authorized_user or service_account), a google-auth credentials
    object, a requests.Session, or a callable that returns an access token.

    Reads the file, connects to nothing.  Raises CredentialsError.  How long a token lasts is measured by *clock*;
    *wall* (Unix time) serves only for dates in files.  ``subject`` in the JSON: whom a service account acts for.
    """
    if isinstance(source, Credentials):
        return source
    if isinstance(source, requests.Session):
        return _OwnSession(source)
    if isinstance(source, (str, os.PathLike)):
        path = path_of(source)
        return _from_info(read_file(path), f"credentials file {path}", clock, wall)
    if isinstance(source, Mapping):
        return _from_info(source, "credentials dict", clock, wall)
    google = sys.modules.get("google.auth.credentials")  # whoever has an object of it has imported it
    if google is not None and isinstance(source, google.Credentials):
        return _GoogleAuth(google.with_scopes_if_required(source, [SCOPE]), clock, wall)
    if callable(source):
        return _Callable(source)
    raise CredentialsError(
        f"credentials can't be a {type(source).__name__}; give a path, dict, google-auth credentials, "
        "requests.Session, or callable that returns an access token"
    )


class _OwnSession(Credentials):
    def __init__(self, session: requests.Session) -> None:
        self.session = session


class _Callable(Credentials):
    """Asks the user's function each time: it is expected to keep its token itself."""

    def __init__(self, get_token: Callable[[], object]) -> None:
        self._get_token = get_token
        self._lock = threading.Lock()  # held during the call, as the function need not be thread-safe

    def authorize(self, http: requests.Session, halt: Optional[Halt] = None) -> Dict[str, str]:
        try:
            with held_or_halted(self._lock, halt or Halt()):
                token = self._get_token()
        except (GscError, Halted):
            raise
        except Exception as error:
            if _passes(error):
                message = f"the credentials callable got no token: {describe_fault(error)}"
                raise Transient(message, reason="auth") from error
            raise CredentialsError(f"the credentials callable raised {type(error).__name__}") from error
        if not isinstance(token, str):
            raise CredentialsError(f"the credentials callable must return a str, not {type(token).__name__}")
        if not is_token(token):
            need = 'the bare token: not empty, no "Bearer", no space, line break or other control character'
            raise CredentialsError(f"the credentials callable must return {need}")
        return {"Authorization": f"Bearer {token}"}


class _Held(Credentials):
    """Holds one token for all threads; ``_fetch`` gets the next."""

    def __init__(self, quota_project: object, clock: Clock) -> None:
        self._clock = clock
        self._extra: Dict[str, str] = {}
        if isinstance(quota_project, str) and is_token(quota_project):
            self._extra["x-goog-user-project"] = quota_project
        self._lock = threading.Lock()  # held while a token is fetched: the others wait for it.  Guards all below
        self._token = ""  # the last one, good or not
        self._renew_at = self._ends_at = -math.inf  # by clock; -inf: there is none, or it was rejected
        self._refusal = ""  # why no token will ever be had again
        self._fault = Transient("")  # what to tell until _retry_at
        self._retry_at = -math.inf

    def authorize(self, http: requests.Session, halt: Optional[Halt] = None) -> Dict[str, str]:
        with held_or_halted(self._lock, halt or Halt()):
            if self._clock() >= self._renew_at:
                self._renew(http)
            return self._headers()

    def reject(self, headers: Mapping[str, str]) -> None:
        sent = [value for name, value in headers.items() if name.lower() == "authorization"]
        with self._lock:
            if sent == [self._headers()["Authorization"]]:
                self._renew_at = self._ends_at = -math.inf

    def _fetch(self, http: requests.Session, stale: str) -> Token:
        """A token other than *stale*.  Called with the lock held; raises CredentialsError or Transient."""
        raise NotImplementedError

    def _headers(self) -> Dict[str, str]:
        return {"Authorization": f"Bearer {self._token}", **self._extra}

    def _keep(self, token: Token, asked_at: float) -> None:
        self._token = token.value
        self._ends_at = asked_at + token.lifetime
        self._renew_at = self._ends_at - min(EARLY, token.lifetime / 2)

    def _renew(self, http: requests.Session) -> None:
        """Lock held.  The threads that waited for a failed attempt get its error instead of making their own."""
        if self._refusal:
            raise CredentialsError(self._refusal)
        asked_at = self._clock()
        if asked_at < self._retry_at:
            if asked_at >= self._ends_at:
                raise _again(self._fault)
            return
        try:
            self._keep(self._fetch(http, self._token), asked_at)
        except CredentialsError as error:
            self._refusal = str(error)
            raise
        except Transient as error:
            now = self._clock()
            self._fault, self._retry_at = _again(error), now + PAUSE
            if now >= self._ends_at:
                raise
            log.warning("could not renew the access token early, using the old one: %s", error)


class _User(_Held):
    """An authorized_user file: a refresh token and the OAuth client it was given to."""

    def __init__(self, info: Mapping[str, Any], origin: str, clock: Clock, wall: Clock) -> None:
        super().__init__(info.get("quota_project_id"), clock)
        self._client = {name: field(info, name, origin) for name in ("client_id", "client_secret")}
        self._refresh_token = field(info, "refresh_token", origin)
        # The file doesn't name the user: a few digits of a digest tell users apart and give nothing away.
        client = self._client["client_id"]
        user = hashlib.sha256(self._refresh_token.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        self.account = Account(f"{client} {user}", str(info.get("quota_project_id") or client.partition("-")[0]))
        self._token_uri = checked_uri(info.get("token_uri") or GOOGLE_TOKEN_URI, origin)
        token, left = info.get("token"), seconds_until(info.get("expiry"), wall())
        if isinstance(token, str) and is_token(token) and EARLY < left < math.inf:
            self._keep(Token(token, left), clock())

    def _fetch(self, http: requests.Session, stale: str) -> Token:
        # Without "scope": one that was not granted would be refused (gsc-api.md 6).
        form = {"grant_type": "refresh_token", **self._client, "refresh_token": self._refresh_token}
        answer = ask(http, self._token_uri, form, USER_ADVICE)
        successor = answer.get("refresh_token")
        if isinstance(successor, str) and successor:
            self._refresh_token = successor
        return read_token(answer)


class _ServiceAccount(_Held):
    """A service_account file: google-auth signs, the request is ours."""

    def __init__(self, info: Mapping[str, Any], origin: str, clock: Clock, wall: Clock) -> None:
        super().__init__(info.get("quota_project_id"), clock)
        self._wall = wall
        # "aud" stays Google's, whatever token_uri says (gsc-api.md 6).
        self._claims = {"iss": field(info, "client_email", origin), "aud": GOOGLE_TOKEN_URI, "scope": SCOPE}
        if info.get("subject") is not None:
            self._claims["sub"] = field(info, "subject", origin)
        self.account = Account(
            self._claims.get("sub", self._claims["iss"]),
            str(info.get("quota_project_id") or info.get("project_id") or ""),
        )
        self._token_uri = checked_uri(field(info, "token_uri", origin), origin)
        self._sign = signer_of(field(info, "private_key", origin), info.get("private_key_id"), origin)

    def _fetch(self, http: requests.Session, stale: str) -> Token:
        now = int(self._wall())
        assertion = self._sign({**self._claims, "iat": now, "exp": now + 3600})
        form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}
        return read_token(ask(http, self._token_uri, form, SERVICE_ADVICE))


class _GoogleAuth(_Held):
    """A google-auth object of the user's, who may refresh it too."""

    def __init__(self, inner: Any, clock: Clock, wall: Clock) -> None:
        super().__init__(getattr(inner, "quota_project_id", None), clock)
        self._inner = inner
        self._wall = wall
        email = getattr(inner, "service_account_email", None) or getattr(inner, "account", None) or ""
        project = getattr(inner, "project_id", None) or getattr(inner, "quota_project_id", None) or ""
        self.account = Account(str(email), str(project))

    def _fetch(self, http: requests.Session, stale: str) -> Token:
        if not self._inner.valid or self._value() in ("", stale):
            self._refresh(http)
        token = self._value()
        if not is_token(token):
            raise CredentialsError(f"google-auth's {type(self._inner).__name__} give no access token")
        return Token(token, max(0.0, seconds_until(self._inner.expiry, self._wall())))

    def _value(self) -> str:
        token = self._inner.token
        return token.decode("latin-1") if isinstance(token, bytes) else str(token or "")

    def _refresh(self, http: requests.Session) -> None:
        # google.auth.transport.requests.Request would close the worker's session when it is collected.
        def transport(
            url: str, method: str = "GET", body: Any = None, headers: Any = None, timeout: Any = None, **options: Any
        ) -> Answer:
            return send(http, method, url, data=body, headers=headers or {}, timeout=timeout or TIMEOUT, **options)

        try:
            self._inner.refresh(transport)
        except GscError:
            raise
        except Exception as error:
            raise self._fault_of(error) from None  # it may hold the whole answer

    def _fault_of(self, error: Exception) -> GscError:
        secrets = [getattr(self._inner, name, None) for name in ("token", "_refresh_token", "_client_secret")]
        text = clean(str(error.args[0]) if error.args else "", secrets)
        message = f"google-auth got no token: {type(error).__name__}: {text}"
        if _passes(error):
            return Transient(message, reason="auth")
        advice = USER_ADVICE if secrets[1] else SERVICE_ADVICE
        return CredentialsError(". ".join([message, *(hint for code, hint in advice.items() if code in text)]))


def _from_info(info: Mapping[str, Any], origin: str, clock: Clock, wall: Clock) -> Credentials:
    kind = info.get("type")
    if kind is None and "refresh_token" in info:  # what google-auth's to_json() writes
        kind = "authorized_user"
    if kind == "authorized_user":
        return _User(info, origin, clock, wall)
    if kind == "service_account":
        return _ServiceAccount(info, origin, clock, wall)
    if "installed" in info or "web" in info:
        raise CredentialsError(
            f"{origin} is an OAuth client, not a sign-in. Sign in with it to make an authorized_user file: {SIGN_IN}"
        )
    found = f"type {kind[:40]!r}" if isinstance(kind, str) else "no type"
    raise CredentialsError(
        f"{origin} has {found}; authorized_user and service_account work. For others give the object that "
        f"google.auth.load_credentials_from_file(path, scopes=[{SCOPE!r}])[0] returns"
    )


def _passes(error: BaseException) -> bool:
    """Whether an error of the user's code, requests or google-auth is one that passes."""
    kinds = (requests.ConnectionError, requests.Timeout, ConnectionError, TimeoutError, socket.timeout)
    retryable = getattr(error, "retryable", False) is True or type(error).__name__ == "TransportError"
    return retryable or isinstance(error, kinds)


def _again(error: Transient) -> Transient:
    """A new exception like *error*: one object must not be raised by several threads, nor keep its frames alive."""
    return Transient(error.message, reason=error.reason, retry_after=error.retry_after)
