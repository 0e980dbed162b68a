"""Access tokens: from a file, google-auth credentials, a session or a callable; one refresh shared by all threads.

Sources: gsc-api.md 6 (grants, files, errors, lifetime).  Secrets are never in a repr, a message or a log line.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import logging
import os
import stat
import threading
import time
import urllib.parse
from typing import Any, Callable, Dict, Mapping, Optional

import requests

from .errors import CredentialsError, GscError, Transient

logger = logging.getLogger(__name__)

SCOPE = "https://www.googleapis.com/auth/webmasters.readonly"
TOKEN_URI = "https://oauth2.googleapis.com/token"

#: Seconds before its end at which a token counts as stale (google-auth's figure), at most half its life.
_EARLY = 225.0
_LIFETIME = 3600.0
_TIMEOUT = (10.0, 30.0)
_MAX_ANSWER = 64 * 1024

#: Seconds for which a refresh that failed in passing is not tried again, so that waiting threads don't pile up.
_PAUSE = 1.0

_SIGN_IN = f"make a new file with: gcloud auth application-default login --scopes={SCOPE},openid"
_REVOKED = (
    "the refresh token is expired or revoked (consent withdrawn, password changed, unused for 6 months, or the consent"
    f" screen is in Testing, where tokens live 7 days); sign in again: {_SIGN_IN}"
)


class Credentials:
    """Gives out ``Authorization`` headers.  Thread-safe; a refresh happens once, whoever needs it."""

    #: The user's own session, which signs requests itself; None when ``authorize`` does.
    session: Optional[requests.Session] = None

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards what follows; held during a refresh, which is the point
        self._token: Optional[str] = None
        self._stale_at = float("-inf")
        self._failure: Optional[GscError] = None
        self._failed_at = float("-inf")
        self._project: Optional[str] = None

    def authorize(self, http: requests.Session) -> Dict[str, str]:
        """Headers for one API request, with a token fetched through *http* first when there is none that lasts.

        Raises CredentialsError when no token can be had, Transient when the token server can't be reached now.
        """
        with self._lock:
            if self._token is None or self._clock() >= self._stale_at:
                self._refresh(http)
            headers = {"Authorization": f"Bearer {self._token}"}
            if self._project:
                headers["x-goog-user-project"] = self._project
            return headers

    def reject(self, headers: Mapping[str, str]) -> None:
        """The API answered 401 to *headers*: the next ``authorize`` gets a new token, unless it has one already."""
        with self._lock:
            if headers.get("Authorization") == f"Bearer {self._token}":
                self._token = None

    def _refresh(self, http: requests.Session) -> None:
        if isinstance(self._failure, CredentialsError):
            raise self._failure
        if self._failure is not None and self._clock() - self._failed_at < _PAUSE:
            raise self._failure
        try:
            token, seconds = self._fetch(http)
        except GscError as error:
            self._failure, self._failed_at = error, self._clock()
            raise
        self._failure = None
        self._token = _checked(token)
        self._stale_at = self._clock() + seconds - min(_EARLY, seconds / 2)

    def _fetch(self, http: requests.Session) -> "tuple[Any, float]":
        """(token, seconds it lasts), from wherever it comes."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class AuthorizedUser(Credentials):
    """A refresh token of a person (gsc-api.md 6, refresh grant)."""

    def __init__(self, info: Mapping[str, Any], *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock=clock)
        for name in ("client_id", "client_secret", "refresh_token"):
            _required(info, name, "authorized_user")
        # No scope is sent: one that was not granted would fail the whole refresh.
        self._form = {name: str(info[name]) for name in ("client_id", "client_secret", "refresh_token")}
        self._uri = _token_uri(info)
        self._project = _optional(info, "quota_project_id")
        token, left = _optional(info, "token"), _seconds_left(info.get("expiry"))
        if token and left > 0:
            self._token = token
            self._stale_at = clock() + left - min(_EARLY, left / 2)

    def _fetch(self, http: requests.Session) -> "tuple[Any, float]":
        answer = _ask(http, self._uri, {"grant_type": "refresh_token", **self._form})
        replacement = answer.get("refresh_token")
        if isinstance(replacement, str) and replacement:
            self._form["refresh_token"] = replacement
        return answer.get("access_token"), _lifetime(answer)


class GoogleAuth(Credentials):
    """Any google-auth credentials; their own refresh has no lock, ours has (gsc-api.md 6, thread safety)."""

    def __init__(self, credentials: Any, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock=clock)
        self._credentials = credentials
        self._project = getattr(credentials, "quota_project_id", None)
        left = _seconds_left(getattr(credentials, "expiry", None))
        if getattr(credentials, "valid", False):
            self._token = credentials.token
            self._stale_at = clock() + left - min(_EARLY, left / 2) if left > 0 else float("inf")

    def _fetch(self, http: requests.Session) -> "tuple[Any, float]":
        exceptions, transport = _google("auth.exceptions", "auth.transport.requests")
        try:
            self._credentials.refresh(transport.Request(session=http))
        except exceptions.RefreshError as error:
            if getattr(error, "retryable", False):
                raise Transient("the token server has a passing fault", reason="token") from error
            words = _words(error)
            hint = f": {_REVOKED}" if "invalid_grant" in words else f": {words}"
            raise CredentialsError(f"Google refuses the credentials{hint}") from None
        except exceptions.TransportError as error:
            raise Transient("can't reach the token server", reason="token") from error
        except exceptions.GoogleAuthError as error:
            raise CredentialsError(f"google-auth can't get a token: {_words(error)}") from None
        return self._credentials.token, _seconds_left(self._credentials.expiry) or _LIFETIME


class SessionCredentials(Credentials):
    """The user's own requests.Session, which brings its own authorization."""

    def __init__(self, session: requests.Session) -> None:
        super().__init__()
        self.session = session

    def authorize(self, http: requests.Session) -> Dict[str, str]:
        return {}

    def reject(self, headers: Mapping[str, str]) -> None:
        return None


class CallableCredentials(Credentials):
    """A function that returns a token whenever it is asked; it keeps its own cache."""

    def __init__(self, function: Callable[[], str]) -> None:
        super().__init__()
        self._function = function

    def authorize(self, http: requests.Session) -> Dict[str, str]:
        with self._lock:
            return {"Authorization": f"Bearer {_checked(self._function())}"}


def open_credentials(source: Any) -> Credentials:
    """Credentials from a path or dict of ``authorized_user`` or ``service_account`` JSON, a google-auth credentials
    object, a requests.Session, or a callable that returns a token.  Raises CredentialsError saying what is wrong."""
    if isinstance(source, Credentials):
        return source
    if isinstance(source, requests.Session):
        return SessionCredentials(source)
    if isinstance(source, (str, os.PathLike)):
        return _from_info(_read(os.fspath(source)), f"credentials file {os.fspath(source)}")
    if isinstance(source, Mapping):
        return _from_info(source, "credentials")
    if hasattr(source, "refresh") and hasattr(source, "token"):
        (credentials,) = _google("auth.credentials")
        return GoogleAuth(credentials.with_scopes_if_required(source, [SCOPE]))
    if callable(source):
        return CallableCredentials(source)
    raise CredentialsError(
        f"credentials of type {type(source).__name__} can't be used; give a JSON file's path, a dict, google-auth"
        " credentials, a requests.Session or a function that returns a token"
    )


def _read(path: str) -> Mapping[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            if os.name == "posix" and stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                logger.warning("other users can read the credentials file %s; chmod 600 it", path)
            text = file.read(1024 * 1024)
    except FileNotFoundError:
        raise CredentialsError(f"credentials file {path} does not exist; {_SIGN_IN}") from None
    except (OSError, UnicodeDecodeError) as error:
        words = getattr(error, "strerror", None) or "it is not text"
        raise CredentialsError(f"credentials file {path} can't be read: {words}") from None
    try:
        info = json.loads(text)
    except (ValueError, RecursionError):
        raise CredentialsError(f"credentials file {path} is not JSON") from None
    if not isinstance(info, dict):
        raise CredentialsError(f"credentials file {path} must hold a JSON object")
    return info


def _from_info(info: Mapping[str, Any], name: str) -> Credentials:
    kind = info.get("type")
    if kind == "authorized_user":
        return AuthorizedUser(info)
    if kind == "service_account":
        return _service_account(info)
    if "installed" in info or "web" in info:
        raise CredentialsError(f"{name} is the OAuth client itself, not a sign-in; {_SIGN_IN}")
    shown = repr(kind)[:40] if isinstance(kind, str) else "missing"
    raise CredentialsError(f"{name}: type {shown} is neither authorized_user nor service_account; {_SIGN_IN}")


def _service_account(info: Mapping[str, Any]) -> Credentials:
    for name in ("private_key", "client_email", "token_uri"):
        _required(info, name, "service_account")
    _token_uri(info)
    (service_account,) = _google("oauth2.service_account")
    plain = {key: value for key, value in info.items() if key != "subject"}
    try:
        made = service_account.Credentials.from_service_account_info(
            plain, scopes=[SCOPE], subject=_optional(info, "subject")
        )
    except Exception:  # whatever the key parser raises may quote the key
        raise CredentialsError("the service account's private_key is not a usable RSA key; download it anew") from None
    return GoogleAuth(made)


def _google(*names: str) -> Any:
    import importlib

    try:
        return [importlib.import_module(f"google.{name}") for name in names]
    except ImportError:
        raise CredentialsError("these credentials need google-auth: pip install 'gscthreads[google]'") from None


def _ask(http: requests.Session, uri: str, form: Dict[str, str]) -> Mapping[str, Any]:
    """The token server's answer, an object.  Its errors as ours, without anything we sent."""
    host = urllib.parse.urlsplit(uri).netloc
    try:
        # auth: an empty function, or requests would look for a password in ~/.netrc
        response = http.post(
            uri, data=form, timeout=_TIMEOUT, stream=True, allow_redirects=False, auth=lambda request: request
        )
        with response:
            body = b""
            for chunk in response.iter_content(8192):
                body += chunk
                if len(body) > _MAX_ANSWER:
                    raise Transient(f"the token server {host} answers far too much", reason="token")
    except (requests.RequestException, OSError) as error:
        raise Transient(f"can't reach the token server {host} ({type(error).__name__})", reason="token") from None
    status = response.status_code
    try:
        answer = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        answer = None
    if status == 200:
        if isinstance(answer, dict):
            return answer
        raise Transient(f"the token server {host} did not answer with a JSON object", status=status, reason="token")
    if status in (408, 429) or status >= 500:
        raise Transient(f"the token server {host} has a passing fault", status=status, reason="token")
    raise CredentialsError(_refusal(host, status, answer if isinstance(answer, dict) else {}))


def _refusal(host: str, status: int, answer: Mapping[str, Any]) -> str:
    code = str(answer.get("error") or status)[:100]
    if 300 <= status < 400:
        return f"the token server {host} redirects, which is not followed with credentials; check token_uri"
    if code == "invalid_grant":
        return f"{_REVOKED} [invalid_grant]"
    if code == "invalid_client":
        return "client_id and client_secret don't match or were deleted; download the OAuth client anew [invalid_client]"
    words = str(answer.get("error_description") or code)[:200]
    return f"the token server {host} refuses the credentials: {words} [{code}]"


def _lifetime(answer: Mapping[str, Any]) -> float:
    seconds = answer.get("expires_in")
    try:
        return min(max(float(seconds), 1.0), 86_400.0) if isinstance(seconds, (int, float, str)) else _LIFETIME
    except ValueError:
        return _LIFETIME


def _seconds_left(expiry: Any) -> float:
    """Seconds until *expiry*: ISO text or a datetime in UTC, as google-auth writes them; 0.0 when unknown."""
    try:
        if isinstance(expiry, str):
            expiry = dt.datetime.strptime(expiry.rstrip("Z").split(".")[0], "%Y-%m-%dT%H:%M:%S")
        if isinstance(expiry, dt.datetime):
            return expiry.replace(tzinfo=expiry.tzinfo or dt.timezone.utc).timestamp() - time.time()
    except (ValueError, OverflowError):
        pass
    return 0.0


def _checked(token: Any) -> str:
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable() or " " in token:
        raise CredentialsError("what should be an access token is not one (empty, or with spaces or line ends)")
    return token


def _required(info: Mapping[str, Any], name: str, kind: str) -> None:
    if not isinstance(info.get(name), str) or not info[name]:
        mend = _SIGN_IN if kind == "authorized_user" else "download the key file anew"
        raise CredentialsError(f"{kind} credentials lack {name!r}; {mend}")


def _optional(info: Mapping[str, Any], name: str) -> Optional[str]:
    value = info.get(name)
    return value if isinstance(value, str) and value else None


def _token_uri(info: Mapping[str, Any]) -> str:
    """The file's token_uri: https, or plain http on this machine."""
    uri = _optional(info, "token_uri") or TOKEN_URI
    parts = urllib.parse.urlsplit(uri)
    local = parts.hostname == "localhost"
    try:
        local = local or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        pass
    if parts.scheme == "https" and parts.hostname or parts.scheme == "http" and local:
        return uri
    raise CredentialsError("token_uri must be an https address: secrets are sent there")


def _words(error: BaseException) -> str:
    """google-auth's message, short; its second argument (the answer's body) is left out."""
    return str(error.args[0] if error.args else type(error).__name__)[:200]
