"""``manage.py gsc_status``."""

from __future__ import annotations

import json
from typing import Any, Dict

from .....summary import read_status, status_text
from ...commands import StoreCommand
from ...running import make_store


class Command(StoreCommand):
    help = "Shows what the database holds of Search Console, and what is missing."

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("--site", action="append", help="only this site (repeatable)")
        parser.add_argument("--json", action="store_true", help="print one JSON object instead")
        store = parser.add_argument("--store", metavar="URL", help="look there instead: sqlite:////var/lib/search.db")
        self.adopt(parser, [store])

    def work(self, options: Dict[str, Any]) -> None:
        found = read_status(make_store(self.given(options)), sites=options["site"])
        self.stdout.write(json.dumps(found) if options["json"] else status_text(found))
