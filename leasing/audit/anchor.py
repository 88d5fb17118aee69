"""Signed heads of the audit log, and the file outside the database that keeps them.

Whoever can rewrite the database cannot make it agree with a head that was written down elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

import msgspec
from django.conf import settings
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from hosts.protocol.signing import key_id
from leasing.keys import portal_signing_key
from leasing.models import TreeHead

CONTEXT = b"leasehold/audit-head/1\n"


class BadAnchor(ValueError):
    """A line of the anchor file is not a head."""


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`size` leaves have this root. Hashes, key id and signature in hex."""

    size: int
    root_hash: str
    signed_at: datetime
    key_id: str
    signature: str

    @classmethod
    def of_row(cls, row: TreeHead) -> Head:
        return cls(**{name: getattr(row, name) for name in cls.__struct_fields__})

    def is_signed_by(self, key: VerifyKey) -> bool:
        try:
            key.verify(_signed_text(self.size, self.root_hash, self.signed_at), bytes.fromhex(self.signature))
        except (BadSignatureError, ValueError):
            return False
        return self.key_id == key_id(key)


def sign_head(*, size: int, root_hash: str, now: datetime) -> Head:
    key = portal_signing_key()
    signature = key.sign(_signed_text(size, root_hash, now)).signature.hex()
    return Head(
        size=size, root_hash=root_hash, signed_at=now, key_id=key_id(key.verify_key), signature=signature
    )


def append_anchors(heads: Iterable[Head]) -> None:
    """Write heads down, one line of JSON each, and wait until they are on disk."""
    path: Path = settings.AUDIT_ANCHOR_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(b"".join(msgspec.json.encode(head) + b"\n" for head in heads))
        file.flush()
        os.fsync(file.fileno())


def read_anchors() -> Iterator[Head]:
    """The heads written down, oldest first; BadAnchor for a line that is none."""
    path: Path = settings.AUDIT_ANCHOR_FILE
    return read_heads(path) if path.exists() else iter(())


def read_heads(path: Path) -> Iterator[Head]:
    """The heads in a file, a line of JSON each; what a logger has put before it does not matter."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield msgspec.json.decode(line[line.find(b"{") :], type=Head)
            except msgspec.MsgspecError as error:
                raise BadAnchor(f"Line {number} of {path} is not a head: {error}") from error


def _signed_text(size: int, root_hash: str, signed_at: datetime) -> bytes:
    facts = {"root": root_hash, "signed_at": signed_at.isoformat(), "size": size}
    return CONTEXT + msgspec.json.encode(facts, order="sorted")
