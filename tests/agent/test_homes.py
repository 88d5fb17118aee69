"""Home volumes on real disk images: one lease at a time, kept from one to the next, whatever dies when."""

from __future__ import annotations

import subprocess
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import pytest
from lxml import etree

from hosts.agent.config import HomePool
from hosts.agent.disks import DiskError
from hosts.agent.domain import Disk, domain_xml
from hosts.agent.homes import Pool
from hosts.agent.host_plans import PLAN_KINDS
from hosts.agent.hypervisor import Hypervisor
from hosts.agent.identity import Identity, save_identity
from hosts.agent.inventory import take_inventory
from hosts.agent.machines import HypervisorError
from hosts.agent.reconcile import reconcile
from hosts.agent.runner import Boundary, Runner
from hosts.protocol.homes import HOME_SERIAL, POOL_MARK, HomeOrder, HomeRemoved, RemoveHome
from hosts.protocol.messages import MachineGone, MachineRunning, Provision, ProvisionFailed
from hosts.protocol.signing import public_hex, seal
from tests.agent.host_in_a_box import Box, a_box, gpu_order
from tests.agent.machine_specs import idle_machine
from tests.agent.test_disks import qemu_io

VOLUME, ONE, TWO = UUID(int=7), UUID(int=1), UUID(int=2)
KEY = b"5e" * 32
WRITTEN = "0x5a"


class Killed(BaseException):
    """The worker dies here."""


def a_pool(directory: Path, *, host: str = "hv1") -> Pool:
    directory.mkdir(exist_ok=True)
    (directory / POOL_MARK).write_text("studio\n")
    return Pool(directory, name="studio", host=host)


def attach(pool: Pool, lease_id: UUID, *, made: bool = False, key: bytes | None = None) -> None:
    pool.attach(VOLUME, lease_id=lease_id, size_gib=1, made=made, key=key)


def test_one_lease_at_a_time_on_whichever_host_and_what_was_written_stays(tmp_path: Path) -> None:
    here, there = a_pool(tmp_path), a_pool(tmp_path, host="hv2")
    attach(here, ONE)
    assert qemu_io(here.path(VOLUME), None, f"write -P {WRITTEN} 512m 64k").returncode == 0
    for other in (here, there):
        with pytest.raises(DiskError, match=f"with lease {ONE} on hv1"):
            attach(other, TWO, made=True)
    with pytest.raises(DiskError, match="is with"):
        there.remove(VOLUME)
    attach(here, ONE)  # again, after a crash that the portal has not heard of
    here.detach(TWO)
    assert here.is_attached(VOLUME, ONE)
    here.detach(ONE)
    attach(there, TWO)
    assert (here.holders("lease"), there.holders("lease")) == (set(), {TWO})
    read = qemu_io(there.path(VOLUME), None, f"read -P {WRITTEN} 512m 64k")
    assert (read.returncode, "verification failed" in read.stdout) == (0, False)


def test_a_volume_has_a_file_system_before_any_guest_sees_it(tmp_path: Path) -> None:
    pool = a_pool(tmp_path)
    attach(pool, ONE)
    plain = tmp_path / "plain"
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(pool.path(VOLUME)), str(plain)], check=True)
    told = subprocess.run(
        ["/sbin/blkid", "-p", "-o", "export", str(plain)], check=True, capture_output=True, text=True
    )
    assert {"TYPE=ext4", "LABEL=home"} <= set(told.stdout.split())
    assert pool.path(VOLUME).stat().st_size < 64 * 1024**2


def test_what_is_missing_is_never_made_anew(tmp_path: Path) -> None:
    pool = a_pool(tmp_path)
    with pytest.raises(DiskError, match="is not in the pool"):
        attach(pool, ONE, made=True)
    (tmp_path / POOL_MARK).unlink()
    with pytest.raises(DiskError, match="is not at"):
        attach(pool, TWO)
    (tmp_path / POOL_MARK).write_text("another")
    with pytest.raises(DiskError, match="another, not studio"):
        attach(pool, TWO)
    assert not pool.path(VOLUME).exists()


def with_home(box: Box, *, lease: int = 1, made: bool = False, tenure: int = 1) -> Provision:
    sealed = seal(KEY, to_public_hex=public_hex(box.sealing))
    home = HomeOrder(volume_id=VOLUME, pool="studio", size_gib=1, made=made, sealed_key=sealed)
    goal = box.provision(gpu_order(tenure=tenure), lease=lease)
    return msgspec.structs.replace(goal, machine=msgspec.structs.replace(goal.machine, home=home))


def settings(directory: Path) -> HomePool:
    a_pool(directory / "homes")
    return HomePool(name="studio", directory=directory / "homes")


def test_its_key_opens_it_and_is_gone_from_the_host_with_the_lease(tmp_path: Path) -> None:
    with a_box(tmp_path, home_pool=settings(tmp_path)) as box:
        save_identity(box.config.identity_path, Identity(box.signing, box.sealing))
        assert take_inventory(box.rig).pool == "studio"
        order = box.intake()
        goal = with_home(box)
        box.carry_out(goal, subject="lease:1")
        assert box.last(MachineRunning).lease_id == ONE
        assert box.machines.home_keys == {"lease-1": KEY}
        disk = etree.fromstring(box.machines.xml("lease-1")).find("devices/disk[serial]")
        assert disk is not None
        assert disk.findtext("serial") == HOME_SERIAL
        path = a_pool(tmp_path / "homes").path(VOLUME)
        assert qemu_io(path, None, "read 0 512").returncode != 0

        box.carry_out(with_home(box, lease=2, made=True), subject="lease:2")
        assert box.last(ProvisionFailed).lease_id == TWO

        box.carry_out(box.release(order), subject="lease:1")
        assert box.last(MachineGone).lease_id == ONE
        assert box.machines.home_keys == {}
        assert goal.machine.home is not None
        box.rig.journal.close()
        held = [file for file in tmp_path.rglob("*") if file.is_file() and "identity" not in file.name]
        for secret in (KEY, goal.machine.home.sealed_key.encode()):
            assert [file for file in held if secret in file.read_bytes()] == []
        key = tmp_path / "key"
        key.write_bytes(KEY)
        assert qemu_io(path, key, "read 0 512").returncode == 0
        box.restart()


def test_it_is_removed_by_order_unless_a_lease_has_it(tmp_path: Path) -> None:
    with a_box(tmp_path, home_pool=settings(tmp_path)) as box:
        pool = a_pool(tmp_path / "homes")
        attach(pool, ONE)
        box.carry_out(RemoveHome(volume_id=VOLUME, pool="studio"), subject=f"home:{VOLUME}")
        assert (pool.path(VOLUME).exists(), box.events(HomeRemoved)) == (True, [])
        pool.detach(ONE)
        box.carry_out(RemoveHome(volume_id=VOLUME, pool="studio"), subject=f"home:{VOLUME}")
        assert box.last(HomeRemoved).volume_id == VOLUME
        assert [file.name for file in (tmp_path / "homes").iterdir()] == [POOL_MARK]


@pytest.mark.parametrize("step", ["reserve", "define", "start", "undefine", "destroy-disk"])
@pytest.mark.parametrize("side", ["before", "after"])
def test_whenever_the_worker_dies_it_is_attached_once_and_nothing_is_lost(
    tmp_path: Path, step: str, side: str
) -> None:
    """The steps that touch it: the plan goes on where it was, and does not make it anew."""
    died: list[str] = []

    def die_once(boundary: str) -> None:
        if boundary.endswith(f":{step}:{side}") and boundary not in died:
            died.append(boundary)
            raise Killed

    pool = a_pool(tmp_path / "homes")
    attach(pool, uuid4())
    assert qemu_io(pool.path(VOLUME), None, f"write -P {WRITTEN} 512m 64k").returncode == 0
    for lease in pool.holders("lease"):
        pool.detach(lease)
    with a_box(tmp_path, home_pool=settings(tmp_path)) as box:
        box.machines.keeps_keys = False
        order = box.intake()
        box.executor.stop(seconds=5)
        for goal in (with_home(box), box.release(order)):
            box.deliver(goal, subject="lease:1")
            while not worked_off(box, die_once):
                box.rig.journal.close()
                box.open()
                reconcile(box.rig, boot_id=box.boot_id)
            assert pool.is_attached(VOLUME, ONE) == isinstance(goal, Provision)
    assert len(died) == 1
    assert "verification failed" not in qemu_io(pool.path(VOLUME), None, f"read -P {WRITTEN} 512m 64k").stdout


def worked_off(box: Box, on_boundary: Boundary) -> bool:
    """Run what is to be done; False if the worker died of it."""
    runner = Runner(box.rig, PLAN_KINDS, on_boundary=on_boundary)
    try:
        while plans := runner.choose([]):
            for plan in plans:
                while runner.advance(plan.plan_id):
                    pass
    except Killed:
        return False
    return True


def test_qemu_itself_refuses_a_second_machine_with_the_same_volume(
    embedded: Hypervisor, tmp_path: Path
) -> None:
    pool = a_pool(tmp_path)
    attach(pool, ONE)
    home = Disk(path=pool.path(VOLUME), encrypted=False)
    for number, name in enumerate(("lease-one", "lease-two"), start=1):
        folder = tmp_path / name
        folder.mkdir()
        spec = idle_machine(folder, name=name, uuid=UUID(int=number), home=home)
        embedded.define(domain_xml(spec, []))
    try:
        embedded.start("lease-one")
        with pytest.raises(HypervisorError, match="lock"):
            embedded.start("lease-two")
    finally:
        for name in ("lease-one", "lease-two"):
            embedded.destroy(name)
            embedded.undefine(name)
