"""A PCI bus of simulated cards that behaves like `/sys`: drivers, groups, resets, memory that survives them.

All of it lies in one directory: the state is replaced atomically, so it survives a killed worker and can be
read, and faults injected, by another process. A reset does not scrub here either.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec
from lxml import etree

from hosts.agent import nvidia, simulated_slices
from hosts.agent.bus import (
    BusError,
    Card,
    CardBusy,
    CardMissing,
    MemoryWindow,
    Registers,
    ResetFailed,
    ResetRung,
    Slice,
    Wedged,
)
from hosts.agent.doctor.facts import CardFacts
from hosts.agent.doctor.simulated_facts import simulated_facts
from hosts.agent.fragments import emulated_display, root_port
from hosts.agent.memory import MappedWindow, OneByOne, mapped
from hosts.agent.simulated_nvidia import SimulatedRegisters
from hosts.agent.simulated_state import CardState as CardState
from hosts.agent.simulated_state import Fault as Fault
from hosts.agent.simulated_state import Kind as Kind
from hosts.agent.simulated_state import Operation, Store
from hosts.agent.simulated_state import SimulatedCard as SimulatedCard
from hosts.agent.simulated_state import State as State
from hosts.agent.simulated_state import clear_faults as clear_faults
from hosts.agent.simulated_state import demo_topology as demo_topology
from hosts.agent.simulated_state import inject as inject
from hosts.agent.simulated_state import memory_file as memory_file
from hosts.agent.simulated_state import read_state as read_state
from hosts.agent.simulated_state import reboot as reboot
from hosts.agent.simulated_state import take_for_host as take_for_host
from hosts.protocol.messages import CardDetails, Fingerprint

VFIO_DRIVER = "vfio-pci"
RESIDUE = b"residue of the last tenant / "


class SimulatedBus:
    """A PciBus in `directory`, with its state in `store`; made from `topology` where there is none yet."""

    simulated = True

    def __init__(
        self,
        directory: Path,
        topology: Sequence[SimulatedCard] | None = None,
        *,
        store: Store | None = None,
    ) -> None:
        (directory / "memory").mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._store = store or Store(directory)
        cards = demo_topology() if topology is None else topology
        self._store.create(cards, {card.address: _as_booted(card) for card in cards})
        for card in self._store.read().topology:
            _reserve(memory_file(directory, card.address), card.memory_bytes)

    def recover(self) -> None:
        """Nothing is ever half done: each change replaces the whole state."""

    def cards(self, *, without: Collection[str] = ()) -> tuple[Card, ...]:
        found = []
        for model in self._store.read().all_cards():
            if model.address not in without:
                with suppress(CardMissing, Wedged):
                    found.append(self.card(model.address))
        return tuple(found)

    def hanging(self) -> frozenset[str]:
        return frozenset(address for address, card in self._store.read().cards.items() if card.hangs)

    def held(self) -> frozenset[str]:
        return frozenset()  # a machine has an emulated display instead

    def host_drivers(self, address: str) -> tuple[str, ...]:
        card = self._store.read().cards.get(address)
        drivers = set(card.drivers.values()) if card and card.present else set()
        return tuple(sorted(drivers - {VFIO_DRIVER, ""}))

    def incarnation(self, address: str) -> str:
        return str(self._store.read().cards[address].comings) if self._finds(address) else ""

    def examine(self, *, without: Collection[str] = ()) -> tuple[CardFacts, ...]:
        state, methods = self._store.read().cards, " ".join(_LADDER)
        return tuple(
            simulated_facts(card, state[card.address].drivers, reset_methods=methods)
            for card in self.cards(without=without)
        )

    def card(self, address: str) -> Card:
        self._refuse_hanging(address)
        if not self._finds(address):
            raise CardMissing(f"No display-class card is at {address}.")
        state, model = self._store.read(), self._model(address)
        return Card(
            address=model.address,
            functions=model.functions,
            iommu_group=model.iommu_group,
            name=model.name,
            memory_bytes=model.memory_bytes,
            numa_node=model.numa_node,
            fingerprint=_identity(model, state.cards[address]),
            refusal=model.refusal or simulated_slices.refusal_of(state, model),
            details=_details(model, state.cards[address]),
            part=model.part,
            profiles=() if state.slices_of(address) else model.profiles,
        )

    def dead_because(self, card: Card) -> str:
        if not self._is_present(card.address):
            return "it is gone from the bus"
        if self._strike("config", card.address):
            return "configuration space does not answer"
        if nvidia.is_nvidia(card.fingerprint.vendor_device):
            with self.registers(card) as registers:
                return nvidia.dead_because(registers)
        return ""

    def is_bound(self, card: Card) -> bool:
        self.card(card.address)
        drivers = self._store.read().cards[card.address].drivers
        return set(drivers.values()) == {VFIO_DRIVER}

    def bind(self, card: Card) -> None:
        card = self.card(card.address)
        if card.refusal:
            raise BusError(f"{card.address} may not be leased. {card.refusal}")
        if self.is_bound(card):
            return
        if found := self.holders(card):
            raise CardBusy(f"{card.address} is in use by {', '.join(found)}.")
        fault = self._strike("bind", card.address)
        self._suffer(fault, card.address, BusError)
        if fault is None:
            self._take_for_vfio(card)
        if not self.is_bound(card):
            raise BusError(f"{card.address} is not in VFIO's hands, or its group is not viable.")

    def holders(self, card: Card) -> tuple[str, ...]:
        return ("Xwayland (4242)",) if self._strike("holders", card.address) else ()

    def reset_rungs(self, card: Card) -> tuple[ResetRung, ...]:
        self.card(card.address)
        ladder = _LADDER if card.part is None else _LADDER_OF_SLICE
        return tuple(
            ResetRung(method, scope, partial(self._reset, card, method)) for method, scope in ladder.items()
        )

    def fingerprint(self, card: Card) -> Fingerprint:
        now = self.card(card.address).fingerprint
        fault = self._strike("fingerprint", card.address)
        return msgspec.structs.replace(now, rom_sha256="f" * 64) if fault else now

    @contextmanager
    def memory(self, card: Card) -> Iterator[MemoryWindow]:
        if not self.is_bound(card):
            raise BusError(f"The memory of {card.address} cannot be mapped: a driver has claimed it.")
        fault = self._strike("memory", card.address)
        if fault and fault.kind == "error":
            raise BusError(f"The memory of {card.address} cannot be mapped: Invalid argument.")
        if nvidia.is_nvidia(card.fingerprint.vendor_device):
            with self.registers(card) as registers:
                yield nvidia.RegisterWindow(registers)
            return
        with self._mapped(card) as window:
            yield _StuckWindow(window, _writable(window.size, fault))

    @contextmanager
    def registers(self, card: Card) -> Iterator[Registers]:
        """Of NVIDIA's cards alone."""
        model = self._model(card.address)
        if not model.boot_0:
            raise BusError(f"{card.address} has no registers that are simulated.")
        is_dead = bool(self._strike("registers", card.address))
        with mapped(memory_file(self._directory, card.address), card.memory_bytes) as memory:
            cleared = self._store.read().cards[card.address].says_cleared
            yield SimulatedRegisters(memory, boot_0=model.boot_0, says_cleared=cleared, is_dead=is_dead)

    def gpu_fragments(self, card: Card, *, slot: int) -> list[etree._Element]:
        """An emulated display; the card's memory now holds what a tenant might have left there."""
        with self._store.changed() as state:
            state.cards[card.address].tenants += 1
            tenants = state.cards[card.address].tenants
        self._leave_residue(card, f"tenant {tenants} of {card.address} / ".encode())
        return [root_port(slot), emulated_display(slot)]

    def slices(self, card: Card) -> tuple[Slice, ...]:
        return simulated_slices.slices_of(self._store, card.address)

    def divide(self, card: Card, profile: str, count: int) -> None:
        self._refuse_hanging(card.address)
        fault = self._strike("divide", card.address)
        self._suffer(fault, card.address, BusError)
        if fault is None or fault.kind != "lie":
            simulated_slices.divide(self._store, card.address, profile, count // 2 if fault else count)

    def undivide(self, card: Card) -> None:
        self._refuse_hanging(card.address)
        fault = self._strike("undivide", card.address)
        self._suffer(fault, card.address, BusError)
        if fault is None:
            with self._store.changed() as state:
                state.drop_slices(state.slices_of(card.address))

    def _mapped(self, card: Card) -> AbstractContextManager[MappedWindow]:
        """A slice's memory is a part of its card's."""
        model = self._model(card.address)
        whole = model.part.parent if model.part else card.address
        return mapped(memory_file(self._directory, whole), card.memory_bytes, offset=model.offset)

    def _leave_residue(self, card: Card, signature: bytes) -> None:
        with self._mapped(card) as window:
            step = max(1, window.size // 8)
            for offset in range(0, window.size, step):
                window.fill(offset, min(64 * 1024, step, window.size - offset), RESIDUE + signature)

    def _take_for_vfio(self, card: Card) -> None:
        with self._store.changed() as state:
            state.cards[card.address].drivers = dict.fromkeys(card.functions, VFIO_DRIVER)

    def _reset(self, card: Card, method: str) -> None:
        self.card(card.address)
        fault = self._strike("reset", card.address, rung=method)
        self._suffer(fault, card.address, ResetFailed)
        if fault and fault.kind == "lie":
            return
        with self._store.changed() as state:
            now = state.cards[card.address]
            now.resets += 1
            now.reset_methods_renewed += bool(fault and fault.kind == "stale")
            now.other_identity |= bool(fault and fault.kind == "wrong-identity")
        if self._model(card.address).boot_0 and _LADDER[method] == "bus":
            self._clear_by_firmware(card)

    def _clear_by_firmware(self, card: Card) -> None:
        """What NVIDIA's firmware does after a bus reset; it may fail to, or only say so."""
        fault = self._strike("clear", card.address)
        with self._store.changed() as state:
            state.cards[card.address].says_cleared = not (fault and fault.kind == "error")
        if fault is None:
            with mapped(memory_file(self._directory, card.address), card.memory_bytes) as window:
                window.fill(0, window.size, 0)

    def _suffer(self, fault: Fault | None, address: str, failure: type[BusError]) -> None:
        """Those kinds of faults that end an operation."""
        match fault.kind if fault else None:
            case "error":
                raise failure(f"{address}: Input/output error (simulated).")
            case "enotty":
                raise failure(f"{address}: Inappropriate ioctl for device (simulated).")
            case "vanish":
                self._vanish(address)
            case "hang":
                self._take(fault.seconds if fault else 0)
                with self._store.changed() as state:
                    state.cards[address].hangs = True
                raise Wedged(f"The kernel hangs on {address} (simulated). The host has to be rebooted.")

    def _take(self, seconds: float) -> None:
        """Somebody waits for the card."""
        time.sleep(seconds)

    def _refuse_hanging(self, address: str) -> None:
        if address in self.hanging():
            raise Wedged(f"The kernel hangs on {address} (simulated). The host has to be rebooted.")

    def _model(self, address: str) -> SimulatedCard:
        return next(model for model in self._store.read().all_cards() if model.address == address)

    def _finds(self, address: str) -> bool:
        """Whether it is there when it is looked for; that is when one that is to vanish does so."""
        if self._strike("card", address):
            self._vanish(address)
        return self._is_present(address)

    def _is_present(self, address: str) -> bool:
        state = self._store.read().cards.get(address)
        return state is not None and state.present

    def _vanish(self, address: str) -> None:
        with self._store.changed() as state:
            state.cards[address].present = False

    def _strike(self, operation: Operation, address: str, *, rung: str = "") -> Fault | None:
        """The next fault injected into this operation, counted as having happened; a delay is over then."""
        fault = self._next(operation, address, rung)
        if fault and fault.kind == "delay":
            self._take(fault.seconds)
            return None
        return fault

    def _next(self, operation: Operation, address: str, rung: str) -> Fault | None:
        if not any(_concerns(fault, operation, address, rung) for fault in self._store.read().faults):
            return None
        with self._store.changed() as state:
            for index, fault in enumerate(state.faults):
                if _concerns(fault, operation, address, rung):
                    state.faults[index : index + 1] = _remaining(fault)
                    return fault
        return None


_LADDER = {
    "vfio-hot-reset": "bus",
    "bridge-reset": "bus",
    "sysfs-reset": "function",
    "remove-rescan": "slot",
}


_LADDER_OF_SLICE = {"sysfs-reset": "function"}


class _StuckWindow(OneByOne):
    """A window of which only the first `writable` bytes take what is written."""

    name = MappedWindow.name
    is_fast = MappedWindow.is_fast

    def __init__(self, window: MappedWindow, writable: int) -> None:
        self._window = window
        self._writable = writable
        self.size = window.size
        self.read = window.read
        self.first_mismatch = window.first_mismatch

    def fill(self, offset: int, length: int, pattern: int | bytes) -> None:
        self._window.read(offset + length, 0)
        self._window.fill(offset, max(0, min(length, self._writable - offset)), pattern)


def _writable(size: int, fault: Fault | None) -> int:
    kind = fault.kind if fault else None
    return {"stuck": 0, "partial": size - size // 8}.get(kind or "", size)


def _concerns(fault: Fault, operation: Operation, address: str, rung: str) -> bool:
    wanted = fault.rung or ("sysfs-reset" if fault.kind in ("enotty", "stale") else rung)
    return (fault.operation, fault.address, wanted) == (operation, address, rung)


def _remaining(fault: Fault) -> list[Fault]:
    if fault.times == 0:
        return [fault]
    return [msgspec.structs.replace(fault, times=fault.times - 1)] if fault.times > 1 else []


def _identity(model: SimulatedCard, state: CardState) -> Fingerprint:
    changes = {"serial": "SIM99999"} if state.other_identity else {}
    changes |= {"rom_sha256": "f1a5" * 16} if state.other_firmware else {}
    return msgspec.structs.replace(model.fingerprint, **changes)


def _details(model: SimulatedCard, state: CardState) -> CardDetails:
    return msgspec.structs.replace(model.details, driver=state.drivers[model.address])


def _as_booted(card: SimulatedCard) -> CardState:
    return CardState(drivers=dict.fromkeys(card.functions, card.host_driver))


def _reserve(path: Path, size: int) -> None:
    """A sparse file of that size; what it holds already stays."""
    with path.open("ab") as file:
        file.truncate(size)
