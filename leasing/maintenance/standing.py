"""How closures stand: whether in force, how many leases are in them, when the last of these is gone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, F, Max, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce

from leasing.models import Closure, Hold
from leasing.states.lease import LeaseState


@dataclass(frozen=True)
class Standing:
    """`empties_at` is when the last GPU is clean again after its lease; None if nobody has one then."""

    closure: Closure
    in_force: bool
    leases: int
    empties_at: datetime | None


def standings_of(closures: QuerySet[Closure], *, now: datetime) -> list[Standing]:
    """Of closures that are not over, all at once."""
    held = Hold.objects.filter(
        gpu__host=OuterRef("host"),
        gpu=Coalesce(OuterRef("gpu"), F("gpu")),
        starts_at__lt=Coalesce(OuterRef("ends_at"), F("ends_at")),
        ends_at__gt=OuterRef("starts_at"),
    ).filter(ends_at__gt=now)
    of_host = held.order_by().values("gpu__host")
    leases = of_host.annotate(count=Count("lease", distinct=True, filter=~Q(lease__state=LeaseState.ENDED)))
    last = of_host.annotate(last=Max("ends_at"))
    found = closures.annotate(
        leases=Coalesce(Subquery(leases.values("count")), 0), empties_at=Subquery(last.values("last"))
    )
    return [Standing(one, one.starts_at <= now, one.leases, one.empties_at) for one in found]
