"""Resets that are known to harm a card, by PCI ids, and where that is known from.

The kernel knows the worst of them itself, in its newer versions; a host may run an older one. Methods are
called as in the kernel's `reset_method`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NVIDIA, AMD = 0x10DE, 0x1002
ALL_BUT_THE_CARDS_OWN = frozenset({"bus", "flr", "af_flr", "pm", "acpi"})
Harm = Literal["bus", "flr", "own-only", "reboot"]
_METHODS: dict[Harm, frozenset[str]] = {
    "bus": frozenset({"bus"}),
    "flr": frozenset({"flr"}),
    "own-only": ALL_BUT_THE_CARDS_OWN,
    "reboot": ALL_BUT_THE_CARDS_OWN,
}


@dataclass(frozen=True)
class KnownBad:
    """Cards whose device id, seen through `mask`, is one of `devices`.

    `harm`: they do not survive bus resets, or function resets, or any but one of their own, which the kernel
    module vendor-reset adds; or each reset of the whole card takes a reboot of the host to recover from.
    """

    harm: Harm
    vendor: int
    devices: frozenset[int]
    source: str
    mask: int = 0xFFFF

    @property
    def methods(self) -> frozenset[str]:
        return _METHODS[self.harm]


# From Polaris 10 to Navi 14, by the upper bits of their numbers.
_POLARIS = frozenset({0x67C0, 0x67C8, 0x67D0, 0x67D8, 0x67E0, 0x67E8, 0x67F8, 0x6980, 0x6990, 0x6998, 0x6FD8})
_VEGA = frozenset({0x6860, 0x6868, 0x6878, 0x66A0, 0x66A8})
_NAVI = frozenset({0x7310, 0x7318, 0x7340, 0x7348, 0x7360})
TABLE = (
    KnownBad("bus", NVIDIA, frozenset({0x2340}), "Linux: quirk_nvidia_no_bus_reset", mask=0xFFC0),
    KnownBad("bus", NVIDIA, frozenset({0x1EB8}), "Linux, newer: quirk_nvidia_no_bus_reset"),
    KnownBad("flr", NVIDIA, frozenset({0x2B85, 0x2B87, 0x2B8C}), "Linux, newer: quirk_no_flr"),
    KnownBad("own-only", AMD, _POLARIS | _VEGA | _NAVI, "gnif/vendor-reset: device-db.h", mask=0xFFF8),
    KnownBad("bus", AMD, frozenset({0x7550}), "forks of vendor-reset, of Navi 48"),
    KnownBad(
        "reboot",
        AMD,
        frozenset({0x74A0, 0x74A1, 0x74A2, 0x74A5, 0x75A0, 0x75A3}),
        "amd/MxGPU-Virtualization#25, of MI300X and MI355X",
    ),
)


def known_bad(ids: str) -> KnownBad | None:
    """What is known of a card with these ids, such as 10de:2230."""
    vendor, device = (int(number, 16) for number in ids.split(":"))
    rows = (row for row in TABLE if row.vendor == vendor and device & row.mask in row.devices)
    return next(rows, None)


def forbidden(ids: str) -> frozenset[str]:
    """The methods that this card must not be reset by."""
    row = known_bad(ids)
    return row.methods if row else frozenset()
