"""Google's refusals, literally: messages, reasons and the several shapes of error bodies (gsc-api.md 5.1)."""

from __future__ import annotations

import html
import json
from typing import Any, Dict, Optional, Tuple

LIMITS_URL = "https://developers.google.com/webmaster-tools/v3/limits"

Headers = Tuple[Tuple[str, str], ...]

JSON_TYPE = "application/json; charset=UTF-8"
HTML_TYPE = "text/html; charset=UTF-8"

HTML = """<!DOCTYPE html>
<html lang=en>
  <meta charset=utf-8>
  <title>Error {status} ({title})!!1</title>
  <p><b>{status}.</b> <ins>That\u2019s an error.</ins>
  <p>{text}  <ins>That\u2019s all we know.</ins>
"""


class Refusal(Exception):
    """A request Google would answer with an error.  ``kind`` is a short word for counting refusals by."""

    def __init__(self, kind: str, status: int, body: Any, headers: Headers = (), html: bool = False) -> None:
        super().__init__(f"{status} {kind}")
        self.kind = kind
        self.status = status
        self.body = body
        self.headers = headers
        self.html = html

    def encoded(self, pretty: bool) -> bytes:
        """The answer's body."""
        if self.html:
            return str(self.body).encode("utf-8")
        return to_json(self.body, pretty)


def to_json(value: Any, pretty: bool) -> bytes:
    """JSON as Google writes it: two blanks of indentation, or none and no white space at all."""
    if pretty:
        return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")


def legacy(status: int, message: str, domain: str, reason: str, **more: str) -> Dict[str, Any]:
    """Search Console's own shape, without ``status``."""
    detail = {"message": message, "domain": domain, "reason": reason, **more}
    return {"error": {"code": status, "message": message, "errors": [detail]}}


def modern(code: int, status: str, message: str) -> Dict[str, Any]:
    """The shape of the layers in front, without ``errors``."""
    return {"error": {"code": code, "message": message, "status": status}}


def both(code: int, status: str, message: str, detail: Dict[str, str],
         info: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
    """The shape in which the fields of both come together."""
    error: Dict[str, Any] = {"code": code, "message": message, "errors": [detail], "status": status}
    if info:
        error["details"] = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", **info}]
    return {"error": error}


def invalid_parameter(message: str, location: str) -> Refusal:
    """400 for a combination Search Console does not support."""
    body = legacy(400, message, "global", "invalidParameter", location=location, locationType="parameter")
    return Refusal("invalid", 400, body)


def invalid_argument(message: str) -> Refusal:
    """400 for a body that isn't the request message."""
    return Refusal("invalid", 400, modern(400, "INVALID_ARGUMENT", message))


def no_permission(site: str) -> Refusal:
    """403 for a property that is unknown, misspelled or not verified (gsc-api.md 1, site URL identity)."""
    message = (f"User does not have sufficient permission for site '{site}'. "
               "See also: https://support.google.com/webmasters/answer/2451999.")
    return Refusal("forbidden", 403, legacy(403, message, "global", "forbidden"))


def bad_token() -> Refusal:
    """401 for a token that is missing, unknown, expired or revoked."""
    message = ("Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other "
               "valid authentication credential. "
               "See https://developers.google.com/identity/sign-in/web/devconsole-project.")
    detail = {"message": "Invalid Credentials", "domain": "global", "reason": "authError",
              "location": "Authorization", "locationType": "header"}
    challenge = ("WWW-Authenticate", 'Bearer realm="https://accounts.google.com/", error="invalid_token"')
    return Refusal("unauthorized", 401, both(401, "UNAUTHENTICATED", message, detail), (challenge,))


def missing_scope(method: str) -> Refusal:
    """403 for a token whose scopes don't cover the method."""
    detail = {"message": "Insufficient Permission", "domain": "global", "reason": "insufficientPermissions"}
    info = {"reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT", "domain": "googleapis.com",
            "metadata": {"service": "searchconsole.googleapis.com", "method": f"google.searchconsole.v1.{method}"}}
    body = both(403, "PERMISSION_DENIED", "Request had insufficient authentication scopes.", detail, info)
    return Refusal("scope", 403, body)


def usage(kind: str, text: str) -> Refusal:
    """403 usageLimits/quotaExceeded; ``text`` is "QPS" or "load" (gsc-api.md 5.2)."""
    message = f"Search Analytics {text} quota exceeded. Learn about usage limits: {LIMITS_URL}."
    return Refusal(kind, 403, legacy(403, message, "usageLimits", "quotaExceeded"))


def daily_limit() -> Refusal:
    """403 of the project's quota for a day, in the words of Google's other APIs (gsc-api.md 5.2)."""
    message = ("Daily Limit Exceeded. The quota will be reset at midnight Pacific Time (PT). "
               "You may monitor your quota usage and adjust limits in the API Console.")
    return Refusal("daily_limit", 403, legacy(403, message, "usageLimits", "dailyLimitExceeded"))


def api_disabled() -> Refusal:
    """403 while the API isn't switched on in the Cloud project; of the domain usageLimits, though no quota helps."""
    place = "https://console.developers.google.com/apis/api/searchconsole.googleapis.com/overview?project=123456789012"
    message = ("Google Search Console API has not been used in project 123456789012 before or it is disabled. "
               f"Enable it by visiting {place} then retry. If you enabled this API recently, wait a few minutes for "
               "the action to propagate to our systems and retry.")
    detail = {"message": message, "domain": "usageLimits", "reason": "accessNotConfigured",
              "extendedHelp": "https://console.developers.google.com"}
    return Refusal("api_disabled", 403, both(403, "PERMISSION_DENIED", message, detail, _disabled()))


def no_quota_project() -> Refusal:
    """403 for a person's own credentials (gcloud's) without a project to charge: "quota" in the text, but none is."""
    message = ("Your application is authenticating by using local Application Default Credentials. "
               "The searchconsole.googleapis.com API requires a quota project, which is not set by default. "
               "To learn how to set your quota project, see "
               "https://cloud.google.com/docs/authentication/adc-troubleshooting/user-creds .")
    detail = {"message": message, "domain": "usageLimits", "reason": "accessNotConfigured",
              "extendedHelp": "https://console.developers.google.com"}
    return Refusal("no_quota_project", 403, both(403, "PERMISSION_DENIED", message, detail, _disabled()))


def _disabled() -> Dict[str, Any]:
    return {"reason": "SERVICE_DISABLED", "domain": "googleapis.com",
            "metadata": {"service": "searchconsole.googleapis.com", "consumer": "projects/123456789012"}}


def usage_without_reason(kind: str) -> Refusal:
    """403 quota refusal that lacks ``errors``, hence a reason."""
    message = f"Search Analytics QPS quota exceeded. Learn about usage limits: {LIMITS_URL}."
    return Refusal(kind, 403, {"error": {"code": 403, "message": message}})


def rate_limit(kind: str, status: int, reason: str, message: str) -> Refusal:
    """The old global limiter: rateLimitExceeded, userRateLimitExceeded."""
    detail = {"domain": "usageLimits", "reason": reason, "message": message}
    return Refusal(kind, status, {"error": {"errors": [detail], "code": status, "message": message}})


def resource_exhausted(kind: str, period: str = "minute") -> Refusal:
    """429 of the Cloud project's own quota for a minute or a day."""
    message = (f"Quota exceeded for quota metric 'Queries' and limit 'Queries per {period}' of service "
               "'searchconsole.googleapis.com' for consumer 'project_number:123456789012'.")
    info = {"reason": "RATE_LIMIT_EXCEEDED", "domain": "googleapis.com",
            "metadata": {"service": "searchconsole.googleapis.com", "quota_limit_value": "60",
                         "consumer": "projects/123456789012"}}
    detail = {"message": message, "domain": "global", "reason": "rateLimitExceeded"}
    return Refusal(kind, 429, both(429, "RESOURCE_EXHAUSTED", message, detail, info))


def not_found(message: str = "Requested entity was not found.") -> Refusal:
    """404 for a sitemap nobody submitted."""
    return Refusal("not_found", 404, legacy(404, message, "global", "notFound"))


def no_such_url(path: str) -> Refusal:
    """404 of the front end, in HTML."""
    text = f"The requested URL <code>{html.escape(path)}</code> was not found on this server."
    body = HTML.format(status=404, title="Not Found", text=text)
    return Refusal("no_such_url", 404, body, html=True)


def backend(kind: str, status: int) -> Refusal:
    """Transient trouble on Google's side."""
    words = {
        408: ("DEADLINE_EXCEEDED", "requestTimeout", "The request timed out."),
        500: ("INTERNAL", "backendError", "Internal error encountered."),
        503: ("UNAVAILABLE", "backendError", "The service is currently unavailable."),
        504: ("DEADLINE_EXCEEDED", "gatewayTimeout", "Deadline expired before operation could complete."),
    }
    name, reason, message = words[status]
    detail = {"message": message, "domain": "global", "reason": reason}
    return Refusal(kind, status, both(status, name, message, detail))


def proxy(kind: str, status: int) -> Refusal:
    """HTML from a proxy in between."""
    text = ("The server encountered a temporary error and could not complete your request."
            "<p>Please try again in 30 seconds.")
    return Refusal(kind, status, HTML.format(status=status, title="Server Error", text=text), html=True)
