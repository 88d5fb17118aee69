"""Warnings before the end of a lease: 24 hours, one hour, ten minutes.

Each rung once. A rung as long as the lease itself says nothing new, and after a missed one only the nearest
is told. A new end starts the ladder anew.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from leasing import tidings
from leasing.models import Lease
from leasing.more_time import more_time
from leasing.states.lease import LeaseState

LADDER = (timedelta(hours=24), timedelta(hours=1), timedelta(minutes=10))


def rung_due(
    *, starts_at: datetime, ends_at: datetime, warned_at_seconds: int | None, now: datetime
) -> timedelta | None:
    """The rung of which the owner is to be told now, if any."""
    left = ends_at - now
    reached = [rung for rung in LADDER if left <= rung < ends_at - starts_at]
    nearest = min(reached, default=None)
    if nearest is None or left <= timedelta(0):
        return None
    told = warned_at_seconds is not None and warned_at_seconds <= nearest.total_seconds()
    return None if told else nearest


def ending_soon(*, now: datetime) -> list[Lease]:
    """Running leases on a rung of which their owner has not been told."""
    soon = Lease.objects.filter(state=LeaseState.ACTIVE, ends_at__gt=now, ends_at__lte=now + LADDER[0])
    return [lease for lease in soon if _due(lease, now=now)]


def remind(lease: Lease, *, now: datetime) -> None:
    """Tell the owner of a locked lease, unless it has been done meanwhile."""
    rung = _due(lease, now=now)
    if rung is not None:
        lease.warned_at_seconds = int(rung.total_seconds())
        lease.save(update_fields=["warned_at_seconds"])
        tidings.ends_soon(lease, more_time(lease, now=now), now=now)


def _due(lease: Lease, *, now: datetime) -> timedelta | None:
    return rung_due(
        starts_at=lease.starts_at,
        ends_at=lease.ends_at,
        warned_at_seconds=lease.warned_at_seconds,
        now=now,
    )
