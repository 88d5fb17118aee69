"""Calendar feeds: addresses that calendars read without signing in."""

from __future__ import annotations

import uuid

from django.db import models

from hosts.models import GpuModel
from leasing.models.people import Person


class CalendarFeed(models.Model):
    """What a person may see, for their calendar: their own workstations, or those of a GPU model.

    Whoever has the secret, which is kept as a hash, reads what the person may see then, and nothing else.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    person = models.ForeignKey(Person, models.CASCADE, related_name="feeds")
    model = models.ForeignKey(GpuModel, models.CASCADE, null=True, related_name="+")
    name = models.CharField(max_length=60)
    secret_sha256 = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField()
    last_read_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["created_at", "id"]

    def __str__(self) -> str:
        return self.name
