"""Database work of asynchronous code: in threads of its own, so that no slow page delays a revocation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import SyncToAsync, sync_to_async
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


def leave_request_thread() -> None:
    """Let go of the thread, with its connection, that Django keeps until a response is sent to its end.

    For responses that are sent for minutes. What is left to be done afterwards gets another one.
    """
    context = SyncToAsync.thread_sensitive_context.get(None)
    executor = SyncToAsync.context_to_thread_executor.pop(context, None) if context else None
    if executor is not None:
        executor.submit(connections.close_all)
        executor.shutdown(wait=False)


class DatabaseThread:
    """One thread for work that comes again and again; its connection is kept until it is closed."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, work: Callable[P, T], *args: P.args, **_kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *args)

    def close(self) -> None:
        self._executor.submit(connections.close_all)
        self._executor.shutdown(wait=False)
