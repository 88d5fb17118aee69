"""Waiting in line: join, claim or decline what is offered, change the deadline, leave; and how it looks.

Only those whom nothing fits may join: whoever can have it books it. What comes free is offered by
leasing.offering in the order of leasing.lines.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from leasing import keeping, metering, offering, policy
from leasing.actors import Actor
from leasing.billing.budget_warnings import warn
from leasing.booking import (
    ask_approvers,
    check_limits,
    check_offered,
    decide_by,
    facts_of,
    member_of,
    starts_now,
)
from leasing.devices import chosen_devices, told
from leasing.errors import InvalidRequest, NotVisible, WrongState
from leasing.extras import Extras, extras_for, extras_of_entry
from leasing.fair_share import shares_of
from leasing.homes import check_offers, check_wish
from leasing.limits import check_window
from leasing.lines import Share, setback, times_fair
from leasing.locking import lock_tenant_and_person, locked
from leasing.membership.openness import require_open
from leasing.models import Block, Flavor, Image, Lease, Person, Snapshot, Tenant, WaitlistEntry
from leasing.openings.upkeep import give_up_kept
from leasing.pricing import price_or_refuse
from leasing.reasons import Reason, because
from leasing.slots import find_start
from leasing.snapshots_kept import check_start
from leasing.states.lease import LeaseEvent, LeaseState
from leasing.tidings import local_time
from leasing.transactions import atomically
from leasing.transitions import apply_lease_event
from leasing.wake import wake_control

# So many entries may a person have at once.
MOST_ENTRIES = 5


@dataclass(frozen=True)
class Outlook:
    """How it looks for an entry.

    `position` counts from 1 in the line for its GPU model. `free_from` is when it would be free by what is
    booked now, which as a rule is too late for its deadline. `kept` says whether its last window is kept for
    it, and `in_the_way` how many bookings still are. `set_back` is how much later than it did it counts as
    joined.
    """

    entry: WaitlistEntry
    offer: Lease | None
    position: int
    free_from: datetime | None
    kept: bool
    in_the_way: int

    @property
    def set_back(self) -> timedelta:
        return self.entry.rank_at - self.entry.joined_at

    @property
    def too_late(self) -> bool:
        """Whether `free_from` is; it is not if the entry let just that time pass."""
        return self.free_from is None or self.free_from > self.entry.last_start_at


def join_waitlist(
    *,
    actor: Actor,
    tenant: Tenant,
    flavor: Flavor,
    image: Image,
    duration: timedelta,
    earliest: datetime | None = None,
    deadline: datetime,
    purpose: str = "",
    with_home: bool = False,
    snapshot: Snapshot | None = None,
    usb: Collection[int] = (),
    now: datetime,
) -> WaitlistEntry:
    """Wait for what cannot be had in time; no `earliest` means now, `usb` are the numbers of devices.

    Raises InvalidRequest or WrongState.
    """
    person = member_of(actor, tenant)
    check_offered(flavor, image)
    devices = chosen_devices(flavor, usb)
    extras = extras_for(tenant, person, with_home=with_home, snapshot=snapshot, devices=devices)
    entry = WaitlistEntry(
        tenant=tenant,
        owner=person,
        flavor=flavor,
        image=image,
        duration=duration,
        earliest_at=max(earliest or now, now),
        last_start_at=deadline - duration,
        purpose=purpose,
        with_home=with_home,
        snapshot=snapshot,
        joined_at=now,
    )
    check_window(entry.earliest_at, entry.earliest_at + duration, now=now)
    price_or_refuse(flavor, tenant, at=entry.earliest_at)
    _check_deadline(entry, now=now)
    check_offers(entry)
    _check_size(entry, extras)
    return _join(actor, entry, extras, now=now)


def leave_waitlist(*, actor: Actor, entry_id: UUID, now: datetime) -> WaitlistEntry:
    """Wait no more; an offer passes to the next in line."""
    fetch_entry(actor, entry_id)
    return _leave(actor, entry_id, now)


def change_deadline(*, actor: Actor, entry_id: UUID, deadline: datetime, now: datetime) -> WaitlistEntry:
    """Another latest end; the place in line stays."""
    fetch_entry(actor, entry_id)
    return _change_deadline(actor, entry_id, deadline, now)


def claim_offer(*, actor: Actor, entry_id: UUID, now: datetime) -> Lease:
    """Take what is offered, at the price that was offered.

    Limits and roles are looked at as for any booking: inside the limits it is scheduled, outside it waits for
    an approver, with its GPUs. What has begun already keeps its end. Raises WrongState or InvalidRequest.
    """
    fetch_entry(actor, entry_id)
    return _claim(actor, entry_id, now)


def decline_offer(*, actor: Actor, entry_id: UUID, now: datetime) -> WaitlistEntry:
    """Let what is offered pass to the next in line, and wait on."""
    fetch_entry(actor, entry_id)
    return _decline(actor, entry_id, now)


def entries_of(person: Person) -> QuerySet[WaitlistEntry]:
    """One's own, in tenants where one still is a member; the latest first."""
    entries = WaitlistEntry.objects.select_related(
        "tenant", "flavor__model", "image", "owner", "snapshot__lease"
    )
    own = entries.filter(owner=person, tenant__in=policy.tenants_with_role(person, "member"))
    return own.prefetch_related("devices__host").order_by("-joined_at", "id")


def outlook(entry: WaitlistEntry, *, now: datetime) -> Outlook:
    """How it looks for an entry that waits. It tells nothing of others but how many come before."""
    extras = extras_of_entry(entry)
    start = find_start(entry.flavor, entry.duration, earliest=entry.earliest_at, extras=extras, now=now)
    return Outlook(
        entry=entry,
        offer=_offers(entry).first(),
        position=_before(entry).count() + 1,
        free_from=start,
        kept=entry.kept_from is not None,
        in_the_way=keeping.in_the_way(entry),
    )


@atomically
def _join(actor: Actor, entry: WaitlistEntry, extras: Extras, *, now: datetime) -> WaitlistEntry:
    tenant = locked(Tenant.objects.all()).get(pk=entry.tenant_id)
    person = locked(Person.objects.all()).get(pk=entry.owner_id)
    require_open(tenant)
    check_start(entry)
    if WaitlistEntry.objects.filter(owner=person, closed_at=None).count() >= MOST_ENTRIES:
        raise WrongState(
            _("You are in line %(count)d times already.") % {"count": MOST_ENTRIES},
            hint=_("Leave one of them first."),
        )
    _check_nothing_fits(entry, extras, now=now)
    shares = shares_of(entry.flavor.model_id, now=now)
    own = shares.pop(tenant.pk, Share(0, tenant.weight))
    entry.rank_at = now + setback(times_fair(own, [own, *shares.values()]))
    entry.save(force_insert=True)
    entry.devices.set(extras.devices)
    offering.note(
        entry,
        "waitlist.join",
        actor=actor,
        now=now,
        flavor=entry.flavor.slug,
        image=entry.image.slug,
        duration_seconds=int(entry.duration.total_seconds()),
        earliest=entry.earliest_at,
        deadline=entry.deadline_at,
        rank=entry.rank_at,
        **_noted(extras),
    )
    transaction.on_commit(wake_control)
    return entry


@atomically
def _leave(actor: Actor, entry_id: UUID, now: datetime) -> WaitlistEntry:
    _let_pass(actor, entry_id, because("offer-left"), now=now)
    entry = _locked(entry_id)
    # One that was made between the two lines above.
    _let_pass(actor, entry_id, because("offer-left"), now=now)
    entry.refresh_from_db()
    offering.close(entry, WaitlistEntry.Outcome.LEFT, actor=actor, now=now)
    transaction.on_commit(wake_control)
    return entry


@atomically
def _change_deadline(actor: Actor, entry_id: UUID, deadline: datetime, now: datetime) -> WaitlistEntry:
    for block in locked(Block.objects.filter(kept_for=entry_id)).order_by("id"):
        give_up_kept(block)
    entry = _locked(entry_id)
    if _offers(entry).exists():
        raise WrongState(_("You have an offer."), hint=_("Claim or decline it first."))
    was, entry.last_start_at, entry.fresh = entry.deadline_at, deadline - entry.duration, True
    _check_deadline(entry, now=now)
    _check_nothing_fits(entry, extras_of_entry(entry), now=now)
    entry.save(update_fields=["last_start_at", "fresh"])
    offering.note(entry, "waitlist.change", actor=actor, now=now, deadline=deadline, was=was)
    transaction.on_commit(wake_control)
    return entry


@atomically
def _claim(actor: Actor, entry_id: UUID, now: datetime) -> Lease:
    found = WaitlistEntry.objects.get(pk=entry_id)
    tenant = lock_tenant_and_person(found.tenant_id, found.owner_id)
    require_open(tenant)
    offer = _locked_offer(entry_id, now=now)
    offer.tenant = tenant
    member_of(actor, tenant)
    check_offered(offer.flavor, offer.image)
    check_wish(offer)
    check_start(offer)
    metering.cut_terms(offer, max(offer.starts_at, now), offer.ends_at)
    terms = metering.terms(offer)
    verdict = check_limits(offer, terms, now=now)
    offer.needs_approval_because = verdict.reason
    offer.save(update_fields=["starts_at", "rate_per_hour", "quoted_total", "needs_approval_because"])
    warn(tenant, verdict.measures, now=now)
    offer = apply_lease_event(
        lease_id=offer.pk,
        event=LeaseEvent.ASK if verdict.reason else LeaseEvent.CLAIM,
        actor=actor,
        effective_at=now,
        now=now,
        **facts_of(offer, terms, verdict, offer.holds.values_list("gpu_id", flat=True)),
    )
    offer.decide_by = decide_by(offer, now) if verdict.reason else None
    offer.save(update_fields=["decide_by"])
    offering.close(_locked(entry_id), WaitlistEntry.Outcome.SERVED, actor=actor, now=now)
    if verdict.reason:
        ask_approvers(offer, now=now)
    if starts_now(offer, now=now):
        transaction.on_commit(wake_control)
    return offer


@atomically
def _decline(actor: Actor, entry_id: UUID, now: datetime) -> WaitlistEntry:
    offer = _locked_offer(entry_id, now=now)
    offering.pass_on(offer, because("offer-declined"), actor=actor, now=now)
    transaction.on_commit(wake_control)
    return WaitlistEntry.objects.get(pk=entry_id)


def _noted(extras: Extras) -> dict[str, Any]:
    facts: dict[str, Any] = {"with_home": True} if extras.with_home else {}
    facts |= {"snapshot": str(extras.snapshot.pk)} if extras.snapshot else {}
    return facts | ({"usb": told(extras.devices)} if extras.devices else {})


def _let_pass(actor: Actor, entry_id: UUID, reason: Reason, *, now: datetime) -> None:
    offers = Lease.objects.filter(entry=entry_id, state=LeaseState.OFFERED)
    for offer in locked(offers):
        offering.withdraw(offer, reason, actor=actor, now=now)


def fetch_entry(actor: Actor, entry_id: UUID) -> WaitlistEntry:
    """One's own entry. Raises NotVisible."""
    if actor.person is None:
        raise TypeError("only a person waits")
    entry = entries_of(actor.person).filter(pk=entry_id).first()
    if entry is None:
        raise NotVisible(_("There is no such entry."))
    return entry


def _locked(entry_id: UUID) -> WaitlistEntry:
    entry = locked(WaitlistEntry.objects.select_related("tenant", "owner", "flavor__model")).get(pk=entry_id)
    if entry.closed_at is not None:
        raise WrongState(_("You are not in line for this any more."), hint=_("Reload the page."))
    return entry


def _locked_offer(entry_id: UUID, *, now: datetime) -> Lease:
    offers = Lease.objects.filter(entry=entry_id, state=LeaseState.OFFERED, decide_by__gt=now)
    offer = locked(offers.select_related("flavor__model", "image", "owner")).first()
    if offer is None:
        raise WrongState(
            _("This offer has passed to the next in line."),
            hint=_("You keep your place and are told when something else comes free."),
        )
    return offer


def _offers(entry: WaitlistEntry) -> QuerySet[Lease]:
    return Lease.objects.filter(entry=entry, state=LeaseState.OFFERED).select_related(
        "flavor__model", "image"
    )


def _before(entry: WaitlistEntry) -> QuerySet[WaitlistEntry]:
    """Those who come before it in the line for its GPU model, with an offer or without."""
    earlier = Q(rank_at__lt=entry.rank_at) | Q(rank_at=entry.rank_at, joined_at__lt=entry.joined_at)
    same = Q(rank_at=entry.rank_at, joined_at=entry.joined_at, pk__lt=entry.pk)
    return WaitlistEntry.objects.filter(earlier | same, flavor__model=entry.flavor.model_id, closed_at=None)


def _check_deadline(entry: WaitlistEntry, *, now: datetime) -> None:
    if entry.last_start_at < max(entry.earliest_at, now):
        raise InvalidRequest(
            _("It cannot end by then."),
            hint=_("Choose a later deadline or a shorter time."),
            field="deadline",
        )


def _check_size(entry: WaitlistEntry, extras: Extras) -> None:
    flavor, reach = entry.flavor, extras.reach(entry.flavor)
    blocks = Block.objects.filter(model=flavor.model_id, gpus__gte=flavor.gpu_count)
    if reach is not None and blocks.exists() and not blocks.filter(pk__in=reach).exists():
        raise InvalidRequest(
            _("No host that it could be on has so many of these GPUs."),
            hint=_("Choose a smaller workstation, or wait without your home volume, snapshot or devices."),
            field="flavor",
        )
    if not blocks.exists():
        raise InvalidRequest(
            _("No host has so many of these GPUs."),
            hint=_("Choose a smaller workstation."),
            field="flavor",
        )


def _check_nothing_fits(entry: WaitlistEntry, extras: Extras, *, now: datetime) -> None:
    start = find_start(
        entry.flavor,
        entry.duration,
        earliest=entry.earliest_at,
        deadline=entry.deadline_at,
        extras=extras,
        now=now,
    )
    if start is not None:
        raise InvalidRequest(
            _("It is free from %(start)s: there is nothing to wait for.")
            % {"start": local_time(start, entry.owner)},
            hint=_("Book it."),
            field="deadline",
        )
