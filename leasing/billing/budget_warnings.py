"""Approvers are told, once each, when half, four fifths and all of a month's budget are booked or used."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from django.utils.translation import gettext_lazy as _

from leasing import notices, policy
from leasing.actors import SYSTEM
from leasing.addresses import of_budget
from leasing.audit.log import record
from leasing.limits import Measure
from leasing.models import BudgetRule, BudgetWarning, QuotaKind, Tenant
from leasing.reasons import filled
from leasing.terms import HUNDRED

STEPS = (50, 80, 100)
_NEXT = {
    BudgetRule.WARN: _("What is booked beyond it is booked all the same."),
    BudgetRule.APPROVE: _("What is booked beyond it waits for an approver."),
    BudgetRule.REFUSE: _("What would go beyond it is refused."),
}


def warn(tenant: Tenant, measures: Iterable[Measure], *, now: datetime) -> None:
    """After a booking; the caller has locked the tenant. Of several steps at once the highest is told."""
    most: dict[str, Measure] = {}
    for one in measures:
        limit = one.limit
        if limit.kind == QuotaKind.BUDGET and not limit.own and limit.model_id is None:
            known = most.get(one.month)
            most[one.month] = one if known is None or one.total > known.total else known
    for one in most.values():
        _warn(tenant, one, now)


def steps_reached(total: Decimal, value: Decimal) -> list[int]:
    """Which steps a sum has reached of a budget; all, if there is none to spend."""
    return [step for step in STEPS if total > 0 and total * HUNDRED >= value * step]


def _warn(tenant: Tenant, measure: Measure, now: datetime) -> None:
    reached = steps_reached(measure.total, measure.limit.value)
    if not reached:
        return
    warned = BudgetWarning.objects.filter(tenant=tenant, month=measure.month)
    fresh = [step for step in reached if step not in set(warned.values_list("percent", flat=True))]
    if not fresh:
        return
    BudgetWarning.objects.bulk_create(
        BudgetWarning(tenant=tenant, month=measure.month, percent=step, warned_at=now) for step in fresh
    )
    facts = {"month": measure.month, "currency": measure.limit.currency}
    facts |= {"total": f"{measure.total:.2f}", "limit": f"{measure.limit.value:.2f}"}
    record(
        action="budget.warn",
        actor=SYSTEM,
        subject=f"tenant:{tenant.pk}",
        tenant=tenant,
        now=now,
        percent=fresh[-1],
        budget=facts,
    )
    for approver in policy.people_with_role(tenant, "approver"):
        notices.notify(
            recipient=approver,
            kind="budget-warning",
            subject=filled(
                _("%(percent)d %% of the budget of %(tenant)s for %(month)s are booked or used"),
                percent=fresh[-1],
                tenant=tenant.name,
                month=measure.month,
            ),
            body=filled(
                _("%(total)s of %(limit)s %(currency)s.\n\n%(next)s"),
                next=_NEXT[BudgetRule(tenant.budget_rule)],
                **facts,
            ),
            now=now,
            link=of_budget(),
        )
