"""Live updates: one poll a second per process finds the leases that changed and tells who watches.

A stream carries no data, only “lease X changed”; the page then fetches what it shows, authorised as always.
Streams end with their session, and when the rights of their person change: the browser asks again, and is
admitted or not.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.db import DatabaseError, InterfaceError
from django.http import StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.views.decorators.http import require_safe

from leasing import policy
from leasing.errors import NotVisible
from leasing.models import Person
from portal.changes import Changes, Watch
from portal.middleware import PersonRequest
from portal.threads import DatabaseThread, leave_request_thread

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 15.0
LONGEST_STREAM_SECONDS = 900.0
MOST_PENDING = 100

FLEET = "fleet"
THREAD = "live-updates"


@dataclass(eq=False)
class Subscriber:
    """One stream. `watches` are lease ids or FLEET; None means every lease of `tenants` or `person_id`."""

    person_id: UUID
    session_key: str
    watches: frozenset[str] | None
    tenants: frozenset[UUID]
    queue: asyncio.Queue[str | None] = field(default_factory=lambda: asyncio.Queue(MOST_PENDING))

    def tell(self, subject: str | None) -> None:
        """A slow reader loses nothing: it is sent away to come back and read everything anew."""
        try:
            self.queue.put_nowait(subject)
        except asyncio.QueueFull:
            self.queue.get_nowait()
            self.queue.put_nowait(None)


class Broadcaster:
    """Polls only while somebody watches; a new watcher always fetches once after it has connected."""

    def __init__(self) -> None:
        self.subscribers: set[Subscriber] = set()
        self._poller: asyncio.Task[None] | None = None

    def add(self, subscriber: Subscriber) -> None:
        self.subscribers.add(subscriber)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.get_running_loop().create_task(self._poll())

    def remove(self, subscriber: Subscriber) -> None:
        self.subscribers.discard(subscriber)

    async def _poll(self) -> None:
        """Whatever ends it ends every stream: a page must never take silence for calm."""
        thread = DatabaseThread(THREAD)
        try:
            watch = await thread.run(Watch)
            while self.subscribers:
                keys = frozenset(subscriber.session_key for subscriber in self.subscribers)
                people = frozenset(subscriber.person_id for subscriber in self.subscribers)
                self._tell(await thread.run(watch.look, keys, people))
                await asyncio.sleep(POLL_SECONDS)
        except (DatabaseError, InterfaceError):
            log.exception("Live updates stop: the database did not answer")
        finally:
            thread.close()
            for subscriber in self.subscribers:
                subscriber.tell(None)

    def _tell(self, changes: Changes) -> None:
        for subscriber in list(self.subscribers):
            if subscriber.person_id in changes.lost or subscriber.session_key in changes.ended_sessions:
                subscriber.tell(None)
                continue
            for subject in _concerning(subscriber, changes):
                subscriber.tell(subject)


broadcaster = Broadcaster()


@login_required
@require_safe
def events(request: PersonRequest) -> HttpResponseBase:
    """The stream for one lease (?lease=), for the fleet (?fleet=1), or for everything on the home page."""
    subscriber = subscriber_of(request)
    response = StreamingHttpResponse(stream(subscriber), content_type="text/event-stream")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    return response


def subscriber_of(request: PersonRequest) -> Subscriber:
    """Authorise once. Raises NotVisible."""
    person = request.user
    tenants = policy.tenants_with_role(person, "approver").values_list("pk", flat=True)
    return Subscriber(
        person_id=person.pk,
        session_key=request.session.session_key or "",
        watches=_watched(person, request),
        tenants=frozenset(tenants),
    )


async def stream(subscriber: Subscriber) -> AsyncIterator[str]:
    """Server-sent events until the browser leaves, access ends, or the stream has grown old."""
    leave_request_thread()
    loop = asyncio.get_running_loop()
    oldest = loop.time() + LONGEST_STREAM_SECONDS
    broadcaster.add(subscriber)
    try:
        yield f"retry: 2000\n{_event('hello', '')}"
        while loop.time() < oldest:
            try:
                subject = await asyncio.wait_for(subscriber.queue.get(), KEEP_ALIVE_SECONDS)
            except TimeoutError:
                yield _event("alive", "")
                continue
            if subject is None:
                return
            yield _event("changed", subject)
    finally:
        broadcaster.remove(subscriber)


def _watched(person: Person, request: PersonRequest) -> frozenset[str] | None:
    if "fleet" in request.GET:
        policy.require_fleet_reader(person)
        return frozenset({FLEET})
    if "lease" not in request.GET:
        return None
    try:
        lease_id = UUID(request.GET["lease"])
    except ValueError:
        raise NotVisible("There is no such workstation.") from None
    policy.fetch_lease(person, lease_id, "view")
    return frozenset({str(lease_id)})


def _concerning(subscriber: Subscriber, changes: Changes) -> list[str]:
    if subscriber.watches is None:
        person_id = subscriber.person_id
        return [
            str(pk)
            for pk, (owner_id, tenant_id) in changes.owners.items()
            if _theirs(subscriber, owner_id, tenant_id) or (pk, person_id) in changes.shares
        ]
    subjects = {str(pk) for pk in changes.owners} | ({FLEET} if changes.fleet else set())
    return sorted(subjects & subscriber.watches)


def _theirs(subscriber: Subscriber, owner_id: UUID, tenant_id: UUID) -> bool:
    return owner_id == subscriber.person_id or tenant_id in subscriber.tenants


def _event(name: str, subject: str) -> str:
    return f"event: {name}\ndata: {json.dumps(subject)}\n\n"
