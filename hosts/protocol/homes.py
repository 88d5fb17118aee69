"""The part of the protocol about home volumes: disks of people that outlive leases, in pools of storage."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from msgspec import Meta

from hosts.protocol.fields import Message, Name

# The serial number by which a guest finds the volume among its disks.
HOME_SERIAL = "leasehold-home"
# In the pool's folder, with the pool's name in it. A folder without it is not the pool: nothing is mounted.
POOL_MARK = "leasehold-pool"


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
