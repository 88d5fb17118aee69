"""How much a tenant, or one person in it, may use without asking, and requests for more."""

from __future__ import annotations

import uuid

from django.core.validators import MinValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from hosts.models import GpuModel
from leasing.models.people import Person, Tenant


class QuotaKind(models.TextChoices):
    """What is limited; the unit of its value."""

    GPUS = "gpus", _("GPUs at the same time")
    GPU_HOURS = "gpu-hours", _("GPU-hours a month")
    LONGEST = "longest", _("hours of one lease")
    AHEAD = "ahead", _("days ahead")
    BUDGET = "budget", _("money a month")


class Quota(models.Model):
    """One limit of a tenant, or of one person in it; of one GPU model, or of all together.

    In force in `[valid_from, valid_until)`. The newest in force of the same tenant, person, kind and model
    counts, so that a grant until a date gives way by itself; with no value it lifts what was set before. Rows
    are never changed: they are the history.
    """

    tenant = models.ForeignKey(Tenant, models.PROTECT, related_name="quotas")
    person = models.ForeignKey(Person, models.PROTECT, null=True, related_name="quotas")
    kind = models.CharField(max_length=9, choices=QuotaKind)
    model = models.ForeignKey(GpuModel, models.PROTECT, null=True, related_name="+")
    value = models.DecimalField(max_digits=14, decimal_places=2, null=True, validators=[MinValueValidator(0)])
    currency = models.CharField(max_length=3, blank=True, validators=[RegexValidator(r"^[A-Z]{3}\Z")])
    valid_from = models.DateTimeField()
    valid_until = models.DateTimeField(null=True)
    granted_by = models.ForeignKey(Person, models.PROTECT, null=True, related_name="+")
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [models.Index(fields=["tenant", "kind", "-created_at"], name="leasing_quota_of_tenant")]
        constraints = [
            models.CheckConstraint(
                condition=Q(valid_until__isnull=True) | Q(valid_until__gt=F("valid_from")),
                name="leasing_quota_not_empty",
            ),
            models.CheckConstraint(condition=Q(value__gte=0), name="leasing_quota_not_negative"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"


class QuotaRequest(models.Model):
    """A member asks for a larger quota; an approver who is somebody else grants or declines."""

    class State(models.TextChoices):
        OPEN = "open", _("waits for a decision")
        GRANTED = "granted", _("granted")
        DECLINED = "declined", _("declined")
        WITHDRAWN = "withdrawn", _("withdrawn")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, models.PROTECT, related_name="quota_requests")
    asked_by = models.ForeignKey(Person, models.PROTECT, related_name="quota_requests")
    person = models.ForeignKey(Person, models.PROTECT, null=True, related_name="+")
    kind = models.CharField(max_length=9, choices=QuotaKind)
    model = models.ForeignKey(GpuModel, models.PROTECT, null=True, related_name="+")
    value = models.DecimalField(max_digits=14, decimal_places=2, validators=[MinValueValidator(0)])
    until = models.DateTimeField(null=True)
    reason = models.CharField(max_length=500)
    asked_at = models.DateTimeField()
    state = models.CharField(max_length=9, choices=State, default=State.OPEN)
    decided_by = models.ForeignKey(Person, models.PROTECT, null=True, related_name="+")
    decided_at = models.DateTimeField(null=True)
    note = models.CharField(max_length=500, blank=True)
    quota = models.OneToOneField(Quota, models.PROTECT, null=True, related_name="request")

    class Meta:
        ordering = ["-asked_at"]

    def __str__(self) -> str:
        return f"{self.kind} {self.value}: {self.state}"
