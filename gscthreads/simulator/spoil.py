"""What the query faults make of a query's answer."""

from __future__ import annotations

from typing import Callable, Dict, Optional, Tuple

from .errors import (HTML, HTML_TYPE, JSON_TYPE, Refusal, api_disabled, backend, bad_token, daily_limit,
                     invalid_parameter, missing_scope, no_permission, no_quota_project, not_found, proxy, rate_limit,
                     resource_exhausted, usage, usage_without_reason)
from .faults import fraction

#: Faults that are an answer with an error, by name; the argument is the site.
REFUSALS: Dict[str, Callable[[str], Refusal]] = {
    "http_500": lambda site: backend("http_500", 500),
    "http_502_html": lambda site: proxy("http_502_html", 502),
    "http_503": lambda site: backend("http_503", 503),
    "http_504": lambda site: backend("http_504", 504),
    "http_408": lambda site: backend("http_408", 408),
    "http_429": lambda site: rate_limit("http_429", 429, "rateLimitExceeded", "Rate Limit Exceeded"),
    "http_429_new": lambda site: resource_exhausted("http_429_new"),
    "qps_403": lambda site: usage("qps_403", "QPS"),
    "quota_403_no_reason": lambda site: usage_without_reason("quota_403_no_reason"),
    "user_rate_403": lambda site: rate_limit("user_rate_403", 403, "userRateLimitExceeded",
                                             "User Rate Limit Exceeded"),
    "load_403": lambda site: usage("load_403", "load"),
    "daily_403": lambda site: daily_limit(),
    "daily_429": lambda site: resource_exhausted("daily_429", "day"),
    "unauthorized_401": lambda site: bad_token(),
    "forbidden_403": no_permission,
    "scope_403": lambda site: missing_scope("SearchAnalyticsService.Query"),
    "api_disabled_403": lambda site: api_disabled(),
    "quota_project_403": lambda site: no_quota_project(),
    "not_found_404": lambda site: not_found(),
    "invalid_400": lambda site: invalid_parameter(
        "'BY_PROPERTY' is not a valid aggregation type in the context of the request.", "aggregation_type"),
    "outer_401": lambda site: bad_token(),
    "outer_403_quota": lambda site: usage("outer_403_quota", "QPS"),
    "outer_500": lambda site: backend("outer_500", 500),
    "outer_503": lambda site: backend("outer_503", 503),
}

#: Answers of wrong types; every one but the last is valid JSON.
WRONG_TYPES = (
    b'{"rows":{"keys":["a","b"],"clicks":1},"responseAggregationType":"byPage"}',
    b'{"rows":"none","responseAggregationType":"byPage"}',
    b'{"rows":[{"keys":[1,2],"clicks":1,"impressions":2,"ctr":0.5,"position":1}],"responseAggregationType":"byPage"}',
    b'{"rows":[{"keys":["a","b"],"clicks":"many","impressions":2,"ctr":0.5,"position":1}]}',
    b'{"rows":[{"keys":"ab","clicks":1,"impressions":2,"ctr":0.5,"position":1}]}',
    b'{"rows":[["a","b",1,2,0.5,1]]}',
    b'{"rows":[{"keys":["a","b"],"impressions":2,"ctr":0.5,"position":1}]}',
    b'{"rows":[{"keys":["a","b","c","d","e","f"],"clicks":1,"impressions":2,"ctr":0.5,"position":1}]}',
    b'{"rows":[{"keys":["a",null],"clicks":null,"impressions":2,"ctr":0.5,"position":1}]}',
    b'[{"keys":["a","b"],"clicks":1,"impressions":2,"ctr":0.5,"position":1}]',
    b'"rows"',
    b"null",
)

#: Numbers no count can be; Python's json accepts the first two although JSON has no such literals.
BAD_NUMBERS = (
    b'{"rows":[{"keys":["a","b"],"clicks":NaN,"impressions":2,"ctr":0.5,"position":1}]}',
    b'{"rows":[{"keys":["a","b"],"clicks":1,"impressions":Infinity,"ctr":0.5,"position":NaN}]}',
    b'{"rows":[{"keys":["a","b"],"clicks":-1,"impressions":2,"ctr":0.5,"position":1}]}',
    b'{"rows":[{"keys":["a","b"],"clicks":1e400,"impressions":2,"ctr":0.5,"position":1}]}',
    b'{"rows":[{"keys":["a","b"],"clicks":1.5,"impressions":2,"ctr":0.5,"position":1}]}',
)

#: Nesting of deep_json.
DEPTH = 100_000

HTML_PAGE = HTML.format(status=200, title="OK", text="Please sign in to the network first.").encode("utf-8")


def spoiled(fault: Optional[str], right: bytes, turn: int) -> Tuple[bytes, str]:
    """The body and content type a garbage fault sends instead of the right body; ``turn`` picks the variant."""
    if fault == "malformed_json":
        middle = len(right[: len(right) // 2].rstrip(b"\\"))  # after a backslash the quote would belong to a text
        return right[:middle] + b'"]]}}' + right[middle:], JSON_TYPE
    if fault == "truncated_json":
        return right[:len(right) // 2], JSON_TYPE
    if fault == "wrong_types":
        return WRONG_TYPES[turn % len(WRONG_TYPES)], JSON_TYPE
    if fault == "nan_json":
        return BAD_NUMBERS[turn % len(BAD_NUMBERS)], JSON_TYPE
    if fault == "deep_json":
        return b'{"rows":' + b"[" * DEPTH + b"]" * DEPTH + b"}", JSON_TYPE
    if fault == "html_200":
        return HTML_PAGE, HTML_TYPE
    return right, JSON_TYPE


def variant(*what: object) -> int:
    """A number that picks a variant, the same for the same thing."""
    return int(fraction(*what) * 1_000_000)
