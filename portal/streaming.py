"""Downloads that are sent while they are made, so that their length costs no memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from django.core.handlers.asgi import ASGIRequest
from django.db import connections
from django.http import HttpRequest, StreamingHttpResponse

PIECE = 64 * 1024


def streamed(
    request: HttpRequest, make: Callable[[], Iterable[str | bytes]], name: str, content_type: str
) -> StreamingHttpResponse:
    """A file of what `make` yields; `name` is one of ours, never a person's.

    Under ASGI, Django would collect all of it first: there it is made in a thread, piece by piece.
    """
    asynchronous = isinstance(request, ASGIRequest)
    content = _from_a_thread(make) if asynchronous else _pieces(make())
    response = StreamingHttpResponse(content, content_type=content_type)
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def _pieces(parts: Iterable[str | bytes]) -> Iterator[bytes]:
    """The same in larger pieces."""
    kept, size = [], 0
    for part in parts:
        kept.append(part.encode() if isinstance(part, str) else part)
        size += len(kept[-1])
        if size >= PIECE:
            yield b"".join(kept)
            kept, size = [], 0
    if kept:
        yield b"".join(kept)


async def _from_a_thread(make: Callable[[], Iterable[str | bytes]]) -> AsyncIterator[bytes]:
    """One thread for all of it: a database connection, and so its cursor, belongs to a thread."""
    loop, thread = asyncio.get_running_loop(), ThreadPoolExecutor(1)
    pieces: Iterator[bytes] = _pieces(make())
    try:
        while (piece := await loop.run_in_executor(thread, next, pieces, None)) is not None:
            yield piece
    finally:
        # Whoever has gone away is not waited for.
        thread.submit(_leave, pieces)
        thread.shutdown(wait=False)


def _leave(pieces: Iterator[bytes]) -> None:
    close = getattr(pieces, "close", None)
    if close is not None:
        close()
    connections.close_all()
