"""Which usage is meant: the same words on the pages, over the API and on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from leasing.errors import InvalidRequest
from leasing.models import Tenant, UsageSegment

FIRST_YEAR, LAST_YEAR = 2000, 2099


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
    lease: UUID | None = None

    def of(self, segments: QuerySet[UsageSegment]) -> QuerySet[UsageSegment]:
        """Those that are meant. Raises InvalidRequest for a month that is none."""
        if self.since:
            segments = segments.filter(Q(ends_at__isnull=True) | Q(ends_at__gt=self.since))
        if self.before:
            segments = segments.filter(starts_at__lt=self.before)
        if self.month:
            segments = segments.filter(_in_month(self.month))
        exact = {
            "lease__tenant__slug": self.tenant,
            "lease__owner__username": self.person,
            "lease__flavor__model__slug": self.model,
            "lease": self.lease,
        }
        return segments.filter(**{name: value for name, value in exact.items() if value})

    def told(self) -> dict[str, object]:
        """What is asked for, for the audit log."""
        return {name: value for name, value in vars(self).items() if value}


def month_span(month: str, zone: str) -> tuple[datetime, datetime]:
    """A month in a zone as `[start, end)`, UTC. Raises InvalidRequest."""
    try:
        first = date.fromisoformat(f"{month}-01")
    except ValueError:
        first = date.min
    if not FIRST_YEAR <= first.year <= LAST_YEAR:
        raise InvalidRequest(
            _("“%(month)s” is not a month.") % {"month": month},
            hint=_("Write it as in 2026-03."),
            field="month",
        )
    following = date(first.year + first.month // 12, first.month % 12 + 1, 1)
    start, end = (
        datetime(day.year, day.month, 1, tzinfo=ZoneInfo(zone)).astimezone(UTC) for day in (first, following)
    )
    return start, end


def _in_month(month: str) -> Q:
    zones = Tenant.objects.order_by("timezone").values_list("timezone", flat=True).distinct()
    meant = Q(pk=None)
    for zone in [*zones] or ["UTC"]:
        start, end = month_span(month, zone)
        touching = (Q(ends_at__isnull=True) | Q(ends_at__gt=start)) & Q(starts_at__lt=end)
        meant |= Q(lease__tenant__timezone=zone) & touching
    return meant
