"""Encrypted disks, home volumes and snapshots, and their keys, which libvirt keeps no longer than needed."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import libvirt
import msgspec
import pytest

from hosts.agent import disks
from hosts.agent.building import disk_path
from hosts.agent.config import HomePool
from hosts.agent.domain import Disk, domain_xml, home_key_usage, key_usage
from hosts.agent.homes import Pool
from hosts.agent.hypervisor import Hypervisor
from hosts.agent.identity import Identity, save_identity
from hosts.agent.images import open_kernel_image, sha256_of
from hosts.agent.machines import HypervisorError
from hosts.agent.network.settings import NetworkSettings
from hosts.agent.network.ways import Network, UserNetwork
from hosts.agent.reading_machine import CHANNEL, ReadingRoom, Volume, asked, listing_of
from hosts.agent.snapshots import Snapshots
from hosts.protocol.homes import HomeOrder
from hosts.protocol.messages import ImageOrder, MachineGone, MachineRunning, Power, Provision
from hosts.protocol.signing import public_hex, seal
from hosts.protocol.snapshots import SnapshotOrder, SnapshotTaken, TakeSnapshot
from tests.agent.fake_machines import FakeMachines
from tests.agent.host_in_a_box import Box, gpu_order
from tests.agent.machine_specs import idle_machine
from tests.agent.test_disks import qemu_io
from tests.agent.test_homes import VOLUME, a_pool
from tests.agent.test_reading import FILES, a_home
from tests.agent.test_snapshots import WRITTEN, reads

pytestmark = pytest.mark.timeout(180)
ONE, TWO, SNAPSHOT = UUID(int=1), UUID(int=2), UUID(int=9)
HOME_KEY, SNAPSHOT_KEY = b"5e" * 32, b"a7" * 32


class RealBox(Box):
    """A host whose machines are real, and run a system that boots."""

    def __init__(self, directory: Path, hypervisor: Hypervisor, image: Path) -> None:
        self.real = hypervisor
        user = NetworkSettings(mode="user", address="127.0.0.1")
        pool = HomePool(name="studio", directory=directory / "homes")
        super().__init__(directory, home_pool=pool, network=user)
        self.config.images_directory.joinpath("tiny").symlink_to(image)
        self.image = ImageOrder(
            name="tiny", format="direct-kernel", digest=sha256_of(image / "manifest.json")
        )
        save_identity(self.config.identity_path, Identity(self.signing, self.sealing))

    def make_machines(self) -> FakeMachines:
        return cast(FakeMachines, self.real)

    def make_network(self) -> Network:
        return UserNetwork(self.config.network, self.real)

    def sealed(self, key: bytes) -> str:
        return seal(key, to_public_hex=public_hex(self.sealing))

    def order(self, lease: int, **machine: Any) -> Provision:
        """With a disk and the home volume."""
        home = HomeOrder(
            volume_id=VOLUME, pool="studio", size_gib=1, made=True, sealed_key=self.sealed(HOME_KEY)
        )
        goal = self.provision(gpu_order(tenure=lease), lease=lease)
        wanted = {"disk_gib": 1, "memory_mib": 256, "home": home, **machine}
        return msgspec.structs.replace(goal, machine=msgspec.structs.replace(goal.machine, **wanted))


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    """A home volume that somebody has worked with lies in it, encrypted."""
    made = a_pool(tmp_path / "homes", host="box")
    disks.convert(a_home(tmp_path), made.path(VOLUME), key=HOME_KEY)
    return made


def kept(connection: libvirt.virConnect) -> set[str]:
    return {secret.usageID() for secret in connection.listAllSecrets()}


def test_what_a_lease_writes_is_opened_by_its_keys_alone_and_libvirt_keeps_them_no_longer_than_the_lease(
    hypervisor: Hypervisor, secrets_kept: libvirt.virConnect, tenant_image: Path, pool: Pool, tmp_path: Path
) -> None:
    box = RealBox(tmp_path, hypervisor, tenant_image)
    box.start()
    try:
        gpu = box.intake()
        box.carry_out(box.order(1), subject="lease:1")
        assert box.last(MachineRunning).lease_id == ONE
        assert kept(secrets_kept) == {key_usage("lease-1"), home_key_usage("lease-1")}
        for secret in secrets_kept.listAllSecrets():
            with pytest.raises(libvirt.libvirtError, match="private"):
                secret.value()
        assert HOME_KEY.decode() not in secrets_kept.lookupByName("lease-1").XMLDesc()

        box.carry_out(Power(lease_id=ONE, action="off", shutdown_seconds=0), subject="lease:1")
        disk = disk_path(box.rig, ONE)
        assert qemu_io(disk, disks.key_path(disk), f"write -P {WRITTEN} 512m 64k").returncode == 0
        save = SnapshotOrder(snapshot_id=SNAPSHOT, pool="studio", sealed_key=box.sealed(SNAPSHOT_KEY))
        box.carry_out(TakeSnapshot(lease_id=ONE, snapshot=save), subject=f"snapshot:{SNAPSHOT}")
        assert box.last(SnapshotTaken).snapshot_id == SNAPSHOT
        box.carry_out(box.release(gpu), subject="lease:1")
        assert box.last(MachineGone).lease_id == ONE
        assert kept(secrets_kept) == set()
        assert not disks.exists(disk)
        of_home = tmp_path / "key"
        of_home.write_bytes(HOME_KEY)
        assert not reads(Snapshots(pool).path(SNAPSHOT), of_home, WRITTEN, "512m 64k")

        box.carry_out(box.order(2, snapshot=save), subject="lease:2")
        assert box.last(MachineRunning).lease_id == TWO
        again = disk_path(box.rig, TWO)
        box.carry_out(Power(lease_id=TWO, action="off", shutdown_seconds=0), subject="lease:2")
        assert reads(again, disks.key_path(again), WRITTEN, "512m 64k")
        box.carry_out(box.release(gpu_order(tenure=2), lease=2), subject="lease:2")
        assert kept(secrets_kept) == set()
        assert pool.holders("lease") == set()
    finally:
        box.close()


def test_a_machine_does_not_start_with_another_volumes_key(
    hypervisor: Hypervisor, pool: Pool, tmp_path: Path
) -> None:
    spec = idle_machine(tmp_path, home=Disk(pool.path(VOLUME)))
    hypervisor.define(domain_xml(spec, []), home_key=SNAPSHOT_KEY)
    try:
        with pytest.raises(HypervisorError, match="Invalid password"):
            hypervisor.start(spec.name)
    finally:
        hypervisor.undefine(spec.name)


def test_an_encrypted_home_volume_is_read_without_a_gpu(
    hypervisor: Hypervisor, secrets_kept: libvirt.virConnect, reader_system: Path, pool: Pool, tmp_path: Path
) -> None:
    digest = sha256_of(reader_system / "manifest.json")
    system = open_kernel_image(reader_system, digest, cmdline=f"leasehold.channel={CHANNEL}")
    room = ReadingRoom(hypervisor, "qemu", tmp_path / "machines", system)
    with asked(room, Volume(uuid4(), pool.path(VOLUME), HOME_KEY), "list", "") as said:
        assert len(kept(secrets_kept)) == 1
        names = {entry.name for entry in listing_of(said).entries}
    assert names >= {name.split("/")[0] for name in FILES}
    with asked(room, Volume(uuid4(), pool.path(VOLUME), HOME_KEY), "archive", "/renders") as said:
        archive = b"".join(said.chunks())
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        content = tar.extractfile("./final cut.exr")
        assert content is not None
        assert content.read() == FILES["renders/final cut.exr"]
    assert kept(secrets_kept) == set()
    assert FILES["notes.txt"] not in pool.path(VOLUME).read_bytes()
