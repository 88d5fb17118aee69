"""Home volumes: disks of people, in a pool of storage that hosts may share. One at a time has a volume.

Beside each volume that is attached lies its claim: a file that says whose it is, and of which there is one at
most, whichever hosts try to write it. QEMU's own locks on the disk are a second guard, while machines run.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Literal
from uuid import UUID, uuid4

import msgspec

from hosts.agent import disks
from hosts.agent.disks import DiskError
from hosts.protocol.homes import POOL_MARK

VOLUME_SUFFIX = ".home.qcow2"
CLAIM_SUFFIX = ".home.claim"
MKFS = "/sbin/mkfs.ext4"
# The first account of a guest: what cloud-init makes.
FIRST_ACCOUNT = "1000:1000"


Purpose = Literal["lease", "reading", "removal"]


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose a volume is for now: a lease's, a reading's, or its own while it is being removed."""

    holder: UUID
    purpose: Purpose
    host: str


class Pool:
    """The pool of storage of this host. Errors: DiskError."""

    def __init__(self, directory: Path, *, name: str, host: str) -> None:
        self.directory = directory
        self._name = name
        self._host = host

    def check(self) -> None:
        """Whether this is the pool, not an empty folder that it is to be mounted on, and can be written."""
        try:
            found = (self.directory / POOL_MARK).read_text().strip()
        except OSError as error:
            raise DiskError(
                f"The pool {self._name} is not at {self.directory}: {POOL_MARK}: {error.strerror}."
            ) from error
        if found != self._name:
            raise DiskError(f"At {self.directory} is the pool {found[:63]}, not {self._name}.")
        if not os.access(self.directory, os.W_OK | os.X_OK):
            raise DiskError(f"The pool {self._name} at {self.directory} cannot be written to.")

    def path(self, volume_id: UUID) -> Path:
        return self.directory / f"{volume_id}{VOLUME_SUFFIX}"

    def attach(
        self, volume_id: UUID, *, lease_id: UUID, size_gib: int, made: bool, key: bytes | None
    ) -> None:
        """Claim the volume for the lease; make it if it never was. What lies there is kept as it is.

        `key` None leaves a new volume unencrypted.
        """
        self.check()
        self.claim(volume_id, lease_id)
        if self.path(volume_id).exists():
            return
        if made:
            raise self._missing(volume_id)
        self._make(self.path(volume_id), size_gib=size_gib, key=key)

    def is_attached(self, volume_id: UUID, lease_id: UUID) -> bool:
        claim = self._read(self._claim_path(volume_id))
        return claim is not None and claim.holder == lease_id and self.path(volume_id).exists()

    def detach(self, holder: UUID) -> None:
        """The lease, whose machine is no more, or the reading gives up what it has claimed."""
        for path, claim in self._claims():
            if claim.holder == holder:
                path.unlink(missing_ok=True)
                disks.sync(self.directory)

    def open_to_read(self, volume_id: UUID, reading_id: UUID) -> Path:
        """Claim the volume for a reading, and find it."""
        self.check()
        self.claim(volume_id, reading_id, "reading")
        if not self.path(volume_id).exists():
            self.give_up(volume_id)
            raise self._missing(volume_id)
        return self.path(volume_id)

    def holders(self, purpose: Purpose) -> set[UUID]:
        """Leases, or readings, that have a volume here, claimed by this host."""
        claims = (claim for _path, claim in self._claims())
        return {each.holder for each in claims if (each.host, each.purpose) == (self._host, purpose)}

    def remove(self, volume_id: UUID) -> None:
        """Destroy it, unless a lease has it. Nobody can attach it meanwhile."""
        self.check()
        self.claim(volume_id, volume_id, "removal")
        disks.destroy(self.path(volume_id))
        for path in self._drafts(self.path(volume_id)):
            path.unlink(missing_ok=True)
        self.give_up(volume_id)

    def give_up(self, volume_id: UUID) -> None:
        """Nobody has it any more."""
        self._claim_path(volume_id).unlink(missing_ok=True)
        disks.sync(self.directory)

    def claim(self, volume_id: UUID, holder: UUID, purpose: Purpose = "lease") -> None:
        """One at most has it: a link is made by one of all that try, on network file systems, too."""
        draft = self.directory / f".{uuid4()}.claim"
        try:
            disks.write_private(draft, msgspec.json.encode(Claim(holder, purpose, self._host)))
            with suppress(FileExistsError):
                os.link(draft, self._claim_path(volume_id))
        finally:
            draft.unlink(missing_ok=True)
        disks.sync(self.directory)
        claim = self._read(self._claim_path(volume_id))
        if claim is None or claim.holder != holder:
            whose = "nobody any more" if claim is None else f"{claim.purpose} {claim.holder} on {claim.host}"
            raise DiskError(f"The home volume {volume_id} is with {whose}.")

    def _missing(self, volume_id: UUID) -> DiskError:
        return DiskError(f"The home volume {volume_id} is not in the pool {self._name}.")

    def _make(self, path: Path, *, size_gib: int, key: bytes | None) -> None:
        """With an empty file system, so that no guest ever has to decide whether to make one."""
        plain, partial = self._drafts(path)
        for draft in (plain, partial):
            draft.unlink(missing_ok=True)
        disks.write_private(plain, b"")
        os.truncate(plain, size_gib * 1024**3)
        options = f"root_owner={FIRST_ACCOUNT},lazy_itable_init=1,lazy_journal_init=1"
        made = subprocess.run(
            [MKFS, "-q", "-F", "-L", "home", "-E", options, str(plain)],
            check=False,
            capture_output=True,
            text=True,
        )
        if made.returncode:
            raise DiskError(f"mkfs.ext4 failed: {made.stderr.strip()}")
        disks.convert(plain, partial, key=key)
        plain.unlink()
        disks.sync(partial)
        partial.replace(path)
        disks.sync(path.parent)

    def _drafts(self, path: Path) -> tuple[Path, Path]:
        return path.with_name(f"{path.name}.plain"), path.with_name(f"{path.name}.partial")

    def _claims(self) -> list[tuple[Path, Claim]]:
        found = ((path, self._read(path)) for path in self.directory.glob(f"*{CLAIM_SUFFIX}"))
        return [(path, claim) for path, claim in found if claim is not None]

    def _claim_path(self, volume_id: UUID) -> Path:
        return self.directory / f"{volume_id}{CLAIM_SUFFIX}"

    def _read(self, path: Path) -> Claim | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=Claim)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise DiskError(f"{path} cannot be read: {error}.") from error
