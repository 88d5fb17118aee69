"""The real PCI bus: cards found, bound, reset and mapped through `/sys`, which nothing else writes to."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from lxml import etree

from hosts.agent import child, vfio
from hosts.agent.bus import (
    BusError,
    Card,
    CardBusy,
    CardMissing,
    MemoryWindow,
    ResetFailed,
    ResetRung,
    Wedged,
)
from hosts.agent.doctor.card_reader import read_card
from hosts.agent.doctor.facts import CardFacts
from hosts.agent.fragments import hostdevs, root_port
from hosts.agent.holders import holders
from hosts.agent.memory import mapped
from hosts.agent.pci import PciFunction, PciTree, read_text
from hosts.agent.refusals import refusal
from hosts.protocol.messages import Fingerprint

log = logging.getLogger(__name__)

VFIO_DRIVER = "vfio-pci"
BIND_SECONDS = 30.0
RESET_SECONDS = 120.0
RETURN_SECONDS = 10.0
_COMMAND_REGISTER, _COMMAND_MEMORY = 4, 0x2
# Cards that sleep in D3 are often found stuck there.
_STAY_AWAKE = (("d3cold_allowed", "0"), ("power/control", "on"))


class Kernel(Protocol):
    """What only a kernel can do. Errors as in `child`: OSError, TimeoutError, ChildStuckError."""

    def write(self, writes: child.Writes, *, seconds: float) -> None: ...

    def hot_reset(self, group: Path, address: str, *, seconds: float) -> None: ...

    def is_viable(self, group: Path) -> bool: ...

    def load_vfio(self) -> None: ...


class LinuxKernel:
    """The running kernel; calls that may hang go through a child process."""

    def write(self, writes: child.Writes, *, seconds: float) -> None:
        child.write_in_child(writes, seconds=seconds)

    def hot_reset(self, group: Path, address: str, *, seconds: float) -> None:
        child.hot_reset_in_child(group, address, seconds=seconds)

    def is_viable(self, group: Path) -> bool:
        return vfio.is_viable(group)

    def load_vfio(self) -> None:
        subprocess.run(["modprobe", VFIO_DRIVER], check=False, capture_output=True, timeout=BIND_SECONDS)


class SysfsBus:
    """A PciBus over the files below `root`; `kernel` is replaced only where there are files but no kernel."""

    simulated = False

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        kernel: Kernel | None = None,
        accepted_risks: Collection[str] = (),
    ) -> None:
        self._tree = PciTree(root)
        self._kernel = kernel or LinuxKernel()
        self._accepted_risks = accepted_risks
        self._roms: dict[tuple[str, str], str] = {}
        self._rescan = threading.Lock()
        self._pci = root / "sys/bus/pci"
        # In /run, which a reboot empties as it resets the kernel's switch.
        self._autoprobe_before = root / "run/leasehold-drivers-autoprobe"

    def recover(self) -> None:
        """A worker killed in the last rung left a card off the bus, and drivers that are not probed."""
        if self._autoprobe_before.exists():
            log.warning("A card was being removed when the worker was killed: the bus is scanned again")
            with self._rescan, _explained("The bus", BusError):
                try:
                    self._kernel.write([(str(self._pci / "rescan"), "1")], seconds=RESET_SECONDS)
                finally:
                    self._restore_autoprobe()

    def cards(self) -> tuple[Card, ...]:
        return tuple(card for display in self._tree.displays() if (card := self._card_if_there(display)))

    def examine(self) -> tuple[CardFacts, ...]:
        cards = (self._functions_of(display) for display in self._tree.displays())
        return tuple(read_card(self._tree, card, holders=holders(self._tree.root, card)) for card in cards)

    def card(self, address: str) -> Card:
        display = self._tree.function(address)
        if display is None or not display.is_display:
            raise CardMissing(f"No display-class card is at {address}.")
        return self._card(display)

    def is_alive(self, card: Card) -> bool:
        functions = [self._tree.function(address) for address in card.functions]
        return all(function is not None and function.is_alive for function in functions)

    def is_bound(self, card: Card) -> bool:
        if any(function.driver != VFIO_DRIVER for function in self._functions(card)):
            return False
        return card.iommu_group is not None and self._kernel.is_viable(self._group_device(card))

    def bind(self, card: Card) -> None:
        card = self.card(card.address)
        if card.refusal:
            raise BusError(f"{card.address} may not be leased. {card.refusal}")
        if self.is_bound(card):
            return
        if found := self.holders(card):
            raise CardBusy(f"{card.address} is in use by {', '.join(found)}.")
        if not (self._tree.drivers / VFIO_DRIVER).is_dir():
            self._kernel.load_vfio()
        self._write(card.address, self._bind_writes(card))
        if not self.is_bound(card):
            raise BusError(self._unbound_because(card))

    def holders(self, card: Card) -> tuple[str, ...]:
        return holders(self._tree.root, self._functions(card))

    def fingerprint(self, card: Card) -> Fingerprint:
        function = self._functions(card)[0]
        return self._fingerprint(function, rom_sha256=self._read_rom(function))

    def gpu_fragments(self, card: Card, *, slot: int) -> list[etree._Element]:
        return [root_port(slot), *hostdevs(card.functions, slot=slot)]

    @contextmanager
    def memory(self, card: Card) -> Iterator[MemoryWindow]:
        function = self._functions(card)[0]
        bar = function.memory_bar()
        if bar is None:
            raise BusError(f"{card.address} has no memory that the host can map.")
        self._decode_memory(function)
        combined = function.path / f"resource{bar.index}_wc"
        path = combined if combined.exists() else function.path / f"resource{bar.index}"
        with ExitStack() as stack:
            try:
                window = stack.enter_context(mapped(path, bar.size))
            except OSError as error:
                raise BusError(f"The memory of {card.address} cannot be mapped: {error.strerror}.") from error
            yield window

    def reset_rungs(self, card: Card) -> tuple[ResetRung, ...]:
        functions = self._functions(card)
        bridge = functions[0].bridge
        rungs = [ResetRung("vfio-hot-reset", "bus", lambda: self._hot_reset(card))]
        if bridge and (bridge / "reset_subordinate").exists() and not _strangers_below(bridge, card):
            writes = [(bridge / "reset_subordinate", "1")]
            rungs.append(ResetRung("bridge-reset", "bus", lambda: self._write_reset(card, writes)))
        if any((function.path / "reset").exists() for function in functions):
            rungs.append(ResetRung("sysfs-reset", "function", lambda: self._sysfs_reset(card)))
        if bridge:
            rungs.append(ResetRung("remove-rescan", "slot", lambda: self._remove_and_rescan(card, bridge)))
        return tuple(rungs)

    def _hot_reset(self, card: Card) -> None:
        with _explained(card.address, ResetFailed):
            self._kernel.hot_reset(self._group_device(card), card.address, seconds=RESET_SECONDS)

    def _sysfs_reset(self, card: Card) -> None:
        """Reset each function by the method that the kernel chose for it.

        The choice is stale on multifunction cards, and then fails with ENOTTY: `default` makes it anew.
        """
        for function in self._functions(card):
            reset, method = function.path / "reset", function.path / "reset_method"
            if not reset.exists():
                continue
            with _explained(card.address, ResetFailed):
                try:
                    self._kernel.write([(str(reset), "1")], seconds=RESET_SECONDS)
                except OSError as error:
                    if error.errno != errno.ENOTTY:
                        raise
                    renewed = [(str(method), "default"), (str(reset), "1")]
                    self._kernel.write(renewed, seconds=RESET_SECONDS)

    def _remove_and_rescan(self, card: Card, bridge: Path) -> None:
        """Take the card off the bus and look for it again; no host driver may catch it in between."""
        with self._rescan:
            removals = [(function.path / "remove", "1") for function in reversed(self._functions(card))]
            self._suspend_autoprobe(card)
            try:
                self._write_reset(card, [*removals, (bridge / "rescan", "1")])
                self._await_return(card)
                self.bind(card)
            finally:
                with _explained(card.address, ResetFailed):
                    self._restore_autoprobe()

    def _suspend_autoprobe(self, card: Card) -> None:
        """What it was is written down, for the next start if there is no way back from here."""
        self._autoprobe_before.parent.mkdir(exist_ok=True)
        self._autoprobe_before.write_text(read_text(self._pci / "drivers_autoprobe") or "1")
        self._write_reset(card, [(self._pci / "drivers_autoprobe", "0")])

    def _restore_autoprobe(self) -> None:
        before = self._autoprobe_before.read_text()
        self._kernel.write([(str(self._pci / "drivers_autoprobe"), before)], seconds=BIND_SECONDS)
        self._autoprobe_before.unlink()

    def _await_return(self, card: Card) -> None:
        deadline = time.monotonic() + RETURN_SECONDS
        while any(self._tree.function(address) is None for address in card.functions):
            if time.monotonic() > deadline:
                raise ResetFailed(f"{card.address} did not come back after a rescan.")
            time.sleep(0.05)

    def _card_if_there(self, display: PciFunction) -> Card | None:
        """None for one that is taken off the bus while it is read."""
        try:
            card = self._card(display)
        except (BusError, OSError):
            if display.path.exists():
                raise
            return None
        return card if display.path.exists() else None

    def _card(self, display: PciFunction) -> Card:
        functions = self._functions_of(display)
        return Card(
            address=display.address,
            functions=tuple(function.address for function in functions),
            iommu_group=display.group,
            name=self._tree.name_of(display),
            memory_bytes=display.memory_bytes(),
            numa_node=display.numa_node,
            fingerprint=self._fingerprint(display, rom_sha256=self._known_rom(display)),
            refusal=refusal(self._tree, functions, accepted_risks=self._accepted_risks),
        )

    def _functions_of(self, display: PciFunction) -> list[PciFunction]:
        """The display first."""
        functions = self._tree.card_functions(display)
        return sorted(functions, key=lambda function: function.address != display.address)

    def _fingerprint(self, function: PciFunction, *, rom_sha256: str) -> Fingerprint:
        return Fingerprint(
            vendor_device=function.ids,
            subsystem=function.subsystem,
            serial=function.serial(),
            firmware=f"revision {function.number('revision'):02x}",
            rom_sha256=rom_sha256,
        )

    def _known_rom(self, function: PciFunction) -> str:
        """The ROM's digest as last read; a ROM is not touched while a machine may be using the card.

        One that cannot be read is not asked again: the kernel may hang at each attempt.
        """
        key = (function.address, function.ids)
        if key not in self._roms and not holders(self._tree.root, [function]):
            try:
                self._roms[key] = self._read_rom(function)
            except BusError as error:
                log.warning("The ROM of %s cannot be read: %s", function.address, error)
                self._roms[key] = ""
        return self._roms.get(key, "")

    def _read_rom(self, function: PciFunction) -> str:
        rom = function.path / "rom"
        if not rom.exists():
            return ""
        if function.driver == VFIO_DRIVER:
            self._decode_memory(function)
        self._write(function.address, [(rom, "1")])
        try:
            digest = function.rom_sha256()
        finally:
            self._write(function.address, [(rom, "0")])
        self._roms[function.address, function.ids] = digest
        return digest

    def _decode_memory(self, function: PciFunction) -> None:
        """Set COMMAND.MEM, without which neither BAR nor ROM answers."""
        try:
            descriptor = os.open(function.path / "config", os.O_RDWR | os.O_CLOEXEC)
            try:
                command = int.from_bytes(os.pread(descriptor, 2, _COMMAND_REGISTER), "little")
                if not command & _COMMAND_MEMORY:
                    enabled = (command | _COMMAND_MEMORY).to_bytes(2, "little")
                    os.pwrite(descriptor, enabled, _COMMAND_REGISTER)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise BusError(f"{function.address} takes no configuration: {error.strerror}.") from error

    def _bind_writes(self, card: Card) -> list[tuple[Path, str]]:
        """Claim every function before the first is let go, so that no host driver comes back in between."""
        functions = self._functions(card)
        moving = [function for function in functions if function.driver != VFIO_DRIVER]
        bound = [function for function in moving if function.driver]
        awake = [(f.path / name, text) for f in functions for name, text in _STAY_AWAKE]
        return [
            *((function.path / "driver_override", VFIO_DRIVER) for function in functions),
            *((function.path / "driver/unbind", function.address) for function in bound),
            *((self._tree.drivers / VFIO_DRIVER / "bind", function.address) for function in moving),
            *((path, text) for path, text in awake if path.exists()),
        ]

    def _unbound_because(self, card: Card) -> str:
        drivers = [f"{f.address} on {f.driver or 'no driver'}" for f in self._functions(card)]
        return f"{card.address} is not in VFIO's hands, or its group is not viable: {', '.join(drivers)}."

    def _functions(self, card: Card) -> list[PciFunction]:
        functions = [self._tree.function(address) for address in card.functions]
        if missing := [a for a, f in zip(card.functions, functions, strict=True) if f is None]:
            raise CardMissing(f"{', '.join(missing)} is gone from the bus.")
        return [function for function in functions if function is not None]

    def _group_device(self, card: Card) -> Path:
        return self._tree.root / f"dev/vfio/{card.iommu_group}"

    def _write_reset(self, card: Card, writes: list[tuple[Path, str]]) -> None:
        with _explained(card.address, ResetFailed):
            self._kernel.write([(str(path), text) for path, text in writes], seconds=RESET_SECONDS)

    def _write(self, address: str, writes: list[tuple[Path, str]]) -> None:
        with _explained(address, BusError):
            self._kernel.write([(str(path), text) for path, text in writes], seconds=BIND_SECONDS)


def _strangers_below(bridge: Path, card: Card) -> list[str]:
    """PCI devices under the bridge that are not of the card."""
    return [entry.name for entry in bridge.glob("????:??:??.?") if entry.name not in card.functions]


@contextmanager
def _explained(address: str, kind: type[BusError]) -> Iterator[None]:
    """Say an operating system's error as a BusError of the given kind; a stuck child means Wedged."""
    try:
        yield
    except child.ChildStuckError as error:
        raise Wedged(f"The kernel hangs on {address}: {error}. The host has to be rebooted.") from error
    except OSError as error:
        where = f" at {error.filename}" if error.filename else ""
        raise kind(f"{address}: {error.strerror or error}{where}.") from error
