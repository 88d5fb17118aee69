"""Handing a lease over to a colleague: what it counts, and what it costs, is theirs from then on.

Whether it is inside the limits of its new owner is asked in the transaction that makes it theirs. A request
goes on waiting for an approver; what was approved goes to nobody who approved it.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from leasing import metering, notices, policy, quotas
from leasing.actors import Actor
from leasing.addresses import of_approvals, of_lease
from leasing.audit.log import record
from leasing.billing.budget_warnings import warn
from leasing.booking import limits_met
from leasing.changing import OutsideLimits
from leasing.console import close_consoles_of
from leasing.errors import InvalidRequest, NotVisible, Words, WrongState
from leasing.locking import locked
from leasing.models import Extension, HandOver, Lease, Person, Tenant
from leasing.models.together import LONGEST_NOTE
from leasing.reasons import Reason, filled
from leasing.states.lease import AHEAD, RUNNING, LeaseState
from leasing.states.snapshot import COMING
from leasing.together.closing import answer_offer, close_offers, close_shares, note_offer
from leasing.together.sharing import colleague
from leasing.transactions import atomically
from leasing.usage import lease_cost

GIVEN = frozenset({LeaseState.REQUESTED, LeaseState.SCHEDULED, *RUNNING})
State = HandOver.State
KEYS_STAY = gettext_lazy(
    "The machine keeps the SSH keys that it started with, and passwords that were set in it: who had it can"
    " still sign in until the new owner changes them inside."
)


@atomically
def offer_lease(*, actor: Actor, lease_id: UUID, username: str, note: str = "", now: datetime) -> HandOver:
    """Offer it to a colleague, who has to accept; until then it stays what and whose it is."""
    giver = _person(actor)
    policy.fetch_lease(giver, lease_id, "use")
    lease = locked(Lease.objects.select_related("tenant", "owner", "flavor")).get(pk=lease_id)
    _require_given(lease)
    taker = colleague(lease.tenant, username, besides=giver)
    _require_others_decision(lease, taker)
    if lease.hand_overs.filter(state__in=HandOver.WAITING).exists():
        raise WrongState(_("It is offered to somebody already."), hint=_("Take that back first."))
    made = HandOver.objects.create(
        lease=lease, giver=giver, taker=taker, note=_checked_note(note), offered_at=now
    )
    note_offer("lease.offer-over", actor, made, now=now)
    tell(
        taker,
        lease,
        filled(
            gettext_lazy("%(person)s wants to hand %(name)s over to you"), person=giver, name=_name(lease)
        ),
        made.note or gettext_lazy("Accept it on its page, or decline. Nothing changes before you do."),
        now=now,
    )
    return made


@atomically
def accept_lease(*, actor: Actor, hand_over_id: UUID, now: datetime) -> Lease:
    """It is the person's from now on; or, outside their limits, waits for an approver and stays whose it is.

    Raises OverBudget or WrongState, and nothing changes.
    """
    taker = _person(actor)
    made = _open(HandOver.objects.filter(taker=taker), hand_over_id)
    lease, tenant = lock(made.lease_id, made.giver, taker)
    made = _open(locked(HandOver.objects.filter(taker=taker)), hand_over_id)
    made.lease = lease
    if not policy.has_role(taker, tenant, "member"):
        raise NotVisible(_("There is no such offer."))
    made.state, made.decided_at = State.ACCEPTED, now
    try:
        give(actor, made, now=now)
    except Beyond as beyond:
        lease.owner = made.giver
        _ask(actor, made, beyond.reason, now=now)
    return lease


@atomically
def give_lease(*, actor: Actor, lease_id: UUID, taker: Person, now: datetime) -> Lease:
    """Make it somebody else's of the tenant at once, because its owner leaves. The caller may do that."""
    owner = Lease.objects.select_related("owner").get(pk=lease_id).owner
    lease, _tenant = lock(lease_id, owner, taker)
    close_offers(lease.hand_overs.all(), actor=actor, now=now)
    made = HandOver(
        lease=lease, giver=owner, taker=taker, offered_at=now, decided_at=now, state=State.ACCEPTED
    )
    give(actor, made, now=now)
    return lease


@atomically
def decline_lease(*, actor: Actor, hand_over_id: UUID, now: datetime) -> HandOver:
    made = _open(locked(HandOver.objects.filter(taker=_person(actor))), hand_over_id, HandOver.WAITING)
    answer_offer(made, State.DECLINED, actor=actor, now=now)
    subject = filled(
        gettext_lazy("%(person)s does not take %(name)s"), person=made.taker, name=_name(made.lease)
    )
    tell(made.giver, made.lease, subject, gettext_lazy("It stays yours."), now=now)
    return made


@atomically
def take_back_offer(*, actor: Actor, hand_over_id: UUID, now: datetime) -> HandOver:
    made = _open(locked(HandOver.objects.filter(giver=_person(actor))), hand_over_id, HandOver.WAITING)
    answer_offer(made, State.WITHDRAWN, actor=actor, now=now)
    return made


def offered_to(person: Person) -> QuerySet[HandOver]:
    """What the person may accept now."""
    return HandOver.objects.filter(
        taker=person, state=State.OPEN, lease__in=policy.visible_leases(person).values("pk")
    ).select_related("lease__flavor", "lease__tenant", "giver")


def hand_overs_seen_by(person: Person) -> QuerySet[HandOver]:
    """To and from the person, and those of the tenants that they approve for."""
    seen = HandOver.objects.select_related("lease", "giver", "taker", "decided_by").filter(
        lease__in=policy.visible_leases(person).values("pk")
    )
    led = policy.tenants_with_role(person, "approver")
    own = seen.filter(taker=person) | seen.filter(giver=person) | seen.filter(lease__tenant__in=led)
    return own.order_by("-offered_at", "id")


class Beyond(OutsideLimits):
    """It is outside the limits of who takes it, for this reason."""

    def __init__(self, taker: Person, reason: Reason) -> None:
        words = _("It would be outside the limits of %(person)s: %(why)s")
        hint = _("Ask for a larger quota, or hand it to somebody else.")
        super().__init__(words % {"person": taker, "why": reason}, hint=hint)
        self.reason = reason


def _ask(actor: Actor, made: HandOver, reason: Reason, *, now: datetime) -> None:
    """Who may except it is asked, as for a booking outside the limits."""
    made.state, made.decided_at, made.because = State.ASKED, None, reason
    made.save()
    note_offer("lease.ask-over", actor, made, now=now)
    words = gettext_lazy("%(giver)s hands it to %(taker)s, for whom it is outside the limits: %(why)s")
    facts = {"giver": made.giver, "taker": made.taker, "why": reason}
    subject = filled(gettext_lazy("A hand-over of %(name)s waits for you"), name=_name(made.lease))
    for approver in policy.people_with_role(made.lease.tenant, "approver"):
        if approver.pk not in (made.giver_id, made.taker_id):
            notices.notify(
                recipient=approver, lease=made.lease, kind="lease-request", subject=subject,
                body=filled(words, **facts), now=now, link=of_approvals(),
            )  # fmt: skip


def give(actor: Actor, made: HandOver, *, excepted: bool = False, now: datetime) -> None:
    """The caller has locked tenant, people and lease. Raises Beyond unless somebody has excepted it."""
    lease, taker = made.lease, made.taker
    _require_given(lease)
    _require_others_decision(lease, taker)
    if lease.extensions.filter(state=Extension.State.PENDING).exists():
        raise WrongState(_("A new end waits for the host's word already."), hint=_("Try again in a minute."))
    lease.owner = taker
    verdict = limits_met(lease, metering.terms(lease), now=now)
    quotas.refuse_beyond(verdict)
    _take_verdict(lease, verdict, excepted=excepted)
    lease.warned_at_seconds = None
    lease.save(update_fields=["owner", "needs_approval_because", "warned_at_seconds"])
    made.save()
    metering.follow(lease)
    close_shares(lease.shares.filter(person=taker), actor=actor, now=now)
    close_consoles_of(lease, made.giver, now=now)
    cost = lease_cost(lease, now=now)
    facts: dict[str, Any] = {"excepted": str(verdict.reason)} if excepted else {}
    record(
        action="lease.hand-over",
        actor=actor,
        subject=f"lease:{lease.pk}",
        tenant=lease.tenant,
        behalf=made.giver,
        now=now,
        owner=taker.username,
        was=made.giver.username,
        at=now,
        cost_so_far=cost,
        currency=lease.currency,
        limits=verdict.described(),
        **facts,
    )
    warn(lease.tenant, verdict.measures, now=now)
    _tell_both(made, f"{cost} {lease.currency}", now=now)


def _take_verdict(lease: Lease, verdict: quotas.Verdict, *, excepted: bool) -> None:
    """A request waits for an approver in any case; what is booked stays inside the new owner's limits."""
    if lease.state == LeaseState.REQUESTED:
        lease.needs_approval_because = verdict.reason or lease.needs_approval_because
    elif verdict.reason and not excepted:
        raise Beyond(lease.owner, verdict.reason)


def _tell_both(made: HandOver, cost: str, *, now: datetime) -> None:
    lease = made.lease
    subject = gettext_lazy("%(name)s is now %(person)s's")
    words = gettext_lazy(
        "Until now it cost %(cost)s, which stays with %(giver)s; what it costs from now on is counted for"
        " %(taker)s. %(keys)s"
    )
    facts = {"cost": cost, "giver": made.giver, "taker": made.taker, "keys": KEYS_STAY}
    for person in (made.giver, made.taker):
        tell(
            person,
            lease,
            filled(subject, name=_name(lease), person=made.taker),
            filled(words, **facts),
            now=now,
        )


def _require_given(lease: Lease) -> None:
    if lease.state not in GIVEN:
        raise WrongState(_("This workstation has ended, or is about to."), hint=_("Book another one."))
    if lease.with_home:
        raise WrongState(
            _("It has its owner's home volume, which goes with its person."),
            hint=_("Share it, or end it and let your colleague book one."),
        )
    if lease.snapshots.filter(state__in=COMING).exists() or (lease.snapshot_id and lease.state in AHEAD):
        raise WrongState(
            _("A snapshot of its owner’s is to be taken of it, or it starts from one."),
            hint=_("Wait until the snapshot is taken, or remove it."),
        )


def _require_others_decision(lease: Lease, taker: Person) -> None:
    if lease.decided_by_id == taker.pk:
        raise WrongState(
            _("%(person)s has approved it, and nobody approves what is theirs.") % {"person": taker},
            hint=_("Hand it to somebody else."),
        )


def lock(lease_id: UUID, *people: Person) -> tuple[Lease, Tenant]:
    found = Lease.objects.get(pk=lease_id)
    tenant = locked(Tenant.objects.all()).get(pk=found.tenant_id)
    list(locked(Person.objects.filter(pk__in=[one.pk for one in people])).order_by("pk"))
    lease = locked(Lease.objects.select_related("flavor__model", "host", "owner")).get(pk=lease_id)
    if lease.owner_id != people[0].pk:
        raise WrongState(_("It is somebody else's by now."), hint=_("Reload the page."))
    lease.tenant = tenant
    return lease, tenant


def _open(
    offers: QuerySet[HandOver], hand_over_id: UUID, states: Collection[str] = (State.OPEN,)
) -> HandOver:
    found = (
        offers.select_related("giver", "taker", "lease__tenant", "lease__flavor")
        .filter(pk=hand_over_id)
        .first()
    )
    if found is None:
        raise NotVisible(_("There is no such offer."))
    if found.state not in states:
        raise WrongState(_("This offer has been answered, or taken back."), hint=_("Reload the page."))
    return found


def tell(person: Person, lease: Lease, subject: Words, body: Words, *, now: datetime) -> None:
    notices.notify(
        recipient=person, lease=lease, kind="lease-hand-over", subject=subject, body=body, now=now,
        link=of_lease(lease),
    )  # fmt: skip


def _checked_note(note: str) -> str:
    note = note.strip()
    if len(note) > LONGEST_NOTE:
        raise InvalidRequest(_("The note is too long; at most 500 characters are kept."), field="note")
    return note


def _person(actor: Actor) -> Person:
    if actor.person is None:
        raise TypeError("only a person hands a lease over")
    return actor.person


def _name(lease: Lease) -> str:
    return f"{lease.flavor.name} {lease.machine_name}"
