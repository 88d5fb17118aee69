"""Snapshots: whole copies of leases' disks in the pool of storage, each under a key of its own.

While one is being made or removed, its claim lies beside it, as those of home volumes do. It appears under
its name only when it is whole; whoever reads one that is being removed finds that the name is gone.
"""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from hosts.agent import disks
from hosts.agent.disks import Original
from hosts.agent.homes import Pool

SUFFIX = ".snapshot.qcow2"


class Snapshots:
    """Those of a pool. Errors: DiskError."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def path(self, snapshot_id: UUID) -> Path:
        return self._pool.directory / f"{snapshot_id}{SUFFIX}"

    def take(self, snapshot_id: UUID, original: Original, *, lease_id: UUID, key: bytes | None) -> int:
        """Copy the original, unless that was done before; the size of the copy in bytes.

        `key` None leaves it unencrypted. Nothing is left of one that failed.
        """
        self._pool.check()
        path = self.path(snapshot_id)
        if not path.exists():
            self._pool.claim(snapshot_id, lease_id)
            try:
                self._make(path, original, key)
            finally:
                self._draft(path).unlink(missing_ok=True)
                self._pool.give_up(snapshot_id)
        return path.stat().st_size

    def open(self, snapshot_id: UUID, key: bytes | None) -> Original:
        """To be read by a new disk."""
        self._pool.check()
        path = self.path(snapshot_id)
        if not path.exists():
            raise disks.DiskError(f"The snapshot {snapshot_id} is not in the pool.")
        return Original(path, key)

    def remove(self, snapshot_id: UUID) -> None:
        """Destroy it, or what there is of it, unless it is being taken."""
        self._pool.check()
        self._pool.claim(snapshot_id, snapshot_id, "removal")
        path = self.path(snapshot_id)
        leaving = path.with_name(f"{path.name}.leaving")
        if path.exists():
            path.replace(leaving)
            disks.sync(path.parent)
        for each in (leaving, self._draft(path)):
            disks.destroy(each)
        self._pool.give_up(snapshot_id)

    def _make(self, path: Path, original: Original, key: bytes | None) -> None:
        draft = self._draft(path)
        draft.unlink(missing_ok=True)
        disks.copy(original, draft, key=key)
        disks.sync(draft)
        draft.replace(path)
        disks.sync(path.parent)

    def _draft(self, path: Path) -> Path:
        return path.with_name(f"{path.name}.partial")
