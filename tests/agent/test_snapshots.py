"""Snapshots on real disk images: a whole copy under its own key, whatever dies when, and a disk from it."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from hosts.agent import building, disks
from hosts.agent.disks import DiskError, Original, create_scratch, destroy_scratch, key_path, read_key
from hosts.agent.domain import Backing
from hosts.agent.identity import Identity, save_identity
from hosts.agent.reconcile import reconcile
from hosts.agent.snapshots import Snapshots
from hosts.protocol.homes import POOL_MARK
from hosts.protocol.messages import MachineGone, MachineRunning, Power, Provision, ProvisionFailed, Release
from hosts.protocol.signing import public_hex, seal
from hosts.protocol.snapshots import (
    RemoveSnapshot,
    SnapshotFailed,
    SnapshotOrder,
    SnapshotRemoved,
    SnapshotTaken,
    TakeSnapshot,
)
from tests.agent.host_in_a_box import Box, a_box, gpu_order
from tests.agent.test_disks import qemu_io
from tests.agent.test_homes import KEY, Killed, a_pool, settings, worked_off

SNAPSHOT, ONE, TWO = UUID(int=9), UUID(int=1), UUID(int=2)
WRITTEN, OF_IMAGE = "0x5a", "0x33"


def reads(path: Path, key: Path | None, pattern: str, where: str) -> bool:
    """Whether the disk opens, and that is there."""
    read = qemu_io(path, key, f"read -P {pattern} {where}")
    return read.returncode == 0 and "verification failed" not in read.stdout


def test_a_copy_is_whole_and_opens_with_its_own_key_alone(tmp_path: Path) -> None:
    """What the image holds is in it, too: it outlives both the lease's key and the image."""
    golden, disk = tmp_path / "golden.raw", tmp_path / "disk, one.qcow2"
    golden.write_bytes(bytes([int(OF_IMAGE, 16)]) * 65536)
    create_scratch(disk, size_gib=1, backing=Backing(golden, "raw"))
    assert qemu_io(disk, key_path(disk), f"write -P {WRITTEN} 512m 64k").returncode == 0
    kept = Snapshots(a_pool(tmp_path / "pool, too"))
    size = kept.take(SNAPSHOT, Original(disk, read_key(disk)), lease_id=ONE, key=KEY)
    path, own, of_lease = kept.path(SNAPSHOT), tmp_path / "own", tmp_path / "of-lease"
    own.write_bytes(KEY)
    of_lease.write_bytes(read_key(disk))
    destroy_scratch(disk)
    golden.unlink()
    assert not reads(path, of_lease, WRITTEN, "512m 64k")
    assert not reads(path, None, WRITTEN, "512m 64k")
    assert bytes([int(WRITTEN, 16)]) * 512 not in path.read_bytes()
    assert (size, path.stat().st_mode & 0o777) == (path.stat().st_size, 0o600)

    again = tmp_path / "again.qcow2"
    create_scratch(again, size_gib=2, original=kept.open(SNAPSHOT, KEY), encrypted=False)
    assert reads(again, None, WRITTEN, "512m 64k")
    assert reads(again, None, OF_IMAGE, "0 64k")
    assert reads(again, None, "0", "1536m 64k")


def test_nothing_is_left_of_a_copy_that_failed(tmp_path: Path) -> None:
    kept = Snapshots(a_pool(tmp_path / "pool"))
    with pytest.raises(DiskError, match="qemu-img convert failed"):
        kept.take(SNAPSHOT, Original(tmp_path / "missing", None), lease_id=ONE, key=None)
    assert [path.name for path in (tmp_path / "pool").iterdir()] == [POOL_MARK]
    with pytest.raises(DiskError, match="is not in the pool"):
        kept.open(SNAPSHOT, None)


def test_one_that_is_being_taken_is_not_removed_and_one_that_is_removed_is_not_read(tmp_path: Path) -> None:
    pool = a_pool(tmp_path / "pool")
    kept, disk = Snapshots(pool), tmp_path / "disk.qcow2"
    create_scratch(disk, size_gib=1, encrypted=False)
    pool.claim(SNAPSHOT, ONE)
    with pytest.raises(DiskError, match="is with"):
        kept.remove(SNAPSHOT)
    kept.take(SNAPSHOT, Original(disk, None), lease_id=ONE, key=None)
    original = kept.open(SNAPSHOT, None)
    for _ in range(2):
        kept.remove(SNAPSHOT)
    assert [path.name for path in (tmp_path / "pool").iterdir()] == [POOL_MARK]
    with pytest.raises(DiskError):
        create_scratch(tmp_path / "two.qcow2", size_gib=1, original=original, encrypted=False)
    assert not (tmp_path / "two.qcow2").exists()


def test_what_is_removed_while_it_is_read_is_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, disk = Snapshots(a_pool(tmp_path / "pool")), tmp_path / "disk.qcow2"
    create_scratch(disk, size_gib=1, encrypted=False)
    kept.take(SNAPSHOT, Original(disk, None), lease_id=ONE, key=None)
    original, real = kept.open(SNAPSHOT, None), disks._qemu_img

    def remove_meanwhile(*arguments: str, pass_fds: tuple[int, ...] = ()) -> None:
        real(*arguments, pass_fds=pass_fds)
        if arguments[0] == "convert":
            kept.remove(SNAPSHOT)

    monkeypatch.setattr(disks, "_qemu_img", remove_meanwhile)
    with pytest.raises(DiskError, match="removed while it was read"):
        create_scratch(tmp_path / "two.qcow2", size_gib=1, original=original, encrypted=False)
    assert not (tmp_path / "two.qcow2").exists()


def order(box: Box) -> SnapshotOrder:
    sealed = seal(KEY, to_public_hex=public_hex(box.sealing))
    return SnapshotOrder(snapshot_id=SNAPSHOT, pool="studio", sealed_key=sealed)


def with_disk(box: Box, *, lease: int = 1, tenure: int = 1, start: SnapshotOrder | None = None) -> Provision:
    goal = box.provision(gpu_order(tenure=tenure), lease=lease)
    return msgspec.structs.replace(
        goal, machine=msgspec.structs.replace(goal.machine, disk_gib=1, snapshot=start)
    )


def switch_off(box: Box) -> None:
    box.carry_out(Power(lease_id=ONE, action="off", shutdown_seconds=0), subject="lease:1")


def save(box: Box) -> None:
    box.carry_out(TakeSnapshot(lease_id=ONE, snapshot=order(box)), subject=f"snapshot:{SNAPSHOT}")


def test_it_is_taken_while_the_machine_is_off_and_the_next_lease_starts_from_it(tmp_path: Path) -> None:
    with a_box(tmp_path, home_pool=settings(tmp_path)) as box:
        save_identity(box.config.identity_path, Identity(box.signing, box.sealing))
        gpu = box.intake()
        box.carry_out(with_disk(box), subject="lease:1")
        disk = building.disk_path(box.rig, ONE)
        save(box)
        assert "runs" in box.last(SnapshotFailed).reason
        switch_off(box)
        assert qemu_io(disk, key_path(disk), f"write -P {WRITTEN} 512m 64k").returncode == 0
        save(box)
        path = Snapshots(a_pool(tmp_path / "homes")).path(SNAPSHOT)
        taken = SnapshotTaken(snapshot_id=SNAPSHOT, lease_id=ONE, size_bytes=path.stat().st_size)
        assert box.last(SnapshotTaken) == taken
        box.carry_out(box.release(gpu), subject="lease:1")
        assert path.exists()

        box.carry_out(with_disk(box, lease=2, tenure=2, start=order(box)), subject="lease:2")
        assert box.last(MachineRunning).lease_id == TWO
        again = building.disk_path(box.rig, TWO)
        assert reads(again, key_path(again), WRITTEN, "512m 64k")
        box.carry_out(box.release(gpu_order(tenure=2), lease=2), subject="lease:2")
        assert box.last(MachineGone).lease_id == TWO
        box.rig.journal.close()
        held = [file for file in tmp_path.rglob("*") if file.is_file() and "identity" not in file.name]
        assert [file for file in held if KEY in file.read_bytes()] == []
        box.restart()
        plans = [plan for plan in box.rig.plans.latest(20) if plan.kind in ("provision", "snapshot")]
        assert plans
        assert all('sealed_key":"A' not in msgspec.json.encode(plan.goal).decode() for plan in plans)

        box.carry_out(RemoveSnapshot(snapshot_id=SNAPSHOT, pool="studio"), subject=f"snapshot:{SNAPSHOT}")
        assert box.last(SnapshotRemoved).snapshot_id == SNAPSHOT
        assert [file.name for file in (tmp_path / "homes").iterdir()] == [POOL_MARK]
        box.carry_out(with_disk(box, lease=3, tenure=3, start=order(box)), subject="lease:3")
        assert "not in the pool" in box.last(ProvisionFailed).reason


def test_a_copy_that_fails_at_the_end_is_told_of_and_the_gpus_come_back(tmp_path: Path) -> None:
    with a_box(tmp_path, home_pool=settings(tmp_path)) as box:
        box.machines.keeps_keys = False
        gpu = box.intake()
        box.carry_out(with_disk(box), subject="lease:1")
        (tmp_path / "homes" / POOL_MARK).unlink()
        box.carry_out(box.release(gpu, save=order(box)), subject="lease:1")
        assert "is not at" in box.last(SnapshotFailed).reason
        assert box.last(MachineGone).lease_id == ONE
        assert box.gpu_state() == "clean"
        assert not disks.exists(building.disk_path(box.rig, ONE))


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("step", ["snapshot:save", "release:save"])
def test_whenever_the_worker_dies_it_is_taken_once_and_told_of(tmp_path: Path, step: str, side: str) -> None:
    died: list[str] = []

    def die_once(boundary: str) -> None:
        if boundary == f"{step}:{side}" and not died:
            died.append(boundary)
            raise Killed

    with a_box(tmp_path, home_pool=settings(tmp_path)) as box:
        box.machines.keeps_keys = False
        gpu = box.intake()
        box.carry_out(with_disk(box), subject="lease:1")
        switch_off(box)
        disk = building.disk_path(box.rig, ONE)
        assert qemu_io(disk, None, f"write -P {WRITTEN} 512m 64k").returncode == 0
        box.executor.stop(seconds=5)
        if step.startswith("snapshot"):
            goal, subject = TakeSnapshot(lease_id=ONE, snapshot=order(box)), f"snapshot:{SNAPSHOT}"
            box.deliver(goal, subject=subject)
        else:
            box.deliver(box.release(gpu, save=order(box)), subject="lease:1")
        while not worked_off(box, die_once):
            box.rig.journal.close()
            box.open()
            reconcile(box.rig, boot_id=box.boot_id)
        assert died
        assert {taken.snapshot_id for taken in box.events(SnapshotTaken)} == {SNAPSHOT}
        assert box.events(SnapshotFailed) == []
    kept = Snapshots(a_pool(tmp_path / "homes"))
    assert reads(kept.path(SNAPSHOT), None, WRITTEN, "512m 64k")
    assert sorted(file.name for file in (tmp_path / "homes").iterdir()) == [
        kept.path(SNAPSHOT).name,
        POOL_MARK,
    ]


def test_a_release_that_overtakes_it_takes_it_before_the_disk_goes(tmp_path: Path) -> None:
    """The order of commands is the broker's: the portal asks for it with the release once more."""
    with a_box(tmp_path, home_pool=settings(tmp_path)) as box:
        box.machines.keeps_keys = False
        gpu = box.intake()
        box.carry_out(with_disk(box), subject="lease:1")
        switch_off(box)
        box.executor.stop(seconds=5)
        box.deliver(TakeSnapshot(lease_id=ONE, snapshot=order(box)), subject=f"snapshot:{SNAPSHOT}")
        release: Release = box.release(gpu, save=order(box))
        box.deliver(release, subject="lease:1")
        assert worked_off(box, lambda _: None)
        assert len(box.events(SnapshotTaken)) == 1
        assert box.last(MachineGone).lease_id == ONE
