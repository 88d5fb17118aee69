"""The emergency stop: no bookings, no running machines, or neither, of a host, a tenant or everything.

It shows what it will do and is confirmed by typing the name of what it stops. What runs fails, which is free
from then on. Tenants carry what is stopped for them, so that booking and starting need not look for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from hosts.models import Host
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import InvalidRequest, NotVisible, WrongState
from leasing.fleet import authorise
from leasing.locking import locked
from leasing.maintenance import service
from leasing.maintenance.plan import Unmovable
from leasing.models import EmergencyStop, Lease, Person, Tenant
from leasing.policy import is_operator
from leasing.reasons import because
from leasing.states.lease import RUNNING, LeaseEvent, LeaseState
from leasing.transactions import atomically
from leasing.transitions import apply_lease_event
from leasing.wake import wake_control

EVERYTHING = "everything"
LONGEST_REASON = 200
Scope = EmergencyStop.Scope


@dataclass(frozen=True)
class Effect:
    """What a stop would do now. `typed` is what has to be typed to confirm it."""

    scope: str
    host: Host | None
    tenant: Tenant | None
    running: list[Lease]
    ahead: int

    @property
    def typed(self) -> str:
        if self.host is not None:
            return self.host.name
        return self.tenant.name if self.tenant is not None else EVERYTHING

    @property
    def seen(self) -> str:
        """Changes with what would be stopped."""
        told = "\n".join(sorted(str(lease.pk) for lease in self.running))
        return hashlib.sha256(told.encode()).hexdigest()[:32]


def preview_stop(*, actor: Actor, scope: str, name: str) -> Effect:
    """`name` is the host's, or the tenant's slug; it changes nothing. Raises NotVisible."""
    authorise(actor)
    host = Host.objects.filter(name=name, retired_at=None).first() if scope == Scope.HOST else None
    tenant = Tenant.objects.filter(slug=name).first() if scope == Scope.TENANT else None
    if scope not in Scope.values or (scope != Scope.ALL and host is None and tenant is None):
        raise NotVisible(_("There is nothing of this name to be stopped."))
    leases = _within(Lease.objects.select_related("tenant", "owner", "flavor", "host"), host, tenant)
    running = list(leases.filter(state__in=RUNNING).order_by("id"))
    ahead = Lease.objects.filter(state=LeaseState.SCHEDULED)
    if host is not None:
        ahead = ahead.filter(holds__gpu__host=host).distinct()
    return Effect(scope, host, tenant, running, _within(ahead, None, tenant).count())


@atomically
def stop(
    *,
    actor: Actor,
    scope: str,
    name: str,
    bookings: bool,
    machines: bool,
    reason: str,
    typed: str,
    seen: str,
    now: datetime,
) -> EmergencyStop:
    """`seen` is that of the preview. A host takes no bookings then. Raises InvalidRequest or WrongState."""
    found = preview_stop(actor=actor, scope=scope, name=name)
    assert actor.person is not None  # noqa: S101 - authorised
    bookings = bookings or found.host is not None
    _check_input(found, bookings=bookings, machines=machines, reason=reason, typed=typed)
    _lock(found)
    found = preview_stop(actor=actor, scope=scope, name=name)
    if found.seen != seen:
        raise WrongState(_("Something has changed since you looked."), hint=_("Look again, then confirm."))
    if in_force().filter(scope=scope, host=found.host, tenant=found.tenant).exists():
        raise WrongState(_("It is stopped already."), hint=_("Lift that first."))
    made = EmergencyStop(
        scope=scope, host=found.host, tenant=found.tenant, bookings=bookings, machines=machines,
        reason=reason.strip(), made_by=actor.person, made_at=now,
    )  # fmt: skip
    if machines:
        for lease in found.running:
            apply_lease_event(
                lease_id=lease.pk, event=LeaseEvent.FAIL, actor=actor, effective_at=now, now=now,
                reason=because("emergency-stop", why=made.reason),
            )  # fmt: skip
    if found.host is not None:
        _close_host(made, found.host, actor=actor, now=now)
    made.save()
    _carry(found.tenant)
    stopped = sorted(str(lease.pk) for lease in found.running) if machines else []
    _note("emergency.stop", actor, made, now=now, stopped=stopped)
    transaction.on_commit(wake_control)
    return made


@atomically
def lift_stop(*, actor: Actor, stop_id: int, now: datetime) -> EmergencyStop:
    """It can be booked and started again; what was stopped stays stopped."""
    authorise(actor)
    made = in_force().filter(pk=stop_id).first()
    if made is None:
        raise NotVisible(_("There is no such stop, or it was lifted."))
    if made.closure is not None and not service.is_over(made.closure, now=now):
        service.lift_closure(actor=actor, closure_id=made.closure.pk, now=now)
    made = locked(EmergencyStop.objects.select_related("tenant", "host")).get(pk=stop_id)
    if made.lifted_at is not None:
        raise WrongState(_("It was lifted already."))
    # A closure that had not begun is gone by now.
    made.closure_id = None
    made.lifted_by, made.lifted_at = actor.person, now
    made.save(update_fields=["closure", "lifted_by", "lifted_at"])
    _carry(made.tenant)
    _note("emergency.lift", actor, made, now=now)
    transaction.on_commit(wake_control)
    return made


def in_force() -> QuerySet[EmergencyStop]:
    return EmergencyStop.objects.filter(lifted_at=None).select_related("host", "tenant", "made_by", "closure")


def stops_shown_to(person: Person, tenants: Collection[Tenant]) -> QuerySet[EmergencyStop]:
    """What somebody should know of: all for operators, theirs and those of everything for others."""
    found = in_force()
    if is_operator(person):
        return found
    return found.filter(Q(scope=Scope.ALL) | Q(tenant__in=tenants))


def carry_over(tenant: Tenant) -> None:
    """What is stopped for everybody is stopped for a new tenant."""
    _carry(tenant)
    tenant.refresh_from_db(fields=["no_bookings_since", "no_machines_since"])


def _carry(tenant: Tenant | None) -> None:
    """Write into the tenants what the stops in force say; the caller has locked them."""
    for one in Tenant.objects.all() if tenant is None else Tenant.objects.filter(pk=tenant.pk):
        about = in_force().filter(Q(scope=Scope.ALL) | Q(tenant=one)).order_by("made_at")
        Tenant.objects.filter(pk=one.pk).update(
            no_bookings_since=about.filter(bookings=True).values_list("made_at", flat=True).first(),
            no_machines_since=about.filter(machines=True).values_list("made_at", flat=True).first(),
        )


def _close_host(made: EmergencyStop, host: Host, *, actor: Actor, now: datetime) -> None:
    asked: dict[str, Any] = {"what": host, "starts_at": None, "ends_at": None, "unmovable": Unmovable.WAIT}
    plan = service.preview_drain(actor=actor, now=now, **asked)
    done = service.drain(actor=actor, reason=made.reason, seen=plan.seen, now=now, **asked)
    made.closure = done.closure


def _check_input(found: Effect, *, bookings: bool, machines: bool, reason: str, typed: str) -> None:
    if typed.strip() != found.typed:
        raise InvalidRequest(
            _("Type “%(name)s”, exactly so, to stop it.") % {"name": found.typed}, field="typed"
        )
    if not (bookings or machines):
        raise InvalidRequest(_("Say what is to be stopped: bookings, machines, or both."), field="bookings")
    if not 0 < len(reason.strip()) <= LONGEST_REASON:
        raise InvalidRequest(_("Say why, in at most 200 characters: people read it."), field="reason")


def _lock(found: Effect) -> None:
    tenants = Tenant.objects.filter(pk=found.tenant.pk) if found.tenant else Tenant.objects.all()
    list(locked(tenants).order_by("pk"))
    list(locked(Lease.objects.filter(pk__in=[lease.pk for lease in found.running])).order_by("id"))


def _within(leases: QuerySet[Lease], host: Host | None, tenant: Tenant | None) -> QuerySet[Lease]:
    if host is not None:
        return leases.filter(host=host)
    return leases.filter(tenant=tenant) if tenant is not None else leases


def _note(action: str, actor: Actor, made: EmergencyStop, *, now: datetime, **facts: object) -> None:
    told: dict[str, Any] = {
        "scope": made.scope, "host": made.host.name if made.host else "", "bookings": made.bookings,
        "machines": made.machines, "reason": made.reason, **facts,
    }  # fmt: skip
    record(action=action, actor=actor, subject=f"stop:{made.pk}", tenant=made.tenant, now=now, **told)
