"""Bounds bodies of requests before anything reads them: under ASGI, Django first writes each to the disk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from hosts.protocol.images import PIECE_BYTES

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

MIB = 1 << 20
USUAL = 1 * MIB
# By the beginning of the path. A form without JavaScript brings a whole file; larger ones come in pieces.
LARGER = {"/api/v1/image-uploads/": PIECE_BYTES + MIB, "/fleet/images/upload/": 2048 * MIB}
TOO_LARGE = b"The request is too large.\n"


def most_bytes(path: str) -> int:
    """How many a body sent there may have."""
    return next((most for start, most in LARGER.items() if path.startswith(start)), USUAL)


async def bounded(app: App, scope: Message, receive: Receive, send: Send) -> None:
    """Let the app answer, unless the body is too large: 413, and the rest is not read."""
    most = most_bytes(scope["path"])
    if _announced(scope) > most:
        await _refuse(send)
        return
    seen, answered, cut = 0, False, False

    async def counted() -> Message:
        nonlocal seen, cut
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            cut = True
            return {"type": "http.disconnect"}
        return message

    async def noted(message: Message) -> None:
        nonlocal answered
        answered = True
        await send(message)

    await app(scope, counted, noted)
    if cut and not answered:
        await _refuse(send)


def _announced(scope: Message) -> int:
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    return int(lengths[0]) if lengths and lengths[0].isdigit() else 0


async def _refuse(send: Send) -> None:
    headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": TOO_LARGE})
