"""USB devices that are plugged into the host for a machine: which there are, and which one may have."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from hosts.agent.doctor.reader import Reader

DEVICES = "sys/bus/usb/devices"
HUB_CLASS = "09"


class UsbRefused(Exception):
    """The machine cannot have the device; the text says why, and what to do."""


@dataclass(frozen=True)
class UsbDevice:
    """`usb_id` is vendor and product, such as 056a:0357. Each plugging in gives another number `device`."""

    usb_id: str
    bus: int
    device: int

    @property
    def address(self) -> tuple[int, int]:
        return self.bus, self.device


def read_usb(reader: Reader) -> list[UsbDevice]:
    """What is plugged in, without hubs, which carry what is not theirs."""
    return sorted(_devices(reader), key=lambda found: found.address)


def choose(
    wanted: Collection[str],
    *,
    allowed: Collection[str],
    present: Collection[UsbDevice],
    used: Collection[tuple[int, int]],
) -> tuple[UsbDevice, ...]:
    """A device of its own for each id. UsbRefused if one is not allowed, not there, or all are in use."""
    chosen: list[UsbDevice] = []
    for usb_id in wanted:
        if usb_id not in allowed:
            raise UsbRefused(
                f"USB devices {usb_id} are given to no machine on this host:"
                " `usb_devices` in host.toml does not name them."
            )
        alike = [device for device in present if device.usb_id == usb_id]
        if not alike:
            raise UsbRefused(f"No USB device {usb_id} is plugged into this host.")
        free = [device for device in alike if device.address not in used and device not in chosen]
        if not free:
            raise UsbRefused(f"Another machine has the USB device {usb_id}; plug in one more.")
        chosen.append(free[0])
    return tuple(chosen)


def _devices(reader: Reader) -> Iterator[UsbDevice]:
    for name in reader.names(DEVICES):
        place = f"{DEVICES}/{name}"
        vendor, product = reader.text(f"{place}/idVendor"), reader.text(f"{place}/idProduct")
        bus, device = reader.text(f"{place}/busnum"), reader.text(f"{place}/devnum")
        is_hub = reader.text(f"{place}/bDeviceClass") == HUB_CLASS
        if vendor and bus.isdigit() and device.isdigit() and not is_hub:
            yield UsbDevice(f"{vendor}:{product}", int(bus), int(device))
