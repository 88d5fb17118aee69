"""The part of the protocol about images: which ones a host holds, and how it asks the portal for them.

A host asks over HTTPS for a piece after the other. Each request is signed with its own key, and is good for
this host, this image and this moment alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from nacl.signing import SigningKey, VerifyKey

from hosts.protocol.fields import Message, Moment, Name, Sha256
from hosts.protocol.signing import ForgedMessage, Signer, Verifier

PIECE = b"leasehold/image-piece/1\n"
PIECE_PATH = "/api/v1/host-images/"
PIECE_BYTES = 8 * 1024 * 1024
# How far the clocks of a host and the portal may be apart.
PIECE_SECONDS = 120.0
IMAGES_AT_MOST = 100

Bytes = Annotated[int, Meta(ge=0, le=2**50)]
CopyState = Literal["waiting", "fetching", "held", "failed"]


class HeldImage(Message, frozen=True, kw_only=True):
    """An image that a host is to hold. Of its `size` bytes `data` are not in holes."""

    SINCE = 2

    name: Name
    format: Literal["raw"] = "raw"
    digest: Sha256
    size: Bytes
    data: Bytes


class HoldImages(Message, frozen=True, kw_only=True, tag="images"):
    """Hold these images of the portal's, and no others of them. What somebody put there by hand stays."""

    SINCE = 2

    images: Annotated[tuple[HeldImage, ...], Meta(max_length=IMAGES_AT_MOST)]


class CopyFacts(Message, frozen=True, kw_only=True):
    """How far one copy is. `reason` says why it is not further, empty if nothing is in the way."""

    SINCE = 2

    digest: Sha256
    state: CopyState
    done: Bytes = 0
    reason: Annotated[str, Meta(max_length=200)] = ""


class ImageCopies(Message, frozen=True, kw_only=True, tag="image-copies"):
    """Every copy that the host has or is about to have."""

    SINCE = 2

    copies: Annotated[tuple[CopyFacts, ...], Meta(max_length=2 * IMAGES_AT_MOST)]


class PieceRequest(Message, frozen=True, kw_only=True):
    """The next data of an image from `offset` on. `host` is its account."""

    SINCE = 2

    host: Name
    digest: Sha256
    offset: Bytes
    at: Moment


def sign_piece_request(request: PieceRequest, *, key: SigningKey) -> str:
    return Signer(key, PIECE).sign(msgspec.json.encode(request))


def open_piece_request(envelope: str, *, keys: Mapping[str, VerifyKey], now: datetime) -> PieceRequest:
    """A request that was signed by one of the keys just now, or ForgedMessage."""
    try:
        request = msgspec.json.decode(Verifier(keys, PIECE).open(envelope), type=PieceRequest)
    except msgspec.MsgspecError as error:
        raise ForgedMessage(f"Not a request for a piece: {error}") from error
    if abs((now - request.at).total_seconds()) > PIECE_SECONDS:
        raise ForgedMessage(f"The request was signed at {request.at.isoformat()}.")
    return request
