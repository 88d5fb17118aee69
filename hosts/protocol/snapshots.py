"""The part of the protocol about snapshots: copies of disks in pools of storage, which outlive leases."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from msgspec import Meta

from hosts.protocol.fields import Counter, Message, Name, Text


class SnapshotOrder(Message, frozen=True, kw_only=True):
    """A snapshot of this pool, to be taken or to start from. Its key is sealed to the host."""

    SINCE = 2

    snapshot_id: UUID
    pool: Name
    sealed_key: Annotated[str, Meta(max_length=500)]


class TakeSnapshot(Message, frozen=True, kw_only=True, tag="snapshot"):
    """Copy the disk of the lease's machine, which is off, and is not switched on before the copy is whole."""

    SINCE = 2

    lease_id: UUID
    snapshot: SnapshotOrder


class RemoveSnapshot(Message, frozen=True, kw_only=True, tag="remove-snapshot"):
    """Destroy a snapshot of the host's pool, or whatever there is of one that failed."""

    SINCE = 2

    snapshot_id: UUID
    pool: Name


class SnapshotTaken(Message, frozen=True, kw_only=True, tag="snapshot-taken"):
    """The copy is whole, and takes so many bytes of the pool."""

    SINCE = 2

    snapshot_id: UUID
    lease_id: UUID
    size_bytes: Counter


class SnapshotFailed(Message, frozen=True, kw_only=True, tag="snapshot-failed"):
    """The disk could not be copied."""

    SINCE = 2

    snapshot_id: UUID
    lease_id: UUID
    reason: Text


class SnapshotRemoved(Message, frozen=True, kw_only=True, tag="snapshot-removed"):
    """Nothing is left of the snapshot."""

    SINCE = 2

    snapshot_id: UUID


SnapshotEvent = SnapshotTaken | SnapshotFailed | SnapshotRemoved
