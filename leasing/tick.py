"""What is due now. Each duty looks in the database, so a missed tick costs time and nothing else.

Two ticks at once are harmless: whoever acts on a row has locked it and has asked again whether it is due.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TypeVar

from django.db.models import Exists, Model, OuterRef, Q, QuerySet

from hosts.models import Gpu
from leasing import (
    changing,
    devices,
    effects,
    goals,
    homes,
    idleness,
    keeping,
    moving,
    offering,
    outbox,
    readiness,
    reading,
    reminders,
    snapshots,
    storing,
    tidings,
)
from leasing.actors import SYSTEM
from leasing.approval import expire_series
from leasing.audit.sealer import seal
from leasing.errors import DomainError
from leasing.imaging.copies import order_copies
from leasing.imaging.uploads import forget_old
from leasing.locking import locked
from leasing.maintenance import reopening
from leasing.models import Block, Hold, Lease, OutboxMessage
from leasing.openings import upkeep
from leasing.reasons import NONE, Reason, because
from leasing.states.gpu import GpuEvent, GpuState
from leasing.states.lease import ON_HOST, LeaseEvent, LeaseState
from leasing.timing import INTAKE_DEADLINE, RELEASE_DEADLINE
from leasing.transactions import atomically
from leasing.transitions import apply_gpu_event, apply_lease_event
from leasing.wishes import fresh_entries, hopeless

log = logging.getLogger(__name__)
M = TypeVar("M", bound=Model)
T = TypeVar("T")


def tick(*, now: datetime, send: outbox.Send) -> None:
    """Do everything that is due. One failure never keeps the rest from happening."""
    for duty in DUTIES:
        _guarded(duty, now)
    _guarded(lambda now: outbox.send_receipts(send=send, now=now), now)
    _guarded(lambda now: outbox.send_due(send=send, now=now), now)


def expire_requests(now: datetime) -> None:
    """Requests on which nobody decided in time."""
    due = Lease.objects.filter(state=LeaseState.REQUESTED, decide_by__lte=now)
    single, repeated = due.filter(series=None), due.exclude(series=None)
    _each_locked(single, lambda lease: _apply(lease, LeaseEvent.EXPIRE, at=lease.decide_by or now, now=now))
    _each(set(repeated.values_list("series", flat=True)), lambda pk: expire_series(series_id=pk, now=now))


# What the end of its time means for a lease in each state.
_AT_END: dict[str, tuple[LeaseEvent, Reason]] = {
    LeaseState.SCHEDULED: (LeaseEvent.FAIL, because("never-started")),
    LeaseState.PROVISIONING: (LeaseEvent.FAIL, because("never-ready")),
    LeaseState.ACTIVE: (LeaseEvent.END, NONE),
}


def end_due(now: datetime) -> None:
    """Leases whose time is over, started or not."""
    due = Lease.objects.filter(ends_at__lte=now, state__in=_AT_END)
    _each_locked(due, lambda lease: _end(lease, now=now))


def start_due(now: datetime) -> None:
    """Leases whose GPUs are theirs from now on, or were to be."""
    begun = Hold.objects.filter(lease=OuterRef("pk"), starts_at__lte=now)
    due = (
        Lease.objects.filter(Exists(begun) | Q(starts_at__lte=now), state=LeaseState.SCHEDULED)
        .filter(ends_at__gt=now, tenant__no_machines_since=None)
        .select_related("flavor__model", "owner")
        .order_by("starts_at", "requested_at")
    )
    spare = readiness.models_with_spare(now=now)
    _each_locked(due, lambda lease: _start(lease, spare=spare, now=now))


def remind_of_ends(now: datetime) -> None:
    """Leases whose end is near."""
    near = Lease.objects.filter(pk__in=[lease.pk for lease in reminders.ending_soon(now=now)])
    _each_locked(near.select_related("owner"), lambda lease: reminders.remind(lease, now=now))


def give_back_unused(now: datetime) -> None:
    """Leases that nobody has used, where the site wants that and somebody can tell."""
    after = idleness.unused_after()
    if after is None:
        return
    due = Lease.objects.filter(state=LeaseState.ACTIVE, first_used_at=None, active_at__lte=now - after)
    leases = due.select_related("tenant", "owner", "flavor", "host")
    _each_locked(leases, lambda lease: idleness.attend(lease, after=after, now=now))


def forget_past(now: datetime) -> None:
    """Openings that are over serve nobody."""
    upkeep.forget_past(now)


def fail_overdue(now: datetime) -> None:
    """Commands that were not answered before their deadline."""
    _each(_overdue(now), lambda message: _fail_overdue(message, now=now))


def release_again(now: datetime) -> None:
    """Leases whose release the host refused or failed at, some time ago: nothing else would end them."""
    releases = OutboxMessage.objects.filter(lease=OuterRef("pk"), kind="release")
    lately = Q(answered_at__isnull=True) | Q(answered_at__gt=now - RELEASE_DEADLINE)
    due = Lease.objects.filter(~Exists(releases.filter(lately)), state=LeaseState.RELEASING)
    _each_locked(due, lambda lease: effects.order_release(lease, now=now))


def grow_overruns(now: datetime) -> None:
    """Holds that ran out before their GPU came back: later leases move or wait."""
    overruns = moving.overrunning(now=now).select_related("gpu__model")
    _each(overruns, lambda hold: _grow(hold, now=now))


def distrust_stuck_scrubs(now: datetime) -> None:
    """Scrubs that have begun and came to no verdict: the GPU is dirty, and an intake follows."""
    stuck = Gpu.objects.filter(state=GpuState.SCRUBBING, scrub_expected_by__lte=now).order_by("id")
    _each_locked(stuck, lambda gpu: _distrust(gpu, now=now))


def order_intakes(now: datetime) -> None:
    """GPUs that are dirty, that no machine can have, and that the host does not clean by itself."""
    in_use = Hold.objects.filter(gpu=OuterRef("pk"), tenure=OuterRef("tenure"), lease__state__in=ON_HOST)
    due = (
        Gpu.objects.filter(~Exists(in_use), state=GpuState.DIRTY)
        .filter(Q(scrub_expected_by=None) | Q(scrub_expected_by__lte=now))
        .select_related("host", "model")
        .order_by("id")
    )
    _each_locked(due, lambda gpu: _order_intake(gpu, now=now))


def remove_kept(now: datetime) -> None:
    """Home volumes and snapshots of whose end no host has told in time."""
    volumes, known = homes.removals_due(now), snapshots.removals_due(now)
    _each_locked(volumes.select_related("pool"), lambda volume: homes.order_removal(volume, now=now))
    _each_locked(known.select_related("pool"), lambda one: snapshots.order_removal(one, now=now))


def bill_storage(now: datetime) -> None:
    """What is kept and of which a month is over, or whose price is another one now."""
    _each(storing.outdated(now), lambda kept: storing.catch_up(*kept, now=now))


def end_readings(now: datetime) -> None:
    """Home volumes of which nobody will say that they are not read any more."""
    _each_locked(reading.stale(now), lambda one: reading.give_up(one, now=now))
    reading.forget(now)


def pass_unclaimed_on(now: datetime) -> None:
    """Offers that nobody claimed in time."""
    _each_locked(offering.offers_due(now), lambda offer: _pass_on(offer, now=now))


def mend_offers(now: datetime) -> None:
    """Offers whose GPUs went out of service, or are not back in time."""
    offers = offering.offers_spoilt().select_related("flavor__model")
    _each_locked(offers, lambda offer: offering.mend(offer, now=now))


def lapse_waits(now: datetime) -> None:
    """Those who wait for what they cannot be given any more."""
    _each_locked(hopeless(now), lambda entry: offering.give_up(entry, now=now))


def open_again(now: datetime) -> None:
    """Closures whose time is over."""
    _each_locked(reopening.closures_just_over(now), reopening.show_opened)


def serve_lines(now: datetime) -> None:
    """What came free is offered to those who wait; then GPUs are kept for the first."""
    in_vain = Block.objects.filter(pk__in=[block.pk for block in keeping.kept_in_vain(now=now)])
    _each_locked(in_vain, upkeep.give_up_kept)
    _each_locked(offering.freed_blocks(), lambda block: offering.show_freed(block, now=now))
    offering.show_freed_extras()
    fresh = fresh_entries().values_list("pk", flat=True)
    _each(fresh, lambda pk: offering.look_for(pk, now=now))
    _each(keeping.lines_without(), lambda model_id: keeping.keep_for_first(model_id, now=now))


def seal_audit(now: datetime) -> None:
    """Give what was recorded its place in the Merkle log."""
    seal(now=now)


DUTIES: tuple[Callable[[datetime], None], ...] = (
    expire_requests,
    end_due,
    grow_overruns,
    start_due,
    remind_of_ends,
    give_back_unused,
    fail_overdue,
    release_again,
    distrust_stuck_scrubs,
    order_intakes,
    pass_unclaimed_on,
    mend_offers,
    lapse_waits,
    open_again,
    serve_lines,
    forget_past,
    remove_kept,
    end_readings,
    bill_storage,
    order_copies,
    forget_old,
    seal_audit,
)


def _end(lease: Lease, *, now: datetime) -> None:
    event, reason = _AT_END[lease.state]
    _apply(lease, event, at=lease.ends_at, now=now, reason=reason)


def _start(lease: Lease, *, spare: frozenset[int], now: datetime) -> None:
    """Start, or move to equal GPUs that are ready, or wait and say so."""
    if not _ready(lease, now=now):
        if lease.flavor.model_id not in spare or not moving.move(lease, now=now, only_ready=True):
            _wait(lease, now=now)
            return
        tidings.moved(lease, now=now)
    if not devices.are_there(lease):
        _wait_for_device(lease, now=now)
        return
    if not homes.can_attach(lease):
        _wait_for_home(lease, now=now)
        return
    if not goals.is_understood(lease):
        _wait_for_upgrade(lease, now=now)
        return
    _apply(lease, LeaseEvent.START, at=now, now=now)


def _pass_on(offer: Lease, *, now: datetime) -> None:
    offering.pass_on(offer, because("offer-ran-out"), now=now)
    tidings.offer_passed(offer, now=now)


def _ready(lease: Lease, *, now: datetime) -> bool:
    held = list(lease.holds.select_related("gpu__host"))
    return (
        len(held) == lease.flavor.gpu_count
        and all(hold.starts_at <= now for hold in held)
        and all(readiness.is_ready(hold.gpu, now=now) for hold in held)
    )


def _wait(lease: Lease, *, now: datetime) -> None:
    if not lease.waiting_because and not _coming(lease, now=now):
        tidings.waits(lease, now=now)


def _wait_for_home(lease: Lease, *, now: datetime) -> None:
    reading.want_back(lease, now=now)
    if not lease.waiting_because:
        tidings.waits_for_home(lease, now=now)


def _wait_for_upgrade(lease: Lease, *, now: datetime) -> None:
    if not lease.waiting_because:
        tidings.waits_for_upgrade(lease, now=now)


def _wait_for_device(lease: Lease, *, now: datetime) -> None:
    if not lease.waiting_because:
        tidings.waits_for_device(lease, now=now)


def _coming(lease: Lease, *, now: datetime) -> bool:
    """All its GPUs are about to be clean, and it is hardly late: nothing that its owner needs to hear of."""
    turnaround = lease.flavor.model.turnaround_seconds
    if (now - lease.starts_at).total_seconds() > turnaround:
        return False
    states = [hold.gpu.state for hold in lease.holds.select_related("gpu")]
    coming = {GpuState.CLEAN, GpuState.DIRTY, GpuState.SCRUBBING}
    return len(states) == lease.flavor.gpu_count and set(states) <= coming


def _overdue(now: datetime) -> QuerySet[OutboxMessage]:
    return OutboxMessage.objects.filter(answered_at__isnull=True, deadline_at__lte=now)


def _fail_overdue(message: OutboxMessage, *, now: datetime) -> None:
    """The lease is locked before its command, as everywhere."""
    leases = Lease.objects.select_related("flavor__model", "owner", "tenant", "host")
    lease = locked(leases.filter(commands=message)).first()
    due = locked(_overdue(now).select_related("host")).filter(pk=message.pk).first()
    if due is None:
        return
    if due.kind == "release" and lease is not None:
        # It is sent until it is accepted: the lease stays open until there is evidence.
        due.deadline_at = None
        due.save(update_fields=["deadline_at"])
        tidings.host_silent(due.host, lease, now=now)
        return
    if due.kind == "update" and lease is not None:
        outbox.mark_answered(due, answer="not in time", now=now)
        changing.fail_extension(lease, now=now)
        return
    reason = because("host-silent", host=due.host.name)
    outbox.mark_answered(due, answer=reason.in_english(), now=now)
    if lease is not None and lease.state == LeaseState.PROVISIONING:
        _apply(lease, LeaseEvent.FAIL, at=now, now=now, reason=reason)


def _grow(overrun: Hold, *, now: datetime) -> None:
    for lease, has_moved in moving.grow(overrun, now=now):
        if has_moved:
            tidings.moved(lease, now=now)
        elif not lease.waiting_because:
            tidings.delayed(lease, now=now)


def _distrust(gpu: Gpu, *, now: datetime) -> None:
    apply_gpu_event(
        gpu_id=gpu.pk,
        event=GpuEvent.DISTRUST,
        actor=SYSTEM,
        effective_at=now,
        now=now,
        reason="Its scrub came to no verdict.",
    )


def _order_intake(gpu: Gpu, *, now: datetime) -> None:
    """Once per deadline: a host that refuses it is not asked again at once."""
    gpu.generation += 1
    gpu.scrub_expected_by = now + INTAKE_DEADLINE
    gpu.save(update_fields=["generation", "scrub_expected_by"])
    outbox.queue_command(
        host=gpu.host,
        subject=goals.gpu_subject(gpu),
        generation=gpu.generation,
        goal=goals.intake(gpu),
        now=now,
        deadline=INTAKE_DEADLINE,
    )


def _apply(lease: Lease, event: LeaseEvent, *, at: datetime, now: datetime, reason: Reason = NONE) -> None:
    apply_lease_event(lease_id=lease.pk, event=event, actor=SYSTEM, effective_at=at, now=now, reason=reason)


def _each_locked(due: QuerySet[M], act: Callable[[M], None]) -> None:
    """Act on each row that is still due once it is locked."""

    def lock_and_act(pk: object) -> None:
        row = locked(due).filter(pk=pk).first()
        if row is not None:
            act(row)

    _each(list(due.values_list("pk", flat=True)), lock_and_act)


def _each(rows: Iterable[T], act: Callable[[T], object]) -> None:
    """Act on each in a transaction of its own; what fails is tried again by the next tick."""
    for row in list(rows):
        try:
            atomically(act)(row)
        except DomainError as error:
            log.info("Not done for %s: %s", row, error)
        except Exception:
            log.exception("What is due for %s could not be done", row)


def _guarded(duty: Callable[[datetime], object], now: datetime) -> None:
    try:
        duty(now)
    except Exception:
        log.exception("A duty of the tick failed")
