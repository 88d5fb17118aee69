"""What a team's month comes to: used, booked, foreseen, and whom inside the team it is charged to."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction

from django.db.models import Sum
from django.utils.translation import gettext as _

from leasing import policy, quotas
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.billing.closing import draft
from leasing.billing.months import Month, month_of
from leasing.errors import InvalidRequest, NotVisible
from leasing.limits import Limit
from leasing.locking import locked
from leasing.models import BudgetRule, BudgetWarning, InvoiceLine, Quota, QuotaKind, Tenant
from leasing.spent import monthly_total
from leasing.terms import rounded
from leasing.transactions import atomically


@dataclass(frozen=True)
class Forecast:
    """Of the present month, in one currency; all sums without tax.

    `used` is what is billed so far, `booked` what is booked for the rest of the month; `trend` foresees the
    same use a day as so far for the rest, or what is booked, whichever is more.
    """

    currency: str
    used: Decimal
    booked: Decimal
    trend: Decimal

    @property
    def certain(self) -> Decimal:
        return self.used + self.booked


@dataclass(frozen=True)
class Charge:
    """What a project and cost centre of a team come to in a month."""

    project: str
    cost_centre: str
    currency: str
    amount: Decimal


@dataclass(frozen=True)
class Budget:
    """How a team stands in its present month; no limit if it has no budget."""

    tenant: Tenant
    month: Month
    limit: Limit | None
    forecasts: list[Forecast]
    warned: list[int]


def budget_of(tenant: Tenant, *, now: datetime) -> Budget:
    month = month_of(now, tenant.timezone)
    limit = _limit(tenant, now)
    used = {one.currency: one.totals.net for one in draft(tenant, month.name, now=now)}
    spoken = monthly_total(tenant, month.starts_at, month.ends_at)
    passed = Fraction((now - month.starts_at) / (month.ends_at - month.starts_at))
    currencies = used.keys() | spoken.keys() | ({limit.currency} if limit else set())
    forecasts = [
        _forecast(one, used.get(one, Decimal(0)), spoken.get(one, Decimal(0)), passed)
        for one in sorted(currencies)
    ]
    warned = BudgetWarning.objects.filter(tenant=tenant, month=month.name).order_by("percent")
    return Budget(tenant, month, limit, forecasts, list(warned.values_list("percent", flat=True)))


def charges(tenant: Tenant, name: str, *, now: datetime) -> list[Charge]:
    """By project and cost centre: what was invoiced for a month, less what was credited, and what is open."""
    sums: dict[tuple[str, str, str], Decimal] = defaultdict(Decimal)
    billed = InvoiceLine.objects.filter(invoice__tenant=tenant, invoice__month=name).order_by()
    for *key, amount in billed.values_list("project", "cost_centre", "invoice__currency").annotate(
        total=Sum("amount")
    ):
        sums[key[0], key[1], key[2]] += rounded(amount, key[2])
    for one in draft(tenant, name, now=now):
        for line in one.lines:
            sums[line.project, line.cost_centre, one.currency] += line.amount
    return [Charge(*key, amount) for key, amount in sorted(sums.items()) if amount]


@atomically
def set_budget_rule(*, actor: Actor, tenant: Tenant, rule: str, now: datetime) -> Tenant:
    """What becomes of bookings beyond a team's budget. Raises InvalidRequest or NotVisible."""
    _authorise(actor, tenant)
    if rule not in BudgetRule.values:
        raise InvalidRequest(_("“%(rule)s” is no rule.") % {"rule": rule}, field="rule")
    found = locked(Tenant.objects.all()).get(pk=tenant.pk)
    was, found.budget_rule = found.budget_rule, rule
    if was != rule:
        found.save(update_fields=["budget_rule"])
        record(
            action="budget.rule",
            actor=actor,
            subject=f"tenant:{found.pk}",
            tenant=found,
            now=now,
            before=was,
            after=rule,
        )
    return found


def set_budget(*, actor: Actor, tenant: Tenant, value: Decimal, currency: str, now: datetime) -> Quota:
    """How much money a team may spend a month, from now on. What is booked stays."""
    _authorise(actor, tenant)
    return quotas.set_quota(
        actor=actor, tenant=tenant, kind=QuotaKind.BUDGET, value=value, currency=currency, now=now
    )


def may_set(actor: Actor, tenant: Tenant) -> bool:
    """Approvers of the team, and those who manage the money."""
    person = actor.person
    if person is None:
        return actor.kind == "system"
    return policy.is_money_manager(person) or policy.has_role(person, tenant, "approver")


def _authorise(actor: Actor, tenant: Tenant) -> None:
    if not may_set(actor, tenant):
        raise NotVisible(_("There is nothing here."))


def _limit(tenant: Tenant, now: datetime) -> Limit | None:
    limits = quotas.limits_in_force(tenant, None, now=now)
    return next((one for one in limits if one.kind == QuotaKind.BUDGET and one.model_id is None), None)


def _forecast(currency: str, used: Decimal, spoken: Decimal, passed: Fraction) -> Forecast:
    booked = max(Decimal(0), rounded(spoken, currency) - used)
    ahead = used * Decimal((1 - passed).numerator) / Decimal((1 - passed).denominator)
    so_far = Decimal(passed.numerator) / Decimal(passed.denominator)
    going_on = rounded(ahead / so_far, currency) if passed > 0 else Decimal(0)
    return Forecast(currency, used, booked, used + max(booked, going_on))
