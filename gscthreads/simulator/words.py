"""Page addresses and search queries that look like a real site's, and nasty ones that hurt careless code."""

from __future__ import annotations

from typing import List

SECTIONS = ("blog", "guides", "docs", "products", "news", "help", "reviews", "compare")

TOPICS = (
    "running shoes", "sourdough bread", "mountain bikes", "standing desks", "coffee grinders", "solar panels",
    "house plants", "rain jackets", "sleeping bags", "mechanical keyboards", "robot vacuums", "electric kettles",
    "camping stoves", "yoga mats", "noise cancelling headphones", "air fryers", "hiking boots", "bamboo flooring",
    "compost bins", "water filters", "road bikes", "travel backpacks", "kitchen knives", "guitar pedals",
    "heat pumps", "garden sheds", "fishing rods", "wool blankets", "rice cookers", "trail cameras",
)

PAGE_FORMS = (
    "how-to-choose-{}", "best-{}", "{}-for-beginners", "{}-buying-guide", "how-to-clean-{}", "{}-vs-the-rest",
    "cheap-{}", "{}-size-chart", "{}-explained", "why-{}-fail", "{}-checklist", "{}-prices",
)

QUERY_STARTS = (
    "", "best ", "cheap ", "how to choose ", "how to clean ", "what are ", "used ", "buy ", "top 10 ", "diy ",
    "are ", "lightweight ", "waterproof ", "small ", "large ", "vintage ", "quiet ", "organic ", "repair ", "rent ",
)

QUERY_ENDS = (
    "", " near me", " review", " reddit", " for beginners", " vs", " price", " sale", " guide", " uk", " for women",
    " for men", " for kids", " size chart", " warranty", " under 100", " problems", " alternatives", " comparison",
    " 2026", " how long do they last", " worth it", " tips", " accessories", " brands",
)

#: Twenty-five, like QUERY_ENDS: topic_queries counts on it.
QUERY_MIDDLES = (
    "", "trail ", "budget ", "italian ", "heavy duty ", "folding ", "black ", "premium ", "portable ", "handmade ",
    "nordic ", "second hand ", "wide ", "winter ", "summer ", "mini ", "smart ", "japanese ", "classic ",
    "eco friendly ", "fast ", "long lasting ", "soft ", "custom ", "professional ",
)

#: Pieces that break naive quoting, COPY formats, case folding, normalisation and width assumptions.
#: Every one is paired with a number where it is used, so that the result stays unique.
NASTY_TEXTS = (
    "tab\there", "line\nbreak", "cr\rlf\r\n", 'double "quotes"', "it's o'clock", "back\\slash\\n", "\\N", "\\.",
    "emoji \U0001f6b2\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u0634\u0631\u0627\u0621 \u062d\u0630\u0627\u0621",
    "\u202ertl override", "caf\u00e9", "cafe\u0301", "STRASSE stra\u00dfe", "\u0130stanbul", "null", "NULL", "NaN",
    "'; drop table gsc_days; --", "<script>alert(1)</script>", "100% off_sale", "  spaces  ", "\u2028sep\u2029",
    "{\"json\": [1]}", "comma, semi; pipe|", "\u65e5\u672c\u8a9e\u306e\u9774", "zero\u200bwidth", "\x7fdel\x01ctl",
    "$1 :name %s %(x)s ?", "x" * 700,
)

NASTY_PATHS = (
    "Case", "case", "CASE", "caf%C3%A9", "caf%c3%a9", "caf\u00e9", "a%20b", "a+b", "a b", "?q=1&amp;b=%22",
    "?utm_source=x&utm_campaign=google_jobs_apply", "#:~:text=fragment", "%F0%9F%9A%B2", "\U0001f6b2",
    "\u05e9\u05dc\u05d5\u05dd", "quote'\"quote", "back\\slash", "tab\tin\turl", "line\nin\nurl", "trailing/",
    "trailing", "double//slash", "l" + "o" * 1_900 + "ng", ";jsessionid=1", "%", "%25", "..%2f..%2f", "<b>", "NULL",
)


def origin(site: str) -> str:
    """Where a property's pages live: ``sc-domain:x`` means ``https://x/``, a URL-prefix property is its own."""
    return f"https://{site[len('sc-domain:'):]}/" if site.startswith("sc-domain:") else site


def page_urls(site: str, count: int, nasty: bool) -> List[str]:
    """``count`` distinct page addresses of a site; when ``nasty``, every third is an awkward one."""
    root = origin(site)
    urls = [root] if count else []
    for index in range(1, count):
        topic = TOPICS[index % len(TOPICS)].replace(" ", "-")
        form = PAGE_FORMS[index // len(TOPICS) % len(PAGE_FORMS)].format(topic)
        turn = index // (len(TOPICS) * len(PAGE_FORMS))
        section = SECTIONS[index // len(TOPICS) % len(SECTIONS)]
        if nasty and index % 3 == 1:
            which, turn = index // 3 % len(NASTY_PATHS), index // (3 * len(NASTY_PATHS))
            urls.append(f"{root}n{turn}/{NASTY_PATHS[which]}")
        else:
            urls.append(f"{root}{section}/{form}" + (f"-{turn + 1}" if turn else ""))
    return urls


def topic_queries(topic: int, start: int, stop: int, nasty: bool) -> List[str]:
    """Queries number ``start`` to ``stop - 1`` of a topic, all distinct; when ``nasty``, every fifth is awkward."""
    words = TOPICS[topic % len(TOPICS)]
    queries = []
    starts, ends = len(QUERY_STARTS), len(QUERY_ENDS)
    for index in range(start, stop):
        if nasty and index % 5 == 2:
            which, turn = index // 5 % len(NASTY_TEXTS), index // (5 * len(NASTY_TEXTS))
            queries.append(f"{NASTY_TEXTS[which]} {words}" + (f" {turn}" if turn else ""))
            continue
        # All three parts move at once, so that neighbours in rank don't look alike; no combination comes twice.
        middle = QUERY_MIDDLES[(index // (starts * ends) + index) % len(QUERY_MIDDLES)]
        text = QUERY_STARTS[index % starts] + middle + words + QUERY_ENDS[(index // starts + index) % ends]
        turn = index // (starts * ends * len(QUERY_MIDDLES))
        queries.append(f"{text} {turn + 1}" if turn else text)
    return queries
