"""The relay: two WebSockets that meet under a session id, and bytes that pass between them.

Nothing is queued here: the next message is read when the last one has been taken, so a slow side holds the
other back through its own socket. Pairing is in this process; run one gateway, or send both sockets of a
session to the same one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Side = Literal["browser", "host"]

ADMISSION_SECONDS = 30.0
IDLE_SECONDS = 1800.0
CHECK_SECONDS = 2.0
CLOSE_SECONDS = 2.0

NORMAL, REVOKED, IDLE, ABSENT = 1000, 4403, 4408, 4404
REASONS = {
    NORMAL: "the other side left",
    REVOKED: "access has ended",
    IDLE: "nothing happened for too long",
    ABSENT: "the other side did not come",
}


@dataclass
class Peer:
    """An accepted socket."""

    receive: Receive
    send: Send


@dataclass
class Meeting:
    """Where the two sides of a session find each other. `over` holds the close code once it has ended."""

    peers: dict[Side, Peer] = field(default_factory=dict)
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    last_message: float = 0.0

    def join(self, side: Side, peer: Peer) -> None:
        self.peers[side] = peer
        if len(self.peers) == 2:
            self.last_message = asyncio.get_running_loop().time()
            self.complete.set()

    def end(self, code: int) -> None:
        if not self.over.done():
            self.over.set_result(code)


meetings: dict[UUID, Meeting] = {}


async def attend(session_id: UUID, side: Side, peer: Peer, admitted: Callable[[], Awaitable[bool]]) -> None:
    """Take part in a session's meeting until it is over; the browser's side also watches its admission."""
    meeting = meetings.setdefault(session_id, Meeting())
    if side in meeting.peers:
        await close(peer, NORMAL)
        return
    meeting.join(side, peer)
    tasks = [asyncio.ensure_future(_take_part(meeting, side))]
    if side == "browser":
        tasks.append(asyncio.ensure_future(_watch(meeting, admitted)))
    try:
        code = await meeting.over
    finally:
        meeting.end(NORMAL)
        meetings.pop(session_id, None)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await close(peer, code)


async def _take_part(meeting: Meeting, side: Side) -> None:
    """Wait for the other side, then pass on what this side says."""
    try:
        await asyncio.wait_for(meeting.complete.wait(), ADMISSION_SECONDS)
    except TimeoutError:
        meeting.end(ABSENT)
        return
    other = meeting.peers["host" if side == "browser" else "browser"]
    try:
        await _pass_on(meeting, meeting.peers[side].receive, other.send)
    except OSError:
        pass  # the other side broke off in mid-sentence
    finally:
        meeting.end(NORMAL)


async def _pass_on(meeting: Meeting, receive: Receive, send: Send) -> None:
    loop = asyncio.get_running_loop()
    while (message := await receive())["type"] == "websocket.receive":
        data = message.get("bytes")
        if data is None:
            return  # a console speaks binary only
        meeting.last_message = loop.time()
        await send({"type": "websocket.send", "bytes": data})


async def _watch(meeting: Meeting, admitted: Callable[[], Awaitable[bool]]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        if not await admitted():
            meeting.end(REVOKED)
        elif meeting.complete.is_set() and loop.time() - meeting.last_message > IDLE_SECONDS:
            meeting.end(IDLE)


async def close(peer: Peer, code: int) -> None:
    """Say goodbye; a side that does not listen any more is simply dropped."""
    with suppress(OSError, RuntimeError, TimeoutError):
        message = {"type": "websocket.close", "code": code, "reason": REASONS[code]}
        await asyncio.wait_for(peer.send(message), CLOSE_SECONDS)
