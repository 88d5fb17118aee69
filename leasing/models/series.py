"""A repeated booking: one pattern of windows, with a lease for each."""

from __future__ import annotations

import uuid
from datetime import date

from django.core.validators import RegexValidator
from django.db import models
from django.db.models import F, Q

from leasing.models.catalogue import Flavor, Image
from leasing.models.people import Person, Tenant
from leasing.recurrence import Pattern


class Series(models.Model):
    """Windows of a flavor at local times, booked as one; its leases then live by themselves.

    `weekdays` are ISO digits, such as 12345. `left_out` are the dates, in ISO 8601, that the person agreed to
    do without: every other date of the pattern has a lease, whatever has become of it.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, models.PROTECT, related_name="series")
    owner = models.ForeignKey(Person, models.PROTECT, related_name="series")
    flavor = models.ForeignKey(Flavor, models.PROTECT, related_name="series")
    image = models.ForeignKey(Image, models.PROTECT, related_name="series")
    purpose = models.CharField(max_length=500, blank=True)
    weekdays = models.CharField(max_length=7, validators=[RegexValidator(r"^[1-7]{1,7}\Z")])
    starts = models.TimeField()
    ends = models.TimeField()
    zone = models.CharField(max_length=64)
    first_on = models.DateField()
    last_on = models.DateField()
    every_weeks = models.PositiveSmallIntegerField(default=1)
    left_out = models.JSONField(default=list, blank=True)
    requested_at = models.DateTimeField()

    class Meta:
        ordering = ["-requested_at", "id"]
        verbose_name_plural = "series"
        constraints = [
            models.CheckConstraint(condition=Q(first_on__lte=F("last_on")), name="leasing_series_not_empty"),
            models.CheckConstraint(condition=Q(every_weeks__gte=1), name="leasing_series_some_weeks"),
        ]

    def __str__(self) -> str:
        return f"{self.flavor} {self.pattern}"

    @property
    def pattern(self) -> Pattern:
        return Pattern(
            weekdays=frozenset(map(int, self.weekdays)),
            starts=self.starts,
            ends=self.ends,
            zone=self.zone,
            first_on=self.first_on,
            last_on=self.last_on,
            every_weeks=self.every_weeks,
        )

    @property
    def days_left_out(self) -> frozenset[date]:
        return frozenset(map(date.fromisoformat, self.left_out))
