"""What every page knows: who reads it, and which parts of the house are theirs."""

from __future__ import annotations

from typing import Any

from django.db.models import Count, Q
from django.http import HttpRequest
from django.utils import timezone

from leasing import emergency, policy
from leasing.models import HandOver, Lease, Person, Tenant
from leasing.states.lease import LeaseState


def reader(request: HttpRequest) -> dict[str, Any]:
    """`can` names the parts of the navigation; fragments, which show none, do without."""
    known: dict[str, Any] = {"now": timezone.now()}
    person = getattr(request, "user", None)
    if not isinstance(person, Person) or request.headers.get("HX-Request"):
        return known
    roles = roles_in(request, person)
    return known | {
        "can": parts_of(person, roles),
        "to_decide": requests_to_decide(person, roles),
        "stops": emergency.stops_shown_to(person, list(roles)),
    }


def roles_in(request: HttpRequest, person: Person) -> dict[Tenant, set[str]]:
    """What the person is in which team, asked for once in a request."""
    known: dict[Tenant, set[str]] | None = getattr(request, "_roles", None)
    if known is None:
        known = policy.roles_of(person)
        request._roles = known  # type: ignore[attr-defined]
    return known


def parts_of(person: Person, roles: dict[Tenant, set[str]]) -> dict[str, bool]:
    """Which pages exist for this person."""
    names = set().union(*roles.values())
    auditor, operator = policy.is_auditor(person), policy.is_operator(person)
    return {
        "book": "member" in names,
        "calendar": bool(names) or operator or auditor,
        "quota": bool(names & {"member", "approver"}),
        "approve": "approver" in names,
        "oversee": "approver" in names or auditor,
        "lead": bool(names & {"owner", "approver"}),
        "fleet": operator or auditor,
        "audit": "approver" in names or auditor,
        "invoices": bool(names & {"approver", "finance"}) or auditor or policy.is_money_manager(person),
        "prices": auditor or policy.is_money_manager(person),
        "usage": bool(names & {"finance", "approver"}) or auditor or policy.is_money_manager(person),
    }


def requests_to_decide(person: Person, roles: dict[Tenant, set[str]]) -> int:
    tenants = [tenant for tenant, names in roles.items() if "approver" in names]
    if not tenants:
        return 0
    requests = Lease.objects.filter(tenant__in=tenants, state=LeaseState.REQUESTED).exclude(owner=person)
    alone, repeated = Count("pk", filter=Q(series=None)), Count("series", distinct=True)
    asked = HandOver.objects.filter(state=HandOver.State.ASKED, lease__tenant__in=tenants)
    others = asked.exclude(giver=person).exclude(taker=person)
    # A series is one decision.
    return int(sum(requests.aggregate(alone=alone, repeated=repeated).values())) + others.count()
