"""Snapshots: copies of leases' disks that outlive them, taken while the machine is off, kept until removed.

The only writer of `Snapshot.state`. A snapshot's row is locked after its lease's.
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet, Sum
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from hosts.models import Host
from leasing import goals, notices, policy
from leasing.actors import SYSTEM, Actor
from leasing.addresses import of_lease, of_storage
from leasing.audit.log import record
from leasing.errors import DomainError, InvalidRequest, NotVisible, Words, WrongState
from leasing.keys import seal_storage_key
from leasing.locking import lock_tenant_and_person, locked
from leasing.models import Lease, Snapshot
from leasing.outbox import answer_goal, queue_command
from leasing.reasons import filled
from leasing.snapshots_kept import fetch_snapshot, occupying
from leasing.states.lease import AHEAD, LeaseState
from leasing.states.snapshot import COMING, TRANSITIONS, SnapshotEvent, SnapshotState
from leasing.storing import follow_kept
from leasing.timing import clamp
from leasing.transactions import atomically
from leasing.wake import wake_control

REMOVAL_AGAIN = timedelta(minutes=15)


def disk_gib(lease: Lease) -> int:
    """How large the disk of its machine is."""
    return lease.holds.aggregate(gib=Sum("gpu__share_disk_gib"))["gib"] or 0


def obstacle(lease: Lease, *, at_end: bool) -> DomainError | None:
    """Why no snapshot of it can be taken for its owner, now or when it ends; None if one can."""
    if lease.state != LeaseState.ACTIVE or lease.host is None:
        return WrongState(_("The workstation is not running."))
    if lease.host.pool_id is None:
        return InvalidRequest(_("Its host has no storage for snapshots."), hint=_("Ask your operators."))
    if not disk_gib(lease):
        return InvalidRequest(_("It has no disk of its own."))
    if lease.snapshots.filter(state__in=COMING).exists():
        return WrongState(_("A snapshot of it is being taken, or is to be taken when it ends."))
    if not at_end and lease.machine != Lease.Machine.OFF:
        return WrongState(
            _("Its machine is on."), hint=_("Switch it off first: what it has not written yet is lost.")
        )
    return _beyond_bounds(lease)


def _beyond_bounds(lease: Lease) -> DomainError | None:
    kept = occupying(lease.owner_id)
    hint = gettext_lazy("Remove one that you do not need any more.")
    if len(kept) >= settings.SNAPSHOTS_PER_PERSON:
        words = _("You have %(count)d snapshots, which is the most.")
        return InvalidRequest(words % {"count": len(kept)}, hint=hint)
    left = settings.SNAPSHOT_GIB_PER_PERSON - sum(each.size_gib for each in kept)
    if disk_gib(lease) > left:
        words = _("Your snapshots may have %(left)d GiB more; this disk has %(gib)d.")
        return InvalidRequest(words % {"left": max(left, 0), "gib": disk_gib(lease)}, hint=hint)
    return None


def take_snapshot(*, actor: Actor, lease_id: UUID, at_end: bool, now: datetime) -> Snapshot:
    """Copy its disk now, while its machine is off, or when the lease ends. Raises DomainError."""
    if actor.person is None:
        raise TypeError("only a person takes a snapshot")
    policy.fetch_lease(actor.person, lease_id, "use")
    return _take(actor, lease_id, at_end, now)


@atomically
def _take(actor: Actor, lease_id: UUID, at_end: bool, now: datetime) -> Snapshot:
    lease = _lock(lease_id)
    snapshot = _add(actor, lease, at_end=at_end, now=now)
    if not at_end:
        _order(snapshot, lease, now=now)
        transaction.on_commit(wake_control)
    return snapshot


def want(actor: Actor, lease_id: UUID, *, now: datetime) -> None:
    """Before the same transaction ends the lease: a snapshot is taken then, unless that was said before."""
    if actor.person is None:
        raise TypeError("only a person takes a snapshot")
    policy.fetch_lease(actor.person, lease_id, "use")
    lease = _lock(lease_id)
    if not lease.snapshots.filter(state__in=COMING).exists():
        _add(actor, lease, at_end=True, now=now)


def _lock(lease_id: UUID) -> Lease:
    """The lease with its team and its owner, as they are locked everywhere."""
    found = Lease.objects.get(pk=lease_id)
    tenant = lock_tenant_and_person(found.tenant_id, found.owner_id)
    lease = locked(Lease.objects.select_related("owner", "host__pool", "image")).get(pk=lease_id)
    lease.tenant = tenant
    return lease


def _add(actor: Actor, lease: Lease, *, at_end: bool, now: datetime) -> Snapshot:
    """Its key is born here. The lease and its owner are locked."""
    if (refusal := obstacle(lease, at_end=at_end)) is not None:
        raise refusal
    assert lease.host is not None  # noqa: S101 - looked at above
    assert lease.host.pool is not None  # noqa: S101 - looked at above
    number = uuid4()
    state = SnapshotState.WANTED if at_end else SnapshotState.TAKING
    snapshot = Snapshot.objects.create(
        pk=number,
        tenant=lease.tenant,
        person=lease.owner,
        pool=lease.host.pool,
        lease=lease,
        image=lease.image,
        size_gib=disk_gib(lease),
        state=state,
        state_since=now,
        sealed_key=seal_storage_key(secrets.token_hex(32).encode(), number),
        created_at=now,
    )
    states = {"from": None, "to": state, "event": "create"}
    facts = {"size_gib": snapshot.size_gib, "pool": str(snapshot.pool), "lease": str(lease.pk)}
    _record(snapshot, "snapshot.create", actor, at=now, now=now, **states, **facts)
    return snapshot


def _order(snapshot: Snapshot, lease: Lease, *, now: datetime) -> None:
    assert lease.host is not None  # noqa: S101 - its machine is there
    snapshot.generation += 1
    snapshot.save(update_fields=["generation"])
    queue_command(
        host=lease.host,
        lease=lease,
        subject=goals.snapshot_subject(snapshot),
        generation=snapshot.generation,
        goal=goals.take_snapshot(snapshot, lease.host),
        now=now,
    )


def order_wanted(lease: Lease, *, at: datetime, now: datetime) -> None:
    """It ends: what is to be taken at its end is part of its release. The lease is locked."""
    snapshot = locked(_of_lease(lease, SnapshotState.WANTED)).first()
    if snapshot is not None:
        _apply(snapshot, SnapshotEvent.ORDER, actor=SYSTEM, at=at, now=now)


def settle(lease: Lease, *, at: datetime, now: datetime) -> None:
    """Its machine and disk are gone: what was not taken never will be. The lease is locked."""
    snapshot = locked(_of_lease(lease, SnapshotState.TAKING)).first()
    if snapshot is not None:
        _fail(snapshot, gettext_lazy("The disk was gone before it was copied."), SYSTEM, at=at, now=now)


def note_taken(host: Host, snapshot_id: UUID, size_bytes: int, *, at: datetime, now: datetime) -> bool:
    """The host has copied the disk; False if that was not awaited of it."""
    snapshot = locked(_awaited(host, snapshot_id)).first()
    if snapshot is None:
        return False
    at = clamp(at, earliest=snapshot.state_since, latest=now)
    snapshot.size_bytes, snapshot.taken_at = size_bytes, at
    snapshot.save(update_fields=["size_bytes", "taken_at"])
    _apply(snapshot, SnapshotEvent.TAKEN, actor=Actor.of_host(host), at=at, now=now, size_bytes=size_bytes)
    follow_kept(snapshot, now=now)
    _answer(snapshot, "taken", now)
    _tell(snapshot, "snapshot-taken", gettext_lazy("The snapshot of %(name)s is kept"), _KEPT, now=now)
    return True


def note_failed(
    host: Host, snapshot_id: UUID, reason: str, *, finally_: bool, at: datetime, now: datetime
) -> bool:
    """The host could not copy the disk. `finally_`: nor will it while it releases the lease."""
    snapshot = locked(_awaited(host, snapshot_id)).first()
    if snapshot is None:
        return False
    _answer(snapshot, reason, now)
    if finally_ or snapshot.lease.state == LeaseState.ACTIVE:
        _fail(snapshot, reason, Actor.of_host(host), at=at, now=now)
    return True


def remove_snapshot(*, actor: Actor, snapshot_id: UUID, now: datetime) -> Snapshot:
    """Destroy it; one that is to be taken later is not taken. Raises NotVisible or WrongState."""
    if actor.person is None:
        raise TypeError("only a person has a snapshot removed")
    return _remove(actor, fetch_snapshot(actor.person, snapshot_id), now)


@atomically
def _remove(actor: Actor, known: Snapshot, now: datetime) -> Snapshot:
    locked(Lease.objects.filter(pk=known.lease_id)).first()
    snapshot = locked(Snapshot.objects.select_related("tenant", "pool", "person", "lease")).get(pk=known.pk)
    if snapshot.state == SnapshotState.WANTED:
        _close(snapshot)
        _apply(snapshot, SnapshotEvent.CANCEL, actor=actor, at=now, now=now)
        return snapshot
    if snapshot.state == SnapshotState.TAKING:
        raise WrongState(_("The snapshot is being taken."), hint=_("Wait until it is taken, then remove it."))
    if snapshot.state == SnapshotState.REMOVED:
        raise NotVisible(_("There is no such snapshot."))
    if snapshot.state == SnapshotState.KEPT:
        if (waiting := _waiting_for(snapshot)) is not None:
            raise WrongState(
                _("%(name)s is booked to start from it.") % {"name": waiting.machine_name},
                hint=_("Cancel that booking first, or wait until it runs."),
            )
        snapshot.kept_until = now
        snapshot.save(update_fields=["kept_until"])
        _apply(snapshot, SnapshotEvent.REMOVE, actor=actor, at=now, now=now)
        follow_kept(snapshot, now=now)
        order_removal(snapshot, now=now)
        transaction.on_commit(wake_control)
    return snapshot


def order_removal(snapshot: Snapshot, *, now: datetime) -> None:
    """Tell the host of its pool that was heard of last; another time it may be another one."""
    host = Host.objects.filter(pool=snapshot.pool_id, retired_at=None).order_by("-last_seen_at").first()
    snapshot.removal_due_at = now + REMOVAL_AGAIN
    snapshot.generation += 1
    snapshot.save(update_fields=["removal_due_at", "generation"])
    if host is not None:
        queue_command(
            host=host,
            subject=goals.snapshot_subject(snapshot),
            generation=snapshot.generation,
            goal=goals.remove_snapshot(snapshot),
            now=now,
            deadline=REMOVAL_AGAIN,
        )


def note_removed(host: Host, snapshot_id: UUID, *, at: datetime, now: datetime) -> bool:
    """A host of its pool has destroyed it; False if that was not ordered of it."""
    ordered = Snapshot.objects.filter(pk=snapshot_id, pool=host.pool_id, state=SnapshotState.REMOVING)
    snapshot = locked(ordered.select_related("tenant", "person")).first()
    if snapshot is None:
        return False
    _close(snapshot)
    _apply(snapshot, SnapshotEvent.GONE, actor=Actor.of_host(host), at=at, now=now)
    return True


def _fail(snapshot: Snapshot, reason: Words, actor: Actor, *, at: datetime, now: datetime) -> None:
    _apply(snapshot, SnapshotEvent.FAIL, actor=actor, at=at, now=now, reason=str(reason))
    order_removal(snapshot, now=now)
    body = filled(_FAILED if snapshot.lease.state == LeaseState.ACTIVE else _LOST, reason=reason)
    _tell(snapshot, "snapshot-failed", gettext_lazy("No snapshot of %(name)s could be taken"), body, now=now)


def _waiting_for(snapshot: Snapshot) -> Lease | None:
    """A lease whose disk is yet to be made from it."""
    states = (*AHEAD, LeaseState.PROVISIONING)
    return Lease.objects.filter(snapshot=snapshot, state__in=states).order_by("starts_at").first()


def _of_lease(lease: Lease, state: SnapshotState) -> QuerySet[Snapshot]:
    return Snapshot.objects.filter(lease=lease, state=state).select_related(
        "tenant", "person", "pool", "lease"
    )


def _awaited(host: Host, snapshot_id: UUID) -> QuerySet[Snapshot]:
    awaited = Snapshot.objects.filter(pk=snapshot_id, lease__host=host, state=SnapshotState.TAKING)
    return awaited.select_related("tenant", "person", "pool", "lease__flavor")


def _answer(snapshot: Snapshot, answer: str, now: datetime) -> None:
    subject = goals.snapshot_subject(snapshot)
    answer_goal(subject=subject, generation=snapshot.generation, kinds=("snapshot",), answer=answer, now=now)


def _close(snapshot: Snapshot) -> None:
    snapshot.sealed_key, snapshot.removal_due_at = "", None
    snapshot.save(update_fields=["sealed_key", "removal_due_at"])


_KEPT = gettext_lazy("You can book a workstation that starts from it.")
_FAILED = gettext_lazy("Its disk could not be copied. It is still there: try it again. Why: %(reason)s")
_LOST = gettext_lazy(
    "Its disk could not be copied. It went with the workstation, and what was on it is lost; a home volume is"
    " not touched. Why: %(reason)s"
)


def _tell(snapshot: Snapshot, kind: str, subject: Promise, body: Any, *, now: datetime) -> None:
    notices.notify(
        recipient=snapshot.person,
        lease=snapshot.lease,
        kind=kind,
        subject=filled(subject, name=snapshot.lease.machine_name),
        body=body,
        now=now,
        link=of_storage() if kind == "snapshot-taken" else of_lease(snapshot.lease),
    )


def _apply(
    snapshot: Snapshot, event: SnapshotEvent, *, actor: Actor, at: datetime, now: datetime, **detail: Any
) -> None:
    before = SnapshotState(snapshot.state)
    after = TRANSITIONS.get((before, event))
    if after is None:
        raise WrongState(_("The snapshot is %(state)s; this cannot be done now.") % {"state": before.value})
    at = clamp(at, earliest=snapshot.state_since, latest=now)
    snapshot.state, snapshot.state_since = after, at
    snapshot.save(update_fields=["state", "state_since"])
    states = {"from": before, "to": after, "event": event}
    _record(snapshot, f"snapshot.{event}", actor, at=at, now=now, **states, **detail)


def _record(
    snapshot: Snapshot, action: str, actor: Actor, *, at: datetime, now: datetime, **detail: Any
) -> None:
    record(
        action=action,
        actor=actor,
        subject=goals.snapshot_subject(snapshot),
        tenant=snapshot.tenant,
        behalf=snapshot.person,
        effective_at=at,
        now=now,
        person=snapshot.person.username,
        **detail,
    )


def removals_due(now: datetime) -> QuerySet[Snapshot]:
    """Snapshots of whose end no host has told in time."""
    return Snapshot.objects.filter(state=SnapshotState.REMOVING, removal_due_at__lte=now)
