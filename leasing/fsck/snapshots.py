"""Check that snapshots are their people's, that they can be opened, and that none is awaited in vain."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from django.db.models import F, Q

from leasing.fsck.finding import Finding
from leasing.models import Lease, Snapshot
from leasing.states.lease import AHEAD, RUNNING, LeaseState
from leasing.states.snapshot import SnapshotState


def snapshots_are_where_they_belong(now: datetime) -> Iterator[Finding]:
    """A snapshot is awaited of a lease that runs or ends, has a key until it is gone, and is its person's"""
    awaited = Snapshot.objects.filter(state__in=(SnapshotState.WANTED, SnapshotState.TAKING))
    for each in awaited.select_related("lease"):
        may_be = (*RUNNING, LeaseState.RELEASING) if each.state == SnapshotState.TAKING else RUNNING
        if each.lease.state not in may_be:
            yield _finding(each, f"is {each.state}, and lease {each.lease_id} is {each.lease.state}")
    gone = Q(state=SnapshotState.REMOVED)
    for each in Snapshot.objects.filter(gone & ~Q(sealed_key="")):
        yield _finding(each, "is removed, and its key is kept")
    for each in Snapshot.objects.filter(~gone & Q(sealed_key="")):
        yield _finding(each, f"is {each.state}, and nothing opens it")
    begun = Lease.objects.filter(snapshot__isnull=False).select_related("snapshot", "host")
    for lease in begun.exclude(owner=F("snapshot__person"), tenant=F("snapshot__tenant")):
        if lease.state in AHEAD:
            yield Finding(f"lease:{lease.pk}", f"is to start from snapshot {lease.snapshot_id} of another")
    for lease in begun.filter(state__in=(*AHEAD, LeaseState.PROVISIONING)):
        assert lease.snapshot is not None  # noqa: S101 - asked for above
        if lease.snapshot.state != SnapshotState.KEPT:
            state = lease.snapshot.state
            yield Finding(f"lease:{lease.pk}", f"is to start from snapshot {lease.snapshot_id}: {state}")
        if lease.host is not None and lease.host.pool_id != lease.snapshot.pool_id:
            yield Finding(f"lease:{lease.pk}", "is to start from a snapshot in another pool")


def _finding(snapshot: Snapshot, words: str) -> Finding:
    return Finding(f"snapshot:{snapshot.pk}", words)
