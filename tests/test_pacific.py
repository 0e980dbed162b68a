"""The Pacific calendar against the system's zone data, and what people write for dates."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gscthreads import pacific
from gscthreads.errors import ConfigError

TODAY = dt.date(2026, 3, 31)
UTC = dt.timezone.utc


def test_every_hour_of_thirty_years_agrees_with_the_zone_data():
    zoneinfo = pytest.importorskip("zoneinfo")
    try:
        zone = zoneinfo.ZoneInfo("America/Los_Angeles")
    except zoneinfo.ZoneInfoNotFoundError:
        pytest.skip("no zone data on this machine")
    moment = dt.datetime(2007, 1, 1)
    while moment.year < 2038:
        local = moment.replace(tzinfo=UTC).astimezone(zone)
        assert pacific.pacific_offset(moment) == local.utcoffset(), moment
        moment += dt.timedelta(hours=1 if moment.month in (3, 11) else 24)


@pytest.mark.parametrize(
    "moment, date, midnight",
    [
        ("2026-01-15T07:59:59", "2026-01-14", "2026-01-15T08:00:00"),
        ("2026-01-15T08:00:00", "2026-01-15", "2026-01-16T08:00:00"),
        ("2026-03-08T09:00:00", "2026-03-08", "2026-03-09T07:00:00"),  # the clocks go forward this day
        ("2026-11-01T08:00:00", "2026-11-01", "2026-11-02T08:00:00"),  # and back
        ("2026-07-01T06:59:59", "2026-06-30", "2026-07-01T07:00:00"),
    ],
)
def test_today_and_next_midnight(moment, date, midnight):
    seconds = dt.datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()
    assert pacific.today(seconds).isoformat() == date
    assert pacific.next_midnight(seconds) == dt.datetime.fromisoformat(midnight).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "text, expected",
    [("2026-01-31", "2026-01-31"), ("today", "2026-03-31"), ("Yesterday", "2026-03-30"), ("-30d", "2026-03-01"),
     ("1m", "2026-02-28"), ("16m", "2024-11-30"), ("-16m", "2024-11-30"), ("13m", "2025-02-28"), ("-0d", "2026-03-31")],
)
def test_dates_as_people_write_them(text, expected):
    assert pacific.parse_day(text, TODAY).isoformat() == expected


@given(st.one_of(st.text(max_size=12), st.sampled_from(
    ["2026-1-1", "20260101", "2026-02-30", "0000-01-01", "9999m", "-9999999d", "٢٠٢٦-٠١-٠١", "30", "", "2026-W01-1"])))
def test_anything_else_is_refused_with_what_is_allowed(text):
    try:
        assert isinstance(pacific.parse_day(text, TODAY), dt.date)
    except ConfigError as error:
        assert repr(text) in str(error) and "YYYY-MM-DD" in str(error)


@given(st.dates(dt.date(1000, 1, 1), dt.date(9000, 1, 1)))
def test_iso_dates_come_back(date):
    assert pacific.parse_day(date.isoformat(), TODAY) == date


@pytest.mark.parametrize(
    "age, rows, first_incomplete, final",
    [(2, 5, None, False), (3, 5, None, True), (3, 0, None, False), (9, 0, None, False), (10, 0, None, True),
     (30, 5, 30, False), (30, 5, 29, True), (30, 5, 31, False)],
)
def test_when_a_day_is_final(age, rows, first_incomplete, final):
    incomplete = None if first_incomplete is None else TODAY - dt.timedelta(days=first_incomplete)
    assert final is pacific.is_final(
        TODAY - dt.timedelta(days=age), rows, TODAY, final_after_days=3, empty_final_after_days=10,
        first_incomplete=incomplete,
    )


def test_retention_and_ranges():
    assert pacific.oldest_day(dt.date(2026, 11, 23)) == dt.date(2025, 7, 23)
    assert pacific.days_between(TODAY, TODAY) == [TODAY]
    assert len(pacific.days_between(dt.date(2024, 2, 1), dt.date(2024, 3, 1))) == 30
