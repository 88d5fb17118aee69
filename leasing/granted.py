"""The questions to the tables of grants that nearly every request puts, prepared; for leasing.policy."""

from __future__ import annotations

from functools import cache, partial
from typing import Any
from uuid import UUID

from django.contrib.auth.models import Permission
from django.db.models import QuerySet

from leasing.models import HandOver, Share, Tenant, TenantGroupPermission, TenantPersonPermission
from leasing.prepared import Prepared
from leasing.states.lease import RUNNING

OF_TENANT = [field.attname for field in Tenant._meta.concrete_fields]


@cache
def tenants_with(roles: tuple[str, ...]) -> Prepared:
    """The ids of the tenants in which `person_id` has any of the roles."""
    return Prepared(partial(_tenant_ids, roles=roles))


@cache
def roles_with_tenants(roles: tuple[str, ...]) -> Prepared:
    """Those of the roles that `person_id` has, each with the columns of its tenant."""
    return Prepared(partial(_roles, roles=roles))


def _tenant_ids(*, person_id: UUID, roles: tuple[str, ...]) -> QuerySet[Any, Any]:
    direct, through = _permissions(person_id, roles)
    return direct.values_list("content_object").union(through.values_list("content_object"))


def _roles(*, person_id: UUID, roles: tuple[str, ...]) -> QuerySet[Any, Any]:
    columns = ("permission__codename", *(f"content_object__{name}" for name in OF_TENANT))
    direct, through = _permissions(person_id, roles)
    return direct.values_list(*columns).union(through.values_list(*columns))


def _permissions(person_id: UUID, roles: tuple[str, ...]) -> tuple[QuerySet[Any], QuerySet[Any]]:
    """Those of the person, and those of the groups that they are in."""
    named = {"permission__codename__in": roles}
    direct = TenantPersonPermission.objects.filter(user=person_id, **named)
    return direct, TenantGroupPermission.objects.filter(group__user=person_id, **named)


def _grants(*, person_id: UUID, tenant_id: UUID, role: str) -> QuerySet[Any, Any]:
    named = {"permission__codename": role, "content_object": tenant_id}
    direct = TenantPersonPermission.objects.filter(user=person_id, **named)
    through = TenantGroupPermission.objects.filter(group__user=person_id, **named)
    return direct.values_list("pk").union(through.values_list("pk"), all=True)


def _global_permissions(*, person_id: UUID) -> QuerySet[Any, Any]:
    ours = Permission.objects.filter(content_type__app_label="leasing").order_by()
    direct, through = ours.filter(user=person_id), ours.filter(group__user=person_id)
    return direct.values_list("codename").union(through.values_list("codename"))


def _lent_ids(*, person_id: UUID) -> QuerySet[Any, Any]:
    member_of = _tenant_ids(person_id=person_id, roles=("member",))
    shared = Share.objects.filter(
        person=person_id, closed_at=None, lease__state__in=RUNNING, lease__tenant__in=member_of
    )
    offered = HandOver.objects.filter(
        taker=person_id, state__in=HandOver.WAITING, lease__tenant__in=member_of
    )
    return shared.order_by().values_list("lease").union(offered.order_by().values_list("lease"))


# A row for each way in which the person has the role, themselves or through a group.
GRANTS = Prepared(_grants)
# What the person may do over the whole platform.
GLOBAL = Prepared(_global_permissions)
# The leases of others that are shared with the person, or offered to them by their owner.
LENT = Prepared(_lent_ids)
