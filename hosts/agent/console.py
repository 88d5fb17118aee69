"""Consoles: on a signed command the host dials the gateway and relays one machine's display socket to it.

The host never listens. Each direction holds one chunk: a slow reader slows the writer down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from hosts.agent.loop import Loop

log = logging.getLogger(__name__)

CHUNK = 64 * 1024
DIAL_SECONDS = 10.0
CLOSE_SECONDS = 2.0

OnClosed = Callable[[str], None]


@dataclass(frozen=True)
class ConsoleRoute:
    """Both ends of a relay. `token` admits the host at the gateway, once."""

    session_id: UUID
    lease_id: UUID
    gateway_url: str
    token: str
    display_socket: Path

    def __repr__(self) -> str:
        return f"ConsoleRoute({self.session_id})"


class ConsoleRelays:
    """The open relays."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._open: dict[UUID, tuple[UUID, asyncio.Task[None]]] = {}

    def open(self, route: ConsoleRoute, *, on_closed: OnClosed) -> None:
        """Begin to relay and return at once. `on_closed` is told the reason, on a thread of its own."""
        self._loop.submit(self._begin(route, on_closed))

    def close_lease(self, lease_id: UUID) -> None:
        """Close every relay of this lease's machine; when this returns, nothing passes any more."""
        self._loop.run(self._close(lease_id), seconds=CLOSE_SECONDS + DIAL_SECONDS)

    async def _begin(self, route: ConsoleRoute, on_closed: OnClosed) -> None:
        task = asyncio.create_task(self._relay(route, on_closed))
        self._open[route.session_id] = (route.lease_id, task)

    async def _close(self, lease_id: UUID) -> None:
        tasks = [task for lease, task in self._open.values() if lease == lease_id]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _relay(self, route: ConsoleRoute, on_closed: OnClosed) -> None:
        reason = "closed by the host"
        try:
            reason = await relay(route)
        except (OSError, WebSocketException, TimeoutError) as error:
            reason = f"{type(error).__name__}: {error}"
        finally:
            self._open.pop(route.session_id, None)
            log.info("Console %s ended: %s", route.session_id, reason)
            await asyncio.shield(asyncio.to_thread(on_closed, reason))


async def relay(route: ConsoleRoute) -> str:
    """Pass bytes between gateway and display until either side closes; which one it was."""
    async with connect(
        route.gateway_url,
        additional_headers={"Authorization": f"Bearer {route.token}"},
        compression=None,
        open_timeout=DIAL_SECONDS,
        close_timeout=CLOSE_SECONDS,
        max_size=CHUNK * 16,
        max_queue=1,
        proxy=None,
    ) as gateway:
        reader, writer = await asyncio.open_unix_connection(route.display_socket, limit=CHUNK)
        try:
            return await _first_to_end(_to_gateway(reader, gateway), _to_display(gateway, writer))
        finally:
            writer.close()


async def _to_gateway(reader: asyncio.StreamReader, gateway: ClientConnection) -> str:
    while chunk := await reader.read(CHUNK):
        await gateway.send(chunk)
    return "closed by the machine"


async def _to_display(gateway: ClientConnection, writer: asyncio.StreamWriter) -> str:
    try:
        while True:
            message = await gateway.recv(decode=False)
            writer.write(message)
            await writer.drain()
    except ConnectionClosed:
        return "closed by the gateway"


async def _first_to_end(*directions: Coroutine[Any, Any, str]) -> str:
    tasks = [asyncio.create_task(direction) for direction in directions]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
