"""What every page knows: who reads it, and which parts of the house are theirs."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.utils import timezone

from leasing import policy
from leasing.models import Lease, Person
from leasing.states.lease import LeaseState


def reader(request: HttpRequest) -> dict[str, Any]:
    """`can` names the parts of the navigation; fragments, which show none, do without."""
    common = {"now": timezone.now()}
    person = getattr(request, "user", None)
    if not isinstance(person, Person) or request.headers.get("HX-Request"):
        return common
    return common | {"can": parts_of(person), "to_decide": requests_to_decide(person)}


def parts_of(person: Person) -> dict[str, bool]:
    """Which pages exist for this person."""
    roles = set().union(*policy.roles_of(person).values())
    auditor, operator = policy.is_auditor(person), policy.is_operator(person)
    return {
        "book": "member" in roles,
        "approve": "approver" in roles,
        "oversee": "approver" in roles or auditor,
        "fleet": operator or auditor,
        "audit": "approver" in roles or auditor,
        "usage": policy.billed_tenants(person).exists(),
    }


def requests_to_decide(person: Person) -> int:
    tenants = policy.tenants_with_role(person, "approver")
    return Lease.objects.filter(tenant__in=tenants, state=LeaseState.REQUESTED).exclude(owner=person).count()
