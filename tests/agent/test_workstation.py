"""A real Debian disk image: it starts by UEFI, cloud-init reads its seed, and its owner signs in by SSH.

What the seed holds is in `test_seed.py`.
"""

from __future__ import annotations

import queue
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hosts.agent.disks import create_scratch
from hosts.agent.domain import Disk, MachineSpec, UefiDisk, domain_xml
from hosts.agent.fragments import emulated_display, root_port
from hosts.agent.host_key import HostKey, keep_host_key
from hosts.agent.hypervisor import Hypervisor
from hosts.agent.images import open_disk_image, sha256_of
from hosts.agent.machines import Stop, StopCause
from hosts.agent.network.lanes import Lane, make_lane
from hosts.agent.network.settings import NetworkSettings
from hosts.agent.network.ways import UserNetwork
from hosts.agent.seed import write_seed
from hosts.protocol.messages import GuestOrder, Mount
from lab.workstation.build import prepare_workstation
from tests.agent.host_in_a_box import wait_for
from tests.agent.machine_specs import LEASE, idle_machine
from tools.pace import slowness
from tools.servers import free_port

Shell = Callable[[str], subprocess.CompletedProcess[str]]
USER = "designer"
BOOT_SECONDS = 540 * slowness()
SETTINGS = NetworkSettings(mode="user", address="127.0.0.1")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_debian_becomes_the_workstation_of_its_owner(embedded: Hypervisor, tmp_path: Path) -> None:
    key = own_key(tmp_path / "id")
    host_key = keep_host_key(tmp_path / "hostkey")
    lane = replace(make_lane(SETTINGS, LEASE, 0, ()), forwards=((free_port(), 22),))
    network = UserNetwork(SETTINGS, embedded)
    guest = GuestOrder(
        hostname="studio-7",
        user=USER,
        ssh_keys=(key,),
        mounts=(Mount(source="LABEL=projects", target="/projects"),),
    )
    write_seed(tmp_path / "seed.iso", guest, instance=LEASE, host_key=host_key)
    stops: queue.Queue[Stop] = queue.Queue()
    embedded.on_stopped(stops.put)
    _devices, beside = network.join(lane)
    definition = workstation(tmp_path)
    embedded.define(domain_xml(definition, [root_port(1), emulated_display(1)], beside=beside))
    embedded.start("lease-one")
    try:
        ssh = signing_in(tmp_path, host_key, lane)
        wait_for(lambda: ssh("true").returncode == 0, seconds=BOOT_SECONDS)
        wait_for(
            lambda: ssh("test -e /var/lib/cloud/instance/boot-finished").returncode == 0, seconds=BOOT_SECONDS
        )
        assert ssh("hostname").stdout == "studio-7\n"
        assert ssh("cat .ssh/authorized_keys").stdout == f"{key}\n"
        assert ssh("sudo passwd -S designer | cut -d' ' -f2").stdout == "L\n", "locked"
        assert ssh("sudo id -un").stdout == "root\n"
        assert "LABEL=projects /projects auto defaults,nofail" in " ".join(
            ssh("cat /etc/fstab").stdout.split()
        )
        assert ssh("ls /etc/ssh/ssh_host_*_key").stdout == "/etc/ssh/ssh_host_ed25519_key\n"
        assert not nowhere_else(ssh)
        network.admit([replace(lane, is_open=False)])
        assert ssh("true").returncode != 0
        embedded.shutdown("lease-one")
        assert stops.get(timeout=BOOT_SECONDS) == Stop(name="lease-one", cause=StopCause.GUEST)
    finally:
        embedded.destroy("lease-one")
        embedded.undefine("lease-one")


def workstation(folder: Path) -> MachineSpec:
    """The machine, on a disk over the image."""
    image = prepare_workstation()
    backing = open_disk_image(image, "qcow2", sha256_of(image))
    disk = Disk(folder / "scratch.qcow2", encrypted=False, backing=backing)
    create_scratch(disk.path, size_gib=4, backing=disk.backing, encrypted=False)
    return replace(
        idle_machine(folder, memory_mib=768, disk=disk),
        boot=UefiDisk(nvram=folder / "lease-one.nvram"),
        seed=folder / "seed.iso",
    )


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
