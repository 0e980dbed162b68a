"""``manage.py gsc_verify``."""

from __future__ import annotations

import json
from typing import Any, Dict

from .....halt import Halt, Halted
from ...commands import StoreCommand
from ...running import keywords, refuse_atomic

#: Given by name, or known from what is stored.
_NOT_FOR_VERIFY = {"sites", "store", "credentials", "start", "end", "reports", "search_types"}


class Command(StoreCommand):
    help = ("Proves that what the database holds of Search Console is right: against itself, and with samples against"
            " Google; --repair mends what is wrong.")

    def add_arguments(self, parser: Any) -> None:
        from .....cli import verify_options

        known = set(parser._actions)
        verify_options(parser)
        self.adopt(parser, [action for action in parser._actions if action not in known])

    def work(self, options: Dict[str, Any]) -> None:
        from .....summary import verification_text
        from .....verify import verify

        given, halt = self.given(options), Halt()
        if options["repair"]:
            refuse_atomic(given)
        if self.from_command_line:
            from .....signals import halt_on_signals

            halt_on_signals(halt.set)
        values = keywords(given)
        settings = {name: value for name, value in values.items() if name not in _NOT_FOR_VERIFY}
        try:
            found = verify(
                values["store"], sites=given.get("sites"), credentials=values["credentials"], pages=options["pages"],
                mend=options["repair"], halt=halt, announce=lambda words: self.stderr.write(words, str), **settings,
            )
        except Halted:
            raise self.failure(f"halted: {halt.reason}", 3) from None
        self.stdout.write(json.dumps(found.as_dict()) if options["json"] else verification_text(found))
        if found.exit_status:
            words = "the copy is not right" if found.wrong else "Google could not be asked"
            raise self.failure(f"{words}; see above", found.exit_status)
