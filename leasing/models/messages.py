"""What leaves the domain: commands to hosts and notices to people, as rows of the same transaction."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q

from hosts.models import Host
from leasing.models.leases import Lease
from leasing.models.people import Person


class OutboxMessage(models.Model):
    """A goal for a host. Sent until accepted or superseded; done when the host has answered it.

    `goal` is the goal's JSON; the command around it is signed anew for each sending, so it can expire.
    """

    command_id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    host = models.ForeignKey(Host, models.PROTECT, related_name="commands")
    lease = models.ForeignKey(Lease, models.CASCADE, null=True, related_name="commands")
    subject = models.CharField(max_length=80)
    generation = models.PositiveBigIntegerField()
    kind = models.CharField(max_length=12)
    goal = models.TextField()
    created_at = models.DateTimeField()
    deadline_at = models.DateTimeField(null=True)
    next_send_at = models.DateTimeField(null=True)
    attempts = models.PositiveIntegerField(default=0)
    accepted_at = models.DateTimeField(null=True)
    answered_at = models.DateTimeField(null=True)
    answer = models.CharField(max_length=2000, blank=True)

    class Meta:
        ordering = ["created_at"]
        indexes = [
            models.Index(
                fields=["next_send_at"],
                name="leasing_outbox_to_send",
                condition=Q(next_send_at__isnull=False),
            ),
            models.Index(
                fields=["deadline_at"],
                name="leasing_outbox_unanswered",
                condition=Q(answered_at__isnull=True),
            ),
            models.Index(fields=["subject", "generation"], name="leasing_outbox_of_subject"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.subject} #{self.generation}"


class Notification(models.Model):
    """A notice to one person, sent by e-mail; to an address for who has no account yet.

    A `secret` body is not kept: it is emptied when it was sent, or cannot be of use any more.
    """

    recipient = models.ForeignKey(Person, models.CASCADE, null=True, related_name="notifications")
    address = models.EmailField(blank=True)
    secret = models.BooleanField(default=False)
    lease = models.ForeignKey(Lease, models.CASCADE, null=True)
    kind = models.SlugField()
    subject = models.CharField(max_length=200)
    body = models.TextField()
    created_at = models.DateTimeField()
    next_send_at = models.DateTimeField(null=True)
    sent_at = models.DateTimeField(null=True)
    attempts = models.PositiveIntegerField(default=0)
    error = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.CheckConstraint(
                condition=Q(recipient__isnull=False, address="") | Q(recipient=None, address__gt=""),
                name="leasing_notification_to_somebody",
            )
        ]

    def __str__(self) -> str:
        return self.subject
