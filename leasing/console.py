"""Console sessions: a one-time ticket for the browser, a one-time token for the host."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.utils.translation import gettext as _

from hosts.protocol.messages import OpenConsole
from hosts.protocol.signing import seal
from leasing import goals, policy
from leasing.actors import SYSTEM, Actor
from leasing.audit.log import record
from leasing.errors import NotAllowed, NotVisible, WrongState
from leasing.locking import locked
from leasing.models import ConsoleSession, Lease, Person
from leasing.outbox import queue_command
from leasing.signs_of_use import note_use
from leasing.states.lease import LeaseState
from leasing.timing import TICKET_LIFETIME
from leasing.transactions import atomically


@dataclass(frozen=True)
class OpenedConsole:
    """What the browser needs. The ticket is shown once and stored only as a hash."""

    session_id: UUID
    ticket: str


@atomically
def open_console(*, actor: Actor, lease_id: UUID, session_key: str, now: datetime) -> OpenedConsole:
    """Admit this browser session to the machine's console and tell the host to dial the gateway."""
    if actor.person is None:
        raise TypeError("only a person opens a console")
    policy.fetch_lease(actor.person, lease_id, "control")
    lease = locked(Lease.objects.select_related("host", "tenant")).get(pk=lease_id)
    if lease.state != LeaseState.ACTIVE or lease.machine != Lease.Machine.RUNNING or lease.host is None:
        raise WrongState(_("There is no picture: the machine is not running."), hint=_("Power it on first."))
    ticket, token = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    session = ConsoleSession.objects.create(
        lease=lease,
        person=actor.person,
        session_key=digest(session_key),
        ticket_sha256=digest(ticket),
        token_sha256=digest(token),
        created_at=now,
        expires_at=now + TICKET_LIFETIME,
    )
    _tell_host(lease, session, token, now=now)
    note_use(lease, now=now)
    record(
        action="console.open",
        actor=actor,
        subject=goals.lease_subject(lease),
        tenant=lease.tenant,
        now=now,
        session=str(session.pk),
    )
    return OpenedConsole(session.pk, ticket)


def admit_browser(*, ticket: str, session_key: str, now: datetime) -> ConsoleSession | None:
    """The session that the ticket opens, once, for the browser that asked for it."""
    sessions = ConsoleSession.objects.filter(
        ticket_sha256=digest(ticket),
        session_key=digest(session_key),
        expires_at__gt=now,
        closed_at__isnull=True,
    )
    with transaction.atomic():
        if not sessions.filter(ticket_used_at__isnull=True).update(ticket_used_at=now):
            return None
        session = sessions.select_related("person", "lease__tenant").get()
        _record("console.connect", Actor.of_person(session.person), session, now=now)
    return session


def admit_host(*, session_id: UUID, token: str, now: datetime) -> ConsoleSession | None:
    """The session that the host's token opens, once."""
    sessions = ConsoleSession.objects.filter(
        pk=session_id, token_sha256=digest(token), expires_at__gt=now, closed_at__isnull=True
    )
    if not sessions.filter(token_used_at__isnull=True).update(token_used_at=now):
        return None
    return sessions.first()


def still_admitted(session_id: UUID) -> bool:
    """Whether an open console may stay open: the lease runs and the person may still use it."""
    session = (
        ConsoleSession.objects.select_related("person", "lease")
        .filter(pk=session_id, closed_at__isnull=True, lease__state=LeaseState.ACTIVE)
        .first()
    )
    if session is None or not session.person.is_active:
        return False
    try:
        policy.fetch_lease(session.person, session.lease_id, "control")
    except (NotVisible, NotAllowed):
        return False
    return True


def close_console(*, session_id: UUID, now: datetime) -> None:
    """Whichever side has gone, or if it may not stay open."""
    _close(ConsoleSession.objects.filter(pk=session_id), now=now)


def close_consoles(lease: Lease, *, now: datetime) -> None:
    """All of a lease that has stopped."""
    _close(lease.console_sessions.all(), now=now)


def close_consoles_of(lease: Lease, person: Person, *, now: datetime) -> None:
    """Those of somebody who may no longer use it."""
    _close(lease.console_sessions.filter(person=person), now=now)


@atomically
def _close(sessions: QuerySet[ConsoleSession], *, now: datetime) -> None:
    still_open = sessions.filter(closed_at__isnull=True).select_related("person", "lease__tenant")
    for session in locked(still_open):
        session.closed_at = now
        session.save(update_fields=["closed_at"])
        used = session.ticket_used_at
        seen = (now - used).total_seconds() if used else 0
        _record("console.close", SYSTEM, session, now=now, seconds=round(seen))


def _record(action: str, actor: Actor, session: ConsoleSession, *, now: datetime, **facts: Any) -> None:
    record(
        action=action,
        actor=actor,
        subject=f"lease:{session.lease_id}",
        tenant=session.lease.tenant,
        behalf=session.person,
        now=now,
        session=str(session.pk),
        **facts,
    )


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _tell_host(lease: Lease, session: ConsoleSession, token: str, *, now: datetime) -> None:
    assert lease.host is not None  # noqa: S101 - checked by the caller
    goal = OpenConsole(
        lease_id=lease.pk,
        session_id=session.pk,
        gateway_url=f"{settings.GATEWAY_URL}host-console/{session.pk}/",
        sealed_token=seal(token.encode(), to_public_hex=lease.host.sealing_key),
    )
    queue_command(
        host=lease.host,
        lease=lease,
        subject=goals.lease_subject(lease),
        generation=lease.generation,
        goal=goal,
        now=now,
        deadline=TICKET_LIFETIME,
    )
