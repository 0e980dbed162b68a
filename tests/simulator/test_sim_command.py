"""The command, the control endpoint, the cache and the data generator."""

import argparse
import datetime as dt
import gzip
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import urllib.request
import zlib

import pytest
from gscwire import DAY, SITE, Client, ask

from gscthreads.simulator import FAULTS, Site
from gscthreads.simulator.clock import Clock, hours_of, months_before
from gscthreads.simulator.command import add_arguments, build, run
from gscthreads.simulator.encode import Answers, Encoded
from gscthreads.simulator.facts import shares
from gscthreads.simulator.lanes import Lanes
from gscthreads.simulator.squeeze import HEAD, GzipStream, gzip_whole, squeeze
from gscthreads.simulator.words import page_urls, topic_queries


def arguments(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_flags_become_options(tmp_path):
    sim = build(arguments("--site", "sc-domain:a.com", "--site", "https://b.com/", "--rows-per-day", "9", "--seed", "3",
                          "--site-qpm", "none", "--burst-qps", "5", "--no-quota", "--latency", "0.25",
                          "--cap", "49_510", "--shuffle-ties", "--fault", "http_503=0.5", "--fault", "hang",
                          "--query-only-cap", "none"))
    assert (sim.options.seed, sim.options.site_qpm, sim.options.burst_qps, sim.options.quota) == (3, None, 5, False)
    assert (sim.options.latency, sim.options.cap, sim.options.shuffle_ties) == (0.25, 49_510, "table")
    assert sim.options.query_only_cap is None and sim.options.user_qpm == 1_200
    assert sim.faults.chances() == {"http_503": 0.5, "hang": 1.0}
    assert {site.name: site.rows_per_day for site in sim._library.sites.values()} == {
        "sc-domain:a.com": 9, "https://b.com/": 9}


@pytest.mark.parametrize("words", [["--fault", "nonsense=1"], ["--fault", "hang=2"], ["--int-style", "1"],
                                   ["--lanes", "many"]])
def test_bad_flags(words, capsys):
    with pytest.raises(SystemExit) as caught:
        arguments(*words)
    assert caught.value.code == 2 and "error" in capsys.readouterr().err


def test_bad_values_end_with_status_2(capsys):
    assert run(arguments("--lanes", "0")) == 2
    assert "lanes=0" in capsys.readouterr().err
    assert run(arguments("--port", "99999")) == 2


def test_faults_are_listed(capsys):
    assert run(arguments("--list-faults")) == 0
    text = capsys.readouterr().out
    assert all(fault.name in text and fault.description in text for fault in FAULTS.values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_process_serves_until_a_signal(tmp_path, number):
    path = tmp_path / "cred.json"
    path.write_text("open to all")
    path.chmod(0o644)
    words = [sys.executable, "-m", "gscthreads.simulator", "--write-credentials", str(path), "--rows-per-day", "50"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        url, command = process.stdout.readline().rstrip().split("  try: ")
        words = shlex.split(command)
        assert words[:4] == ["gscthreads", "sync", "--site", SITE]
        assert words[-4:] == ["--api-root", url, "--credentials", str(path)]
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert json.loads(path.read_text())["token_uri"] == f"{url}/token"
        with urllib.request.urlopen(f"{url}/_sim/stats") as answer:
            assert json.load(answer)["calls"] == 0
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out, err) == (0, "", "")


# ---- control ----


def post(client, name, **values):
    reply = client.send("POST", f"/_sim/{name}", json.dumps(values))
    return reply.status, reply.json


def test_control(start):
    sim, client = start()
    assert post(client, "faults", http_503=0.25) == (200, {"http_503": 0.25})
    assert post(client, "faults", clear=True, script={"name": "http_500", "date": DAY}) == (200, {})
    assert client.query().status == 500 and client.query().status == 200
    assert post(client, "options", latency=0.001)[1]["latency"] == 0.001
    assert post(client, "options", latency="x")[0] == 400
    assert post(client, "clock", now="2026-11-12T12:00:00") == (200, {"now": "2026-11-12T12:00:00"})
    assert sim.clock.today() == dt.date(2026, 11, 12)
    entries = client.send("GET", "/_sim/log?since=1").json
    assert entries["next"] == 2 and entries["entries"][0]["start_date"] == DAY
    assert client.send("GET", "/_sim/log?since=2").json["entries"] == []
    assert client.send("GET", "/_sim/faults").json == {} and client.send("GET", "/_sim/options").json["lanes"] == 4
    assert post(client, "put_day", site=SITE, date=DAY, rows=[["u", "q", "usa", "MOBILE", 1, 2, 3]])[0] == 200
    truth = client.send("GET", f"/_sim/truth?site={SITE}&dimensions=page,query&date={DAY}").json["rows"]
    assert truth == [[["u", "q"], 1, 2, 0.5, 3.0]]
    assert client.send("GET", "/_sim/truth?site=x").status == 400
    token = client.send("GET", "/_sim/token?user=x@y.z").json["access_token"]
    other = Client(sim, token)
    assert other.query().status == 200
    assert post(client, "revoke", user="x@y.z")[1] == {"revoked": 1}
    assert other.query().status == 401
    other.close()
    assert client.send("GET", "/_sim/credentials").json["token_uri"].startswith(sim.url)
    assert post(client, "release") == (200, {"released": 0})
    assert client.send("GET", "/_sim/stats").json["refusals"] == {"unauthorized": 1}
    assert client.send("GET", "/_sim/nothing").status == client.send("PUT", "/_sim/stats").status == 404


# ---- the log ----


def test_the_log_says_what_was_asked(start):
    sim, client = start()
    client.query(**ask(20, 30))
    entry = sim.log[0]
    assert (entry.site, entry.user, entry.dimensions, entry.search_type) == (
        SITE, "owner@example.com", ("page", "query"), "web")
    assert (entry.start_date, entry.end_date) == (dt.date(2026, 11, 10),) * 2
    assert (entry.start_row, entry.row_limit, entry.status, entry.rows) == (20, 30, 200, 30)
    assert (entry.batch, entry.fault, entry.refusal) == (None, None, None)
    assert list(sim.log) == [entry] and len(sim.log) == 1
    sim.log.clear()
    assert len(sim.log) == 0


# ---- speed, without a stopwatch ----


def test_a_kept_answer_is_neither_generated_nor_encoded_again(start, monkeypatch):
    sim, client = start(Site(SITE, rows_per_day=3_000, pages=50))
    calls = [(f"<{number}>", ask(limit=3_000)) for number in range(20)]
    client.batch(calls[:1], gzipped=True)
    made = []
    for name in ("encoded_body", "squeeze", "cut"):
        monkeypatch.setattr(f"gscthreads.simulator.service.{name}", lambda *args: made.append(args))
    assert client.batch(calls, gzipped=True).body.count(b"HTTP/1.1 200 OK") == 20
    assert made == []
    sim.options.update({"cache_bytes": 0})
    assert sim.stats()["cache_bytes"] > 0


def test_the_cache_is_bounded_by_bytes():
    answers = Answers(lambda: 100)
    made = []

    def make(name, size):
        def go():
            made.append(name)
            return Encoded(b"x" * size, 1)
        return answers.get(name, go)

    for name, size in (("a", 40), ("b", 40), ("a", 40), ("c", 40), ("a", 40), ("b", 40), ("big", 101), ("big", 101)):
        make(name, size)
    assert made == ["a", "b", "c", "b", "big", "big"]
    assert answers.bytes_kept == 80


def test_compressed_pieces_join_into_one_gzip_member():
    pieces = [b"one " * 5_000, b"", b"two", os.urandom(70_000), b"x" * 3_000_000, b"one " * 5_000]
    stream = GzipStream()
    joined = HEAD + b"".join([stream.add(squeeze(piece)) for piece in pieces]) + stream.tail()
    unpacker = zlib.decompressobj(31)
    assert unpacker.decompress(joined) == b"".join(pieces)
    assert unpacker.eof and not unpacker.unused_data
    assert gzip.decompress(gzip_whole(squeeze(b"abc"))) == b"abc"


def test_lanes_keep_the_order_and_do_not_run_ahead():
    started = []

    def job(number):
        return lambda: started.append(number) or number

    results = []
    for result in Lanes([job(number) for number in range(50)], width=3, ahead=5):
        results.append(result)
        assert len(started) <= result + 1 + 5
    assert results == list(range(50))
    with pytest.raises(ZeroDivisionError):
        list(Lanes([lambda: 1, lambda: 1 // 0], width=2))


# ---- data ----


@pytest.mark.parametrize("rows, pages", [(0, 5), (3, 5), (5, 5), (25_000, 300), (1_001, 7), (60_000, 2_000)])
def test_shares_add_up(rows, pages):
    counts = shares(rows, pages, False)
    assert sum(counts) == rows and all(count >= 1 for count in counts) and len(counts) <= pages
    assert sum(shares(rows, pages, True)) == min(rows, pages)


@pytest.mark.parametrize("nasty", [False, True])
def test_urls_and_queries_are_distinct(nasty):
    urls = page_urls("sc-domain:example.com", 8_000, nasty)
    assert len(set(urls)) == 8_000 and all(url.startswith("https://example.com/") for url in urls)
    queries = topic_queries(3, 0, 20_000, nasty)
    assert len(set(queries)) == 20_000
    assert queries[5_000:5_010] == topic_queries(3, 5_000, 5_010, nasty)
    if nasty:
        folded = {url.lower() for url in urls}
        assert len(folded) < 8_000 and max(map(len, urls)) > 1_900
        assert any("\t" in url for url in urls) and any("\\" in query for query in queries)


def test_sites_are_checked():
    for values in ({"permission": "owner"}, {"anonymised": 1}, {"pages": 0}):
        with pytest.raises(ValueError):
            Site(SITE, **values)


def test_the_pacific_clock():
    clock = Clock()
    assert abs((clock.now() - (dt.datetime.now(dt.timezone.utc).replace(tzinfo=None) - dt.timedelta(hours=7.5)))
               .total_seconds()) <= 1_801
    assert [len(hours_of(dt.date(2026, 1, 1) + dt.timedelta(days=day))) for day in range(365)].count(24) == 363
    assert hours_of(dt.date(2026, 3, 8))[1:3] == [("2026-03-08T01:00:00-08:00", dt.datetime(2026, 3, 8, 9)),
                                                  ("2026-03-08T03:00:00-07:00", dt.datetime(2026, 3, 8, 10))]
    for now, utc in ((dt.datetime(2026, 7, 1, 12), 19), (dt.datetime(2026, 12, 1, 12), 20)):
        clock.set(now)
        assert clock.utc().hour == utc
    assert months_before(dt.date(2026, 7, 31), 5) == dt.date(2026, 2, 28)
    assert months_before(dt.date(2026, 3, 15), 16) == dt.date(2024, 11, 15)


def test_one_simulator_starts_once(start):
    sim, _ = start()
    with pytest.raises(RuntimeError):
        sim.start()
    with pytest.raises(TypeError):
        type(sim)(colour="red")
    with pytest.raises(RuntimeError):
        type(sim)().url
