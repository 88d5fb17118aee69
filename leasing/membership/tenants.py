"""Tenants as operators keep them: added with their first owner, named, and given their standing limits."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from leasing import policy
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.emergency import carry_over
from leasing.errors import InvalidRequest, NotVisible, WrongState
from leasing.fleet import authorise
from leasing.locking import locked
from leasing.models import Lease, Person, Tenant
from leasing.quotas import let_standing_count
from leasing.transactions import atomically

KEPT = ("name", "timezone", "concurrent_gpus", "longest_lease_hours", "book_ahead_days")


@atomically
def add_tenant(*, actor: Actor, slug: str, facts: Mapping[str, Any], owner: str, now: datetime) -> Tenant:
    """`facts` are any of KEPT; `owner` is the user name of its first owner."""
    authorise(actor)
    tenant = Tenant(slug=slug, **facts)
    _check(tenant)
    try:
        with transaction.atomic():
            tenant.save(force_insert=True)
    except IntegrityError:
        raise InvalidRequest(_("There is a team of this short name already."), field="slug") from None
    told = {name: getattr(tenant, name) for name in KEPT}
    record(action="tenant.add", actor=actor, subject=f"tenant:{tenant.pk}", tenant=tenant, now=now, **told)
    carry_over(tenant)
    appoint_owner(actor=actor, slug=slug, username=owner, now=now)
    return tenant


@atomically
def change_tenant(*, actor: Actor, slug: str, facts: Mapping[str, Any], now: datetime) -> Tenant:
    """Any of KEPT; what is booked stays as it is. The zone, which its months are in, before a lease."""
    authorise(actor)
    tenant = _locked(slug)
    before = {name: getattr(tenant, name) for name in KEPT}
    changed = {name: value for name, value in facts.items() if name in before and before[name] != value}
    if not changed:
        return tenant
    if "timezone" in changed and Lease.objects.filter(tenant=tenant).exists():
        raise WrongState(_("It has leases: its bills are made in its zone, which stays."))
    for name, value in changed.items():
        setattr(tenant, name, value)
    _check(tenant)
    tenant.save(update_fields=list(changed))
    record(
        action="tenant.change", actor=actor, subject=f"tenant:{tenant.pk}", tenant=tenant, now=now,
        before={name: before[name] for name in changed}, after=changed,
    )  # fmt: skip
    let_standing_count(actor=actor, tenant=tenant, columns=changed, now=now)
    return tenant


@atomically
def appoint_owner(*, actor: Actor, slug: str, username: str, now: datetime) -> Person:
    """Make somebody an owner: the first one, or one more where none is left who can be reached."""
    authorise(actor)
    tenant = _locked(slug)
    person = Person.objects.filter(username=username.strip(), is_active=True).first()
    if person is None:
        raise InvalidRequest(_("Nobody has this user name."), field="owner")
    if not policy.has_role(person, tenant, "owner"):
        policy.grant_role(actor=actor, person=person, tenant=tenant, role="owner", now=now)
    return person


def _locked(slug: str) -> Tenant:
    tenant = locked(Tenant.objects.filter(slug=slug)).first()
    if tenant is None:
        raise NotVisible(_("There is no such team."))
    return tenant


def _check(tenant: Tenant) -> None:
    try:
        tenant.full_clean(validate_unique=False)
    except ValidationError as error:
        field = next(iter(error.message_dict))
        raise InvalidRequest(" ".join(error.message_dict[field]), field=field) from None
