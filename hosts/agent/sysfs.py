"""The real PCI bus: cards found, bound, reset and mapped through `/sys`, which nothing else writes to."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

from lxml import etree

from hosts.agent import nvidia
from hosts.agent.bus import (
    BusError,
    Card,
    CardBusy,
    CardMissing,
    MemoryWindow,
    Registers,
    ResetFailed,
    ResetRung,
    Unasked,
    Wedged,
    run_first,
)
from hosts.agent.card_details import read_details, read_fingerprint
from hosts.agent.doctor.card_reader import read_card
from hosts.agent.doctor.facts import CardFacts
from hosts.agent.far_memory import far_mapped
from hosts.agent.fragments import hostdevs, root_port
from hosts.agent.hanging import Hanging, explained
from hosts.agent.holders import holders
from hosts.agent.kernel import VFIO_DRIVER, LinuxKernel, Writes
from hosts.agent.kernel import Kernel as Kernel
from hosts.agent.option_rom import Rom, read_rom
from hosts.agent.pci import Bar, PciFunction, PciTree, claims, read_text, strangers_below, unsettled
from hosts.agent.refusals import refusal
from hosts.protocol.messages import Fingerprint

log = logging.getLogger(__name__)
T = TypeVar("T")

BIND_SECONDS = 30.0
RESET_SECONDS = 120.0
RETURN_SECONDS = 10.0


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
        self._roms: dict[tuple[str, str], Rom] = {}
        self._sizes: dict[tuple[str, str], int] = {}
        self._rescan = threading.Lock()
        self._pci = root / "sys/bus/pci"
        # In /run, which a reboot empties as it resets the kernel's switch.
        self._autoprobe_before = root / "run/leasehold-drivers-autoprobe"
        self._hanging = Hanging(root / "run/leasehold-hanging-cards")

    def recover(self) -> None:
        """A worker killed in the last rung left a card off the bus, and drivers that are not probed."""
        if self._autoprobe_before.exists():
            log.warning("A card was being removed when the worker was killed: the bus is scanned again")
            with self._rescan, explained("The bus", BusError):
                try:
                    self._kernel.write([(self._pci / "rescan", "1")], seconds=RESET_SECONDS)
                finally:
                    self._restore_autoprobe()

    def cards(self, *, without: Collection[str] = ()) -> tuple[Card, ...]:
        found = (self._unless_it_hangs(each, self._card_if_there) for each in self._displays(without))
        return tuple(card for card in found if card)

    def hanging(self) -> frozenset[str]:
        return self._hanging.addresses()

    def held(self) -> frozenset[str]:
        given = [each for each in self._displays(()) if each.driver == VFIO_DRIVER]
        may_see = os.geteuid() == 0  # the files that others have open
        return frozenset(each.address for each in given if not may_see or holders(self._tree.root, [each]))

    def host_drivers(self, address: str) -> tuple[str, ...]:
        display = self._tree.function(address)
        functions = self._functions_of(display) if display else []
        return tuple(sorted({function.driver for function in functions} - {"", VFIO_DRIVER}))

    def incarnation(self, address: str) -> str:
        display = self._tree.function(address)
        return display.incarnation if display else ""

    def examine(self, *, without: Collection[str] = ()) -> tuple[CardFacts, ...]:
        found = (self._unless_it_hangs(each, self._examined) for each in self._displays(without))
        return tuple(card for card in found if card)

    def _examined(self, display: PciFunction) -> CardFacts:
        card = self._functions_of(display)
        return read_card(self._tree, card, holders=holders(self._tree.root, card))

    def _unless_it_hangs(self, display: PciFunction, look: Callable[[PciFunction], T]) -> T | None:
        try:
            with self._hanging.explained(display.address, BusError):
                return look(display)
        except Wedged as error:
            log.error("%s is left out from now on: %s", display.address, error)
            return None

    def card(self, address: str) -> Card:
        self._hanging.refuse(address)
        display = self._tree.function(address)
        if display is None or not display.is_display:
            raise CardMissing(f"No display-class card is at {address}.")
        with self._hanging.explained(address, BusError):
            return self._card(display)

    def dead_because(self, card: Card) -> str:
        functions = [self._tree.function(address) for address in card.functions]
        for address, function in zip(card.functions, functions, strict=True):
            with self._hanging.explained(card.address, BusError):
                if because := function.dead_because if function else "it is gone from the bus":
                    return f"{address}: {because}"
        display = functions[0]
        if display and display.driver == VFIO_DRIVER and nvidia.is_nvidia(display.ids):
            with self._registers(display) as registers:
                return nvidia.dead_because(registers)
        return ""

    def is_bound(self, card: Card) -> bool:
        functions = self._functions(card)
        if any(function.driver != VFIO_DRIVER for function in functions) or unsettled(functions):
            return False
        with self._hanging.explained(card.address, BusError):
            return card.iommu_group is not None and self._kernel.is_viable(self._group_device(card))

    def bind(self, card: Card) -> None:
        card = self.card(card.address)
        if card.refusal:
            raise BusError(f"{card.address} may not be leased. {card.refusal}")
        if self.is_bound(card):
            return
        moves = claims(VFIO_DRIVER, self._tree, self._functions(card))
        if moves and (found := self.holders(card)):
            raise CardBusy(f"{card.address} is in use by {', '.join(found)}.")
        if not (self._tree.drivers / VFIO_DRIVER).is_dir():
            with explained("vfio-pci", BusError):
                self._kernel.load_vfio()
        self._write(card.address, [*unsettled(self._functions(card)), *moves])
        if late := unsettled(self._functions(card)):  # vfio-pci lets what it takes sleep again
            self._write(card.address, late)
        if not self.is_bound(card):
            raise BusError(self._unbound_because(card))

    def holders(self, card: Card) -> tuple[str, ...]:
        return holders(self._tree.root, self._functions(card))

    def fingerprint(self, card: Card) -> Fingerprint:
        function = self._functions(card)[0]
        rom = self._read_rom(function)
        with self._hanging.explained(card.address, BusError):
            return read_fingerprint(function, rom)

    def gpu_fragments(self, card: Card, *, slot: int) -> list[etree._Element]:
        return [root_port(slot), *hostdevs(card.functions, slot=slot)]

    @contextmanager
    def memory(self, card: Card) -> Iterator[MemoryWindow]:
        function = self._functions(card)[0]
        if nvidia.is_nvidia(function.ids):
            with self._registers(function) as registers:
                yield nvidia.RegisterWindow(registers)
        else:
            with self._mapped(function, function.memory_bar(), "_wc") as window:
                yield window

    @contextmanager
    def registers(self, card: Card) -> Iterator[Registers]:
        with self._registers(self._functions(card)[0]) as registers:
            yield registers

    def _registers(self, function: PciFunction) -> AbstractContextManager[Registers]:
        return self._mapped(function, next((bar for bar in function.bars() if bar.index == 0), None))

    @contextmanager
    def _mapped(self, function: PciFunction, bar: Bar | None, suffix: str = "") -> Iterator[Registers]:
        """With `_wc`, writes are combined where they may be: faster, and late, so not for registers."""
        # Whatever goes wrong with the mapping while it is used is an error of the card's.
        if bar is None:
            raise BusError(f"{function.address} has no memory that the host can map.")
        self._decode_memory(function)
        plain, wanted = (function.path / f"resource{bar.index}{end}" for end in ("", suffix))
        path = wanted if wanted.exists() else plain
        with self._hanging.explained(function.address, BusError), far_mapped(path, bar.size) as window:
            yield window

    def reset_rungs(self, card: Card) -> tuple[ResetRung, ...]:
        functions = self._functions(card)
        if functions[0].physical_function:  # its bus is the whole card's
            flr = ResetRung("sysfs-reset", "function", lambda: self._sysfs_reset(card))
            return (flr,) if functions[0].resets_by_itself else ()
        bridge = functions[0].bridge
        rungs = []
        if "bus" not in functions[0].forbidden_resets:
            rungs.append(ResetRung("vfio-hot-reset", "bus", lambda: self._hot_reset(card)))
            strangers = bridge and strangers_below(bridge, card.functions)
            if bridge and not strangers and (bridge / "reset_subordinate").exists():
                writes = [(bridge / "reset_subordinate", "1")]
                rungs.append(ResetRung("bridge-reset", "bus", lambda: self._write_reset(card, writes)))
        if any(function.resets_by_itself for function in functions):
            rungs.append(ResetRung("sysfs-reset", "function", lambda: self._sysfs_reset(card)))
        if bridge and rungs:
            above = tuple(rungs)
            run = lambda: self._remove_and_rescan(card, bridge, above)  # noqa: E731
            rungs.append(ResetRung("remove-rescan", "slot", run))
        return tuple(rungs)

    def _hot_reset(self, card: Card) -> None:
        with self._hanging.explained(card.address, ResetFailed):
            self._kernel.hot_reset(self._group_device(card), card.address, seconds=RESET_SECONDS)

    def _sysfs_reset(self, card: Card) -> None:
        """Reset each function by the method that the kernel chose for it.

        The choice is stale on multifunction cards, and then fails with ENOTTY: `default` makes it anew.
        """
        for function in [each for each in self._functions(card) if each.resets_by_itself]:
            reset = [(function.path / "reset", "1")]
            with self._hanging.explained(card.address, ResetFailed):
                try:
                    self._kernel.write(reset, seconds=RESET_SECONDS)
                except OSError as error:
                    if error.errno != errno.ENOTTY:
                        raise
                    self._kernel.write([(function.path / "reset_method", "default")], seconds=BIND_SECONDS)
                    self._kernel.write([*unsettled([function]), *reset], seconds=RESET_SECONDS)

    def _remove_and_rescan(self, card: Card, bridge: Path, rungs: tuple[ResetRung, ...]) -> None:
        """Take the card off the bus and look for it again; no host driver may catch it in between.

        That alone resets nothing: afterwards one of the other rungs has to work.
        """
        with self._rescan:
            removals = [(function.path / "remove", "1") for function in reversed(self._functions(card))]
            self._suspend_autoprobe(card)
            try:
                self._write_reset(card, [*removals, (bridge / "rescan", "1")])
                self._await_return(card)
                self.bind(card)
            finally:
                with self._hanging.explained(card.address, ResetFailed):
                    self._restore_autoprobe()
        run_first(rungs)

    def _suspend_autoprobe(self, card: Card) -> None:
        """What it was is written down, for the next start if there is no way back from here."""
        self._autoprobe_before.parent.mkdir(exist_ok=True)
        self._autoprobe_before.write_text(read_text(self._pci / "drivers_autoprobe") or "1")
        self._write_reset(card, [(self._pci / "drivers_autoprobe", "0")])

    def _restore_autoprobe(self) -> None:
        before = self._autoprobe_before.read_text()
        self._kernel.write([(self._pci / "drivers_autoprobe", before)], seconds=BIND_SECONDS)
        self._autoprobe_before.unlink()

    def _await_return(self, card: Card) -> None:
        deadline = time.monotonic() + RETURN_SECONDS
        while any(self._tree.function(address) is None for address in card.functions):
            if time.monotonic() > deadline:
                raise ResetFailed(f"{card.address} did not come back after a rescan.")
            time.sleep(0.05)

    def _displays(self, without: Collection[str]) -> list[PciFunction]:
        """Of the cards that can be touched."""
        left_out = self.hanging().union(without)
        return [display for display in self._tree.displays() if display.address not in left_out]

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
        names, rom = self._tree.names_of(display), self._known_rom(display)
        return Card(
            address=display.address,
            functions=tuple(function.address for function in functions),
            iommu_group=display.group,
            name=names.device,
            memory_bytes=self._memory_bytes(display),
            numa_node=display.numa_node,
            fingerprint=read_fingerprint(display, rom),
            refusal=refusal(self._tree, functions, accepted_risks=self._accepted_risks),
            details=read_details(self._tree, display, board=names.board, rom=rom),
        )

    def _functions_of(self, display: PciFunction) -> list[PciFunction]:
        """The display first."""
        functions = self._tree.card_functions(display)
        return sorted(functions, key=lambda function: function.address != display.address)

    def _memory_bytes(self, display: PciFunction) -> int:
        """By the registers where they tell, once nobody uses the card; until then what the BAR could show."""
        key = (display.address, display.ids)
        if key in self._sizes:
            return self._sizes[key]
        readable = nvidia.is_nvidia(display.ids) and display.driver == VFIO_DRIVER
        if not readable or holders(self._tree.root, [display]):
            return display.memory_bytes()
        try:
            with self._registers(display) as registers:
                self._sizes[key] = nvidia.memory_bytes(registers)
        except Unasked:
            raise
        except (BusError, nvidia.UnknownChip) as error:
            log.warning("The memory of %s cannot be sized: %s", display.address, error)
            self._sizes[key] = display.memory_bytes()
        return self._sizes[key]

    def _known_rom(self, function: PciFunction) -> Rom:
        """The ROM as last read since the card came onto the bus.

        It is not touched while a machine may be using the card. One that cannot be read is not asked again:
        the kernel may hang at each attempt.
        """
        key = (function.address, function.incarnation)
        if key not in self._roms and not holders(self._tree.root, [function]):
            try:
                self._roms[key] = self._read_rom(function)
            except Unasked:
                raise
            except BusError as error:
                log.warning("The ROM of %s cannot be read: %s", function.address, error)
                self._roms[key] = Rom()
        return self._roms.get(key, Rom())

    def _read_rom(self, function: PciFunction) -> Rom:
        rom = function.path / "rom"
        if not rom.exists():
            return Rom()
        if function.driver == VFIO_DRIVER:
            self._decode_memory(function)
        self._write(function.address, [(rom, "1")])
        try:
            with self._hanging.explained(function.address, BusError):
                found = read_rom(function.rom())
        finally:
            self._write(function.address, [(rom, "0")])
        self._roms[function.address, function.incarnation] = found
        return found

    def _decode_memory(self, function: PciFunction) -> None:
        """Without which neither BAR nor ROM answers."""
        with self._hanging.explained(function.address, BusError):
            self._kernel.decode_memory(function.path / "config")

    def _unbound_because(self, card: Card) -> str:
        drivers = [f"{each.address} on {each.driver or 'no driver'}" for each in self._functions(card)]
        return f"{card.address} is not in VFIO's hands, or its group is not viable: {', '.join(drivers)}."

    def _functions(self, card: Card) -> list[PciFunction]:
        functions = [self._tree.function(address) for address in card.functions]
        if missing := [a for a, f in zip(card.functions, functions, strict=True) if f is None]:
            raise CardMissing(f"{', '.join(missing)} is gone from the bus.")
        return [function for function in functions if function is not None]

    def _group_device(self, card: Card) -> Path:
        return self._tree.root / f"dev/vfio/{card.iommu_group}"

    def _write_reset(self, card: Card, writes: Writes) -> None:
        with self._hanging.explained(card.address, ResetFailed):
            self._kernel.write(writes, seconds=RESET_SECONDS)

    def _write(self, address: str, writes: Writes) -> None:
        self._hanging.refuse(address)
        with self._hanging.explained(address, BusError):
            self._kernel.write(writes, seconds=BIND_SECONDS)
