"""Invitations: a link by e-mail, good once and for some days, kept as a hash."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils.translation import get_language, gettext_lazy
from django.utils.translation import gettext as _

from leasing import notices
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import InvalidRequest, NotVisible, WrongState
from leasing.locking import locked
from leasing.membership import members
from leasing.models import Invitation, Notification, Person, Tenant
from leasing.reasons import filled
from leasing.transactions import atomically

LIFETIMES = (1, 7, 30)
MOST_OPEN = 50


@atomically
def invite(
    *, actor: Actor, slug: str, email: str, roles: Collection[str], days: int, now: datetime
) -> tuple[Invitation, str]:
    """The invitation and its link, which is shown this once; it goes to the address by e-mail."""
    if actor.person is None:
        raise TypeError("only a person invites")
    tenant = locked(Tenant.objects.all()).get(pk=members.fetch_team(actor.person, slug).pk)
    wanted = members.checked_roles(roles)
    members.require_may_change(actor.person, tenant, wanted)
    email = _checked_address(email)
    if days not in LIFETIMES:
        raise InvalidRequest(_("An invitation lives for 1, 7 or 30 days."), field="days")
    if tenant.closed_at is not None:
        raise WrongState(_("The team is closed."))
    if open_invitations(tenant, now=now).count() >= MOST_OPEN:
        raise WrongState(_("There are as many invitations as can be."), hint=_("Withdraw some of them."))
    secret = secrets.token_urlsafe(32)
    made = Invitation.objects.create(
        tenant=tenant,
        email=email,
        roles=sorted(wanted),
        secret_sha256=_hashed(secret),
        invited_by=actor.person,
        invited_at=now,
        expires_at=now + timedelta(days=days),
    )
    _note("invitation.send", actor, made, now=now, roles=made.roles, expires_at=made.expires_at)
    link = f"{settings.SITE_URL}/invitations/{secret}/"
    known = Person.objects.filter(email__iexact=email, is_active=True).first()
    notices.notify_address(
        address=email,
        kind=f"invitation-{made.pk}",
        subject=filled(
            gettext_lazy("%(person)s invites you into the team %(team)s"),
            person=actor.person,
            team=tenant.name,
        ),
        body=filled(
            gettext_lazy("With this link you join it, once, and in the next %(days)d days:\n\n%(link)s"),
            days=days,
            link=link,
        ),
        language=known.language if known else get_language() or "",
        now=now,
        secret=True,
    )
    return made, link


@atomically
def withdraw_invitation(*, actor: Actor, slug: str, invitation_id: UUID, now: datetime) -> Invitation:
    """Its link lets nobody in any more."""
    if actor.person is None:
        raise TypeError("only a person withdraws an invitation")
    tenant = members.fetch_team(actor.person, slug)
    made = locked(open_invitations(tenant, now=now)).filter(pk=invitation_id).first()
    if made is None:
        raise NotVisible(_("There is no such invitation."))
    members.require_may_change(actor.person, tenant, made.roles)
    _withdraw(made, actor=actor, now=now)
    return made


def withdraw_all(tenant: Tenant, *, actor: Actor, now: datetime) -> None:
    """Of a tenant that closes."""
    for made in locked(open_invitations(tenant, now=now)):
        _withdraw(made, actor=actor, now=now)


def open_invitations(tenant: Tenant, *, now: datetime) -> QuerySet[Invitation]:
    """Those that still let somebody in."""
    unused = Invitation.objects.filter(tenant=tenant, used_at=None, withdrawn_at=None, expires_at__gt=now)
    return unused.select_related("tenant", "invited_by")


def fetch_invitation(secret: str, *, now: datetime) -> Invitation:
    """The invitation of a link. NotVisible if it was used, withdrawn, or has run out."""
    found = Invitation.objects.select_related("tenant", "invited_by").filter(
        secret_sha256=_hashed(secret), used_at=None, withdrawn_at=None, expires_at__gt=now,
        tenant__closed_at=None,
    ).first()  # fmt: skip
    if found is None:
        raise NotVisible(
            _("This invitation was used, taken back, or has run out."), hint=_("Ask for another.")
        )
    return found


@atomically
def accept_invitation(*, actor: Actor, secret: str, now: datetime) -> Tenant:
    """The person joins, in these roles besides those that they have."""
    person = actor.person
    if person is None:
        raise TypeError("only a person accepts an invitation")
    made = fetch_invitation(secret, now=now)
    tenant = locked(Tenant.objects.all()).get(pk=made.tenant_id)
    used = Invitation.objects.filter(pk=made.pk, used_at=None, withdrawn_at=None, tenant__closed_at=None)
    if not used.update(used_at=now, used_by=person):
        raise NotVisible(
            _("This invitation was used, taken back, or has run out."), hint=_("Ask for another.")
        )
    before = members.roles_in(tenant).get(person.username, set())
    members.change_roles(actor, tenant, person, before, before | members.checked_roles(made.roles), now=now)
    _note("invitation.accept", actor, made, now=now, person=person.username)
    notices.notify(
        recipient=made.invited_by,
        kind="invitation-accepted",
        subject=filled(gettext_lazy("%(person)s has joined %(team)s"), person=person, team=tenant.name),
        body=filled(gettext_lazy("Your invitation to %(email)s was accepted."), email=made.email),
        now=now,
    )
    return tenant


@atomically
def open_account(
    *, actor: Actor, secret: str, username: str, name: str, password: str, now: datetime
) -> Person:
    """An account for somebody who was invited and has none; the invitation is then still to be accepted."""
    made = fetch_invitation(secret, now=now)
    first, _space, last = " ".join(name.split())[:150].partition(" ")
    person = Person(username=username.strip(), email=made.email, first_name=first, last_name=last)
    person.timezone = made.tenant.timezone
    try:
        person.full_clean(exclude=["password"])
        validate_password(password, person)
    except ValidationError as error:
        field = next(iter(error.message_dict), "username") if hasattr(error, "error_dict") else "password"
        raise InvalidRequest(" ".join(error.messages), field=field) from None
    person.set_password(password)
    try:
        with transaction.atomic():
            person.save(force_insert=True)
    except IntegrityError:
        raise InvalidRequest(_("Somebody has this user name already."), field="username") from None
    record(
        action="person.join",
        actor=actor,
        subject=f"person:{person.pk}",
        tenant=made.tenant,
        now=now,
        person=person.username,
        invitation=str(made.pk),
    )
    return person


def _withdraw(made: Invitation, *, actor: Actor, now: datetime) -> None:
    made.withdrawn_at = now
    made.save(update_fields=["withdrawn_at"])
    unsent = Notification.objects.filter(kind=f"invitation-{made.pk}", sent_at=None)
    unsent.update(next_send_at=None, body="")
    _note("invitation.withdraw", actor, made, now=now)


def _note(action: str, actor: Actor, made: Invitation, *, now: datetime, **facts: Any) -> None:
    record(
        action=action, actor=actor, subject=f"invitation:{made.pk}", tenant=made.tenant, now=now,
        email=made.email, **facts,
    )  # fmt: skip


def _checked_address(email: str) -> str:
    email = email.strip()
    try:
        validate_email(email)
    except ValidationError:
        raise InvalidRequest(_("This is not an e-mail address."), field="email") from None
    if len(email) > 254:
        raise InvalidRequest(_("This address is too long."), field="email")
    return email


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
