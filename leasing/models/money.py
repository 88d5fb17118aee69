"""Usage: spans of time in which a lease, or a volume that is kept, is billed at one rate."""

from __future__ import annotations

from collections.abc import Iterator

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from leasing.models.homes import HomeVolume
from leasing.models.leases import Lease
from leasing.models.people import Person, Tenant
from leasing.models.snapshots import Snapshot


def _kept_once(what: str) -> Iterator[models.UniqueConstraint]:
    """At most one line of it is open, and at most one begins at a time."""
    is_open = Q(ends_at__isnull=True)
    yield models.UniqueConstraint(
        fields=[what], condition=is_open, name=f"leasing_usagesegment_one_{what}_open"
    )
    yield models.UniqueConstraint(
        fields=[what, "starts_at"],
        condition=Q(**{f"{what}__isnull": False}),
        name=f"leasing_usagesegment_one_{what}_per_start",
    )


class UsageSegment(models.Model):
    """`[starts_at, ends_at)` at a rate; an open one is still running. Zero-rated ones carry their cause.

    It is of a lease of `tenant`'s, or of a home volume or snapshot that takes so many `gib`. `person` is
    whose it was then.
    """

    class Cause(models.TextChoices):
        USE = "use", _("use")
        OVERRUN = "overrun", _("overrun after the end, free")
        OUTAGE = "outage", _("outage of ours, free")
        STORED = "stored", _("kept files")

    tenant = models.ForeignKey(Tenant, models.PROTECT, related_name="+")
    lease = models.ForeignKey(Lease, models.PROTECT, null=True, related_name="segments")
    volume = models.ForeignKey(HomeVolume, models.PROTECT, null=True, related_name="segments")
    snapshot = models.ForeignKey(Snapshot, models.PROTECT, null=True, related_name="segments")
    gib = models.PositiveIntegerField(default=0)
    person = models.ForeignKey(Person, models.PROTECT, related_name="+")
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True)
    rate_per_hour = models.DecimalField(max_digits=12, decimal_places=4)
    currency = models.CharField(max_length=3)
    cause = models.CharField(max_length=7, choices=Cause, default=Cause.USE)

    class Meta:
        ordering = ["lease", "starts_at"]
        constraints = [
            models.CheckConstraint(
                condition=Q(ends_at__isnull=True) | Q(ends_at__gt=F("starts_at")),
                name="leasing_usagesegment_not_empty",
            ),
            models.UniqueConstraint(
                fields=["lease"], condition=Q(ends_at__isnull=True), name="leasing_usagesegment_one_open"
            ),
            models.UniqueConstraint(fields=["lease", "starts_at"], name="leasing_usagesegment_one_per_start"),
            models.CheckConstraint(
                condition=Q(lease__isnull=False, volume__isnull=True, snapshot__isnull=True, gib=0)
                & ~Q(cause="stored")
                | Q(lease__isnull=True, volume__isnull=False, snapshot__isnull=True, cause="stored")
                | Q(lease__isnull=True, volume__isnull=True, snapshot__isnull=False, cause="stored"),
                name="leasing_usagesegment_of_one_thing",
            ),
            *_kept_once("volume"),
            *_kept_once("snapshot"),
        ]

    def __str__(self) -> str:
        return f"{self.lease_id or self.volume_id or self.snapshot_id} {self.cause}"

    @property
    def kept(self) -> HomeVolume | Snapshot | None:
        """What is kept, if it is no lease."""
        return self.volume or self.snapshot
