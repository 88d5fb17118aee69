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
    kind = models.CharField(max_length=20)
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
    read_at = models.DateTimeField(null=True)
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


class NoticeSettings(models.Model):
    """By which ways a person wants to hear of which topics; without a row, of all of them by e-mail.

    The secret by which requests to `url` are signed is kept sealed (leasing.hooks). While `quiet_until` is
    ahead, the address is not asked: it did not take the last one.
    """

    person = models.OneToOneField(Person, models.CASCADE, related_name="notice_settings")
    email = models.JSONField(default=list)
    browser = models.JSONField(default=list)
    webhook = models.JSONField(default=list)
    url = models.CharField(max_length=500, blank=True)
    sealed_secret = models.CharField(max_length=300, blank=True)
    failures = models.PositiveIntegerField(default=0)
    quiet_until = models.DateTimeField(null=True)

    class Meta:
        verbose_name_plural = "notice settings"
        constraints = [
            models.CheckConstraint(
                condition=Q(url="", sealed_secret="") | Q(url__gt="", sealed_secret__gt=""),
                name="leasing_noticesettings_url_has_secret",
            )
        ]

    def __str__(self) -> str:
        return f"of {self.person}"


class HookDelivery(models.Model):
    """A notice on its way to its recipient's webhook: sent until it is taken, or has been tried enough.

    `answer` is the status that came back last, or the cause (leasing.hook_client) why there was none.
    """

    notice = models.OneToOneField(Notification, models.CASCADE, related_name="hook")
    next_send_at = models.DateTimeField(null=True)
    attempts = models.PositiveIntegerField(default=0)
    taken_at = models.DateTimeField(null=True)
    answer = models.CharField(max_length=40, blank=True)

    class Meta:
        ordering = ["-notice"]
        indexes = [
            models.Index(
                fields=["next_send_at"],
                name="leasing_hookdelivery_to_send",
                condition=Q(next_send_at__isnull=False),
            )
        ]

    def __str__(self) -> str:
        return f"{self.notice_id}: {self.answer or 'waits'}"
