"""A PCI bus of simulated cards that behaves like `/sys`: drivers, groups, resets, memory that survives them.

All of it lies in one directory: the state is replaced atomically, so it survives a killed worker and can be
read, and faults injected, by another process. A reset does not scrub here either.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
from lxml import etree

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
from hosts.agent.doctor.facts import CardFacts
from hosts.agent.doctor.simulated_facts import simulated_facts
from hosts.agent.fragments import emulated_display, root_port
from hosts.agent.memory import MappedWindow, mapped
from hosts.protocol.messages import Fingerprint

MIB = 1024 * 1024
VFIO_DRIVER = "vfio-pci"
RESIDUE = b"residue of the last tenant / "

Operation = Literal["bind", "reset", "memory", "config", "card", "fingerprint", "holders"]
Kind = Literal[
    "error", "hang", "lie", "vanish", "wrong-identity", "enotty", "stale", "stuck", "partial", "busy"
]


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that goes wrong with one card, `times` times (0: until cleared).

    bind: error, hang (Wedged after `seconds`), lie (nothing happens, no error), vanish.
    reset: as bind, and wrong-identity (comes back as another card), enotty and stale (the sysfs rung only);
    `rung` confines it to one rung of the ladder.
    memory, once per mapping: error (cannot be mapped), stuck (ignores writes), partial (last eighth does).
    config: error (reads ff). card: vanish. fingerprint: wrong-identity. holders: busy.
    """

    operation: Operation
    address: str
    kind: Kind = "error"
    times: int = 1
    rung: str = ""
    seconds: float = 0.0


class SimulatedCard(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulated card is; nothing here changes."""

    address: str
    functions: tuple[str, ...]
    iommu_group: int
    name: str
    memory_bytes: int
    numa_node: int
    fingerprint: Fingerprint
    host_driver: str = "simdrm"
    refusal: str = ""


class CardState(msgspec.Struct, kw_only=True):
    """What has become of a simulated card. `tenants` counts how often it was given to a machine."""

    drivers: dict[str, str]
    present: bool = True
    other_identity: bool = False
    tenants: int = 0
    resets: int = 0
    reset_methods_renewed: int = 0


class State(msgspec.Struct, kw_only=True):
    """The whole bus."""

    topology: tuple[SimulatedCard, ...]
    cards: dict[str, CardState]
    faults: list[Fault] = []


def demo_topology(memory_bytes: int = 64 * MIB) -> tuple[SimulatedCard, ...]:
    """Four GPUs of two models on two NUMA nodes, each with its audio function."""
    models = ("Simulated A6000", "1234:a600"), ("Simulated L40", "1234:0140")
    return tuple(
        _demo_card(number, *models[number // 2], numa_node=number % 2, memory_bytes=memory_bytes)
        for number in range(4)
    )


def _demo_card(number: int, name: str, ids: str, *, numa_node: int, memory_bytes: int) -> SimulatedCard:
    slot = f"0000:{0x41 + number * 0x10:02x}:00"
    fingerprint = Fingerprint(
        vendor_device=ids,
        subsystem="1234:0001",
        serial=f"SIM{number:05d}",
        firmware="revision 01",
        rom_sha256=f"{0x5EED + number:064x}",
        modes="ecc=on",
    )
    return SimulatedCard(
        address=f"{slot}.0",
        functions=(f"{slot}.0", f"{slot}.1"),
        iommu_group=20 + number,
        name=name,
        memory_bytes=memory_bytes,
        numa_node=numa_node,
        fingerprint=fingerprint,
    )


class _Store:
    """The state file. Changes are serialized between threads and processes; readers see whole states."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "state.json"
        self._lock = directory / "lock"

    def create(self, topology: Sequence[SimulatedCard], host_drivers: dict[str, CardState]) -> None:
        with self._exclusive():
            if not self._file.exists():
                self._replace(State(topology=tuple(topology), cards=host_drivers))

    def read(self) -> State:
        return msgspec.json.decode(self._file.read_bytes(), type=State)

    @contextmanager
    def changed(self) -> Iterator[State]:
        with self._exclusive():
            state = self.read()
            yield state
            self._replace(state)

    def _replace(self, state: State) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(state)))
        fresh.replace(self._file)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def inject(directory: Path, fault: Fault) -> None:
    """Let the fault happen, in whichever process uses the bus."""
    with _Store(directory).changed() as state:
        state.faults.append(fault)


def clear_faults(directory: Path) -> None:
    """Faults that have not happened yet will not. What has happened stays."""
    with _Store(directory).changed() as state:
        state.faults.clear()


def read_state(directory: Path) -> State:
    """The bus as it is now, for a test or a second process."""
    return _Store(directory).read()


def memory_file(directory: Path, address: str) -> Path:
    """The file that holds what is in the card's memory."""
    return directory / "memory" / address


class SimulatedBus:
    """A PciBus in `directory`; made from `topology` where there is none yet."""

    simulated = True

    def __init__(self, directory: Path, topology: Sequence[SimulatedCard] | None = None) -> None:
        (directory / "memory").mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._store = _Store(directory)
        cards = demo_topology() if topology is None else topology
        self._store.create(cards, {card.address: _as_booted(card) for card in cards})
        for card in self._store.read().topology:
            _reserve(memory_file(directory, card.address), card.memory_bytes)

    def recover(self) -> None:
        """Nothing is ever half done: each change replaces the whole state."""

    def cards(self) -> tuple[Card, ...]:
        found = []
        for model in self._store.read().topology:
            with suppress(CardMissing):
                found.append(self.card(model.address))
        return tuple(found)

    def examine(self) -> tuple[CardFacts, ...]:
        state, methods = self._store.read().cards, " ".join(_LADDER)
        return tuple(
            simulated_facts(card, state[card.address].drivers, reset_methods=methods) for card in self.cards()
        )

    def card(self, address: str) -> Card:
        state = self._store.read()
        model = next((model for model in state.topology if model.address == address), None)
        if self._strike("card", address):
            self._vanish(address)
        if model is None or not self._is_present(address):
            raise CardMissing(f"No display-class card is at {address}.")
        return Card(
            address=model.address,
            functions=model.functions,
            iommu_group=model.iommu_group,
            name=model.name,
            memory_bytes=model.memory_bytes,
            numa_node=model.numa_node,
            fingerprint=_identity(model, other=state.cards[address].other_identity),
            refusal=model.refusal,
        )

    def is_alive(self, card: Card) -> bool:
        return self._is_present(card.address) and not self._strike("config", card.address)

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
        return tuple(
            ResetRung(method, scope, partial(self._reset, card, method)) for method, scope in _LADDER.items()
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
        with mapped(memory_file(self._directory, card.address), card.memory_bytes) as window:
            yield _StuckWindow(window, _writable(window.size, fault))

    def gpu_fragments(self, card: Card, *, slot: int) -> list[etree._Element]:
        """An emulated display; the card's memory now holds what a tenant might have left there."""
        with self._store.changed() as state:
            state.cards[card.address].tenants += 1
            tenants = state.cards[card.address].tenants
        self._leave_residue(card, f"tenant {tenants} of {card.address} / ".encode())
        return [root_port(slot), emulated_display(slot)]

    def _leave_residue(self, card: Card, signature: bytes) -> None:
        with mapped(memory_file(self._directory, card.address), card.memory_bytes) as window:
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
                time.sleep(fault.seconds if fault else 0)
                raise Wedged(f"The kernel hangs on {address} (simulated). The host has to be rebooted.")

    def _is_present(self, address: str) -> bool:
        state = self._store.read().cards.get(address)
        return state is not None and state.present

    def _vanish(self, address: str) -> None:
        with self._store.changed() as state:
            state.cards[address].present = False

    def _strike(self, operation: Operation, address: str, *, rung: str = "") -> Fault | None:
        """The next fault injected into this operation, counted as having happened."""
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


class _StuckWindow:
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


def _identity(model: SimulatedCard, *, other: bool) -> Fingerprint:
    return msgspec.structs.replace(model.fingerprint, serial="SIM99999") if other else model.fingerprint


def _as_booted(card: SimulatedCard) -> CardState:
    return CardState(drivers=dict.fromkeys(card.functions, card.host_driver))


def _reserve(path: Path, size: int) -> None:
    """A sparse file of that size; what it holds already stays."""
    with path.open("ab") as file:
        file.truncate(size)
