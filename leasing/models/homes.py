"""Home volumes: disks that people keep from one lease to the next."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q

from hosts.models import StoragePool
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
