"""The host's two key pairs: one signs its reports, one opens the secrets that are sealed to it.

The private halves are born here and never leave; enrolment hands the public halves to the portal.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from nacl.encoding import HexEncoder
from nacl.public import PrivateKey
from nacl.signing import SigningKey

from hosts.protocol.signing import public_hex

SIGNING_FILE = "signing.key"
SEALING_FILE = "sealing.key"


class IdentityError(Exception):
    """The host's keys are missing, already there, or readable by others."""


@dataclass(frozen=True)
class Identity:
    """Both private keys, in memory."""

    signing: SigningKey
    sealing: PrivateKey

    def public_halves(self) -> dict[str, str]:
        """What the portal may know, in hex."""
        return {"signing_key": public_hex(self.signing), "sealing_key": public_hex(self.sealing)}


def create_identity(directory: Path) -> Identity:
    """New keys in `directory`. IdentityError if there are keys already: replacing them is a decision."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    identity = Identity(SigningKey.generate(), PrivateKey.generate())
    _write(directory / SIGNING_FILE, identity.signing.encode(HexEncoder))
    _write(directory / SEALING_FILE, identity.sealing.encode(HexEncoder))
    return identity


def load_identity(directory: Path) -> Identity:
    """The keys in `directory`, or IdentityError."""
    signing = SigningKey(_read(directory / SIGNING_FILE), HexEncoder)
    return Identity(signing, PrivateKey(_read(directory / SEALING_FILE), HexEncoder))


def _write(path: Path, text: bytes) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise IdentityError(f"{path} exists: this host has keys already.") from error
    with os.fdopen(handle, "wb") as file:
        file.write(text + b"\n")


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_mode & 0o077:
            raise IdentityError(f"{path} is readable by others: make it private, or make new keys.")
        return path.read_bytes().strip()
    except OSError as error:
        raise IdentityError(f"{path} cannot be read: run `leasehold-host init` first.") from error
