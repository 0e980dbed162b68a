"""Every setting's limits and words, which reports and combinations are refused, and what is kept of a configuration."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gscthreads.config import GOOGLE, SyncConfig, check_root, read_report
from gscthreads.errors import ConfigError
from gscthreads.model import DIMENSIONS, SEARCH_TYPES, Report
from gscthreads.quota import LocalLedger
from tests.properties import examples

SITE = "sc-domain:a.com"
TODAY = dt.date(2026, 3, 31)


def make(**values):
    return SyncConfig(**{"sites": [SITE], "store": "sqlite:///x.db", "credentials": "c.json", **values})


NUMBERS = [field for field in dataclasses.fields(SyncConfig) if "low" in field.metadata]
WHOLE = [field for field in NUMBERS if type(field.default) is int and field.name != "qpm_limit"]
PAUSES = {"backoff_base", "backoff_cap"}  # which also have to agree with each other


def test_the_defaults_are_those_of_the_documentation():
    config = make()
    assert {field.name: getattr(config, field.name) for field in NUMBERS} == {
        "max_concurrency": 3, "batch_size": 50, "max_queue_size": 1000, "max_in_flight": 10, "max_open_days": 16,
        "qpm_limit": 1200, "qpm_target": 0.8, "http_timeout": 45.0, "max_attempts": 5, "backoff_base": 1.0,
        "backoff_cap": 60.0, "final_after_days": 3, "empty_final_after_days": 10, "top_queries": 20,
    }
    assert (config.order, config.data_state, config.rate_limit_enabled, config.force, config.until_empty) == (
        "newest", "final", True, False, False)
    assert config.api_root == GOOGLE == "https://searchconsole.googleapis.com"
    assert [str(each) for each in config.datasets()] == [f"{SITE} page web", f"{SITE} page_query web"]


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.name)
def test_each_number_is_taken_from_its_lowest_to_its_highest(field):
    for name in ("low", "high"):
        value = field.metadata[name]
        value = value if field in WHOLE else float(value)
        beside = {"backoff_cap": 3600.0} if field.name == "backoff_base" else {}
        beside = {"backoff_base": 0.0} if field.name == "backoff_cap" else beside
        assert getattr(make(**{field.name: value, **beside}), field.name) == value


def test_one_of_each_no_pause_and_no_wait_for_what_is_final_are_allowed():
    ones = ("max_concurrency", "batch_size", "max_queue_size", "max_in_flight", "max_open_days", "max_attempts",
            "top_queries", "qpm_limit")
    nothing = ("backoff_base", "backoff_cap", "final_after_days", "empty_final_after_days")
    make(**dict.fromkeys(ones, 1), **{name: type(getattr(make(), name))(0) for name in nothing})
    for name in (*ones, "qpm_target", "http_timeout"):
        with pytest.raises(ConfigError, match=f"{name} must be"):
            make(**{name: type(getattr(make(), name))(0)})


def test_workers_are_as_many_as_configured_or_to_be_found_out():
    assert (make().workers, make(max_concurrency=7).workers, make(max_concurrency="auto").workers) == (3, 7, None)


def test_a_ledger_is_one_of_this_package():
    ledger = LocalLedger()
    assert make(ledger=ledger).ledger is ledger
    with pytest.raises(ConfigError, match="ledger must be a QuotaLedger of this package, not dict"):
        make(ledger={})


@pytest.mark.parametrize("words", [None, "no certificate"])
def test_certificates_to_trust_are_read_at_once(tmp_path, words):
    path = tmp_path / "ca.pem"
    if words:
        path.write_text(words)
    with pytest.raises(ConfigError, match="ca_bundle .*ca.pem.* is not a file of CA certificates in PEM form"):
        make(ca_bundle=str(path))
    assert make(ca_bundle=str(tmp_path)).ca_bundle == str(tmp_path)  # a folder, as OpenSSL wants it


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.name)
@pytest.mark.parametrize("wrong", ["below", "above", "1", None, True, float("nan"), float("inf"), [1]], ids=str)
def test_a_number_out_of_its_limits_is_named_with_its_limits(field, wrong):
    low, high = field.metadata["low"], field.metadata["high"]
    value = {"below": low - 1, "above": high + 1}.get(wrong, wrong) if isinstance(wrong, str) else wrong
    with pytest.raises(ConfigError) as caught:
        make(**{field.name: value})
    words = str(caught.value)
    kind = "a whole number" if field in WHOLE else "a number"
    kind = f"auto or {kind}" if field.name == "max_concurrency" else kind
    assert words == f"{field.name} must be {kind} from {low} to {high}, not {value!r}"


@pytest.mark.parametrize("field", WHOLE, ids=lambda field: field.name)
def test_counts_are_whole(field):
    with pytest.raises(ConfigError, match=f"{field.name} must be (auto or )?a whole number"):
        make(**{field.name: float(field.default)})


@pytest.mark.parametrize("name", ["force", "rate_limit_enabled", "until_empty"])
@pytest.mark.parametrize("value", [0, 1, None, "yes"])
def test_switches_are_true_or_false(name, value):
    with pytest.raises(ConfigError, match=f"{name} must be True or False, not {value!r}"):
        make(**{name: value})


@pytest.mark.parametrize("name, allowed", [("order", "newest, oldest"), ("data_state", "final, all")])
@pytest.mark.parametrize("value", ["", "Newest", "fresh", None, 1, []])
def test_choices_name_what_may_be_chosen(name, allowed, value):
    with pytest.raises(ConfigError) as caught:
        make(**{name: value})
    assert str(caught.value) == f"{name} must be one of {allowed}, not {value!r}"


def test_the_longest_pause_is_not_below_the_first():
    with pytest.raises(ConfigError, match="backoff_cap 1.0 is below backoff_base 2.0"):
        make(backoff_base=2.0, backoff_cap=1.0)
    assert make(backoff_base=1.0, backoff_cap=1.0).backoff_cap == 1.0


# -- sites


@pytest.mark.parametrize("sites", [[], (), "sc-domain:a.com", None, 5, "", {}])
def test_sites_is_a_list_with_something_in_it(sites):
    with pytest.raises(ConfigError, match="sites must be a list"):
        make(sites=sites)


@pytest.mark.parametrize("site", ["", " ", "a b", "a\n", "a\tb", "a\x00", None, 5, b"sc-domain:a.com",
                                  "a\x1f", "a\ud800", "a\udfff"], ids=ascii)
def test_a_site_that_is_none_is_named(site):
    with pytest.raises(ConfigError) as caught:
        make(sites=[SITE, site])
    assert repr(site) in str(caught.value)


def test_each_site_report_and_search_type_once_in_the_order_given():
    config = make(sites=["b", "a", "b"], reports=["page", "query", "page"], search_types=["image", "web", "image"])
    assert [str(each) for each in config.datasets()] == [
        f"{site} {report} {kind}" for site in "ba" for report in ("page", "query") for kind in ("image", "web")
    ]


def test_any_collection_will_do_for_a_list():
    for sites in ((SITE,), {SITE}, {SITE: 1}.keys(), dict.fromkeys([SITE])):
        assert len(make(sites=sites).datasets()) == 2


# -- reports and search types


@pytest.mark.parametrize(
    "value, expected",
    [
        ("page", Report("page", ("page",))), ("page_query", Report("page_query", ("page", "query"))),
        ("page,query", Report("page_query", ("page", "query"))),
        (" page , query ", Report("page_query", ("page", "query"))),
        ("query,page", Report("query_page", ("query", "page"))), ("date", Report("date", ("date",))),
        ("searchAppearance", Report("searchAppearance", ("searchAppearance",))),
        (Report("mine", ("country", "device")), Report("mine", ("country", "device"))),
        (("mine", ["country", "device"]), Report("mine", ("country", "device"))), (("all", ()), Report("all", ())),
    ],
)
def test_reports_by_name_dimensions_or_object(value, expected):
    found = read_report(value)
    assert found == expected and type(found) is Report and type(found.dimensions) is tuple


@pytest.mark.parametrize(
    "value, words",
    [
        ("page,colour", "'colour' is none of date, page, query, country, device, searchAppearance"),
        ("Page", "'Page' is none of"), ("", "'' is none of"), ("page,", "'' is none of"),
        ("hour", "whole days"), ("page,hour", "whole days"), (("h", ("hour",)), "whole days"),
        ("page,page", "twice"), (("x", ("query", "query")), "twice"),
        ("page,searchAppearance", "only alone"), ("searchAppearance,date", "only alone"),
        (("page", ("query",)), "'page' stands for page"), (("page_query", ("query", "page")), "stands for page,query"),
        (("", ("page",)), "1 to 100 characters"), ((" ", ()), "1 to 100 characters"), (("x" * 101, ()), "1 to 100"),
        (5, "report 5 is neither"), (None, "report None is neither"), (["page"], "neither"), (("page",), "neither"),
        (("x", "page"), "neither"), ((1, ("page",)), "neither"), (("x", None), "neither"), (("x", 5), "neither"),
        (("x", (1,)), "1 is none of"), (("x", ([],)), "is none of"),
    ],
)
def test_a_wrong_report_is_named_with_what_is_allowed(value, words):
    for read in (read_report, lambda report: make(reports=[report])):
        with pytest.raises(ConfigError) as caught:
            read(value)
        assert words in str(caught.value)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_each_dimension_is_a_report(dimension):
    assert make(reports=[dimension]).datasets()[0].report.dimensions == (dimension,)


def test_one_name_has_one_meaning():
    with pytest.raises(ConfigError, match="two reports are named 'mine'"):
        make(reports=[Report("mine", ("query",)), Report("mine", ("page",))])
    with pytest.raises(ConfigError, match="two reports are named 'query_page'"):
        make(reports=["query,page", Report("query_page", ("query",))])


@pytest.mark.parametrize("name", ["reports", "search_types"])
@pytest.mark.parametrize("value", [[], (), "page", "web", None, 5])
def test_reports_and_search_types_are_lists_with_something_in_them(name, value):
    with pytest.raises(ConfigError, match=f"{name} must be a list"):
        make(**{name: value})


@pytest.mark.parametrize("kind", ["maps", "WEB", "", None, 1, []])
def test_unknown_search_types_are_named_with_the_known_ones(kind):
    with pytest.raises(ConfigError) as caught:
        make(search_types=["web", kind])
    assert str(caught.value) == f"search type {kind!r} is none of {', '.join(SEARCH_TYPES)}"


@pytest.mark.parametrize(
    "kind, report, refused",
    [("discover", "query", "query"), ("discover", "device", "device"), ("discover", "page,query", "query"),
     ("googleNews", "query", "query"), ("googleNews", "device", None), ("news", "page_query", None),
     ("discover", "page", None), ("discover", "page,country", None), ("image", "query,device", None)],
)
def test_combinations_google_refuses_are_refused_before_the_first_call(kind, report, refused):
    if refused is None:
        assert make(search_types=["web", kind], reports=[report]).datasets()[1].search_type == kind
        return
    with pytest.raises(ConfigError, match=f"Google has no {refused} for search type {kind}"):
        make(search_types=["web", kind], reports=["page", report])


# -- dates


@pytest.mark.parametrize(
    "start, end, first, last",
    [
        ("2026-03-01", "2026-03-03", "2026-03-01", "2026-03-03"), ("yesterday", "today", "2026-03-30", "2026-03-31"),
        (dt.date(2026, 3, 1), "-28d", "2026-03-01", "2026-03-03"), ("16m", "16m", "2024-11-30", "2024-11-30"),
        ("today", "2027-01-01", "2026-03-31", "2026-03-31"),  # the future is not there yet
        (dt.datetime(2026, 3, 1, 12, 30), dt.datetime(2026, 3, 3), "2026-03-01", "2026-03-03"),
        (dt.datetime(2026, 3, 1, tzinfo=dt.timezone.utc), dt.date(2026, 3, 3), "2026-03-01", "2026-03-03"),
    ],
)
def test_the_days_asked_for(start, end, first, last):
    days = make(start=start, end=end).days(TODAY)
    assert (str(days[0]), str(days[-1])) == (first, last)
    assert {type(day) for day in days} == {dt.date}
    assert len(days) == (days[-1] - days[0]).days + 1 and days == sorted(set(days))


def test_without_dates_it_is_sixteen_months_to_yesterday():
    days = make().days(TODAY)
    assert (str(days[0]), str(days[-1])) == ("2024-11-30", "2026-03-30")


@pytest.mark.parametrize(
    "start, end, words",
    [("2026-03-02", "2026-03-01", "start 2026-03-02 is after end 2026-03-01"), ("today", "yesterday", "is after end"),
     ("2026-04-01", "2026-04-02", "start 2026-04-01 is in the future; today is 2026-03-31")],
)
def test_days_that_can_not_be(start, end, words):
    with pytest.raises(ConfigError) as caught:
        make(start=start, end=end).days(TODAY)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["start", "end"])
@pytest.mark.parametrize("value", ["soon", "", "2026-02-30", "20260101", None, 5, 20260101.0, ("2026-01-01",)])
def test_a_date_that_is_none_is_named_at_once(name, value):
    with pytest.raises(ConfigError) as caught:
        make(**{name: value})
    assert str(caught.value).startswith(name) and repr(value) in str(caught.value)
    assert "YYYY-MM-DD" in str(caught.value)


# -- where the API is


@pytest.mark.parametrize(
    "root", [GOOGLE, "https://proxy.example:8443/gsc", "http://localhost:8080", "http://127.0.0.1:1",
             "http://127.9.9.9", "http://[::1]:80", "https://10.0.0.1", "HTTPS://Example.com"],
)
def test_roots_that_are_taken(root):
    check_root(root)
    assert make(api_root=root).api_root == root


@pytest.mark.parametrize(
    "root, words",
    [
        ("http://example.com", "unencrypted"), ("http://10.0.0.1", "unencrypted"), ("http://0.0.0.0", "unencrypted"),
        ("http://localhost.example.com", "unencrypted"), ("http://127.0.0.1.example.com", "unencrypted"),
        ("http://2130706433", "unencrypted"), ("http://[::2]", "unencrypted"),
        ("https://user:hunter2@example.com", "user name or password"), ("https://user@example.com", "user name"),
        ("http://user:hunter2@localhost", "user name or password"),
        ("example.com", "must be an address"), ("", "must be an address"), ("https://", "must be an address"),
        ("ftp://example.com", "must be an address"), ("file:///etc", "must be an address"),
        ("ftp://user:hunter2@example.com", "user name"), ("https://user:hunter2@[", "user name"),
        ("https://example.com?x=1", "must be an address"), ("https://example.com#x", "must be an address"),
        ("https://[::1", "must be an address"),
        ("https://example.com:99999", "must be an address"), ("https://example.com:x", "must be an address"),
        (None, "must be an address"), (5, "must be an address"), (b"https://example.com", "must be an address"),
    ],
)
def test_roots_that_are_refused(root, words):
    with pytest.raises(ConfigError) as caught:
        make(api_root=root)
    assert "api_root" in str(caught.value) and words in str(caught.value)
    assert "hunter2" not in str(caught.value)


@examples(100)
@given(st.text(max_size=20), st.sampled_from(["", "http://", "https://", "http://[", "https://a:"]))
def test_whatever_is_given_for_a_root_nothing_but_a_config_error_comes(text, scheme):
    try:
        check_root(scheme + text)
    except ConfigError as error:
        assert "api_root" in str(error)


# -- what comes of it


def test_a_config_is_frozen():
    config = make()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.batch_size = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        del config.sites


@pytest.mark.parametrize(
    "limit, target, budget",
    [(1200, 0.8, 960), (1200, 1.0, 1200), (1, 0.01, 1), (60, 0.8, 48), (100, 0.29, 29), (1200, 0.7, 840),
     (2.5, 1.0, 2)],
)
def test_the_budget_is_the_share_of_the_limit_and_at_least_one(limit, target, budget):
    assert make(qpm_limit=limit, qpm_target=target).budget == budget


def test_what_is_kept_of_a_run_has_all_settings_and_no_secret():
    config = make(store="postgresql://u:s3cret@host/db", credentials={"refresh_token": "s3cret"},
                  reports=["page", "query,device"], start=dt.date(2026, 1, 1), api_root="https://s3cret.example")
    kept = json.loads(config.settings())
    assert "s3cret" not in config.settings()
    assert kept["sites"] == [SITE] and kept["reports"] == ["page", "query_device"] and kept["start"] == "2026-01-01"
    assert set(kept) == {field.name for field in dataclasses.fields(SyncConfig)} - {
        "store", "credentials", "api_root", "ledger"
    }


def test_neither_store_nor_credentials_show_in_the_repr():
    assert "s3cret" not in repr(make(store="postgresql://u:s3cret@host/db", credentials={"token": "s3cret"}))


def test_every_setting_says_what_it_is_for():
    described = [field for field in dataclasses.fields(SyncConfig) if field.metadata]
    assert len(described) >= 20
    assert all(field.metadata["help"].strip() for field in described)
