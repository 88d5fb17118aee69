"""Letting a host in: its public keys are trusted, and its broker account reaches its own queue alone."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from hosts.models import Host
from hosts.protocol.broker import broker_acl, broker_user
from hosts.protocol.signing import public_hex
from leasing import fleet
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import DomainError
from leasing.keys import portal_signing_key


class BrokerRefused(DomainError):
    """The broker did not make the account; nothing was changed."""

    code = "broker-refused"


@dataclass(frozen=True)
class HostAccess:
    """What the host's configuration needs. The password is shown once; the broker keeps only its hash."""

    broker_user: str
    broker_password: str
    control_key: str


def enrol_host(
    *, actor: Actor, name: str, signing_key: str, sealing_key: str, simulated: bool, now: datetime
) -> tuple[Host, HostAccess]:
    """Trust a new host and give it access."""
    host = fleet.enrol_host(
        actor=actor, name=name, signing_key=signing_key, sealing_key=sealing_key, simulated=simulated, now=now
    )
    return host, grant_access(actor=actor, host=host, now=now)


def grant_access(*, actor: Actor, host: Host, now: datetime) -> HostAccess:
    """Give the host a new password for its broker account; the previous one no longer works."""
    fleet.authorise(actor)
    password = secrets.token_urlsafe(32)
    rules = broker_acl(host.name, hashlib.sha256(password.encode()).hexdigest())
    try:
        with Redis.from_url(_redis_url(settings.BROKER_URL)) as broker:
            broker.execute_command("ACL SETUSER", *rules)
            _keep(broker)
    except RedisError as error:
        raise BrokerRefused(f"The broker did not make an account for {host.name}: {error}") from error
    record(action="host.access", actor=actor, subject=f"host:{host.pk}", now=now, name=host.name)
    return HostAccess(broker_user(host.name), password, public_hex(portal_signing_key()))


def _keep(broker: Any) -> None:
    """Write the accounts to the broker's ACL file; one without such a file keeps them until it restarts."""
    try:
        broker.execute_command("ACL SAVE")
    except ResponseError as error:
        if "ACL file" not in str(error):
            raise


def _redis_url(url: str) -> str:
    """The same broker as Redis' own client names it."""
    return url.replace("redis+socket://", "unix://", 1)
