"""`python -m hosts.agent.cli`, where the program is not installed."""

import sys

from hosts.agent.cli import main

if __name__ == "__main__":
    sys.exit(main())
