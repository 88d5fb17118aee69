"""USB devices that are plugged into the host for machines: which there are, and which one may have."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from hosts.agent.doctor.reader import Reader
from hosts.agent.guest import plain
from hosts.protocol import machine as protocol

DEVICES = "sys/bus/usb/devices"
HUB_CLASS = "09"
MOST_TOLD = 32
LONGEST_NAME = 80
_USB_ID = re.compile(r"[0-9a-f]{4}:[0-9a-f]{4}")
# Never `usb1`, which is a bus's root hub, nor `1-2:1.0`, which is a part of a device.
_PORT = re.compile(r"[0-9]{1,3}-[0-9]{1,3}(\.[0-9]{1,3}){0,6}")


class UsbRefused(Exception):
    """The machine cannot have the device; the text says why, and what to do."""


@dataclass(frozen=True)
class UsbDevice:
    """`usb_id` is vendor and product, such as 056a:0357, `port` where it is plugged in, such as 1-2.3.

    Each plugging in gives another number `device`.
    """

    usb_id: str
    bus: int
    device: int
    port: str = ""
    name: str = ""

    @property
    def address(self) -> tuple[int, int]:
        return self.bus, self.device


def read_usb(reader: Reader) -> list[UsbDevice]:
    """What is plugged in, without hubs, which carry what is not theirs."""
    return sorted(_devices(reader), key=lambda found: found.address)


def offered(allowed: Collection[str], present: Collection[UsbDevice]) -> tuple[protocol.UsbDevice, ...]:
    """What the portal is told of: the devices that machines may be given."""
    told = [
        protocol.UsbDevice(usb_id=device.usb_id, port=device.port, name=device.name)
        for device in present
        if device.usb_id in allowed
    ]
    return tuple(sorted(told, key=lambda each: each.port)[:MOST_TOLD])


def choose(
    wanted: Collection[str],
    *,
    named: Sequence[protocol.UsbDevice] = (),
    allowed: Collection[str],
    present: Collection[UsbDevice],
    used: Collection[tuple[int, int]],
) -> tuple[UsbDevice, ...]:
    """Those that are `named` by their ports, then a device of its own for each id that is wanted.

    UsbRefused if one is not allowed, not there, or in use.
    """
    chosen: list[UsbDevice] = []
    for device in named:
        _check_allowed(device.usb_id, allowed)
        chosen.append(_free(device.usb_id, present, [*used, *_addresses(chosen)], port=device.port))
    for usb_id in wanted:
        _check_allowed(usb_id, allowed)
        chosen.append(_free(usb_id, present, [*used, *_addresses(chosen)]))
    return tuple(chosen)


def _check_allowed(usb_id: str, allowed: Collection[str]) -> None:
    if usb_id not in allowed:
        raise UsbRefused(
            f"USB devices {usb_id} are given to no machine on this host:"
            " `usb_devices` in host.toml does not name them."
        )


def _free(
    usb_id: str, present: Collection[UsbDevice], used: Collection[tuple[int, int]], *, port: str = ""
) -> UsbDevice:
    alike = [device for device in present if device.usb_id == usb_id and port in ("", device.port)]
    if not alike:
        where = f"port {port} of this host" if port else "this host"
        raise UsbRefused(f"No USB device {usb_id} is plugged into {where}.")
    free = [device for device in alike if device.address not in used]
    if not free:
        raise UsbRefused(f"Another machine has the USB device {usb_id}; plug in one more.")
    return free[0]


def _addresses(devices: Collection[UsbDevice]) -> list[tuple[int, int]]:
    return [device.address for device in devices]


def _devices(reader: Reader) -> Iterator[UsbDevice]:
    for name in reader.names(DEVICES):
        place = f"{DEVICES}/{name}"
        usb_id = f"{reader.text(f'{place}/idVendor')}:{reader.text(f'{place}/idProduct')}"
        bus, device = reader.text(f"{place}/busnum"), reader.text(f"{place}/devnum")
        is_hub = reader.text(f"{place}/bDeviceClass") == HUB_CLASS
        is_one = _PORT.fullmatch(name) and _USB_ID.fullmatch(usb_id)
        if is_one and bus.isdigit() and device.isdigit() and not is_hub:
            yield UsbDevice(usb_id, int(bus), int(device), port=name, name=_name(reader, place))


def _name(reader: Reader, place: str) -> str:
    """What it calls itself, in its own words."""
    maker, product = reader.text(f"{place}/manufacturer"), reader.text(f"{place}/product")
    words = product if product.startswith(maker) else f"{maker} {product}"
    return plain(words, LONGEST_NAME)
