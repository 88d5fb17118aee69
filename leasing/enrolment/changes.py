"""What becomes of a host that is enrolled: another name, or the end of its service."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from hosts.models import Gpu, Host
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.enrolment import accounts
from leasing.enrolment.admission import HostTaken
from leasing.enrolment.tokens import check_name
from leasing.errors import WrongState
from leasing.fleet import authorise, inspect_host, locked_host
from leasing.models import Lease, OutboxMessage
from leasing.states.gpu import GpuEvent, GpuState
from leasing.states.lease import LeaseState
from leasing.transitions import apply_gpu_event


def rename_host(*, actor: Actor, host_id: UUID, name: str, now: datetime) -> Host:
    """Call it something else. In messages and at the broker it keeps the name it was enrolled under."""
    authorise(actor)
    check_name(name)
    with transaction.atomic():
        host = locked_host(host_id)
        before, host.name = host.name, name
        try:
            with transaction.atomic():
                host.save(update_fields=["name"])
        except IntegrityError as error:
            raise HostTaken(_("There is a host of this name already."), field="name") from error
        record(
            action="host.rename", actor=actor, subject=f"host:{host.pk}", now=now, name=name, before=before
        )
    return host


def look_again(*, actor: Actor, host_id: UUID, now: datetime) -> Host:
    """Ask the host what it has, and whether it is in order."""
    authorise(actor)
    with transaction.atomic():
        host = locked_host(host_id)
        inspect_host(host, now=now)
    return host


def retire_host(*, actor: Actor, host_id: UUID, now: datetime) -> Host:
    """Let the host go for good: it is refused from now on, its account is dropped, its GPUs are withdrawn.

    Not while any lease is there or to come. What it reported stays, and so do the records of its GPUs.
    """
    authorise(actor)
    with transaction.atomic():
        host = locked_host(host_id)
        _refuse_if_booked(host)
        for gpu in host.gpus.order_by("id"):
            _withdraw(gpu, actor=actor, now=now)
        open_ones = OutboxMessage.objects.filter(host=host, answered_at=None)
        open_ones.update(answered_at=now, next_send_at=None, answer="retired")
        host.found_cards.present().update(gone_at=now)
        host.tokens.filter(used_at=None, withdrawn_at=None).update(withdrawn_at=now)
        host.retired_at, host.receipt_due = now, False
        host.save(update_fields=["retired_at", "receipt_due"])
        record(action="host.retire", actor=actor, subject=f"host:{host.pk}", now=now, name=host.name)
    if accounts.drop_account(host):
        host.broker_hash, host.account_at = "", None
        host.save(update_fields=["broker_hash", "account_at"])
    return host


def _refuse_if_booked(host: Host) -> None:
    booked = Lease.objects.filter(Q(holds__gpu__host=host) | Q(host=host)).exclude(state=LeaseState.ENDED)
    count = booked.distinct().count()
    if count:
        raise WrongState(
            ngettext(
                "%(count)d lease is on this host or booked there.",
                "%(count)d leases are on this host or booked there.",
                count,
            )
            % {"count": count},
            hint=_("Close it for maintenance, and wait until they have ended or moved."),
        )


def _withdraw(gpu: Gpu, *, actor: Actor, now: datetime) -> None:
    """Nobody uses it: whatever its host was still doing with it does not matter any more."""
    events = {
        GpuState.CLEAN: [GpuEvent.WITHDRAW],
        GpuState.DIRTY: [GpuEvent.WITHDRAW],
        GpuState.SCRUBBING: [GpuEvent.DISTRUST, GpuEvent.WITHDRAW],
    }
    for event in events.get(GpuState(gpu.state), []):
        apply_gpu_event(
            gpu_id=gpu.pk,
            event=event,
            actor=actor,
            effective_at=now,
            now=now,
            reason="Its host is retired.",
        )
