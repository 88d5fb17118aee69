"""Tokens: an operator makes one, a host uses it once, within its time."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.utils.translation import gettext as _

from hosts.models import HOST_NAME, Host
from hosts.protocol.enrolment import digest_of, token_text
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import InvalidRequest, NotVisible
from leasing.fleet import authorise, present_host
from leasing.keys import portal_signing_key
from leasing.locking import locked
from leasing.models import EnrolmentToken

LIFETIME = timedelta(hours=24)
LONGEST_LIFETIME = timedelta(days=7)


def make_token(
    *, actor: Actor, name: str, simulated: bool = False, lifetime: timedelta = LIFETIME, now: datetime
) -> tuple[EnrolmentToken, str]:
    """A token for a new host of that name, and its text, which is shown this once."""
    authorise(actor)
    check_name(name)
    if Host.objects.filter(name=name, retired_at=None).exists():
        raise InvalidRequest(
            _("There is a host of this name already."),
            hint=_("To give it new keys, make a token on its own page."),
            field="name",
        )
    return _make(EnrolmentToken(name=name, simulated=simulated), actor=actor, lifetime=lifetime, now=now)


def make_token_for(
    *, actor: Actor, host_id: UUID, lifetime: timedelta = LIFETIME, now: datetime
) -> tuple[EnrolmentToken, str]:
    """A token with which a host that is enrolled gets new keys: its old ones are lost, or known to others."""
    authorise(actor)
    host = present_host(host_id)
    token = EnrolmentToken(name=host.name, host=host, simulated=host.simulated)
    return _make(token, actor=actor, lifetime=lifetime, now=now)


def withdraw_token(*, actor: Actor, token_id: int, now: datetime) -> EnrolmentToken:
    """Nobody is let in by it any more."""
    authorise(actor)
    with transaction.atomic():
        token = locked(open_tokens(now=now)).filter(pk=token_id).first()
        if token is None:
            raise NotVisible(_("There is no such token."))
        token.withdrawn_at = now
        token.save(update_fields=["withdrawn_at"])
        record(action="enrolment.withdraw", actor=actor, subject=_subject(token), now=now, name=token.name)
    return token


def open_tokens(*, now: datetime) -> QuerySet[EnrolmentToken]:
    """Those that still let somebody in."""
    unused = EnrolmentToken.objects.filter(used_at=None, withdrawn_at=None, expires_at__gt=now)
    return unused.select_related("host", "created_by")


def _make(
    token: EnrolmentToken, *, actor: Actor, lifetime: timedelta, now: datetime
) -> tuple[EnrolmentToken, str]:
    if not timedelta(0) < lifetime <= LONGEST_LIFETIME:
        raise InvalidRequest(
            _("A token is good for an hour at least and for %(days)d days at most.")
            % {"days": LONGEST_LIFETIME.days},
            field="hours",
        )
    text = token_text(secrets.token_urlsafe(32), portal_key=portal_signing_key())
    token.digest, token.created_by = digest_of(text), actor.person
    token.created_at, token.expires_at = now, now + lifetime
    with transaction.atomic():
        token.save(force_insert=True)
        record(
            action="enrolment.token",
            actor=actor,
            subject=_subject(token),
            now=now,
            name=token.name,
            expires=token.expires_at.isoformat(),
        )
    return token, text


def _subject(token: EnrolmentToken) -> str:
    return f"host:{token.host_id}" if token.host_id else f"enrolment:{token.pk}"


def check_name(name: str) -> None:
    """InvalidRequest unless a host may be called so."""
    try:
        HOST_NAME(name)
        Host._meta.get_field("name").clean(name, None)
    except ValidationError as error:
        raise InvalidRequest(
            _("A host's name has up to 63 small letters, digits, dots and hyphens."), field="name"
        ) from error
