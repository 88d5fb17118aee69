"""One workstation, several people: sharing it, handing it over, and notes for the next approver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.db.models import QuerySet
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from leasing import policy
from leasing.errors import InvalidRequest
from leasing.models import HandOver, Lease, LeaseNote, Person, Share
from leasing.states.lease import RUNNING
from leasing.together import deciding, handing_over, notes
from leasing.together.sharing import share_lease, withdraw_share
from portal.middleware import PersonRequest
from portal.pages.actions import action, back_of


@dataclass(frozen=True)
class Together:
    """What a page shows of it. `offer` is open; `mine` says that this person has offered it."""

    shares: QuerySet[Share]
    offer: HandOver | None
    mine: bool
    may_share: bool
    may_give: bool
    notes: QuerySet[LeaseNote]
    may_note: bool

    @property
    def is_there(self) -> bool:
        return self.may_share or self.may_give or bool(self.shares) or self.offer is not None


def together_on(person: Person, lease: Lease) -> Together:
    owns = policy.may(person, lease, "use")
    offer = lease.hand_overs.filter(state__in=HandOver.WAITING).select_related("giver", "taker").first()
    if offer is not None and not owns and offer.taker_id != person.pk:
        offer = None
    shares = lease.shares.filter(closed_at=None).select_related("person")
    return Together(
        shares=shares if owns else shares.filter(person=person),
        offer=offer,
        mine=offer is not None and offer.taker_id != person.pk,
        may_share=owns and lease.state in RUNNING,
        may_give=owns and lease.state in handing_over.GIVEN,
        notes=notes.notes_for(person, lease),
        may_note=lease.state in notes.NOTED and notes.may_write(person, lease),
    )


def colleagues_of(person: Person, lease: Lease) -> QuerySet[Person]:
    """Whom it can be shared with."""
    return policy.people_with_role(lease.tenant, "member").exclude(pk=person.pk).order_by("username")


def shared_with(person: Person) -> dict[Any, Share]:
    """By lease: what colleagues let the person see."""
    return {one.lease_id: one for one in policy.shares_with(person).select_related("shared_by")}


@action
def share(request: PersonRequest, lease_id: UUID) -> str:
    made = share_lease(
        actor=request.actor,
        lease_id=lease_id,
        username=request.POST.get("person", "")[:150],
        level=request.POST.get("level", ""),
        now=timezone.now(),
    )
    messages.success(request, _("Shared with %(person)s, until its end.") % {"person": made.person})
    return _page_of(lease_id)


@action
def withdraw(request: PersonRequest, share_id: int) -> str:
    lease = withdraw_share(actor=request.actor, share_id=share_id, now=timezone.now())
    messages.success(request, _("It is no longer shared; a console that was open is closed."))
    return _page_of(lease.pk) if lease.owner_id == request.user.pk else reverse("home")


@action
def hand_over(request: PersonRequest, lease_id: UUID) -> str:
    made = handing_over.offer_lease(
        actor=request.actor,
        lease_id=lease_id,
        username=request.POST.get("person", "")[:150],
        note=request.POST.get("note", ""),
        now=timezone.now(),
    )
    words = _("%(person)s is asked. Until they accept it stays yours.")
    messages.success(request, words % {"person": made.taker})
    return _page_of(lease_id)


@action
def accept(request: PersonRequest, hand_over_id: UUID) -> str:
    lease = handing_over.accept_lease(actor=request.actor, hand_over_id=hand_over_id, now=timezone.now())
    if lease.owner_id == request.user.pk:
        messages.success(request, _("It is yours. What it costs from now on is counted for you."))
    else:
        messages.success(request, _("It is outside your limits: an approver is asked, and you are told."))
    return _page_of(lease.pk)


@action
def decline(request: PersonRequest, hand_over_id: UUID) -> str:
    made = handing_over.decline_lease(actor=request.actor, hand_over_id=hand_over_id, now=timezone.now())
    messages.success(request, _("Declined; %(person)s is told.") % {"person": made.giver})
    return reverse("home")


@action
def decide(request: PersonRequest, hand_over_id: UUID) -> str:
    decision = request.POST.get("decision", "")
    if decision not in ("approve", "reject"):
        raise InvalidRequest(_("Approve or decline."))
    deciding.decide_hand_over(
        actor=request.actor,
        hand_over_id=hand_over_id,
        approve=decision == "approve",
        note=request.POST.get("note", ""),
        now=timezone.now(),
    )
    messages.success(request, _("Decided; both are told."))
    return reverse("approvals")


@action
def take_back(request: PersonRequest, hand_over_id: UUID) -> str:
    made = handing_over.take_back_offer(actor=request.actor, hand_over_id=hand_over_id, now=timezone.now())
    messages.success(request, _("Taken back: it stays yours."))
    return _page_of(made.lease_id)


@action
def add_note(request: PersonRequest, lease_id: UUID) -> str:
    notes.write_note(
        actor=request.actor, lease_id=lease_id, text=request.POST.get("text", ""), now=timezone.now()
    )
    messages.success(request, _("The note is kept for the next approver."))
    return back_of(request) if "back" in request.POST else _page_of(lease_id)


def _page_of(lease_id: UUID) -> str:
    return reverse("workstation", args=[lease_id])
