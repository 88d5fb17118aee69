"""Hosts' accounts at the broker: made by the portal where it may, else by hand from the lines shown here.

The portal knows the SHA-256 of a password alone, as the broker does; with that it can make an account anew.
"""

from __future__ import annotations

import logging
import secrets
import shlex
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import UUID

from django.conf import settings
from django.utils.translation import gettext as _
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from hosts.models import Host
from hosts.protocol.broker import broker_acl, broker_user, host_keys
from hosts.protocol.enrolment import digest_of
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import DomainError
from leasing.fleet import authorise, present_host

log = logging.getLogger(__name__)

# Seconds for each answer of the broker: whoever asked for an account waits for it at a page.
PATIENCE = 5.0


class BrokerRefused(DomainError):
    """The broker did not do it; nothing was changed."""

    code = "broker-refused"


def new_password(host: Host, *, now: datetime) -> str:
    """A password for the host's account; to be saved by the caller. The account has to be made after that."""
    password = secrets.token_urlsafe(32)
    host.broker_hash, host.access_at, host.account_at = digest_of(password), now, None
    return password


def broker_url(host: Host, password: str) -> str:
    """The broker as hosts reach it, entered with the host's own account."""
    parts = urlsplit(settings.BROKER_FOR_HOSTS_URL)
    account = f"{quote(broker_user(host.account), safe='')}:{quote(password, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{account}@{parts.netloc.rpartition('@')[2]}"))


def may_administer() -> bool:
    return bool(settings.BROKER_ADMIN_URL)


def make_account(host: Host, *, now: datetime) -> bool:
    """Tell the broker of the host's account; False if the portal may not, or the broker does not answer."""
    if not may_administer() or not host.broker_hash:
        return False
    try:
        _administer(["ACL", "SETUSER", *broker_acl(host.account, host.broker_hash)])
    except RedisError as error:
        log.warning("The broker did not make an account for %s: %s", host, error)
        return False
    host.account_at = now
    host.save(update_fields=["account_at"])
    return True


def remake_account(*, actor: Actor, host_id: UUID, now: datetime) -> Host:
    """Make the account once more: the broker has forgotten it, or did not answer before."""
    authorise(actor)
    host = present_host(host_id)
    if not make_account(host, now=now):
        raise BrokerRefused(
            _("The broker did not make the account."),
            hint=_("See whether it runs, and whether LEASEHOLD_BROKER_ADMIN may administer it."),
        )
    record(action="host.account", actor=actor, subject=f"host:{host.pk}", now=now, name=host.name)
    return host


def drop_account(host: Host) -> bool:
    """Remove the account and what lies in the host's queue; False if that has to be done by hand."""
    if not may_administer():
        return False
    try:
        _administer(["ACL", "DELUSER", broker_user(host.account)], ["DEL", *host_keys(host.account)])
    except RedisError as error:
        log.warning("The broker did not remove the account of %s: %s", host, error)
        return False
    return True


def account_lines(host: Host) -> list[str]:
    """What to type at the broker where the portal may not: makes the account, or removes a retired host's."""
    if host.retired_at is not None:
        return [f"ACL DELUSER {broker_user(host.account)}", "ACL SAVE"]
    if not host.broker_hash:
        return []
    return [shlex.join(["ACL", "SETUSER", *broker_acl(host.account, host.broker_hash)]), "ACL SAVE"]


def _administer(*commands: list[str]) -> None:
    url = settings.BROKER_ADMIN_URL.replace("redis+socket://", "unix://", 1)
    with Redis.from_url(url, socket_connect_timeout=PATIENCE, socket_timeout=PATIENCE) as broker:
        for words in commands:
            broker.execute_command(" ".join(words[:2]) if words[0] == "ACL" else words[0], *_rest(words))
        _keep(broker)


def _rest(words: list[str]) -> list[str]:
    return words[2:] if words[0] == "ACL" else words[1:]


def _keep(broker: Any) -> None:
    """Write the accounts to the broker's ACL file; one without such a file keeps them until it restarts."""
    try:
        broker.execute_command("ACL SAVE")
    except ResponseError as error:
        if "ACL file" not in str(error):
            raise
