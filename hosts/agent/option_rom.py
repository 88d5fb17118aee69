"""What a card's expansion ROM says about itself. Pure: bytes in, facts out, nothing guessed."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

_BIT = b"\xff\xb8BIT\x00"
_INTERNAL_USE = ord("i")


@dataclass(frozen=True)
class Rom:
    """A ROM's SHA-256, and its firmware's version where its form is known; both empty if there is none."""

    sha256: str = ""
    version: str = ""


def read_rom(rom: bytes) -> Rom:
    return Rom(hashlib.sha256(rom).hexdigest(), nvidia_version(rom)) if rom else Rom()


def nvidia_version(rom: bytes) -> str:
    """Such as 94.02.42.00.a1, from the BIOS information table of NVIDIA's ROMs; empty if there is none.

    As Linux reads it: drivers/gpu/drm/nouveau/nvkm/subdev/bios/base.c and bit.c.
    """
    table = rom.find(_BIT)
    if table < 0 or table + 12 > len(rom):
        return ""
    size, count = rom[table + 9], rom[table + 10]
    for entry in range(table + 12, table + 12 + size * count, size or 1):
        if entry + 6 > len(rom):
            return ""
        token, _, length, offset = struct.unpack_from("<BBHH", rom, entry)
        if token == _INTERNAL_USE and length >= 5 and offset + 5 <= len(rom):
            micro, minor, chip, major, patch = rom[offset : offset + 5]
            return ".".join(f"{part:02x}" for part in (major, chip, minor, micro, patch))
    return ""
