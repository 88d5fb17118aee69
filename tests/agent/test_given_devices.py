"""What the operator of a host allows machines: USB devices by their ids, ROM files by their digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from lxml import etree

from hosts.agent.config import ConfigError, Rom, load_settings
from hosts.agent.fragments import hostdevs, root_port
from hosts.agent.inventory import take_inventory
from hosts.agent.usb import DEVICES
from hosts.protocol.messages import GpuOrder, MachineRunning, Power, ProvisionFailed, UsbDevice
from tests.agent.host_in_a_box import Box, a_box, gpu_order

LEASE = f"lease:{UUID(int=1)}"
TABLET, KEYBOARD = "056a:0357", "046d:c31c"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with a_box(tmp_path, usb_devices=(TABLET,)) as box:
        yield box


def plug_in(box: Box, place: str, usb_id: str, *, device: int, kind: str = "00", product: str = "") -> None:
    folder = box.directory / "kernel" / DEVICES / place
    folder.mkdir(parents=True, exist_ok=True)
    vendor, model = usb_id.split(":")
    facts = {"idVendor": vendor, "idProduct": model, "busnum": "1", "devnum": device, "bDeviceClass": kind}
    facts |= {"manufacturer": "Wacom Co.", "product": product}
    for name, value in facts.items():
        (folder / name).write_text(f"{value}\n")


def provision(
    box: Box, order: GpuOrder, *, lease: int = 1, usb: str = TABLET, port: str | None = None
) -> None:
    goal = box.provision(order, lease=lease)
    usb_order: dict[str, object] = {"usb": (usb,)}
    if port is not None:
        usb_order = {"chosen_usb": (UsbDevice(usb_id=usb, port=port),)}
    goal = msgspec.structs.replace(goal, machine=msgspec.structs.replace(goal.machine, **usb_order))
    box.carry_out(goal, subject=f"lease:{goal.lease_id}")


def given(box: Box, machine: str = "lease-1") -> list[int]:
    domain = etree.fromstring(box.machines.xml(machine))
    return [int(at.get("device", "")) for at in domain.findall("devices/hostdev[@type='usb']/source/address")]


def refusal(box: Box) -> str:
    failed = box.last(ProvisionFailed)
    assert failed.step == "define"
    return failed.reason


def test_a_machine_is_given_the_tablet_that_is_plugged_in_for_it(box: Box) -> None:
    plug_in(box, "1-1", KEYBOARD, device=3)
    plug_in(box, "1-2", TABLET, device=4)
    provision(box, box.intake())
    assert box.events(MachineRunning)
    assert given(box) == [4]


def test_each_machine_has_one_of_its_own(box: Box) -> None:
    plug_in(box, "1-2", TABLET, device=4)
    plug_in(box, "1-3", TABLET, device=5)
    orders = [box.intake(number) for number in range(3)]
    for number, order in enumerate(orders, start=1):
        provision(box, order, lease=number)
    assert [given(box, f"lease-{number}") for number in (1, 2)] == [[4], [5]]
    assert refusal(box) == f"Another machine has the USB device {TABLET}; plug in one more."


def test_what_the_host_does_not_name_is_given_to_nobody(box: Box) -> None:
    plug_in(box, "1-1", KEYBOARD, device=3)
    provision(box, box.intake(), usb=KEYBOARD)
    assert "`usb_devices` in host.toml does not name them" in refusal(box)


def test_what_is_not_there_is_missed(box: Box) -> None:
    provision(box, box.intake())
    assert refusal(box) == f"No USB device {TABLET} is plugged into this host."


def test_a_hub_is_never_given(box: Box) -> None:
    plug_in(box, "1-2", TABLET, device=4, kind="09")
    provision(box, box.intake())
    assert "is plugged into this host" in refusal(box)


def test_one_that_was_plugged_in_anew_is_found_at_the_next_start(box: Box) -> None:
    plug_in(box, "1-2", TABLET, device=4)
    provision(box, box.intake())
    box.carry_out(Power(lease_id=UUID(int=1), action="off", shutdown_seconds=0), subject=LEASE)
    plug_in(box, "1-2", TABLET, device=9)
    box.carry_out(Power(lease_id=UUID(int=1), action="on", shutdown_seconds=0), subject=LEASE)
    assert given(box) == [9]


def test_the_portal_is_told_of_what_machines_may_be_given_alone(box: Box) -> None:
    plug_in(box, "1-1", KEYBOARD, device=3)
    plug_in(box, "1-2.4", TABLET, device=4, product="Intuos\u202e Pro\x1b")
    plug_in(box, "usb1", TABLET, device=1)
    plug_in(box, "1-3", TABLET, device=7, kind="09")
    told = take_inventory(box.rig).usb
    assert told == (UsbDevice(usb_id=TABLET, port="1-2.4", name="Wacom Co. Intuos  Pro"),)


def test_who_has_chosen_one_gets_that_one(box: Box) -> None:
    plug_in(box, "1-2", TABLET, device=4)
    plug_in(box, "1-3", TABLET, device=5)
    first, second = box.intake(0), box.intake(1)
    provision(box, first, port="1-3")
    assert given(box) == [5]
    provision(box, second, lease=2, port="1-3")
    assert "Another machine has the USB device" in refusal(box)


def test_another_port_is_another_device(box: Box) -> None:
    plug_in(box, "1-2", TABLET, device=4)
    provision(box, box.intake(), port="1-3")
    assert refusal(box) == f"No USB device {TABLET} is plugged into port 1-3 of this host."


def test_what_is_chosen_has_to_be_allowed_too(box: Box) -> None:
    plug_in(box, "1-1", KEYBOARD, device=3)
    provision(box, box.intake(), usb=KEYBOARD, port="1-1")
    assert "does not name them" in refusal(box)


def with_rom(box: Box, content: bytes, *, digest: str) -> Rom:
    path = box.directory / "card.rom"
    path.write_bytes(content)
    rom = Rom(address=gpu_order().address, file=path, sha256=digest)
    box.config = msgspec.structs.replace(box.config, roms=(rom,))
    return rom


def real_card(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated bus, with the fragments of a real card."""
    monkeypatch.setattr(
        type(box.rig.bus),
        "gpu_fragments",
        lambda _bus, card, *, slot: [root_port(slot), *hostdevs(card.functions, slot=slot)],
    )


def test_a_card_is_shown_with_the_rom_that_the_operator_gave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_box(tmp_path) as box:
        rom = with_rom(box, b"rom", digest=hashlib.sha256(b"rom").hexdigest())
        box.restart()
        real_card(box, monkeypatch)
        box.carry_out(box.provision(box.intake()), subject=LEASE)
        roms = etree.fromstring(box.machines.xml("lease-1")).findall("devices/hostdev/rom")
        assert [each.get("file") for each in roms] == [str(rom.file), None]


def test_a_rom_that_was_changed_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with a_box(tmp_path) as box:
        with_rom(box, b"another", digest=hashlib.sha256(b"rom").hexdigest())
        box.restart()
        real_card(box, monkeypatch)
        box.carry_out(box.provision(box.intake()), subject=LEASE)
        assert "it was changed or damaged" in refusal(box)


SETTINGS = """
usb_devices = ["056a:0357"]
[[roms]]
address = "0000:41:00.0"
file = "/etc/leasehold/a6000.rom"
sha256 = "{digest}"
"""


def test_both_are_named_in_the_hosts_configuration(tmp_path: Path) -> None:
    path = tmp_path / "host.toml"
    path.write_text(SETTINGS.format(digest="5eed" * 16))
    settings = load_settings(path)
    assert settings.usb_devices == (TABLET,)
    assert settings.roms[0].file == Path("/etc/leasehold/a6000.rom")


@pytest.mark.parametrize(
    ("old", "new"), [("056a:0357", "*:*"), ("/etc/", "etc/"), ("0000:41", "41"), ("5eed5eed", "")]
)
def test_what_they_are_is_checked(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "host.toml"
    path.write_text(SETTINGS.format(digest="5eed" * 16).replace(old, new, 1))
    with pytest.raises(ConfigError):
        load_settings(path)
