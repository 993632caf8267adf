"""Run the command line as `python -m edgecompress`, or `accelerate launch -m edgecompress`."""

import sys

from edgecompress.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
