"""A real Debian disk image: it starts by UEFI, and cloud-init makes of it what the seed says.

Takes minutes in emulation, so it runs only with `--boot-debian`; what the seed holds is in `test_seed.py`.
"""

from __future__ import annotations

import queue
from dataclasses import replace
from pathlib import Path

import pytest

from hosts.agent.disks import create_scratch
from hosts.agent.domain import Disk, UefiDisk, domain_xml
from hosts.agent.fragments import emulated_display, root_port
from hosts.agent.hypervisor import Hypervisor
from hosts.agent.images import open_disk_image, sha256_of
from hosts.agent.machines import Stop, StopCause
from hosts.agent.seed import write_seed
from hosts.protocol.messages import GuestOrder, Mount
from lab.workstation.build import prepare_workstation
from tests.agent.machine_specs import LEASE, idle_machine
from tests.agent.test_seed import KEY

GUEST = GuestOrder(
    hostname="studio-7",
    user="designer",
    ssh_keys=(KEY,),
    mounts=(Mount(source="LABEL=projects", target="/projects"),),
)
BOOT_SECONDS = 540


@pytest.mark.timeout(1200)
def test_debian_becomes_the_workstation_of_its_owner(
    embedded: Hypervisor, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    if not pytestconfig.getoption("boot_debian"):
        pytest.skip("runs with --boot-debian")
    image = prepare_workstation()
    disk = Disk(
        tmp_path / "scratch.qcow2",
        encrypted=False,
        backing=open_disk_image(image, "qcow2", sha256_of(image)),
    )
    create_scratch(disk.path, size_gib=4, backing=disk.backing, encrypted=False)
    spec = replace(
        idle_machine(tmp_path, memory_mib=768, disk=disk),
        boot=UefiDisk(nvram=tmp_path / "lease-one.nvram"),
        seed=tmp_path / "seed.iso",
    )
    write_seed(tmp_path / "seed.iso", GUEST, instance=LEASE)
    stops: queue.Queue[Stop] = queue.Queue()
    embedded.on_stopped(stops.put)
    embedded.define(domain_xml(spec, [root_port(1), emulated_display(1)]))
    embedded.start("lease-one")
    assert stops.get(timeout=BOOT_SECONDS) == Stop(name="lease-one", cause=StopCause.GUEST)
    said = spec.serial_log.read_text(errors="replace").splitlines()
    assert "hostname studio-7" in said
    assert f"key {KEY}" in said
    assert "password L" in said, "locked"
    assert any(line.startswith("user designer ") for line in said)
    assert any("NOPASSWD: ALL" in line for line in said)
    assert any(line.startswith("mounts LABEL=projects /projects auto defaults,nofail") for line in said)
    embedded.undefine("lease-one")
