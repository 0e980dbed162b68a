"""Small pure decisions: backoff, breaker, refusals, which site was meant, settings, layers of the package."""

from __future__ import annotations

import ast
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gscthreads
from gscthreads import refusals, sites
from gscthreads.backoff import Backoff, Breaker, Health
from gscthreads.config import SyncConfig, read_report
from gscthreads.errors import (
    ApiError,
    BadRequest,
    BurstQuota,
    ConfigError,
    DailyQuota,
    Denied,
    LoadQuota,
    Transient,
    Unauthorized,
)

ROOT = Path(gscthreads.__file__).parent


# -- when to wait, when to give up


def test_backoff_doubles_up_to_its_cap_with_full_jitter():
    backoff = Backoff(1.0, 60.0)
    assert [backoff.delay(number, 1.0) for number in (1, 2, 3, 6, 7, 500)] == [1, 2, 4, 32, 60, 60]
    assert backoff.delay(3, 0.25) == 1.0


def test_bad_luck_is_told_from_a_bad_slice():
    health = Health()
    assert not health.is_chance(1)  # nothing was ever answered
    for number in range(100):
        health.answered()
    health.failed()
    assert not health.is_chance(1)  # nothing else fails
    for number in range(100):
        health.failed()
    assert health.is_chance(5) and not health.is_chance(30)


def test_a_dead_service_is_given_up_after_limit_and_patience_and_one_outage_counts_once():
    breaker = Breaker(3, Backoff(1.0, 60.0))
    assert not any(breaker.failed(0.0, 1.0, 1.0) for _ in range(50))  # all sent before the first strike
    assert not breaker.failed(2.0, 3.0, 1.0)
    assert breaker.paused_until == 4.0
    assert not breaker.failed(4.0, 5.0, 1.0)  # three strikes, but only four seconds
    assert breaker.failed(8.5, 9.0, 1.0)


@pytest.mark.parametrize("answer", [False, True])
def test_an_answer_ends_the_count(answer):
    breaker = Breaker(2, Backoff(0.0, 0.0))
    assert not breaker.failed(0.0, 1.0, 1.0)
    if answer:
        breaker.succeeded()
    assert breaker.failed(2.0, 3.0, 1.0) is not answer


# -- what a refusal means (gsc-api.md 5)


def body(message, reason=None, domain="global", **more):
    error = {"code": 1, "message": message, **more}
    if reason is not None:
        error["errors"] = [{"message": message, "domain": domain, "reason": reason}]
    return json.dumps({"error": error}).encode()


@pytest.mark.parametrize(
    "status, content, expected",
    [
        (400, body("bad", "invalidParameter"), BadRequest),
        (400, body("Invalid value", status="INVALID_ARGUMENT"), BadRequest),
        (401, body("Invalid Credentials", "authError"), Unauthorized),
        (401, b"", Unauthorized),
        (403, body("Search Analytics QPS quota exceeded.", "quotaExceeded", "usageLimits"), BurstQuota),
        (403, body("Search Analytics load quota exceeded.", "quotaExceeded", "usageLimits"), LoadQuota),
        (429, body("Search Analytics load quota exceeded.", "quotaExceeded", "usageLimits"), LoadQuota),
        (403, body("x", "rateLimitExceeded", "usageLimits"), BurstQuota),
        (403, body("x", "userRateLimitExceeded", "usageLimits"), BurstQuota),
        (429, body("Rate Limit Exceeded", "rateLimitExceeded", "usageLimits"), BurstQuota),
        (403, body("x", "dailyLimitExceeded", "usageLimits"), DailyQuota),
        (429, body("Quota exceeded ... 'Queries per minute'", status="RESOURCE_EXHAUSTED"), BurstQuota),
        (429, body("Quota exceeded ... 'Queries per day'", status="RESOURCE_EXHAUSTED"), DailyQuota),
        (403, body("Search Analytics QPS quota exceeded."), BurstQuota),  # without a reason
        (403, body("User does not have sufficient permission for site", "forbidden"), Denied),
        (403, body("x", "insufficientPermissions", status="PERMISSION_DENIED"), Denied),
        (403, body("x", "accessNotConfigured", "usageLimits"), Denied),
        (403, body("The API requires a quota project, which is not set by default.",
                   details=[{"reason": "SERVICE_DISABLED"}]), Denied),
        (404, body("no", "notFound"), BadRequest),
        *((status, body("x", "backendError"), Transient) for status in (408, 500, 502, 503, 504)),
        (502, b"<html><title>502</title><p>try again", Transient),
        (403, b"<html>proxy", Transient),
        (302, b"", BadRequest),
    ],
)
def test_refusals_are_told_apart(status, content, expected):
    error = refusals.classify(status, content, {})
    assert type(error) is expected
    assert error.status == status and error.message


@given(st.integers(300, 599), st.one_of(st.binary(max_size=80), st.recursive(
    st.one_of(st.none(), st.integers(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["error", "errors", "details", "reason", "message", "status", "domain"]), inner, max_size=4),
).map(lambda value: json.dumps(value).encode())))
def test_no_body_whatever_breaks_the_classification(status, content):
    assert isinstance(refusals.classify(status, content, {}), ApiError)


@pytest.mark.parametrize(
    "value, seconds",
    [(None, None), ("", None), ("7", 7.0), ("1.5", 1.5), ("999999", 900.0), ("-3", None), ("soon", None),
     ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0), ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0)],
)
def test_retry_after(value, seconds):
    assert refusals.parse_retry_after(value, now=60.0) == seconds


# -- which site was meant

ENTRIES = [("sc-domain:example.com", "siteOwner"), ("https://www.example.com/", "siteFullUser"),
           ("http://example.com/", "siteOwner"), ("https://shop.test/", "siteUnverifiedUser")]


@pytest.mark.parametrize("site", ["example.com", "www.example.com", "https://example.com", "HTTPS://EXAMPLE.COM/a?b"])
def test_the_same_host_under_another_name_is_suggested(site):
    assert sites.closest(site, ENTRIES) == ["sc-domain:example.com", "https://www.example.com/", "http://example.com/"]


def test_other_suggestions():
    assert sites.closest("https://blog.example.com/", ENTRIES) == ["sc-domain:example.com"]
    assert sites.closest("sc-domain:exampel.com", ENTRIES)[0].endswith("example.com/")
    assert "none of the account's 3 sites" in sites.advice("sc-domain:quite-different.org", ENTRIES)
    assert "not verified" in sites.advice("https://shop.test/", ENTRIES)
    assert "no sites at all" in sites.advice("x", [])


# -- settings


def make(**values):
    return SyncConfig(**{"sites": ["sc-domain:a.com"], "store": "sqlite:///x.db", "credentials": {}, **values})


@pytest.mark.parametrize(
    "values, words",
    [
        *(({name: value}, name) for name, wrong in (
            ("max_concurrency", (0, 65, "3", True, 1.5)), ("batch_size", (0, 1001)), ("qpm_target", (0, 1.01)),
            ("http_timeout", (0, float("nan"))), ("order", ("random",)), ("force", (1,)), ("data_state", ("fresh",)),
        ) for value in wrong),
        ({"sites": []}, "sites"), ({"sites": "sc-domain:a.com"}, "sites"), ({"sites": ["a b"]}, "'a b'"),
        ({"reports": ["page,colour"]}, "colour"), ({"reports": ["page,searchAppearance"]}, "only alone"),
        ({"reports": ["hour"]}, "whole days"), ({"reports": ["page,page"]}, "twice"), ({"reports": []}, "reports"),
        ({"reports": [("page", ("query",))]}, "stands for"), ({"search_types": ["maps"]}, "maps"),
        ({"search_types": ["discover"]}, "no query"), ({"api_root": "http://example.com"}, "unencrypted"),
        ({"api_root": "https://u:p@example.com"}, "password"), ({"backoff_base": 90.0}, "backoff_cap"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(values, words):
    with pytest.raises(ConfigError, match=words):
        make(**values)


def test_reports_by_name_dimensions_or_object():
    assert read_report("page_query").dimensions == ("page", "query")
    assert read_report("page, query") .name == "page_query"
    assert read_report(gscthreads.Report("mine", ("country",))).name == "mine"
    assert [str(each) for each in make(reports=["page", "page"], search_types=["web", "image"]).datasets()] == [
        "sc-domain:a.com page web", "sc-domain:a.com page image"
    ]


def test_the_budget_is_a_share_of_the_limit_and_the_config_frozen():
    assert make().budget == 960
    assert make(qpm_limit=1.0).budget == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().batch_size = 3


# -- the package

LAYERS = [
    {"_version", "errors", "halt", "backoff"},
    {"model", "refusals", "pacific", "sites", "figures", "quota", "keyfile"},
    {"rows", "outcomes", "multipart", "body", "sockets", "stores.base", "stores.schema"},
    {"plan", "tokenserver", "client", "stores.sqlite"},
    {"auth", "stores", "worker"},
    {"config"},
    {"coordinator"},
    {"sync", "estimate", "summary"},
    {"__init__", "progress", "signals"},
    {"demo"},
    {"cli"},
    {"__main__"},
]


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] != "simulator":
            yield path, parts, ".".join(part for part in parts if part != "__init__") or "__init__"


def test_imports_are_relative_and_point_one_way():
    rank = {module: number for number, layer in enumerate(LAYERS) for module in layer}
    for path, parts, module in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not any(name.name.split(".")[0] == "gscthreads" for name in node.names), path
            if not isinstance(node, ast.ImportFrom):
                continue
            if not node.level:
                assert (node.module or "").split(".")[0] != "gscthreads", path
                continue
            base = parts[: len(parts) - node.level]
            names = [node.module] if node.module else [name.name for name in node.names]
            for target in (".".join((*base, name)) for name in names):
                if not target.startswith("simulator"):
                    assert rank[target] < rank[module], f"{module} imports {target}"


def test_the_look_alike_shares_no_code_with_the_rest():
    for path in (ROOT / "simulator").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, path


def test_importing_starts_nothing_and_pulls_in_nothing_optional():
    code = (
        "import signal, sys, threading; before = signal.getsignal(signal.SIGTERM); import gscthreads\n"
        "assert threading.active_count() == 1 and signal.getsignal(signal.SIGTERM) is before\n"
        "print(sorted({'psycopg2', 'google.auth', 'msgspec', 'tqdm', 'django', 'argparse'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_sorted_and_there():
    assert gscthreads.__all__ == sorted(gscthreads.__all__)
    assert all(hasattr(gscthreads, name) for name in gscthreads.__all__)
