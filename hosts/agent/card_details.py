"""Reads what a card is: its identity, and beside it board, versions, link and place."""

from __future__ import annotations

from hosts.agent.doctor.card_reader import best_link
from hosts.agent.option_rom import Rom
from hosts.agent.pci import PciFunction, PciTree, asked_text
from hosts.protocol.messages import CardDetails, Fingerprint

_UNREADABLE = "?"


def read_details(tree: PciTree, display: PciFunction, *, board: str, rom: Rom) -> CardDetails:
    """As far as the host's files tell. Versions of the firmware: the driver's word, else the ROM's."""
    told = _told_by_nvidia(tree, display.address)
    link = best_link(display)
    return CardDetails(
        board=board[:200],
        vbios=(told.get("Video BIOS") or display.asked("vbios_version") or rom.version)[:200],
        serial=(told.get("GPU UUID") or display.asked("unique_id"))[:200],
        driver=display.driver[:200],
        driver_version=display.text("driver/module/version")[:200],
        link=str(link) if link.width else "",
        path=tuple(display.bridges()),
        cpus=display.text("local_cpulist")[:200],
    )


def read_fingerprint(display: PciFunction, rom: Rom) -> Fingerprint:
    """What tells the card from others, and a changed one from an unchanged one."""
    return Fingerprint(
        vendor_device=display.ids,
        subsystem=display.subsystem,
        serial=display.serial(),
        firmware=f"revision {display.number('revision'):02x}",
        rom_sha256=rom.sha256,
    )


def _told_by_nvidia(tree: PciTree, address: str) -> dict[str, str]:
    """What NVIDIA's driver writes about a card that it has; it writes ? for what it cannot read."""
    text = asked_text(tree.root / "proc/driver/nvidia/gpus" / address / "information")
    rows = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in rows if _UNREADABLE not in value}
