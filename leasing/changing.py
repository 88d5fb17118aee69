"""Changing a lease: a later end, an earlier one, another window.

At most one other lease is moved for an extension: the one that comes next on these GPUs, if it has not begun
and equal GPUs can serve it. A machine that runs already keeps its old end until its host has acknowledged the
new one: hosts stop machines by themselves.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils.translation import gettext as _

from leasing import devices, effects, holds, metering, moving, offering, policy, quotas, tidings
from leasing.actors import SYSTEM, Actor
from leasing.audit.log import record
from leasing.billing.budget_warnings import warn
from leasing.booking import check_limits, decide_by, fill_quote
from leasing.errors import DomainError, InvalidRequest, NothingFree, WrongState
from leasing.homes import check_wish
from leasing.latest_end import ExtensionLimit, extension_limit
from leasing.limits import check_window
from leasing.locking import locked
from leasing.membership.openness import require_open
from leasing.models import Extension, Lease, Person, Tenant
from leasing.pricing import keep_terms, quote_extension
from leasing.reasons import NONE, Reason
from leasing.snapshots_kept import check_start
from leasing.states.lease import AHEAD, RUNNING, LeaseState
from leasing.timing import LONGEST_LEASE, SHORTEST_LEASE
from leasing.transactions import atomically
from leasing.wake import wake_control


class OutsideLimits(DomainError):
    """More than the tenant or the person may have without asking."""

    code = "outside-limits"


def change_end(*, actor: Actor, lease_id: UUID, ends_at: datetime, now: datetime) -> Lease:
    """Give a lease a later end, or an earlier one; `extension_limit` says how late it can be.

    Raises InvalidRequest, WrongState, OutsideLimits, or NothingFree with the latest end that is possible.
    """
    _fetch(actor, lease_id)
    return _change_end(actor, lease_id, ends_at, now)


def change_window(
    *, actor: Actor, lease_id: UUID, starts_at: datetime, ends_at: datetime, now: datetime
) -> Lease:
    """Another window for a lease that has not begun, at the price in force then; all or nothing."""
    _fetch(actor, lease_id)
    check_window(starts_at, ends_at, now=now)
    return _change_window(actor, lease_id, max(starts_at, now), ends_at, now)


def confirm_extension(lease: Lease, ends_at: datetime, *, now: datetime) -> None:
    """The host has taken over this end; it counts if it was waited for."""
    pending = lease.extensions.filter(state=Extension.State.PENDING, new_ends_at=ends_at).first()
    if pending is not None and lease.state in RUNNING:
        _confirm(lease, pending, now=now)
        _note(SYSTEM, lease, "lease.extended", now=now, ends_at=ends_at)


def fail_extension(lease: Lease, *, now: datetime) -> None:
    """The host did not take over the new end: the old one stays, and so does the price."""
    pending = lease.extensions.filter(state=Extension.State.PENDING).first()
    if pending is None:
        return
    _withdraw(lease, pending, now=now)
    if lease.state in RUNNING:
        effects.tell_end(lease, now=now)
    tidings.not_extended(lease, now=now)
    _note(SYSTEM, lease, "lease.not-extended", now=now, ends_at=lease.ends_at, asked=pending.new_ends_at)


@atomically
def _change_end(actor: Actor, lease_id: UUID, ends_at: datetime, now: datetime) -> Lease:
    lease = lock_for_change(lease_id)
    if lease.extensions.filter(state=Extension.State.PENDING).exists():
        raise WrongState(_("A new end waits for the host's word already."), hint=_("Try again in a minute."))
    if ends_at > lease.ends_at:
        _extend(actor, lease, ends_at, now)
    elif ends_at < lease.ends_at:
        cut(actor, lease, ends_at, now=now)
    transaction.on_commit(wake_control)
    return lease


def _extend(actor: Actor, lease: Lease, ends_at: datetime, now: datetime) -> None:
    assert actor.person is not None  # noqa: S101 - asked for by _fetch
    if ends_at - lease.starts_at > LONGEST_LEASE:
        raise InvalidRequest(
            _("The longest lease is a year."), hint=_("Choose an earlier end."), field="ends_at"
        )
    require_open(lease.tenant)
    wanted = Lease.objects.select_related("tenant", "owner", "flavor__model").get(pk=lease.pk)
    wanted.ends_at = ends_at
    quote = quote_extension(lease, ends_at, now=now)
    verdict = check_limits(wanted, [*metering.terms(lease), *quote.terms], now=now)
    _refuse_outside(lease, verdict.reason)
    offering.show_all_freed(lease.flavor.model_id, now=now)
    limit = extension_limit(lease, now=now)
    if ends_at > limit.until:
        raise NothingFree(
            _why_no_longer(limit) % {"until": tidings.local_time(limit.until, lease.owner)},
            hint=_("Choose an earlier end."),
            field="ends_at",
        )
    if limit.moves is not None and ends_at > limit.stays:
        _make_way(lease, limit.moves, now=now)
    holds.lengthen(lease, ends_at)
    devices.require_free(lease)
    on_host = lease.state in RUNNING
    extension = Extension.objects.create(
        lease=lease,
        old_ends_at=lease.ends_at,
        new_ends_at=ends_at,
        rate_per_hour=quote.rate_per_hour,
        currency=quote.currency,
        quoted_total=quote.total,
        asked_by=actor.person,
        asked_at=now,
        state=Extension.State.PENDING,
        state_since=now,
    )
    metering.append_terms(lease, extension, quote.terms)
    warn(wanted.tenant, verdict.measures, now=now)
    terms = {"terms": quote.terms, "currency": quote.currency}
    _note(actor, lease, "lease.extend", now=now, ends_at=ends_at, was=lease.ends_at, verdict=verdict, **terms)
    if on_host:
        effects.tell_end(lease, ends_at=ends_at, now=now)
    else:
        _confirm(lease, extension, now=now)


def _why_no_longer(limit: ExtensionLimit) -> str:
    if limit.closed:
        return _("It can be extended until %(until)s at most; then its GPU is closed for maintenance.")
    if limit.home:
        return _("It can be extended until %(until)s at most; then another workstation has its home volume.")
    if limit.devices:
        return _("It can be extended until %(until)s at most; then a device of it is somebody else's.")
    return _("It can be extended until %(until)s at most; then somebody else has it.")


def cut(actor: Actor, lease: Lease, ends_at: datetime, *, now: datetime) -> None:
    """An earlier end for a lease that the caller has locked. Raises InvalidRequest."""
    if ends_at < max(now, lease.starts_at) + SHORTEST_LEASE:
        raise InvalidRequest(
            _("This end is too early."), hint=_("Choose a later one, or end it now."), field="ends_at"
        )
    _note(actor, lease, "lease.shorten", now=now, ends_at=ends_at, was=lease.ends_at)
    metering.cut_terms(lease, lease.starts_at, ends_at)
    holds.shorten(lease, ends_at)
    metering.follow(lease)
    lease.save(update_fields=["ends_at", "quoted_total"])
    if lease.state in RUNNING:
        effects.tell_end(lease, now=now)


@atomically
def _change_window(
    actor: Actor, lease_id: UUID, starts_at: datetime, ends_at: datetime, now: datetime
) -> Lease:
    lease = lock_for_change(lease_id)
    if lease.state not in AHEAD:
        raise WrongState(_("It has begun: only its end can be changed."))
    require_open(lease.tenant)
    before = {"starts": lease.starts_at, "was": lease.ends_at}
    lease.starts_at, lease.ends_at = starts_at, ends_at
    check_wish(lease)
    check_start(lease)
    lease.extensions.filter(state=Extension.State.CONFIRMED).update(state=Extension.State.FAILED)
    quote = fill_quote(lease, now=now)
    verdict = check_limits(lease, quote.terms, now=now)
    _refuse_outside(lease, verdict.reason)
    if lease.state == LeaseState.REQUESTED:
        lease.needs_approval_because = verdict.reason or lease.needs_approval_because
        lease.decide_by = decide_by(lease, now)
    lease.waiting_because = NONE
    lease.save()
    lease.terms.all().delete()
    keep_terms(lease, quote)
    warn(lease.tenant, verdict.measures, now=now)
    offering.show_all_freed(lease.flavor.model_id, now=now)
    holds.drop(lease)
    holds.place(lease, now=now)
    devices.require_free(lease)
    _note(
        actor,
        lease,
        "lease.change",
        now=now,
        starts_at=starts_at,
        ends_at=ends_at,
        rate_per_hour=lease.rate_per_hour,
        currency=lease.currency,
        terms=quote.terms,
        verdict=verdict,
        **before,
    )
    transaction.on_commit(wake_control)
    return lease


def _fetch(actor: Actor, lease_id: UUID) -> None:
    if actor.person is None:
        raise TypeError("only a person changes a lease")
    policy.fetch_lease(actor.person, lease_id, "use")


def lock_for_change(lease_id: UUID) -> Lease:
    """The lease with its team and its owner, all locked. Raises WrongState."""
    found = Lease.objects.get(pk=lease_id)
    tenant = locked(Tenant.objects.all()).get(pk=found.tenant_id)
    owner = locked(Person.objects.all()).get(pk=found.owner_id)
    lease = locked(Lease.objects.select_related("flavor__model", "host")).get(pk=lease_id)
    lease.tenant, lease.owner = tenant, owner
    if lease.state not in (*AHEAD, *RUNNING):
        raise WrongState(_("This workstation cannot be changed any more."), hint=_("Book another one."))
    return lease


def _refuse_outside(lease: Lease, reason: Reason) -> None:
    """A request waits for an approver in any case; what is booked stays inside the limits."""
    if reason and lease.state != LeaseState.REQUESTED:
        raise OutsideLimits(str(reason), hint=_("Ask for a larger quota, or choose less."), field="ends_at")


def _confirm(lease: Lease, extension: Extension, *, now: datetime) -> None:
    extension.state, extension.state_since = Extension.State.CONFIRMED, now
    extension.save(update_fields=["state", "state_since"])
    lease.ends_at, lease.warned_at_seconds = extension.new_ends_at, None
    metering.follow(lease)
    lease.quoted_total = metering.quoted_total(lease)
    lease.save(update_fields=["ends_at", "quoted_total", "warned_at_seconds"])


def _withdraw(lease: Lease, extension: Extension, *, now: datetime) -> None:
    extension.state, extension.state_since = Extension.State.FAILED, now
    extension.save(update_fields=["state", "state_since"])
    extension.terms.all().delete()
    if lease.state in RUNNING:
        holds.shorten(lease, lease.ends_at)


def _make_way(lease: Lease, other: Lease, *, now: datetime) -> None:
    """The other lease is locked and placed anew, on other GPUs than this one's."""
    other = locked(Lease.objects.select_related("flavor__model", "owner")).get(pk=other.pk)
    ours = frozenset(lease.holds.values_list("gpu_id", flat=True))
    if other.state not in AHEAD or not moving.make_way(other, ours, now=now):
        raise NothingFree(_("Somebody else has just taken it."), hint=_("Try again."))
    tidings.made_way(other, now=now)


def _note(
    actor: Actor,
    lease: Lease,
    action: str,
    *,
    now: datetime,
    verdict: quotas.Verdict | None = None,
    **facts: Any,
) -> None:
    if verdict is not None:
        facts["limits"] = verdict.described()
    record(action=action, actor=actor, subject=f"lease:{lease.pk}", tenant=lease.tenant, now=now, **facts)
