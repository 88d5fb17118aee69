"""Tokens with which a hypervisor may be let in, once."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from hosts.models import HOST_NAME, Host
from leasing.models.people import Person


class EnrolmentToken(models.Model):
    """Lets in a new host under `name`, or gives `host` new keys. Only the SHA-256 of its text is kept.

    `used_by` is the host that it has let in: that one may ask again with the same keys, as answers get lost.
    """

    digest = models.CharField(max_length=64, unique=True)
    name = models.CharField(max_length=63, validators=[HOST_NAME])
    host = models.ForeignKey(Host, models.PROTECT, null=True, related_name="tokens")
    simulated = models.BooleanField(default=False)
    created_by = models.ForeignKey(Person, models.PROTECT, null=True, related_name="+")
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)
    used_by = models.ForeignKey(Host, models.PROTECT, null=True, related_name="+")
    withdrawn_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(expires_at__gt=F("created_at")), name="leasing_enrolmenttoken_not_empty"
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} until {self.expires_at:%Y-%m-%d %H:%M}"
