"""Google's refusals: each line of gsc-api.md 5.2, each shape of 5.1, and whatever else may stand in a body."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gscthreads.errors import (
    ApiError,
    BadRequest,
    BurstQuota,
    DailyQuota,
    Denied,
    LoadQuota,
    Transient,
    Unauthorized,
)
from gscthreads.refusals import MAX_RETRY_AFTER, classify, clean, parse_retry_after, refusal_in
from tests.properties import examples


def legacy(code, message, reason=None, domain="global", **more):
    """The shape of Search Console's own refusals."""
    error = {"code": code, "message": message, **more}
    if reason is not None:
        error["errors"] = [{"message": message, "domain": domain, "reason": reason}]
    return json.dumps({"error": error}).encode()


def modern(code, message, status):
    """The shape of proto parsing errors."""
    return json.dumps({"error": {"code": code, "status": status, "message": message}}).encode()


QPS = "Search Analytics QPS quota exceeded. Learn about usage limits: https://developers.google.com/webmaster-tools"
LOAD = QPS.replace("QPS", "load")
QPM = "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute' of service 'searchconsole'"
QPD = QPM.replace("per minute", "per day")
NO_PERMISSION = "User does not have sufficient permission for site 'sc-domain:x'."
NO_PROJECT = "The searchconsole.googleapis.com API requires a quota project, which is not set by default."


@pytest.mark.parametrize(
    "status, body, expected, reason",
    [
        (400, legacy(400, "bad", "invalidParameter"), BadRequest, "invalidParameter"),
        (400, legacy(400, "bad", "badRequest"), BadRequest, "badRequest"),
        (400, modern(400, "Invalid value at 'type'", "INVALID_ARGUMENT"), BadRequest, "INVALID_ARGUMENT"),
        (401, legacy(401, "Invalid Credentials", "authError", status="UNAUTHENTICATED"), Unauthorized, "authError"),
        (401, modern(401, "Request had invalid authentication credentials.", "UNAUTHENTICATED"), Unauthorized,
         "UNAUTHENTICATED"),
        (403, legacy(403, QPS, "quotaExceeded", "usageLimits"), BurstQuota, "quotaExceeded"),
        (429, legacy(429, QPS, "rateLimitExceeded", "usageLimits"), BurstQuota, "rateLimitExceeded"),
        (403, legacy(403, LOAD, "quotaExceeded", "usageLimits"), LoadQuota, "quotaExceeded"),
        (429, legacy(429, LOAD, "quotaExceeded", "usageLimits"), LoadQuota, "quotaExceeded"),
        *((status, legacy(status, "Rate Limit Exceeded", word, "usageLimits"), BurstQuota, word)
          for status in (403, 429) for word in ("rateLimitExceeded", "userRateLimitExceeded")),
        (403, legacy(403, "Daily Limit Exceeded", "dailyLimitExceeded", "usageLimits"), DailyQuota,
         "dailyLimitExceeded"),
        (403, legacy(403, "x", "dailyLimitExceeded"), DailyQuota, "dailyLimitExceeded"),
        (429, modern(429, QPM, "RESOURCE_EXHAUSTED"), BurstQuota, "RESOURCE_EXHAUSTED"),
        (429, modern(429, QPD, "RESOURCE_EXHAUSTED"), DailyQuota, "RESOURCE_EXHAUSTED"),
        (403, modern(403, QPD, "RESOURCE_EXHAUSTED"), DailyQuota, "RESOURCE_EXHAUSTED"),
        (403, legacy(403, NO_PERMISSION, "forbidden"), Denied, "forbidden"),
        (403, legacy(403, "Insufficient Permission", "insufficientPermissions"), Denied, "insufficientPermissions"),
        (403, modern(403, "The caller does not have permission", "PERMISSION_DENIED"), Denied, "PERMISSION_DENIED"),
        (403, legacy(403, "API off", "accessNotConfigured", "usageLimits"), Denied, "accessNotConfigured"),
        (403, legacy(403, NO_PROJECT, status="PERMISSION_DENIED",
                     details=[{"reason": "SERVICE_DISABLED", "domain": "googleapis.com"}]), Denied,
         "SERVICE_DISABLED"),
        (404, legacy(404, "Not found", "notFound"), BadRequest, "notFound"),
        *((status, legacy(status, "Backend Error", "backendError"), Transient, "backendError")
          for status in (408, 500, 502, 503, 504)),
        (503, modern(503, "The service is currently unavailable.", "UNAVAILABLE"), Transient, "UNAVAILABLE"),
        (599, b"", Transient, ""),
    ],
)
def test_every_line_of_the_table(status, body, expected, reason):
    error = classify(status, body, {})
    assert type(error) is expected
    assert (error.status, error.reason, error.retry_after) == (status, reason, None)
    assert error.message == json.loads(body)["error"]["message"] if body else error.message.startswith("HTTP 599")


def test_legacy_and_current_fields_together():
    body = {"error": {
        "code": 403, "message": "Request had insufficient authentication scopes.",
        "errors": [{"message": "Insufficient Permission", "domain": "global", "reason": "insufficientPermissions"}],
        "status": "PERMISSION_DENIED",
        "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
                     "domain": "googleapis.com", "metadata": {"service": "searchconsole.googleapis.com"}}],
    }}
    error = classify(403, json.dumps(body).encode(), {})
    assert type(error) is Denied
    assert str(error) == "Request had insufficient authentication scopes. [403 insufficientPermissions]"
    del body["error"]["errors"]
    error = classify(403, json.dumps(body).encode(), {})
    assert (type(error), error.reason) == (Denied, "ACCESS_TOKEN_SCOPE_INSUFFICIENT")


def test_the_old_global_limiter():
    body = {"error": {"errors": [{"domain": "usageLimits", "reason": "rateLimitExceeded",
                                  "message": "Rate Limit Exceeded"}], "code": 429, "message": "Rate Limit Exceeded"}}
    assert type(classify(429, json.dumps(body).encode(), {})) is BurstQuota


@pytest.mark.parametrize(
    "message, expected",
    [(QPS, BurstQuota), (LOAD, LoadQuota), ("Quota exceeded", BurstQuota), ("QUOTA of Queries per day", DailyQuota),
     (NO_PERMISSION, Denied), ("no", Denied)],
)
def test_a_403_without_a_reason_goes_by_its_words(message, expected):
    error = classify(403, legacy(403, message), {})
    assert (type(error), error.reason, error.message) == (expected, "", message)


@pytest.mark.parametrize("word", ["forbidden", "insufficientPermissions", "accessNotConfigured", "SERVICE_DISABLED"])
def test_the_word_quota_does_not_make_a_denial_a_quota(word):
    assert type(classify(403, legacy(403, NO_PROJECT, word, "usageLimits"), {})) is Denied


def test_unknown_reasons_of_the_usage_domain_are_quotas():
    assert type(classify(403, legacy(403, "x", "somethingNew", "usageLimits"), {})) is BurstQuota


def test_a_load_quota_knows_whether_it_lasts_until_tomorrow():
    assert classify(403, legacy(403, LOAD, "quotaExceeded", "usageLimits"), {}).daily is False
    assert classify(403, legacy(403, "x", "dailyLimitExceeded"), {}).daily is True


@pytest.mark.parametrize(
    "status, expected",
    [(400, BadRequest), (401, Unauthorized), (403, Transient), (404, BadRequest), (408, Transient), (413, BadRequest),
     (425, Transient), (429, BurstQuota), (500, Transient), (502, Transient), (503, Transient), (504, Transient),
     (520, Transient), (301, BadRequest)],
)
@pytest.mark.parametrize(
    "body, message",
    [
        (b"<html><head><title>Oops</title><style>p {color: red}</style><script>if (a < b) quota()</script></head>"
         b"<body>\n<p>The proxy&nbsp;said no.</p></body></html>", "Oops The proxy&nbsp;said no."),
        (b"", None), (b"   \n", None), (b"{}", "{}"), (b'{"error":', '{"error":'),
        (b"upstream connect error", "upstream connect error"),
    ],
)
def test_bodies_that_are_not_googles_go_by_the_status_and_keep_their_words(status, body, message, expected):
    error = classify(status, body, {})
    assert type(error) is expected
    assert error.message == (message or f"HTTP {status} without an explanation")
    assert error.reason == ""


def test_long_pages_are_cut():
    assert len(classify(502, b"<p>word</p>" * 100_000, {}).message) <= 200
    assert len(classify(403, legacy(403, "x" * 10**6, "y" * 10**6), {}).message) == 1000
    assert len(classify(403, legacy(403, "x", "y" * 10**6), {}).reason) == 100


@pytest.mark.parametrize(
    "body", [b"a\x00b\x1b[31m \xff\xfe red", "a\u2028b\u202eevil".encode(), legacy(500, "a\x00b\nc\x1b[2J\ud800")]
)
def test_words_of_others_fit_every_log_terminal_and_table(body):
    error = classify(502, body, {})
    assert error.message.isprintable() and error.message.startswith("a b")
    error.message.encode("utf-8")


@pytest.mark.parametrize(
    "text, secrets, expected",
    [
        ("no a/b+c &d here", ["a/b+c &d"], "no *** here"), ("no a%2Fb%2Bc%20%26d here", ["a/b+c &d"], "no *** here"),
        ("no a%2Fb%2Bc+%26d here", ["a/b+c &d"], "no *** here"), ("secret1secret2secret1", ["secret1", "secret2"],
                                                                  "*********"),
        ("abcdef", ["abcdef"], "***"), ("abcde", ["abcde", ""], "abcde"),  # too short to be one, and found anywhere
        ("None 5 of 123456", [None, 5, 123456, b"123456"], "None 5 of 123456"),
        (" a\n\tb\x00c\u202e ", (), "a b c"), ("x" * 301, (), "x" * 300), ("x " * 150 + "y", (), "x " * 150),
    ],
)
def test_a_servers_words_are_one_short_line_without_the_secrets_they_repeat(text, secrets, expected):
    assert clean(text, secrets) == expected


def test_retry_after_is_taken_from_the_headers():
    assert classify(503, b"", {"Retry-After": "17"}).retry_after == 17.0
    assert classify(429, b"", {"Retry-After": "soon"}).retry_after is None


@pytest.mark.parametrize(
    "error, expected, status",
    [
        ({"code": 400}, BadRequest, 400), ({"code": 401}, Unauthorized, 401), ({"code": 599}, Transient, 599),
        ({"code": 399}, Transient, 500), ({"code": 600}, Transient, 500), ({"code": 200}, Transient, 500),
        ({"code": "403"}, Transient, 500), ({"code": 403.0}, Transient, 500), ({"code": True}, Transient, 500),
        ({}, Transient, 500), ("no", Transient, 500), ([{"code": 403}], Transient, 500), (False, Transient, 500),
    ],
)
def test_an_error_within_an_answer_goes_by_the_code_it_names(error, expected, status):
    answer = {"error": error, "rows": []}
    found = refusal_in(answer, json.dumps(answer).encode(), {"Retry-After": "7"})
    assert (type(found), found.status, found.retry_after) == (expected, status, 7.0)


@pytest.mark.parametrize("answer", [{}, {"error": None}, {"errors": [1]}, [], ["error"], "error", None, 5])
def test_an_answer_without_an_error_tells_of_none(answer):
    assert refusal_in(answer, json.dumps(answer).encode(), {}) is None


@pytest.mark.parametrize(
    "value, seconds",
    [
        (None, None), ("", None), ("0", 0.0), ("7", 7.0), (" 7 ", 7.0), ("1.5", 1.5), ("900", 900.0),
        ("901", MAX_RETRY_AFTER), ("999999999", MAX_RETRY_AFTER), ("-3", None), ("soon", None), ("7 s", None),
        ("nan", None), ("inf", None), ("1e3", None), ("0x10", None), ("7,8", None),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0), ("Thu, 01 Jan 1970 00:01:40 +0000", 40.0),
        ("Thu, 01 Jan 1970 01:01:40 +0100", 40.0), ("Thursday, 01-Jan-70 00:01:40 GMT", 40.0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0), ("Fri, 01 Jan 2100 00:00:00 GMT", MAX_RETRY_AFTER),
        ("Thu, 99 Jan 1970 00:01:40 GMT", None), ("Thu, 01 Jan 99999 00:00:00 GMT", None),
    ],
)
def test_retry_after(value, seconds):
    assert parse_retry_after(value, now=60.0) == seconds


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone can't be changed here")
@pytest.mark.parametrize("value", ["Thu Jan  1 00:01:40 1970", "Thu, 01 Jan 1970 00:01:40 -0000"])
def test_a_retry_after_without_a_zone_is_in_utc(value, monkeypatch):
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    time.tzset()
    try:
        assert parse_retry_after(value, now=60.0) == 40.0
    finally:
        monkeypatch.undo()
        time.tzset()


@examples(100)
@given(st.text(max_size=40))
def test_no_retry_after_breaks_anything(value):
    found = parse_retry_after(value, now=60.0)
    assert found is None or 0.0 <= found <= MAX_RETRY_AFTER


values = st.recursive(
    st.one_of(st.none(), st.integers(), st.floats(), st.booleans(), st.text(max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["error", "errors", "details", "reason", "message", "status", "domain", "code"]),
            inner, max_size=5,
        ),
    ),
    max_leaves=15,
)


@examples(200)
@given(
    st.integers(100, 999),
    st.one_of(
        st.binary(max_size=60),
        values.map(lambda value: json.dumps(value).encode()),
        values.map(lambda value: json.dumps({"error": value}).encode()),
        st.just(b'{"error":' * 100_000),
    ),
)
def test_no_body_breaks_the_classification(status, body):
    error = classify(status, body, {})
    assert isinstance(error, ApiError)
    assert error.status == status and error.message
    assert f"{error}".isprintable()
    f"{error}".encode("utf-8")
