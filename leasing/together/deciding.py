"""Deciding on a hand-over that is outside the limits of who takes it. Nobody decides on what is theirs."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db.models import QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from leasing import policy
from leasing.actors import Actor
from leasing.errors import InvalidRequest, NotAllowed, NotVisible, WrongState
from leasing.locking import locked
from leasing.models import HandOver, Person
from leasing.models.together import LONGEST_NOTE
from leasing.reasons import filled
from leasing.together.closing import note_offer
from leasing.together.handing_over import give, lock, tell
from leasing.transactions import atomically

State = HandOver.State


def hand_overs_to_decide(person: Person) -> QuerySet[HandOver]:
    """Those of the tenants that the person decides for, their own among them, oldest first."""
    tenants = policy.tenants_with_role(person, "approver")
    asked = HandOver.objects.filter(state=State.ASKED, lease__tenant__in=tenants)
    return asked.select_related("giver", "taker", "lease__flavor", "lease__tenant").order_by("offered_at")


@atomically
def decide_hand_over(
    *, actor: Actor, hand_over_id: UUID, approve: bool, note: str = "", now: datetime
) -> HandOver:
    """Agree that the lease becomes the taker's, or not. Who declines says why; the note is for both."""
    made = _fetch(actor, hand_over_id, note=note.strip(), approve=approve)
    made.decided_by, made.decided_at, made.decision_note = actor.person, now, note.strip()
    made.state = State.ACCEPTED if approve else State.REFUSED
    if approve:
        give(actor, made, excepted=True, now=now)
        return made
    made.save()
    note_offer("lease.refuse-over", actor, made, now=now)
    subject = filled(gettext_lazy("The hand-over of %(name)s was not approved"), name=made.lease.machine_name)
    for one in (made.giver, made.taker):
        tell(one, made.lease, subject, made.decision_note, now=now)
    return made


def _fetch(actor: Actor, hand_over_id: UUID, *, note: str, approve: bool) -> HandOver:
    """With its lease, everything locked; the actor may decide on it."""
    person = actor.person
    if person is None:
        raise TypeError("only a person decides")
    found = hand_overs_to_decide(person).filter(pk=hand_over_id).first()
    if found is None:
        raise NotVisible(_("There is no such offer."))
    if person.pk in (found.giver_id, found.taker_id):
        raise NotAllowed(_("Nobody decides on their own request, and only approvers of the team decide."))
    if len(note) > LONGEST_NOTE:
        raise InvalidRequest(_("The note is too long; at most 500 characters are kept."), field="note")
    if not approve and not note:
        raise InvalidRequest(_("Say why, so that the person knows what to change."), field="note")
    lease, tenant = lock(found.lease_id, found.giver, found.taker)
    made = locked(HandOver.objects.select_related("giver", "taker")).get(pk=hand_over_id)
    if made.state != State.ASKED:
        raise WrongState(_("This offer has been answered, or taken back."), hint=_("Reload the page."))
    if not policy.has_role(made.taker, tenant, "member"):
        raise WrongState(_("%(person)s is no longer in the team.") % {"person": made.taker})
    made.lease = lease
    return made
