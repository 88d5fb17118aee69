"""What messages are made of: bounded field types, and the base of every structure that travels."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

MAX_MESSAGE_BYTES = 64 * 1024

Name = Annotated[str, Meta(min_length=1, max_length=63, pattern=r"^[a-z0-9][a-z0-9.-]*\Z")]
Code = Annotated[str, Meta(min_length=1, max_length=40, pattern=r"^[a-z0-9][a-z0-9-]*\Z")]
Subject = Annotated[str, Meta(min_length=1, max_length=80)]
Text = Annotated[str, Meta(max_length=2000)]
Short = Annotated[str, Meta(max_length=200)]
Counter = Annotated[int, Meta(ge=0, le=2**53)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
PciAddress = Annotated[str, Meta(pattern=r"^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\Z")]
# A host's name, or an address of the internet protocol.
NetworkAddress = Annotated[str, Meta(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9.:-]+\Z")]
# A PCI function, or a mediated device, which has nothing but a UUID.
CardAddress = Annotated[
    str,
    Meta(
        pattern=r"^([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]"
        r"|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\Z"
    ),
]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
TcpPort = Annotated[int, Meta(ge=1, le=65535)]
Moment = Annotated[datetime, Meta(tz=True)]


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every structure that travels.

    `SINCE` is the protocol version that a structure came with, `ADDED` that of each field it got later; such
    a field has a default. Whoever is spoken to in an older version is sent neither; but what has an
    `ESSENTIAL` field that says something else than its default is not sent at all.
    """

    SINCE: ClassVar[int] = 1
    ADDED: ClassVar[Mapping[str, int]] = {}
    ESSENTIAL: ClassVar[frozenset[str]] = frozenset()
