"""Deciding on requests, one at a time or a series at once. Nobody decides on their own."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.utils.translation import gettext as _

from leasing import holds, policy, tidings
from leasing.actors import SYSTEM, Actor
from leasing.audit.log import record
from leasing.changing import cut
from leasing.errors import InvalidRequest, WrongState
from leasing.locking import locked
from leasing.models import Lease, Person, Series
from leasing.reasons import NONE, Reason, because, said, together
from leasing.states.lease import LeaseEvent, LeaseState
from leasing.transactions import atomically
from leasing.transitions import apply_lease_event
from leasing.wake import wake_control


@atomically
def approve_lease(
    *, actor: Actor, lease_id: UUID, note: str = "", ends_at: datetime | None = None, now: datetime
) -> Lease:
    """Schedule a request, with an earlier end if one is given. One for now begins now and keeps its end."""
    lease = _fetch(actor, lease_id)
    _require_open(lease)
    if lease.ends_at <= now:
        raise WrongState(_("The time that was asked for is over."), hint=_("Ask for another."))
    shorter = NONE
    if ends_at is not None and ends_at != lease.ends_at:
        _shorten(actor, lease, ends_at, now)
        shorter = because("approved-shorter")
    reason = together(filter(None, (shorter, said(note))))
    lease = _decide(actor, lease, LeaseEvent.APPROVE, note=note, now=now, reason=reason)
    transaction.on_commit(wake_control)
    return lease


@atomically
def reject_lease(*, actor: Actor, lease_id: UUID, note: str, now: datetime) -> Lease:
    """Decline a request; the reason is for the person who asked."""
    _require_reason(note)
    lease = _fetch(actor, lease_id)
    _require_open(lease)
    return _decide(actor, lease, LeaseEvent.REJECT, note=note, now=now, reason=said(note))


@atomically
def revoke_approval(*, actor: Actor, lease_id: UUID, note: str, now: datetime) -> Lease:
    """Take an approval back while nothing has started; the reason is for the person who asked."""
    _require_reason(note)
    lease = _fetch(actor, lease_id)
    if not is_revocable(lease):
        raise WrongState(
            _("Only what was approved, and has not started, can be taken back."),
            hint=_("End it instead, if it runs."),
        )
    return _decide(actor, lease, LeaseEvent.REVOKE, note=note, now=now, reason=said(note))


def waiting_for_decision(person: Person) -> QuerySet[Lease]:
    """The requests of tenants that the person decides for, their own among them, oldest first."""
    tenants = policy.tenants_with_role(person, "approver")
    leases = policy.visible_leases(person).filter(tenant__in=tenants, state=LeaseState.REQUESTED)
    return leases.order_by("requested_at", "starts_at", "id")


def is_revocable(lease: Lease) -> bool:
    """It was approved, and nothing has started."""
    return lease.state == LeaseState.SCHEDULED and lease.decided_by_id is not None


def approve_series(*, actor: Actor, series_id: UUID, note: str = "", now: datetime) -> int:
    """Schedule every lease of a series on which nobody has decided; how many there were."""
    return _decide_series(actor, series_id, LeaseEvent.APPROVE, note, now)


def reject_series(*, actor: Actor, series_id: UUID, note: str, now: datetime) -> int:
    """Decline them all; the reason is for the person who asked."""
    _require_reason(note)
    return _decide_series(actor, series_id, LeaseEvent.REJECT, note, now)


@atomically
def expire_series(*, series_id: UUID, now: datetime) -> int:
    """End the requests of a series on which nobody decided in time."""
    series = Series.objects.select_related("tenant", "owner", "flavor").get(pk=series_id)
    due = list(locked(_waiting(series).filter(decide_by__lte=now)).order_by("id"))
    holds.lock_blocks_of(due)
    for lease in due:
        _apply_to(lease, LeaseEvent.EXPIRE, SYSTEM, at=lease.decide_by or now, now=now)
    if due:
        tidings.series_went_on(series, LeaseEvent.EXPIRE, len(due), now=now)
    return len(due)


def _fetch(actor: Actor, lease_id: UUID) -> Lease:
    policy.fetch_lease(_decider(actor), lease_id, "decide")
    leases = Lease.objects.select_related("tenant", "owner", "flavor__model", "host")
    return locked(leases).get(pk=lease_id)


def _require_open(lease: Lease) -> None:
    if lease.state != LeaseState.REQUESTED:
        raise WrongState(
            _("This request has already been decided or has lapsed."), hint=_("Reload the page.")
        )


def _require_reason(note: str) -> None:
    if not note.strip():
        raise InvalidRequest(_("Say why, so that the person knows what to change."), field="note")


def _shorten(actor: Actor, lease: Lease, ends_at: datetime, now: datetime) -> None:
    if ends_at > lease.ends_at:
        raise InvalidRequest(
            _("Nobody approves more than was asked for."), hint=_("Choose an earlier end."), field="ends_at"
        )
    cut(actor, lease, ends_at, now=now)


def _decide(
    actor: Actor, lease: Lease, event: LeaseEvent, *, note: str, now: datetime, reason: Reason
) -> Lease:
    _note_decision(lease, actor, note=note, now=now)
    return apply_lease_event(
        lease_id=lease.pk, event=event, actor=actor, effective_at=now, now=now, reason=reason
    )


def _note_decision(lease: Lease, actor: Actor, *, note: str, now: datetime) -> None:
    lease.decided_by, lease.decided_at, lease.decision_note = actor.person, now, note
    lease.save(update_fields=["decided_by", "decided_at", "decision_note"])


@atomically
def _decide_series(actor: Actor, series_id: UUID, event: LeaseEvent, note: str, now: datetime) -> int:
    series = policy.fetch_series(_decider(actor), series_id, "decide")
    waiting = list(locked(_waiting(series).filter(ends_at__gt=now)).order_by("id"))
    if not waiting:
        raise WrongState(_("All of it has already been decided or has lapsed."), hint=_("Reload the page."))
    if event is LeaseEvent.REJECT:
        holds.lock_blocks_of(waiting)
    for lease in waiting:
        _note_decision(lease, actor, note=note, now=now)
        _apply_to(lease, event, actor, at=now, now=now, reason=said(note))
    record(
        action=f"series.{event}",
        actor=actor,
        subject=f"series:{series.pk}",
        tenant=series.tenant,
        now=now,
        leases=[str(lease.pk) for lease in waiting],
        reason=note,
    )
    tidings.series_went_on(series, event, len(waiting), note=note, now=now)
    transaction.on_commit(wake_control)
    return len(waiting)


def _waiting(series: Series) -> QuerySet[Lease]:
    return series.leases.filter(state=LeaseState.REQUESTED)


def _apply_to(
    lease: Lease, event: LeaseEvent, actor: Actor, *, at: datetime, now: datetime, reason: Reason = NONE
) -> None:
    apply_lease_event(
        lease_id=lease.pk, event=event, actor=actor, effective_at=at, now=now, reason=reason, tell_owner=False
    )


def _decider(actor: Actor) -> Person:
    if actor.person is None:
        raise TypeError("only a person decides")
    return actor.person
