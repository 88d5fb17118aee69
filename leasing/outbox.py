"""Commands to hosts: queued in the transaction that wants them, signed and sent afterwards until answered."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import sha256
from uuid import uuid4

import msgspec
from django.conf import settings
from django.db import transaction
from kombu.exceptions import OperationalError

from hosts.models import Host
from hosts.protocol import messages
from hosts.protocol.codec import PROTOCOL, encode, encode_goal
from hosts.protocol.signing import COMMAND, Signer
from leasing.actors import SYSTEM
from leasing.audit.log import record
from leasing.keys import portal_signing_key
from leasing.models import Lease, OutboxMessage
from leasing.wake import wake_control

log = logging.getLogger(__name__)

Send = Callable[[Host, str], None]
_LONGEST_RESEND = timedelta(minutes=2)
_BATCH = 200


def queue_command(
    *,
    host: Host,
    subject: str,
    generation: int,
    goal: messages.Goal,
    now: datetime,
    lease: Lease | None = None,
    deadline: timedelta | None = None,
) -> OutboxMessage:
    """Put a goal into the outbox; it supersedes what its subject was told before.

    A goal of the same generation (a console on a running machine) supersedes nothing.
    """
    OutboxMessage.objects.filter(subject=subject, generation__lt=generation, answered_at__isnull=True).update(
        next_send_at=None, answered_at=now, answer="superseded"
    )
    message = OutboxMessage.objects.create(
        host=host,
        lease=lease,
        subject=subject,
        generation=generation,
        kind=str(goal.__struct_config__.tag),
        goal=encode_goal(goal).decode(),
        created_at=now,
        next_send_at=now,
        deadline_at=now + deadline if deadline else None,
    )
    record(
        action="command.queue",
        actor=SYSTEM,
        subject=f"command:{message.command_id}",
        tenant=lease.tenant if lease else None,
        now=now,
        about=subject,
        kind=message.kind,
        generation=generation,
        host=host.name,
        goal_sha256=sha256(message.goal.encode()).hexdigest(),
    )
    transaction.on_commit(wake_control)
    return message


def supersede_updates(lease: Lease, *, now: datetime) -> None:
    """Send no earlier end any more: the queue keeps what was sent in its order."""
    waiting = OutboxMessage.objects.filter(lease=lease, kind="update", answered_at__isnull=True)
    waiting.update(next_send_at=None, answered_at=now, answer="superseded")


def send_due(*, send: Send, now: datetime) -> int:
    """Send every message whose time has come. Returns how many were handed to the broker."""
    sent = 0
    for message in claim_due(now=now):
        envelope = sign_command(message, now=now)
        try:
            send(message.host, envelope)
        except (OperationalError, OSError) as error:
            # Each attempt may wait for the broker; what is left is due again after its pause.
            log.warning("The broker did not take %s: %s", message, error)
            break
        sent += 1
    return sent


def claim_due(*, now: datetime) -> list[OutboxMessage]:
    """Messages to send now, with their next sending already noted: a crash repeats one, never loses it."""
    with transaction.atomic():
        due = list(
            OutboxMessage.objects.select_for_update(skip_locked=True, of=("self",))
            .select_related("host")
            .filter(next_send_at__lte=now)[:_BATCH]
        )
        for message in due:
            message.attempts += 1
            message.next_send_at = now + _pause(message.attempts)
        OutboxMessage.objects.bulk_update(due, ["attempts", "next_send_at"])
    return due


def sign_command(message: OutboxMessage, *, now: datetime) -> str:
    """The envelope of one sending; it expires when the next sending is due."""
    return _sign(
        messages.Command(
            protocol=_spoken_with(message.host),
            command_id=message.command_id,
            host=message.host.account,
            subject=message.subject,
            generation=message.generation,
            issued_at=now,
            expires_at=message.next_send_at or now + _pause(1),
            goal=msgspec.json.decode(message.goal, type=messages.Goal),
            journal_id=message.host.journal_id,
        )
    )


def send_receipts(*, send: Send, now: datetime) -> None:
    """Tell hosts which reports are stored, so that they can forget them."""
    due = Host.objects.filter(receipt_due=True, journal_id__isnull=False)
    for pk in list(due.values_list("pk", flat=True)):
        # Asked for again by whatever is received from here on.
        Host.objects.filter(pk=pk).update(receipt_due=False)
        host = Host.objects.get(pk=pk)
        send(host, sign_receipt(host, now=now))


def sign_receipt(host: Host, *, now: datetime) -> str:
    """Tells a host what it may forget. Not kept: the host asks again by sending its reports again."""
    if host.journal_id is None:
        raise ValueError("a host without a journal has sent nothing")
    return _sign(
        messages.Command(
            protocol=_spoken_with(host),
            command_id=uuid4(),
            host=host.account,
            subject=f"host:{host.account}",
            generation=0,
            issued_at=now,
            expires_at=now + _pause(1),
            goal=messages.Receipt(journal_id=host.journal_id, through=host.applied_sequence),
        )
    )


def _sign(command: messages.Command) -> str:
    return Signer(portal_signing_key(), COMMAND).sign(encode(command))


def _spoken_with(host: Host) -> int:
    return min(PROTOCOL, host.protocol)


def mark_accepted(message: OutboxMessage, *, now: datetime) -> None:
    """The host has journalled it: no more sending, the answer is awaited."""
    if message.accepted_at is None:
        message.accepted_at = now
        message.next_send_at = None
        message.save(update_fields=["accepted_at", "next_send_at"])


def send_anew(message: OutboxMessage, *, now: datetime) -> None:
    """As if it had not been sent yet."""
    message.attempts, message.next_send_at = 0, now
    message.save(update_fields=["attempts", "next_send_at"])


def mark_answered(message: OutboxMessage, *, answer: str, now: datetime) -> None:
    if message.answered_at is None:
        message.answered_at = now
        message.next_send_at = None
        message.answer = answer[:2000]
        message.save(update_fields=["answered_at", "next_send_at", "answer"])


def answer_goal(*, subject: str, generation: int, kinds: tuple[str, ...], answer: str, now: datetime) -> None:
    """Mark what a subject was told as answered, whichever sending the host reacted to."""
    for message in OutboxMessage.objects.filter(
        subject=subject, generation=generation, kind__in=kinds, answered_at__isnull=True
    ):
        mark_answered(message, answer=answer, now=now)


def close_commands(lease: Lease, *, answer: str, now: datetime) -> None:
    """The lease's machine is gone: whatever its host was still to do about it is settled."""
    open_ones = OutboxMessage.objects.filter(lease=lease, answered_at__isnull=True)
    open_ones.update(answered_at=now, next_send_at=None, answer=answer)


def resend_unfinished(host: Host, *, now: datetime) -> int:
    """The host lost its journal: tell it again everything that it had accepted but not answered."""
    unfinished = OutboxMessage.objects.filter(host=host, accepted_at__isnull=False, answered_at__isnull=True)
    return unfinished.update(accepted_at=None, next_send_at=now)


def _pause(attempts: int) -> timedelta:
    first = timedelta(seconds=settings.RESEND_SECONDS)
    doublings: int = min(max(attempts - 1, 0), 6)
    return min(first * (1 << doublings), max(first, _LONGEST_RESEND))
