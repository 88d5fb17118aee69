"""The domain XML: golden files say what comes out, and every property of a specification must show in it."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from lxml import etree

from hosts.agent.domain import (
    Backing,
    BiosDisk,
    DirectKernel,
    Disk,
    MachineSpec,
    UefiDisk,
    domain_xml,
)
from hosts.agent.domain_facts import read_console_socket, read_facts
from hosts.agent.fragments import emulated_display, hostdevs, root_port, show_rom
from hosts.agent.machines import MachineState
from hosts.agent.placing import Occupied, Placement
from hosts.agent.usb import UsbDevice

GOLDEN = Path(__file__).parent / "golden"

DEMO = MachineSpec(
    name="lease-demo",
    uuid=UUID("0b6a3a52-8f55-4a1c-8a43-3f2d7f0c9e21"),
    lease_id=UUID("6f0f8f3e-2f0a-4d0e-9a53-0d3f6c1f2b10"),
    generation=3,
    vcpus=2,
    memory_mib=256,
    boot=DirectKernel(Path("/images/vmlinux"), Path("/images/initrd.img"), "console=ttyS0 quiet"),
    disk=Disk(Path("/disks/lease-demo.qcow2"), encrypted=False),
    serial_log=Path("/logs/lease-demo.log"),
    domain_type="qemu",
)
PRODUCTION = MachineSpec(
    name="lease-production",
    uuid=UUID("5d1f6c0e-7b3c-4be1-90c9-0fd5a6c6a1f4"),
    lease_id=UUID("e0a9d0a6-0a0c-4b52-8a39-7ad1c7a1e3d5"),
    generation=1,
    vcpus=16,
    memory_mib=131072,
    boot=UefiDisk(nvram=Path("/nvram/lease-production.fd")),
    disk=Disk(Path("/disks/lease-production.qcow2"), backing=Backing(Path("/images/golden.raw"), "raw")),
    serial_log=Path("/logs/lease-production.log"),
    seed=Path("/machines/lease-production.seed.iso"),
    vnc_socket=Path("/run/consoles/lease-production.sock"),
    placement=Placement(
        numa_node=1,
        page_kib=1 << 20,
        cpus=tuple(range(16, 32)),
        emulator_cpus=(14, 15),
        threads=2,
    ),
    usb=(UsbDevice("056a:0357", bus=3, device=7),),
)
WINDOWS = replace(
    PRODUCTION,
    boot=UefiDisk(nvram=Path("/nvram/lease-windows.fd"), secure=True),
    seed=None,
    tpm=True,
    hides_hypervisor=True,
    placement=Placement(numa_node=0, strict=False, shared_cpus=(0, 1, 2)),
    usb=(),
)
TWO_GPUS = [
    element
    for slot, address in enumerate(("0000:41:00", "0000:81:00"), start=1)
    for element in (root_port(slot), *hostdevs([f"{address}.0", f"{address}.1"], slot=slot))
]
WITH_ROM = [root_port(1), *hostdevs(["0000:41:00.0", "0000:41:00.1"], slot=1)]
show_rom(WITH_ROM, Path("/etc/leasehold/a6000.rom"))
CASES = {
    "direct-kernel-emulated-gpu": (DEMO, [root_port(1), emulated_display(1)]),
    "bios-gpu-with-rom": (replace(PRODUCTION, boot=BiosDisk()), WITH_ROM),
    "windows-11": (WINDOWS, [root_port(1), *hostdevs(["0000:41:00.0"], slot=1)]),
    "two-gpus": (PRODUCTION, TWO_GPUS),
    "uefi-two-function-gpu": (
        PRODUCTION,
        [root_port(1), *hostdevs(["0000:41:00.0", "0000:41:00.1"], slot=1)],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_specification_gives_its_golden_file(case: str, pytestconfig: pytest.Config) -> None:
    golden, xml = GOLDEN / f"{case}.xml", domain_xml(*CASES[case])
    if pytestconfig.getoption("write_golden"):
        golden.write_text(xml)
    assert xml == golden.read_text()


def variants(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Copies of a specification that differ from it in exactly one property, however deep."""
    found: list[tuple[str, Any]] = []
    for field in fields(value):
        inner = getattr(value, field.name)
        name = f"{path}{field.name}"
        changed = variants(inner, f"{name}.") if is_dataclass(inner) else [(name, other(inner))]
        found += [(name, replace(value, **{field.name: changed_inner})) for name, changed_inner in changed]
    return found


def other(value: Any) -> Any:
    """A different value of the same kind."""
    match value:
        case bool():
            return not value
        case BiosDisk():
            return UefiDisk(nvram=Path("/nvram"))
        case None:
            return Disk(path=Path("/home.qcow2"))
        case int():
            return value + 1
        case (UsbDevice(),):
            return (replace(value[0], device=value[0].device + 1),)
        case tuple():
            return (*value[:-1], value[-1] + 1) if value else (5,)
        case Path():
            return value / "other"
        case UUID():
            return UUID(int=7)
        case str():
            return {"kvm": "qemu", "qemu": "kvm", "raw": "qcow2", "qcow2": "raw"}.get(value, f"{value}9")
    raise AssertionError(f"no other value for {value!r}")


WHOLES = (PRODUCTION, replace(PRODUCTION, name="lease-kernel", boot=DEMO.boot))
CHANGES = [
    pytest.param(whole, changed, id=f"{whole.name}-{name}")
    for whole in WHOLES
    for name, changed in variants(whole)
]


@pytest.mark.parametrize(("whole", "changed"), CHANGES)
def test_every_property_shows(whole: MachineSpec, changed: MachineSpec) -> None:
    assert domain_xml(changed, []) != domain_xml(whole, [])


def test_text_is_escaped_not_spliced() -> None:
    boot = DirectKernel(Path("/k"), Path("/i"), "a=</cmdline><x/>&b")
    domain = etree.fromstring(domain_xml(replace(DEMO, boot=boot), []))
    assert domain.findtext("os/cmdline") == "a=</cmdline><x/>&b"
    assert domain.find("os/x") is None


def test_libvirt_never_rebinds_a_gpu() -> None:
    domain = etree.fromstring(domain_xml(*CASES["uefi-two-function-gpu"]))
    assert [hostdev.get("managed") for hostdev in domain.findall("devices/hostdev")] == ["no"] * 3


def test_a_golden_image_ends_the_backing_chain_with_its_format_stated() -> None:
    domain = etree.fromstring(domain_xml(PRODUCTION, []))
    store = domain.find("devices/disk/backingStore")
    assert store is not None
    assert [child.tag for child in store] == ["format", "source", "backingStore"]
    assert len(store[2]) == 0


def test_the_facts_of_a_machine_are_read_back() -> None:
    facts = read_facts(domain_xml(*CASES["uefi-two-function-gpu"]), MachineState.RUNNING)
    assert (facts.name, facts.uuid, facts.state) == (PRODUCTION.name, PRODUCTION.uuid, MachineState.RUNNING)
    assert (facts.lease_id, facts.generation) == (PRODUCTION.lease_id, 1)
    assert facts.pci_addresses == {"0000:41:00.0", "0000:41:00.1"}
    assert facts.occupied == Occupied(frozenset(range(16, 32)), frozenset({1}), 131072, 1 << 20)
    assert facts.usb == {(3, 7)}


STRANGER = """
<domain type='kvm'>
  <name>stranger</name>
  <uuid>11111111-2222-3333-4444-555555555555</uuid>
  <devices>
    <hostdev mode='subsystem' type='pci'>
      <source><address domain='0' bus='65' slot='0x00' function='0x0'/></source>
    </hostdev>
    <hostdev mode='subsystem' type='usb'><source><address bus='1' device='4'/></source></hostdev>
    <interface type='hostdev'>
      <source><address type='pci' domain='0x0000' bus='0x0a' slot='0x10' function='0x2'/></source>
    </interface>
    <graphics type='vnc' port='5900'><listen type='address' address='127.0.0.1'/></graphics>
  </devices>
</domain>"""


def test_a_strangers_devices_are_seen_however_they_are_written() -> None:
    facts = read_facts(STRANGER, MachineState.OFF)
    assert (facts.lease_id, facts.generation) == (None, None)
    assert facts.pci_addresses == {"0000:41:00.0", "0000:0a:10.2"}
    assert read_console_socket(STRANGER) is None
