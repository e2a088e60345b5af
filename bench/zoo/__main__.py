"""Runs the sweep."""

import sys

from bench.zoo.cli import main

if __name__ == "__main__":
    sys.exit(main())
