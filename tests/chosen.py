"""Of random fleets and histories a test tries always the same few, or as many others as are asked for."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings

FLEETS = "LEASEHOLD_FLEETS"


def how_many(unless_asked: int, *, by: str = FLEETS) -> int:
    return int(os.environ.get(by, unless_asked))


def chosen(examples: int, *, by: str = FLEETS, **more: Any) -> settings:
    """So many, however slow the machine is; always the same ones, unless the variable asks for others."""
    return settings(
        max_examples=examples,
        derandomize=by not in os.environ,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        **more,
    )
