"""Limits that an approver sets by themselves: for a person of the team, or lower ones for all of it.

Nobody raises what limits themselves, too: that is asked for, and another approver decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.db.models import Q
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from hosts.models import GpuModel
from leasing import notices, policy
from leasing.actors import Actor
from leasing.addresses import of_quota
from leasing.errors import InvalidRequest, NotAllowed, NotVisible
from leasing.limits import Limit, plain
from leasing.models import Person, Quota, QuotaKind, Tenant
from leasing.quota_requests import check_quantity
from leasing.quotas import limit_about, set_quota
from leasing.reasons import filled
from leasing.transactions import atomically


@atomically
def put_limit(
    *,
    actor: Actor,
    tenant: Tenant,
    username: str = "",
    kind: str,
    model: GpuModel | None = None,
    value: Decimal | None,
    until: datetime | None = None,
    now: datetime,
) -> Quota:
    """Limit a member, or all of the team if none is named, for good or until a date; no value lifts it.

    Raises NotVisible, NotAllowed or InvalidRequest.
    """
    if actor.person is None or not policy.has_role(actor.person, tenant, "approver"):
        raise NotVisible(_("There is no such team."))
    if kind == QuotaKind.BUDGET:
        raise InvalidRequest(_("A team’s money has a page of its own."), field="kind")
    check_quantity(value or Decimal(0), until, now=now)
    person = _member(tenant, username) if username else None
    limit = limit_about(tenant, person, kind, model, now=now)
    if value is None and (limit is None or limit.own != (person is not None)):
        raise InvalidRequest(_("There is no such limit to lift."), field="value")
    if (person is None or person == actor.person) and _is_raised(limit, value):
        raise NotAllowed(
            _("Nobody raises a limit of their own."),
            hint=_("Ask for it on the page “Quota”; another approver decides."),
        )
    quota = set_quota(
        actor=actor, tenant=tenant, kind=kind, value=value, person=person, model=model, until=until, now=now
    )
    if person is not None and person != actor.person:
        _tell(person, quota, now=now)
    return quota


@dataclass(frozen=True)
class PersonLimit:
    """A limit of one person that is in force."""

    person: Person
    kind: str
    model: GpuModel | None
    value: Decimal
    until: datetime | None


def limits_of_people(tenant: Tenant, *, now: datetime) -> list[PersonLimit]:
    """Those of every person in a team, by name."""
    in_force = Quota.objects.filter(
        Q(valid_until=None) | Q(valid_until__gt=now), tenant=tenant, person__isnull=False, valid_from__lte=now
    ).select_related("person", "model")
    newest = {(one.person, one.kind, one.model): one for one in in_force.order_by("created_at", "id")}
    found = [
        PersonLimit(person, kind, model, one.value, one.valid_until)
        for (person, kind, model), one in newest.items()
        if person is not None and one.value is not None
    ]
    return sorted(found, key=lambda one: (str(one.person), one.kind, str(one.model or "")))


def _member(tenant: Tenant, username: str) -> Person:
    person = policy.people_with_role(tenant, "member").filter(username=username).first()
    if person is None:
        raise InvalidRequest(_("Nobody in the team has this user name."), field="person")
    return person


def _is_raised(limit: Limit | None, value: Decimal | None) -> bool:
    return limit is not None and (value is None or value > limit.value)


def _tell(person: Person, quota: Quota, *, now: datetime) -> None:
    subject = filled(gettext_lazy("Your limit in %(team)s has changed"), team=quota.tenant)
    what = QuotaKind(quota.kind).label
    if quota.value is None:
        body = filled(gettext_lazy("%(what)s: no limit of your own any more"), what=what)
    else:
        body = filled(gettext_lazy("%(what)s: %(value)s"), what=what, value=plain(quota.value))
    notices.notify(
        recipient=person, kind="quota-request", subject=subject, body=body, now=now, link=of_quota()
    )
