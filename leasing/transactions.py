"""One transaction for a whole command, tried again if the database gave it up.

PostgreSQL ends one of those that wait for each other in a circle; SQLite says that the file is busy. Neither
is anybody's fault, and nobody should read about it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from django.db import OperationalError, connection, transaction

P = ParamSpec("P")
T = TypeVar("T")
_TRIES = 6
_DEADLOCK = "40P01"
_SERIALIZATION = "40001"


def atomically(command: Callable[P, T]) -> Callable[P, T]:
    """All of the command or nothing. Within another transaction it is a part of it: that one tries again."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        for attempt in range(1, _TRIES):
            try:
                return once(*args, **kwargs)
            except OperationalError as error:
                if connection.in_atomic_block or not _is_passing(error):
                    raise
                time.sleep(random.uniform(0, 0.02) * attempt)  # noqa: S311 - spreads rivals, hides nothing
        return once(*args, **kwargs)

    once = transaction.atomic(command)
    return run


def _is_passing(error: OperationalError) -> bool:
    state = getattr(error.__cause__, "sqlstate", None)
    return state in (_DEADLOCK, _SERIALIZATION) or "database is locked" in str(error)
