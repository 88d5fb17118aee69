"""Home volumes: disks that people keep from one lease to the next."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q

from hosts.models import Host, StoragePool
from leasing.models.leases import Lease
from leasing.models.people import Person, Tenant
from leasing.states.home import HomeState


class HomeVolume(models.Model):
    """A person's volume in one pool, which one team pays for. `lease` has it while it is attached.

    `state` is written by leasing.homes alone. `made_at` is when a machine first ran with it: before that it
    may not exist. `sealed_key` opens it, sealed by the portal (leasing.keys); it goes when the volume is
    gone. `generation` counts goals whose subject is this volume. It is billed from `made_at` until
    `kept_until`, when its removal was ordered (leasing.storing).
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, models.PROTECT, related_name="homes")
    person = models.ForeignKey(Person, models.PROTECT, related_name="homes")
    pool = models.ForeignKey(StoragePool, models.PROTECT, related_name="homes")
    size_gib = models.PositiveIntegerField(validators=[MinValueValidator(1)])
    state = models.CharField(max_length=8, choices=[(s.value, s.value) for s in HomeState])
    state_since = models.DateTimeField()
    lease = models.OneToOneField(Lease, models.PROTECT, null=True, related_name="home")
    last_lease = models.ForeignKey(Lease, models.PROTECT, null=True, related_name="+")
    generation = models.PositiveBigIntegerField(default=0)
    sealed_key = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField()
    made_at = models.DateTimeField(null=True)
    kept_until = models.DateTimeField(null=True)
    # When its removal is ordered again, should no host have said that it is gone.
    removal_due_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["created_at", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "person", "pool"],
                condition=~Q(state=HomeState.REMOVED),
                name="leasing_home_one_in_a_pool",
            ),
            models.CheckConstraint(
                condition=Q(state=HomeState.ATTACHED, lease__isnull=False)
                | (~Q(state=HomeState.ATTACHED) & Q(lease__isnull=True)),
                name="leasing_home_attached_to_one_lease",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.person} in {self.pool}"

    @property
    def name(self) -> str:
        """What it is called on invoices."""
        return f"home-{self.pk.hex[:8]}"

    @property
    def billed_since(self) -> datetime | None:
        return self.made_at

    @property
    def billed_gib(self) -> int:
        return self.size_gib


class HomeReading(models.Model):
    """One look into a volume that no lease has: a folder's list, a file, or a folder as an archive.

    The host dials in with a token that is stored hashed and good once; what is downloaded goes to the browser
    session, or API token, that asked for it, once. `listing` is what a folder holds, gone some minutes later.
    `wanted_back_at`: a lease is due, and the reading ends. It is over at `ended_at`; `reason` says what went
    wrong, if anything did.
    """

    class Wanted(models.TextChoices):
        LIST = "list"
        FILE = "file"
        ARCHIVE = "archive"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    volume = models.ForeignKey(HomeVolume, models.PROTECT, related_name="readings")
    person = models.ForeignKey(Person, models.PROTECT, related_name="+")
    host = models.ForeignKey(Host, models.PROTECT, related_name="+")
    wanted = models.CharField(max_length=7, choices=Wanted.choices)
    path = models.CharField(max_length=1000, blank=True)
    session_key = models.CharField(max_length=64)
    token_sha256 = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    token_used_at = models.DateTimeField(null=True)
    taken_at = models.DateTimeField(null=True)
    # The host's connection has ended: its report is to follow.
    closed_at = models.DateTimeField(null=True)
    wanted_back_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    was_clean = models.BooleanField(null=True)
    listing = models.JSONField(null=True)
    reason = models.TextField(blank=True)

    class Meta:
        ordering = ["-created_at", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["volume"], condition=Q(ended_at=None), name="leasing_reading_one_at_a_time"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.wanted} of {self.volume_id}"
