"""What a lease is billed for: the rules, and the one function that makes its segments follow them.

A lease is billed while it is usable and inside its window: `[max(active, starts_at), min(stopped, ends_at))`,
at its terms. Held time counts, switched off or not; provisioning and turnaround are free. What was an outage
of ours, and what a machine runs beyond its end, are zero-rated segments that say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from operator import itemgetter
from typing import NamedTuple
from uuid import UUID

from django.db.models import Q, QuerySet

from leasing.models import Extension, HandOver, Hold, Lease, LeaseTerm, Outage, UsageSegment
from leasing.states.lease import LeaseEvent
from leasing.terms import Span, Term, cut_span, line_amount, month_cuts, total_of, trimmed, whole_seconds

Cause = UsageSegment.Cause


class Due(NamedTuple):
    """A span that is billed, or free for a cause."""

    starts_at: datetime
    ends_at: datetime
    rate_per_hour: Decimal
    cause: str


def billable_span(
    *, active_at: datetime, stopped_at: datetime, starts_at: datetime, ends_at: datetime
) -> Span | None:
    """The billed time of a lease that was usable in `[active_at, stopped_at)`; None if there is none."""
    return _span(max(active_at, starts_at), min(stopped_at, ends_at))


def overrun_span(*, active_at: datetime, gone_at: datetime, ends_at: datetime) -> Span | None:
    """The time that a machine existed beyond the end of its lease; None if it did not."""
    return _span(max(active_at, ends_at), gone_at)


def due(
    terms: Iterable[Term], used: Span | None, outages: Iterable[Span], handed_over: Iterable[datetime] = ()
) -> list[Due]:
    """What is due for a span of use: its terms, but for the outages; each line is of one person's time."""
    if used is None:
        return []
    known, hands = list(outages), set(handed_over)
    edges = [*hands, *(edge for outage in known for edge in outage)]
    found: list[Due] = []
    for term in trimmed(terms, *used):
        for part in cut_span(Span(term.starts_at, term.ends_at), edges):
            free = any(outage.starts_at <= part.starts_at < outage.ends_at for outage in known)
            rate, cause = (Decimal(0), Cause.OUTAGE) if free else (term.rate_per_hour, Cause.USE)
            last = found[-1] if found else None
            adjoins = last is not None and last.ends_at == part.starts_at and part.starts_at not in hands
            if free and last and adjoins and last.cause == cause and part.starts_at > term.starts_at:
                found[-1] = last._replace(ends_at=part.ends_at)
            else:
                found.append(Due(*part, rate, cause))
    return found


def without(lines: Iterable[Due], spans: Iterable[Span]) -> list[Due]:
    """What of the lines lies outside of the spans."""
    known = list(spans)
    edges = [edge for span in known for edge in span]
    return [
        line._replace(starts_at=part.starts_at, ends_at=part.ends_at)
        for line in lines
        for part in cut_span(Span(line.starts_at, line.ends_at), edges)
        if not any(span.starts_at <= part.starts_at < span.ends_at for span in known)
    ]


def billed_seconds_within(lines: Iterable[Due], span: Span) -> int:
    """How much of a span is due and not free."""
    return sum(
        whole_seconds(max(line.starts_at, span.starts_at), min(line.ends_at, span.ends_at))
        for line in lines
        if line.cause == Cause.USE
    )


def terms(lease: Lease) -> list[Term]:
    """What a lease was quoted, span by span; what hosts are still to confirm is not in it."""
    if not lease.varied:
        return [Term(lease.starts_at, lease.ends_at, lease.rate_per_hour)]
    rows = lease.terms.filter(Q(extension=None) | Q(extension__state=Extension.State.CONFIRMED))
    return [Term(one.starts_at, one.ends_at, one.rate_per_hour) for one in rows]


def quoted_total(lease: Lease) -> Decimal:
    """The price of all terms, should they be used in full."""
    return total_of(terms(lease), lease.currency)


def cut_terms(lease: Lease, starts_at: datetime, ends_at: datetime) -> None:
    """The lease is cut to this window, and its terms with it; its price follows. The caller saves it."""
    lease.starts_at, lease.ends_at = starts_at, ends_at
    rows = lease.terms.all()
    rows.filter(Q(starts_at__gte=ends_at) | Q(ends_at__lte=starts_at)).delete()
    rows.filter(ends_at__gt=ends_at).update(ends_at=ends_at)
    rows.filter(starts_at__lt=starts_at).update(starts_at=starts_at)
    first = terms(lease)[0]
    lease.rate_per_hour, lease.quoted_total = first.rate_per_hour, quoted_total(lease)


def append_terms(lease: Lease, extension: Extension, more: Sequence[Term]) -> None:
    """Terms that count once the extension is confirmed."""
    if not lease.varied:
        whole = Term(lease.starts_at, lease.ends_at, lease.rate_per_hour)
        LeaseTerm.objects.create(lease=lease, **whole._asdict())
        lease.varied = True
        lease.save(update_fields=["varied"])
    LeaseTerm.objects.bulk_create(
        LeaseTerm(lease=lease, extension=extension, **one._asdict()) for one in more
    )


def billed_until(segment: UsageSegment, now: datetime) -> datetime:
    """Up to where a segment counts: `now`, its end, or that of its lease while it is open."""
    ends_at = segment.ends_at or (segment.lease.ends_at if segment.lease else now)
    return max(segment.starts_at, min(now, ends_at))


def billed_seconds(segment: UsageSegment, now: datetime) -> int:
    return whole_seconds(segment.starts_at, billed_until(segment, now))


def segment_amount(segment: UsageSegment, now: datetime) -> Decimal:
    """What a segment costs, an open one up to `now`."""
    return line_amount(
        seconds=billed_seconds(segment, now),
        rate_per_hour=segment.rate_per_hour,
        currency=segment.currency,
    )


def lease_amount(segments: Iterable[UsageSegment], now: datetime) -> Decimal:
    """Sum of the lines of one lease, which are all in its currency."""
    return sum((segment_amount(segment, now) for segment in segments), Decimal(0))


def follow_lease(lease: Lease, *, event: LeaseEvent, effective_at: datetime) -> None:
    """Make the segments follow a transition of the lease, in its transaction."""
    if event is LeaseEvent.GONE and lease.active_at is not None:
        _add_overrun(lease, lease.active_at, effective_at)
    elif lease.active_at is not None:
        follow(lease)


def follow(lease: Lease) -> None:
    """The segments of a lease become what is due; those on an invoice stay as they are.

    While it runs the last one is open. One whose time has not come when it stops covers nothing, and goes.
    """
    kept = lease.segments.exclude(cause=Cause.OVERRUN)
    frozen = [Span(one.starts_at, one.ends_at) for one in kept.exclude(line=None) if one.ends_at is not None]
    hands = hand_overs_of(lease)
    wanted: set[tuple[datetime, datetime | None, Decimal, str, UUID]] = set()
    for line in without(due_lines(lease), frozen):
        is_open = lease.stopped_at is None and line.ends_at == lease.ends_at and line.cause == Cause.USE
        ends_at, whose = None if is_open else line.ends_at, _whose(lease, hands, line.starts_at)
        wanted.add((line.starts_at, ends_at, line.rate_per_hour, line.cause, whose))
    for one in kept.filter(line=None):
        known = (one.starts_at, one.ends_at, one.rate_per_hour, one.cause, one.person_id)
        if known in wanted:
            wanted.remove(known)
        else:
            one.delete()
    UsageSegment.objects.bulk_create(
        UsageSegment(
            tenant_id=lease.tenant_id,
            lease=lease,
            person_id=whose,
            starts_at=starts_at,
            ends_at=ends_at,
            rate_per_hour=rate,
            currency=lease.currency,
            cause=cause,
        )
        for starts_at, ends_at, rate, cause, whose in sorted(wanted, key=itemgetter(0))
    )


def due_lines(lease: Lease) -> list[Due]:
    """What is due for a lease as it is now; what runs counts to its end."""
    if lease.active_at is None:
        return []
    used = billable_span(
        active_at=lease.active_at,
        stopped_at=lease.stopped_at or lease.ends_at,
        starts_at=lease.starts_at,
        ends_at=lease.ends_at,
    )
    outages = [Span(one.starts_at, one.ends_at) for one in outages_of(lease)]
    return due(terms(lease), used, outages, [at for at, _giver in hand_overs_of(lease)])


def hand_overs_of(lease: Lease) -> list[tuple[datetime, UUID]]:
    """When it went from one person to another, and from whom, in their order."""
    accepted = lease.hand_overs.filter(state=HandOver.State.ACCEPTED).order_by("decided_at")
    return [(at, giver) for at, giver in accepted.values_list("decided_at", "giver") if at is not None]


def _whose(lease: Lease, hands: Iterable[tuple[datetime, UUID]], at: datetime) -> UUID:
    """Who had it at a moment."""
    return next((giver for when, giver in hands if when > at), lease.owner_id)


def outages_of(lease: Lease) -> QuerySet[Outage]:
    """The outages of what the lease has, in its time, that stand."""
    gpus = Hold.objects.filter(lease=lease).values("gpu")
    about = Q(gpu__in=gpus) | Q(host=lease.host_id) | Q(model=lease.flavor.model_id)
    if lease.host_id is None:
        about = Q(gpu__in=gpus) | Q(model=lease.flavor.model_id)
    standing = Outage.objects.filter(withdrawn_at=None)
    return standing.filter(about, starts_at__lt=lease.ends_at, ends_at__gt=lease.starts_at)


def _add_overrun(lease: Lease, active_at: datetime, gone_at: datetime) -> None:
    if span := overrun_span(active_at=active_at, gone_at=gone_at, ends_at=lease.ends_at):
        UsageSegment.objects.bulk_create(
            UsageSegment(
                tenant_id=lease.tenant_id,
                lease=lease,
                person_id=lease.owner_id,
                starts_at=part.starts_at,
                ends_at=part.ends_at,
                rate_per_hour=Decimal(0),
                currency=lease.currency,
                cause=Cause.OVERRUN,
            )
            for part in cut_span(span, month_cuts(*span, lease.tenant.timezone))
        )


def _span(starts_at: datetime, ends_at: datetime) -> Span | None:
    return Span(starts_at, ends_at) if starts_at < ends_at else None
