"""What people are told when a lease does not go as booked, and when hardware needs an operator."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.functional import Promise, lazy
from django.utils.translation import gettext_lazy as _

from hosts.models import Gpu, Host
from leasing import notices, policy
from leasing.addresses import of_lease, of_more_time, of_series
from leasing.errors import Words
from leasing.models import Closure, Lease, Notification, Person, Series, WaitlistEntry
from leasing.reasons import Reason, because, filled
from leasing.states.lease import LeaseEvent, LeaseState
from leasing.states.snapshot import SnapshotState

if TYPE_CHECKING:
    from leasing.more_time import MoreTime, Offer


def moved(lease: Lease, *, now: datetime) -> None:
    """Its GPU could not be had in time, and an equal one could."""
    body = _("Its GPU was not ready, so it has another one of the same kind. Nothing else changes.")
    _tell_owner(lease, "lease-moved", _("%(name)s has moved to an equal GPU"), body, now=now)


def made_way(lease: Lease, *, now: datetime) -> None:
    """Somebody before it stays longer, and an equal GPU is free."""
    body = _("Somebody stays longer on its GPU, so it has an equal one. Nothing else changes.")
    _tell_owner(lease, "lease-moved", _("%(name)s has moved to an equal GPU"), body, now=now)


def moved_for_maintenance(lease: Lease, closure: Closure, *, now: datetime) -> None:
    """Its GPU closes, and an equal one is free."""
    body = filled(
        _("Its GPU is closed for maintenance: %(why)s. It has an equal one instead. Nothing else changes."),
        why=closure.reason,
    )
    _tell_owner(lease, "lease-moved", _("%(name)s has moved to an equal GPU"), body, now=now)


def stays_in_maintenance(lease: Lease, closure: Closure, *, begun: bool, now: datetime) -> None:
    """Its GPU closes in its time, and it keeps it: it has begun, or no equal one is free."""
    body = filled(
        _("From %(start)s its GPU is closed for maintenance: %(why)s. It is yours until its end, not longer.")
        if begun
        else _(
            "From %(start)s its GPU is closed for maintenance: %(why)s. No equal one is free, so it starts"
            " there as booked."
        ),
        start=_local(closure.starts_at),
        why=closure.reason,
    )
    _tell_owner(lease, "lease-maintenance", _("Maintenance at the time of %(name)s"), body, now=now)


def waits_for_maintenance(lease: Lease, closure: Closure, *, now: datetime) -> None:
    """Its GPU closes, no equal one is free, and it shall wait. The caller has locked the lease."""
    _note(lease, because("waits-for-maintenance", why=closure.reason))
    _tell_owner(lease, "lease-waits", _("%(name)s has to wait"), lease.waiting_because, now=now)


def cancelled_for_maintenance(lease: Lease, *, now: datetime) -> None:
    """Its GPU closes, no equal one is free, and the operator wanted it cancelled."""
    _tell_owner(lease, "lease-cancelled", _("%(name)s is cancelled"), lease.outcome_reason, now=now)


def not_extended(lease: Lease, *, now: datetime) -> None:
    """The host has not taken over the new end."""
    body = _("Its host did not confirm the new end in time. The old end stays, and nothing more is billed.")
    _tell_owner(lease, "lease-not-extended", _("%(name)s was not extended"), body, now=now)


def local_time(moment: datetime, person: Person) -> str:
    """In a person's zone, in the active language."""
    return date_format(moment.astimezone(ZoneInfo(person.timezone)), "DATETIME_FORMAT")


_local_time = lazy(local_time, str)


def waits(lease: Lease, *, now: datetime) -> None:
    """No GPU is ready for it. The caller has locked the lease."""
    _note(lease, because("waits-for-gpu"))
    _tell_owner(lease, "lease-waits", _("%(name)s has to wait"), lease.waiting_because, now=now)


def waits_for_device(lease: Lease, *, now: datetime) -> None:
    """A device that its person has chosen is not there. The caller has locked the lease."""
    _note(lease, because("waits-for-device"))
    _tell_owner(lease, "lease-waits", _("%(name)s has to wait"), lease.waiting_because, now=now)


def waits_for_upgrade(lease: Lease, *, now: datetime) -> None:
    """The program on its host is too old for its system. The caller has locked the lease."""
    _note(lease, because("waits-for-upgrade"))
    _tell_owner(lease, "lease-waits", _("%(name)s has to wait"), lease.waiting_because, now=now)


def waits_for_home(lease: Lease, *, now: datetime) -> None:
    """Another lease still has its owner's home volume. The caller has locked the lease."""
    _note(lease, because("waits-for-home"))
    _tell_owner(lease, "lease-waits", _("%(name)s has to wait"), lease.waiting_because, now=now)


def delayed(lease: Lease, *, now: datetime) -> None:
    """The lease before it overruns. The caller has locked the lease."""
    _note(lease, because("waits-for-return"))
    _tell_owner(lease, "lease-delayed", _("%(name)s has to wait"), lease.waiting_because, now=now)


def ends_soon(lease: Lease, more: MoreTime, *, now: datetime) -> None:
    """Its end is near; how it can be kept longer, and where one click does that."""
    kept = _("Save what you need to your home volume: all else on it is destroyed at the end.")
    lost = _("Save what you need: its disk is destroyed at the end.")
    lines: list[Words | Reason] = [kept if lease.with_home else lost]
    if lease.snapshots.filter(state=SnapshotState.WANTED).exists():
        lines = [_("A snapshot of its disk is taken at the end, as you wished. Then the disk is destroyed.")]
    elif lease.host is not None and lease.host.pool_id is not None:
        lines.append(_("On the workstation’s page one click has a snapshot of its disk taken at the end."))
    if more.pending_until is not None:
        until = _local_time(more.pending_until, lease.owner)
        lines.append(filled(_("A later end waits for the host's word: %(until)s."), until=until))
    lines += [_offer_words(offer, lease.owner) for offer in more.offers]
    until = _local_time(more.limit.until, lease.owner)
    if more.limit.taken:
        lines.append(filled(_("Until %(until)s at most, then somebody else has it."), until=until))
    if more.limit.home:
        words = _("Until %(until)s at most, then another workstation has its home volume.")
        lines.append(filled(words, until=until))
    if more.why_not_longer:
        lines.append(more.why_not_longer)
    if any(not offer.outside for offer in more.offers):
        lines.append(_("One click on this page keeps it longer:"))
    subject = _("%(name)s ends soon")
    _tell_owner(lease, "lease-ends-soon", subject, _lines(lines), now=now, link=of_more_time(lease))


def looks_unused(lease: Lease, *, now: datetime) -> None:
    """Nobody has used it; when it will be given back, and where one click says otherwise."""
    given_back_at = _local_time(lease.given_back_at or now, lease.owner)
    body = filled(
        _(
            "Nobody has used it yet. Unless somebody does by %(at)s, it is given back, and the time it was "
            "held is billed. On its page one click says that you are using it."
        ),
        at=given_back_at,
    )
    _tell_owner(lease, "lease-unused", _("%(name)s looks unused"), body, now=now)


def given_back(lease: Lease, *, now: datetime) -> None:
    """Nobody used it, although its owner was warned."""
    body = _("Nobody used it. Billing has stopped; the time it was held is billed.")
    _tell_owner(lease, "lease-given-back", _("%(name)s was given back"), body, now=now)


def _offer_words(offer: Offer, person: Person) -> Words:
    text = _("%(offer)s, until %(until)s: %(price)s")
    if offer.outside:
        text = _("%(offer)s, until %(until)s: %(price)s; outside your limits")
    price = f"{offer.quote.total} {offer.quote.currency}"
    return filled(text, offer=offer.words, until=_local_time(offer.ends_at, person), price=price)


def offered(offer: Lease, *, now: datetime) -> None:
    """What its owner waited for has come free."""
    assert offer.decide_by is not None  # noqa: S101 - a constraint says so
    notices.notify(
        recipient=offer.owner,
        lease=offer,
        kind="waitlist-offer",
        subject=filled(_("%(flavor)s is free for you"), flavor=offer.flavor.name),
        body=filled(
            _("It is held for you until %(until)s. Claim it before then, or it passes to the next in line."),
            until=_local_time(offer.decide_by, offer.owner),
        ),
        now=now,
    )


def offer_passed(offer: Lease, *, now: datetime) -> None:
    """Its owner did not claim it in time."""
    _tell_of_offer(offer, _("It was not claimed in time and has passed to the next in line."), now=now)


def offer_withdrawn(offer: Lease, reason: Reason, *, now: datetime) -> None:
    """It cannot be had any more, through no fault of its owner."""
    _tell_of_offer(offer, reason, now=now)


def waits_no_more(entry: WaitlistEntry, *, now: datetime) -> None:
    """Its owner is no longer in line."""
    subject = filled(_("You are no longer in line for %(flavor)s"), flavor=entry.flavor.name)
    body = entry.outcome_reason
    notices.notify(recipient=entry.owner, kind="waitlist-end", subject=subject, body=body, now=now)


_OF_SERIES: dict[LeaseEvent, Promise] = {
    LeaseEvent.APPROVE: _("Your series of %(flavor)s is approved"),
    LeaseEvent.REJECT: _("Your series of %(flavor)s was not approved"),
    LeaseEvent.EXPIRE: _("Nobody decided on your series of %(flavor)s in time"),
}


def series_went_on(series: Series, event: LeaseEvent, count: int, *, note: str = "", now: datetime) -> None:
    """Tell its owner once of what has become of so many of its workstations."""
    notices.notify(
        recipient=series.owner,
        kind=f"series-{event}",
        subject=filled(_OF_SERIES[event], flavor=series.flavor.name),
        body=filled(
            _("%(note)s\n\nWorkstations: %(count)d. %(pattern)s, for %(tenant)s"),
            note=note or _("See its page for what happened."),
            count=count,
            pattern=series.pattern,
            tenant=series.tenant.name,
        ),
        now=now,
        link=of_series(series),
    )


def host_silent(host: Host, lease: Lease, *, now: datetime) -> None:
    """Tell the operators, once per lease, that nobody knows whether its machine is gone."""
    if Notification.objects.filter(lease=lease, kind="host-silent").exists():
        return
    for operator in policy.operators():
        notices.notify(
            recipient=operator,
            lease=lease,
            kind="host-silent",
            subject=filled(_("%(host)s does not answer"), host=host.name),
            body=_("A lease has ended, but the host has not confirmed that its machine is gone."),
            now=now,
        )


def gpu_out(gpu: Gpu, why: str, *, now: datetime) -> None:
    """Tell the operators that a GPU has left service."""
    for operator in policy.operators():
        notices.notify(
            recipient=operator,
            kind="gpu-out",
            subject=filled(_("%(gpu)s is out of service"), gpu=str(gpu)),
            body=why,
            now=now,
        )


def _tell_of_offer(offer: Lease, body: Promise | Reason, *, now: datetime) -> None:
    subject = filled(_("%(flavor)s is no longer held for you"), flavor=offer.flavor.name)
    notices.notify(
        recipient=offer.owner, lease=offer, kind="waitlist-passed", subject=subject, body=body, now=now
    )


def _said(moment: datetime) -> str:
    return date_format(timezone.localtime(moment), "DATETIME_FORMAT")


# In the zone and the language of whoever reads it.
_local = lazy(_said, str)


def _note(lease: Lease, reason: Reason) -> None:
    lease.waiting_because = reason
    lease.save(update_fields=["waiting_because"])


def _tell_owner(
    lease: Lease, kind: str, subject: Promise, body: Words | Reason, *, now: datetime, link: str = ""
) -> None:
    if lease.state == LeaseState.OFFERED:
        return  # It is not theirs yet, and stays what it was offered as.
    notices.notify(
        recipient=lease.owner,
        lease=lease,
        kind=kind,
        subject=filled(subject, name=lease.machine_name),
        body=body,
        now=now,
        link=link or of_lease(lease),
    )


def _joined(lines: Sequence[Words | Reason]) -> str:
    return "\n".join(map(str, lines))


_lines = lazy(_joined, str)
