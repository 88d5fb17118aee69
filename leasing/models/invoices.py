"""What was billed, once and for all: closed months, invoices, credit notes; and what was of no use, free."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from hosts.models import Gpu, GpuModel, Host
from leasing.models.leases import LONGEST_TAG, Lease
from leasing.models.money import UsageSegment
from leasing.models.people import Person, Tenant
from leasing.reasons import ReasonField


class Outage(models.Model):
    """`[starts_at, ends_at)` in which a host, one GPU, or all GPUs of a model were of no use: it is free.

    One that was withdrawn counts for nothing from then on.
    """

    host = models.ForeignKey(Host, models.PROTECT, null=True, related_name="outages")
    gpu = models.ForeignKey(Gpu, models.PROTECT, null=True, related_name="outages")
    model = models.ForeignKey(GpuModel, models.PROTECT, null=True, related_name="outages")
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    reason = models.CharField(max_length=200)
    recorded_by = models.ForeignKey(Person, models.PROTECT, null=True, related_name="+")
    recorded_at = models.DateTimeField()
    withdrawn_at = models.DateTimeField(null=True)
    withdrawn_by = models.ForeignKey(Person, models.PROTECT, null=True, related_name="+")
    withdrawn_because = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ["-starts_at", "-id"]
        constraints = [
            models.CheckConstraint(condition=Q(starts_at__lt=F("ends_at")), name="leasing_outage_not_empty"),
            models.CheckConstraint(
                condition=Q(host__isnull=False, gpu__isnull=True, model__isnull=True)
                | Q(host__isnull=True, gpu__isnull=False, model__isnull=True)
                | Q(host__isnull=True, gpu__isnull=True, model__isnull=False),
                name="leasing_outage_of_one_thing",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.what} {self.starts_at:%F %T} – {self.ends_at:%F %T}"

    @property
    def what(self) -> Host | Gpu | GpuModel:
        found = self.host or self.gpu or self.model
        assert found is not None  # noqa: S101 - a constraint says so
        return found


class NumberSeries(models.Model):
    """The last number given out in a series. Whoever takes one has locked the row until it is used."""

    name = models.CharField(max_length=10, unique=True)
    last = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return f"{self.name}: {self.last}"


class MonthClose(models.Model):
    """A month of a tenant, in the tenant's zone, is closed: `[starts_at, ends_at)`."""

    tenant = models.ForeignKey(Tenant, models.PROTECT, related_name="closed_months")
    month = models.CharField(max_length=7)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    closed_at = models.DateTimeField()
    closed_by = models.ForeignKey(Person, models.PROTECT, null=True, related_name="+")

    class Meta:
        ordering = ["-month", "tenant"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "month"], name="leasing_monthclose_one_per_month")
        ]

    def __str__(self) -> str:
        return f"{self.tenant} {self.month}"


class Invoice(models.Model):
    """An invoice over a month, or a credit note that corrects one. Amounts of credit notes are negative.

    Names and addresses are those of the day on which it was issued. Never changed.
    """

    class Kind(models.TextChoices):
        INVOICE = "invoice", _("invoice")
        CREDIT = "credit", _("credit note")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=7, choices=Kind)
    number = models.CharField(max_length=20, unique=True)
    tenant = models.ForeignKey(Tenant, models.PROTECT, related_name="invoices")
    month = models.CharField(max_length=7)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    zone = models.CharField(max_length=64)
    currency = models.CharField(max_length=3)
    net = models.DecimalField(max_digits=16, decimal_places=2)
    tax_label = models.CharField(max_length=40, blank=True)
    tax_percent = models.DecimalField(max_digits=5, decimal_places=2)
    tax = models.DecimalField(max_digits=16, decimal_places=2)
    gross = models.DecimalField(max_digits=16, decimal_places=2)
    issued_at = models.DateTimeField()
    corrects = models.ForeignKey("self", models.PROTECT, null=True, related_name="credit_notes")
    reason = ReasonField()
    issuer = models.CharField(max_length=500, blank=True)
    tenant_name = models.CharField(max_length=100)
    tenant_address = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["-month", "-issued_at", "-number"]
        indexes = [models.Index(fields=["tenant", "-month"], name="leasing_invoice_of_tenant")]
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "month", "currency"],
                condition=Q(kind="invoice"),
                name="leasing_invoice_one_per_month",
            ),
            models.CheckConstraint(
                condition=Q(kind="invoice", corrects__isnull=True)
                | Q(kind="credit", corrects__isnull=False, net__lte=0),
                name="leasing_invoice_credit_corrects",
            ),
        ]

    def __str__(self) -> str:
        return self.number


class InvoiceLine(models.Model):
    """One usage segment as it was billed; or, on a credit note, how much less of such a line is due.

    `seconds` and `amount` of the latter are negative. No segment is in two lines. A volume that is kept has
    neither a lease nor GPUs.
    """

    invoice = models.ForeignKey(Invoice, models.PROTECT, related_name="lines")
    position = models.PositiveIntegerField()
    segment = models.OneToOneField(UsageSegment, models.PROTECT, null=True, related_name="line")
    corrects = models.ForeignKey("self", models.PROTECT, null=True, related_name="credits")
    lease = models.ForeignKey(Lease, models.PROTECT, null=True, related_name="invoice_lines")
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    seconds = models.BigIntegerField()
    rate_per_hour = models.DecimalField(max_digits=12, decimal_places=4)
    amount = models.DecimalField(max_digits=16, decimal_places=2)
    cause = models.CharField(max_length=7, choices=UsageSegment.Cause)
    flavor_name = models.CharField(max_length=100)
    gpu_model = models.CharField(max_length=100, blank=True)
    gpus = models.PositiveSmallIntegerField()
    person_name = models.CharField(max_length=310)
    project = models.CharField(max_length=LONGEST_TAG, blank=True)
    cost_centre = models.CharField(max_length=LONGEST_TAG, blank=True)

    class Meta:
        ordering = ["invoice", "position"]
        constraints = [
            models.UniqueConstraint(
                fields=["invoice", "position"], name="leasing_invoiceline_one_per_position"
            ),
            models.CheckConstraint(
                condition=Q(segment__isnull=False, corrects__isnull=True)
                | Q(segment__isnull=True, corrects__isnull=False),
                name="leasing_invoiceline_bills_or_corrects",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.invoice_id}/{self.position}"


class BudgetWarning(models.Model):
    """A tenant's approvers were told that so many per cent of a month's budget are spoken for."""

    tenant = models.ForeignKey(Tenant, models.PROTECT, related_name="budget_warnings")
    month = models.CharField(max_length=7)
    percent = models.PositiveSmallIntegerField()
    warned_at = models.DateTimeField()

    class Meta:
        ordering = ["-warned_at"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "month", "percent"], name="leasing_budgetwarning_once")
        ]

    def __str__(self) -> str:
        return f"{self.month} {self.percent} %"
