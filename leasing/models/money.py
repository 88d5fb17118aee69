"""Usage: spans of time in which a lease, or a volume that is kept, is billed at one rate."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from leasing.models.homes import HomeVolume
from leasing.models.leases import Lease
from leasing.models.people import Person, Tenant


class UsageSegment(models.Model):
    """`[starts_at, ends_at)` at a rate; an open one is still running. Zero-rated ones carry their cause.

    It is of a lease or of a volume, which is `tenant`'s. `person` is whose it was then.
    """

    class Cause(models.TextChoices):
        USE = "use", _("use")
        OVERRUN = "overrun", _("overrun after the end, free")
        OUTAGE = "outage", _("outage of ours, free")
        STORED = "stored", _("kept files")

    tenant = models.ForeignKey(Tenant, models.PROTECT, related_name="+")
    lease = models.ForeignKey(Lease, models.PROTECT, null=True, related_name="segments")
    volume = models.ForeignKey(HomeVolume, models.PROTECT, null=True, related_name="segments")
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
                condition=Q(lease__isnull=False, volume__isnull=True) & ~Q(cause="stored")
                | Q(lease__isnull=True, volume__isnull=False, cause="stored"),
                name="leasing_usagesegment_of_lease_or_volume",
            ),
            models.UniqueConstraint(
                fields=["volume"],
                condition=Q(ends_at__isnull=True),
                name="leasing_usagesegment_one_stored_open",
            ),
            models.UniqueConstraint(
                fields=["volume", "starts_at"],
                condition=Q(volume__isnull=False),
                name="leasing_usagesegment_one_stored_per_start",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.lease_id or self.volume_id} {self.cause}"
