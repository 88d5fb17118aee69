"""Tokens for the API: made and revoked with an audit entry, stored as hashes, always with an end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.utils.translation import gettext as _
from knox.models import AuthToken

from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import InvalidRequest, NotVisible

LONGEST = timedelta(days=366)


@dataclass(frozen=True)
class NewToken:
    """`secret` is the whole token; it cannot be shown again."""

    row: AuthToken
    secret: str


@transaction.atomic
def create_token(*, actor: Actor, lifetime: timedelta, now: datetime) -> NewToken:
    """A token with which programs act as this person until it expires."""
    if not timedelta() < lifetime <= LONGEST:
        raise InvalidRequest(
            _("A token lives between one day and one year."), hint=_("Choose fewer days."), field="days"
        )
    row, secret = AuthToken.objects.create(user=actor.person, expiry=lifetime)
    record(
        action="token.create",
        actor=actor,
        subject=f"person:{_person_id(actor)}",
        now=now,
        token=row.token_key,
        expires_at=row.expiry,
    )
    return NewToken(row, secret)


@transaction.atomic
def revoke_token(*, actor: Actor, token_key: str, now: datetime) -> None:
    """End a token of this person at once."""
    deleted, _rows = AuthToken.objects.filter(user=actor.person, token_key=token_key).delete()
    if not deleted:
        raise NotVisible(_("There is no such token."))
    record(
        action="token.revoke", actor=actor, subject=f"person:{_person_id(actor)}", now=now, token=token_key
    )


def _person_id(actor: Actor) -> str:
    if actor.person is None:
        raise TypeError("only a person has tokens")
    return str(actor.person.pk)
