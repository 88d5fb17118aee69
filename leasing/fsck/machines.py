"""Checks of what runs and what is left: the leases against what their hosts reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

from django.db.models import Max, Q

from hosts.models import Gpu, Host, ReceivedReport
from hosts.protocol import messages as m
from hosts.protocol.codec import MessageError, decode_report, decode_report_header
from hosts.protocol.signing import ForgedMessage, Verifier, parse_envelope
from leasing.errors import NotAllowed, NotVisible
from leasing.fsck.finding import Finding
from leasing.fsck.history import histories
from leasing.keys import stored_report_verifier
from leasing.models import ConsoleSession, Lease, OutboxMessage, Share
from leasing.policy import fetch_lease
from leasing.reports.inventory import lost_machines
from leasing.states.gpu import BOOKABLE
from leasing.states.lease import ON_HOST, LeaseState

NO_JOURNAL = UUID(int=0)


def reports_are_authentic(now: datetime) -> Iterator[Finding]:
    """Every stored report is signed by its host and was applied in the order of its journal"""
    for host in Host.objects.all():
        trusted = stored_report_verifier(host)
        replaced = {key.key_id: key.replaced_at for key in host.former_keys.all()}
        for stored in host.reports.iterator():
            problem = _flaw(stored, host, trusted) or _came_late(stored, replaced)
            if problem:
                yield Finding(f"report:{stored.pk}", problem)
        applied = host.reports.filter(journal_id=host.journal_id or NO_JOURNAL, applied_at__isnull=False)
        reached = applied.aggregate(last=Max("sequence"))["last"] or 0
        if (reached, applied.count()) != (host.applied_sequence, host.applied_sequence):
            yield Finding(f"host:{host.pk}", f"{applied.count()} reports up to {reached} were applied")


def machines_run_for_leases(now: datetime) -> Iterator[Finding]:
    """No machine runs without a lease that may have one, and no active lease lacks its machine"""
    on_host = Q(state__in=ON_HOST)
    for lease in Lease.objects.filter(~on_host, machine__in=[Lease.Machine.RUNNING, Lease.Machine.OFF]):
        yield Finding(f"lease:{lease.pk}", f"is {lease.state} and its machine is {lease.machine}")
    lost = Lease.objects.exclude(machine__in=[Lease.Machine.RUNNING, Lease.Machine.OFF])
    for lease in lost.filter(state=LeaseState.ACTIVE):
        yield Finding(f"lease:{lease.pk}", f"is active and its machine is {lease.machine}")
    for host in Host.objects.all():
        yield from _compare_inventory(host)


def nothing_is_left(now: datetime) -> Iterator[Finding]:
    """An ended lease has no machine, no access, no open console and no command under way"""
    ended = Lease.objects.filter(state=LeaseState.ENDED)
    gone = {UUID(lease_id) for lease_id, changes in histories("lease") if changes[-1].event == "gone"}
    for lease in ended.filter(host__isnull=False):
        if lease.pk not in gone or lease.machine != Lease.Machine.GONE:
            yield Finding(f"lease:{lease.pk}", "has ended without a report that its machine is gone")
    for lease in Lease.objects.filter(access__isnull=False).exclude(state=LeaseState.ACTIVE):
        yield Finding(f"lease:{lease.pk}", f"is {lease.state} and says how its machine is reached")
    for session in ConsoleSession.objects.filter(lease__in=ended, closed_at=None):
        yield Finding(f"lease:{session.lease_id}", f"console session {session.pk} is still open")
    for share in Share.objects.filter(lease__in=ended, closed_at=None):
        yield Finding(f"lease:{share.lease_id}", f"it is still shared with {share.person}")
    for message in OutboxMessage.objects.filter(lease__in=ended, answered_at=None):
        yield Finding(f"lease:{message.lease_id}", f"its command “{message.kind}” was never answered")


def machines_are_created_once(now: datetime) -> Iterator[Finding]:
    """What a command creates is created at most once"""
    orders = OutboxMessage.objects.filter(kind="provision").order_by().values_list("lease_id", flat=True)
    for lease_id, count in Counter(orders).items():
        if count > 1:
            yield Finding(f"lease:{lease_id}", f"its machine was ordered {count} times")
    for key, changes in histories("lease"):
        count = sum(change.event == "running" for change in changes)
        if count > 1:
            yield Finding(f"lease:{key}", f"its machine came up for the first time {count} times")


def old_numbers_change_nothing(now: datetime) -> Iterator[Finding]:
    """A report of an earlier tenure of a GPU caused no state change"""
    for gpu_id, changes in histories("gpu"):
        tenure = 0
        for change in changes:
            told = int(change.detail.get("tenure", tenure))
            expected = tenure + 1 if change.event == "hand-over" else tenure
            if told != expected:
                yield Finding(f"gpu:{gpu_id}", f"{change.event} of tenure {told} in tenure {tenure}")
            tenure = max(tenure, told)


def open_consoles_are_permitted(now: datetime) -> Iterator[Finding]:
    """Every console that is connected belongs to a person who may use the lease"""
    connected = ConsoleSession.objects.filter(closed_at=None).exclude(ticket_used_at=None)
    for session in connected.select_related("person"):
        try:
            fetch_lease(session.person, session.lease_id, "control")
        except (NotAllowed, NotVisible):
            yield Finding(
                f"lease:{session.lease_id}", f"{session.person} may not use the console they have open"
            )


def _compare_inventory(host: Host) -> Iterator[Finding]:
    """The host's last inventory, taken for what it was: true when it was written."""
    inventory = _last_inventory(host)
    if inventory is None:
        return
    event, occurred_at = inventory
    running = {machine.lease_id for machine in event.machines if machine.lease_id}
    over = Lease.objects.filter(state=LeaseState.ENDED, state_since__lt=occurred_at)
    known = dict(Lease.objects.filter(pk__in=running).values_list("pk", "state"))
    for machine in event.machines:
        state = known.get(machine.lease_id) if machine.lease_id else LeaseState.ACTIVE
        if state is None:
            yield Finding(f"host:{host.pk}", f"{host.name} has {machine.name}, and there is no such lease")
        elif state in (LeaseState.REQUESTED, LeaseState.SCHEDULED):
            yield Finding(f"lease:{machine.lease_id}", f"is {state}, and {host.name} has {machine.name}")
    for lease in over.filter(pk__in=running):
        yield Finding(f"lease:{lease.pk}", f"has ended, and {host.name} still has its machine")
    for lease in over.filter(pk__in=event.networks):
        yield Finding(f"lease:{lease.pk}", f"has ended, and {host.name} still has its network")
    for lease in lost_machines(host, event, at=occurred_at):
        yield Finding(f"lease:{lease.pk}", f"is active, and {host.name} does not have its machine")


def _last_inventory(host: Host) -> tuple[m.Inventory, datetime] | None:
    trusted = stored_report_verifier(host)
    reports = host.reports.filter(journal_id=host.journal_id or NO_JOURNAL).order_by("-sequence")
    for stored in reports.iterator():
        try:
            report = decode_report(trusted.open(stored.envelope))
        except (ForgedMessage, MessageError):
            continue
        if isinstance(report.event, m.Inventory):
            return report.event, report.occurred_at
    return None


def _flaw(stored: ReceivedReport, host: Host, trusted: Verifier) -> str:
    try:
        report = decode_report_header(trusted.open(stored.envelope))
    except (ForgedMessage, MessageError) as error:
        return str(error)
    if (report.host, report.journal_id, report.sequence) != (
        host.account,
        stored.journal_id,
        stored.sequence,
    ):
        return "is not the report that its columns say it is"
    return ""


def _came_late(stored: ReceivedReport, replaced: dict[str, datetime]) -> str:
    until = replaced.get(parse_envelope(stored.envelope).key_id)
    late = until is not None and stored.received_at > until
    return "was received after the key that signed it was replaced" if late else ""


def retired_hosts_are_out_of_service(now: datetime) -> Iterator[Finding]:
    """A retired host has no lease, no GPU in service, and no command under way"""
    retired = Host.objects.exclude(retired_at=None)
    for gpu in Gpu.objects.filter(host__in=retired, state__in=[*BOOKABLE]):
        yield Finding(f"gpu:{gpu.pk}", f"is {gpu.state} on a host that is retired")
    for lease in Lease.objects.filter(holds__gpu__host__in=retired).exclude(state=LeaseState.ENDED):
        yield Finding(f"lease:{lease.pk}", "is booked on a host that is retired")
    for message in OutboxMessage.objects.filter(host__in=retired, answered_at=None):
        yield Finding(f"host:{message.host_id}", f"its command “{message.kind}” is still under way")
