"""Check of what was billed: the segments of each lease against what the audit log says of its use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from leasing.fsck.finding import Finding
from leasing.fsck.history import Change, first, histories
from leasing.metering import Span, billable_span, overrun_span, used_terms
from leasing.models import Lease, UsageSegment

Cause = UsageSegment.Cause


class _Line(NamedTuple):
    starts_at: datetime
    ends_at: datetime | None
    rate_per_hour: Decimal
    currency: str
    cause: str


def usage_is_what_was_used(now: datetime) -> Iterator[Finding]:
    """Usage segments cover exactly the billable time of each lease, once, at its rate"""
    billed: dict[UUID, set[_Line]] = defaultdict(set)
    columns = ("starts_at", "ends_at", "rate_per_hour", "currency", "cause")
    for lease_id, *line in UsageSegment.objects.values_list("lease_id", *columns):
        billed[lease_id].add(_Line(*line))
    changes = dict(histories("lease"))
    for lease in Lease.objects.iterator():
        due = set(_due(lease, changes.get(str(lease.pk), [])))
        for line in due - billed[lease.pk]:
            yield Finding(f"lease:{lease.pk}", f"its {_describe(line)} is not recorded")
        for line in billed[lease.pk] - due:
            yield Finding(f"lease:{lease.pk}", f"a recorded {_describe(line)} did not happen")


def _due(lease: Lease, changes: list[Change]) -> Iterator[_Line]:
    running, stopped, gone = first(changes, "running"), first(changes, "end", "fail"), first(changes, "gone")
    if running is None:
        return
    active_at = running.effective_at
    if stopped is None:
        using = billable_span(
            active_at=active_at, stopped_at=lease.ends_at, starts_at=lease.starts_at, ends_at=lease.ends_at
        )
        lines = _lines(lease, using)
        yield from [*lines[:-1], *(line._replace(ends_at=None) for line in lines[-1:])]
        return
    used = billable_span(
        active_at=active_at,
        stopped_at=stopped.effective_at,
        starts_at=lease.starts_at,
        ends_at=lease.ends_at,
    )
    yield from _lines(lease, used)
    if gone and (over := overrun_span(active_at=active_at, gone_at=gone.effective_at, ends_at=lease.ends_at)):
        yield _Line(*over, Decimal(0), lease.currency, Cause.OVERRUN)


def _lines(lease: Lease, used: Span | None) -> list[_Line]:
    """One line for each rate that the used time was quoted at."""
    parts = used_terms(lease, used) if used else []
    return [_Line(*part, lease.currency, Cause.USE) for part in parts]


def _describe(line: _Line) -> str:
    until = line.ends_at or "now"
    return f"{line.cause} from {line.starts_at} to {until} at {line.rate_per_hour} {line.currency}"
