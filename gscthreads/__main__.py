"""``python -m gscthreads``, under whatever name the package was copied to."""

from __future__ import annotations

import sys

from .cli import main


def run() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
