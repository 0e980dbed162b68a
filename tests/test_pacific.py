"""The Pacific calendar against the system's zone data, and what people write for dates."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gscthreads import pacific
from gscthreads.errors import ConfigError
from tests.properties import examples

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


def test_today_is_that_of_the_clock_unless_a_time_is_given(monkeypatch):
    monkeypatch.setattr(pacific.time, "time", lambda: 1_768_464_000.0)  # 2026-01-15 08:00 UTC
    assert pacific.today() == dt.date(2026, 1, 15)
    assert pacific.today(0.0) == dt.date(1969, 12, 31)


@pytest.mark.parametrize(
    "text, expected",
    [("2026-01-31", "2026-01-31"), ("today", "2026-03-31"), ("Yesterday", "2026-03-30"), ("-30d", "2026-03-01"),
     ("1m", "2026-02-28"), ("16m", "2024-11-30"), ("-16m", "2024-11-30"), ("13m", "2025-02-28"), ("-0d", "2026-03-31")],
)
def test_dates_as_people_write_them(text, expected):
    assert pacific.parse_day(text, TODAY).isoformat() == expected


@examples(100)
@given(st.one_of(st.text(max_size=12), st.sampled_from(
    ["2026-1-1", "20260101", "2026-02-30", "0000-01-01", "9999m", "-9999999d", "٢٠٢٦-٠١-٠١", "30", "", "2026-W01-1"])))
def test_anything_else_is_refused_with_what_is_allowed(text):
    try:
        assert isinstance(pacific.parse_day(text, TODAY), dt.date)
    except ConfigError as error:
        assert repr(text) in str(error) and "YYYY-MM-DD" in str(error)


@examples(100)
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


# -- further


def zone_or_skip():
    zoneinfo = pytest.importorskip("zoneinfo")
    try:
        return zoneinfo.ZoneInfo("America/Los_Angeles")
    except zoneinfo.ZoneInfoNotFoundError:
        pytest.skip("no zone data on this machine")


def test_every_minute_around_the_changes_agrees_with_the_zone_data():
    zone = zone_or_skip()
    changes = 0
    for year in range(2007, 2038):
        for month, number in ((3, 2), (11, 1)):
            moment = dt.datetime.combine(pacific._sunday(year, month, number), dt.time(8, 30))
            offsets = []
            for _ in range(120):
                local = moment.replace(tzinfo=UTC).astimezone(zone)
                assert pacific.pacific_offset(moment) == local.utcoffset(), moment
                offsets.append(local.utcoffset())
                moment += dt.timedelta(minutes=1)
            changes += len(set(offsets)) == 2
    assert changes == 62


def test_today_and_next_midnight_agree_with_the_zone_data_every_hour_around_the_changes():
    zone = zone_or_skip()
    for year in (2007, 2019, 2026, 2027, 2037):
        for month, number in ((3, 2), (11, 1), (1, 1), (12, 4)):
            moment = dt.datetime.combine(pacific._sunday(year, month, number), dt.time(), UTC) - dt.timedelta(days=1)
            for _ in range(96):
                local = moment.astimezone(zone)
                assert pacific.today(moment.timestamp()) == local.date(), moment
                tomorrow = dt.datetime.combine(local.date() + dt.timedelta(days=1), dt.time(), zone)
                assert pacific.next_midnight(moment.timestamp()) == tomorrow.timestamp(), moment
                moment += dt.timedelta(minutes=30)


@examples(100)
@given(st.floats(1.2e9, 2.1e9))
def test_the_next_midnight_is_less_than_25_hours_and_a_second_ahead_and_begins_the_next_day(now):
    midnight = pacific.next_midnight(now)
    assert now < midnight <= now + 25 * 3600
    assert pacific.today(midnight) == pacific.today(now) + dt.timedelta(days=1)
    assert pacific.today(midnight - 1) == pacific.today(now)


def test_aware_and_naive_moments_are_the_same():
    moment, offset = dt.datetime(2026, 7, 1, 12), dt.timedelta(hours=-7)
    assert pacific.pacific_offset(moment) == pacific.pacific_offset(moment.replace(tzinfo=UTC)) == offset


@pytest.mark.parametrize(
    "today, oldest",
    [("2026-11-23", "2025-07-23"), ("2026-03-31", "2024-11-30"), ("2026-06-30", "2025-02-28"),
     ("2025-06-30", "2024-02-29"), ("2025-06-29", "2024-02-29"), ("2026-04-30", "2024-12-30"),
     ("2026-05-01", "2025-01-01"), ("2026-01-01", "2024-09-01")],
)
def test_google_keeps_sixteen_months(today, oldest):
    assert pacific.oldest_day(dt.date.fromisoformat(today)).isoformat() == oldest


@examples(100)
@given(st.dates(dt.date(1900, 1, 1), dt.date(9998, 1, 1)), st.integers(0, 600))
def test_months_before_keep_the_day_of_the_month_or_take_its_last(date, months):
    found = pacific.months_before(date, months)
    assert (date.year * 12 + date.month) - (found.year * 12 + found.month) == months
    assert found.day == date.day or found.day < date.day and (found + dt.timedelta(days=1)).day == 1


@pytest.mark.parametrize(
    "text, expected",
    [(" Today ", "2026-03-31"), ("30d", "2026-03-01"), ("-1D", "2026-03-30"), ("0d", "2026-03-31"),
     ("0m", "2026-03-31"), ("-12M", "2025-03-31"), ("2024-02-29", "2024-02-29"),
     (" 2026-01-01\n", "2026-01-01"), ("9999d", "1998-11-14")],
)
def test_more_dates_as_people_write_them(text, expected):
    assert pacific.parse_day(text, TODAY).isoformat() == expected


@pytest.mark.parametrize(
    "text", ["", " ", "tomorrow", "--30d", "+30d", "30", "d", "-d", "1.5d", "30 d", "99999d", "99999m", "9999m99",
             "30w", "2026-1-1", "20260101", "2026-02-30", "2025-02-29", "2026-13-01", "0000-01-01", "2026-01-01T00:00",
             "01-01-2026", "2026/01/01", "2026-W01-1", "\u0662\u0660\u0662\u0666-\u0660\u0661-\u0660\u0661",
             "\u0663\u0660d", "2026-01-01\x00", "None"],
)
def test_garbage_is_named_with_what_is_allowed(text):
    with pytest.raises(ConfigError) as caught:
        pacific.parse_day(text, TODAY)
    assert repr(text) in str(caught.value) and "YYYY-MM-DD" in str(caught.value)


@pytest.mark.parametrize("rows", [0, 1, 25_000])
@pytest.mark.parametrize("final_after, empty_after", [(0, 0), (3, 10), (10, 3)])
def test_final_is_a_matter_of_age_alone_unless_google_says_incomplete(rows, final_after, empty_after):
    limits = {"final_after_days": final_after, "empty_final_after_days": empty_after}
    for age in range(-1, 20):
        date = TODAY - dt.timedelta(days=age)
        expected = age >= (final_after if rows else empty_after)
        assert pacific.is_final(date, rows, TODAY, **limits) is expected
        assert pacific.is_final(date, rows, TODAY, first_incomplete=date, **limits) is False
        assert pacific.is_final(date, rows, TODAY, first_incomplete=date - dt.timedelta(days=1), **limits) is False
        assert pacific.is_final(date, rows, TODAY, first_incomplete=date + dt.timedelta(days=1), **limits) is expected


def test_days_between_are_in_order_with_both_ends():
    days = pacific.days_between(dt.date(2026, 2, 27), dt.date(2026, 3, 2))
    assert [str(day) for day in days] == ["2026-02-27", "2026-02-28", "2026-03-01", "2026-03-02"]
    assert pacific.days_between(dt.date(2026, 3, 2), dt.date(2026, 3, 1)) == []
