"""The host's two key pairs: one signs its reports, one opens the secrets that are sealed to it.

The private halves are born here and never leave; enrolment hands the public halves to the portal. Both lie in
one file, so that new ones take the place of old ones at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta
from nacl.encoding import HexEncoder
from nacl.public import PrivateKey
from nacl.signing import SigningKey

from hosts.protocol.enrolment import NewKeys
from hosts.protocol.signing import public_hex

PrivateHalf = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class IdentityError(Exception):
    """The host's keys are missing, or readable by others, or about to be replaced."""


class _Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file: private halves in hex."""

    signing: PrivateHalf
    sealing: PrivateHalf


@dataclass(frozen=True)
class Identity:
    """Both private keys, in memory."""

    signing: SigningKey
    sealing: PrivateKey

    def public_halves(self) -> NewKeys:
        """What the portal may know."""
        return NewKeys(signing_key=public_hex(self.signing), sealing_key=public_hex(self.sealing))


def new_identity() -> Identity:
    return Identity(SigningKey.generate(), PrivateKey.generate())


def load_identity(path: Path) -> Identity:
    """The keys at `path`, or IdentityError."""
    keys = _read(path)
    return Identity(
        SigningKey(keys.signing.encode(), HexEncoder), PrivateKey(keys.sealing.encode(), HexEncoder)
    )


def save_identity(path: Path, identity: Identity) -> None:
    """Write the keys to a file that is not there yet. IdentityError if it is."""
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    keys = _Keys(identity.signing.encode(HexEncoder).decode(), identity.sealing.encode(HexEncoder).decode())
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise IdentityError(f"{path} exists: there are keys already.") from error
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.encode(keys) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> _Keys:
    try:
        if path.stat().st_mode & 0o077:
            raise IdentityError(f"{path} is readable by others: make it private, or make new keys.")
        return msgspec.json.decode(path.read_bytes(), type=_Keys)
    except OSError as error:
        raise IdentityError(f"{path} cannot be read: {error.strerror}.") from error
    except msgspec.MsgspecError as error:
        raise IdentityError(f"{path} holds no keys: {error}.") from error
