"""Invitations into a tenant, and what operators stop in an emergency."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from hosts.models import Host
from leasing.models.openings import Closure
from leasing.models.people import Person, Tenant


class Invitation(models.Model):
    """Whoever has its secret, which is kept as a hash, may join the tenant once, in these roles."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="invitations")
    email = models.EmailField()
    roles = models.JSONField(default=list)
    secret_sha256 = models.CharField(max_length=64, unique=True)
    invited_by = models.ForeignKey(Person, models.PROTECT, related_name="+")
    invited_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)
    used_by = models.ForeignKey(Person, models.PROTECT, null=True, related_name="+")
    withdrawn_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-invited_at"]
        constraints = [
            models.CheckConstraint(
                condition=Q(used_at=None, used_by=None) | Q(used_at__isnull=False, used_by__isnull=False),
                name="leasing_invitation_used_by",
            )
        ]

    def __str__(self) -> str:
        return f"{self.email} into {self.tenant}"


class EmergencyStop(models.Model):
    """An operator keeps a host, a tenant or everything from being booked, from running machines, or both.

    It counts until it is lifted. That of a host closes it as well (`closure`).
    """

    class Scope(models.TextChoices):
        HOST = "host", _("one host")
        TENANT = "tenant", _("one team")
        ALL = "all", _("everything")

    scope = models.CharField(max_length=6, choices=Scope)
    host = models.ForeignKey(Host, models.PROTECT, null=True, related_name="+")
    tenant = models.ForeignKey(Tenant, models.PROTECT, null=True, related_name="stops")
    bookings = models.BooleanField()
    machines = models.BooleanField()
    reason = models.CharField(max_length=200)
    made_by = models.ForeignKey(Person, models.PROTECT, related_name="+")
    made_at = models.DateTimeField()
    closure = models.ForeignKey(Closure, models.SET_NULL, null=True, related_name="+")
    lifted_by = models.ForeignKey(Person, models.PROTECT, null=True, related_name="+")
    lifted_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-made_at", "-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(scope="host", host__isnull=False, tenant=None)
                | Q(scope="tenant", host=None, tenant__isnull=False)
                | Q(scope="all", host=None, tenant=None),
                name="leasing_emergencystop_of_what",
            ),
            models.CheckConstraint(
                condition=Q(bookings=True) | Q(machines=True), name="leasing_emergencystop_of_something"
            ),
        ]

    def __str__(self) -> str:
        return str(self.host or self.tenant or self.get_scope_display())
