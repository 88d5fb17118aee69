"""Check of what was billed: the segments of each lease against what the audit log says of its use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from leasing.fsck.finding import Finding
from leasing.fsck.history import Change, acts, first, histories
from leasing.fsck.retelling import moment
from leasing.metering import Due, billable_span, due, outages_of, overrun_span, terms, without
from leasing.models import InvoiceLine, Lease, UsageSegment
from leasing.terms import Span, cut_span, month_cuts

Cause = UsageSegment.Cause


class _Line(NamedTuple):
    starts_at: datetime
    ends_at: datetime | None
    rate_per_hour: Decimal
    currency: str
    cause: str
    person: str


def usage_is_what_was_used(now: datetime) -> Iterator[Finding]:
    """Usage segments cover exactly the billable time of each lease, once, at its rate, for whose it was"""
    billed: dict[UUID, set[_Line]] = defaultdict(set)
    of_leases = UsageSegment.objects.exclude(lease=None)
    columns = ("starts_at", "ends_at", "rate_per_hour", "currency", "cause", "person__username")
    for lease_id, *line in of_leases.filter(line=None).values_list("lease_id", *columns):
        billed[lease_id].add(_Line(*line))
    frozen: dict[UUID, list[Span]] = defaultdict(list)
    invoiced = InvoiceLine.objects.exclude(segment=None).values_list("lease_id", "starts_at", "ends_at")
    for lease_id, *span in invoiced:
        frozen[lease_id].append(Span(*span))
    changes, hands = dict(histories("lease")), _hand_overs()
    for lease in Lease.objects.select_related("flavor", "tenant", "owner").iterator():
        expected = set(_due(lease, changes.get(str(lease.pk), []), frozen[lease.pk], hands[str(lease.pk)]))
        for line in expected - billed[lease.pk]:
            yield Finding(f"lease:{lease.pk}", f"its {_describe(line)} is not recorded")
        for line in billed[lease.pk] - expected:
            yield Finding(f"lease:{lease.pk}", f"a recorded {_describe(line)} did not happen")


def _hand_overs() -> dict[str, list[tuple[datetime, str]]]:
    """Of each lease: when it went to somebody else, and whose it had been."""
    found: dict[str, list[tuple[datetime, str]]] = defaultdict(list)
    for act in acts("lease.hand-over"):
        found[act.subject_id].append((moment(act.detail["at"]), act.detail["was"]))
    return found


def _due(
    lease: Lease, changes: list[Change], frozen: list[Span], hands: list[tuple[datetime, str]]
) -> Iterator[_Line]:
    """What is not on an invoice yet, one line for each rate that the used time was quoted at."""
    running, stopped, gone = first(changes, "running"), first(changes, "end", "fail"), first(changes, "gone")
    if running is None:
        return
    active_at = running.effective_at
    used = billable_span(
        active_at=active_at,
        stopped_at=stopped.effective_at if stopped else lease.ends_at,
        starts_at=lease.starts_at,
        ends_at=lease.ends_at,
    )
    outages = [Span(one.starts_at, one.ends_at) for one in outages_of(lease)] if used else []
    lines = due(terms(lease), used, outages, [at for at, _was in hands]) if used else []
    over = None
    if stopped and gone:
        over = overrun_span(active_at=active_at, gone_at=gone.effective_at, ends_at=lease.ends_at)
    if over:
        cuts = month_cuts(*over, lease.tenant.timezone)
        lines += [Due(*part, Decimal(0), Cause.OVERRUN) for part in cut_span(over, cuts)]
    for line in without(lines, frozen):
        is_open = stopped is None and line.ends_at == lease.ends_at and line.cause == Cause.USE
        ends_at = None if is_open else line.ends_at
        whose = next((was for at, was in hands if at > line.starts_at), lease.owner.username)
        yield _Line(line.starts_at, ends_at, line.rate_per_hour, lease.currency, line.cause, whose)


def _describe(line: _Line) -> str:
    until = line.ends_at or "now"
    span = f"{line.cause} from {line.starts_at} to {until} ({line.person})"
    return f"{span} at {line.rate_per_hour} {line.currency}"
