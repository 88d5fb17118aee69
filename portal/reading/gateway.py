"""Files of home volumes: /ws/host-reading/<id>/ is a WebSocket for the host, /ws/reading/<id>/ a download.

The host says in text what is known of what it read, then sends it in binary, and a last text if that was all.
A list comes in one piece and is kept for the page that waits for it; anything else is passed on to the
browser as it comes, and nothing is stored. Both ends meet in this process: run one gateway.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import quote
from uuid import UUID

import msgspec

from leasing.models import HomeReading
from portal.console.gateway import headers_of, refuse
from portal.console.relay import NORMAL, Message, Receive, Scope, Send
from portal.reading import admission

BROKEN = 1011
HOST_PREFIX, BROWSER_PREFIX = "/ws/host-reading/", "/ws/reading/"
# The machine that reads is started meanwhile.
BROWSER_SECONDS = 30.0
ANSWER_SECONDS = 180.0
CHECK_SECONDS = 2.0
_NOTHING = "There is nothing to download here: ask for it again on the page of your files."


class Broken(Exception):
    """What was read did not come to its end."""


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a host says before it sends. `size` in bytes, if it is known."""

    size: int | None
    clean: bool


@dataclass
class Meeting:
    """Where host and browser find each other."""

    host: asyncio.Future[Receive] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    taken: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)


meetings: dict[UUID, Meeting] = {}


def is_download(path: str) -> bool:
    return path.startswith(BROWSER_PREFIX)


async def serve_host(scope: Scope, receive: Receive, send: Send) -> None:
    """Take a list from the host, or let the browser take what it reads."""
    await receive()
    reading_id = _id(scope["path"], HOST_PREFIX)
    reading = await admission.admit_host(reading_id, headers_of(scope)) if reading_id else None
    if reading is None:
        await refuse(send)
        return
    await send({"type": "websocket.accept"})
    code = NORMAL
    try:
        if reading.wanted == HomeReading.Wanted.LIST:
            await asyncio.wait_for(_take_listing(reading.pk, receive), ANSWER_SECONDS)
        else:
            await _meet_browser(reading.pk, receive)
    except (TimeoutError, Broken, msgspec.MsgspecError):
        code = BROKEN
    finally:
        await admission.note_closed(reading.pk)
        with suppress(OSError, RuntimeError):
            await send({"type": "websocket.close", "code": code})


async def serve_download(scope: Scope, receive: Receive, send: Send) -> None:
    """404 unless it was asked for here, a moment ago and not taken yet; the page says why it has failed."""
    reading_id = _id(scope["path"], BROWSER_PREFIX)
    reading = None
    if reading_id and scope["method"] == "GET":
        reading = await admission.admit_browser(reading_id, headers_of(scope))
    if reading is None:
        await _answer(send, 404, _NOTHING)
        return
    if reading.ended_at is not None:
        await _back_to_page(reading, send)
        return
    meeting = meetings.setdefault(reading.pk, Meeting())
    meeting.taken.set()
    try:
        await _download(reading, meeting, receive, send)
    finally:
        meeting.over.set()
        meetings.pop(reading.pk, None)


async def _download(reading: HomeReading, meeting: Meeting, receive: Receive, send: Send) -> None:
    try:
        from_host = await asyncio.wait_for(meeting.host, BROWSER_SECONDS)
        head = await asyncio.wait_for(_head(from_host), ANSWER_SECONDS)
    except (TimeoutError, Broken):
        await _back_to_page(reading, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": _headers(reading, head)})
    passing = asyncio.ensure_future(_pass_on(from_host, send))
    others = [asyncio.ensure_future(_gone(receive)), asyncio.ensure_future(_unwanted(reading.pk))]
    try:
        await asyncio.wait([passing, *others], return_when=asyncio.FIRST_COMPLETED)
        if not passing.done():
            raise Broken
        # If it broke off, the connection does too: no browser takes it for all of the file.
        passing.result()
    finally:
        for task in (passing, *others):
            task.cancel()
        await asyncio.gather(passing, *others, return_exceptions=True)


async def _meet_browser(reading_id: UUID, receive: Receive) -> None:
    meeting = meetings.setdefault(reading_id, Meeting())
    if meeting.host.done():
        return
    meeting.host.set_result(receive)
    try:
        await asyncio.wait_for(meeting.taken.wait(), BROWSER_SECONDS)
        await meeting.over.wait()
    finally:
        meetings.pop(reading_id, None)


async def _take_listing(reading_id: UUID, receive: Receive) -> None:
    head, said = await _head(receive), await _data(receive)
    listing = msgspec.json.decode(said or b"")
    if not isinstance(listing, dict):
        raise Broken
    await admission.keep_listing(reading_id, listing, head.clean)


async def _pass_on(from_host: Receive, send: Send) -> None:
    while (data := await _data(from_host)) is not None:
        await send({"type": "http.response.body", "body": data, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _head(from_host: Receive) -> Head:
    message = await from_host()
    if message["type"] != "websocket.receive" or message.get("text") is None:
        raise Broken
    return msgspec.json.decode(message["text"], type=Head)


async def _data(from_host: Receive) -> bytes | None:
    """The next of what was read; None at its end."""
    message: Message = await from_host()
    if message.get("text") is not None:
        return None
    data = message.get("bytes")
    if data is None:
        raise Broken
    return bytes(data)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _unwanted(reading_id: UUID) -> None:
    """Until a lease wants the volume, or its person may not have it any more."""
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        if not await admission.still_wanted(reading_id):
            return


def _headers(reading: HomeReading, head: Head) -> list[tuple[bytes, bytes]]:
    """Nothing that somebody keeps in their home is ever shown as a page of this site."""
    name = reading.path.rpartition("/")[2] or reading.volume.name
    if reading.wanted == HomeReading.Wanted.ARCHIVE:
        name = f"{name}.tar"
    headers = [
        (b"content-type", b"application/octet-stream"),
        (b"content-disposition", f"attachment; filename*=UTF-8''{quote(name, safe='')}".encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"content-security-policy", b"sandbox; default-src 'none'"),
        (b"cache-control", b"no-store"),
    ]
    return headers if head.size is None else [*headers, (b"content-length", str(head.size).encode())]


async def _back_to_page(reading: HomeReading, send: Send) -> None:
    """Where it says what went wrong."""
    page = f"/account/storage/readings/{reading.pk}/".encode()
    headers = [(b"location", page), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _answer(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{text}\n".encode()})


def _id(path: str, prefix: str) -> UUID | None:
    text = path.removeprefix(prefix).removesuffix("/")
    try:
        return UUID(text) if path == f"{prefix}{text}/" and len(text) == 36 else None
    except ValueError:
        return None
