"""Who leases: people, and the tenants that they belong to."""

from __future__ import annotations

import uuid
import zoneinfo

from django.contrib.auth.models import AbstractUser
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _


def check_zone(name: str) -> None:
    if name not in zoneinfo.available_timezones():
        raise ValidationError(_("“%(zone)s” is not a time zone."), params={"zone": name})


class Person(AbstractUser):
    """Someone who can sign in. Global roles are permissions on this model, tenant roles are on the tenant."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    timezone = models.CharField(max_length=64, default="UTC", validators=[check_zone])
    # Whether letters and signs that are pressed alone do something on pages.
    shortcuts = models.BooleanField(default=True)
    language = models.CharField(max_length=10, blank=True)

    class Meta(AbstractUser.Meta):
        permissions = [
            ("operate_fleet", "Operate hosts, GPUs, images and flavors"),
            ("manage_money", "Set rates and close periods"),
            ("audit_everything", "Read everything, change nothing"),
        ]

    def __str__(self) -> str:
        return self.get_full_name() or self.username


class BudgetRule(models.TextChoices):
    """What becomes of a booking that a team's budget does not cover."""

    WARN = "warn", _("is booked; approvers are warned")
    APPROVE = "approve", _("waits for an approver")
    REFUSE = "refuse", _("is refused")


class Tenant(models.Model):
    """A team or department: the scope of quota, permissions and bills. Limits are in GPUs, hours and days."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=100)
    timezone = models.CharField(max_length=64, default="UTC", validators=[check_zone])
    longest_lease_hours = models.PositiveIntegerField(default=168, validators=[MinValueValidator(1)])
    book_ahead_days = models.PositiveIntegerField(default=60, validators=[MinValueValidator(1)])
    weight = models.PositiveIntegerField(
        default=1, validators=[MinValueValidator(1)], help_text=_("Its share of what is scarce")
    )
    concurrent_gpus = models.PositiveIntegerField(
        default=0, help_text=_("GPUs at the same time without asking for approval")
    )
    budget_rule = models.CharField(max_length=7, choices=BudgetRule, default=BudgetRule.APPROVE.value)
    region = models.CharField(max_length=20, blank=True, help_text=_("Which tax its invoices bear"))
    billing_address = models.CharField(max_length=500, blank=True)
    # Nothing new is booked for it: for good, or as long as operators stop it in an emergency.
    closed_at = models.DateTimeField(null=True, blank=True)
    no_bookings_since = models.DateTimeField(null=True, blank=True, editable=False)
    no_machines_since = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ["name"]
        default_permissions = ()
        permissions = [
            ("member", "Request workstations and use their own"),
            ("approver", "Approve requests, see fleet use and audit of the tenant"),
            ("finance", "See usage and export it"),
            ("owner", "Say who belongs to the tenant, and close it"),
        ]

    def __str__(self) -> str:
        return self.name
