"""How a host is let in: what it asks over HTTPS, signed with the keys it will be known by, and the answer.

A token is made by an operator and used once. It carries a secret, and names the portal's key, so that the
host trusts no other. The answer is signed by that key, and is about this one request.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta
from nacl.signing import SigningKey

from hosts.protocol.fields import Message, Name, Sha256, Short
from hosts.protocol.signing import ForgedMessage, Signer, Verifier, key_id, parse_envelope, verify_key

ENROLMENT = b"leasehold/enrolment/1\n"
REKEY = b"leasehold/rekey/1\n"
ANSWER = b"leasehold/enrolment-answer/1\n"
ENROLMENT_PATH = "/api/v1/enrolment/"
REKEY_PATH = "/api/v1/enrolment/rekey/"

PublicKey = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
TokenText = Annotated[str, Meta(min_length=20, max_length=100, pattern=r"^[A-Za-z0-9_-]+\.[0-9a-f]{16}\Z")]
Sealed = Annotated[str, Meta(max_length=2000)]


class NewKeys(Message, frozen=True, kw_only=True):
    """The public halves that the host will be known by, in hex."""

    signing_key: PublicKey
    sealing_key: PublicKey


class EnrolmentRequest(Message, frozen=True, kw_only=True):
    """Signed with the new signing key: who asks holds its private half."""

    protocol: int
    token: TokenText
    keys: NewKeys
    worker_version: Short = ""


class RekeyRequest(Message, frozen=True, kw_only=True):
    """Signed with the new signing key, and that as a whole with the old one."""

    protocol: int
    host: Name
    keys: NewKeys
    worker_version: Short = ""


class EnrolmentAnswer(Message, frozen=True, kw_only=True):
    """Signed by the portal. `request` is the SHA-256 of the envelope that it answers.

    `sealed_broker_url` is the broker with the host's own account, and can be opened by the host alone.
    """

    protocol: int
    request: Sha256
    host: Name
    control_key: PublicKey
    sealed_broker_url: Sealed


R = TypeVar("R", EnrolmentRequest, RekeyRequest)


def token_text(secret: str, *, portal_key: SigningKey) -> str:
    return f"{secret}.{key_id(portal_key.verify_key)}"


def portal_key_id(token: str) -> str:
    """Which key the portal that made the token has."""
    return token.rpartition(".")[2]


def digest_of(text: str) -> str:
    """What is kept of a token, and named of a request, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def sign_enrolment(request: EnrolmentRequest | RekeyRequest, *, key: SigningKey) -> str:
    """The envelope of a request, by the new key."""
    return Signer(key, ENROLMENT).sign(msgspec.json.encode(request))


def sign_rekey(request: RekeyRequest, *, new: SigningKey, old: SigningKey) -> str:
    """The envelope of a request, by the new key and then by the old."""
    return Signer(old, REKEY).sign(sign_enrolment(request, key=new).encode())


def open_enrolment(envelope: str) -> EnrolmentRequest:
    """A request that was signed by the key it brings, or ForgedMessage."""
    return _open(envelope, EnrolmentRequest)


def open_rekey(envelope: str, *, old_public: str) -> RekeyRequest:
    """A request that was signed by the key it brings and by the old one (hex), or ForgedMessage."""
    old = verify_key(old_public)
    inner = Verifier({key_id(old): old}, REKEY).open(envelope)
    return _open(inner.decode(errors="replace"), RekeyRequest)


def rekey_claims(envelope: str) -> tuple[str, RekeyRequest]:
    """Whose key signed the outer envelope (its id), and the request in it; only the inner one is verified."""
    outer = parse_envelope(envelope)
    return outer.key_id, _open(_body(outer.body).decode(errors="replace"), RekeyRequest)


def sign_answer(answer: EnrolmentAnswer, *, key: SigningKey) -> str:
    return Signer(key, ANSWER).sign(msgspec.json.encode(answer))


def open_answer(envelope: str, *, request: str, trusted_key_id: str) -> EnrolmentAnswer:
    """The answer to this request envelope by the portal whose key has that id, or ForgedMessage."""
    answer = _decode(_body(parse_envelope(envelope).body), EnrolmentAnswer)
    key = verify_key(answer.control_key)
    if key_id(key) != trusted_key_id:
        raise ForgedMessage("The answer is not by the portal that is trusted.")
    Verifier({trusted_key_id: key}, ANSWER).open(envelope)
    if answer.request != digest_of(request):
        raise ForgedMessage("The answer is to another request.")
    return answer


def _open(envelope: str, kind: type[R]) -> R:
    """What it says is verified with the key that it says it is signed with."""
    request = _decode(_body(parse_envelope(envelope).body), kind)
    key = verify_key(request.keys.signing_key)
    Verifier({key_id(key): key}, ENROLMENT).open(envelope)
    return request


M = TypeVar("M", bound=Message)


def _decode(body: bytes, kind: type[M]) -> M:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise ForgedMessage(f"Not an enrolment: {error}") from error


def _body(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ForgedMessage("The envelope's body is not base64.") from error
