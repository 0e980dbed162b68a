"""Runs that once went wrong, or could: each test names what must not happen again."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import sqlite3
import threading

import pytest
import requests

import gscthreads
from gscthreads import client, coordinator, pacific, plan, refusals, rows
from gscthreads.errors import BurstQuota, StoreError, Transient
from gscthreads.halt import Halt
from gscthreads.model import Dataset, Failed, Fetched, Report, Rows, Slice, SliceKey
from gscthreads.outcomes import Outcomes
from gscthreads.quota import Quota
from gscthreads.simulator import Simulator, Site
from gscthreads.stores.base import Acknowledged
from gscthreads.stores.sqlite import SQLiteStore
from gscthreads.worker import Batch, BatchEnded, Worker

SITE = "sc-domain:example.com"
LAST = pacific.today() - dt.timedelta(days=20)
UNLIMITED = {"site_qpm": 10**9, "user_qpm": 10**9, "project_qpm": 10**9}


@pytest.fixture
def sim():
    with Simulator(sites=[Site(SITE, rows_per_day=20)], seed=1, **UNLIMITED) as simulator:
        yield simulator


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "search.db")


def copy(sim, store, count=20, **settings):
    values = {"rate_limit_enabled": False, "backoff_base": 0.01, "backoff_cap": 0.05, "reports": ["page_query"],
              "credentials": sim.credentials(), **settings}
    store = store if not isinstance(store, str) else f"sqlite:///{store}"
    return gscthreads.sync(SITE, start=LAST - dt.timedelta(days=count - 1), end=LAST, store=store, api_root=sim.url,
                           **values)


def statuses(path):
    with contextlib.closing(sqlite3.connect(path)) as database:
        return dict(database.execute("SELECT status, count(*) FROM gsc_days GROUP BY status"))


def test_a_run_that_fails_deletes_neither_what_was_there_nor_what_another_run_uses(sim, path):
    store = SQLiteStore(path)
    other = SQLiteStore(path)
    sim.faults.set("forbidden_403", 1.0)
    store.open()
    other.open()
    store.close(discard=True)  # made by it, but not its own any more
    other.close()
    assert copy(sim, store).status == "failed"
    sim.faults.clear()
    assert copy(sim, store).status == "complete"
    assert statuses(path) == {"final": 20}
    assert copy(sim, store).calls == 0


def test_a_store_that_another_program_does_not_let_go_parks_the_run(sim, path, monkeypatch):
    assert copy(sim, path, 2).status == "complete"
    monkeypatch.setattr("gscthreads.stores.sqlite.PATIENCE", 0.05)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        result = copy(sim, path)
        assert (result.status, result.exit_status, result.calls) == ("parked", 3, 0)
        assert "another program" in result.reason
    assert copy(sim, path).status == "complete"


def test_one_store_object_serves_one_run_at_a_time(path):
    store = SQLiteStore(path)
    store.open()
    with pytest.raises(StoreError, match="in use"):
        store.open()
    store.begin(Halt())
    store.rollback()
    store.close()


def test_a_slice_that_fails_early_in_a_batch_is_not_taken_for_lost_when_the_batch_ends(path):
    with Simulator(sites=[Site(SITE, rows_per_day=20)], seed=1, latency=0.1, lanes=1, **UNLIMITED) as sim:
        script = sim.faults.script("http_500", times=1)
        result = copy(sim, path, 24, max_attempts=2)
        assert script.done
        assert (result.status, result.calls, result.retries) == ("complete", 25, 1)


def test_refusals_without_end_park_the_site(sim, path):
    sim.faults.script("qps_403", times=None, after=10)
    result = copy(sim, path, 30)
    assert (result.status, result.exit_status) == ("parked", 3)
    assert result.days <= 30 - 1
    assert "QPS" in result.reason


@pytest.mark.parametrize("bad", [1, 8])
def test_days_that_always_fail_end_as_failed_and_never_hold_up_the_others(bad, sim, path):
    for number in range(bad):
        sim.faults.script("http_500", times=None, date=LAST - dt.timedelta(days=number))
    result = copy(sim, path, 30, max_attempts=3)
    assert (result.status, result.exit_status, result.days) == ("failed", 1, 30 - bad)
    assert statuses(path)["final"] == 30 - bad


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_slice_that_breaks_whole_batches_is_no_service_that_is_down_however_few_the_attempts(attempts, sim, path):
    """Its neighbours are ready again at the same moment, so that the same batch breaks again."""
    sim.faults.script("reset_headers", times=None, date=LAST)
    result = copy(sim, path, 4, max_attempts=attempts, max_concurrency=1, backoff_base=0.0, backoff_cap=0.0)
    assert (result.status, result.days) == ("failed", 3)
    assert statuses(path) == {"final": 3, "failed": 1}


def test_one_bad_day_gets_exactly_its_attempts(sim, path):
    script = sim.faults.script("http_500", times=None, date=LAST)
    copy(sim, path, 30, max_attempts=4)
    assert script.hits == 4
    assert statuses(path) == {"final": 29, "failed": 1}
    assert copy(sim, path, 30).status == "failed"
    sim.faults.clear()
    assert copy(sim, path, 30).calls == 1  # the failed day is still owed
    assert statuses(path) == {"final": 30}


def test_a_service_that_is_down_is_given_up_with_its_words(path):
    with pytest.raises(gscthreads.ConfigError):
        gscthreads.SyncConfig(sites=[SITE], store="sqlite:///x.db", credentials=str, api_root="http://example.com")
    result = gscthreads.sync(SITE, start=LAST, end=LAST, store=f"sqlite:///{path}", credentials=lambda: "token",
                             api_root="http://127.0.0.1:1", backoff_base=0.01, backoff_cap=0.02)
    assert result.status == "failed"
    assert "can't reach 127.0.0.1:1" in result.reason


def test_a_day_without_end_is_given_up_and_leaves_nothing_staged(sim, path, monkeypatch):
    monkeypatch.setattr(plan, "ROW_LIMIT", 10)
    monkeypatch.setattr(coordinator, "ENDLESS", 50)
    body = client.Client._query_body
    monkeypatch.setattr(  # as from a proxy that ignores startRow: 20 rows a slice, "full" means 10, none is the last
        client.Client, "_query_body", lambda self, wanted: body(self, Slice(wanted[0], SliceKey(wanted.key.date, 0)))
    )
    result = copy(sim, path, 2)
    assert result.status == "failed"
    assert "it can't be right" in result.datasets[0].error
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM gsc_stage").fetchone() == (0,)


def test_start_failing_leaves_nothing_to_wait_for(sim, path, monkeypatch):
    config = gscthreads.SyncConfig(sites=[SITE], store=f"sqlite:///{path}", credentials=sim.credentials(),
                                   api_root=sim.url)
    session = requests.Session()
    session.adapters.clear()
    run = gscthreads.Sync(gscthreads.SyncConfig(sites=[SITE], store=f"sqlite:///{path}", credentials=session,
                                                api_root=sim.url))
    with pytest.raises(requests.RequestException):
        run.start().wait(timeout=20)

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start"):
        with gscthreads.Sync(config) as run:
            run.start()


def test_googles_words_fit_every_log_terminal_and_table():
    body = json.dumps({"error": {"code": 500, "message": "bad \ud800 thing\x1b[31m\nnext"}}).encode()
    found = refusals.classify(500, body, {})
    assert isinstance(found, Transient)
    found.message.encode("utf-8")
    assert found.message.isprintable()


SLICE = Slice(Dataset(SITE, Report("page", ("page",)), "web"), SliceKey(LAST, 0))


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"message": "login required"}',
        b'{"rows": [' + b"{}," * 300_000 + b"{}]}",
        b'{"metadata": [' + b"[]," * 300_000 + b'[]], "responseAggregationType": "byPage"}',
        b'{"rows": [], "responseAggregationType": "byPage", "x": [' + b"1," * 9_000_000 + b"1]}",
    ],
    ids=["empty", "message", "objects", "lists", "numbers"],
)
def test_what_is_not_an_answer_empties_no_day_and_fills_no_memory(body, fast):
    with pytest.raises(Transient):
        rows.make_decoder(fast=fast)(body, SLICE)


def test_a_refusal_with_status_200_counts_as_the_refusal_it_is():
    body = b'{"error": {"code": 403, "message": "Search Analytics QPS quota exceeded.",' \
           b' "errors": [{"domain": "usageLimits", "reason": "quotaExceeded"}]}}'
    for fast in (True, False):
        with pytest.raises(gscthreads.BurstQuota):
            rows.make_decoder(fast=fast)(body, SLICE)


def test_an_unfinished_day_that_google_no_longer_has_stops_nothing(sim, path):
    old = pacific.today() - dt.timedelta(days=30)
    sim.faults.script("http_500", times=None, date=old)
    wanted = dict(start=old, end=old + dt.timedelta(days=3), store=f"sqlite:///{path}", api_root=sim.url,
                  credentials=sim.credentials(), reports=["page"], max_attempts=1)
    assert gscthreads.sync(SITE, **wanted).status == "failed"
    later = old + dt.timedelta(days=490)
    config = gscthreads.SyncConfig(sites=[SITE], **wanted)
    assert gscthreads.Sync(config, today=later).run().status == "complete"


def test_leftovers_of_a_forced_run_go_with_the_next_sync(sim, path):
    copy(sim, path, 3)
    store = SQLiteStore(path)
    store.open()
    store.begin(Halt())
    dataset = Dataset(SITE, Report("page_query", ("page", "query")), "web")
    ack = Acknowledged(25_000, LAST, "final")
    store.stage(dataset, SliceKey(LAST, 0), Rows(25_000, 0, []), ack)
    store.commit()
    store.close()
    assert copy(sim, path, 3).calls == 0
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM gsc_slice").fetchone() == (0,)


def test_a_signal_handler_may_halt_while_the_same_thread_looks_at_the_queue(sim, path):
    config = gscthreads.SyncConfig(sites=[SITE], store=f"sqlite:///{path}", credentials=sim.credentials(),
                                   api_root=sim.url)
    run = gscthreads.Sync(config)
    with run._outcomes._queue.mutex:  # as if interrupted inside put()
        assert run.snapshot().queue_size == 0


def test_the_store_url_stays_out_of_the_configs_repr():
    config = gscthreads.SyncConfig(sites=[SITE], store="sqlite:////s3cret/x.db", credentials={"a": "s3cret"})
    assert "s3cret" not in repr(config)
    assert "s3cret" not in config.settings()


def test_a_server_without_batches_is_asked_by_plain_calls(sim, path, monkeypatch):
    init = client.Client.__init__

    def without_batches(self, **values):
        init(self, **values)
        self._batch_path = "/no/such/path"

    monkeypatch.setattr(client.Client, "__init__", without_batches)
    result = copy(sim, path, 15)
    assert (result.status, result.days) == ("complete", 15)
    assert sim.stats()["batches"] == 0 and sim.stats()["calls"] == 15


def test_sites_are_served_fairly_and_one_account_keeps_one_budget(tmp_path):
    names = [f"sc-domain:site{number}.com" for number in range(6)]
    with Simulator(sites=[Site(name, rows_per_day=5) for name in names], seed=1) as sim:
        result = gscthreads.sync(
            names, start=LAST - dt.timedelta(days=3), end=LAST, store=f"sqlite:///{tmp_path}/search.db",
            credentials=sim.credentials(), api_root=sim.url,
        )
        first = [each.site for each in sim.log][:24]
        assert (result.status, result.days, result.calls) == ("complete", 48, 48)
        assert len(set(first)) >= 3
        assert sim.stats()["token_posts"] == 1
        assert max(sim.stats()["max_60s"]["user"].values()) == 48


def test_a_halt_that_ends_a_run_of_which_a_site_had_failed_is_timed_too(path):
    sites = [SITE, "sc-domain:not-ours.com"]
    with Simulator(sites=[Site(SITE, rows_per_day=20)], seed=1, **UNLIMITED) as sim:
        assert copy(sim, path, 3).status == "complete"
        sim.faults.script("hang", times=None, site=SITE)
        config = gscthreads.SyncConfig(
            sites=sites, store=f"sqlite:///{path}", credentials=sim.credentials(), api_root=sim.url, start=LAST,
            end=LAST, reports=["page"], rate_limit_enabled=False,
        )
        run = gscthreads.Sync(config)
        asked, ask = threading.Event(), run._outcomes.settled
        run._outcomes.settled = lambda outcomes: (ask(outcomes), asked.set() if outcomes else None)
        with run:
            run.start()
            assert asked.wait(30)  # the refusal is known
            run.halt("enough")
            result = run.wait(30)
    assert result.status == "failed" and 0.0 <= result.halt_seconds < 30.0
    with contextlib.closing(sqlite3.connect(path)) as database:
        timed = "SELECT halt_seconds IS NOT NULL FROM gsc_runs ORDER BY run_id"
        assert database.execute(timed).fetchall() == [(0,), (1,)]


def test_a_run_that_nobody_halted_has_no_time_to_halt(sim, path):
    assert copy(sim, path, 3).halt_seconds is None
    sim.faults.set("forbidden_403", 1.0)
    assert (copy(sim, path, 5).status, copy(sim, path, 5).halt_seconds) == ("failed", None)


def test_a_list_of_sites_that_kills_its_worker_is_not_waited_for(sim, path, monkeypatch):
    def die(this):
        raise SystemExit(1)

    monkeypatch.setattr(client.Client, "sites", die)
    sim.faults.set("forbidden_403", 1.0)
    assert copy(sim, path, 2).status == "failed"


@pytest.mark.parametrize("moment", ["before the request goes out", "while the request goes out"])
def test_a_worker_that_dies_with_calls_in_hand_lets_go_of_them(moment):
    dataset, halt = Dataset(SITE, Report("page", ("page",)), "web"), Halt()
    outcomes = Outcomes(10, halt)
    quota = Quota(site_budget=100, user_budget=100, project_budget=100, burst=5, halt=halt)

    class Going:
        def fetch(self, part, deliver, on_request):
            if goes_out:
                on_request()
            raise ZeroDivisionError

    goes_out = moment == "while the request goes out"
    dying = Worker(client=Going(), quota=quota, outcomes=outcomes, halt=halt, on_sent=lambda slices, again: 1 / 0)
    dying.run(Batch(0, [Slice(dataset, SliceKey(LAST, 0))]))
    (ended,) = outcomes.take(0.0, most_rows=1)
    assert isinstance(ended.error, ZeroDivisionError)
    assert not any(quota._open.values())
    assert quota.sent_last_minute() == goes_out  # what was never sent is no call, and uses no budget
    ledger = quota._ledger.update([], lambda states, now: dict(states))
    assert ledger and all(bool(state["leaving"]) == goes_out for state in ledger.values())


@pytest.mark.parametrize("moment", ["between parts", "while waiting"])
def test_what_waits_for_its_quota_while_the_site_closes_is_given_back_unsent(moment):
    dataset, halt, sent = Dataset(SITE, Report("page", ("page",)), "web"), Halt(), []
    outcomes, now = Outcomes(10, halt), [0.0]
    slices = [Slice(dataset, SliceKey(LAST - dt.timedelta(days=number), 0)) for number in range(3)]
    refusal = BurstQuota("QPS", status=403, retry_after=30.0)

    class OneByOne(Quota):
        def acquire(self, site, calls):
            if sent and moment == "while waiting":
                worker._closed_until[SITE] = 30.0
            return super().acquire(site, 1)

    class Refusing:
        def fetch(self, part, deliver, on_request):
            on_request()
            sent.extend(part)
            deliver(Failed(part[0], refusal) if moment == "between parts" else Fetched(part[0], Rows(0, 0, [])))

    quota = OneByOne(site_budget=100, user_budget=100, project_budget=100, burst=5, halt=halt)
    worker = Worker(client=Refusing(), quota=quota, outcomes=outcomes, halt=halt, on_sent=lambda slices, again: None,
                    clock=lambda: now[0])
    worker.run(Batch(0, slices))
    assert sent == slices[:1]
    assert outcomes.take(0.0, most_rows=1)[-1].unsent == slices[1:]
    assert quota.sent_last_minute() == 1 and not any(quota._open.values())
    worker.run(Batch(1, slices[1:]))  # one that was leased before the coordinator knew
    assert outcomes.take(0.0, most_rows=1)[-1] == BatchEnded(Batch(1, slices[1:]), unsent=slices[1:])
    now[0] = 30.0
    sent.clear()
    worker.run(Batch(2, slices[:1]))
    assert sent == slices[:1]
