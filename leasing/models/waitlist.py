"""Who waits for what: entries of the waitlist."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from hosts.models import Gpu, UsbDevice
from leasing.models.catalogue import Flavor, Image
from leasing.models.people import Person, Tenant
from leasing.models.snapshots import Snapshot
from leasing.reasons import ReasonField


class WaitlistEntry(models.Model):
    """A person waits for a flavor, `duration` long, not before `earliest_at`, begun by `last_start_at`, with
    their home volume, from a snapshot or with USB devices of one host if they say so.

    `rank_at` is its place in the line for the GPU model and never changes (leasing.lines). `fresh` means that
    what is free is still to be looked at for it. `passes` counts offers that its owner let pass. GPUs may be
    kept for it in `[kept_from, kept_until)` (leasing.keeping).
    """

    class Outcome(models.TextChoices):
        SERVED = "served", _("claimed")
        LEFT = "left", _("left")
        LAPSED = "lapsed", _("nothing came free in time")
        PASSED = "passed", _("offers were not claimed")
        WITHDRAWN = "withdrawn", _("no longer possible")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, models.PROTECT, related_name="+")
    owner = models.ForeignKey(Person, models.PROTECT, related_name="waitlist_entries")
    flavor = models.ForeignKey(Flavor, models.PROTECT, related_name="+")
    image = models.ForeignKey(Image, models.PROTECT, related_name="+")
    duration = models.DurationField()
    earliest_at = models.DateTimeField()
    last_start_at = models.DateTimeField()
    purpose = models.CharField(max_length=500, blank=True)
    with_home = models.BooleanField(default=False)
    snapshot = models.ForeignKey(Snapshot, models.PROTECT, null=True, related_name="+", db_index=False)
    devices = models.ManyToManyField(UsbDevice, related_name="+")
    joined_at = models.DateTimeField()
    rank_at = models.DateTimeField()
    fresh = models.BooleanField(default=True)
    passes = models.PositiveSmallIntegerField(default=0)
    kept_from = models.DateTimeField(null=True)
    kept_until = models.DateTimeField(null=True)
    kept_gpus = models.ManyToManyField(Gpu, related_name="+")
    closed_at = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=9, blank=True, choices=Outcome)
    outcome_reason = ReasonField()

    class Meta:
        ordering = ["rank_at", "joined_at", "id"]
        indexes = [
            models.Index(
                fields=["rank_at", "joined_at", "id"],
                name="leasing_waitlist_line",
                condition=Q(closed_at=None),
            ),
            models.Index(fields=["owner", "-joined_at"], name="leasing_waitlist_of_owner"),
            models.Index(
                fields=["last_start_at"], name="leasing_waitlist_due_to_lapse", condition=Q(closed_at=None)
            ),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(closed_at=None, outcome="") | Q(closed_at__isnull=False, outcome__gt=""),
                name="leasing_waitlist_closed_has_outcome",
            ),
            models.CheckConstraint(
                condition=Q(rank_at__gte=models.F("joined_at")), name="leasing_waitlist_rank_not_early"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.owner} waits for {self.flavor}"

    @property
    def deadline_at(self) -> datetime:
        """The latest end."""
        return self.last_start_at + self.duration
