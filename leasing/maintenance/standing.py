"""How a closure stands: whether it is in force, how many leases are in it, when the last of them is gone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Max, Q

from leasing.maintenance.plan import holds_in
from leasing.models import Closure
from leasing.states.lease import LeaseState


@dataclass(frozen=True)
class Standing:
    """`empties_at` is when the last GPU is clean again after its lease; None if nobody has one then."""

    closure: Closure
    in_force: bool
    leases: int
    empties_at: datetime | None


def standing_of(closure: Closure, *, now: datetime) -> Standing:
    """Of a closure that is not over."""
    open_ones = ~Q(lease__state=LeaseState.ENDED)
    found = holds_in(closure).filter(ends_at__gt=now)
    facts = found.aggregate(leases=Count("lease", distinct=True, filter=open_ones), empties=Max("ends_at"))
    return Standing(closure, closure.starts_at <= now, facts["leases"], facts["empties"])
