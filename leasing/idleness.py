"""Giving back what nobody ever used: a warning first, and only where any use would have been seen."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import Enum
from uuid import UUID

from django.conf import settings
from django.utils.translation import gettext as _

from leasing import policy, tidings
from leasing.actors import SYSTEM, Actor
from leasing.audit.log import record
from leasing.errors import WrongState
from leasing.locking import locked
from leasing.models import Lease
from leasing.reasons import because
from leasing.signs_of_use import Signs, note_use, signs_of, was_used, watched_until
from leasing.states.lease import LeaseEvent, LeaseState
from leasing.timing import HOST_SILENT_AFTER, UNUSED_WARNING
from leasing.transactions import atomically
from leasing.transitions import apply_lease_event


class Due(Enum):
    """What is to be done about a lease."""

    NOTHING = "nothing"
    WARN = "warn"
    RELEASE = "release"


def what_is_due(
    *,
    since: datetime,
    signs: Sequence[Signs],
    host_seen_at: datetime | None,
    warned_at: datetime | None,
    after: timedelta,
    now: datetime,
) -> Due:
    """Unused is what a source has watched from `since` until lately, for so long, without seeing any use.

    Unknown is not unused: without such a source, or while the host is silent, nothing is due.
    """
    until = watched_until(signs, since=since)
    if was_used(signs) or until is None or host_seen_at is None:
        return Due.NOTHING
    if min(until, host_seen_at) <= now - HOST_SILENT_AFTER or min(until, now) - since < after:
        return Due.NOTHING
    if warned_at is None:
        return Due.WARN
    return Due.RELEASE if min(until, now) - warned_at >= UNUSED_WARNING else Due.NOTHING


def unused_after() -> timedelta | None:
    """The site's rule: after how long without use a lease is looked at; None if never."""
    return timedelta(minutes=settings.UNUSED_AFTER_MINUTES) if settings.UNUSED_AFTER_MINUTES > 0 else None


def attend(lease: Lease, *, after: timedelta, now: datetime) -> None:
    """Warn the owner of a locked lease that looks unused, or give it back."""
    assert lease.active_at is not None and lease.host is not None  # noqa: S101, PT018 - it is active
    due = what_is_due(
        since=max(lease.active_at, lease.starts_at),
        signs=signs_of(lease, now=now),
        host_seen_at=lease.host.last_seen_at,
        warned_at=lease.unused_warned_at,
        after=after,
        now=now,
    )
    if due is Due.WARN:
        _warn(lease, now=now)
    elif due is Due.RELEASE:
        _release(lease, after=after, now=now)


@atomically
def say_in_use(*, actor: Actor, lease_id: UUID, now: datetime) -> Lease:
    """Its person says that they are using it, which counts as use."""
    if actor.person is None:
        raise TypeError("only a person uses a lease")
    policy.fetch_lease(actor.person, lease_id, "use")
    lease = locked(Lease.objects.select_related("tenant")).get(pk=lease_id)
    if lease.state != LeaseState.ACTIVE:
        raise WrongState(_("The workstation is not running."), hint=_("Book another one."))
    note_use(lease, now=now)
    record(action="lease.in-use", actor=actor, subject=f"lease:{lease.pk}", tenant=lease.tenant, now=now)
    return lease


def _warn(lease: Lease, *, now: datetime) -> None:
    lease.unused_warned_at = now
    lease.save(update_fields=["unused_warned_at"])
    record(action="lease.unused", actor=SYSTEM, subject=f"lease:{lease.pk}", tenant=lease.tenant, now=now)
    tidings.looks_unused(lease, now=now)


def _release(lease: Lease, *, after: timedelta, now: datetime) -> None:
    apply_lease_event(
        lease_id=lease.pk,
        event=LeaseEvent.END,
        actor=SYSTEM,
        effective_at=now,
        now=now,
        reason=because("never-used", minutes=int(after.total_seconds() // 60)),
        unused=True,
    )
    tidings.given_back(lease, now=now)
