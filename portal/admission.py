"""How many requests are worked on at once: each has a thread and a database connection of its own."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

from portal.bodies import App, Message, Receive, Send

# More would not be answered sooner. Hundreds come at once when pages that were open find the portal again.
MOST_AT_ONCE = 16

_places: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


async def in_turn(app: App, scope: Message, receive: Receive, send: Send) -> None:
    """Let the app answer when it is the request's turn: from when its body is there until its answer begins.

    So neither who sends slowly nor who is sent something for long has a place.
    """
    places = _places.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(MOST_AT_ONCE))
    came = has_place = False

    async def coming() -> Message:
        nonlocal came, has_place
        message = await receive()
        if not came and message["type"] == "http.request" and not message.get("more_body"):
            came = True
            await places.acquire()
            has_place = True
        return message

    async def going(message: Message) -> None:
        nonlocal has_place
        if has_place and message["type"] == "http.response.start":
            has_place = False
            places.release()
        await send(message)

    try:
        await app(scope, coming, going)
    finally:
        if has_place:
            places.release()
