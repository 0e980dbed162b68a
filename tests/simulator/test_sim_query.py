"""searchAnalytics.query: what is answered, in which order, and what is refused (gsc-api.md 2)."""

import datetime as dt

import pytest
from gscwire import DAY, SITE, as_tuples, query_path

from gscthreads.simulator import Site


@pytest.mark.parametrize("dimensions", [
    [], ["date"], ["page"], ["query"], ["page", "query"], ["query", "page"], ["country"], ["device", "country"],
    ["date", "query", "page", "country", "device"], ["searchAppearance"], ["page", "date"],
])
@pytest.mark.parametrize("nasty", [False, True])
def test_paging_gives_the_truth(start, dimensions, nasty):
    sim, client = start(Site(SITE, rows_per_day=400, pages=60, nasty=nasty))
    rows = client.pages(97, dimensions=dimensions)
    assert rows == [tuple(row) for row in sim.truth(SITE, dimensions, "web", DAY)]
    assert rows and len({row[0] for row in rows}) == len(rows)
    assert [row[1] for row in rows] == sorted((row[1] for row in rows), reverse=True)
    for _, clicks, impressions, ctr, position in rows:
        assert 0 <= clicks <= impressions and impressions >= 1
        assert ctr == clicks / impressions and 1 <= position <= 100


def test_rows_per_day_counts_page_query_rows(start):
    _, client = start(Site(SITE, rows_per_day=lambda date: date.day * 10, pages=7))
    assert len(client.pages(1_000, dimensions=["page", "query"])) == 100
    assert len(client.pages(1_000, dimensions=["query", "page"], startDate="2026-11-04", endDate="2026-11-04")) == 40


def test_every_grouping_adds_up_to_the_same_totals(start):
    sim, _ = start()

    def totals(dimensions, **more):
        rows = sim.truth(SITE, dimensions, "web", DAY, **more)
        return sum(row.clicks for row in rows), sum(row.impressions for row in rows)

    assert totals([]) == totals(["date"]) == totals(["country"]) == totals(["device", "country"])
    assert totals(["page"]) == totals(["page", "device"]) == totals([], aggregationType="byPage")
    assert totals(["page", "query"]) == totals(["page", "query", "country", "device"])
    # Anonymous searches are in no row with a query; by property a result set counts once, not once per URL.
    assert totals(["page", "query"]) < totals(["page"])
    assert totals([])[0] == totals(["page"])[0] and totals([])[1] < totals(["page"])[1]


def test_position_is_weighted_by_impressions(start):
    sim, _ = start()
    sim.put_day(SITE, "web", DAY, [("https://example.com/", "a", "usa", "MOBILE", 0, 1, 1.5),
                                   ("https://example.com/", "b", "usa", "MOBILE", 3, 3, 7.25)])
    assert sim.truth(SITE, ["page"], "web", DAY) == [(("https://example.com/",), 3, 4, 0.75, (1.5 + 3 * 7.25) / 4)]


def test_the_seed_decides(start):
    one, _ = start()
    two, _ = start()
    other, _ = start(seed=8)
    ask = (SITE, ["page", "query"], "web", DAY)
    assert one.truth(*ask) == two.truth(*ask) != other.truth(*ask)
    assert one.truth(*ask) != one.truth(SITE, ["page", "query"], "web", "2026-11-09")


def test_distinct_days_repeat(start):
    sim, client = start(distinct_days=3)
    days = [client.rows(dimensions=["page", "query"], startDate=day, endDate=day)
            for day in ("2026-11-07", "2026-11-10", "2026-11-11")]
    assert days[0] == days[1] != days[2]
    assert client.rows(dimensions=["date"], startDate="2026-11-07", endDate="2026-11-07")[0][0] == ("2026-11-07",)


def test_caps_cut_the_tail(start):
    sim, client = start(Site(SITE, rows_per_day=900, pages=30), cap=500, query_only_cap=50)
    assert len(client.pages(200, dimensions=["page", "query"])) == 500
    assert len(client.pages(200, dimensions=["query"])) == 50
    assert len(client.pages(200, dimensions=["query"], aggregationType="byPage")) > 50
    sim.options.update({"query_only_cap": None})
    assert len(client.pages(200, dimensions=["query"])) > 50
    assert client.query(dimensions=["page", "query"], startRow=500).json == {"responseAggregationType": "byPage"}


def test_put_day_serves_exactly_what_was_put(start):
    sim, client = start()
    strings = ["tab\t", "new\nline", "cr\r", 'quo"te', "back\\slash", "emoji \U0001f600", "\u202ertl \u05d0",
               "A", "a", "%C3%A9", "%c3%a9", "caf\u00e9", "cafe\u0301", "x" * 2_000, "\u2028", "<b>&'", "\x01\x7f", " "]
    rows = [(f"https://example.com/{text}", text, "usa", "MOBILE", 1, 3, 1 + 1 / 3) for text in strings]
    sim.put_day(SITE, "web", DAY, rows)
    served = client.rows(dimensions=["page", "query", "country", "device"])
    assert served == [(row[:4], 1, 3, 1 / 3, 1 + 1 / 3) for row in rows]
    sim.put_day(SITE, "web", DAY, [])
    assert client.rows(dimensions=["page"]) == []


def test_ranges_sum_days_and_dates_come_in_order(start):
    sim, client = start()
    days = [f"2026-11-{number:02}" for number in range(3, 8)]
    rows = client.rows(dimensions=["date"], startDate=days[0], endDate=days[-1])
    assert [row[0][0] for row in rows] == days
    total = client.rows(startDate=days[0], endDate=days[-1])[0]
    assert total[1:3] == (sum(row[1] for row in rows), sum(row[2] for row in rows))
    assert total[0] == ()
    by_page = client.rows(dimensions=["page"], startDate=days[0], endDate=days[-1])
    each = [sim.truth(SITE, ["page"], "web", day) for day in days]
    assert sum(row[1] for row in by_page) == sum(row.clicks for rows in each for row in rows)


def test_out_of_range_dates_are_clamped(start):
    _, client = start(Site(SITE, rows_per_day=20, pages=5, first_day=dt.date(2026, 11, 3)))
    rows = client.rows(dimensions=["date"], startDate="2001-01-01", endDate="2039-01-01")
    assert [row[0][0] for row in rows][::15] == ["2026-11-03", "2026-11-18"]
    _, client = start(Site(SITE, rows_per_day=20, pages=5))
    first = client.rows(dimensions=["date"], startDate="2025-07-15", endDate="2025-07-25")[0][0]
    assert first == ("2025-07-20",)


def test_unsettled_days_are_empty_when_final_and_grow_when_all(start):
    sim, client = start()
    ask = {"startDate": "2026-11-17", "endDate": "2026-11-20", "dimensions": ["date"]}
    assert [row[0][0] for row in client.rows(**ask)] == ["2026-11-17", "2026-11-18"]
    reply = client.query(**ask, dataState="ALL").json
    assert reply["metadata"] == {"firstIncompleteDate": "2026-11-19"} and len(reply["rows"]) == 4
    early = reply["rows"][2]["impressions"]
    sim.clock.set(dt.datetime(2026, 11, 20, 20))
    assert client.query(**ask, dataState="all").json["rows"][2]["impressions"] > early
    sim.options.update({"snake_metadata": True})
    assert client.query(**ask, dataState="all").json["metadata"] == {"first_incomplete_date": "2026-11-19"}
    assert "metadata" not in client.query(**{**ask, "endDate": "2026-11-18"}, dataState="all").json
    assert "metadata" not in client.query(**{**ask, "dimensions": []}, dataState="all").json
    sim.clock.set(dt.date(2026, 11, 21))
    assert [row[0][0] for row in client.rows(**ask)][-1] == "2026-11-19"


@pytest.mark.parametrize("day, hours, offsets", [
    ("2026-11-01", 25, {"-07:00", "-08:00"}), ("2026-03-08", 23, {"-08:00", "-07:00"}), ("2026-07-04", 24, {"-07:00"})])
def test_hours(start, day, hours, offsets):
    sim, client = start(now=dt.datetime.fromisoformat(day) + dt.timedelta(days=2))
    ask = {"startDate": day, "endDate": day, "dimensions": ["hour"], "dataState": "HOURLY_ALL"}
    rows = client.rows(**ask)
    assert len(rows) == hours and {row[0][0][-6:] for row in rows} == offsets
    assert len({row[0] for row in rows}) == hours
    total = client.rows(startDate=day, endDate=day)[0]
    assert sum(row[2] for row in rows) == total[2]
    sim.clock.set(dt.datetime.fromisoformat(day) + dt.timedelta(hours=13))
    reply = client.query(**ask).json
    assert len(reply["rows"]) < hours
    assert reply["metadata"]["firstIncompleteHour"].startswith(f"{day}T10:00:00")


def test_filters(start):
    sim, client = start(Site(SITE, rows_per_day=300, pages=40))
    rows = client.pages(1_000, dimensions=["page", "query"])
    page = rows[3][0][0]

    def filtered(dimension, operator, expression, dimensions=("page", "query")):
        group = {"filters": [{"dimension": dimension, "operator": operator, "expression": expression}]}
        return client.rows(dimensions=list(dimensions), dimensionFilterGroups=[group], rowLimit=1_000)

    assert filtered("page", "equals", page) == [row for row in rows if row[0][0] == page]
    assert filtered("page", "EQUALS", page.upper()) == []
    assert filtered("page", "notEquals", page) == [row for row in rows if row[0][0] != page]
    assert filtered("query", "contains", "BEST") == [row for row in rows if "best" in row[0][1]]
    assert filtered("query", "notContains", "best") == [row for row in rows if "best" not in row[0][1]]
    assert filtered("query", "includingRegex", "^(best|cheap) ") == [
        row for row in rows if row[0][1].startswith(("best ", "cheap "))]
    assert len(filtered("query", "EXCLUDING_REGEX", "^(best|cheap) ")) + len(
        filtered("query", "including_regex", "^(best|cheap) ")) == len(rows)
    places = client.rows(dimensions=["country"])
    assert filtered("country", "equals", "USA", ["country"]) == [row for row in places if row[0] == ("usa",)]
    # Filtering by query drops the anonymous searches even where it isn't grouped by.
    assert filtered("query", "notEquals", "?", [])[0][1] < client.rows()[0][1]


@pytest.mark.parametrize("search_type", ["discover", "googleNews", "GOOGLE_NEWS"])
def test_feeds_have_no_position(start, search_type):
    sim, client = start()
    reply = client.query(dimensions=["page"], type=search_type).json
    assert reply["responseAggregationType"] == "byPage"
    assert reply["rows"] and not any("position" in row for row in reply["rows"])
    assert as_tuples(reply["rows"]) == [tuple(row) for row in sim.truth(SITE, ["page"], search_type, DAY)]


def test_spellings_and_defaults(start):
    _, client = start(Site(SITE, rows_per_day=1_200, pages=20))
    assert len(client.rows(dimensions=["page", "query"])) == 1_000
    assert client.rows(dimensions=["PAGE"], type="WEB", dataState="FINAL", aggregationType="BY_PAGE") == client.rows(
        dimensions=["page"], searchType="web", aggregationType="auto")
    assert client.query(dimensions=["query"]).json["responseAggregationType"] == "byProperty"
    empty = client.query(startRow=5, dimensions=["page"], startDate="2001-01-01", endDate="2001-01-01")
    assert (empty.status, empty.json) == (200, {"responseAggregationType": "byPage"})


DISCOVER_QUERY = "Request for DISCOVER cannot be grouped by query"
BY_PROPERTY = "'BY_PROPERTY' is not a valid aggregation type in the context of the request."
PAGE_FILTER = [{"filters": [{"dimension": "page", "expression": "x"}]}]


@pytest.mark.parametrize("body, message", [
    ({"dimensions": ["page", "PAGE"]}, "Duplicate dimensions are not allowed."),
    ({"dimensions": ["searchAppearance", "page"]},
     "Cannot group by search appearance dimension together with another dimension"),
    ({"dimensions": ["date", "hour"], "dataState": "hourly_all"}, "Request cannot be grouped by both date and hour"),
    ({"dimensions": ["hour"]}, "Grouping by HOUR requires setting dataState=HOURLY_ALL"),
    ({"dataState": "hourly_all"}, None),
    ({"dimensions": ["device"], "type": "discover"}, "Requests for Discover cannot be grouped by device"),
    ({"dimensions": ["query"], "type": "discover"}, DISCOVER_QUERY),
    ({"dimensions": ["page"], "aggregationType": "byProperty"}, BY_PROPERTY),
    ({"dimensionFilterGroups": PAGE_FILTER, "aggregationType": "byProperty"}, BY_PROPERTY),
    ({"type": "discover", "aggregationType": "byProperty"}, BY_PROPERTY),
    ({"aggregationType": "byNewsShowcasePanel"}, None),
    ({"startDate": "2026-11-11"}, None), ({"rowLimit": 0}, None), ({"rowLimit": 25_001}, None),
    ({"startRow": -1}, None),
    ({"startDate": None}, None), ({"startDate": "2026-13-01"}, None), ({"endDate": "10.11.2026"}, None),
    ({"dimensionFilterGroups": [{"filters": [{"dimension": "date", "expression": DAY}]}]}, None),
    ({"dimensionFilterGroups": [{"filters": [{"dimension": "query", "expression": "x" * 4_097}]}]}, None),
    ({"dimensionFilterGroups": [{"filters": [{"dimension": "query", "operator": "includingRegex",
                                              "expression": "("}]}]}, None),
])
def test_bad_combinations(start, body, message):
    _, client = start()
    reply = client.query(**body)
    error = reply.error
    assert reply.status == error["code"] == 400 and "status" not in error
    detail = error["errors"][0]
    assert detail["message"] == error["message"]
    assert (detail["domain"], detail["reason"]) == ("global", "invalidParameter")
    assert detail["locationType"] == "parameter" and detail["location"]
    if message:
        assert error["message"] == message


@pytest.mark.parametrize("body, message", [
    ({"type": "X"}, "Invalid value at 'type' (type.googleapis.com/google.searchconsole.v1.searchanalytics.SearchType),"
                    ' "X"'),
    ({"dimensions": ["colour"]}, None), ({"dataState": "some"}, None), ({"aggregationType": 3}, None),
    ({"rowLimit": "many"}, None), ({"rowLimit": True}, None), ({"colour": "red"}, None),
    ({"dimensionFilterGroups": [{"groupType": "or", "filters": []}]}, None), ({"dimensionFilterGroups": "x"}, None),
])
def test_bodies_that_are_no_request_message(start, body, message):
    _, client = start()
    error = client.query(**body).error
    assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT") and "errors" not in error
    assert message is None or error["message"] == message


@pytest.mark.parametrize("body", ["{", "[]", "nonsense", '"x"'])
def test_bodies_that_are_no_json_object(start, body):
    _, client = start()
    assert client.send("POST", query_path(), body).error["status"] == "INVALID_ARGUMENT"


def test_number_and_text_styles(start):
    sim, client = start()
    sim.put_day(SITE, "web", DAY, [("https://example.com/<b>", "q", "usa", "MOBILE", 2, 2, 3.0)])
    ask = {"dimensions": ["page"], "path": "?prettyPrint=false"}
    assert client.query(**ask).body == (
        b'{"rows":[{"keys":["https://example.com/\\u003cb\\u003e"],"clicks":2,"impressions":2,"ctr":1,"position":3}],'
        b'"responseAggregationType":"byPage"}')
    assert client.query(dimensions=["page"]).body.startswith(b'{\n  "rows": [\n    {\n      "keys": [\n        "https')
    sim.options.update({"int_style": "12.0"})
    assert b'"clicks":2.0,"impressions":2.0,"ctr":1.0,"position":3.0' in client.query(**ask).body


def test_partial_answers(start):
    _, client = start()
    reply = client.query(path="?fields=rows(keys,clicks)", dimensions=["page"]).json
    assert set(reply) == {"rows"} and set(reply["rows"][0]) == {"keys", "clicks"}
    assert client.query(path="?fields=rows(keys", dimensions=["page"]).status == 400


def test_shuffled_ties_keep_the_set_of_rows(start):
    sim, client = start(shuffle_ties=True)
    ask = {"dimensions": ["page", "query"], "rowLimit": 1_000}
    one, two, truth = client.rows(**ask), client.rows(**ask), sim.truth(SITE, ["page", "query"], "web", DAY)
    assert one != two and sorted(one) == sorted(two) == sorted(map(tuple, truth))
    assert [row[1] for row in one] == [row[1] for row in two]
    sim.options.update({"shuffle_ties": "slice"})
    paged = client.pages(50, dimensions=["page", "query"])
    assert paged != one and sorted(paged) == sorted(one)


def test_boundary_duplicates(start):
    sim, client = start(boundary_duplicates=True)
    truth = [tuple(row) for row in sim.truth(SITE, ["page", "query"], "web", DAY)]
    ask = {"dimensions": ["page", "query"], "rowLimit": 100}
    assert client.rows(**ask) == truth[:100]
    assert client.rows(**ask, startRow=100) == truth[99:200]
    assert client.rows(**ask, startRow=300) == []
