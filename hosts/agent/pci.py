"""What `/sys` says about PCI devices, read only: functions, cards, IOMMU groups, memory.

What the kernel has to ask the device itself is read in a child: a device in a reset that hangs never answers.
Such a read raises ChildStuckError; and ChildProcessError if there is no child that could read.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hosts.agent import known_bad
from hosts.agent.children import read_in_child
from hosts.agent.pci_ids import PCI_IDS, PciNames, look_up

DEVICES = "sys/bus/pci/devices"
GROUPS = "sys/kernel/iommu_groups"
DISPLAY_CLASS = 0x03
BRIDGE_CLASS = 0x06
_MEMORY, _PREFETCHABLE, _UNASSIGNED = 0x200, 0x2000, 0x20000000
_SERIAL_NUMBER_CAPABILITY = 0x0003
# Cards that sleep in D3 are often found stuck there.
_STAY_AWAKE = (("d3cold_allowed", "0"), ("power/control", "on"))
_DEEPEST = 8
_ROM_AT_MOST = 16 << 20
_PAGE, _HEADER_BYTES = 4096, 64
_LIFELESS = ("D3cold", "unknown", "error")
_CLASS_NAMES = {
    0x0108: "NVMe controller",
    0x0200: "Ethernet controller",
    0x0300: "VGA controller",
    0x0302: "3D controller",
    0x0380: "display controller",
    0x0403: "audio device",
    0x0C03: "USB controller",
    0x0C80: "serial bus controller",
}


@dataclass(frozen=True)
class Bar:
    """A memory BAR: its number, start and size in bytes, and whether the firmware gave it an address."""

    index: int
    start: int
    size: int
    prefetchable: bool
    assigned: bool


@dataclass(frozen=True)
class PciFunction:
    """One PCI function, read when asked. Its class and its header are remembered: another look is another one
    of these."""

    path: Path

    @property
    def address(self) -> str:
        return self.path.name

    @property
    def slot(self) -> str:
        return self.address.rpartition(".")[0]

    @cached_property
    def class_code(self) -> int:
        """Base class and subclass, such as 0x0300."""
        return self.number("class") >> 8

    @property
    def is_display(self) -> bool:
        return self.class_code >> 8 == DISPLAY_CLASS

    @property
    def is_bridge(self) -> bool:
        return self.class_code >> 8 == BRIDGE_CLASS or self.header_type == 1

    @cached_property
    def header(self) -> bytes:
        """The beginning of configuration space, which anybody may read."""
        return self.config(_HEADER_BYTES)

    @property
    def header_type(self) -> int:
        """0 endpoint, 1 bridge, 0x7f when the device does not answer."""
        return self.header[14] & 0x7F if len(self.header) > 14 else 0x7F

    @property
    def is_alive(self) -> bool:
        """It answers in configuration space."""
        if self.physical_function:  # a virtual function has ones for its ids, and the kernel knows better
            return self.header_type != 0x7F
        identity = self.header[:4]
        return len(identity) == 4 and identity != b"\xff" * 4 and self.header_type != 0x7F

    @property
    def dead_because(self) -> str:
        """Why the function seems to be dead; or empty. One that is kept awake and in D3hot is stuck there."""
        if not self.is_alive:
            return "configuration space does not answer"
        power, kept_awake = self.text("power_state"), self.text("power/control") == "on"
        dead = power in _LIFELESS or (power == "D3hot" and kept_awake)
        return f"its power state is {power}" if dead else ""

    @property
    def forbidden_resets(self) -> frozenset[str]:
        """Methods that this card must not be reset by, as in `reset_method`."""
        return known_bad.forbidden(self.ids)

    @property
    def permitted_resets(self) -> str:
        """What is left of its `reset_method`."""
        methods = self.text("reset_method").split()
        return " ".join(method for method in methods if method not in self.forbidden_resets)

    @property
    def resets_by_itself(self) -> bool:
        """Whether the kernel has a way to reset this function alone that does it no harm."""
        if not (self.path / "reset").exists():
            return False
        if not (
            self.path / "reset_method"
        ).exists():  # a kernel before 5.15, which cannot be told what to use
            return not self.forbidden_resets
        return bool(self.permitted_resets)

    @property
    def driver(self) -> str:
        """Name of the bound driver, or empty."""
        return self._link("driver").name

    @property
    def group(self) -> int | None:
        name = self._link("iommu_group").name
        return int(name) if name else None

    @property
    def physical_function(self) -> str:
        """Address of the physical function if this is a virtual one, or empty."""
        return self._link("physfn").name

    def virtual_functions(self) -> list[PciFunction]:
        """Those that are switched on now, in their order."""
        links = [link for link in self.path.glob("virtfn*") if link.name[6:].isdigit()]
        ordered = sorted(links, key=lambda link: int(link.name[6:]))
        return [PciFunction(self.path.with_name(link.readlink().name)) for link in ordered]

    @property
    def bridge(self) -> Path | None:
        """The PCI bridge directly above, or None on a root bus."""
        parent = self.path.resolve().parent
        return parent if (parent / "vendor").exists() else None

    @property
    def ids(self) -> str:
        return f"{self.number('vendor'):04x}:{self.number('device'):04x}"

    @property
    def subsystem(self) -> str:
        return f"{self.number('subsystem_vendor'):04x}:{self.number('subsystem_device'):04x}"

    @property
    def numa_node(self) -> int:
        return int(self.text("numa_node") or "-1")

    @property
    def kind(self) -> str:
        return _CLASS_NAMES.get(self.class_code, f"PCI class {self.class_code:04x}")

    def config(self, size: int) -> bytes:
        """The first bytes of configuration space, fewer (or none) if it cannot be read."""
        return asked(self.path / "config", size)

    def text(self, name: str) -> str:
        return read_text(self.path / name)

    def asked(self, name: str) -> str:
        """As `text`, of what the device itself is asked for."""
        return asked_text(self.path / name)

    def number(self, name: str) -> int:
        """An attribute such as 0x10de or 3; 0 if it is absent."""
        return int(self.text(name) or "0", 0)

    def bars(self) -> list[Bar]:
        rows = [[int(word, 16) for word in line.split()] for line in self.text("resource").splitlines()[:6]]
        return [
            Bar(index, start, end - start + 1, bool(flags & _PREFETCHABLE), not flags & _UNASSIGNED)
            for index, (start, end, flags) in enumerate(rows)
            if flags & _MEMORY
        ]

    def memory_bar(self) -> Bar | None:
        """Where the card's memory is: the largest prefetchable BAR, else the largest."""
        return max(self.bars(), key=lambda bar: (bar.prefetchable, bar.size), default=None)

    def memory_bytes(self) -> int:
        """Size of the memory BAR, or the largest it could be resized to: the memory is not larger."""
        bar = self.memory_bar()
        if bar is None:
            return 0
        sizes = int(self.text(f"resource{bar.index}_resize") or "0", 16)
        return max(bar.size, (1 << 20) << (sizes.bit_length() - 1) if sizes else 0)

    def serial(self) -> str:
        """Device Serial Number of the extended capability 0003, or empty."""
        space = self.config(4096)
        offset = 0x100
        while 0x100 <= offset <= len(space) - 12:
            capability = struct.unpack_from("<I", space, offset)[0]
            if capability & 0xFFFF == _SERIAL_NUMBER_CAPABILITY:
                return space[offset + 4 : offset + 12][::-1].hex()
            following = capability >> 20
            offset = following if following > offset else 0
        return ""

    def rom(self) -> bytes:
        """The expansion ROM, which must have been enabled; empty if it has none."""
        return asked(self.path / "rom", _ROM_AT_MOST)

    @property
    def incarnation(self) -> str:
        """Another one each time the kernel finds the device: it numbers the folders that it makes."""
        try:
            return str(self.path.stat().st_ino)
        except OSError:
            return ""

    def bridges(self) -> list[str]:
        """Addresses of the bridges above, the root port first."""
        found: list[str] = []
        above = self.bridge
        while above is not None and len(found) < _DEEPEST:
            found.append(above.name)
            above = PciFunction(above).bridge
        return found[::-1]

    def mediated(self) -> tuple[str, ...]:
        """Mediated devices that were made of it and not removed, by their UUIDs."""
        return tuple(sorted(entry.name for entry in self.path.glob("mdev_supported_types/*/devices/*")))

    def device_nodes(self) -> set[str]:
        """Paths below /dev of the nodes that drivers of the host made for this function."""
        displays = {f"dri/{entry.name}" for entry in self.path.glob("drm/*")}
        return displays | {f"snd/{entry.name}" for entry in self.path.glob("sound/card*/*[CD]*")}

    def _link(self, name: str) -> Path:
        try:
            return (self.path / name).readlink()
        except OSError:
            return Path()


@dataclass(frozen=True)
class PciTree:
    """The files of one host below `root`; read anew at every call."""

    root: Path

    @property
    def devices(self) -> Path:
        return self.root / DEVICES

    @property
    def drivers(self) -> Path:
        return self.root / "sys/bus/pci/drivers"

    @property
    def mediated_devices(self) -> Path:
        return self.root / "sys/bus/mdev/devices"

    def function(self, address: str) -> PciFunction | None:
        path = self.devices / address
        return PciFunction(path) if path.exists() else None

    def functions(self) -> list[PciFunction]:
        if not self.devices.is_dir():
            return []
        return [PciFunction(path) for path in sorted(self.devices.iterdir())]

    def card_functions(self, display: PciFunction) -> list[PciFunction]:
        """The display function and its neighbours in the slot; a virtual function stands alone."""
        if display.physical_function:
            return [display]
        slot = [function for function in self.functions() if function.slot == display.slot]
        return [function for function in slot if not function.physical_function]

    def displays(self) -> list[PciFunction]:
        """The first display function of each card."""
        first: dict[str, PciFunction] = {}
        for function in self.functions():
            if function.is_display:
                alone = bool(function.physical_function)
                first.setdefault(function.address if alone else function.slot, function)
        return list(first.values())

    def group_members(self, group: int) -> list[PciFunction]:
        path = self.root / f"{GROUPS}/{group}/devices"
        return [PciFunction(self.devices / entry.name) for entry in sorted(path.iterdir())]

    def group_name(self, group: int) -> str:
        return read_text(self.root / f"{GROUPS}/{group}/name")

    def names_of(self, function: PciFunction) -> PciNames:
        """By the database of PCI ids that the host has, if it has one."""
        return look_up(self.root / PCI_IDS, function.ids, function.subsystem)


def unsettled(functions: Iterable[PciFunction]) -> list[tuple[Path, str]]:
    """What is still to be written so that they neither sleep nor are reset in a way that harms them.

    VFIO itself resets a card by the kernel's choice, at the first opening and the last closing.
    """
    wanted = [
        (function.path / name, text)
        for function in functions
        for name, text in (*_STAY_AWAKE, ("reset_method", function.permitted_resets))
    ]
    return [(path, text or "\n") for path, text in wanted if path.exists() and read_text(path) != text]


def claims(driver: str, tree: PciTree, functions: Sequence[PciFunction]) -> list[tuple[Path, str]]:
    """What has to be written so that the driver has them.

    Every one is claimed before the first is let go, so that no host driver comes back in between.
    """
    moving = [function for function in functions if function.driver != driver]
    if not moving:
        return []
    bound = [function for function in moving if function.driver]
    return [
        *((function.path / "driver_override", driver) for function in functions),
        *((function.path / "driver/unbind", function.address) for function in bound),
        *((tree.drivers / driver / "bind", function.address) for function in moving),
    ]


def strangers_below(bridge: Path, addresses: Collection[str]) -> list[str]:
    """PCI devices under the bridge other than these."""
    return [entry.name for entry in bridge.glob("????:??:??.?") if entry.name not in addresses]


def asked(path: Path, size: int) -> bytes:
    """The first bytes of what a device is asked for; fewer, or none, if it cannot be read. ChildProcessError
    if it was not asked.

    Whether the file is there the kernel knows without asking.
    """
    try:
        return read_in_child(path, size) if path.exists() else b""
    except ChildProcessError:
        raise
    except OSError:
        return b""


def asked_text(path: Path) -> str:
    """As `read_text`, of what a device is asked for."""
    return asked(path, _PAGE).decode(errors="replace").strip()


def read_text(path: Path) -> str:
    """An attribute's text without the line end; empty if it is absent or cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
