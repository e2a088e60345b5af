"""Runs the command line."""

import sys

from cam_hub.cli import main

if __name__ == "__main__":
    sys.exit(main())
