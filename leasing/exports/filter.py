"""Which usage is meant: the same words on the pages, over the API and on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from django.db.models import Model, Q, QuerySet
from django.db.models.functions import Coalesce

from leasing.billing.months import month_named
from leasing.models import InvoiceLine, Tenant, UsageSegment

M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class Billed:
    """Usage segments, and what was credited of those that are on an invoice."""

    segments: QuerySet[UsageSegment]
    credits: QuerySet[InvoiceLine]

    @classmethod
    def everything(cls) -> Billed:
        return cls(UsageSegment.objects.all(), InvoiceLine.objects.filter(corrects__isnull=False))

    @classmethod
    def of_tenants(cls, tenants: QuerySet[Tenant]) -> Billed:
        everything = cls.everything()
        return cls(
            everything.segments.filter(tenant__in=tenants),
            everything.credits.filter(invoice__tenant__in=tenants),
        )


@dataclass(frozen=True)
class UsageFilter:
    """What is empty is not asked for. Lines that touch `[since, before)` are listed whole.

    `month`, such as 2026-03, is that of each team in its own zone.
    """

    since: datetime | None = None
    before: datetime | None = None
    month: str = ""
    tenant: str = ""
    person: str = ""
    model: str = ""
    project: str = ""
    cost_centre: str = ""
    lease: UUID | None = None

    def of(self, billed: Billed) -> Billed:
        """What of it is meant. Raises InvalidRequest for a month that is none."""
        # What is on an invoice keeps the words that it was billed under.
        tagged = billed.segments.annotate(
            project=Coalesce("line__project", "lease__project"),
            cost_centre=Coalesce("line__cost_centre", "lease__cost_centre"),
        )
        return Billed(
            self._of(tagged, "person__username", "tenant"),
            self._of(billed.credits, "corrects__segment__person__username", "invoice__tenant"),
        )

    def told(self) -> dict[str, object]:
        """What is asked for, for the audit log."""
        return {name: value for name, value in vars(self).items() if value}

    def _of(self, rows: QuerySet[M], person: str, tenant: str) -> QuerySet[M]:
        if self.since:
            rows = rows.filter(Q(ends_at__isnull=True) | Q(ends_at__gt=self.since))
        if self.before:
            rows = rows.filter(starts_at__lt=self.before)
        if self.month:
            rows = rows.filter(_in_month(self.month, tenant))
        exact = {
            f"{tenant}__slug": self.tenant,
            person: self.person,
            "lease__flavor__model__slug": self.model,
            "lease": self.lease,
            "project": self.project,
            "cost_centre": self.cost_centre,
        }
        return rows.filter(**{name: value for name, value in exact.items() if value})


def _in_month(name: str, tenant: str) -> Q:
    zones = Tenant.objects.order_by("timezone").values_list("timezone", flat=True).distinct()
    meant = Q(pk=None)
    for zone in [*zones] or ["UTC"]:
        month = month_named(name, zone)
        touching = Q(ends_at__isnull=True) | Q(ends_at__gt=month.starts_at)
        meant |= Q(**{f"{tenant}__timezone": zone}) & touching & Q(starts_at__lt=month.ends_at)
    return meant
