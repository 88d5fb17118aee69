"""Who waits for a workstation that nothing is free for."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from leasing.models.catalogue import Flavor, Image
from leasing.models.leases import Lease
from leasing.models.openings import Closure
from leasing.models.people import Person, Tenant


class WaitlistEntry(models.Model):
    """A wish for `duration_seconds` of a flavor, somewhere in `[earliest_at, latest_at)`.

    When a slot comes free, `offer` is the lease that holds it until it is claimed or its time is over.
    `closure` keeps a host for an entry that needs several GPUs and has waited long.
    """

    class State(models.TextChoices):
        WAITING = "waiting", _("waiting")
        OFFERED = "offered", _("held for you")
        BOOKED = "booked", _("booked")
        LAPSED = "lapsed", _("lapsed")
        LEFT = "left", _("left")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, models.PROTECT, related_name="waiting")
    person = models.ForeignKey(Person, models.PROTECT, related_name="waiting")
    flavor = models.ForeignKey(Flavor, models.PROTECT, related_name="+")
    image = models.ForeignKey(Image, models.PROTECT, related_name="+")
    duration_seconds = models.PositiveIntegerField()
    earliest_at = models.DateTimeField()
    latest_at = models.DateTimeField()
    purpose = models.CharField(max_length=500, blank=True)
    joined_at = models.DateTimeField()
    state = models.CharField(max_length=7, choices=State, default=State.WAITING)
    state_since = models.DateTimeField()
    missed_offers = models.PositiveSmallIntegerField(default=0)
    offer = models.OneToOneField(Lease, models.PROTECT, null=True, related_name="waited")
    closure = models.OneToOneField(Closure, models.SET_NULL, null=True, related_name="+")

    class Meta:
        ordering = ["joined_at", "id"]
        indexes = [
            models.Index(
                fields=["flavor", "joined_at"],
                name="leasing_waitlist_in_line",
                condition=Q(state__in=["waiting", "offered"]),
            ),
            models.Index(fields=["person", "-joined_at"], name="leasing_waitlist_of_person"),
        ]

    def __str__(self) -> str:
        return f"{self.person} for {self.flavor}"
