"""An option ROM for a card of the lab: what a machine may be shown instead of the card's own."""

from __future__ import annotations

import struct

# The second of the cards on a NUMA node, which only the workbench of tests/lab has.
ADDRESS = "0000:42:00.0"
FILE = "/etc/leasehold/card.rom"
_VENDOR, _DEVICE, _DISPLAY = 0x1234, 0x1111, b"\0\x80\x03"
_ABOUT = 0x1C


def option_rom() -> bytes:
    """The smallest that firmware and kernels take for one: its program returns at once."""
    program = b"\x55\xaa\x01\xcb".ljust(_ABOUT - 4, b"\0") + struct.pack("<HH", _ABOUT, 0)
    about = struct.pack("<4sHHHHB3sHHBBH", b"PCIR", _VENDOR, _DEVICE, 0, 0x18, 0, _DISPLAY, 1, 0, 0, 0x80, 0)
    rom = (program + about + b"what a machine is shown").ljust(511, b"\0")
    return rom + bytes([-sum(rom) % 256])
