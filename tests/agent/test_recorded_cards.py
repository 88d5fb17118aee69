"""What is read from the files of a real card, as they were recorded."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from hosts.agent import nvidia
from hosts.agent.sysfs import SysfsBus
from hosts.protocol.messages import CardDetails, Fingerprint
from tests.agent.fake_sysfs import FakeHost, FakeKernel
from tests.agent.recorded_cards import lay_out

H200_MEMORY_MIB = 143_771  # as its vendor's tool says
H200_FIRST_REGISTER = 0x180 << 20


@pytest.fixture
def h200(tmp_path: Path) -> tuple[Path, SysfsBus, str]:
    kernel = FakeKernel(FakeHost(tmp_path))
    address = lay_out("h200", tmp_path, driver="nvidia")
    return tmp_path, SysfsBus(tmp_path, kernel=kernel), address


def test_an_h200_is_told_by_its_own_serial_and_versions(h200: tuple[Path, SysfsBus, str]) -> None:
    _, bus, address = h200
    (card,) = bus.cards()
    assert (card.address, card.functions) == (address, (address,))
    assert card.fingerprint == Fingerprint(
        vendor_device="10de:2335", subsystem="10de:18bf", serial="0123456789abcdef", firmware="revision a1"
    )
    assert card.details == CardDetails(
        vbios="96.00.a5.00.1a",
        serial="GPU-01234567-89ab-cdef-0123-456789abcdef",
        driver="nvidia",
        link="x16 at 32.0 GT/s",
        cpus="0-15",
    )


def test_the_memory_of_an_h200_is_what_its_register_says_not_its_bar(
    h200: tuple[Path, SysfsBus, str],
) -> None:
    """The BAR is the next power of two; what lies beyond the memory in it cannot be scrubbed."""
    root, bus, address = h200
    assert bus.card(address).memory_bytes == 256 << 30
    device = root / "sys/bus/pci/devices" / address
    (device / "driver").unlink()
    (device / "driver").symlink_to(root / "sys/bus/pci/drivers/vfio-pci")
    with (device / "resource0").open("r+b") as registers:
        registers.write(struct.pack("<I", H200_FIRST_REGISTER))
        registers.seek(nvidia.layout(H200_FIRST_REGISTER).memory_size)
        registers.write(struct.pack("<I", H200_MEMORY_MIB))
    assert bus.card(address).memory_bytes == H200_MEMORY_MIB << 20


def test_registers_are_not_written_late(h200: tuple[Path, SysfsBus, str]) -> None:
    """The kernel offers to combine writes to an H200's registers, too."""
    root, bus, address = h200
    device = root / "sys/bus/pci/devices" / address
    with bus.registers(bus.card(address)) as registers:
        registers.write32(0x1700, 0xABCD)
    assert (device / "resource0").read_bytes()[0x1700:0x1704] == struct.pack("<I", 0xABCD)
    assert not any((device / "resource0_wc").read_bytes()[0x1700:0x1704])
