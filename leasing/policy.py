"""Who may do what (DESIGN §11): the one place that asks, and grants, permissions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Literal
from uuid import UUID

from django.contrib.auth.models import Permission
from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils.translation import gettext as _
from guardian.shortcuts import assign_perm, remove_perm

from hosts.models import GpuModel
from leasing import granted
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import InvalidRequest, NotAllowed, NotVisible
from leasing.models import (
    AuditEntry,
    Flavor,
    Invoice,
    Lease,
    Person,
    ScrubRecord,
    Series,
    Share,
    Tenant,
    TenantPersonPermission,
    UsageSegment,
)
from leasing.states.lease import NEVER_CLAIMED, RUNNING, LeaseState

Role = Literal["member", "approver", "finance", "owner"]
ROLES: tuple[Role, ...] = ("member", "approver", "finance", "owner")
GLOBAL_ROLES = {
    "operator": "operate_fleet",
    "platform-finance": "manage_money",
    "auditor": "audit_everything",
}
Action = Literal["view", "use", "control", "end", "decide", "cost"]


def tenants_with_role(person: Person, *roles: Role) -> QuerySet[Tenant]:
    """Tenants in which the person has any of the roles. Being a superuser gives none."""
    if not person.is_active:
        return Tenant.objects.none()
    return Tenant.objects.filter(granted.tenants_with(roles).has("pk", person_id=person.pk))


def has_role(person: Person, tenant: Tenant, role: Role) -> bool:
    return person.is_active and bool(granted.GRANTS.rows(person_id=person.pk, tenant_id=tenant.pk, role=role))


def roles_of(person: Person) -> dict[Tenant, set[str]]:
    """Every tenant that the person has a role in, by its name, with those roles."""
    found: dict[Tenant, set[str]] = defaultdict(set)
    rows = granted.roles_with_tenants(ROLES).rows(person_id=person.pk) if person.is_active else ()
    for role, *columns in rows:
        found[Tenant.from_db(connection.alias, granted.OF_TENANT, columns)].add(role)
    return dict(sorted(found.items(), key=lambda one: one[0].name))


def people_with_role(tenant: Tenant, role: Role) -> QuerySet[Person]:
    """Active people who have the role in the tenant, themselves or through a group."""
    direct = TenantPersonPermission.objects.filter(content_object=tenant, permission__codename=role)
    through = Q(
        groups__tenantgrouppermission__content_object=tenant,
        groups__tenantgrouppermission__permission__codename=role,
    )
    return Person.objects.filter(Q(pk__in=direct.values("user")) | through, is_active=True).distinct()


def operators() -> QuerySet[Person]:
    codename = GLOBAL_ROLES["operator"]
    return Person.objects.filter(
        Q(user_permissions__codename=codename) | Q(groups__permissions__codename=codename), is_active=True
    ).distinct()


def is_operator(person: Person) -> bool:
    return _has(person, "operate_fleet")


def is_money_manager(person: Person) -> bool:
    return _has(person, "manage_money")


def is_auditor(person: Person) -> bool:
    return _has(person, "audit_everything")


def _has(person: Person, codename: str) -> bool:
    """Over the whole platform; asked for once of an object, as Django's own `has_perm` is, but at once."""
    if person.is_superuser or not person.is_active:
        return person.is_active
    if "_global_permissions" not in vars(person):
        vars(person)["_global_permissions"] = set(granted.GLOBAL.rows(person_id=person.pk))
    return (codename,) in vars(person)["_global_permissions"]


def require_operator(person: Person) -> None:
    """NotVisible unless the person operates the fleet: to others its pages do not exist."""
    if not is_operator(person):
        raise NotVisible(_("There is nothing here."))


def reads_fleet(person: Person) -> bool:
    """Whether the person may know hosts and GPUs by their names."""
    return is_auditor(person) or is_operator(person)


def require_fleet_reader(person: Person) -> None:
    """NotVisible unless the person operates the fleet or audits everything."""
    if not is_auditor(person):
        require_operator(person)


def visible_models(person: Person) -> QuerySet[GpuModel]:
    """GPU models whose calendar the person may read: those on offer to whoever has a role in any tenant."""
    models = GpuModel.objects.order_by("name")
    if reads_fleet(person):
        return models
    offered = Exists(Flavor.objects.filter(model=OuterRef("pk"), offered=True))
    return models.filter(offered, Exists(tenants_with_role(person, *ROLES)))


def billed_tenants(person: Person) -> QuerySet[Tenant]:
    """The tenants whose usage the person may take away."""
    if is_auditor(person) or is_money_manager(person):
        return Tenant.objects.all()
    return tenants_with_role(person, "finance")


def invoiced_tenants(person: Person) -> QuerySet[Tenant]:
    """The tenants whose usage, invoices and budgets the person may see."""
    if is_auditor(person) or is_money_manager(person):
        return Tenant.objects.all()
    return tenants_with_role(person, "finance", "approver")


def visible_invoices(person: Person) -> QuerySet[Invoice]:
    return Invoice.objects.select_related("tenant", "corrects").filter(tenant__in=invoiced_tenants(person))


def require_money_manager(person: Person | None) -> None:
    """NotVisible unless the person sets rates and closes months: to others that does not exist."""
    if person is None or not is_money_manager(person):
        raise NotVisible(_("There is nothing here."))


def may_tag(person: Person, lease: Lease) -> bool:
    """Whether the person may say what a lease is charged to, inside its team."""
    if lease.owner_id == person.pk and has_role(person, lease.tenant, "member"):
        return True
    return tenants_with_role(person, "approver", "finance").filter(pk=lease.tenant_id).exists()


def visible_scrubs(person: Person) -> QuerySet[ScrubRecord]:
    """Evidence of every scrub for those who read the fleet, of their visible leases for others."""
    scrubs = ScrubRecord.objects.select_related("gpu__host", "gpu__model", "lease")
    if is_operator(person) or is_auditor(person):
        return scrubs
    return scrubs.filter(lease__in=visible_leases(person))


@transaction.atomic
def grant_role(*, actor: Actor, person: Person, tenant: Tenant, role: Role, now: datetime) -> None:
    _check_role(role)
    assign_perm(role, person, tenant)
    record(
        action="role.grant",
        actor=actor,
        subject=f"person:{person.pk}",
        tenant=tenant,
        now=now,
        role=role,
        person=person.username,
    )


@transaction.atomic
def revoke_role(*, actor: Actor, person: Person, tenant: Tenant, role: Role, now: datetime) -> None:
    _check_role(role)
    remove_perm(role, person, tenant)
    record(
        action="role.revoke",
        actor=actor,
        subject=f"person:{person.pk}",
        tenant=tenant,
        now=now,
        role=role,
        person=person.username,
    )


@transaction.atomic
def grant_global_role(*, actor: Actor, person: Person, role: str, now: datetime) -> None:
    """Roles over the whole platform: operator, platform-finance, auditor."""
    if role not in GLOBAL_ROLES:
        raise InvalidRequest(_("“%(role)s” is not a role.") % {"role": role}, field="role")
    permission = Permission.objects.get(content_type__app_label="leasing", codename=GLOBAL_ROLES[role])
    person.user_permissions.add(permission)
    record(
        action="role.grant",
        actor=actor,
        subject=f"person:{person.pk}",
        now=now,
        role=role,
        person=person.username,
    )


def visible_leases(person: Person, *, led: Iterable[Tenant] | None = None) -> QuerySet[Lease]:
    """Own ones in tenants where the person still is a member, all of a tenant for its approvers; besides
    what is shared with them, or offered to them by its owner.

    What was offered to somebody who waits is no workstation unless they claim it. Who knows already which
    tenants they are an approver of may say so as `led`: long lists are then found by better indexes.
    """
    if is_auditor(person):
        return _leases()
    own = Q(granted.tenants_with(("member",)).has("tenant", person_id=person.pk), owner=person)
    lent = Q(granted.LENT.has("pk", person_id=person.pk))
    if led is None:
        of_team = Q(granted.tenants_with(("approver",)).has("tenant", person_id=person.pk))
    else:
        of_team = Q(tenant__in=led)
    return _leases().filter(own | lent | of_team) if person.is_active else Lease.objects.none()


def own_leases(person: Person) -> QuerySet[Lease]:
    """Those of the visible ones that are their own."""
    if is_auditor(person):
        return _leases().filter(owner=person)
    own = Q(granted.tenants_with(("member", "approver")).has("tenant", person_id=person.pk), owner=person)
    return _leases().filter(own) if person.is_active else Lease.objects.none()


def _leases() -> QuerySet[Lease]:
    leases = Lease.objects.select_related("tenant", "owner", "flavor__model", "image", "host")
    return leases.exclude(state=LeaseState.OFFERED).exclude(outcome__in=NEVER_CLAIMED)


def shares_with(person: Person) -> QuerySet[Share]:
    """Those that count now: of leases that run, in tenants where the person is a member."""
    return Share.objects.filter(
        person=person,
        closed_at=None,
        lease__state__in=RUNNING,
        lease__tenant__in=tenants_with_role(person, "member"),
    )


def visible_audit(person: Person) -> QuerySet[AuditEntry]:
    if is_auditor(person):
        return AuditEntry.objects.all()
    return AuditEntry.objects.filter(tenant__in=tenants_with_role(person, "approver"))


def audited_tenants(person: Person) -> QuerySet[Tenant]:
    """The tenants whose entries the person may read."""
    return Tenant.objects.all() if is_auditor(person) else tenants_with_role(person, "approver")


def reads_audit(person: Person) -> bool:
    """Whether there is an audit log for this person at all."""
    return is_auditor(person) or tenants_with_role(person, "approver").exists()


def visible_usage(person: Person) -> QuerySet[UsageSegment]:
    segments = UsageSegment.objects.select_related(
        "tenant", "person", "lease__flavor__model", "volume", "snapshot"
    )
    if is_auditor(person) or is_money_manager(person):
        return segments
    return segments.filter(tenant__in=invoiced_tenants(person))


def visible_series(person: Person) -> QuerySet[Series]:
    """As with leases."""
    series = Series.objects.select_related("tenant", "owner", "flavor__model", "image")
    if is_auditor(person):
        return series
    own = Q(owner=person, tenant__in=tenants_with_role(person, "member"))
    return series.filter(own | Q(tenant__in=tenants_with_role(person, "approver")))


def fetch_lease(person: Person, lease_id: UUID, action: Action) -> Lease:
    """The lease, if the person may do this with it; NotVisible if they may not even know of it."""
    try:
        lease = visible_leases(person).get(pk=lease_id)
    except Lease.DoesNotExist:
        raise NotVisible(_("There is no such workstation.")) from None
    if not may(person, lease, action):
        raise NotAllowed(_REFUSALS[action]())
    return lease


def fetch_series(person: Person, series_id: UUID, action: Action) -> Series:
    """The series, if the person may do this with all of it; NotVisible if they may not even know of it."""
    try:
        series = visible_series(person).get(pk=series_id)
    except Series.DoesNotExist:
        raise NotVisible(_("There is no such series.")) from None
    if not may(person, series, action):
        raise NotAllowed(_REFUSALS[action]())
    return series


def may(person: Person, lease: Lease | Series, action: Action) -> bool:
    """Whether the person may do this with a lease, or all of a series, that they can see."""
    owns = lease.owner_id == person.pk and has_role(person, lease.tenant, "member")
    match action:
        case "view":
            return True
        case "use":
            return owns
        case "control":
            shared = shares_with(person).filter(level=Share.Level.USE, lease=lease.pk)
            return owns or (isinstance(lease, Lease) and shared.exists())
        case "end":
            return owns or has_role(person, lease.tenant, "approver")
        case "decide":
            return lease.owner_id != person.pk and has_role(person, lease.tenant, "approver")
        case "cost":
            return (
                owns
                or is_auditor(person)
                or tenants_with_role(person, "approver", "finance").filter(pk=lease.tenant_id).exists()
                or (isinstance(lease, Lease) and shares_with(person).filter(lease=lease.pk).exists())
            )


_REFUSALS = {
    "view": lambda: _("You may not see this workstation."),
    "use": lambda: _("Only the person who booked this workstation may use it."),
    "control": lambda: _("Only the person who booked it, and whom they let use it, may do this."),
    "end": lambda: _("Only the person who booked this workstation, or an approver of the team, may end it."),
    "decide": lambda: _("Nobody decides on their own request, and only approvers of the team decide."),
    "cost": lambda: _("You may not see what this workstation costs."),
}


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise InvalidRequest(_("“%(role)s” is not a role.") % {"role": role}, field="role")
