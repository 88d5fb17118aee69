"""The part of the protocol about home volumes: disks of people that outlive leases, in pools of storage."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from msgspec import Meta

from hosts.protocol.fields import Message, Name, Text

# The serial number by which a guest finds the volume among its disks.
HOME_SERIAL = "leasehold-home"
# In the pool's folder, with the pool's name in it. A folder without it is not the pool: nothing is mounted.
POOL_MARK = "leasehold-pool"
# From the volume's root, which is empty. Names are in UTF-8; no part of it is `.` or `..`.
HomePath = Annotated[str, Meta(max_length=1000, pattern=r"^(/(?!\.{1,2}(/|$))[^/\x00-\x1f]+)*\Z")]
Wanted = Literal["list", "file", "archive"]


class HomeOrder(Message, frozen=True, kw_only=True):
    """The volume to attach, of this pool. Its key is sealed to the host.

    `made`: it was there before. Such a one is never made anew: if it is missing, the machine does not start.
    """

    SINCE = 2

    volume_id: UUID
    pool: Name
    size_gib: Annotated[int, Meta(ge=1, le=1024 * 1024)]
    made: bool
    sealed_key: Annotated[str, Meta(max_length=500)]


class RemoveHome(Message, frozen=True, kw_only=True, tag="remove-home"):
    """Destroy a volume of the host's pool that no lease has."""

    SINCE = 2

    volume_id: UUID
    pool: Name


class HomeRemoved(Message, frozen=True, kw_only=True, tag="home-removed"):
    """Nothing is left of the volume."""

    SINCE = 2

    volume_id: UUID


class ReadHome(Message, frozen=True, kw_only=True, tag="read-home"):
    """Look into a volume that no lease has, without changing it, and send what is found to the gateway.

    `list`: what is in a folder. `file`: a file. `archive`: a folder with all that is in it. Key and token are
    sealed to the host.
    """

    SINCE = 2

    reading_id: UUID
    volume_id: UUID
    pool: Name
    sealed_key: Annotated[str, Meta(max_length=500)]
    wanted: Wanted
    path: HomePath
    gateway_url: Annotated[str, Meta(max_length=300, pattern=r"^wss?://")]
    sealed_token: Annotated[str, Meta(max_length=500)]


class HomeRead(Message, frozen=True, kw_only=True, tag="home-read"):
    """The reading is over, and the volume free. `reason`: why it failed, if it did."""

    SINCE = 2

    reading_id: UUID
    reason: Text = ""


HomeReport = HomeRemoved | HomeRead
