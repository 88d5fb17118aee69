"""Asking for a workstation: limits, price and holds, checked and written in one transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from hosts.models import UsbDevice
from leasing import devices, holds, notices, offering, policy, quotas
from leasing.actors import Actor
from leasing.addresses import of_approvals
from leasing.audit.log import record, recording
from leasing.billing.budget_warnings import warn
from leasing.errors import InvalidRequest, NotVisible
from leasing.homes import check_wish
from leasing.limits import check_window
from leasing.locking import lock_tenant_and_person
from leasing.membership.openness import require_open
from leasing.models import Flavor, Image, Lease, Person, Snapshot, Tenant
from leasing.prepared import Change, inserting_row
from leasing.pricing import Quote, keep_terms, quote_lease
from leasing.promises import promised
from leasing.reasons import filled
from leasing.snapshots_kept import check_start
from leasing.states.lease import LeaseState
from leasing.tags import checked_tag
from leasing.terms import Term
from leasing.timing import DECISION_WINDOW
from leasing.transactions import atomically
from leasing.wake import wake_control

__all__ = ["Quote", "judge_booking", "quote_lease", "request_lease"]


def request_lease(
    *,
    actor: Actor,
    tenant: Tenant,
    flavor: Flavor,
    image: Image,
    starts_at: datetime | None,
    ends_at: datetime,
    purpose: str = "",
    project: str = "",
    cost_centre: str = "",
    usb: Collection[int] = (),
    with_home: bool = False,
    snapshot: Snapshot | None = None,
    now: datetime,
) -> Lease:
    """Book a workstation; no `starts_at` means now. `usb` are the numbers of devices to be plugged into it;
    its disk begins as `snapshot`.

    Inside the tenant's limits the lease is scheduled at once, otherwise it waits for an approver; either way
    its GPUs are held. Raises InvalidRequest, NothingFree or NotVisible.
    """
    person = member_of(actor, tenant)
    asked = starts_at or now
    check_window(asked, ends_at, now=now)
    check_offered(flavor, image)
    chosen = devices.chosen_devices(flavor, usb)
    return _book(
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
            project=checked_tag(project, "project"),
            cost_centre=checked_tag(cost_centre, "cost_centre"),
            bound_to=chosen[0].host if chosen else None,
            with_home=with_home,
            snapshot=snapshot,
        ),
        usb=chosen,
        now=now,
    )


def check_limits(lease: Lease, terms: Sequence[Term], *, now: datetime) -> quotas.Verdict:
    """The same for what is to be booked. Raises OverBudget if nobody could agree to it."""
    verdict = limits_met(lease, terms, now=now)
    quotas.refuse_beyond(verdict)
    return verdict


def limits_met(lease: Lease, terms: Sequence[Term], *, now: datetime) -> quotas.Verdict:
    """Whether the lease, in its window and at these terms, is inside all limits."""
    return quotas.check(
        tenant=lease.tenant,
        person=lease.owner,
        flavor=lease.flavor,
        starts_at=lease.starts_at,
        ends_at=lease.ends_at,
        terms=terms,
        currency=lease.currency,
        without=lease.pk,
        now=now,
    )


def judge_booking(
    *,
    tenant: Tenant,
    person: Person,
    flavor: Flavor,
    starts_at: datetime,
    ends_at: datetime,
    quote: Quote,
    now: datetime,
) -> quotas.Verdict:
    """What a booking at this price would do to each limit, and why it would need an approver."""
    lease = Lease(tenant=tenant, owner=person, flavor=flavor, starts_at=starts_at, ends_at=ends_at)
    lease.currency = quote.currency
    return check_limits(lease, quote.terms, now=now)


@atomically
def _book(
    *,
    actor: Actor,
    person: Person,
    tenant: Tenant,
    lease: Lease,
    usb: Sequence[UsbDevice],
    now: datetime,
) -> Lease:
    # Tenant before person, always: two bookings of one team are checked one after the other.
    lease.tenant = lock_tenant_and_person(tenant.pk, person.pk)
    require_open(lease.tenant)
    check_wish(lease)
    check_start(lease)
    quote = fill_quote(lease, now=now)
    verdict = check_limits(lease, quote.terms, now=now)
    reason = verdict.reason
    lease.needs_approval_because = reason
    lease.state = LeaseState.REQUESTED if reason else LeaseState.SCHEDULED
    lease.decide_by = decide_by(lease, now) if reason else None

    def writing(gpus: list[UUID]) -> Sequence[Change]:
        facts = _request(lease, quote.terms, verdict, gpus, actor=actor, now=now)
        if usb:
            facts["usb"] = devices.told(usb)
        return inserting_row(lease), recording(**facts)

    offering.place_after_line(lease, now=now, writing=writing)
    # Those who wait were shown what came free: it may have been offered to this person with the same volume.
    check_wish(lease)
    keep_terms(lease, quote)
    devices.give(lease, usb)
    devices.require_free(lease)
    if reason:
        ask_approvers(lease, now=now)
    warn(lease.tenant, verdict.measures, now=now)
    if starts_now(lease, now=now):
        transaction.on_commit(wake_control)
    return lease


def starts_now(lease: Lease, *, now: datetime) -> bool:
    """Whether there is something to do for it at once; what is ahead is left to the tick."""
    return holds.window(lease.flavor, lease.starts_at, lease.ends_at, now=now)[0] <= now


def fill_quote(lease: Lease, *, now: datetime) -> Quote:
    """The price in force at its start, frozen into the lease; its terms are for `keep_terms`."""
    quote = quote_lease(
        flavor=lease.flavor,
        tenant=lease.tenant,
        starts_at=lease.starts_at,
        ends_at=lease.ends_at,
        now=now,
    )
    lease.rate_per_hour, lease.currency, lease.quoted_total = quote.rate_per_hour, quote.currency, quote.total
    lease.varied = quote.is_varied
    return quote


def decide_by(lease: Lease, now: datetime) -> datetime:
    """A request for later lapses at its start, one for now when nothing would be left of it."""
    lapses = lease.starts_at if lease.starts_at > now else lease.ends_at
    return min(lapses, now + DECISION_WINDOW)


def facts_of(
    lease: Lease, terms: Sequence[Term], verdict: quotas.Verdict, gpus: Iterable[UUID]
) -> dict[str, Any]:
    """What was booked, for whom, at which price and within which limits: for the audit log."""
    return {
        **promised(lease, terms, gpus),
        "limits": verdict.described(),
        "needs_approval_because": lease.needs_approval_because.in_english(),
    }


def record_request(
    lease: Lease,
    terms: Sequence[Term],
    verdict: quotas.Verdict,
    gpus: Iterable[UUID],
    *,
    actor: Actor,
    now: datetime,
) -> None:
    """What was asked for, judged and given."""
    record(**_request(lease, terms, verdict, gpus, actor=actor, now=now))


def _request(
    lease: Lease,
    terms: Sequence[Term],
    verdict: quotas.Verdict,
    gpus: Iterable[UUID],
    *,
    actor: Actor,
    now: datetime,
) -> dict[str, Any]:
    return {
        "action": "lease.request",
        "actor": actor,
        "subject": f"lease:{lease.pk}",
        "tenant": lease.tenant,
        "now": now,
        "from": None,
        "to": lease.state,
        **facts_of(lease, terms, verdict, gpus),
    }


def ask_approvers(lease: Lease, *, now: datetime) -> None:
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
            link=of_approvals(),
        )


def member_of(actor: Actor, tenant: Tenant) -> Person:
    """Whoever acts, as a member of the tenant. Raises NotVisible."""
    if actor.person is None or not policy.has_role(actor.person, tenant, "member"):
        raise NotVisible(_("There is no such team."))
    return actor.person


def check_offered(flavor: Flavor, image: Image) -> None:
    """Raises InvalidRequest for what cannot be booked any more."""
    if not flavor.offered:
        raise InvalidRequest(_("This workstation is no longer offered."), field="flavor")
    if not image.offered:
        raise InvalidRequest(_("This image is no longer offered."), field="image")
