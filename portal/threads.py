"""Database work of asynchronous code: in threads of its own, so that no slow page delays a revocation."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.db import connections

P = ParamSpec("P")
T = TypeVar("T")


def in_database_thread(work: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """An awaitable version of `work`; its thread keeps no connection."""

    @wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return work(*args, **kwargs)
        finally:
            connections.close_all()

    return sync_to_async(run, thread_sensitive=False)
