"""The OAuth token endpoint and the access tokens it issues (gsc-api.md 6)."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from .options import Options

READ = "https://www.googleapis.com/auth/webmasters.readonly"
WRITE = "https://www.googleapis.com/auth/webmasters"

#: The audience service accounts name in their assertions, whatever address they post to.
AUDIENCE = "https://oauth2.googleapis.com/token"

JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"

CLIENT_ID = "407408718192-simulated.apps.googleusercontent.com"
CLIENT_SECRET = "GOCSPX-simulated-not-a-secret"

#: Longest life of an assertion, and tolerated difference of clocks, in seconds.
ASSERTION_LIFE = 3_600
SKEW = 300

#: DER prefix of a SHA-256 digest in a PKCS#1 v1.5 signature.
SHA256_PREFIX = bytes.fromhex("3031300d060960864801650304020105000420")

Reply = Tuple[int, Dict[str, Any]]


class Grant(NamedTuple):
    """What an access token allows."""

    user: str
    scopes: Tuple[str, ...]
    #: Monotonic seconds.
    expires: float


class Account(NamedTuple):
    """A service account's public key."""

    modulus: int
    exponent: int


def verified(modulus: int, exponent: int, message: bytes, signature: bytes) -> bool:
    """Whether an RS256 signature is right: one modular power and a comparison of the whole padded block."""
    size = (modulus.bit_length() + 7) // 8
    digest = SHA256_PREFIX + hashlib.sha256(message).digest()
    expected = b"\x00\x01" + b"\xff" * (size - len(digest) - 3) + b"\x00" + digest
    return len(signature) == size and pow(int.from_bytes(signature, "big"), exponent, modulus) == int.from_bytes(
        expected, "big")


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Tokens:
    """Users, refresh tokens, service accounts, and the access tokens given to them.  Thread-safe."""

    def __init__(self, options: Options, audience: Callable[[], str], clock: Callable[[], float] = time.monotonic,
                 wall: Callable[[], float] = time.time) -> None:
        self._options = options
        self._audience = audience
        self._clock = clock
        self._wall = wall
        self._lock = threading.Lock()
        self._access: Dict[str, Grant] = {}
        self._refresh: Dict[str, Tuple[str, Tuple[str, ...]]] = {}
        self._accounts: Dict[str, Account] = {}

    def refresh_token(self, user: str, scopes: Tuple[str, ...]) -> str:
        """A new refresh token for a user."""
        token = f"1//sim-{secrets.token_urlsafe(24)}"
        with self._lock:
            self._refresh[token] = (user, scopes)
        return token

    def register(self, email: str, modulus: int, exponent: int) -> None:
        """Make a service account known by its public key."""
        with self._lock:
            self._accounts[email] = Account(modulus, exponent)

    def issue(self, user: str, scopes: Tuple[str, ...] = (READ,), lifetime: Optional[float] = None) -> str:
        """A new access token."""
        token = f"ya29.sim-{secrets.token_urlsafe(24)}"
        life = self._options.token_lifetime if lifetime is None else lifetime
        with self._lock:
            self._access[token] = Grant(user, scopes, self._clock() + life)
        return token

    def check(self, token: str) -> Optional[Grant]:
        """What a token allows, or None if it is unknown, expired or revoked."""
        with self._lock:
            grant = self._access.get(token)
        return grant if grant is not None and self._clock() < grant.expires else None

    def revoke(self, user: Optional[str] = None, refresh: bool = True) -> int:
        """Make a user's (or everybody's) access tokens invalid, and the refresh tokens too; returns how many."""
        with self._lock:
            gone = [token for token, grant in self._access.items() if user in (None, grant.user)]
            for token in gone:
                del self._access[token]
            if refresh:
                for token in [token for token, (owner, _) in self._refresh.items() if user in (None, owner)]:
                    del self._refresh[token]
                    gone.append(token)
                for email in [email for email in self._accounts if user in (None, email)]:
                    del self._accounts[email]
                    gone.append(email)
        return len(gone)

    def reply(self, form: Dict[str, str]) -> Reply:
        """Answer a token request: HTTP status and JSON."""
        grant_type = form.get("grant_type", "")
        if grant_type == "refresh_token":
            return self._refreshed(form)
        if grant_type == JWT_GRANT:
            return self._asserted(form.get("assertion", ""))
        return _error("unsupported_grant_type", f"Invalid grant_type: {grant_type}")

    def _refreshed(self, form: Dict[str, str]) -> Reply:
        if form.get("client_id") != CLIENT_ID or form.get("client_secret") != CLIENT_SECRET:
            return _error("invalid_client", "The OAuth client was not found.", 401)
        with self._lock:
            known = self._refresh.get(form.get("refresh_token", ""))
        if known is None:
            return _error("invalid_grant", "Token has been expired or revoked.")
        user, granted = known
        asked = tuple(form.get("scope", "").split()) or granted
        if not all(scope in granted for scope in asked):
            return _error("invalid_scope", "Some requested scopes were invalid.")
        return self._granted(user, asked)

    def _asserted(self, assertion: str) -> Reply:
        parts = assertion.split(".")
        try:
            header, claims = (json.loads(_unpadded(part)) for part in parts[:2])
            signature = _unpadded(parts[2])
            email, audience = claims["iss"], claims["aud"]
            issued, expires = float(claims["iat"]), float(claims["exp"])
        except (ValueError, KeyError, IndexError, TypeError):
            return _error("invalid_grant", "Bad Request")
        with self._lock:
            account = self._accounts.get(email)
        if account is None:
            return _error("invalid_grant", "Invalid grant: account not found")
        if header.get("alg") != "RS256" or len(parts) != 3 or not verified(
                account.modulus, account.exponent, ".".join(parts[:2]).encode(), signature):
            return _error("invalid_grant", "Invalid JWT Signature.")
        if audience not in (AUDIENCE, self._audience()):
            return _error("invalid_grant", "Invalid JWT: Failed audience check.")
        now = self._wall()
        if expires - issued > ASSERTION_LIFE or expires < now - SKEW or issued > now + SKEW:
            return _error("invalid_grant", "Invalid JWT: Token must be a short-lived token (60 minutes) and in a "
                          "reasonable timeframe. Check your iat and exp values in the JWT claim.")
        scopes = tuple(str(claims.get("scope", "")).split())
        if not scopes:
            return _error("invalid_scope", "Empty or missing scope not allowed.")
        return self._granted(str(claims.get("sub") or email), scopes)

    def _granted(self, user: str, scopes: Tuple[str, ...]) -> Reply:
        token = self.issue(user, scopes)
        return 200, {"access_token": token, "expires_in": int(self._options.token_lifetime),
                     "scope": " ".join(scopes), "token_type": "Bearer"}

    def users(self) -> List[str]:
        """Everybody who holds a valid access token."""
        with self._lock:
            return sorted({grant.user for grant in self._access.values() if grant.expires > self._clock()})


def _error(code: str, description: str, status: int = 400) -> Reply:
    return status, {"error": code, "error_description": description}


def new_service_account(token_uri: str, email: str) -> Tuple[Dict[str, str], int, int]:
    """A service_account JSON with a fresh key, and the key's modulus and exponent.  Needs ``cryptography``."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa
    except ImportError:
        raise RuntimeError("service_account() needs the package 'cryptography' to make a key") from None
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                            serialization.NoEncryption()).decode()
    numbers = key.public_key().public_numbers()
    info = {
        "type": "service_account", "project_id": "simulated-project", "private_key_id": secrets.token_hex(20),
        "private_key": pem, "client_email": email, "client_id": "100000000000000000001",
        "auth_uri": "https://accounts.google.com/o/oauth2/auth", "token_uri": token_uri,
        "universe_domain": "googleapis.com",
    }
    return info, numbers.n, numbers.e


def credentials_json(token_uri: str, refresh_token: str) -> Dict[str, str]:
    """An authorized_user JSON whose tokens come from ``token_uri``."""
    return {"type": "authorized_user", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET,
            "refresh_token": refresh_token, "token_uri": token_uri}
