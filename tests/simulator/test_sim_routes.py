"""Everything but search traffic: headers, sites, sitemaps, inspection, permissions, keep-alive (gsc-api.md 1, 5)."""

import json
import threading

import pytest
from gscwire import SITE, Client, query_path

from gscthreads.simulator import Site

WRITE = "https://www.googleapis.com/auth/webmasters"
SITES = [Site(SITE, rows_per_day=50), Site("https://www.example.com/shop/", "siteRestrictedUser", 50),
         Site("https://old.example.com/", "siteUnverifiedUser", 50)]


def test_headers(start):
    _, client = start()
    reply = client.query(dimensions=["page"])
    assert reply.headers["server"] == "ESF" and "Origin" in reply.headers["vary"]
    assert reply.headers["content-type"] == "application/json; charset=UTF-8"
    assert reply.headers["server-timing"].startswith("gfet4t7")
    packed = client.send("POST", query_path(), '{"startDate":"2026-11-10","endDate":"2026-11-10"}',
                         Accept_Encoding="gzip, deflate")
    assert packed.headers["content-encoding"] == "gzip" and packed.json["rows"]


def test_sites(start):
    sim, client = start(sites=SITES)
    entries = client.send("GET", "/webmasters/v3/sites").json["siteEntry"]
    assert {entry["siteUrl"]: entry["permissionLevel"] for entry in entries} == {
        site.name: site.permission for site in SITES}
    shop = "/webmasters/v3/sites/https%3A%2F%2Fwww.example.com%2Fshop%2F"
    assert client.send("GET", shop).json == {"siteUrl": SITES[1].name, "permissionLevel": "siteRestrictedUser"}
    sim._library.sites.clear()
    assert client.send("GET", "/webmasters/v3/sites").json == {}


@pytest.mark.parametrize("site, status", [
    (SITE, 200), ("https://www.example.com/shop/", 200), ("https://old.example.com/", 403),
    ("https://www.example.com/shop", 403), ("sc-domain:EXAMPLE.com", 403), ("sc-domain:unknown.org", 403)])
def test_who_may_query(start, site, status):
    _, client = start(sites=SITES)
    reply = client.query(site)
    assert reply.status == status
    if status == 403:
        error = reply.error
        assert error["message"] == (f"User does not have sufficient permission for site '{site}'. See also: "
                                    "https://support.google.com/webmasters/answer/2451999.")
        assert error["errors"][0]["reason"] == "forbidden" and "status" not in error


def test_sitemaps(start):
    _, client = start(sites=SITES)
    base = "/webmasters/v3/sites/sc-domain%3Aexample.com/sitemaps"
    known = client.send("GET", base).json["sitemap"]
    assert [item["isSitemapsIndex"] for item in known] == [True, False]
    assert known[0]["errors"] == "0" and known[0]["contents"][0]["submitted"] == "200"
    from urllib.parse import quote
    path = quote(known[1]["path"], safe="")
    assert client.send("GET", f"{base}/{path}").json == known[1]
    assert client.send("GET", f"{base}?sitemapIndex={quote(known[0]['path'], safe='')}").json["sitemap"] == known[1:]
    assert client.send("GET", f"{base}/nothing.xml").status == 404
    assert client.send("GET", "/webmasters/v3/sites/sc-domain%3Ax/sitemaps").status == 403


def test_writing_needs_the_scope_for_it(start):
    sim, client = start(sites=SITES)
    base = "/webmasters/v3/sites/sc-domain%3Aexample.com"
    refused = client.send("PUT", f"{base}/sitemaps/x.xml")
    assert refused.status == 403 and refused.error["status"] == "PERMISSION_DENIED"
    assert refused.error["details"][0]["reason"] == "ACCESS_TOKEN_SCOPE_INSUFFICIENT"
    assert refused.error["details"][0]["metadata"]["method"] == "google.searchconsole.v1.SitemapsService.Submit"
    writer = Client(sim, sim.token(scopes=[WRITE]))
    assert writer.send("PUT", f"{base}/sitemaps/x.xml").status == 204
    assert writer.send("DELETE", base).status == 204
    writer.close()
    stranger = Client(sim, sim.token(scopes=["https://www.googleapis.com/auth/drive"]))
    assert stranger.send("GET", "/webmasters/v3/sites").error["errors"][0]["reason"] == "insufficientPermissions"
    assert stranger.query().error["status"] == "PERMISSION_DENIED"
    stranger.close()


@pytest.mark.parametrize("site, url, status", [
    (SITE, "https://shop.example.com/x", 200), (SITE, "https://badexample.com/", 403),
    ("https://www.example.com/shop/", "https://www.example.com/shop/x", 403)])
def test_inspection(start, site, url, status):
    _, client = start(sites=SITES)
    reply = client.send("POST", "/v1/urlInspection/index:inspect", json.dumps({"inspectionUrl": url, "siteUrl": site}))
    assert reply.status == status
    if status == 200:
        assert reply.json["inspectionResult"]["indexStatusResult"]["verdict"] == "PASS"


def test_unknown_addresses_are_404_in_html(start):
    _, client = start()
    for method, path in (("GET", "/nowhere"), ("PATCH", "/webmasters/v3/sites"), ("GET", query_path()),
                         ("POST", "/webmasters/v3/sites/https://raw.com//searchAnalytics/query")):
        reply = client.send(method, path)
        assert (reply.status, reply.headers["content-type"]) == (404, "text/html; charset=UTF-8")


def test_tokens_are_required(start):
    sim, client = start()
    client.headers = {}
    reply = client.query()
    assert reply.status == 401 and reply.error["status"] == "UNAUTHENTICATED"
    assert reply.error["errors"][0] == {"message": "Invalid Credentials", "domain": "global", "reason": "authError",
                                        "location": "Authorization", "locationType": "header"}
    assert reply.headers["www-authenticate"] == 'Bearer realm="https://accounts.google.com/", error="invalid_token"'
    assert client.query(path=f"?access_token={sim.token()}").status == 200
    assert sim.stats()["calls"] == 1
    sim.options.update({"require_auth": False})
    assert client.query().status == 200


def test_other_calls_have_their_own_quota(start):
    _, client = start(sites=SITES)
    statuses = [client.send("GET", "/webmasters/v3/sites").status for _ in range(30)]
    assert statuses[:20] == [200] * 20 and 429 in statuses
    assert client.query().status == 200


def test_connections_are_kept(start):
    _, client = start()
    client.query()
    first = client.connection.sock
    for _ in range(5):
        client.query()
        client.query(rowLimit=0)
    assert client.connection.sock is first


def test_chunked_requests_are_read(start):
    _, client = start()
    body = json.dumps({"startDate": "2026-11-10", "endDate": "2026-11-10"}).encode()
    assert client.send("POST", query_path(), iter([body[:10], body[10:]])).json["rows"]


def test_many_clients_at_once(start):
    sim, _ = start()
    truth = [tuple(row) for row in sim.truth(SITE, ["page", "query"], "web", "2026-11-10")]
    wrong = []

    def work():
        client = Client(sim)
        for _ in range(5):
            if client.pages(150, dimensions=["page", "query"]) != truth:
                wrong.append(1)
        client.close()

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and sim.stats()["calls"] == len(sim.log) == 16 * 5 * 3


def test_stopping_ends_idle_connections_and_frees_the_port(start):
    from gscthreads.simulator import Simulator
    sim, client = start()
    assert client.query().status == 200
    port = client.port
    sim.stop()
    with Simulator([SITES[0]], port=port) as again:
        assert again.url == sim.url
