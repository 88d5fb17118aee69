"""What an uploaded image must be, judged by what qemu-img says of it. Pure but for the VDI's own header."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leasing.imaging.sandbox import INPUT
from leasing.reasons import Reason, because

SECTOR = 512
# VDI's header (VirtualBox, VDICore.h): offData at 0x158, cbBlock at 0x178, cBlocksAllocated at 0x184.
_VDI_DATA, _VDI_BLOCK, _VDI_ALLOCATED = 0x158, 0x178, 0x184


class Unfit(Exception):
    """The file cannot become an image."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.in_english())
        self.reason = reason


def virtual_size(output: bytes, *, format: str, most: int) -> int:
    """The size of the disk, from `qemu-img info --output=json`; Unfit if it must not be used."""
    try:
        facts = json.loads(output)
        size = int(facts["virtual-size"])
    except (ValueError, KeyError, TypeError) as error:
        raise Unfit(because("image-unreadable", format=format, words="")) from error
    if facts.get("format") != format or facts.get("encrypted"):
        raise Unfit(because("image-unreadable", format=format, words="It is encrypted."))
    if other := next(_elsewhere(facts), None):
        raise Unfit(because("image-elsewhere", file=other[:200]))
    if not 0 < size <= most:
        raise Unfit(because("image-too-large", gib=size >> 30, limit=most >> 30))
    return -(-size // SECTOR) * SECTOR


def _elsewhere(facts: dict[str, Any]) -> Iterator[str]:
    """Other files that it takes its data from."""
    for name in ("backing-filename", "full-backing-filename"):
        if facts.get(name):
            yield str(facts[name])
    special = (facts.get("format-specific") or {}).get("data") or {}
    if special.get("data-file"):
        yield str(special["data-file"])
    for extent in special.get("extents") or ():
        if extent.get("filename") != INPUT:
            yield str(extent.get("filename"))


def require_whole_vdi(path: Path) -> None:
    """qemu-img reads what is missing at a VDI's end as zeros, and its check does not look."""
    with path.open("rb") as file:
        header = file.read(SECTOR)
    if len(header) < SECTOR:
        raise Unfit(because("image-damaged", words=""))
    data, block, allocated = (
        struct.unpack_from("<I", header, at)[0] for at in (_VDI_DATA, _VDI_BLOCK, _VDI_ALLOCATED)
    )
    if data + block * allocated > path.stat().st_size:
        raise Unfit(because("image-damaged", words=""))
