"""What hosts say of machines that run: who answers inside, and whether anybody uses them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from hosts.models import Host
from hosts.protocol import messages as m
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.models import Guest, Lease
from leasing.reports.subjects import NotTheirs, lease_of


def take_guests(host: Host, told: Iterable[m.GuestFacts], *, at: datetime, now: datetime) -> str:
    """Note what the host has seen `at` its own time. Machines that run no more are left out."""
    facts = {each.lease_id: each for each in told}
    theirs = Lease.objects.filter(pk__in=facts, host=host).select_related("guest").order_by("pk")
    if len(theirs) < len(facts):
        raise NotTheirs(f"{host.name} told of leases that it does not have")
    leases = [lease for lease in theirs if lease.machine == Lease.Machine.RUNNING]
    for lease in leases:
        _note(getattr(lease, "guest", None) or Guest(lease=lease), facts[lease.pk], at=min(at, now))
        _note_use(lease, facts[lease.pk], at=min(at, now))
    return "applied" if len(leases) == len(facts) else f"applied to {len(leases)} of {len(facts)}"


def _note_use(lease: Lease, facts: m.GuestFacts, *, at: datetime) -> None:
    """Its owner is not warned any more."""
    if facts.used_at is not None and lease.first_used_at is None:
        used_at = min(facts.used_at, at)
        unused = Lease.objects.filter(pk=lease.pk, first_used_at=None)
        unused.update(first_used_at=used_at, last_used_at=used_at)


def record_errors(host: Host, event: m.GuestErrors, *, at: datetime, now: datetime) -> str:
    """Errors of GPUs in the guest's words: for the lease's history, and the GPU's if it is clear which."""
    lease = lease_of(host, event.lease_id)
    gpus = set(lease.holds.values_list("gpu", flat=True))
    for error in event.errors:
        subjects = [f"lease:{lease.pk}"] + ([f"gpu:{error.gpu_id}"] if error.gpu_id in gpus else [])
        for subject in subjects:
            record(
                action="gpu.guest-error",
                actor=Actor.of_host(host),
                subject=subject,
                tenant=lease.tenant,
                effective_at=min(at, now),
                now=now,
                reason=f"Xid {error.code}: {error.text}",
                lease=str(lease.pk),
            )
    return "applied"


def forget_answers(lease: Lease) -> None:
    """Its machine has just been started: whoever answered before has yet to answer again."""
    Guest.objects.filter(lease=lease).update(answers="none", answered_at=None)


def _note(guest: Guest, facts: m.GuestFacts, *, at: datetime) -> None:
    if facts.answers == "none":
        guest.answered_at = None
    elif guest.answers == "none":
        guest.answered_at = at
    guest.answers, guest.told_at = facts.answers, at
    guest.hostname, guest.system, guest.addresses = facts.hostname, facts.system, list(facts.addresses)
    guest.use, guest.used_at = facts.use, facts.used_at
    guest.save()
