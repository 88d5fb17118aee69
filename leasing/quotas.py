"""Quotas: which limits are in force, and what counts against them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import (
    BooleanField,
    Case,
    DateTimeField,
    DurationField,
    ExpressionWrapper,
    F,
    Q,
    QuerySet,
    Sum,
    Value,
    When,
)
from django.db.models.functions import Coalesce, Greatest, Least
from django.utils.translation import gettext as _

from hosts.models import GpuModel
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import InvalidRequest
from leasing.limits import (
    Limit,
    Measure,
    MonthUse,
    Use,
    exact_seconds,
    gpus_at,
    measured,
    month_spans,
    month_total,
    month_uses,
    objections,
    plain,
)
from leasing.locking import locked
from leasing.models import Extension, Flavor, Lease, Person, Quota, QuotaKind, Tenant
from leasing.prepared import NOBODY, Prepared
from leasing.reasons import Reason, together
from leasing.states.lease import LeaseState

MONTHLY = (QuotaKind.GPU_HOURS, QuotaKind.BUDGET)
INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True)
class Verdict:
    """What a lease does to each limit, and why it is outside them; no reason if it is inside all."""

    measures: list[Measure]
    reason: Reason

    def described(self) -> list[dict[str, str]]:
        """For the audit log: each limit, and what counted with this lease."""
        return [_described(measure) for measure in self.measures]


@dataclass(frozen=True)
class Account:
    """The limits in force for a person in a tenant, and what counts against them around some time."""

    limits: list[Limit]
    uses: list[Use]
    months: list[MonthUse]
    zone: str
    now: datetime

    def judge_all(self, wanted: Iterable[Use]) -> list[Verdict]:
        """Whether each is inside the limits, given those before it."""
        verdicts, account = [], self
        for use in wanted:
            verdicts.append(account.judge(use))
            months = [*account.months, *month_uses(use, self.zone)]
            account = replace(account, uses=[*account.uses, use], months=months)
        return verdicts

    def judge(self, wanted: Use) -> Verdict:
        """Whether one more lease is inside the limits."""
        measures = measured(
            self.limits, wanted=wanted, uses=self.uses, months=self.months, zone=self.zone, now=self.now
        )
        return Verdict(measures, together(objections(measures)))


def check(
    *,
    tenant: Tenant,
    person: Person,
    flavor: Flavor,
    starts_at: datetime,
    ends_at: datetime,
    rate_per_hour: Decimal,
    currency: str,
    without: UUID | None = None,
    now: datetime,
) -> Verdict:
    """Every limit that a lease in this window would break; `without` is that lease, if it exists already.

    Whoever acts on the answer has locked the tenant, and then the person.
    """
    wanted = Use(starts_at, ends_at, flavor.gpu_count, flavor.model_id, True, rate_per_hour, currency)
    account = account_of(
        tenant=tenant, person=person, starts_at=starts_at, ends_at=ends_at, without=without, now=now
    )
    return account.judge(wanted)


def account_of(
    *,
    tenant: Tenant,
    person: Person,
    starts_at: datetime,
    ends_at: datetime,
    without: UUID | None = None,
    now: datetime,
) -> Account:
    """What there is in `[starts_at, ends_at)` and in its months, but for the lease `without`."""
    limits = limits_in_force(tenant, person, now=now)
    others = {"tenant_id": tenant.pk, "person_id": person.pk, "without": without or NOBODY}
    rows = _USES.rows(**others, starts_at=starts_at, ends_at=ends_at)
    uses, pending = ([Use(*use) for *use, waits in rows if waits is which] for which in (False, True))
    months = []
    if any(limit.kind in MONTHLY for limit in limits):
        months = list(_months(others, starts_at, ends_at, tenant.timezone))
        months += [part for use in pending for part in month_uses(use, tenant.timezone)]
    return Account(limits, [*uses, *pending], months, tenant.timezone, now)


def use_of(lease: Lease) -> Use:
    """What a lease counts as, for its owner."""
    flavor = lease.flavor
    return Use(
        lease.starts_at,
        lease.ends_at,
        flavor.gpu_count,
        flavor.model_id,
        True,
        lease.rate_per_hour,
        lease.currency,
    )


def together_beyond(verdicts: Iterable[Verdict]) -> Reason:
    """Why several leases are outside the limits: each limit once, with the most that it comes to."""
    worst: dict[tuple[Limit, str], Measure] = {}
    for one in (measure for verdict in verdicts for measure in verdict.measures):
        known = worst.get((one.limit, one.month))
        if known is None or (one.is_over, one.total) > (known.is_over, known.total):
            worst[one.limit, one.month] = one
    return together(objections(worst.values()))


def limits_in_force(tenant: Tenant, person: Person | None, *, now: datetime) -> list[Limit]:
    """The tenant's standing limits, unless a quota in force says otherwise, and every other quota in force.

    Of several about the same the newest counts.
    """
    newest: dict[tuple[str, bool, int | None], Limit] = {
        (kind.value, False, None): Limit(kind.value, Decimal(value))
        for kind, value in (
            (QuotaKind.GPUS, tenant.concurrent_gpus),
            (QuotaKind.LONGEST, tenant.longest_lease_hours),
            (QuotaKind.AHEAD, tenant.book_ahead_days),
        )
    }
    whose = NOBODY if person is None else person.pk
    rows = _LIMITS.rows(tenant_id=tenant.pk, person_id=whose, now=now)
    for kind, person_id, model_id, slug, name, value, currency in rows:
        own = person_id is not None
        newest[kind, own, model_id] = Limit(kind, value, own, model_id, slug or "", name or "", currency)
    return list(newest.values())


@dataclass(frozen=True)
class Standing:
    """A limit in force and what counts against it: in the tenant's present month, or at this moment."""

    limit: Limit
    used: Decimal | None = None
    month: str = ""


def standing(tenant: Tenant, person: Person, *, now: datetime) -> list[Standing]:
    """How a person stands with each limit of a tenant; of lengths and days ahead nothing is used."""
    account = account_of(tenant=tenant, person=person, starts_at=now, ends_at=now + INSTANT, now=now)
    ((month, _begin, _end),) = month_spans(now, now + INSTANT, tenant.timezone)
    present = [use for use in account.months if use.month == month]
    found = []
    for limit in account.limits:
        if limit.kind in MONTHLY:
            found.append(Standing(limit, month_total(limit, present), month))
        elif limit.kind == QuotaKind.GPUS:
            found.append(Standing(limit, Decimal(gpus_at(now, limit, account.uses))))
        else:
            found.append(Standing(limit))
    return found


def set_quota(
    *,
    actor: Actor,
    tenant: Tenant,
    kind: str,
    value: Decimal,
    person: Person | None = None,
    model: GpuModel | None = None,
    currency: str = "",
    until: datetime | None = None,
    now: datetime,
) -> Quota:
    """Set a limit from now on. What is booked already stays, also if the new one is lower."""
    if kind == QuotaKind.BUDGET and not currency:
        raise InvalidRequest(_("Say the budget's currency."), field="currency")
    with transaction.atomic():
        # So that every booking is before or after it, in the log too.
        locked(Tenant.objects.all()).get(pk=tenant.pk)
        quota = Quota.objects.create(
            tenant=tenant,
            person=person,
            kind=kind,
            model=model,
            value=value,
            currency=currency,
            valid_from=now,
            valid_until=until,
            granted_by=actor.person,
            created_at=now,
        )
        record(
            action="quota.set",
            actor=actor,
            subject=f"quota:{quota.pk}",
            tenant=tenant,
            now=now,
            kind=kind,
            value=value,
            currency=currency,
            model=model.slug if model else "",
            person=person.username if person else "",
            until=until,
        )
    return quota


def _limits(*, tenant_id: UUID, person_id: UUID, now: datetime) -> QuerySet[Quota, Any]:
    """The tenant's own, and the person's, from the oldest on."""
    rows = Quota.objects.filter(
        Q(person=None) | Q(person=person_id),
        Q(valid_until=None) | Q(valid_until__gt=now),
        tenant=tenant_id,
        valid_from__lte=now,
    )
    return rows.order_by("created_at", "id").values_list(
        "kind", "person_id", "model_id", "model__slug", "model__name", "value", "currency"
    )


def _uses(
    *, tenant_id: UUID, person_id: UUID, without: UUID, starts_at: datetime, ends_at: datetime
) -> QuerySet[Any, Any]:
    """What holds GPUs of the tenant in the window, as a Use; and time, whenever it is, that hosts are still
    to confirm: it counts as if they had. The last column says which it is.
    """
    states = [LeaseState.OFFERED, LeaseState.RELEASING, LeaseState.ENDED]
    held = Lease.objects.filter(tenant=tenant_id, starts_at__lt=ends_at, ends_at__gt=starts_at)
    held = held.exclude(state__in=states).exclude(pk=without)
    held = held.annotate(own=_is(owner=person_id), waits=_truth(False))
    flavor = ("flavor__gpu_count", "flavor__model_id")
    uses = held.order_by().values_list(
        "starts_at", "ends_at", *flavor, "own", "rate_per_hour", "currency", "waits"
    )
    asked = Extension.objects.filter(state=Extension.State.PENDING, lease__tenant=tenant_id)
    asked = asked.exclude(lease=without).annotate(own=_is(lease__owner=person_id), waits=_truth(True))
    flavor = ("lease__flavor__gpu_count", "lease__flavor__model_id")
    price = ("lease__rate_per_hour", "lease__currency")
    pending = asked.order_by().values_list("old_ends_at", "new_ends_at", *flavor, "own", *price, "waits")
    return uses.union(pending, all=True)


def _month(
    *, tenant_id: UUID, person_id: UUID, without: UUID, begin: datetime, end: datetime
) -> QuerySet[Lease, Any]:
    """Booked time counts from the start to the end, or to when it was given back; summed by what it costs."""
    since = Greatest(F("starts_at"), _value(begin))
    until = Least(Coalesce("stopped_at", "ends_at"), F("ends_at"), _value(end))
    never_used = Q(state=LeaseState.ENDED, active_at=None) | Q(state=LeaseState.OFFERED)
    rows = Lease.objects.filter(Q(stopped_at=None) | Q(stopped_at__gt=since), tenant=tenant_id)
    rows = rows.filter(starts_at__lt=end, ends_at__gt=begin).exclude(never_used).exclude(pk=without)
    priced = ("flavor__gpu_count", "flavor__model_id", "own", "rate_per_hour", "currency")
    summed = Sum(ExpressionWrapper(until - since, output_field=DurationField()))
    return rows.annotate(own=_is(owner=person_id)).order_by().values_list(*priced).annotate(total=summed)


_LIMITS = Prepared(_limits)
_USES = Prepared(_uses)
_MONTH = Prepared(_month)


def _months(
    others: Mapping[str, UUID], starts_at: datetime, ends_at: datetime, zone: str
) -> Iterator[MonthUse]:
    """What there is in each month that the window touches."""
    for month, begin, end in month_spans(starts_at, ends_at, zone):
        for gpus, model_id, own, rate, currency, total in _MONTH.rows(**others, begin=begin, end=end):
            yield MonthUse(month, exact_seconds(total), gpus, model_id, own, rate, currency)


def _is(**what: UUID) -> Case:
    return Case(When(**what, then=True), default=False)


def _truth(it: bool) -> Value:
    return Value(it, output_field=BooleanField())


def _value(moment: datetime) -> Value:
    return Value(moment, output_field=DateTimeField())


def _described(measure: Measure) -> dict[str, str]:
    limit = measure.limit
    facts = {
        "kind": limit.kind,
        "own": "yes" if limit.own else "",
        "model": limit.model_slug,
        "month": measure.month,
        "limit": plain(limit.value),
        "counted": plain(measure.total),
        "currency": limit.currency,
    }
    return {name: value for name, value in facts.items() if value}
