"""Which registered property a user most likely meant, and what the error about a refused site says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gscthreads.sites import advice, closest
from tests.properties import examples

DOMAIN = "sc-domain:example.com"
WWW, BARE, HTTP, SHOP = (
    "https://www.example.com/", "https://example.com/", "http://www.example.com/", "https://shop.example.com/"
)
OTHER = "sc-domain:other.org"


def owned(*urls):
    return [(url, "siteOwner") for url in urls]


@pytest.mark.parametrize(
    "site",
    ["example.com", "www.example.com", "EXAMPLE.com", " example.com ", "https://example.com", "http://example.com/",
     "https://www.example.com/shop/?a=b", "sc-domain:www.example.com", "SC-DOMAIN:Example.Com", "example.com:443",
     "http://www.example.com:8080/x"],
)
def test_every_way_to_write_the_host_finds_its_properties_domain_first_then_https(site):
    entries = owned(HTTP, OTHER, WWW, DOMAIN)
    assert closest(site, entries) == [DOMAIN, WWW, HTTP]
    assert advice(site, entries) == f"did you mean {DOMAIN} or {WWW} or {HTTP}?"


def test_what_was_asked_for_is_not_suggested():
    assert closest(DOMAIN, owned(DOMAIN)) == []
    assert closest(WWW, owned(HTTP, WWW, BARE)) == [BARE, HTTP]
    assert closest(BARE[:-1], owned(BARE)) == [BARE]  # the slash matters to Google


@pytest.mark.parametrize("site", ["shop.example.com", SHOP, "https://a.b.example.com/", "sc-domain:shop.example.com"])
def test_a_domain_property_covers_its_subdomains(site):
    assert closest(site, owned(OTHER, DOMAIN)) == [DOMAIN]


def test_the_subdomains_own_property_comes_before_the_domain_that_covers_it():
    assert closest("shop.example.com", owned(DOMAIN, SHOP)) == [SHOP, DOMAIN]


@pytest.mark.parametrize("site", ["notexample.com.evil.net", "sc-domain:com", "totally-different.net"])
def test_what_merely_ends_or_begins_alike_is_not_covered(site):
    assert closest(site, owned(DOMAIN)) == []


def test_a_url_prefix_property_covers_no_subdomain():
    assert closest("https://some-longish-subdomain.example.com/", owned(BARE)) == []


def test_misspellings_are_found_only_when_nothing_fits():
    assert closest("exmaple.com", owned(DOMAIN, OTHER)) == [DOMAIN]
    assert closest("https://www.exampel.com/", owned(WWW, OTHER)) == [WWW]
    assert closest("example.com", owned("https://examples.com/", DOMAIN)) == [DOMAIN]


def test_no_more_than_asked_for_are_suggested():
    entries = owned(*(f"https://www.example.com/{number}/" for number in range(9)))
    assert closest("example.com", entries) == [url for url, _ in entries[:3]]
    assert len(closest("example.com", entries, most=5)) == 5


def test_properties_that_are_not_verified_are_left_out():
    entries = [(DOMAIN, "siteUnverifiedUser"), *owned(WWW)]
    assert closest("example.com", entries) == [WWW]
    assert closest("example.com", [(DOMAIN, "siteUnverifiedUser")]) == []


@pytest.mark.parametrize(
    "site, entries, words",
    [
        (DOMAIN, [(DOMAIN, "siteUnverifiedUser")], f"listed for {DOMAIN} but not verified"),
        (DOMAIN, [(DOMAIN, "siteRestrictedUser")], f"lists {DOMAIN}, yet may not read its data"),
        (DOMAIN, [], "no sites at all"),
        (DOMAIN, [(WWW, "siteUnverifiedUser")], "no sites at all"),
        ("sc-domain:a.net", [*owned(DOMAIN, OTHER), (WWW, "siteUnverifiedUser")], "none of the account's 2 sites"),
        ("example.com", owned(DOMAIN), f"did you mean {DOMAIN}?"),
    ],
)
def test_advice(site, entries, words):
    assert words in advice(site, entries)


@examples(100)
@given(st.text(max_size=30), st.lists(st.tuples(st.text(max_size=30), st.sampled_from(["siteOwner",
                                                                                      "siteUnverifiedUser"]))))
def test_whatever_is_written_only_other_readable_properties_are_suggested(site, entries):
    found = closest(site, entries)
    readable = {url for url, permission in entries if permission == "siteOwner"}
    assert set(found) <= readable - {site} and len(found) == len(set(found)) <= 3
    assert advice(site, entries)
