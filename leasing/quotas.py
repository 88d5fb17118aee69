"""Quotas: which limits are in force, what counts against them, and requests for more."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.db import transaction
from django.db.models import (
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
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from hosts.models import GpuModel
from leasing import notices, policy
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import InvalidRequest, NotAllowed, NotVisible, WrongState
from leasing.limits import Limit, MonthUse, Use, exceeded, month_spans, month_total
from leasing.locking import locked
from leasing.models import Flavor, Lease, Person, Quota, QuotaKind, QuotaRequest, Tenant
from leasing.reasons import Reason, filled, together
from leasing.states.lease import LeaseState

OPEN_REQUESTS = 20
MONTHLY = (QuotaKind.GPU_HOURS, QuotaKind.BUDGET)
LARGEST = Decimal(1_000_000_000)


@dataclass(frozen=True)
class Verdict:
    """Which limits were looked at, and why the lease is outside them; no reason if it is inside all."""

    limits: list[Limit]
    reason: Reason

    def described(self) -> dict[str, str]:
        """For the audit log: each limit and its value."""
        return {limit.name: f"{limit.value}{limit.currency}" for limit in self.limits}


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
    limits = limits_in_force(tenant, person, now=now)
    leases = Lease.objects.filter(tenant=tenant).exclude(pk__in=[without] if without else [])
    monthly = any(limit.kind in MONTHLY for limit in limits)
    reasons = exceeded(
        limits,
        wanted=wanted,
        uses=_uses(leases, person, starts_at, ends_at),
        months=_months(leases, person, wanted, tenant.timezone) if monthly else [],
        zone=tenant.timezone,
        now=now,
    )
    return Verdict(limits, together(reasons))


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
    whose = Q(person=None) if person is None else Q(person=None) | Q(person=person)
    in_force = Q(valid_until=None) | Q(valid_until__gt=now)
    rows = Quota.objects.filter(whose, in_force, tenant=tenant, valid_from__lte=now).order_by(
        "created_at", "id"
    )
    for kind, person_id, model_id, name, value, currency in rows.values_list(
        "kind", "person_id", "model_id", "model__name", "value", "currency"
    ):
        own = person_id is not None
        newest[kind, own, model_id] = Limit(kind, value, own, model_id, name or "", currency)
    return list(newest.values())


def standing(tenant: Tenant, person: Person, *, now: datetime) -> list[tuple[Limit, Decimal | None]]:
    """Each limit in force and, of monthly ones, what is booked or used in the tenant's present month."""
    limits = limits_in_force(tenant, person, now=now)
    at = Use(now, now + timedelta(microseconds=1), 0, 0, True, Decimal(0), "")
    monthly = any(limit.kind in MONTHLY for limit in limits)
    months = _months(Lease.objects.filter(tenant=tenant), person, at, tenant.timezone) if monthly else []
    return [(limit, month_total(limit, months) if limit.kind in MONTHLY else None) for limit in limits]


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


def ask_quota(
    *,
    actor: Actor,
    tenant: Tenant,
    kind: str,
    value: Decimal,
    reason: str,
    for_all: bool = False,
    model: GpuModel | None = None,
    until: datetime | None = None,
    now: datetime,
) -> QuotaRequest:
    """Ask for a limit of `value`, for oneself or `for_all` of the tenant; an approver decides."""
    person = _member(actor, tenant)
    if not reason.strip():
        raise InvalidRequest(_("Say what you need it for."), field="reason")
    if not 0 <= value <= LARGEST:
        raise InvalidRequest(_("This is no quantity that can be granted."), field="value")
    if until is not None and until <= now:
        raise InvalidRequest(_("The date is over."), field="until")
    with transaction.atomic():
        locked(Tenant.objects.all()).get(pk=tenant.pk)
        waiting = QuotaRequest.objects.filter(asked_by=person, state=QuotaRequest.State.OPEN).count()
        if waiting >= OPEN_REQUESTS:
            raise WrongState(_("Too many of your requests wait already."), hint=_("Withdraw one."))
        asked = QuotaRequest.objects.create(
            tenant=tenant,
            asked_by=person,
            person=None if for_all else person,
            kind=kind,
            model=model,
            value=value,
            until=until,
            reason=reason.strip()[:500],
            asked_at=now,
        )
        _note(asked, "quota.ask", actor, now=now)
        for approver in policy.people_with_role(tenant, "approver").exclude(pk=person.pk):
            _tell(approver, gettext_lazy("%(person)s asks for a larger quota"), asked.reason, asked, now=now)
    return asked


def grant_quota(
    *, actor: Actor, request_id: UUID, note: str = "", until: datetime | None = None, now: datetime
) -> QuotaRequest:
    """Grant what was asked for, for good or until a date (the one that was asked for, if none is given)."""
    with transaction.atomic():
        asked = _decide(actor, request_id, QuotaRequest.State.GRANTED, note=note, now=now)
        asked.quota = set_quota(
            actor=actor,
            tenant=asked.tenant,
            person=asked.person,
            kind=asked.kind,
            model=asked.model,
            value=asked.value,
            currency=_currency_of(asked.tenant) if asked.kind == QuotaKind.BUDGET else "",
            until=until or asked.until,
            now=now,
        )
        asked.save()
        _note(asked, "quota.grant", actor, now=now)
        _tell(
            asked.asked_by, gettext_lazy("Your larger quota is granted"), note or asked.reason, asked, now=now
        )
    return asked


def decline_quota(*, actor: Actor, request_id: UUID, note: str, now: datetime) -> QuotaRequest:
    """Decline; the reason is for the person who asked."""
    if not note.strip():
        raise InvalidRequest(_("Say why, so that the person knows what to change."), field="note")
    with transaction.atomic():
        asked = _decide(actor, request_id, QuotaRequest.State.DECLINED, note=note, now=now)
        asked.save()
        _note(asked, "quota.decline", actor, now=now)
        _tell(asked.asked_by, gettext_lazy("Your larger quota was declined"), note, asked, now=now)
    return asked


def withdraw_quota_request(*, actor: Actor, request_id: UUID, now: datetime) -> QuotaRequest:
    """Take one's own request back."""
    with transaction.atomic():
        asked = locked(QuotaRequest.objects.filter(asked_by=actor.person)).filter(pk=request_id).first()
        if asked is None:
            raise NotVisible(_("There is no such request."))
        _require_open(asked)
        asked.state, asked.decided_at = QuotaRequest.State.WITHDRAWN, now
        asked.save()
        _note(asked, "quota.withdraw", actor, now=now)
    return asked


def visible_requests(person: Person) -> QuerySet[QuotaRequest]:
    """One's own, and those of tenants that one decides for."""
    requests = QuotaRequest.objects.select_related("tenant", "asked_by", "person", "model", "decided_by")
    return requests.filter(Q(asked_by=person) | Q(tenant__in=policy.tenants_with_role(person, "approver")))


def may_decide(person: Person, asked: QuotaRequest) -> bool:
    return asked.asked_by_id != person.pk and policy.has_role(person, asked.tenant, "approver")


_PRICED = ("flavor__gpu_count", "flavor__model_id", "rate_per_hour", "currency")


def _uses(leases: QuerySet[Lease], person: Person, starts_at: datetime, ends_at: datetime) -> list[Use]:
    """What holds GPUs of the tenant in the window."""
    states = [LeaseState.RELEASING, LeaseState.ENDED]
    rows = leases.filter(starts_at__lt=ends_at, ends_at__gt=starts_at).exclude(state__in=states)
    return [
        Use(starts, ends, gpus, model_id, owner == person.pk, rate, currency)
        for starts, ends, gpus, model_id, owner, rate, currency in rows.values_list(
            "starts_at",
            "ends_at",
            "flavor__gpu_count",
            "flavor__model_id",
            "owner_id",
            "rate_per_hour",
            "currency",
        )
    ]


def _months(leases: QuerySet[Lease], person: Person, wanted: Use, zone: str) -> list[MonthUse]:
    """One query a month: booked time counts from the start to the end, or to when it was given back."""
    never_used = Q(state=LeaseState.ENDED, active_at=None)
    found = []
    for month, begin, end in month_spans(wanted.starts_at, wanted.ends_at, zone):
        since = Greatest(F("starts_at"), _value(begin))
        until = Least(Coalesce("stopped_at", "ends_at"), F("ends_at"), _value(end))
        rows = (
            leases.filter(Q(stopped_at=None) | Q(stopped_at__gt=since), starts_at__lt=end, ends_at__gt=begin)
            .exclude(never_used)
            .annotate(own=Case(When(owner=person, then=True), default=False))
            .order_by()
            .values_list(*_PRICED, "own")
            .annotate(total=Sum(ExpressionWrapper(until - since, output_field=DurationField())))
        )
        found += [
            MonthUse(month, _decimal_seconds(total), gpus, model_id, own, rate, currency)
            for gpus, model_id, rate, currency, own, total in rows
        ]
    return found


def _value(moment: datetime) -> Value:
    return Value(moment, output_field=DateTimeField())


def _decimal_seconds(span: timedelta) -> Decimal:
    return Decimal(span // timedelta(microseconds=1)) / 1_000_000


def _member(actor: Actor, tenant: Tenant) -> Person:
    if actor.person is None or not policy.has_role(actor.person, tenant, "member"):
        raise NotVisible(_("There is no such team."))
    return actor.person


def _decide(
    actor: Actor, request_id: UUID, state: QuotaRequest.State, *, note: str, now: datetime
) -> QuotaRequest:
    if actor.person is None:
        raise TypeError("only a person decides")
    asked = locked(visible_requests(actor.person)).filter(pk=request_id).first()
    if asked is None:
        raise NotVisible(_("There is no such request."))
    if not may_decide(actor.person, asked):
        raise NotAllowed(_("Nobody decides on their own request, and only approvers of the team decide."))
    _require_open(asked)
    asked.state, asked.decided_by, asked.decided_at, asked.note = state, actor.person, now, note.strip()[:500]
    return asked


def _require_open(asked: QuotaRequest) -> None:
    if asked.state != QuotaRequest.State.OPEN:
        raise WrongState(_("This request has already been decided."), hint=_("Reload the page."))


def _currency_of(tenant: Tenant) -> str:
    """That of the tenant's latest budget or lease, or else the one of the catalogue's newest rate."""
    budget = tenant.quotas.filter(kind=QuotaKind.BUDGET).values_list("currency", flat=True).first()
    lease = tenant.leases.order_by("-requested_at").values_list("currency", flat=True).first()
    rate = Flavor.objects.order_by("-rates__valid_from").values_list("rates__currency", flat=True).first()
    return next(found for found in (budget, lease, rate, "EUR") if found)


def _note(asked: QuotaRequest, action: str, actor: Actor, *, now: datetime) -> None:
    record(
        action=action,
        actor=actor,
        subject=f"quota-request:{asked.pk}",
        tenant=asked.tenant,
        now=now,
        kind=asked.kind,
        value=asked.value,
        model=asked.model.slug if asked.model else "",
        person=asked.person.username if asked.person else "",
        reason=asked.reason,
        note=asked.note,
    )


def _tell(recipient: Person, subject: Promise, body: str, asked: QuotaRequest, *, now: datetime) -> None:
    said = filled(subject, person=asked.asked_by)
    notices.notify(recipient=recipient, kind="quota-request", subject=said, body=body, now=now)
