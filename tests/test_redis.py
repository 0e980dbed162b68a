"""Budgets in Redis: one step at a time, on the server's clock, and no hang when it goes away."""

from __future__ import annotations

import datetime as dt
import threading
import time

import pytest
import redis_server

import gscthreads
from gscthreads import pacific
from gscthreads.errors import ConfigError, StoreError, StoreLocked, StoreLost
from gscthreads.halt import Halt
from gscthreads.model import Account
from gscthreads.quota import Quota
from gscthreads.simulator import Simulator, Site

redis = redis_server.redis
ledgers = pytest.importorskip("gscthreads.contrib.redis")
SITE = "sc-domain:example.com"


@pytest.fixture(scope="module")
def server():
    started = redis_server.server()
    yield started
    started.close()


@pytest.fixture
def url(server):
    client = redis.Redis.from_url(server.url())
    client.flushall()
    client.close()
    return server.url()


def add_one(states, now):
    for state in states.values():
        state["count"] = state.get("count", 0) + 1
    return now


def test_of_many_who_count_at_once_nobody_is_lost(url):
    def count(ledger, keys):
        done = 0
        while done < 50:
            try:
                ledger.update(keys, add_one)
                done += 1
            except StoreLocked:
                pass

    shared = ledgers.RedisLedger(url)  # by two threads, beside two of their own
    work = [(shared, ["site a", "user"]), (shared, ["site b", "user"]),
            (ledgers.RedisLedger(url), ["user", "site a"]), (ledgers.RedisLedger(url), ["site b", "user"])]
    threads = [threading.Thread(target=count, args=each) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found = {}
    shared.update(["site a", "site b", "user"], lambda states, now: found.update(states))
    assert {key: state["count"] for key, state in found.items()} == {"site a": 100, "site b": 100, "user": 200}
    for ledger, _ in work:
        ledger.close()
        ledger.close()


def test_the_clock_is_the_server_s_and_keys_expire(url):
    ledger = ledgers.RedisLedger(url, prefix="mine")
    client = redis.Redis.from_url(url)
    seconds, micros = client.time()
    assert seconds + micros / 1e6 <= ledger.update(["user x"], add_one) <= seconds + 60
    assert client.keys() == [b"{mine}:user x"]
    assert 86_400 < client.ttl("{mine}:user x") <= 2 * 86_400
    ledger.close()
    client.close()


def test_a_client_of_the_user_s_own_serves_as_well(url):
    client = redis.Redis.from_url(url, decode_responses=True)
    ledger = ledgers.RedisLedger(client)
    ledger.update(["user"], add_one)
    assert ledger.update(["user"], lambda states, now: states["user"]["count"]) == 1
    ledger.close()


def test_what_is_no_budget_is_told_with_how_to_mend_it(url):
    client = redis.Redis.from_url(url)
    client.set("{gscthreads}:user", "no JSON")
    ledger = ledgers.RedisLedger(url)
    with pytest.raises(StoreError, match=r"delete \{gscthreads\}:\*"):
        ledger.update(["user"], add_one)
    client.delete("{gscthreads}:user")
    client.lpush("{gscthreads}:user", 1)
    ledger.update(["other"], add_one)
    client.close()
    ledger.close()


def test_a_server_that_was_never_there_is_an_error_at_once():
    with pytest.raises(StoreError, match="can't be used") as caught:
        ledgers.RedisLedger("unix:///nowhere/redis.sock").update(["user"], add_one)
    assert not isinstance(caught.value, StoreLocked)


def test_a_server_that_goes_away_is_waited_for_and_given_up_after_minutes(server, url, monkeypatch):
    ledger = ledgers.RedisLedger(url)
    ledger.update(["user"], add_one)
    server.stop()
    try:
        with pytest.raises(StoreLocked):
            ledger.update(["user"], add_one)
        monkeypatch.setattr(ledgers, "_PATIENCE", -1.0)
        with pytest.raises(StoreLost):
            ledger.update(["user"], add_one)
    finally:
        server.start()
    ledger.update(["user"], add_one)
    ledger.close()


def test_two_quotas_draw_on_one_budget(url):
    class Impatient(Halt):
        waits = []

        def wait(self, seconds):
            self.waits.append(seconds)
            return self.set("enough")

    def quota(halt):
        return Quota(site_budget=20, user_budget=8, project_budget=100, burst=2, halt=halt,
                     account=Account("me", "mine"), ledger=ledgers.RedisLedger(url))

    first, second = quota(Halt()), quota(Impatient())
    assert first.acquire(SITE, 2).calls == 2
    assert second.acquire("https://other.test/", 2) is None  # the user's six calls a minute above a burst of two
    assert 15.0 < Impatient.waits[0] <= 20.0
    first.close()
    second.close()


def test_a_halt_is_prompt_while_redis_hangs(server, url, tmp_path):
    with Simulator(sites=[Site(SITE, rows_per_day=5)]) as sim:
        end = pacific.today() - dt.timedelta(days=20)
        config = gscthreads.SyncConfig(
            sites=[SITE], store=f"sqlite:///{tmp_path / 'search.db'}", credentials=sim.credentials(), api_root=sim.url,
            start=end - dt.timedelta(days=99), end=end, batch_size=2, qpm_limit=400,
            ledger=ledgers.RedisLedger(url),
        )
        run = gscthreads.Sync(config).start()
        while run.snapshot().days < 2:
            threading.Event().wait(0.01)
        server.freeze()
        try:
            while not run._quota._turn.locked():  # somebody waits for an answer
                threading.Event().wait(0.01)
            before = sim.stats()["calls"]
            began = time.monotonic()
            run.halt("enough")
            result = run.wait(timeout=30)
            assert time.monotonic() - began < 2.0  # a second, on a machine that is not busy
            assert result.status == "halted"
            assert sim.stats()["calls"] <= before + 6  # those granted before
        finally:
            server.thaw()
        again = gscthreads.Sync(config)  # the same ledger serves another run
        again.start()
        while not again.snapshot().calls:
            threading.Event().wait(0.01)
        again.halt()
        again.wait(timeout=30)


def test_only_ledgers_of_this_package_are_taken():
    with pytest.raises(ConfigError, match="ledger must be a QuotaLedger"):
        gscthreads.SyncConfig(sites=[SITE], store="sqlite:///x.db", credentials={}, ledger=object())
