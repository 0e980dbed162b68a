"""Credentials files: read, checked, and every way in which one can be wrong named.  (gsc-api.md 6, files.)"""

from __future__ import annotations

import datetime as dt
import json
import logging
import math
import os
import re
import stat
import urllib.parse
from typing import Any, Callable, Dict, Mapping

from .errors import CredentialsError

log = logging.getLogger(__name__)

SCOPE = "https://www.googleapis.com/auth/webmasters.readonly"

MAX_FILE = 1024 * 1024  #: bytes of a credentials file

SIGN_IN = (
    "gcloud auth application-default login --client-id-file=CLIENT.json "
    f"--scopes=https://www.googleapis.com/auth/cloud-platform,{SCOPE}"
)


#: How access tokens, refresh tokens, client secrets and signed tokens begin.
_SECRET = re.compile(r"\s*(bearer\s+)?(ya29\.|1//|gocspx-|eyj[\w-]+\.eyj)", re.I)


def path_of(source: Any) -> str:
    text = os.fsdecode(source)
    if text.lstrip().startswith("{"):
        raise CredentialsError("credentials are JSON text; give a path, or json.loads(text)")
    if _SECRET.match(text) or not text.isprintable():  # not repeated, as it may be a secret
        raise CredentialsError("credentials are not a path; to give an access token use a callable that returns it")
    if not text:
        raise CredentialsError("credentials are an empty path")
    return os.path.expanduser(text)


def read_file(path: str) -> Dict[str, Any]:
    what = f"credentials file {path}"
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
            mode = os.fstat(file.fileno()).st_mode
    except FileNotFoundError:
        raise CredentialsError(f"{what} does not exist") from None
    except OSError as error:
        why = "is a directory" if os.path.isdir(path) else f"can't be read: {error.strerror}"
        raise CredentialsError(f"{what} {why}") from error
    try:
        info = json.loads(data) if len(data) <= MAX_FILE else None
    except (ValueError, RecursionError) as error:
        place = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise CredentialsError(f"{what} is not JSON{place}") from None  # its cause holds the whole text
    if not isinstance(info, dict):
        raise CredentialsError(f"{what} does not hold a JSON object")
    if os.name == "posix" and stat.S_ISREG(mode) and mode & 0o077:
        log.warning("%s is open to other users of this computer; mend it: chmod 600 %s", what, path)
    return info


def field(info: Mapping[str, Any], name: str, origin: str) -> str:
    value = info.get(name)
    if not isinstance(value, str) or not value:
        raise CredentialsError(f"{origin}: {name} is {'missing' if value is None else 'empty or not a string'}")
    return value


def checked_uri(uri: object, origin: str) -> str:
    """*uri* when secrets may be sent there: by https, or to this computer."""
    text = uri if isinstance(uri, str) else ""
    try:
        parts = urllib.parse.urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    schemes = ("https", "http") if host in ("127.0.0.1", "localhost", "::1") else ("https",)
    if not host or parts.scheme not in schemes or "@" in parts.netloc:
        raise CredentialsError(f"{origin}: token_uri must be an https URL without password (http only for localhost)")
    return text


def signer_of(key: str, key_id: object, origin: str) -> Callable[[Mapping[str, object]], str]:
    """What makes a signed JWT (RS256) of claims."""
    try:
        from google.auth import crypt, jwt
    except ImportError as error:
        raise CredentialsError("a service account needs google-auth: pip install 'gscthreads[google]'") from error
    encode: Callable[..., bytes] = jwt.encode
    load: Callable[..., Any] = crypt.RSASigner.from_string
    try:
        signer = load(key, key_id)
        encode(signer, {})  # a key that isn't RSA loads, but can't sign
    except Exception:  # whatever the crypto library raises, and it may quote the key
        raise CredentialsError(f"{origin}: private_key is not an RSA key in PEM form, or it is cut off") from None
    return lambda claims: encode(signer, claims).decode("ascii")


def seconds_until(expiry: Any, now: float) -> float:
    """From *now* (Unix time) to *expiry*, ISO text or datetime, UTC unless it says otherwise; inf when unknown."""
    if isinstance(expiry, str):
        text = re.sub(r"\.\d+", "", expiry.strip())  # Python 3.8 takes neither every fraction nor "Z"
        try:
            expiry = dt.datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text))
        except ValueError:
            expiry = None
    if not isinstance(expiry, dt.datetime):
        return math.inf
    moment = expiry if expiry.tzinfo else expiry.replace(tzinfo=dt.timezone.utc)
    return float(moment.timestamp()) - now
