"""The door: who brings a token, or a host's old key, is given what it needs; others hear the same no."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils.translation import gettext_lazy as _
from nacl.exceptions import CryptoError

from hosts.models import FormerKey, Host
from hosts.protocol.codec import OLDEST, PROTOCOL, UNDERSTOOD
from hosts.protocol.enrolment import (
    EnrolmentAnswer,
    EnrolmentRequest,
    NewKeys,
    RekeyRequest,
    digest_of,
    open_enrolment,
    open_rekey,
    rekey_claims,
    sign_answer,
)
from hosts.protocol.signing import ForgedMessage, key_id, public_hex, seal, verify_key
from leasing.actors import Actor
from leasing.audit.log import record, record_sparingly
from leasing.enrolment import accounts
from leasing.errors import DomainError, NotAllowed
from leasing.fleet import inspect_host
from leasing.keys import portal_signing_key
from leasing.locking import locked
from leasing.models import EnrolmentToken

_REFUSALS = "enrolment"


class EnrolmentRefused(NotAllowed):
    """Whatever is wrong, the answer is the same; the audit log has the reason."""

    code = "enrolment-refused"

    def __init__(self) -> None:
        super().__init__(
            _("This host is not let in."),
            hint=_("Its token may be wrong, used or expired: ask an operator for a new one."),
        )


class HostTaken(DomainError):
    code = "host-exists"


class _Refusal(Exception):
    """For the audit log alone."""


def enrol(*, envelope: str, address: str, now: datetime) -> str:
    """Let in the host that brings this request; the signed answer."""
    return _answering(lambda: _enrol(envelope, address, now), envelope, address, now)


def rekey(*, envelope: str, address: str, now: datetime) -> str:
    """Give new keys to the host whose old key has signed this request; the signed answer.

    What it signed with the old key and was stored stays valid; what comes from now on is refused.
    """
    return _answering(lambda: _rekey(envelope, address, now), envelope, address, now)


def trust_host(*, actor: Actor, name: str, keys: NewKeys, simulated: bool = False, now: datetime) -> Host:
    """A new host by its public keys; it is asked what it has. HostTaken if the name or a key is known."""
    host = Host(
        name=name,
        account=_free_account(name),
        signing_key=keys.signing_key,
        key_id=key_id(verify_key(keys.signing_key)),
        sealing_key=keys.sealing_key,
        simulated=simulated,
        enrolled_at=now,
    )
    _check_new(keys.signing_key)
    with transaction.atomic():
        try:
            with transaction.atomic():
                host.save(force_insert=True)
        except IntegrityError as error:
            raise HostTaken(
                _("There is a host of this name, or with this key, already."), field="name"
            ) from error
        record(action="host.enrol", actor=actor, subject=f"host:{host.pk}", now=now, name=name)
        inspect_host(host, now=now)
    return host


def _answering(admit: Callable[[], tuple[Host, str]], envelope: str, address: str, now: datetime) -> str:
    try:
        with transaction.atomic():
            host, password = admit()
            answer = _answer(host, password, envelope)
    except (_Refusal, ForgedMessage, CryptoError) as error:
        actor = Actor("host", "unknown", address=address)
        record_sparingly(
            action="enrolment.refuse", actor=actor, subject=_REFUSALS, now=now, reason=str(error)[:500]
        )
        raise EnrolmentRefused from error
    accounts.make_account(host, now=now)
    return answer


def _enrol(envelope: str, address: str, now: datetime) -> tuple[Host, str]:
    request = open_enrolment(envelope)
    _check_protocol(request)
    tokens = EnrolmentToken.objects.filter(digest=digest_of(request.token))
    named = Q(pk__in=tokens.values("host")) | Q(pk__in=tokens.values("used_by"))
    known = Host.objects.filter(named).first()
    host = _locked_host(known) if known else None  # before its token, as everywhere
    token = locked(tokens).first()
    if token is None:
        raise _Refusal("no such token")
    _check_open(token, host, request, now=now)
    if host is None:
        actor = Actor("host", token.name, address=address)
        host = trust_host(actor=actor, name=token.name, keys=request.keys, simulated=token.simulated, now=now)
    else:
        _replace_keys(host, request.keys, address, now=now)
    token.used_at, token.used_by = now, host
    token.save(update_fields=["used_at", "used_by"])
    return host, _give_access(host, address, request, now=now)


def _check_open(
    token: EnrolmentToken, host: Host | None, request: EnrolmentRequest, *, now: datetime
) -> None:
    """A token that was used lets in none but the host that used it, with the keys that it has now."""
    if token.withdrawn_at is not None or token.expires_at <= now:
        raise _Refusal(f"the token for {token.name} is withdrawn or expired")
    if token.used_at is None:
        return
    if host is None or (host.pk, host.signing_key) != (token.used_by_id, request.keys.signing_key):
        raise _Refusal(f"the token for {token.name} was used before")


def _rekey(envelope: str, address: str, now: datetime) -> tuple[Host, str]:
    old_key_id, claimed = rekey_claims(envelope)
    known = Host.objects.filter(account=claimed.host).first()
    if known is None:
        raise _Refusal(f"there is no host {claimed.host}")
    host = _locked_host(known)
    request = open_rekey(envelope, old_public=_old_key(host, old_key_id, claimed))
    _check_protocol(request)
    _replace_keys(host, request.keys, address, now=now)
    return host, _give_access(host, address, request, now=now)


def _old_key(host: Host, old_key_id: str, claimed: RekeyRequest) -> str:
    """The host's key; or the one that these new keys have replaced, if it has not heard the answer."""
    if host.key_id == old_key_id:
        return host.signing_key
    if host.signing_key == claimed.keys.signing_key:
        former = host.former_keys.first()
        if former is not None and former.key_id == old_key_id:
            return former.signing_key
    raise _Refusal(f"{host.account} does not have the key {old_key_id[:16]} any more, or never had")


def _locked_host(host: Host) -> Host:
    row = locked(Host.objects.filter(pk=host.pk)).get()
    if row.retired_at is not None:
        raise _Refusal(f"{row.account} is retired")
    return row


def _replace_keys(host: Host, keys: NewKeys, address: str, *, now: datetime) -> None:
    """New keys for old; the same ones once more change nothing."""
    if host.signing_key == keys.signing_key and host.sealing_key == keys.sealing_key:
        return
    _check_new(keys.signing_key)
    if Host.objects.filter(signing_key=keys.signing_key).exists():
        raise _Refusal(f"another host has the key that {host.account} brings")
    FormerKey.objects.create(host=host, signing_key=host.signing_key, key_id=host.key_id, replaced_at=now)
    host.signing_key, host.sealing_key = keys.signing_key, keys.sealing_key
    host.key_id = key_id(verify_key(keys.signing_key))
    host.save(update_fields=["signing_key", "sealing_key", "key_id"])
    record(
        action="host.rekey",
        actor=Actor("host", host.name, address=address),
        subject=f"host:{host.pk}",
        now=now,
        name=host.name,
        key=host.key_id,
    )


def _check_new(signing_key: str) -> None:
    if FormerKey.objects.filter(signing_key=signing_key).exists():
        raise _Refusal("a key that was replaced is brought again")


def _give_access(host: Host, address: str, request: EnrolmentRequest | RekeyRequest, *, now: datetime) -> str:
    """A new password; the previous one stops working as soon as the broker knows this one."""
    password = accounts.new_password(host, now=now)
    host.protocol = max(OLDEST, min(request.protocol, PROTOCOL))
    host.worker_version = request.worker_version or host.worker_version
    host.save(update_fields=["broker_hash", "access_at", "account_at", "protocol", "worker_version"])
    record(
        action="host.access",
        actor=Actor("host", host.name, address=address),
        subject=f"host:{host.pk}",
        now=now,
        name=host.name,
    )
    return password


def _answer(host: Host, password: str, envelope: str) -> str:
    key = portal_signing_key()
    return sign_answer(
        EnrolmentAnswer(
            protocol=PROTOCOL,
            request=digest_of(envelope),
            host=host.account,
            control_key=public_hex(key),
            sealed_broker_url=seal(
                accounts.broker_url(host, password).encode(), to_public_hex=host.sealing_key
            ),
        ),
        key=key,
    )


def _check_protocol(request: EnrolmentRequest | RekeyRequest) -> None:
    if request.protocol not in UNDERSTOOD:
        raise _Refusal(f"it speaks protocol {request.protocol}")


def _free_account(name: str) -> str:
    """The name itself, unless a host that is retired or was renamed has it as its account."""
    taken = set(Host.objects.filter(account__startswith=name).values_list("account", flat=True))
    numbered = (f"{name[:58]}-{number}" for number in range(2, len(taken) + 3))
    return next(account for account in (name, *numbered) if account not in taken)
