"""Live updates: one poll a second per process finds the leases that changed and tells who watches.

A stream carries no data, only “lease X changed”; the page then fetches what it shows, authorised as always.
Streams end when their session or anybody's roles change: the browser asks again, and is admitted or not.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Hashable
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.contrib.sessions.models import Session
from django.db import DatabaseError
from django.db.models import Count, Max, Q
from django.http import StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.views.decorators.http import require_safe

from hosts.models import Gpu
from leasing import policy
from leasing.errors import NotVisible
from leasing.models import (
    Closure,
    HandOver,
    ImageCopy,
    ImageUpload,
    Lease,
    LeaseStep,
    Person,
    ScrubRecord,
    Share,
    TenantGroupPermission,
    TenantPersonPermission,
)
from leasing.states.lease import HOLDING
from portal.middleware import PersonRequest
from portal.threads import in_database_thread

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 15.0
LONGEST_STREAM_SECONDS = 900.0
# An ended lease is still watched for its scrub's evidence.
AFTERGLOW = timedelta(hours=1)
MOST_PENDING = 100

FLEET = "fleet"


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


@dataclass(frozen=True)
class Snapshot:
    """What is compared from poll to poll: a fingerprint per lease, and whose it is."""

    leases: dict[UUID, Hashable]
    owners: dict[UUID, tuple[UUID, UUID]]
    shares: frozenset[tuple[UUID, UUID]]
    fleet: Hashable
    roles: Hashable
    sessions: frozenset[str]


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
        before: Snapshot | None = None
        try:
            while self.subscribers:
                keys = frozenset(subscriber.session_key for subscriber in self.subscribers)
                after = await take_snapshot(keys)
                if before is not None:
                    self._tell(before, after)
                before = after
                await asyncio.sleep(POLL_SECONDS)
        except DatabaseError:
            log.exception("Live updates stop: the database did not answer")
        finally:
            for subscriber in self.subscribers:
                subscriber.tell(None)

    def _tell(self, before: Snapshot, after: Snapshot) -> None:
        changed = {pk for pk, mark in after.leases.items() if before.leases.get(pk) != mark}
        for subscriber in list(self.subscribers):
            if before.roles != after.roles or _signed_out(subscriber, before, after):
                subscriber.tell(None)
                continue
            for subject in _concerning(subscriber, changed, after, fleet=before.fleet != after.fleet):
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


@in_database_thread
def take_snapshot(session_keys: frozenset[str]) -> Snapshot:
    """A few small queries, however many watch."""
    now = timezone.now()
    recent = Q(state__in=HOLDING) | Q(state_since__gt=now - AFTERGLOW)
    rows = Lease.objects.filter(recent).values_list(
        "pk",
        "owner_id",
        "tenant_id",
        "state",
        "state_since",
        "machine",
        "ends_at",
        "waiting_because",
        "host_id",
        "owner_id",
    )
    leases: dict[UUID, Hashable] = {row[0]: row[3:] for row in rows}
    for model, mark in ((LeaseStep, Max("finished_at")), (ScrubRecord, Max("recorded_at"))):
        marks = (
            model.objects.filter(lease__in=leases).values_list("lease").annotate(Count("pk"), Max("pk"), mark)
        )
        for pk, *found in marks:
            leases[pk] = (leases[pk], *found)
    alive = Session.objects.filter(session_key__in=session_keys, expire_date__gt=now)
    return Snapshot(
        leases=leases,
        owners={row[0]: (row[1], row[2]) for row in rows},
        shares=frozenset(Share.objects.filter(closed_at=None).values_list("lease_id", "person_id")),
        fleet=(
            tuple(Gpu.objects.values_list("pk", "state", "state_since")),
            tuple(Closure.objects.values_list("pk", "starts_at", "ends_at")),
            tuple(ImageUpload.objects.values_list("pk", "state", "received", "percent")),
            tuple(ImageCopy.objects.values_list("pk", "state", "done", "wanted")),
        ),
        roles=_roles(),
        sessions=frozenset(alive.values_list("session_key", flat=True)),
    )


def _roles() -> Hashable:
    """Changes whenever anybody is given or loses a role or a share, is offered a lease, or is locked out."""
    tables = (
        TenantPersonPermission,
        TenantGroupPermission,
        Person.user_permissions.through,
        Person.groups.through,
    )
    marks = [tuple(table.objects.aggregate(Count("pk"), Max("pk")).values()) for table in tables]
    open_to = (Share.objects.filter(closed_at=None), HandOver.objects.filter(state=HandOver.State.OPEN))
    marks += [tuple(rows.aggregate(Count("pk")).values()) for rows in open_to]
    marks.append(tuple(Share.objects.aggregate(Max("pk")).values()))
    return *marks, Person.objects.filter(is_active=False).count()


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


def _signed_out(subscriber: Subscriber, before: Snapshot, after: Snapshot) -> bool:
    return subscriber.session_key in before.sessions and subscriber.session_key not in after.sessions


def _concerning(subscriber: Subscriber, changed: set[UUID], after: Snapshot, *, fleet: bool) -> list[str]:
    if subscriber.watches is None:
        person_id = subscriber.person_id
        return [
            str(pk)
            for pk in changed
            if _theirs(subscriber, *after.owners[pk]) or (pk, person_id) in after.shares
        ]
    subjects = {str(pk) for pk in changed} | ({FLEET} if fleet else set())
    return sorted(subjects & subscriber.watches)


def _theirs(subscriber: Subscriber, owner_id: UUID, tenant_id: UUID) -> bool:
    return owner_id == subscriber.person_id or tenant_id in subscriber.tenants


def _event(name: str, subject: str) -> str:
    return f"event: {name}\ndata: {json.dumps(subject)}\n\n"
