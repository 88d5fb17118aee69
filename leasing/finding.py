"""What somebody finds by typing a few words: of each kind a handful, and only what they may see anyway.

A word matches if a text holds it, in whatever case; numbers and names of machines match as a whole or by
their beginning. Each kind costs at most one statement, and none where its answer is known beforehand.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import TypeVar
from uuid import UUID

from django.db.models import Q, QuerySet

from hosts.models import Gpu, Host
from leasing import policy
from leasing.models import (
    AuditEntry,
    Flavor,
    Image,
    Invoice,
    Lease,
    Person,
    Tenant,
    TenantGroupPermission,
    TenantPersonPermission,
)

Kind = TypeVar("Kind", Flavor, Image)

MOST = 8
SHORTEST, LONGEST = 2, 100
# Of workstations, words are looked for in this time; older ones are found by their name.
LOOKED_BACK = timedelta(days=400)
_HEX = frozenset("0123456789abcdef")
_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Finds:
    """At most MOST of each kind; `more` names the kinds of which there are more."""

    leases: list[Lease] = field(default_factory=list)
    people: list[Person] = field(default_factory=list)
    tenants: list[Tenant] = field(default_factory=list)
    flavors: list[Flavor] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    hosts: list[Host] = field(default_factory=list)
    gpus: list[Gpu] = field(default_factory=list)
    invoices: list[Invoice] = field(default_factory=list)
    entries: list[AuditEntry] = field(default_factory=list)
    more: Collection[str] = ()

    @property
    def is_empty(self) -> bool:
        return not any(value for name, value in vars(self).items() if name != "more")


def find_all(person: Person, roles: Mapping[Tenant, set[str]], words: str, *, now: datetime) -> Finds:
    """`roles` are policy.roles_of the person. Fewer than SHORTEST characters find nothing."""
    words = words.strip()[:LONGEST]
    if len(words) < SHORTEST and not words.isdecimal():
        return Finds()
    found: dict[str, Iterable[object]] = {
        "leases": _leases(person, roles, words, now),
        "people": _people(person, roles, words),
        "tenants": _tenants(person, roles, words),
        "flavors": _offered(person, roles, Flavor.objects.filter(_any(words, "name", "slug", "description"))),
        "images": _offered(person, roles, Image.objects.filter(_any(words, "name", "slug", "os_family"))),
        "hosts": _hosts(person, words),
        "gpus": _gpus(person, words),
        "invoices": _invoices(person, words),
        "entries": _entries(person, words),
    }
    known = {kind: list(islice(_few(those), MOST + 1)) for kind, those in found.items()}
    more = tuple(kind for kind, those in known.items() if len(those) > MOST)
    return Finds(more=more, **{kind: those[:MOST] for kind, those in known.items()})  # type: ignore[arg-type]


def _few(those: Iterable[object]) -> Iterable[object]:
    return those[: MOST + 1] if isinstance(those, QuerySet) else those


def _any(words: str, *names: str) -> Q:
    """Some of the texts hold each of the words."""
    every = Q()
    for word in words.split()[:6]:
        some = Q()
        for name in names:
            some |= Q(**{f"{name}__icontains": word})
        every &= some
    return every


def _leases(person: Person, roles: Mapping[Tenant, set[str]], words: str, now: datetime) -> QuerySet[Lease]:
    led = [tenant for tenant, names in roles.items() if "approver" in names]
    visible = policy.visible_leases(person, led=led).order_by("-starts_at", "id")
    begun = _begins_with(words)
    if begun is not None:
        return visible.filter(pk__gte=begun[0], pk__lte=begun[1])
    texts = ("purpose", "project", "cost_centre", "flavor__name", "owner__username", "owner__first_name")
    recent = visible.filter(starts_at__gte=now - LOOKED_BACK)
    return recent.filter(_any(words, *texts, "owner__last_name", "tenant__name"))


def _begins_with(words: str) -> tuple[UUID, UUID] | None:
    """The first and the last id that a machine's name, or the beginning of an id, stands for."""
    text = words.lower()
    digits = text.removeprefix("ws-").replace("-", "")
    if not digits or len(digits) > 32 or not _HEX.issuperset(digits):
        return None
    if not text.startswith("ws-") and len(digits) < 8:
        return None
    return UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))


def _people(person: Person, roles: Mapping[Tenant, set[str]], words: str) -> QuerySet[Person]:
    """Those of one's teams; all for who audits everything."""
    people = Person.objects.filter(_any(words, "username", "first_name", "last_name"), is_active=True)
    people = people.order_by("last_name", "first_name", "username")
    if policy.is_auditor(person):
        return people
    pks = [tenant.pk for tenant in roles]
    direct = TenantPersonPermission.objects.filter(content_object__in=pks)
    through = TenantGroupPermission.objects.filter(content_object__in=pks)
    of_groups = Person.objects.filter(groups__in=through.values("group"))
    return people.filter(Q(pk__in=direct.values("user")) | Q(pk__in=of_groups.values("pk")))


def _tenants(person: Person, roles: Mapping[Tenant, set[str]], words: str) -> Iterable[Tenant]:
    if policy.reads_fleet(person) or policy.is_money_manager(person):
        return Tenant.objects.filter(_any(words, "name", "slug"))
    wanted = words.lower().split()
    return (one for one in roles if all(word in f"{one.name} {one.slug}".lower() for word in wanted))


def _offered(person: Person, roles: Mapping[Tenant, set[str]], found: QuerySet[Kind]) -> QuerySet[Kind]:
    """What is offered, for those with a role in any team; also what was, for those who read the fleet."""
    if policy.reads_fleet(person):
        return found
    return found.filter(offered=True) if roles else found.none()


def _hosts(person: Person, words: str) -> QuerySet[Host]:
    if not policy.reads_fleet(person):
        return Host.objects.none()
    return Host.objects.filter(_any(words, "name", "account")).order_by("retired_at", "name")


def _gpus(person: Person, words: str) -> QuerySet[Gpu]:
    """By serial number, address, or what their driver calls them."""
    if not policy.reads_fleet(person):
        return Gpu.objects.none()
    texts = ("address", "fingerprint__serial", "card__details__serial")
    return Gpu.objects.select_related("host", "model").filter(_any(words, *texts))


def _invoices(person: Person, words: str) -> QuerySet[Invoice]:
    """By number, which has a digit in it."""
    if not any(map(str.isdecimal, words)):
        return Invoice.objects.none()
    return policy.visible_invoices(person).filter(number__icontains=words).order_by("-number")


def _entries(person: Person, words: str) -> QuerySet[AuditEntry]:
    """By number."""
    number = words.removeprefix("#")
    if not (number.isascii() and number.isdecimal() and len(number) < 20):
        return AuditEntry.objects.none()
    return policy.visible_audit(person).select_related("tenant").filter(pk=min(int(number), _LARGEST))
