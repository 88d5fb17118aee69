"""A real Debian disk image: firmware starts it, cloud-init reads its seed, its owner signs in by SSH, and on
the next machine, which a BIOS starts, finds what they kept in their home.

What the seed holds is in `test_seed.py`.
"""

from __future__ import annotations

import queue
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

import pytest

from hosts.agent.disks import create_scratch
from hosts.agent.domain import BiosDisk, Boot, Disk, MachineSpec, UefiDisk, domain_xml
from hosts.agent.fragments import emulated_display, root_port
from hosts.agent.homes import Pool
from hosts.agent.host_key import HostKey, keep_host_key
from hosts.agent.hypervisor import Hypervisor
from hosts.agent.images import open_disk_image, sha256_of
from hosts.agent.machines import Stop, StopCause
from hosts.agent.network.lanes import Lane, make_lane
from hosts.agent.network.settings import NetworkSettings
from hosts.agent.network.ways import UserNetwork
from hosts.agent.seed import write_seed
from hosts.protocol.homes import HOME_SERIAL, POOL_MARK
from hosts.protocol.messages import GuestOrder, Mount
from lab.workstation.build import prepare_workstation
from tests.agent.host_in_a_box import wait_for
from tests.agent.machine_specs import LEASE, idle_machine
from tools.pace import slowness
from tools.servers import free_port

Shell = Callable[[str], subprocess.CompletedProcess[str]]
USER = "designer"
HOME = f"/home/{USER}"
VOLUME, NEXT_LEASE = UUID(int=7), UUID(int=8)
BOOT_SECONDS = 540 * slowness()
SETTINGS = NetworkSettings(mode="user", address="127.0.0.1")


@dataclass
class Desk:
    """What a person works at: a shell of the machine, and who is told when it stops."""

    ssh: Shell
    network: UserNetwork
    lane: Lane
    stops: queue.Queue[Stop]
    key: str


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_debian_becomes_the_workstation_of_its_owner_and_so_does_the_next(
    embedded: Hypervisor, tmp_path: Path
) -> None:
    pool = Pool(tmp_path, name="studio", host="hv1")
    (tmp_path / POOL_MARK).write_text("studio\n")
    pool.attach(VOLUME, lease_id=LEASE, size_gib=1, made=False, key=None)
    home = Disk(pool.path(VOLUME), encrypted=False)
    with signed_in(embedded, tmp_path / "first", LEASE, UefiDisk(tmp_path / "nvram"), home) as desk:
        ssh = desk.ssh
        assert ssh("hostname").stdout == "studio-7\n"
        assert ssh(f"cat /etc/ssh/authorized_keys.d/{USER}").stdout == f"{desk.key}\n"
        assert ssh("sudo passwd -S designer | cut -d' ' -f2").stdout == "L\n", "locked"
        assert ssh("sudo id -un").stdout == "root\n"
        assert "LABEL=projects /projects auto defaults,nofail" in " ".join(
            ssh("cat /etc/fstab").stdout.split()
        )
        assert ssh("ls /etc/ssh/ssh_host_*_key").stdout == "/etc/ssh/ssh_host_ed25519_key\n"
        assert ssh("test -d /sys/firmware/efi").returncode == 0
        assert not nowhere_else(ssh)
        assert found_home(ssh) == [HOME, "ext4", USER]
        assert ssh("echo turntable >kept && chmod 600 kept").returncode == 0
        desk.network.admit([replace(desk.lane, is_open=False)])
        assert ssh("true").returncode != 0
        embedded.shutdown("lease-one")
        assert desk.stops.get(timeout=BOOT_SECONDS) == Stop(name="lease-one", cause=StopCause.GUEST)
    pool.detach(LEASE)
    pool.attach(VOLUME, lease_id=NEXT_LEASE, size_gib=1, made=True, key=None)
    with signed_in(embedded, tmp_path / "next", NEXT_LEASE, BiosDisk(), home) as desk:
        assert desk.ssh("test -d /sys/firmware/efi").returncode == 1
        assert found_home(desk.ssh) == [HOME, "ext4", USER]
        assert desk.ssh("cat kept && stat -c '%U %a' kept").stdout == f"turntable\n{USER} 600\n"
        assert desk.ssh("sudo test -e /var/lib/cloud/instances/" + str(LEASE)).returncode == 1


@contextmanager
def signed_in(embedded: Hypervisor, folder: Path, lease_id: UUID, boot: Boot, home: Disk) -> Iterator[Desk]:
    """The machine of a lease, once cloud-init has done its work; it is gone afterwards."""
    folder.mkdir()
    key = own_key(folder / "id")
    host_key = keep_host_key(folder / "hostkey")
    lane = replace(make_lane(SETTINGS, lease_id, 0, ()), forwards=((free_port(), 22),))
    network = UserNetwork(SETTINGS, embedded)
    guest = GuestOrder(
        hostname="studio-7",
        user=USER,
        ssh_keys=(key,),
        mounts=(
            Mount(source="LABEL=projects", target="/projects"),
            Mount(source=f"/dev/disk/by-id/virtio-{HOME_SERIAL}", target=HOME, type="ext4"),
        ),
    )
    write_seed(folder / "seed.iso", guest, instance=lease_id, host_key=host_key)
    stops: queue.Queue[Stop] = queue.Queue()
    embedded.on_stopped(stops.put)
    _devices, beside = network.join(lane)
    definition = replace(workstation(folder), boot=boot, home=home, lease_id=lease_id)
    embedded.define(domain_xml(definition, [root_port(1), emulated_display(1)], beside=beside))
    embedded.start("lease-one")
    try:
        ssh = signing_in(folder, host_key, lane)
        finished = "test -e /var/lib/cloud/instance/boot-finished"
        wait_for(lambda: ssh(finished).returncode == 0, seconds=BOOT_SECONDS)
        yield Desk(ssh, network, lane, stops, key)
    finally:
        embedded.destroy("lease-one")
        embedded.undefine("lease-one")


def found_home(ssh: Shell) -> list[str]:
    """Where the home volume is mounted, as what, and whose it is."""
    mounted = ssh(f"findmnt -n -o TARGET,FSTYPE $(readlink -f /dev/disk/by-id/virtio-{HOME_SERIAL})").stdout
    return [*mounted.split(), ssh("stat -c %U .").stdout.strip()]


def workstation(folder: Path) -> MachineSpec:
    """The machine, on a disk over the image."""
    image = prepare_workstation()
    backing = open_disk_image(image, "qcow2", sha256_of(image))
    disk = Disk(folder / "scratch.qcow2", encrypted=False, backing=backing)
    create_scratch(disk.path, size_gib=4, backing=disk.backing, encrypted=False)
    return idle_machine(folder, memory_mib=768, disk=disk, seed=folder / "seed.iso")


def own_key(path: Path) -> str:
    """A key pair at `path`, as a person makes one; the public key, without comment."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    kind, key, *_comment = path.with_suffix(".pub").read_text().split()
    return f"{kind} {key}"


def signing_in(folder: Path, host_key: HostKey, lane: Lane) -> Shell:
    """OpenSSH's own client, which knows the host key beforehand and takes no other one."""
    (port, _inside), *_none = lane.forwards
    known = folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {host_key.public}\n")
    options = {
        "UserKnownHostsFile": known,
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
        "ConnectTimeout": "20",
    }
    words = [word for option, value in options.items() for word in ("-o", f"{option}={value}")]
    command = ["ssh", "-F", "none", "-p", str(port), "-i", str(folder / "id"), *words, f"{USER}@127.0.0.1"]

    def run(line: str) -> subprocess.CompletedProcess[str]:
        done = [*command, line]
        return subprocess.run(done, check=False, capture_output=True, text=True, timeout=BOOT_SECONDS)

    return run


def nowhere_else(ssh: Shell) -> bool:
    """From inside, QEMU's own network leads nowhere: not to its host's loopback either."""
    port = free_port()
    with subprocess.Popen(["python3", "-m", "http.server", "--bind", "127.0.0.1", str(port)]) as server:
        try:
            return ssh(f"timeout 5 bash -c 'exec 3<>/dev/tcp/10.0.2.2/{port}'").returncode == 0
        finally:
            server.kill()
