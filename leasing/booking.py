"""Asking for a workstation: limits, price and holds, checked and written in one transaction."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from leasing import holds, notices, policy
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import InvalidRequest, NotVisible
from leasing.limits import Booked, Limits, check_window, peak_gpus
from leasing.locking import locked
from leasing.models import Flavor, Image, Lease, Person, Tenant
from leasing.pricing import Quote, quote_lease
from leasing.reasons import NONE, Reason, because, filled
from leasing.retrying import retrying
from leasing.states.lease import HOLDING, LeaseState
from leasing.timing import DECISION_WINDOW
from leasing.wake import wake_control

__all__ = ["Quote", "approval_reason", "quote_lease", "request_lease"]


def limits_of(tenant: Tenant) -> Limits:
    return Limits(
        longest=timedelta(hours=tenant.longest_lease_hours),
        ahead=timedelta(days=tenant.book_ahead_days),
        concurrent_gpus=tenant.concurrent_gpus,
    )


def request_lease(
    *,
    actor: Actor,
    tenant: Tenant,
    flavor: Flavor,
    image: Image,
    starts_at: datetime | None,
    ends_at: datetime,
    purpose: str = "",
    now: datetime,
) -> Lease:
    """Book a workstation; no `starts_at` means now.

    Inside the tenant's limits the lease is scheduled at once, otherwise it waits for an approver; either way
    its GPUs are held. Raises InvalidRequest, NothingFree or NotVisible.
    """
    person = _member(actor, tenant)
    asked = starts_at or now
    check_window(asked, ends_at, limits=limits_of(tenant), now=now)
    _check_offered(flavor, image)
    return retrying(
        lambda: _book(
            actor=actor,
            person=person,
            tenant=tenant,
            lease=Lease(
                tenant=tenant,
                owner=person,
                flavor=flavor,
                image=image,
                starts_at=max(asked, now),
                ends_at=ends_at,
                requested_at=now,
                state_since=now,
                purpose=purpose,
            ),
            now=now,
        )
    )


def approval_reason(tenant: Tenant, flavor: Flavor, starts_at: datetime, ends_at: datetime) -> str:
    """Why a booking would need an approver, in words; empty if it is inside the tenant's limits."""
    return str(_limit_exceeded(tenant, flavor, starts_at, ends_at))


def _limit_exceeded(tenant: Tenant, flavor: Flavor, starts_at: datetime, ends_at: datetime) -> Reason:
    others = Lease.objects.filter(
        tenant=tenant, state__in=HOLDING, starts_at__lt=ends_at, ends_at__gt=starts_at
    ).select_related("flavor")
    booked = [
        Booked(max(lease.starts_at, starts_at), min(lease.ends_at, ends_at), lease.flavor.gpu_count)
        for lease in others
        if lease.state != LeaseState.RELEASING
    ]
    peak = peak_gpus([*booked, Booked(starts_at, ends_at, flavor.gpu_count)])
    if peak <= tenant.concurrent_gpus:
        return NONE
    return because("over-limit", peak=peak, limit=tenant.concurrent_gpus)


def _book(*, actor: Actor, person: Person, tenant: Tenant, lease: Lease, now: datetime) -> Lease:
    with transaction.atomic():
        # Tenant before person, always: two bookings of one team are checked one after the other.
        tenant = locked(Tenant.objects.all()).get(pk=tenant.pk)
        locked(Person.objects.all()).get(pk=person.pk)
        reason = _limit_exceeded(tenant, lease.flavor, lease.starts_at, lease.ends_at)
        _fill_quote(lease)
        lease.needs_approval_because = reason
        lease.state = LeaseState.REQUESTED if reason else LeaseState.SCHEDULED
        lease.decide_by = _decide_by(lease, now) if reason else None
        lease.save(force_insert=True)
        holds.place(lease, now=now)
        _record(lease, tenant=tenant, actor=actor, now=now)
        if reason:
            _ask_approvers(lease, now=now)
        transaction.on_commit(wake_control)
    return lease


def _fill_quote(lease: Lease) -> None:
    quote = quote_lease(flavor=lease.flavor, starts_at=lease.starts_at, ends_at=lease.ends_at)
    lease.rate_per_hour, lease.currency, lease.quoted_total = quote.rate_per_hour, quote.currency, quote.total


def _decide_by(lease: Lease, now: datetime) -> datetime:
    """A request for later lapses at its start, one for now when nothing would be left of it."""
    lapses = lease.starts_at if lease.starts_at > now else lease.ends_at
    return min(lapses, now + DECISION_WINDOW)


def _record(lease: Lease, *, tenant: Tenant, actor: Actor, now: datetime) -> None:
    facts: dict[str, Any] = {
        "from": None,
        "to": lease.state,
        "flavor": lease.flavor.slug,
        "image": lease.image.slug,
        "starts_at": lease.starts_at,
        "ends_at": lease.ends_at,
        "rate_per_hour": lease.rate_per_hour,
        "currency": lease.currency,
        "quoted_total": lease.quoted_total,
        "limit": tenant.concurrent_gpus,
        "needs_approval_because": lease.needs_approval_because.in_english(),
        "gpus": [str(gpu) for gpu in lease.holds.values_list("gpu_id", flat=True)],
    }
    record(
        action="lease.request",
        actor=actor,
        subject=f"lease:{lease.pk}",
        tenant=tenant,
        now=now,
        **facts,
    )


def _ask_approvers(lease: Lease, *, now: datetime) -> None:
    for approver in policy.people_with_role(lease.tenant, "approver").exclude(pk=lease.owner_id):
        notices.notify(
            recipient=approver,
            lease=lease,
            kind="lease-request",
            subject=filled(
                gettext_lazy("%(person)s asks for %(flavor)s"), person=lease.owner, flavor=lease.flavor.name
            ),
            body=lease.purpose or gettext_lazy("No purpose was given."),
            now=now,
        )


def _member(actor: Actor, tenant: Tenant) -> Person:
    if actor.person is None or not policy.has_role(actor.person, tenant, "member"):
        raise NotVisible(_("There is no such team."))
    return actor.person


def _check_offered(flavor: Flavor, image: Image) -> None:
    if not flavor.offered:
        raise InvalidRequest(_("This workstation is no longer offered."), field="flavor")
    if not image.offered:
        raise InvalidRequest(_("This image is no longer offered."), field="image")
