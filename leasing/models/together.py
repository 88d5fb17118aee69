"""A lease that several people have to do with: shares, hand-overs and notes."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from leasing.models.leases import Lease
from leasing.models.people import Person
from leasing.reasons import ReasonField

LONGEST_NOTE = 500


class Share(models.Model):
    """A colleague sees a running lease of somebody else, or also has its power switch and its console.

    It counts while it is open, the lease runs and the colleague is a member of its tenant (leasing.policy).
    """

    class Level(models.TextChoices):
        VIEW = "view", _("sees it")
        USE = "use", _("uses it: power and console")

    lease = models.ForeignKey(Lease, models.CASCADE, related_name="shares")
    person = models.ForeignKey(Person, models.PROTECT, related_name="shares")
    level = models.CharField(max_length=4, choices=Level)
    shared_by = models.ForeignKey(Person, models.PROTECT, related_name="+")
    shared_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["shared_at", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["lease", "person"], condition=Q(closed_at=None), name="leasing_share_one_open"
            )
        ]

    def __str__(self) -> str:
        return f"{self.person} and {self.lease_id}"


class HandOver(models.Model):
    """One person offers their lease to another of the tenant, who accepts, or does not.

    Of what was accepted, `decided_at` is since when the lease and its cost are the other's. What is outside
    the other's limits (`because`) is accepted once somebody who may except it agrees (`decided_by`).
    """

    class State(models.TextChoices):
        OPEN = "open", _("waits for an answer")
        ASKED = "asked", _("waits for an approver")
        ACCEPTED = "accepted", _("accepted")
        DECLINED = "declined", _("declined")
        WITHDRAWN = "withdrawn", _("taken back")
        REFUSED = "refused", _("not approved")

    WAITING = (State.OPEN, State.ASKED)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    lease = models.ForeignKey(Lease, models.PROTECT, related_name="hand_overs")
    giver = models.ForeignKey(Person, models.PROTECT, related_name="+")
    taker = models.ForeignKey(Person, models.PROTECT, related_name="hand_overs")
    note = models.CharField(max_length=LONGEST_NOTE, blank=True)
    offered_at = models.DateTimeField()
    state = models.CharField(max_length=9, choices=State, default=State.OPEN)
    decided_at = models.DateTimeField(null=True)
    because = ReasonField()
    decided_by = models.ForeignKey(Person, models.PROTECT, null=True, related_name="+")
    decision_note = models.CharField(max_length=LONGEST_NOTE, blank=True)

    class Meta:
        ordering = ["offered_at", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["lease"],
                condition=Q(state__in=["open", "asked"]),
                name="leasing_handover_one_open",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["open", "asked"], decided_at=None)
                | ~Q(state__in=["open", "asked"]) & Q(decided_at__isnull=False),
                name="leasing_handover_decided_when",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.lease_id} to {self.taker}: {self.state}"


class LeaseNote(models.Model):
    """What somebody wants the next approver to know. Those of approvers are not for the lease's owner."""

    lease = models.ForeignKey(Lease, models.CASCADE, related_name="notes")
    author = models.ForeignKey(Person, models.PROTECT, related_name="+")
    text = models.CharField(max_length=LONGEST_NOTE)
    written_at = models.DateTimeField()

    class Meta:
        ordering = ["written_at", "id"]

    def __str__(self) -> str:
        return self.text
