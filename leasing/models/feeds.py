"""Calendar feeds: secret addresses that calendar programs read without signing in."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from hosts.models import GpuModel
from leasing.models.people import Person


class CalendarFeed(models.Model):
    """A person's own workstations, or with `model` that pool as they may see it. The secret is hashed."""

    person = models.ForeignKey(Person, models.CASCADE, related_name="feeds")
    model = models.ForeignKey(GpuModel, models.CASCADE, null=True, related_name="+")
    secret_sha256 = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True)
    read_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.CheckConstraint(condition=~Q(secret_sha256=""), name="leasing_calendarfeed_has_secret")
        ]

    def __str__(self) -> str:
        return f"{self.model or 'own'} for {self.person}"
