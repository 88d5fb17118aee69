"""What has changed since the last look, at a cost that does not grow with what is booked.

Every act writes an entry to the audit log, so its new entries say which leases have changed, and whether the
fleet has. What moves without an act is compared with how it was: steps of machines and their state, why
something has to wait, images on their way, roles and sessions.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.contrib.auth.models import Group
from django.contrib.sessions.models import Session
from django.db.models import Count, Max, QuerySet
from django.utils import timezone

from leasing.models import (
    AuditEntry,
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
from leasing.states.lease import ON_HOST, LeaseState

# Numbers are given before transactions end: an entry may come to be seen so long after those behind it.
LATEST_SECONDS = 15.0
LATEST_ENTRIES = 1000
# From so long before its start on a lease is looked at for why it has to wait.
COMING = timedelta(hours=1)
_OF_THE_FLEET = ("card:", "command:", "gpu:", "host:", "image", "model:", "outage:")


@dataclass(frozen=True)
class Snapshot:
    """What is compared from look to look."""

    leases: dict[UUID, Hashable]
    fleet: Hashable
    roles: Hashable
    sessions: frozenset[str]


@dataclass(frozen=True)
class Changes:
    """Which leases have changed, whose they are (owner, tenant), who else sees them; and what else has.

    `lost` are people who watch and who may have other rights than when they began to.
    """

    owners: dict[UUID, tuple[UUID, UUID]]
    shares: frozenset[tuple[UUID, UUID]]
    fleet: bool
    lost: frozenset[UUID]
    ended_sessions: frozenset[str]


class Watch:
    """Remembers how things stood at the last look. The first one finds no change."""

    def __init__(self) -> None:
        self._entries = NewEntries()
        self._before: Snapshot | None = None
        self._rights: dict[UUID, Hashable] = {}

    def look(self, session_keys: frozenset[str], people: frozenset[UUID]) -> Changes:
        """A few small queries, however many watch."""
        subjects, entries = self._entries.read()
        # Before the snapshot: what changes between the two is found by the next look.
        newcomers = people - self._rights.keys()
        rights = {**self._rights, **rights_of(newcomers)}
        after = _take_snapshot(session_keys)
        before, self._before = self._before or after, after
        lost: frozenset[UUID] = frozenset()
        if before.roles != after.roles:
            fresh = rights_of(people)
            lost = newcomers | {who for who in people if fresh[who] != rights[who]}
            rights = fresh
        self._rights = {who: rights[who] for who in people}
        moved = {pk for pk, mark in after.leases.items() if before.leases.get(pk, mark) != mark}
        changed = moved | set(_leases_of(subjects)) | _scrubbed(entries)
        shares = Share.objects.filter(closed_at=None, lease__in=changed) if changed else Share.objects.none()
        owners = Lease.objects.filter(pk__in=changed) if changed else Lease.objects.none()
        return Changes(
            owners={pk: (owner, tenant) for pk, owner, tenant in owners.values_list("pk", "owner", "tenant")},
            shares=frozenset(shares.values_list("lease_id", "person_id")),
            fleet=before.fleet != after.fleet or any(one.startswith(_OF_THE_FLEET) for one in subjects),
            lost=lost,
            ended_sessions=(before.sessions - after.sessions) & session_keys,
        )


class NewEntries:
    """The audit log's entries since the last time, those that came late among them."""

    def __init__(self) -> None:
        newest = AuditEntry.objects.aggregate(Max("pk"))["pk__max"] or 0
        self._floor = max(0, newest - LATEST_ENTRIES)
        now = time.monotonic()
        self._seen = dict.fromkeys(self._rows().values_list("pk", flat=True), now)

    def read(self) -> tuple[list[str], list[int]]:
        """Their subjects, and their numbers."""
        now, rows = time.monotonic(), self._rows().values_list("pk", "subject")
        new = {pk: subject for pk, subject in rows if pk not in self._seen}
        over = [pk for pk, seen in self._seen.items() if now - seen > LATEST_SECONDS]
        self._floor = max([self._floor, *over])
        self._seen |= dict.fromkeys(new, now)
        self._seen = {pk: seen for pk, seen in self._seen.items() if pk > self._floor}
        return list(new.values()), list(new)

    def _rows(self) -> QuerySet[AuditEntry]:
        return AuditEntry.objects.filter(pk__gt=self._floor)


def _take_snapshot(session_keys: frozenset[str]) -> Snapshot:
    now = timezone.now()
    on_host = Lease.objects.filter(state__in=ON_HOST).values_list("pk", "machine", "guest__answers")
    leases: dict[UUID, Hashable] = {pk: (machine, answers) for pk, machine, answers in on_host}
    coming = Lease.objects.filter(state=LeaseState.SCHEDULED, starts_at__lte=now + COMING)
    leases |= {pk: str(why) for pk, why in coming.values_list("pk", "waiting_because")}
    moving = LeaseStep.objects.filter(lease__state__in=[LeaseState.PROVISIONING, LeaseState.RELEASING])
    for pk, *steps in moving.values_list("lease").annotate(Count("pk"), Max("pk"), Max("finished_at")):
        leases[pk] = (leases.get(pk), *steps)
    alive = Session.objects.filter(session_key__in=session_keys, expire_date__gt=now)
    copies = ImageCopy.objects.exclude(state=ImageCopy.State.HELD, wanted=True)
    return Snapshot(
        leases=leases,
        fleet=(
            tuple(ImageUpload.objects.values_list("pk", "state", "received", "percent")),
            tuple(copies.values_list("pk", "state", "done", "wanted")),
        ),
        roles=_roles(),
        sessions=frozenset(alive.values_list("session_key", flat=True)),
    )


def _roles() -> Hashable:
    """Changes whenever anybody is given or loses a role or a share, is offered a lease, or is locked out."""
    tables = (
        TenantPersonPermission,
        TenantGroupPermission,
        Group.permissions.through,
        Person.user_permissions.through,
        Person.groups.through,
    )
    marks = [tuple(table.objects.aggregate(Count("pk"), Max("pk")).values()) for table in tables]
    marks += [tuple(rows.aggregate(Count("pk")).values()) for rows in (_OPEN_SHARES, _OPEN_OFFERS)]
    marks.append(tuple(Share.objects.aggregate(Max("pk")).values()))
    return *marks, Person.objects.filter(is_active=False).count()


_OPEN_SHARES = Share.objects.filter(closed_at=None)
_OPEN_OFFERS = HandOver.objects.filter(state__in=HandOver.WAITING)


def rights_of(people: frozenset[UUID]) -> dict[UUID, Hashable]:
    """What decides on what each of them may see; to be compared, not to be read."""
    found: dict[UUID, set[Hashable]] = {who: set() for who in people}
    if not people:
        return {}
    directly, groups = TenantPersonPermission.objects, Person.groups.through.objects
    asked = (
        directly.filter(user__in=people).values_list("user", "content_object", "permission"),
        TenantGroupPermission.objects.filter(group__user__in=people).values_list(
            "group__user", "content_object", "permission"
        ),
        Person.user_permissions.through.objects.filter(person__in=people).values_list("person", "permission"),
        groups.filter(person__in=people).values_list("person", "group__permissions"),
        _OPEN_SHARES.filter(person__in=people).values_list("person", "lease"),
        _OPEN_OFFERS.filter(taker__in=people).values_list("taker", "lease"),
        Person.objects.filter(pk__in=people, is_active=False).values_list("pk"),
    )
    for number, rows in enumerate(asked):
        for who, *right in rows.order_by():
            found[who].add((number, *right))
    return {who: frozenset(rights) for who, rights in found.items()}


def _leases_of(subjects: Iterable[str]) -> Iterable[UUID]:
    return (UUID(one.removeprefix("lease:")) for one in subjects if one.startswith("lease:"))


def _scrubbed(entries: list[int]) -> set[UUID]:
    """The leases whose evidence is among these entries."""
    if not entries:
        return set()
    found = ScrubRecord.objects.filter(entry__in=entries, lease__isnull=False)
    return set(found.values_list("lease_id", flat=True))
