"""Checks of what was promised: guards, holds, limits, decisions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from django.db import connection
from django.db.models import F, Window
from django.db.models.functions import Lag

from leasing.fsck.finding import Finding
from leasing.fsck.history import Change, first, histories
from leasing.guards import missing_guards
from leasing.models import Block, Hold, Lease
from leasing.openings.spans import EVER, Open, clipped, micros
from leasing.openings.upkeep import openings_of, read
from leasing.states.lease import LeaseState


class _Booked(NamedTuple):
    """A booking that nobody had to decide on; `number` counts bookings in the order they were made."""

    starts_at: datetime
    ends_at: datetime
    number: int
    lease_id: UUID
    gpus: int
    limit: int


def guards_are_installed(now: datetime) -> Iterator[Finding]:
    """The database enforces every rule that it is meant to enforce"""
    for name in missing_guards(connection):
        yield Finding(f"guard:{name}", "is missing, disabled or altered; `manage.py migrate` installs it")


def holds_do_not_overlap(now: datetime) -> Iterator[Finding]:
    """No two holds of one GPU overlap"""
    before = Window(Lag("ends_at"), partition_by="gpu", order_by="starts_at")
    for hold in Hold.objects.annotate(free_from=before).filter(free_from__gt=F("starts_at")):
        yield Finding(
            f"gpu:{hold.gpu_id}", f"the hold of lease {hold.lease_id} begins before the last one ends"
        )


def openings_match_holds(now: datetime) -> Iterator[Finding]:
    """What searches are answered from is what the holds, closures and GPUs say"""
    from_now = micros(now)
    for block in Block.objects.select_related("model", "host"):
        kept: dict[int, list[Open]] = defaultdict(list)
        for scope, *opening in block.openings.values_list("scope", "starts", "ends", "gpus"):
            kept[scope].append(Open(*opening))
        due: dict[int, list[Open]] = defaultdict(list)
        for scope, found in openings_of(read(block, EVER), EVER):
            due[scope].append(found)
        for scope in set(kept) | set(due):
            wrong = clipped(due[scope], from_now) ^ clipped(kept[scope], from_now)
            if wrong:
                yield Finding(
                    f"block:{block.pk}",
                    f"{len(wrong)} openings are missing or wrong; `manage.py openings` makes them anew",
                )


def leases_have_their_holds(now: datetime) -> Iterator[Finding]:
    """A lease that is using GPUs holds as many as its flavor says, on its own host"""
    states = [LeaseState.PROVISIONING, LeaseState.ACTIVE]
    leases = Lease.objects.filter(state__in=states).select_related("flavor").prefetch_related("holds__gpu")
    for lease in leases:
        hosts = [hold.gpu.host_id for hold in lease.holds.all()]
        if hosts != [lease.host_id] * lease.flavor.gpu_count:
            yield Finding(f"lease:{lease.pk}", f"{len(hosts)} holds do not match its flavor and host")


def bookings_were_allowed(now: datetime) -> Iterator[Finding]:
    """Every booking was inside the limit, or another person who may except it has decided"""
    leases = {str(lease.pk): lease for lease in Lease.objects.select_related("flavor", "owner")}
    undecided: dict[UUID, list[_Booked]] = defaultdict(list)
    for lease_id, changes in histories("lease"):
        lease, asked, approved = leases.get(lease_id), first(changes, "request"), first(changes, "approve")
        if lease is None or asked is None:
            continue
        if asked.after == LeaseState.SCHEDULED:
            booking = _undecided(lease, _gpus_allowed(asked), asked.recorded_at)
            undecided[lease.tenant_id].append(booking)
        elif approved and (approved.actor.kind != "person" or approved.actor.name == lease.owner.username):
            yield Finding(f"lease:{lease_id}", f"was approved by {approved.actor.name}, who may not")
        elif approved and lease.decided_by_id in (None, lease.owner_id):
            yield Finding(f"lease:{lease_id}", "does not name the person who decided")
    for bookings in undecided.values():
        yield from _beyond_limit(bookings)


def _undecided(lease: Lease, limit: int, asked_at: datetime) -> _Booked:
    ends_at = min(lease.ends_at, lease.stopped_at or lease.ends_at)
    order = int(asked_at.timestamp() * 1_000_000)
    return _Booked(lease.starts_at, ends_at, order, lease.pk, lease.flavor.gpu_count, limit)


def _gpus_allowed(asked: Change) -> int:
    """How many GPUs at once its tenant could have had without a decision when it was booked."""
    return int(float(asked.detail.get("limits", {}).get("gpus", 0)))


def _beyond_limit(bookings: list[_Booked]) -> Iterator[Finding]:
    """At each start, what ran together must have been inside the limit when the last of it was booked."""
    current: list[_Booked] = []
    for booking in sorted(bookings):
        current = [other for other in current if other.ends_at > booking.starts_at]
        if booking.ends_at > booking.starts_at:
            current.append(booking)
            last = max(current, key=lambda other: other.number)
            gpus = sum(other.gpus for other in current)
            if gpus > last.limit:
                yield Finding(
                    f"lease:{last.lease_id}",
                    f"brought its tenant to {gpus} GPUs at once; {last.limit} need no decision",
                )
