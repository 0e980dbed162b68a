"""Quotas: exact counts, moving windows, and the refusals that go with them (gsc-api.md 3, 5)."""

import pytest
from gscwire import SITE

from gscthreads.simulator import Site
from gscthreads.simulator.errors import Refusal
from gscthreads.simulator.options import Options
from gscthreads.simulator.quota import Charge, Quota, Window, load_of

LEARN = "Learn about usage limits: https://developers.google.com/webmaster-tools/v3/limits."


class Time:
    now = 1_000.0

    def __call__(self):
        return self.now


def charge(quota, site="s", user="u", load=1.0):
    """The refusal's kind, or None."""
    try:
        quota.charge(Charge(site, user, load))
    except Refusal as refusal:
        return refusal.kind
    return None


def test_the_window_moves():
    time = Time()
    quota = Quota(Options(site_qpm=3), time)
    assert [charge(quota) for _ in range(4)] == [None, None, None, "site_quota"]
    time.now += 59.9
    assert charge(quota) == "site_quota"
    time.now += 0.2  # the first three have left, two refused ones remain: the later of them is young
    assert [charge(quota) for _ in range(3)] == [None, None, "site_quota"]
    assert charge(quota, "other") is None


def test_refused_calls_need_not_count():
    time = Time()
    quota = Quota(Options(site_qpm=2, refused_calls_count=False), time)
    assert [charge(quota) for _ in range(5)] == [None, None] + ["site_quota"] * 3
    time.now += 60.1
    assert [charge(quota) for _ in range(3)] == [None, None, "site_quota"]
    assert quota.highest()["site"] == {"s": 5}


def test_the_highest_count_of_any_minute():
    time = Time()
    quota = Quota(Options(), time)
    for step in (0, 10, 20, 45, 61, 1, 100):
        time.now += step
        charge(quota)
    assert quota.highest() == {"site": {"s": 3}, "user": {"u": 3}, "project": {"": 3}}


@pytest.mark.parametrize("limits, calls, kinds", [
    ({"user_qpm": 2}, [("a", "u"), ("b", "u"), ("c", "u"), ("c", "v")], [None, None, "user_quota", None]),
    ({"project_qpm": 2}, [("a", "u"), ("b", "v"), ("c", "w")], [None, None, "project_quota"]),
    ({"cloud_qpm": 1}, [("a", "u"), ("b", "v")], [None, "cloud_quota"]),
    ({"burst_qps": 2}, [("a", "u")] * 3 + [("b", "u")], [None, None, "burst", None]),
    ({"quota": False, "site_qpm": 1}, [("a", "u")] * 3, [None] * 3),
    ({"site_qpm": None, "user_qpm": None}, [("a", "u")] * 1_300, [None] * 1_300),
])
def test_limits(limits, calls, kinds):
    quota = Quota(Options(**limits), Time())
    assert [charge(quota, *call) for call in calls] == kinds


def test_load_buckets():
    time = Time()
    quota = Quota(Options(load_10min=100, load_day=150), time)
    assert [charge(quota, load=60) for _ in range(2)] == [None, "load_10min"]
    time.now += 601
    assert [charge(quota, load=60) for _ in range(2)] == [None, "load_10min"]
    time.now += 601
    assert charge(quota, load=60) == "load_day"
    time.now += 86_400
    assert charge(quota, load=60) is None
    assert (load_of(3, ["date"]), load_of(1, ["page"]), load_of(2, ["page", "query", "page"])) == (3, 10, 60)


def test_window_sums():
    window = Window(10)
    for moment in range(20):
        window.add(moment, 2)
    assert window.level(19) == 20 and window.level(28.5) == 2 and window.level(99) == 0
    assert window.highest == 20


@pytest.mark.parametrize("options, status, text", [
    ({"site_qpm": 1}, 403, f"Search Analytics QPS quota exceeded. {LEARN}"),
    ({"burst_qps": 1}, 403, f"Search Analytics QPS quota exceeded. {LEARN}"),
    ({"load_day": 1}, 403, f"Search Analytics load quota exceeded. {LEARN}"),
])
def test_refusals_on_the_wire(start, options, status, text):
    sim, client = start(**options)
    replies = [client.query(), client.query()]
    assert [reply.status for reply in replies] == [200, status]
    error = replies[1].error
    assert error["message"] == text
    assert error["errors"] == [{"message": text, "domain": "usageLimits", "reason": "quotaExceeded"}]
    assert [entry.rows for entry in sim.log] == [1, 0] and sim.log[1].refusal in sim.stats()["refusals"]
    assert "retry-after" not in replies[1].headers


def test_cloud_quota_and_retry_after(start):
    _, client = start(Site(SITE, rows_per_day=10), cloud_qpm=0, retry_after=30)
    reply = client.query()
    assert (reply.status, reply.error["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert "Queries per minute" in reply.error["message"]
    assert reply.headers["retry-after"] == "30"


@pytest.mark.parametrize("value", ["Wed, 21 Oct 2015 07:28:00 GMT", "soon", "", "-1", "9" * 30, 0])
def test_retry_after_may_be_any_text(start, value):
    sim, client = start(Site(SITE, rows_per_day=10), retry_after=value)
    for name in ("qps_403", "http_503"):
        sim.faults.script(name)
        assert client.query().headers["retry-after"] == str(value)
    sim.faults.script("http_500")
    assert "retry-after" not in client.query().headers


@pytest.mark.parametrize("values", [{"lanes": 0}, {"colour": 1}, {"int_style": "1"}, {"quota": "yes"}, {"latency": "1"},
                                    {"site_qpm": -1}, {"shuffle_ties": "all"}, {"cap": None}, {"seed": 1.5},
                                    {"retry_after": "a\r\nb"}, {"retry_after": 1.5}, {"retry_after": "\u0663"},
                                    {"seed": 1}])
def test_options_are_checked(values):
    options = Options()
    with pytest.raises(ValueError):
        options.update({"freshness": 5, **values})
    assert options == Options()
