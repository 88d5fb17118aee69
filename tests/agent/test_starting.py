"""What a definition says of a machine's start and place, asked of one that runs: by its own words, or by the
kernel's about its process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hosts.agent.disks import create_scratch
from hosts.agent.domain import BiosDisk, Disk, MachineSpec, domain_xml
from hosts.agent.hypervisor import Hypervisor
from hosts.agent.images import open_disk_image, sha256_of
from hosts.agent.placing import Placement
from tests.agent.host_in_a_box import wait_for
from tests.agent.machine_specs import idle_machine

GREETING = b"started from the disk"
# A boot sector that writes to the serial port what follows it, and halts:
# xor ax,ax; mov ds,ax; mov si,0x7c15; mov dx,0x3f8; next: lodsb; test al,al; jz end; out dx,al; jmp next;
# end: hlt; jmp end
PROGRAM = bytes.fromhex("31c0 8ed8 be157c baf803 ac 84c0 7403 ee ebf8 f4 ebfd")
SECTOR = (PROGRAM + GREETING).ljust(510, b"\0") + b"\x55\xaa"
HERE = sorted(os.sched_getaffinity(0))


@pytest.fixture
def started(embedded: Hypervisor, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MachineSpec]:
    """A machine with what the test changes of an idle one."""
    spec = idle_machine(tmp_path, **request.param(tmp_path))
    embedded.define(domain_xml(spec, []))
    embedded.start(spec.name)
    yield spec
    embedded.destroy(spec.name)
    embedded.undefine(spec.name)


def bios_disk(folder: Path) -> dict[str, object]:
    """A scratch disk over a golden image, as a lease has it."""
    image = folder / "golden.raw"
    image.write_bytes(SECTOR.ljust(1 << 20, b"\0"))
    backing = open_disk_image(image, "raw", sha256_of(image))
    disk = Disk(folder / "scratch.qcow2", encrypted=False, backing=backing)
    create_scratch(disk.path, size_gib=1, backing=backing, encrypted=False)
    return {"boot": BiosDisk(), "disk": disk}


def on_a_node(_folder: Path) -> dict[str, object]:
    """Two processors of the guest on two of the host's, in an order that is nobody's default."""
    placement = Placement(numa_node=0, cpus=(HERE[-1], HERE[0]), emulator_cpus=(HERE[-1],))
    return {"vcpus": 2, "placement": placement}


@pytest.mark.parametrize("started", [bios_disk], indirect=True)
def test_a_bios_starts_what_lies_on_the_disk(started: MachineSpec) -> None:
    wait_for(lambda: GREETING in started.serial_log.read_bytes())


@pytest.mark.skipif(os.geteuid() != 0, reason="whose memory is where is told to root")
@pytest.mark.parametrize("started", [on_a_node], indirect=True)
def test_its_processors_and_its_memory_are_where_they_were_placed(
    embedded_root: Path, started: MachineSpec
) -> None:
    process = process_of(embedded_root, started)
    allowed = {name: cpus for name, cpus in threads_of(process) if name.startswith("CPU ")}
    assert allowed == {"CPU 0/TCG": str(HERE[-1]), "CPU 1/TCG": str(HERE[0])}
    memory = [line for line in (process / "numa_maps").read_text().splitlines() if "bind:0" in line]
    assert memory


def process_of(root: Path, spec: MachineSpec) -> Path:
    return Path("/proc") / (root / "run" / "qemu" / f"{spec.name}.pid").read_text().strip()


def threads_of(process: Path) -> Iterator[tuple[str, str]]:
    """The name of each, and where it may run."""
    for thread in process.glob("task/*"):
        allowed = re.search(r"Cpus_allowed_list:\s*(\S+)", (thread / "status").read_text())
        assert allowed is not None
        yield (thread / "comm").read_text().strip(), allowed[1]
