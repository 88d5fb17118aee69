"""What people are told when a lease does not go as booked, and when hardware needs an operator."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from django.utils.formats import date_format
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from hosts.models import Gpu, Host
from leasing import notices, policy
from leasing.models import Lease, Notification, Person
from leasing.reasons import Reason, because, filled


def moved(lease: Lease, *, now: datetime) -> None:
    """Its GPU could not be had in time, and an equal one could."""
    body = _("Its GPU was not ready, so it has another one of the same kind. Nothing else changes.")
    _tell_owner(lease, "lease-moved", _("%(name)s has moved to an equal GPU"), body, now=now)


def made_way(lease: Lease, *, now: datetime) -> None:
    """Somebody before it stays longer, and an equal GPU is free."""
    body = _("Somebody stays longer on its GPU, so it has an equal one. Nothing else changes.")
    _tell_owner(lease, "lease-moved", _("%(name)s has moved to an equal GPU"), body, now=now)


def not_extended(lease: Lease, *, now: datetime) -> None:
    """The host has not taken over the new end."""
    body = _("Its host did not confirm the new end in time. The old end stays, and nothing more is billed.")
    _tell_owner(lease, "lease-not-extended", _("%(name)s was not extended"), body, now=now)


def local_time(moment: datetime, person: Person) -> str:
    """In a person's zone, in the active language."""
    return date_format(moment.astimezone(ZoneInfo(person.timezone)), "DATETIME_FORMAT")


def waits(lease: Lease, *, now: datetime) -> None:
    """No GPU is ready for it. The caller has locked the lease."""
    _note(lease, because("waits-for-gpu"))
    _tell_owner(lease, "lease-waits", _("%(name)s has to wait"), lease.waiting_because, now=now)


def delayed(lease: Lease, *, now: datetime) -> None:
    """The lease before it overruns. The caller has locked the lease."""
    _note(lease, because("waits-for-return"))
    _tell_owner(lease, "lease-delayed", _("%(name)s has to wait"), lease.waiting_because, now=now)


def ends_soon(lease: Lease, *, now: datetime) -> None:
    """Its end is near."""
    body = _("Save what you need: its disk is destroyed at the end. On its page you can change the end.")
    _tell_owner(lease, "lease-ends-soon", _("%(name)s ends soon"), body, now=now)


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


def _note(lease: Lease, reason: Reason) -> None:
    lease.waiting_because = reason
    lease.save(update_fields=["waiting_because"])


def _tell_owner(lease: Lease, kind: str, subject: Promise, body: Promise | Reason, *, now: datetime) -> None:
    notices.notify(
        recipient=lease.owner,
        lease=lease,
        kind=kind,
        subject=filled(subject, name=lease.machine_name),
        body=body,
        now=now,
    )
