"""What hosts say of the inside of machines."""

from __future__ import annotations

from django.db import models

from leasing.models.leases import Lease


class Guest(models.Model):
    """A lease's machine as its host last told of it: a hosts.protocol.messages.GuestFacts.

    Host name, system and addresses are the guest's own words, and decide nothing. `answered_at` is since when
    somebody in it answers; `told_at` when the host last looked.
    """

    lease = models.OneToOneField(Lease, models.CASCADE, primary_key=True, related_name="guest")
    answers = models.CharField(max_length=5, default="none")
    answered_at = models.DateTimeField(null=True)
    hostname = models.CharField(max_length=63, blank=True)
    system = models.CharField(max_length=80, blank=True)
    addresses = models.JSONField(default=list)
    use = models.CharField(max_length=9, default="unknown")
    used_at = models.DateTimeField(null=True)
    told_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.lease_id}: {self.answers}, {self.use}"
