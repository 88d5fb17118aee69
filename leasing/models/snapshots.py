"""Snapshots: copies of leases' disks that people keep."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q

from hosts.models import StoragePool
from leasing.models.catalogue import Image
from leasing.models.leases import Lease
from leasing.models.people import Person, Tenant
from leasing.states.snapshot import SnapshotState


class Snapshot(models.Model):
    """A copy of a lease's disk, in the pool of its host; it is its person's, and its team pays for it.

    `state` is written by leasing.snapshots alone. The disk has `size_gib`; the copy takes `size_bytes` once
    it is taken. `sealed_key` opens it, sealed by the portal (leasing.keys); it goes when the snapshot is
    gone. `generation` counts goals whose subject is this snapshot. `image` is what the disk began with.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, models.PROTECT, related_name="snapshots")
    person = models.ForeignKey(Person, models.PROTECT, related_name="snapshots")
    pool = models.ForeignKey(StoragePool, models.PROTECT, related_name="snapshots")
    lease = models.ForeignKey(Lease, models.PROTECT, related_name="snapshots")
    image = models.ForeignKey(Image, models.PROTECT, related_name="+")
    size_gib = models.PositiveIntegerField(validators=[MinValueValidator(1)])
    size_bytes = models.PositiveBigIntegerField(null=True)
    state = models.CharField(max_length=8, choices=[(s.value, s.value) for s in SnapshotState])
    state_since = models.DateTimeField()
    generation = models.PositiveBigIntegerField(default=0)
    sealed_key = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField()
    # It is billed from the one to the other: when the copy was whole, and when its removal was ordered.
    taken_at = models.DateTimeField(null=True)
    kept_until = models.DateTimeField(null=True)
    # When its removal is ordered again, should no host have said that it is gone.
    removal_due_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["lease"],
                condition=Q(state__in=[SnapshotState.WANTED, SnapshotState.TAKING]),
                name="leasing_snapshot_one_at_a_time",
            ),
            models.CheckConstraint(
                condition=~Q(state=SnapshotState.KEPT)
                | Q(size_bytes__isnull=False, taken_at__isnull=False, sealed_key__gt=""),
                name="leasing_snapshot_kept_is_whole",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.lease.machine_name} in {self.pool}"

    @property
    def name(self) -> str:
        """What it is called on invoices."""
        return f"snapshot-{self.pk.hex[:8]}"

    @property
    def billed_since(self) -> datetime | None:
        return self.taken_at

    @property
    def billed_gib(self) -> int:
        """What it takes of the storage, and the GiB that it began."""
        return -(-(self.size_bytes or 0) // 1024**3)

    @property
    def kept_gib(self) -> float | None:
        """What it takes of the storage."""
        return None if self.size_bytes is None else self.size_bytes / 1024**3
