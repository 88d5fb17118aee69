"""How this host is let in, and how it changes its keys: each step may be run again after any crash.

New keys are written first, then the portal is asked, then the reports that wait are signed anew, then what
the portal told is written, and last the new keys take the place of the old ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hosts.agent.config import Enrolment, Settings, load_enrolment, write_enrolment
from hosts.agent.identity import Identity, load_identity, new_identity, save_identity
from hosts.agent.inventory import worker_version
from hosts.agent.journal import Journal
from hosts.agent.portal_client import Declined, NotAsked, PortalError, post
from hosts.agent.spool import resign_reports
from hosts.protocol.codec import PROTOCOL
from hosts.protocol.enrolment import (
    ENROLMENT_PATH,
    REKEY_PATH,
    EnrolmentAnswer,
    EnrolmentRequest,
    RekeyRequest,
    open_answer,
    portal_key_id,
    sign_enrolment,
    sign_rekey,
)
from hosts.protocol.signing import REPORT, ForgedMessage, Signer, key_id, unseal, verify_key


@dataclass(frozen=True)
class Portal:
    """Where it is, and whose word on certificates counts if not this system's."""

    url: str
    ca_file: str = ""


def enrol(settings: Settings, portal: Portal, token: str) -> Enrolment:
    """Be let in with a token. PortalError says why it did not come to that."""

    def sign(identity: Identity) -> str:
        keys, version = identity.public_halves(), worker_version()
        request = EnrolmentRequest(protocol=PROTOCOL, token=token, keys=keys, worker_version=version)
        return sign_enrolment(request, key=identity.signing)

    with _journal(settings) as journal:
        identity, answer = _ask(settings, portal, ENROLMENT_PATH, portal_key_id(token), sign)
        return _take_over(settings, portal, identity, answer, journal)


def rekey(settings: Settings) -> Enrolment:
    """Have the old keys sign new ones. PortalError says why it did not come to that."""
    known = load_enrolment(settings.enrolment_path)
    portal = Portal(known.portal, known.ca_file)
    old = load_identity(settings.identity_path)
    trusted = key_id(verify_key(known.control_keys[0]))

    def sign(identity: Identity) -> str:
        keys, version = identity.public_halves(), worker_version()
        request = RekeyRequest(protocol=PROTOCOL, host=known.host, keys=keys, worker_version=version)
        return sign_rekey(request, new=identity.signing, old=old.signing)

    with _journal(settings) as journal:
        identity, answer = _ask(settings, portal, REKEY_PATH, trusted, sign)
        return _take_over(settings, portal, identity, answer, journal)


@contextmanager
def _journal(settings: Settings) -> Iterator[Journal | None]:
    """Held, so that no worker runs meanwhile; None before the first one has run. JournalError if one does."""
    if not settings.journal_path.exists():
        yield None
        return
    journal = Journal(settings.journal_path)
    try:
        yield journal
    finally:
        journal.close()


def _ask(
    settings: Settings, portal: Portal, path: str, trusted: str, sign: Callable[[Identity], str]
) -> tuple[Identity, EnrolmentAnswer]:
    """New keys, and the answer to the request that `sign` makes of them.

    Keys of an attempt that was cut short are used again: the portal may know them. They are forgotten when it
    is certain that it does not.
    """
    keys = settings.next_identity_path
    are_new = not keys.exists()
    if are_new:
        save_identity(keys, new_identity())
    identity = load_identity(keys)
    envelope = sign(identity)
    try:
        answer = post(portal.url, path, {"envelope": envelope}, ca_file=portal.ca_file)
        told = open_answer(str(answer.get("envelope", "")), request=envelope, trusted_key_id=trusted)
    except (Declined, NotAsked) as error:
        if are_new or isinstance(error, Declined):
            keys.unlink()
        raise
    except ForgedMessage as error:
        raise PortalError(
            f"{portal.url} gave an answer that cannot be trusted: {error}",
            "Is this the portal that made the token?",
        ) from error
    return identity, told


def _take_over(
    settings: Settings, portal: Portal, identity: Identity, answer: EnrolmentAnswer, journal: Journal | None
) -> Enrolment:
    if journal is not None:
        with journal.transaction():
            _check_owner(journal, settings, answer.host)
            resign_reports(journal, Signer(identity.signing, REPORT))
    enrolment = Enrolment(
        host=answer.host,
        portal=portal.url,
        ca_file=portal.ca_file,
        broker_url=unseal(answer.sealed_broker_url, key=identity.sealing).decode(),
        control_keys=(answer.control_key,),
    )
    write_enrolment(settings.enrolment_path, enrolment)
    settings.next_identity_path.replace(settings.identity_path)
    return enrolment


def _check_owner(journal: Journal, settings: Settings, host: str) -> None:
    """What another host has in writing is not ours to report."""
    owner = journal.recall("host")
    if owner not in (None, host):
        raise PortalError(
            f"The journal in {settings.journal_path} is that of {owner}; the portal calls this host {host}.",
            "Once no machine of it is left here, move the journal away; then run this again.",
        )
