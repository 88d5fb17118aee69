"""How slow a machine is, so that what may take so long elsewhere may take longer there.

Budgets and time limits only stop what hangs or has grown out of hand; no test measures with them.
"""

from __future__ import annotations

import os
import time
from functools import cache
from statistics import median

# What `_work` takes, with Debian's Python, on a machine that the budgets are for: one that runs all suites in
# 18 minutes.
REFERENCE_SECONDS = 0.040
# A slower one is as a rule shared with others, and its speed goes up and down meanwhile.
SWAY = 1.5
SLOWEST = 5.0
VARIABLE = "LEASEHOLD_TEST_SLOWNESS"


@cache
def slowness() -> float:
    """How many times as long as the reference this machine takes, 1 to SLOWEST; measured once a run."""
    told = os.environ.get(VARIABLE)
    if told:
        return float(told)
    measured = median(_seconds() for _ in range(9)) / REFERENCE_SECONDS
    return 1.0 if measured <= 1 else round(min(measured * SWAY, SLOWEST), 1)


def _seconds() -> float:
    began = time.perf_counter()
    _work()
    return time.perf_counter() - began


def _work() -> int:
    total = 0
    for number in range(2_000_000):
        total += number * number
    return total
