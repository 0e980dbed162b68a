"""Every named fault does what its description says; chance is deterministic; scripts hit what they name."""

import gzip
import http.client
import json
import socket
import threading
import zlib

import pytest
from gscwire import DAY, SITE, ask, batch_body, query_path, split_parts

from gscthreads.simulator import FAULTS, GROUPS, Site, spoil
from gscthreads.simulator.faults import Faults, Target

STATUSES = {
    "http_500": (500, "backendError"), "http_503": (503, "backendError"), "http_504": (504, "gatewayTimeout"),
    "http_408": (408, "requestTimeout"), "http_429": (429, "rateLimitExceeded"),
    "http_429_new": (429, "rateLimitExceeded"), "qps_403": (403, "quotaExceeded"),
    "user_rate_403": (403, "userRateLimitExceeded"), "load_403": (403, "quotaExceeded"),
    "daily_403": (403, "dailyLimitExceeded"), "daily_429": (429, "rateLimitExceeded"),
    "scope_403": (403, "insufficientPermissions"), "api_disabled_403": (403, "accessNotConfigured"),
    "quota_project_403": (403, "accessNotConfigured"), "not_found_404": (404, "notFound"),
    "invalid_400": (400, "invalidParameter"),
    "unauthorized_401": (401, "authError"), "forbidden_403": (403, "forbidden"), "outer_401": (401, "authError"),
    "outer_403_quota": (403, "quotaExceeded"), "outer_500": (500, "backendError"), "outer_503": (503, "backendError"),
}
TWO = [("<1>", ask()), ("<2>", ask(10))]


@pytest.mark.parametrize("name", STATUSES)
def test_error_answers(start, name):
    sim, client = start()
    script = sim.faults.script(name, times=2)
    reply = client.query()
    assert (reply.status, reply.error["errors"][0]["reason"]) == STATUSES[name]
    batch = client.batch(TWO)
    if name.startswith("outer_"):
        assert batch.status == STATUSES[name][0]
        assert [entry.fault for entry in sim.log] == [name] * 3
    else:
        assert [part.status for part in split_parts(batch)].count(200) == 1
    assert script.done and client.query().status == 200
    # Faulted queries are charged like any other.
    assert sim.stats()["max_60s"]["site"][SITE] == 4 and sim.stats()["faults"] == {name: 2}


@pytest.mark.parametrize("name, status, domain, info, words", [
    # gsc-api.md 5.1 and 5.2: which of the two shapes, or both at once.
    ("daily_403", None, "usageLimits", None, "reset at midnight Pacific Time"),
    ("daily_429", "RESOURCE_EXHAUSTED", "global", "RATE_LIMIT_EXCEEDED", "limit 'Queries per day' of service"),
    ("http_429_new", "RESOURCE_EXHAUSTED", "global", "RATE_LIMIT_EXCEEDED", "limit 'Queries per minute' of service"),
    ("http_429", None, "usageLimits", None, "Rate Limit Exceeded"),
    ("scope_403", "PERMISSION_DENIED", "global", "ACCESS_TOKEN_SCOPE_INSUFFICIENT", "insufficient authentication"),
    ("api_disabled_403", "PERMISSION_DENIED", "usageLimits", "SERVICE_DISABLED", "it is disabled"),
    ("quota_project_403", "PERMISSION_DENIED", "usageLimits", "SERVICE_DISABLED", "requires a quota project, which is"),
    ("not_found_404", None, "global", None, "not found"),
    ("forbidden_403", None, "global", None, f"sufficient permission for site '{SITE}'"),
    ("invalid_400", None, "global", None, "'BY_PROPERTY' is not a valid aggregation type"),
])
def test_shapes_of_errors(start, name, status, domain, info, words):
    sim, client = start()
    sim.faults.script(name)
    error = client.query().error
    (detail,) = error["errors"]
    assert words in error["message"] and error.get("status") == status and detail["domain"] == domain
    assert detail["message"] == error["message"] or name == "scope_403"
    found = [each["reason"] for each in error.get("details", ()) if each["@type"].endswith("google.rpc.ErrorInfo")]
    assert found == ([info] if info else [])


def test_answers_without_reason_or_json(start):
    sim, client = start()
    sim.faults.script("quota_403_no_reason")
    reply = client.query()
    assert reply.status == 403 and set(reply.error) == {"code", "message"} and "quota" in reply.error["message"]
    sim.faults.script("http_502_html")
    reply = client.query()
    assert reply.status == 502 and reply.headers["content-type"].startswith("text/html")
    for name in ("html_200", "outer_html_200"):
        sim.faults.script(name)
        reply = client.query()
        assert reply.status == 200 and reply.headers["content-type"].startswith("text/html")
        assert reply.body.startswith(b"<!DOCTYPE html>")


@pytest.mark.parametrize("name", ["malformed_json", "truncated_json", "deep_json"])
@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_unreadable_json(start, name, encoding):
    sim, client = start()
    sim.faults.script(name)
    reply = client.send("POST", query_path(), json.dumps(ask(limit=100)), Accept_Encoding=encoding)
    assert reply.status == 200
    with pytest.raises((ValueError, RecursionError)):
        reply.json


@pytest.mark.parametrize("name", ["wrong_types", "nan_json"])
def test_json_of_the_wrong_kind(start, name):
    sim, client = start()
    sim.faults.script(name, times=None)
    bodies = {client.query(dimensions=["page"], startRow=number).body for number in range(60)}
    assert len(bodies) > 3
    for body in bodies:
        json.loads(body)


@pytest.mark.parametrize("name, ids, statuses", [
    ("missing_part", ["<response-2>"], [200]),
    ("doubled_part", ["<response-1>", "<response-1>", "<response-2>"], [200] * 3),
    ("mislabelled_part", ["<response-nobody+asked>", "<response-2>"], [200] * 2),
    ("empty_part", ["<response-1>", "<response-2>"], [None, 200]),
    ("shuffled_parts", ["<response-2>", "<response-1>"], [200] * 2),
])
@pytest.mark.parametrize("gzipped", [False, True])
def test_batch_faults(start, name, ids, statuses, gzipped):
    sim, client = start()
    sim.faults.script(name)
    parts = split_parts(client.batch(TWO, gzipped=gzipped))
    assert [part.content_id for part in parts] == ids
    assert [part.status for part in parts] == statuses
    assert sim.stats()["calls"] == 2


def test_line_feeds_only(start):
    sim, client = start()
    sim.faults.script("lf_parts")
    reply = client.batch(TWO)
    assert b"\r" not in reply.body and reply.body.count(b"HTTP/1.1 200 OK\n") == 2


def test_batch_answered_with_json(start):
    sim, client = start()
    sim.faults.script("outer_not_multipart")
    assert client.query().status == 200  # plain calls can't have it
    reply = client.batch(TWO)
    assert reply.status == 200 and reply.headers["content-type"].startswith("application/json")


def send(client, kind, gzipped=True):
    encoding = "gzip" if gzipped else "identity"
    if kind == "plain":
        return client.send("POST", query_path(), json.dumps(ask(limit=200)), Accept_Encoding=encoding)
    return client.batch([(f"<{at}>", ask(at * 20, 20)) for at in range(9)], gzipped=gzipped)


@pytest.mark.parametrize("kind", ["plain", "batch"])
@pytest.mark.parametrize("name, problem", [
    ("reset_before", (ConnectionResetError, http.client.RemoteDisconnected)),
    ("reset_headers", (ConnectionResetError, http.client.HTTPException)),
    ("reset_body", (ConnectionResetError, http.client.IncompleteRead)),
    ("wrong_length", http.client.IncompleteRead),
    ("truncated_gzip", EOFError),
    ("corrupt_gzip", (zlib.error, gzip.BadGzipFile, EOFError)),
])
def test_broken_transport(start, kind, name, problem):
    sim, client = start()
    script = sim.faults.script(name)
    with pytest.raises(problem):
        send(client, kind)
    assert script.done
    client.close()
    assert send(client, kind).status == 200
    assert {entry.fault for entry in sim.log} >= {name, None}


@pytest.mark.parametrize("kind", ["plain", "batch"])
def test_broken_bodies_without_gzip(start, kind):
    sim, client = start()
    good = send(client, kind, gzipped=False)
    sim.faults.script("truncated_gzip")
    assert len(send(client, kind, gzipped=False).body) < len(good.body)
    sim.faults.script("corrupt_gzip")
    with pytest.raises(UnicodeDecodeError):
        send(client, kind, gzipped=False).body.decode()


@pytest.mark.parametrize("kind", ["plain", "batch"])
@pytest.mark.parametrize("name", ["hang", "stall_body"])
def test_hanging_until_released(start, kind, name):
    sim, client = start()
    sim.faults.script(name)
    problems = []

    def work():
        try:
            send(client, kind)
        except (OSError, http.client.HTTPException) as problem:
            problems.append(problem)

    thread = threading.Thread(target=work)
    thread.start()
    while not sim.stats()["hanging"]:
        thread.join(0.005)
    assert not problems and thread.is_alive()
    assert sim.release_hangs() == 1
    thread.join(10)
    assert len(problems) == 1


def test_stopping_ends_hangs(start):
    sim, client = start()
    sim.faults.script("hang")
    client.connection.request("POST", query_path(), json.dumps(ask()), client.headers)
    while not sim.stats()["hanging"]:
        pass
    sim.stop()
    with pytest.raises((OSError, http.client.HTTPException)):
        client.connection.getresponse()


@pytest.mark.parametrize("kind", ["plain", "batch"])
def test_drip_sends_single_bytes(start, kind):
    sim, client = start(drip_interval=0.0)
    sim.faults.script("drip")
    body = json.dumps(ask(limit=1)) if kind == "plain" else batch_body([("<1>", ask(limit=1))])
    path = query_path() if kind == "plain" else "/batch"
    with socket.create_connection(("127.0.0.1", client.port)) as wire:
        wire.sendall(f"POST {path} HTTP/1.1\r\nAuthorization: {client.headers['Authorization']}\r\nContent-Type: "
                     f"multipart/mixed; boundary=sep\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        text = b""
        while not text.endswith(b"\r\n0\r\n\r\n"):
            text += wire.recv(65_536)
    chunks = text.split(b"\r\n\r\n", 1)[1]
    assert chunks.startswith(b"1\r\n") and chunks.count(b"1\r\n") > 100


def test_slow_is_late_and_right(start):
    sim, client = start(slow_seconds=0.02)
    sim.faults.script("slow")
    assert client.rows(dimensions=["page"]) == client.rows(dimensions=["page"])
    assert sim.log[0].fault == "slow" and sim.log[1].fault is None


@pytest.mark.parametrize("name", ["huge", "gzip_bomb"])
def test_oversize_answers(start, name):
    sim, client = start(huge_bytes=5 << 20)
    sim.faults.script(name, times=2)
    for kind in ("plain", "batch"):
        reply = send(client, kind)
        assert len(reply.body) > 4 << 20 and len(json.loads(reply.body)["rows"]) > 10_000
        assert (len(reply.raw) < 100_000) is (name == "gzip_bomb")


def test_token_faults(start):
    sim, client = start()
    form = "grant_type=refresh_token&client_id=x"
    sim.faults.script("token_503")
    assert client.send("POST", "/token", form).status == 503
    sim.faults.script("token_invalid_grant")
    assert client.send("POST", "/token", form).json["error"] == "invalid_grant"
    assert client.send("POST", "/token", form).json["error"] == "invalid_client"


def test_every_fault_is_described_and_grouped():
    for fault in FAULTS.values():
        assert fault.description and fault.scope in ("query", "part", "batch", "http", "token")
    hanging = set(GROUPS["hanging"])
    assert hanging == {"hang", "stall_body", "drip"} and not hanging & set(GROUPS["transient"])
    assert {"http_503", "reset_body", "qps_403", "missing_part"} <= set(GROUPS["transient"])
    assert set(GROUPS["load"]) == {"load_403", "daily_403", "daily_429"}
    assert {"forbidden_403", "api_disabled_403", "token_invalid_grant"} <= set(GROUPS["final"])


def test_scripts_choose_by_date_start_row_and_site(start):
    sim, client = start(sites=[Site(SITE, rows_per_day=100), Site("sc-domain:b.com", rows_per_day=100)])
    sim.faults.script("http_503", times=None, date=DAY, start_row=50, site="sc-domain:b.com")
    sim.faults.script("http_500", after=2, times=1, dimensions=["page"])
    assert [client.query(site, startRow=row).status for site in (SITE, "sc-domain:b.com") for row in (0, 50)] == [
        200, 200, 200, 503]
    assert [client.query(dimensions=["page"]).status for _ in range(4)] == [200, 200, 500, 200]
    sim.faults.clear()
    assert client.query("sc-domain:b.com", startRow=50).status == 200


def test_a_batch_script_matches_any_of_its_queries(start):
    sim, client = start()
    sim.faults.script("outer_503", start_row=10)
    assert client.batch(TWO[:1]).status == 200
    assert client.batch(TWO).status == 503


def throws(seed, order):
    faults = Faults(lambda: seed)
    faults.set("http_503", 0.3)
    faults.set("html_200", 0.2)
    return {(row, turn): faults.choose(("query",), [Target(SITE, start_row=row)])
            for turn in range(20) for row in order}


def test_chance_depends_on_the_seed_not_on_the_order():
    one = throws(7, range(30))
    assert one == throws(7, range(29, -1, -1)) != throws(8, range(30))
    happened = [name for name in one.values() if name]
    assert 0.4 < len(happened) / len(one) < 0.6
    assert set(happened) == {"http_503", "html_200"}


def test_groups_share_their_probability():
    faults = Faults(lambda: 1)
    faults.set("transient", 0.5)
    assert abs(sum(faults.chances().values()) - 0.5) < 1e-9
    assert set(faults.chances()) == set(GROUPS["transient"])
    faults.set("http_503", 0)
    assert "http_503" not in faults.chances()
    for name, chance in (("nonsense", 0.5), ("http_503", 1.5)):
        with pytest.raises(ValueError):
            faults.set(name, chance)
    with pytest.raises(ValueError):
        faults.script("transient")


def test_trying_again_gets_everything_through_transient_faults(start):
    sim, client = start(quota=False)
    sim.faults.set("transient", 0.6)
    truth = [tuple(row) for row in sim.truth(SITE, ["page", "query"], "web", DAY)]
    rows, first = [], 0
    for _ in range(200):
        try:
            reply = client.query(dimensions=["page", "query"], startRow=first, rowLimit=50)
            got = reply.json["rows"] if reply.status == 200 else None
            got = [(tuple(row["keys"]), row["clicks"], row["impressions"], row["ctr"], row["position"]) for row in got]
            assert got == truth[first:first + 50]
        except (OSError, http.client.HTTPException, ValueError, TypeError, KeyError, RecursionError, AssertionError):
            client.close()
            continue
        rows += got
        first += 50
        if first >= len(truth):
            break
    assert rows == truth
    assert len(sim.stats()["faults"]) > 5


def test_malformed_json_is_malformed_wherever_its_middle_is():
    """Not a text with something else in it, which would be a valid answer, and a wrong one."""
    for length in range(60):
        text = "\\\n\"\u00e9\\\\" * 3 + "x" * length
        right = json.dumps({"rows": [{"keys": [text], "clicks": 1, "impressions": 2}]}).encode()
        with pytest.raises(ValueError):
            json.loads(spoil.spoiled("malformed_json", right, 0)[0])
