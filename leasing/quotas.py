"""Quotas: which limits are in force, and what counts against them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import (
    Q,
    QuerySet,
)
from django.utils.translation import gettext as _

from hosts.models import GpuModel
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import DomainError, InvalidRequest
from leasing.limits import (
    WARN,
    Limit,
    Measure,
    MonthUse,
    Use,
    gpus_at,
    measured,
    month_spans,
    month_total,
    month_uses,
    objections,
    plain,
    refusals,
)
from leasing.locking import locked
from leasing.models import Extension, Flavor, Lease, Person, Quota, QuotaKind, Tenant
from leasing.prepared import NOBODY, Prepared
from leasing.reasons import NONE, Reason, together
from leasing.spent import is_one, spent_in_months
from leasing.states.lease import LeaseState
from leasing.terms import Term
from leasing.timing import INSTANT

MONTHLY = (QuotaKind.GPU_HOURS, QuotaKind.BUDGET)
# About each booking by itself, whosever else's there are.
PERSONAL = (QuotaKind.LONGEST, QuotaKind.AHEAD)
# What every tenant has, and where it says so.
STANDING = {
    QuotaKind.GPUS: "concurrent_gpus",
    QuotaKind.LONGEST: "longest_lease_hours",
    QuotaKind.AHEAD: "book_ahead_days",
}


class OverBudget(DomainError):
    """More than a budget that may not be exceeded covers."""

    code = "over-budget"


@dataclass(frozen=True)
class Verdict:
    """What a lease does to each limit, and why it is outside them; no reason if it is inside all.

    With a refusal, nobody can agree.
    """

    measures: list[Measure]
    reason: Reason
    refusal: Reason = NONE

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

    def before(self, counted: Sequence[Use]) -> Account:
        """As it was before these, which are counted in it."""
        uses = list(self.uses)
        for use in counted:
            uses.remove(replace(use, terms=(), currency=""))
        gone = [replace(one, seconds=-one.seconds) for use in counted for one in month_uses(use, self.zone)]
        return replace(self, uses=uses, months=[*self.months, *gone])

    def judge(self, wanted: Use) -> Verdict:
        """Whether one more lease is inside the limits."""
        measures = measured(
            self.limits, wanted=wanted, uses=self.uses, months=self.months, zone=self.zone, now=self.now
        )
        return Verdict(measures, together(objections(measures)), together(refusals(measures)))


def check(
    *,
    tenant: Tenant,
    person: Person,
    flavor: Flavor,
    starts_at: datetime,
    ends_at: datetime,
    terms: Sequence[Term],
    currency: str,
    without: UUID | None = None,
    now: datetime,
) -> Verdict:
    """Every limit that a lease in this window would break; `without` is that lease, if it exists already.

    Whoever acts on the answer has locked the tenant, and then the person.
    """
    wanted = Use(starts_at, ends_at, flavor.gpu_count, flavor.model_id, True, tuple(terms), currency)
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
    uses = [Use(*use) for use in rows]
    months = []
    if any(limit.kind in MONTHLY for limit in limits):
        months = list(spent_in_months(others, starts_at, ends_at, tenant.timezone))
    return Account(limits, uses, months, tenant.timezone, now)


def account_around(leases: Sequence[Lease], *, now: datetime) -> Account:
    """The same around leases of one person, by their start, that are to be judged together."""
    return account_of(
        tenant=leases[0].tenant,
        person=leases[0].owner,
        starts_at=leases[0].starts_at,
        ends_at=leases[-1].ends_at,
        now=now,
    )


def use_of(lease: Lease, terms: Sequence[Term], currency: str = "") -> Use:
    """What a lease with these terms counts as, for its owner."""
    flavor = lease.flavor
    currency = currency or lease.currency
    window = (terms[0].starts_at, terms[-1].ends_at)
    return Use(*window, flavor.gpu_count, flavor.model_id, True, tuple(terms), currency)


def refuse_beyond(verdict: Verdict) -> None:
    """Raises OverBudget for what nobody can agree to."""
    if verdict.refusal:
        hint = _("Ask for a larger budget, or choose less.")
        raise OverBudget(str(verdict.refusal), hint=hint, field="ends_at")


def together_beyond(verdicts: Iterable[Verdict]) -> Reason:
    """Why several leases are outside the limits: each limit once, with the most that it comes to."""
    return together(objections(measured_together(verdicts)))


def measured_together(verdicts: Iterable[Verdict]) -> list[Measure]:
    """What several leases, each judged given those before it, do to each limit, at the most."""
    first: dict[tuple[Limit, str], Measure] = {}
    worst: dict[tuple[Limit, str], Measure] = {}
    for one in (measure for verdict in verdicts for measure in verdict.measures):
        first.setdefault((one.limit, one.month), one)
        known = worst.get((one.limit, one.month))
        if known is None or (one.is_over, one.total) > (known.is_over, known.total):
            worst[one.limit, one.month] = one
    # What is used up in a month adds up; before the first of them there was only what others have.
    return [
        replace(one, there=first[key].there, asked=one.there + one.asked - first[key].there)
        if one.month
        else one
        for key, one in worst.items()
    ]


def limits_in_force(tenant: Tenant, person: Person | None, *, now: datetime) -> list[Limit]:
    """The tenant's standing limits, unless a quota in force says otherwise, and every other quota in force.

    Of several about the same the newest counts. How long and how far ahead somebody books is theirs alone:
    there a person's own limit takes the place of the team's.
    """
    standing_limits: dict[tuple[str, bool, int | None], Limit] = {
        (kind.value, False, None): Limit(kind.value, Decimal(getattr(tenant, column)))
        for kind, column in STANDING.items()
    }
    newest = {**standing_limits}
    whose = NOBODY if person is None else person.pk
    rows = _LIMITS.rows(tenant_id=tenant.pk, person_id=whose, now=now)
    for kind, person_id, model_id, slug, name, value, currency, until in rows:
        about = kind, person_id is not None, model_id
        newest.pop(about, None)
        if value is not None:
            rule = tenant.budget_rule if kind == QuotaKind.BUDGET else ""
            newest[about] = Limit(
                kind, value, about[1], model_id, slug or "", name or "", currency, rule, until
            )
        elif about in standing_limits:
            newest[about] = standing_limits[about]
    for kind in PERSONAL:
        if (kind, True, None) in newest:
            del newest[kind, False, None]
    return list(newest.values())


def limit_about(
    tenant: Tenant, person: Person | None, kind: str, model: GpuModel | None, *, now: datetime
) -> Limit | None:
    """The one in force of this kind for a person, or of the whole tenant; None if nothing is limited."""
    limits = limits_in_force(tenant, person, now=now)
    own = person is not None
    found = [one for one in limits if (one.kind, one.model_id) == (kind, model.pk if model else None)]
    return next((one for one in found if one.own == own or kind in PERSONAL), None)


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
    value: Decimal | None,
    person: Person | None = None,
    model: GpuModel | None = None,
    currency: str = "",
    until: datetime | None = None,
    now: datetime,
) -> Quota:
    """Set a limit from now on, or lift it with no value. What is booked already stays, whatever it says."""
    if model is not None and kind in PERSONAL:
        raise InvalidRequest(_("This limit is about all models."), field="model")
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


def let_standing_count(*, actor: Actor, tenant: Tenant, columns: Collection[str], now: datetime) -> None:
    """What was just set for the tenant itself counts, not what was granted before."""
    for kind, column in STANDING.items():
        limit = limit_about(tenant, None, kind, None, now=now)
        if column in columns and limit is not None and limit.value != getattr(tenant, column):
            set_quota(actor=actor, tenant=tenant, kind=kind, value=None, now=now)


def _limits(*, tenant_id: UUID, person_id: UUID, now: datetime) -> QuerySet[Quota, Any]:
    """The tenant's own, and the person's, from the oldest on."""
    rows = Quota.objects.filter(
        Q(person=None) | Q(person=person_id),
        Q(valid_until=None) | Q(valid_until__gt=now),
        tenant=tenant_id,
        valid_from__lte=now,
    )
    return rows.order_by("created_at", "id").values_list(
        "kind", "person_id", "model_id", "model__slug", "model__name", "value", "currency", "valid_until"
    )


def _uses(
    *, tenant_id: UUID, person_id: UUID, without: UUID, starts_at: datetime, ends_at: datetime
) -> QuerySet[Any, Any]:
    """What holds GPUs of the tenant in the window, as a Use; and time, whenever it is, that hosts are still
    to confirm: it counts as if they had.
    """
    states = [LeaseState.OFFERED, LeaseState.RELEASING, LeaseState.ENDED]
    held = Lease.objects.filter(tenant=tenant_id, starts_at__lt=ends_at, ends_at__gt=starts_at)
    held = held.exclude(state__in=states).exclude(pk=without)
    held = held.annotate(own=is_one(owner=person_id))
    flavor = ("flavor__gpu_count", "flavor__model_id")
    uses = held.order_by().values_list("starts_at", "ends_at", *flavor, "own")
    asked = Extension.objects.filter(state=Extension.State.PENDING, lease__tenant=tenant_id)
    asked = asked.exclude(lease=without).annotate(own=is_one(lease__owner=person_id))
    flavor = ("lease__flavor__gpu_count", "lease__flavor__model_id")
    pending = asked.order_by().values_list("old_ends_at", "new_ends_at", *flavor, "own")
    return uses.union(pending, all=True)


_LIMITS = Prepared(_limits)
_USES = Prepared(_uses)


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
        "rule": limit.rule if limit.rule == WARN else "",
    }
    return {name: value for name, value in facts.items() if value}
