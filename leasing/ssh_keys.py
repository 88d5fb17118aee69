"""A person's SSH keys: read strictly, kept by the person, given to their workstations at the start."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from django.db import transaction
from django.utils.translation import gettext as _

from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import InvalidRequest, NotVisible, WrongState
from leasing.locking import locked
from leasing.models import Person, SshKey

MOST_KEYS = 20
LONGEST_NAME = 60
LONGEST_KEY = 1500
# As OpenSSH's own minimum, twice over; the upper end is that of LONGEST_KEY.
SMALLEST_RSA_BITS = 2048
KINDS = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)


@dataclass(frozen=True)
class PublicKey:
    """`text` is `type base64` without a comment; the fingerprint is written as `ssh-keygen -l` writes it."""

    text: str
    fingerprint: str
    comment: str


def read_public_key(line: str) -> PublicKey:
    """One line of a `.pub` file. InvalidRequest for all else: private keys, options, certificates, DSA."""
    if "PRIVATE KEY" in line:
        raise _wrong(
            _("This is the private key. It belongs to nobody but you, and was not kept."),
            hint=_("Paste the file that ends in .pub, and make a new pair if others may have seen this one."),
        )
    kind, _space, rest = line.strip().partition(" ")
    body, _space, comment = rest.strip().partition(" ")
    if len(body) > LONGEST_KEY - max(map(len, KINDS)) or kind not in KINDS or "\n" in line.strip():
        raise _wrong(_("This is not an SSH public key that workstations understand."), hint=_how())
    blob = _blob(kind, body)
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return PublicKey(f"{kind} {base64.b64encode(blob).decode()}", f"SHA256:{digest}", comment.strip())


def _blob(kind: str, body: str) -> bytes:
    """The key's bytes, if they are a key of that kind."""
    try:
        blob = base64.b64decode(body, validate=True)
        key = load_ssh_public_key(f"{kind} {body}".encode())
    except (ValueError, binascii.Error, UnsupportedAlgorithm) as error:
        raise _wrong(_("This SSH key is damaged or was cut short."), hint=_how()) from error
    if isinstance(key, RSAPublicKey) and key.key_size < SMALLEST_RSA_BITS:
        raise _wrong(
            _("This RSA key is too short to be safe."), hint=_("Make one with `ssh-keygen -t ed25519`.")
        )
    return blob


@transaction.atomic
def add_ssh_key(*, actor: Actor, line: str, name: str = "", now: datetime) -> SshKey:
    """Keep a key of this person. Without a name it is called by its comment."""
    person = _person(actor)
    key = read_public_key(line)
    name = " ".join((name or key.comment or key.text.partition(" ")[0]).split())
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise InvalidRequest(_("Give it a name of at most 60 characters."), field="name")
    locked(Person.objects.all()).get(pk=person.pk)
    kept = SshKey.objects.filter(person=person)
    if kept.filter(fingerprint=key.fingerprint).exists():
        raise WrongState(_("You have added this SSH key already."))
    if kept.count() >= MOST_KEYS:
        raise WrongState(
            _("You have %(count)d SSH keys already.") % {"count": MOST_KEYS},
            hint=_("Remove one that you do not use."),
        )
    row = SshKey.objects.create(
        person=person, name=name, text=key.text, fingerprint=key.fingerprint, created_at=now
    )
    _record("ssh-key.add", actor, row, now=now)
    return row


@transaction.atomic
def remove_ssh_key(*, actor: Actor, key_id: UUID, now: datetime) -> None:
    """Workstations that start from now on do not know it; those that run still do."""
    row = locked(SshKey.objects.filter(person=_person(actor), pk=key_id)).first()
    if row is None:
        raise NotVisible(_("There is no such SSH key."))
    _record("ssh-key.remove", actor, row, now=now)
    row.delete()


def _record(action: str, actor: Actor, row: SshKey, *, now: datetime) -> None:
    facts: dict[str, Any] = {"key": str(row.pk), "name": row.name, "fingerprint": row.fingerprint}
    record(action=action, actor=actor, subject=f"person:{row.person_id}", now=now, **facts)


def _how() -> str:
    return _("Paste the one line of a file such as ~/.ssh/id_ed25519.pub.")


def _wrong(message: str, *, hint: str) -> InvalidRequest:
    return InvalidRequest(message, hint=hint, field="key")


def _person(actor: Actor) -> Person:
    if actor.person is None:
        raise TypeError("only a person has SSH keys")
    return actor.person
