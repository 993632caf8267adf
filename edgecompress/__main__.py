"""Run the command line as `python -m edgecompress`, which is what launchers of processes need."""

import sys

from edgecompress.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
