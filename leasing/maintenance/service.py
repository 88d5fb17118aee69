"""Close a host or a GPU, change that, lift it. Previews change nothing.

The plan is made without a lock. To carry it out, its leases and blocks are locked in their order, so that two
that move leases to each other's hosts never wait for each other, and it is looked at again: if it no longer
holds, a new one is made. Nobody is affected who was not shown.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from hosts.models import Gpu, Host
from leasing import holds, offering, tidings
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import DomainError, InvalidRequest, NothingFree, NotVisible, WrongState
from leasing.fleet import authorise
from leasing.locking import locked
from leasing.maintenance.plan import Affected, Fate, Plan, Unmovable, hull, make_plan, own_blocks
from leasing.models import Block, Closure, Hold, Lease
from leasing.openings.upkeep import give_up_kept, lock_blocks, refresh_blocks, span_of
from leasing.reasons import NONE, because
from leasing.states.lease import LeaseEvent
from leasing.timing import FARTHEST_START, PAST_TOLERANCE
from leasing.transactions import atomically
from leasing.transitions import apply_lease_event
from leasing.wake import wake_control

LONGEST_REASON = 200
_TRIES = 5


class PlanChanged(DomainError):
    """Somebody would be affected who was not shown, or in another way."""

    code = "plan-changed"


class _Overtaken(Exception):
    """What the plan was made from is no longer so."""


def preview_drain(
    *,
    actor: Actor,
    what: Host | Gpu,
    starts_at: datetime | None,
    ends_at: datetime | None,
    unmovable: Unmovable = Unmovable.STAY,
    now: datetime,
) -> Plan:
    """What closing a host or a GPU would do; no start is now, no end is until further notice."""
    authorise(actor)
    return make_plan(_closure_of(what, starts_at, ends_at, now=now), unmovable=unmovable, now=now)


def drain(
    *,
    actor: Actor,
    what: Host | Gpu,
    starts_at: datetime | None,
    ends_at: datetime | None,
    reason: str,
    unmovable: Unmovable = Unmovable.STAY,
    seen: str,
    now: datetime,
) -> Plan:
    """Close a host or a GPU as a preview has shown it. Raises PlanChanged if that would affect others."""
    authorise(actor)
    closure = _closure_of(what, starts_at, ends_at, now=now)
    closure.reason, closure.created_by, closure.created_at = _checked_reason(reason), actor.person, now
    return _confirm(lambda: make_plan(closure, unmovable=unmovable, now=now), actor=actor, seen=seen, now=now)


def preview_change(
    *,
    actor: Actor,
    closure_id: int,
    starts_at: datetime | None,
    ends_at: datetime | None,
    unmovable: Unmovable = Unmovable.STAY,
    now: datetime,
) -> Plan:
    """What another time of a closure would do; one that has begun keeps its start."""
    authorise(actor)
    return _plan_change(closure_id, starts_at, ends_at, unmovable=unmovable, now=now)


def change_closure(
    *,
    actor: Actor,
    closure_id: int,
    starts_at: datetime | None,
    ends_at: datetime | None,
    reason: str,
    unmovable: Unmovable = Unmovable.STAY,
    seen: str,
    now: datetime,
) -> Plan:
    """Another time or reason for a closure, as a preview has shown it. Who could not move before may now."""
    authorise(actor)
    words = _checked_reason(reason)

    def make() -> Plan:
        plan = _plan_change(closure_id, starts_at, ends_at, unmovable=unmovable, now=now)
        plan.closure.reason = words
        return plan

    return _confirm(make, actor=actor, seen=seen, now=now)


def lift_closure(*, actor: Actor, closure_id: int, now: datetime) -> None:
    """End a closure now; one that has not begun is gone. What has moved stays where it is."""
    authorise(actor)
    _fetch(closure_id)
    _lift(actor, closure_id, now)


def closures() -> QuerySet[Closure]:
    """All of them, the latest first."""
    found = Closure.objects.select_related("host", "gpu__host", "gpu__model", "created_by")
    return found.order_by("-starts_at", "-id")


def open_closures(*, now: datetime) -> QuerySet[Closure]:
    """Those in force or to come, the next one first."""
    return closures().filter(Q(ends_at=None) | Q(ends_at__gt=now)).order_by("starts_at", "id")


def is_over(closure: Closure, *, now: datetime) -> bool:
    return closure.ends_at is not None and closure.ends_at <= now


def _confirm(make: Callable[[], Plan], *, actor: Actor, seen: str, now: datetime) -> Plan:
    for _try in range(_TRIES):
        plan = make()
        if plan.unseen(seen):
            raise PlanChanged(
                _("By now it would affect others than those that were shown."),
                hint=_("Look at the list again, then confirm it."),
            )
        try:
            return _carry_out(actor, plan, now)
        except (_Overtaken, NothingFree):
            continue
    raise WrongState(_("The bookings of these GPUs change all the time."), hint=_("Try again."))


@atomically
def _carry_out(actor: Actor, plan: Plan, now: datetime) -> Plan:
    blocks = _lock(plan)
    if not plan.holds() or not plan.fits(blocks):
        raise _Overtaken
    done = replace(plan, closure=copy(plan.closure))
    done.closure.save()
    for block in blocks:
        if block.pk in plan.gives_up:
            give_up_kept(block)
    _move(done, actor, now=now)
    _refresh(done, blocks)
    for one in done.affected:
        _settle(one, done, actor, now=now)
    act = "drain" if plan.replaces is None else "change-drain"
    _note(actor, done.closure, act, now=now, leases=_listed(done))
    transaction.on_commit(wake_control)
    return done


def _lock(plan: Plan) -> list[Block]:
    """All that it changes, in the order of leasing.locking. Raises _Overtaken."""
    if plan.replaces is not None:
        closure = locked(Closure.objects.all()).filter(pk=plan.replaces.pk).first()
        if closure is None or _times(closure) != _times(plan.replaces):
            raise _Overtaken
    leases = Lease.objects.filter(pk__in=[one.lease.pk for one in plan.affected])
    list(locked(leases).order_by("id"))
    blocks = {*own_blocks(plan.closure).values_list("pk", flat=True), *(move.block_id for move in plan.moves)}
    return lock_blocks(blocks)


def _move(plan: Plan, actor: Actor, *, now: datetime) -> None:
    """All at once: some go where others come from. Raises NothingFree."""
    held = [
        Hold(lease=move.lease, gpu_id=gpu_id, starts_at=move.starts_at, ends_at=move.ends_at)
        for move in plan.moves
        for gpu_id in move.gpu_ids
    ]
    Hold.objects.filter(lease__in=[move.lease for move in plan.moves]).delete()
    with holds.overlap_is_nothing_free():
        Hold.objects.bulk_create(sorted(held, key=lambda hold: (hold.gpu_id, hold.starts_at)))
    for one in plan.of(Fate.MOVES):
        record(
            action="lease.move",
            actor=actor,
            subject=f"lease:{one.lease.pk}",
            tenant=one.lease.tenant,
            now=now,
            cause=plan.closure.reason,
            gpus_before=[str(hold.gpu_id) for hold in one.lease.holds.all()],
            gpus_after=[str(gpu.pk) for gpu in one.gpus],
        )


def _refresh(plan: Plan, blocks: list[Block]) -> None:
    closed = [span_of(*_times(one)) for one in (plan.closure, plan.replaces) if one is not None]
    region = hull([plan.region, *closed]) if plan.moves else hull(closed)
    refresh_blocks(Block.objects.filter(pk__in=[block.pk for block in blocks]), region)


def _settle(one: Affected, plan: Plan, actor: Actor, *, now: datetime) -> None:
    """Do to a lease what is left to do, and tell its owner."""
    lease, closure = one.lease, plan.closure
    news = plan.replaces is None or _times(plan.replaces) != _times(closure)
    match one.fate:
        case Fate.MOVES:
            if lease.waiting_because:
                lease.waiting_because = NONE
                lease.save(update_fields=["waiting_because"])
            tidings.moved_for_maintenance(lease, closure, now=now)
        case Fate.WAITS:
            own = Gpu.objects.filter(host=closure.host_id) if closure.gpu is None else [closure.gpu]
            holds.delay(lease, [gpu.pk for gpu in own], closure.ends_at)
            tidings.waits_for_maintenance(lease, closure, now=now)
        case Fate.CANCELLED:
            cancelled = apply_lease_event(
                lease_id=lease.pk,
                event=LeaseEvent.CANCEL,
                actor=actor,
                effective_at=now,
                now=now,
                reason=because("maintenance", why=closure.reason),
            )
            tidings.cancelled_for_maintenance(cancelled, now=now)
        case Fate.WITHDRAWN:
            reason = because("maintenance", why=closure.reason)
            offering.withdraw(lease, reason, actor=actor, now=now)
            tidings.offer_withdrawn(lease, reason, now=now)
        case Fate.RUNS_ON | Fate.STAYS if news:
            tidings.stays_in_maintenance(lease, closure, begun=one.fate is Fate.RUNS_ON, now=now)


@atomically
def _lift(actor: Actor, closure_id: int, now: datetime) -> None:
    closure = locked(closures()).filter(pk=closure_id).first()
    if closure is None or is_over(closure, now=now):
        raise WrongState(_("This closure is over already."))
    was = copy(closure)
    if closure.starts_at < now:
        closure.ends_at = now
        closure.save(update_fields=["ends_at"])
    else:
        closure.delete()
    refresh_blocks(own_blocks(was), span_of(*_times(was)))
    _note(actor, was, "accept", now=now)
    transaction.on_commit(wake_control)


def _plan_change(
    closure_id: int,
    starts_at: datetime | None,
    ends_at: datetime | None,
    *,
    unmovable: Unmovable,
    now: datetime,
) -> Plan:
    closure = _fetch(closure_id)
    if is_over(closure, now=now):
        raise WrongState(_("This closure is over already."), hint=_("Plan another one."))
    changed = copy(closure)
    if closure.starts_at > now:
        changed.starts_at = _checked_start(starts_at, now=now)
    changed.ends_at = _checked_end(changed, ends_at, now=now)
    return make_plan(changed, replaces=closure, unmovable=unmovable, now=now)


def _closure_of(
    what: Host | Gpu, starts_at: datetime | None, ends_at: datetime | None, *, now: datetime
) -> Closure:
    host, gpu = (what.host, what) if isinstance(what, Gpu) else (what, None)
    closure = Closure(host=host, gpu=gpu, starts_at=_checked_start(starts_at, now=now))
    closure.ends_at = _checked_end(closure, ends_at, now=now)
    return closure


def _checked_start(starts_at: datetime | None, *, now: datetime) -> datetime:
    if starts_at is not None and starts_at < now - PAST_TOLERANCE:
        raise InvalidRequest(
            _("The start lies in the past."), hint=_("Choose now or a later time."), field="starts_at"
        )
    if starts_at is not None and starts_at > now + FARTHEST_START:
        raise InvalidRequest(
            _("Nobody plans more than two years ahead."),
            hint=_("Choose an earlier start."),
            field="starts_at",
        )
    return max(starts_at or now, now)


def _checked_end(closure: Closure, ends_at: datetime | None, *, now: datetime) -> datetime | None:
    if ends_at is not None and ends_at <= max(closure.starts_at, now):
        raise InvalidRequest(
            _("The end must be after the start, and after now."),
            hint=_("Choose a later end, or none."),
            field="ends_at",
        )
    return ends_at


def _checked_reason(reason: str) -> str:
    reason = " ".join(reason.split())
    if not reason or len(reason) > LONGEST_REASON:
        raise InvalidRequest(
            _("Say why in a few words: those who are affected will read it."), field="reason"
        )
    return reason


def _fetch(closure_id: int) -> Closure:
    closure = closures().filter(pk=closure_id).first()
    if closure is None:
        raise NotVisible(_("There is no such closure."))
    return closure


def _times(closure: Closure) -> tuple[datetime, datetime | None]:
    return closure.starts_at, closure.ends_at


def _listed(plan: Plan) -> dict[str, list[str]]:
    """For the log: the leases by what becomes of them."""
    return {str(fate): [str(one.lease.pk) for one in found] for fate in Fate if (found := plan.of(fate))}


def _note(actor: Actor, closure: Closure, act: str, *, now: datetime, **facts: Any) -> None:
    kind, about = ("host", closure.host) if closure.gpu is None else ("gpu", closure.gpu)
    record(
        action=f"{kind}.{act}",
        actor=actor,
        subject=f"{kind}:{about.pk}",
        now=now,
        name=str(about),
        closure=closure.pk,
        starts_at=closure.starts_at,
        ends_at=closure.ends_at,
        reason=closure.reason,
        **facts,
    )
