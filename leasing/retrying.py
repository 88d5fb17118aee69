"""Retries a whole transaction that the database gave up: a deadlock, a serialization failure, a busy file."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from django.db import OperationalError, connection

T = TypeVar("T")
_TRIES = 6
_DEADLOCK = "40P01"
_SERIALIZATION = "40001"


def retrying(work: Callable[[], T]) -> T:
    """Run `work`, again if need be. Inside an outer transaction it runs once: only the outermost retries."""
    for attempt in range(1, _TRIES):
        try:
            return work()
        except OperationalError as error:
            if connection.in_atomic_block or not _is_passing(error):
                raise
            time.sleep(random.uniform(0, 0.02) * attempt)  # noqa: S311 - spreads rivals apart, hides nothing
    return work()


def _is_passing(error: OperationalError) -> bool:
    state = getattr(error.__cause__, "sqlstate", None)
    return state in (_DEADLOCK, _SERIALIZATION) or "database is locked" in str(error)
