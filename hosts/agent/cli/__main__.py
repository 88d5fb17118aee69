"""`python -m hosts.agent.cli`, where the program is not installed."""

import sys

from hosts.agent.cli import main

sys.exit(main())
