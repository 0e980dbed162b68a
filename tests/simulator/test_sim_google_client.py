"""google-api-python-client, unmodified, works against the look-alike."""

import pytest
from gscwire import DAY, NOW, SITE, as_tuples

pytest.importorskip("googleapiclient")

from google.oauth2.credentials import Credentials  # noqa: E402
from googleapiclient.discovery import build  # noqa: E402
from googleapiclient.errors import HttpError  # noqa: E402
from googleapiclient.http import BatchHttpRequest  # noqa: E402


@pytest.fixture
def google(start):
    sim, _ = start()
    info = sim.credentials()
    credentials = Credentials(sim.token(), refresh_token=info["refresh_token"], token_uri=info["token_uri"],
                              client_id=info["client_id"], client_secret=info["client_secret"])
    service = build("searchconsole", "v1", static_discovery=True, cache_discovery=False,
                    client_options={"api_endpoint": sim.url}, credentials=credentials)
    yield sim, service
    service.close()


def body(start=0, limit=50):
    return {"startDate": DAY, "endDate": DAY, "dimensions": ["page", "query"], "rowLimit": limit, "startRow": start}


def truth(sim):
    return [tuple(row) for row in sim.truth(SITE, ["page", "query"], "web", DAY)]


def test_sites_sitemaps_and_inspection(google):
    _, service = google
    assert service.sites().list().execute() == {"siteEntry": [{"siteUrl": SITE, "permissionLevel": "siteOwner"}]}
    assert service.sites().get(siteUrl=SITE).execute()["permissionLevel"] == "siteOwner"
    assert len(service.sitemaps().list(siteUrl=SITE).execute()["sitemap"]) == 2
    asked = {"inspectionUrl": "https://example.com/", "siteUrl": SITE}
    assert service.urlInspection().index().inspect(body=asked).execute()["inspectionResult"]


def test_queries(google):
    sim, service = google
    answer = service.searchanalytics().query(siteUrl=SITE, body=body()).execute()
    assert as_tuples(answer["rows"]) == truth(sim)[:50]
    with pytest.raises(HttpError) as caught:
        service.searchanalytics().query(siteUrl="sc-domain:other.org", body=body()).execute()
    assert caught.value.status_code == 403 and "sufficient permission" in caught.value.reason


def run_batch(sim, service, bodies, path="/batch"):
    """{request id: answer or exception}.  api_endpoint doesn't move the batch address, so it is passed."""
    results = {}
    batch = BatchHttpRequest(callback=lambda key, answer, problem: results.update({key: problem or answer}),
                             batch_uri=f"{sim.url}{path}")
    for one in bodies:
        batch.add(service.searchanalytics().query(siteUrl=SITE, body=one))
    batch.execute()
    return results


@pytest.mark.parametrize("path", ["/batch", "/batch/webmasters/v3"])
def test_batches(google, path):
    sim, service = google
    results = run_batch(sim, service, [body(first) for first in range(0, 300, 50)], path)
    rows = [row for key in sorted(results, key=int) for row in as_tuples(results[key]["rows"])]
    assert rows == truth(sim) and len(rows) == 300
    assert sim.stats()["batches"] == 1


def test_batches_made_by_the_service_object(google):
    sim, service = google
    batch = service.new_batch_http_request()
    batch._batch_uri = f"{sim.url}/batch"
    results = {}
    for first in (0, 50):
        batch.add(service.searchanalytics().query(siteUrl=SITE, body=body(first)),
                  callback=lambda key, answer, problem: results.update({key: answer}))
    batch.execute()
    assert [len(results[key]["rows"]) for key in sorted(results)] == [50, 50]


def test_shuffled_parts_and_errors_inside_batches(google):
    sim, service = google
    sim.options.update({"shuffle_parts": True})
    sim.faults.script("qps_403", start_row=50)
    results = run_batch(sim, service, [body(first) for first in (0, 50, 100)])
    assert as_tuples(results["1"]["rows"]) == truth(sim)[:50]
    assert as_tuples(results["3"]["rows"]) == truth(sim)[100:150]
    assert isinstance(results["2"], HttpError) and "QPS quota exceeded" in results["2"].reason


def test_an_inner_401_is_refreshed_once_and_sent_again(google):
    sim, service = google
    sim.faults.script("unauthorized_401", times=2)
    results = run_batch(sim, service, [body(first) for first in (0, 50, 100)])
    assert [len(results[key]["rows"]) for key in sorted(results)] == [50, 50, 50]
    assert sim.stats()["batches"] == 2 and sim.stats()["token_posts"] == 1
    assert sim.stats()["calls"] == 5


def test_the_clock_is_the_fixture_s(google):
    sim, _ = google
    assert sim.clock.now() == NOW
