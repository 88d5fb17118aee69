"""Ed25519 signatures over exact bytes, and secrets sealed to one host.

An envelope is the signed text plus the id of the key; commands and reports are signed under different
contexts, so neither can be passed off as the other.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from nacl.encoding import HexEncoder
from nacl.exceptions import BadSignatureError, CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox
from nacl.signing import SigningKey, VerifyKey

from hosts.protocol.fields import MAX_MESSAGE_BYTES

COMMAND = b"leasehold/command/1\n"
REPORT = b"leasehold/report/1\n"
# Base64 and the JSON around it grow the signed text by less than half.
MAX_ENVELOPE_BYTES = MAX_MESSAGE_BYTES * 3 // 2


class ForgedMessage(ValueError):
    """The envelope is malformed, of an unknown key, or its signature does not match."""


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`body` and `signature` are base64."""

    key_id: str
    body: str
    signature: str


@dataclass(frozen=True)
class Signer:
    """Signs bodies in one context."""

    key: SigningKey
    context: bytes

    @property
    def key_id(self) -> str:
        return key_id(self.key.verify_key)

    def sign(self, body: bytes) -> str:
        """The envelope's JSON text."""
        signature = self.key.sign(self.context + body).signature
        envelope = Envelope(self.key_id, _b64(body), _b64(signature))
        return msgspec.json.encode(envelope).decode()


@dataclass(frozen=True)
class Verifier:
    """Opens envelopes signed in one context by one of the given keys (key id → key)."""

    keys: Mapping[str, VerifyKey]
    context: bytes

    def open(self, text: str) -> bytes:
        """The signed bytes, exactly; ForgedMessage otherwise."""
        envelope = parse_envelope(text)
        key = self.keys.get(envelope.key_id)
        if key is None:
            raise ForgedMessage(f"No key {envelope.key_id[:40]!r} is trusted here.")
        try:
            body = base64.b64decode(envelope.body, validate=True)
            key.verify(self.context + body, base64.b64decode(envelope.signature, validate=True))
        except (BadSignatureError, binascii.Error, ValueError) as error:
            raise ForgedMessage("The signature does not match.") from error
        return body


def parse_envelope(text: str) -> Envelope:
    """The envelope without checking its signature: only good for finding out which key it claims."""
    if len(text) > MAX_ENVELOPE_BYTES:
        raise ForgedMessage("The envelope is not a text of allowed size.")
    try:
        return msgspec.json.decode(text, type=Envelope)
    except msgspec.MsgspecError as error:
        raise ForgedMessage(f"Not an envelope: {error}") from error


def key_id(key: VerifyKey) -> str:
    """Short name of a public key: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(bytes(key)).hexdigest()[:16]


def verify_key(public_hex: str) -> VerifyKey:
    return VerifyKey(public_hex.encode(), encoder=HexEncoder)


def public_hex(key: SigningKey | PrivateKey) -> str:
    """The public half, in hex."""
    half = key.verify_key if isinstance(key, SigningKey) else key.public_key
    return bytes(half).hex()


def seal(secret: bytes, *, to_public_hex: str) -> str:
    """Base64 that only the holder of the private half can open."""
    return _b64(SealedBox(PublicKey(bytes.fromhex(to_public_hex))).encrypt(secret))


def unseal(sealed: str, *, key: PrivateKey) -> bytes:
    try:
        return SealedBox(key).decrypt(base64.b64decode(sealed, validate=True))
    except (CryptoError, binascii.Error, ValueError) as error:
        raise ForgedMessage("The sealed secret was not made for this host.") from error


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
