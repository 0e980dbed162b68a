"""HTTP batches: the protocol in all its spellings (gsc-api.md 4)."""

import json
import socket
import zlib

import pytest
from gscwire import SITE, Client, ask, as_tuples, batch_body, query_path, split_parts

from gscthreads.simulator import Site


def truth(sim):
    return [tuple(row) for row in sim.truth(SITE, ["page", "query"], "web", "2026-11-10")]


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("path", ["/batch", "/batch/webmasters/v3"])
def test_parts_come_in_order_with_their_ids(start, path, gzipped):
    sim, client = start()
    reply = client.batch([(f"<item-{number}>", ask(number * 10)) for number in range(30)], path, gzipped)
    assert reply.status == 200 and ("content-encoding" in reply.headers) is gzipped
    parts = split_parts(reply)
    assert [part.content_id for part in parts] == [f"<response-item-{number}>" for number in range(30)]
    rows = [row for part in parts for row in as_tuples(part.json["rows"])]
    assert rows == truth(sim)[:300]
    assert all(part.headers["content-length"] == str(len(part.body.encode())) for part in parts)
    assert sim.stats()["batches"] == 1 and {entry.batch for entry in sim.log} == {1}


def test_parts_arrive_as_they_are_made(start):
    """The first part is readable while the others are still worked on."""
    sim, client = start(latency=0.0, lanes=1)
    sim.faults.script("stall_body")
    body = batch_body([(f"<{number}>", ask(number * 10)) for number in range(6)])
    client.connection.request("POST", "/batch", body, {**client.headers, "Accept-Encoding": "gzip",
                                                       "Content-Type": "multipart/mixed; boundary=sep"})
    answer = client.connection.getresponse()
    text, unpacker = b"", zlib.decompressobj(31)
    while text.count(b"HTTP/1.1 200 OK") < 4:  # the stall is in the fourth part's body
        text += unpacker.decompress(answer.read1(65_536))
    assert len(sim.log) >= 4
    client.close()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("version", ["", " HTTP/1.1"])
@pytest.mark.parametrize("content_ids, answers", [
    (["<a + 1>", "<a + 2>"], ["<response-a + 1>", "<response-a + 2>"]),
    (["one", "two"], ["response-one", "response-two"]),
    (["<long\r\n +1>", "<long\n\t+2>"], ["<response-long +1>", "<response-long +2>"]),
    ([None, None], [None, None]),
])
def test_spellings_of_requests(start, end, version, content_ids, answers):
    _, client = start()
    body = batch_body([(content_id, ask()) for content_id in content_ids], end, version)
    reply = client.send("POST", "/batch", body, Content_Type='multipart/mixed; boundary="sep"')
    parts = split_parts(reply)
    assert [part.content_id for part in parts] == answers
    assert [part.status for part in parts] == [200, 200]


def test_a_preamble_an_epilogue_and_odd_boundaries(start):
    _, client = start()
    boundary = "===============0645941141503963016=="
    body = f"ignored\r\n{batch_body([('<1>', ask())], boundary=boundary)}ignored"
    reply = client.send("POST", "/batch", body, Content_Type=f'multipart/mixed; boundary="{boundary}"')
    assert split_parts(reply)[0].status == 200


def test_outer_headers_and_parameters_hold_for_parts_unless_they_say_otherwise(start):
    sim, client = start()
    own = {"Authorization": f"Bearer {sim.token('somebody@example.com')}"}
    bad = {"authorization": "Bearer nonsense"}
    parts = split_parts(client.batch([("<1>", ask()), ("<2>", ask(), own), ("<3>", ask(), bad)]))
    assert [part.status for part in parts] == [200, 200, 401]
    assert [entry.user for entry in sorted(sim.log, key=lambda entry: entry.user)] == [
        "", "owner@example.com", "somebody@example.com"]
    assert parts[2].headers["www-authenticate"].startswith("Bearer realm=")
    # Without an outer token each part answers for itself: the outer status stays 200.
    client.headers = {}
    parts = split_parts(client.batch([("<1>", ask()), ("<2>", ask(), own)]))
    assert [part.status for part in parts] == [401, 200]


def test_outer_query_parameters_reach_the_parts(start):
    _, client = start()
    text = f"--sep\nContent-Type: application/http\n\nPOST {query_path()}\n\n{json.dumps(ask())}\n--sep--"
    header = {"Content_Type": "multipart/mixed; boundary=sep"}
    assert split_parts(client.send("POST", "/batch?prettyPrint=false", text, **header))[0].body.startswith('{"rows":[')
    assert split_parts(client.send("POST", "/batch", text, **header))[0].body.startswith('{\n  "rows": [')


def test_parts_fail_alone(start):
    sim, client = start()
    sites = "--sep\nContent-Type: application/http\n\nGET /webmasters/v3/sites\n\n"
    sites += batch_body([("<1>", ask(limit=0))])
    parts = split_parts(client.send("POST", "/batch", sites, Content_Type="multipart/mixed; boundary=sep"))
    assert [part.status for part in parts] == [200, 400]
    assert parts[0].json["siteEntry"][0]["siteUrl"] == SITE
    assert sim.log[0].refusal == "invalid"


def test_at_most_a_thousand_calls(start):
    sim, client = start(quota=False)
    calls = [("<1>", ask(limit=1))] * 1_000
    assert len(split_parts(client.batch(calls))) == 1_000
    reply = client.batch(calls + calls[:1])
    assert reply.status == 400 and reply.error["errors"][0]["reason"] == "badRequest"
    assert sim.stats()["calls"] == 1_000


@pytest.mark.parametrize("body, content_type", [
    ("nothing", "multipart/mixed; boundary=sep"), ("", "multipart/mixed; boundary=sep"),
    ("--sep--\r\n", "multipart/mixed; boundary=sep"), (batch_body([("<1>", ask())]), "multipart/mixed"),
    (batch_body([("<1>", ask())]), "application/json"),
    (batch_body([("<1>", ask())])[:-9], "multipart/mixed; boundary=sep"),
    (batch_body([("<1>", ask())]).replace("POST /", "POST http://h/"), "multipart/mixed; boundary=sep"),
    (batch_body([("<1>", ask())]).replace("application/http", "text/plain"), "multipart/mixed; boundary=sep"),
])
def test_bad_batches_are_refused_as_a_whole(start, body, content_type):
    sim, client = start()
    reply = client.send("POST", "/batch", body, Content_Type=content_type)
    assert reply.status == 400 and sim.stats()["calls"] == 0


def test_parts_can_come_shuffled(start):
    _, client = start(shuffle_parts=True)
    ids = [part.content_id for part in split_parts(client.batch([(f"<{at}>", ask()) for at in range(20)]))]
    assert ids != sorted(ids, key=lambda text: int(text[10:-1])) and len(set(ids)) == 20


def test_each_part_is_charged(start):
    sim, client = start(site_qpm=6, lanes=1)
    parts = split_parts(client.batch([(f"<{at}>", ask()) for at in range(10)]))
    assert [part.status for part in parts] == [200] * 6 + [403] * 4
    assert parts[-1].json["error"]["errors"][0] == {
        "message": parts[-1].json["error"]["message"], "domain": "usageLimits", "reason": "quotaExceeded"}
    assert sim.stats()["max_60s"]["site"][SITE] == 10
    assert sim.stats()["refusals"] == {"site_quota": 4}


def test_http_1_0_clients_get_the_answer_until_the_close(start):
    sim, client = start()
    body = batch_body([("<1>", ask())]).encode()
    with socket.create_connection(("127.0.0.1", client.port)) as wire:
        wire.sendall(b"POST /batch HTTP/1.0\r\nAuthorization: %b\r\nContent-Length: %d\r\n"
                     b"Content-Type: multipart/mixed; boundary=sep\r\n\r\n%b"
                     % (client.headers["Authorization"].encode(), len(body), body))
        text = b"".join(iter(lambda: wire.recv(65_536), b""))
    assert b"Transfer-Encoding" not in text and text.endswith(b"--\r\n")


def test_a_client_that_leaves_does_no_harm(start, capfd):
    sim, client = start(Site(SITE, rows_per_day=20_000, pages=100))
    body = batch_body([(f"<{at}>", ask(limit=20_000)) for at in range(20)])
    for _ in range(3):
        leaver = Client(sim)
        leaver.connection.request("POST", "/batch", body, {**client.headers, "Content-Type":
                                                           "multipart/mixed; boundary=sep"})
        leaver.connection.getresponse().read(100)
        leaver.close()
    assert client.query().status == 200
    assert capfd.readouterr().err == ""
