"""Asking for a larger quota, and deciding on it. Nobody decides on their own request."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from hosts.models import GpuModel
from leasing import notices, policy
from leasing.actors import Actor
from leasing.addresses import of_quota
from leasing.audit.log import record
from leasing.errors import InvalidRequest, NotAllowed, NotVisible, WrongState
from leasing.limits import Limit, plain
from leasing.locking import locked
from leasing.models import Flavor, Person, QuotaKind, QuotaRequest, Tenant
from leasing.quotas import limit_about, set_quota
from leasing.reasons import filled

OPEN_REQUESTS = 20
LARGEST = Decimal(1_000_000_000)


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
    check_quantity(value, until, now=now)
    _check_larger(limit_about(tenant, None if for_all else person, kind, model, now=now), value, for_all)
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
    if until is not None:
        check_quantity(Decimal(0), until, now=now)
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


def check_quantity(value: Decimal, until: datetime | None, *, now: datetime) -> None:
    """Raises InvalidRequest for what no limit can be."""
    if not 0 <= value <= LARGEST:
        raise InvalidRequest(_("This is no quantity that can be granted."), field="value")
    if until is not None and until <= now:
        raise InvalidRequest(_("The date is over."), field="until")


def visible_requests(person: Person) -> QuerySet[QuotaRequest]:
    """One's own, and those of tenants that one decides for."""
    requests = QuotaRequest.objects.select_related("tenant", "asked_by", "person", "model", "decided_by")
    return requests.filter(Q(asked_by=person) | Q(tenant__in=policy.tenants_with_role(person, "approver")))


def may_decide(person: Person, asked: QuotaRequest) -> bool:
    return asked.asked_by_id != person.pk and policy.has_role(person, asked.tenant, "approver")


def _member(actor: Actor, tenant: Tenant) -> Person:
    if actor.person is None or not policy.has_role(actor.person, tenant, "member"):
        raise NotVisible(_("There is no such team."))
    return actor.person


def _check_larger(limit: Limit | None, value: Decimal, for_all: bool) -> None:
    """Only what is limited can be enlarged: a first limit would take something away."""
    if limit is None and for_all:
        raise InvalidRequest(_("The team has no such limit: there is nothing to ask for."), field="kind")
    if limit is None:
        raise InvalidRequest(
            _("You have no such limit of your own."), hint=_("Ask for the whole team."), field="whose"
        )
    if value <= limit.value:
        raise InvalidRequest(
            _("You have %(limit)s already.") % {"limit": plain(limit.value)},
            hint=_("Ask for more than that."),
            field="value",
        )


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
    notices.notify(
        recipient=recipient, kind="quota-request", subject=said, body=body, now=now, link=of_quota()
    )
