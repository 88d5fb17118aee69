"""What somebody who decides on a request has to know: what it does to each limit, and to everybody else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from leasing import metering, quotas
from leasing.holds import pool_for, window
from leasing.limits import Measure
from leasing.models import Lease
from leasing.more_time import longest_inside
from leasing.openings.search import is_open
from leasing.openings.upkeep import span_of
from leasing.terms import trimmed
from leasing.timing import SHORTEST_LEASE


@dataclass(frozen=True)
class Considerations:
    """`measures` are as if it were approved; `another_free` says whether one more could be had in its time.

    Until `inside_until` it would be inside all limits; None if it would be at no length.
    """

    measures: list[Measure]
    another_free: bool
    inside_until: datetime | None


def considerations(lease: Lease, *, now: datetime) -> Considerations:
    """Of a request, which has its GPUs already."""
    account = quotas.account_of(
        tenant=lease.tenant,
        person=lease.owner,
        starts_at=lease.starts_at,
        ends_at=lease.ends_at,
        without=lease.pk,
        now=now,
    )

    booked = metering.terms(lease)
    whole = quotas.use_of(lease, booked)

    def is_inside(ends_at: datetime) -> bool:
        return not account.judge(quotas.use_of(lease, trimmed(booked, lease.starts_at, ends_at))).reason

    inside_until = longest_inside(max(lease.starts_at, now), lease.ends_at, is_inside)
    could_start = inside_until >= max(lease.starts_at, now) + SHORTEST_LEASE
    held = span_of(*window(lease.flavor, lease.starts_at, lease.ends_at, now=now))
    return Considerations(
        measures=account.judge(whole).measures,
        another_free=is_open(pool_for(lease), *held),
        inside_until=inside_until if could_start else None,
    )


def of_series(waiting: Sequence[Lease], *, now: datetime) -> list[Measure]:
    """What approving all dates of a series that wait would do to each limit, at the most."""
    account = quotas.account_around(waiting, now=now)
    wanted = [quotas.use_of(lease, metering.terms(lease)) for lease in waiting]
    return quotas.measured_together(account.before(wanted).judge_all(wanted))
