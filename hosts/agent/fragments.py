"""The part of a domain's XML that gives a machine its GPUs; the rest of the XML does not know about cards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from lxml import etree


def root_port(slot: int) -> etree._Element:
    """A PCIe root port whose index is also the guest's bus number behind it."""
    return etree.Element("controller", type="pci", index=str(slot), model="pcie-root-port")


def hostdevs(functions: Sequence[str], *, slot: int) -> list[etree._Element]:
    """The card's functions, kept together in one guest slot.

    `managed='no'`: libvirt must neither bind nor unbind. The option ROM stays hidden: the emulated display is
    the boot display, and firmware of the guest runs nothing that a tenant may have written to the card.
    """
    return [_hostdev(function, slot, shared=len(functions) > 1) for function in functions]


def show_rom(fragments: Iterable[etree._Element], rom: Path) -> None:
    """Give the card whose fragments these are a ROM from a file: some drivers do not start without."""
    for fragment in fragments:
        shown = fragment.find("rom")
        if shown is not None and fragment.find("source/address[@function='0x0']") is not None:
            shown.set("bar", "on")
            shown.set("file", str(rom))


def mediated_device(name: str, *, slot: int) -> etree._Element:
    """A vGPU that the host knows by its UUID alone."""
    hostdev = etree.Element("hostdev", mode="subsystem", type="mdev", managed="no", model="vfio-pci")
    etree.SubElement(etree.SubElement(hostdev, "source"), "address", uuid=name)
    _guest_address(hostdev, slot, "0")
    return hostdev


def emulated_display(slot: int) -> etree._Element:
    """What stands for a simulated GPU: a second, emulated display behind its own root port."""
    video = etree.Element("video")
    etree.SubElement(video, "model", type="virtio")
    _guest_address(video, slot, "0")
    return video


def _hostdev(function: str, slot: int, *, shared: bool) -> etree._Element:
    domain, bus, rest = function.split(":")
    device, number = rest.split(".")
    hostdev = etree.Element("hostdev", mode="subsystem", type="pci", managed="no")
    etree.SubElement(hostdev, "driver", name="vfio")
    source = etree.SubElement(hostdev, "source")
    host_address = {"domain": domain, "bus": bus, "slot": device, "function": number}
    etree.SubElement(source, "address", {key: f"0x{value}" for key, value in host_address.items()})
    etree.SubElement(hostdev, "rom", bar="off")
    # One that comes alone is the first function of its slot, or the guest would not look for it.
    guest = _guest_address(hostdev, slot, number if shared else "0")
    if shared and number == "0":
        guest.set("multifunction", "on")
    return hostdev


def _guest_address(device: etree._Element, slot: int, function: str) -> etree._Element:
    place = {"type": "pci", "domain": "0x0000", "bus": f"0x{slot:02x}", "slot": "0x00"}
    return etree.SubElement(device, "address", {**place, "function": f"0x{function}"})
