"""``python -m gscthreads.simulator``: the command, without the rest of gscthreads."""

import argparse
import sys

from .command import add_arguments, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="simulate")
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))
