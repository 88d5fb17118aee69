"""SSH keys: how a person proves to a workstation that it is theirs."""

from __future__ import annotations

import uuid

from django.db import models

from leasing.models.people import Person


class SshKey(models.Model):
    """A public key. Its person's workstations know it from their start. `text` is its type and its bytes."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    person = models.ForeignKey(Person, models.CASCADE, related_name="ssh_keys")
    name = models.CharField(max_length=60)
    text = models.CharField(max_length=1500)
    fingerprint = models.CharField(max_length=60)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["created_at", "id"]
        constraints = [
            models.UniqueConstraint(fields=["person", "fingerprint"], name="leasing_sshkey_once_per_person")
        ]

    def __str__(self) -> str:
        return self.name
