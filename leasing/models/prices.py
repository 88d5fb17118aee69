"""What things cost: rates of flavors, discounts of tenants, tax. What is in force is only ever ended."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Q

from leasing.models.catalogue import Flavor
from leasing.models.people import Tenant, check_zone

CURRENCY = RegexValidator(r"^[A-Z]{3}\Z")
PERCENT = [MinValueValidator(0), MaxValueValidator(100)]


def _not_empty(table: str) -> models.CheckConstraint:
    return models.CheckConstraint(
        condition=Q(valid_until__isnull=True) | Q(valid_until__gt=F("valid_from")),
        name=f"leasing_{table}_not_empty",
    )


def _percent(table: str, field: str = "percent") -> models.CheckConstraint:
    inside = Q(**{f"{field}__gte": 0, f"{field}__lte": 100})
    return models.CheckConstraint(condition=inside, name=f"leasing_{table}_{field}")


class Rate(models.Model):
    """Price of a flavor per hour while valid, `[valid_from, valid_until)`; no end means until replaced.

    `per_hour` counts in the peak hours, which are those of a zone on ISO weekdays `peak_days`, from one full
    hour to another; outside of them `off_peak_per_hour`, if there is one. What is booked at least
    `reserved_hours` ahead costs `reserved_percent` less.
    """

    flavor = models.ForeignKey(Flavor, models.PROTECT, related_name="rates")
    per_hour = models.DecimalField(max_digits=12, decimal_places=4, validators=[MinValueValidator(0)])
    currency = models.CharField(max_length=3, validators=[CURRENCY])
    off_peak_per_hour = models.DecimalField(
        max_digits=12, decimal_places=4, null=True, blank=True, validators=[MinValueValidator(0)]
    )
    peak_days = models.CharField(max_length=7, default="12345", validators=[RegexValidator(r"^[1-7]{1,7}\Z")])
    peak_from_hour = models.PositiveSmallIntegerField(default=8, validators=[MaxValueValidator(23)])
    peak_until_hour = models.PositiveSmallIntegerField(default=20, validators=[MaxValueValidator(24)])
    peak_zone = models.CharField(max_length=64, default="UTC", validators=[check_zone])
    reserved_hours = models.PositiveIntegerField(default=0)
    reserved_percent = models.DecimalField(max_digits=5, decimal_places=2, default=0, validators=PERCENT)
    valid_from = models.DateTimeField()
    valid_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["flavor", "valid_from"]
        constraints = [
            models.UniqueConstraint(fields=["flavor", "valid_from"], name="leasing_rate_one_per_start"),
            _not_empty("rate"),
            _percent("rate", "reserved_percent"),
            models.CheckConstraint(
                condition=Q(peak_from_hour__lt=F("peak_until_hour"), peak_until_hour__lte=24),
                name="leasing_rate_peak_hours",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.per_hour} {self.currency}/h"


class Discount(models.Model):
    """So many per cent less for a tenant, for one flavor or for all; one for the flavor counts first."""

    tenant = models.ForeignKey(Tenant, models.PROTECT, related_name="discounts")
    flavor = models.ForeignKey(Flavor, models.PROTECT, null=True, blank=True, related_name="+")
    percent = models.DecimalField(max_digits=5, decimal_places=2, validators=PERCENT)
    valid_from = models.DateTimeField()
    valid_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["tenant", "-valid_from", "-id"]
        constraints = [_not_empty("discount"), _percent("discount")]

    def __str__(self) -> str:
        return f"{self.percent} %"


class StorageRate(models.Model):
    """Price of what is kept, per GiB and month of 730 hours, from a time on until it is replaced."""

    per_gib_month = models.DecimalField(max_digits=12, decimal_places=4, validators=[MinValueValidator(0)])
    currency = models.CharField(max_length=3, validators=[CURRENCY])
    valid_from = models.DateTimeField(unique=True)

    class Meta:
        ordering = ["valid_from"]

    def __str__(self) -> str:
        return f"{self.per_gib_month} {self.currency}/GiB"


class TaxRate(models.Model):
    """What invoices bear: that of the tenant, else of its region, else that of no region at all."""

    tenant = models.ForeignKey(Tenant, models.PROTECT, null=True, blank=True, related_name="tax_rates")
    region = models.CharField(max_length=20, blank=True)
    label = models.CharField(max_length=40)
    percent = models.DecimalField(max_digits=5, decimal_places=2, validators=PERCENT)
    valid_from = models.DateTimeField()
    valid_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["region", "-valid_from", "-id"]
        constraints = [
            _not_empty("taxrate"),
            _percent("taxrate"),
            models.CheckConstraint(
                condition=Q(tenant__isnull=True) | Q(region=""), name="leasing_taxrate_tenant_or_region"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.label} {self.percent} %"
