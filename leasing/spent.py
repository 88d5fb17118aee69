"""What is booked, used and kept in the months of a tenant, summed by what it costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import (
    Case,
    DateTimeField,
    DurationField,
    ExpressionWrapper,
    F,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Sum,
    Value,
    When,
)
from django.db.models.functions import Coalesce, Greatest, Least

from leasing.limits import HOUR, MonthUse, exact_seconds, month_spans
from leasing.models import Flavor, Lease, LeaseTerm, Tenant, UsageSegment
from leasing.prepared import NOBODY, Prepared
from leasing.states.lease import LeaseState


def spent_in_months(
    others: Mapping[str, UUID], starts_at: datetime, ends_at: datetime, zone: str
) -> Iterator[MonthUse]:
    """What there is in each month that the window touches."""
    for month, begin, end in month_spans(starts_at, ends_at, zone):
        for gpus, model_id, own, rate, currency, total in _SPENT.rows(**others, begin=begin, end=end):
            yield MonthUse(month, exact_seconds(total), gpus, model_id, own, rate, currency)


def monthly_total(tenant: Tenant, begin: datetime, end: datetime) -> dict[str, Decimal]:
    """The money of what is booked or used in a month of a tenant, by currency, not rounded."""
    sums: dict[str, Decimal] = defaultdict(Decimal)
    rows = _SPENT.rows(tenant_id=tenant.pk, person_id=NOBODY, without=NOBODY, begin=begin, end=end)
    for _gpus, _model, _own, rate, currency, total in rows:
        sums[currency] += exact_seconds(total) * rate / HOUR
    return dict(sums)


def is_one(**what: UUID) -> Case:
    """Whether something is this one."""
    return Case(When(**what, then=True), default=False)


def _spent(
    *, tenant_id: UUID, person_id: UUID, without: UUID, begin: datetime, end: datetime
) -> QuerySet[Any, Any]:
    """Booked time counts from the start to the end, or to when it was given back; summed by what it costs.

    What has several terms counts term by term, those that hosts are still to confirm among them. What is
    kept counts until it is removed, and has no GPUs.
    """
    whole = Lease.objects.filter(varied=False).exclude(pk=without)
    parts = LeaseTerm.objects.exclude(lease=without)
    sums = [
        _summed(rows, to_lease, tenant_id=tenant_id, person_id=person_id, begin=begin, end=end)
        for rows, to_lease in ((whole, ""), (parts, "lease__"))
    ]
    kept = _kept(tenant_id=tenant_id, person_id=person_id, begin=begin, end=end)
    return sums[0].union(sums[1], kept, all=True)


def _summed(
    rows: QuerySet[Any, Any],
    to_lease: str,
    *,
    tenant_id: UUID,
    person_id: UUID,
    begin: datetime,
    end: datetime,
) -> QuerySet[Any, Any]:
    """The time of rows that are leases, or lead to one, by what it costs."""
    stopped_at, state = f"{to_lease}stopped_at", f"{to_lease}state"
    since = Greatest(F("starts_at"), _value(begin))
    until = Least(Coalesce(stopped_at, "ends_at"), F("ends_at"), _value(end))
    never_used = Q(**{state: LeaseState.ENDED, f"{to_lease}active_at": None})
    rows = rows.filter(
        Q(**{stopped_at: None}) | Q(**{f"{stopped_at}__gt": since}),
        **{f"{to_lease}tenant": tenant_id},
        starts_at__lt=end,
        ends_at__gt=begin,
    ).exclude(never_used | Q(**{state: LeaseState.OFFERED}))
    priced = ("own", "rate_per_hour", f"{to_lease}currency")
    summed = Sum(ExpressionWrapper(until - since, output_field=DurationField()))
    own = is_one(**{f"{to_lease}owner": person_id})
    rows = rows.annotate(own=own).order_by()
    found: QuerySet[Any, Any]
    if to_lease:
        flavor = (f"{to_lease}flavor__gpu_count", f"{to_lease}flavor__model_id")
        found = rows.values_list(*flavor, *priced).annotate(total=summed)
    else:
        # Flavors are looked up for the few sums, not for each of the many rows.
        facts = {name: Subquery(_FLAVOR.values(name)) for name in ("gpu_count", "model_id")}
        sums = rows.values("flavor", *priced).annotate(total=summed)
        found = sums.annotate(**facts).values_list(*facts, *priced, "total")
    return found


_FLAVOR = Flavor.objects.filter(pk=OuterRef("flavor")).order_by()


def _kept(*, tenant_id: UUID, person_id: UUID, begin: datetime, end: datetime) -> QuerySet[Any, Any]:
    """The time of volumes."""
    since = Greatest(F("starts_at"), _value(begin))
    until = Least(Coalesce("ends_at", _value(end)), _value(end))
    rows = UsageSegment.objects.filter(
        Q(ends_at=None) | Q(ends_at__gt=begin), lease=None, tenant=tenant_id, starts_at__lt=end
    )
    summed = Sum(ExpressionWrapper(until - since, output_field=DurationField()))
    nothing = {"gpus": Value(0), "model": Value(0), "own": is_one(person=person_id)}
    priced = (*nothing, "rate_per_hour", "currency")
    found: QuerySet[Any, Any] = (
        rows.annotate(**nothing).order_by().values_list(*priced).annotate(total=summed)
    )
    return found


def _value(moment: datetime) -> Value:
    return Value(moment, output_field=DateTimeField())


_SPENT = Prepared(_spent)
