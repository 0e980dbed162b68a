"""Whether a site may be asked now."""

from __future__ import annotations

import pytest

from gscthreads.errors import BadRequest, BurstQuota, Denied, Transient, Unauthorized
from gscthreads.gate import Gate, site_pause


@pytest.mark.parametrize(
    "error, expected",
    [
        (BurstQuota("QPS", status=403, retry_after=30.0), 30.0), (BurstQuota("QPS", status=429, retry_after=9.0), 9.0),
        (BurstQuota("QPS", status=403), 0.0), (BurstQuota("QPS", retry_after=0.0), 0.0),
        (BurstQuota("QPS", retry_after=5.0), 5.0),
        (Transient("down", status=503, retry_after=30.0), 30.0), (Transient("proxy", status=403, retry_after=3.0), 3.0),
        (Transient("busy", status=429, retry_after=4.0), 4.0),
        # One broken answer says nothing about the next request.
        (Transient("x", status=500, retry_after=30.0), 0.0), (Transient("x", retry_after=30.0), 0.0),
        (Transient("x", status=503), 0.0),
        (Denied("no", status=403, retry_after=30.0), 0.0), (BadRequest("no", status=400, retry_after=30.0), 0.0),
        (Unauthorized("no", status=401, retry_after=30.0), 0.0),
    ],
)
def test_what_the_server_asks_for(error, expected):
    assert site_pause(error) == expected


def test_a_gate_is_open_at_first():
    gate = Gate()
    assert (gate.closed, gate.admits(7), gate.admits(0)) == (False, 7, 0)


def test_a_closed_gate_opens_when_told_that_it_is_time_and_is_ajar_then():
    gate = Gate()
    gate.close(10.0)
    gate.wake(9.9)
    assert (gate.closed, gate.until, gate.admits(7)) == (True, 10.0, 0)
    gate.wake(10.0)
    assert (gate.closed, gate.admits(7)) == (False, 1)
    gate.in_flight = 1
    assert gate.admits(7) == 0
    gate.answered()
    assert gate.admits(7) == 7


def test_who_was_told_to_wait_for_longer_does():
    gate = Gate()
    gate.close(30.0)
    gate.close(10.0)
    gate.wake(10.0)
    assert gate.closed and gate.until == 30.0


def test_an_answer_to_what_was_under_way_when_it_closed_proves_nothing():
    gate = Gate()
    gate.close(10.0)
    gate.answered()
    gate.wake(10.0)
    assert gate.admits(7) == 1 and gate.in_vain == 1


def test_it_counts_how_often_it_was_closed_in_vain():
    gate = Gate()
    for number in range(3):
        gate.close(number + 1.0)
        gate.close(number + 1.0)  # the other slices of the batch
        gate.wake(number + 1.0)
    assert gate.in_vain == 3
    gate.answered()
    assert gate.in_vain == 0


def test_care_ends_with_an_answer():
    gate = Gate()
    gate.probe()
    assert gate.admits(7) == 1
    gate.answered()
    assert gate.admits(7) == 7
