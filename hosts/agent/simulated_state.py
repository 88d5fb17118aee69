"""What the simulated bus keeps in its directory: cards, what has become of them, and faults still to come."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from hosts.protocol.messages import CardDetails, Fingerprint, SlicePart, SliceProfile

MIB = 1024 * 1024

Operation = Literal[
    "bind", "reset", "memory", "config", "registers", "clear", "card", "fingerprint", "holders", "divide",
    "undivide",
]  # fmt: skip
Kind = Literal[
    "error", "delay", "hang", "lie", "vanish", "wrong-identity", "enotty", "stale", "stuck", "partial", "busy"
]


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that goes wrong with one card, `times` times (0: until cleared).

    Any operation: delay (it takes `seconds` more, and goes on as ever).
    bind: error, hang (Wedged after `seconds`), lie (nothing happens, no error), vanish.
    reset: as bind, and wrong-identity (comes back as another card), enotty and stale (the sysfs rung only);
    `rung` confines it to one rung of the ladder.
    memory, once per mapping: error (cannot be mapped), stuck (ignores writes), partial (last eighth does).
    config: error (reads ff). registers, once per mapping: error (the first reads as if the card were dead).
    clear, by firmware at a bus reset: error (it never says that it has), lie (it says so only).
    card: vanish. fingerprint: wrong-identity. holders: busy.
    divide: error (the driver refuses), hang, lie, partial (half of the slices are made, without an error).
    undivide: error, hang, lie.
    """

    operation: Operation
    address: str
    kind: Kind = "error"
    times: int = 1
    rung: str = ""
    seconds: float = 0.0


class SimulatedCard(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulated card is; nothing here changes. `boot_0` is the first register of an NVIDIA card.

    A slice is a `part` of a card, and its memory is that of the card from `offset` on.
    """

    address: str
    functions: tuple[str, ...]
    iommu_group: int
    name: str
    memory_bytes: int
    numa_node: int
    fingerprint: Fingerprint
    host_driver: str = "simdrm"
    refusal: str = ""
    boot_0: int = 0
    details: CardDetails = CardDetails()
    profiles: tuple[SliceProfile, ...] = ()
    part: SlicePart | None = None
    offset: int = 0


class CardState(msgspec.Struct, kw_only=True):
    """What has become of a simulated card. `tenants` counts how often it was given to a machine,
    `comings` how often it came onto the bus."""

    drivers: dict[str, str]
    present: bool = True
    other_identity: bool = False
    other_firmware: bool = False
    comings: int = 1
    tenants: int = 0
    resets: int = 0
    reset_methods_renewed: int = 0
    says_cleared: bool = False
    hangs: bool = False


class State(msgspec.Struct, kw_only=True):
    """The whole bus. `slices` are there until they are taken away, or the host is started anew."""

    topology: tuple[SimulatedCard, ...]
    cards: dict[str, CardState]
    faults: list[Fault] = []
    slices: list[SimulatedCard] = []

    def all_cards(self) -> tuple[SimulatedCard, ...]:
        return (*self.topology, *self.slices)

    def slices_of(self, address: str) -> list[SimulatedCard]:
        return [each for each in self.slices if each.part and each.part.parent == address]

    def drop_slices(self, gone: Sequence[SimulatedCard]) -> None:
        addresses = {each.address for each in gone}
        self.slices = [each for each in self.slices if each.address not in addresses]
        for address in addresses:
            self.cards.pop(address, None)


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
        details=CardDetails(
            board=f"{name}, reference board",
            vbios=f"00.01.00.00.{number:02x}",
            link="x16 at 16.0 GT/s",
            path=(f"0000:{0x40 + number * 0x10:02x}:01.0",),
            cpus=f"{8 * numa_node}-{8 * numa_node + 7}",
        ),
        profiles=_demo_profiles(memory_bytes),
    )


def _demo_profiles(memory_bytes: int) -> tuple[SliceProfile, ...]:
    """One of each kind; four of the one that MIG would back leave a part of the memory unused."""
    half, quarter, eighth = memory_bytes // 2, memory_bytes // 4, memory_bytes // 8
    return (
        SliceProfile(name="vf", kind="vf", title="Simulated virtual function", most=2, memory_bytes=half),
        SliceProfile(name="sim-q", kind="vgpu", title="Simulated vGPU 4Q", most=4, memory_bytes=quarter),
        SliceProfile(
            name="sim-1-c", kind="mig-vgpu", title="Simulated vGPU 1-2C", most=4, memory_bytes=eighth
        ),
    )


class Store:
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
    with Store(directory).changed() as state:
        state.faults.append(fault)


def clear_faults(directory: Path) -> None:
    """Faults that have not happened yet will not. What has happened stays."""
    with Store(directory).changed() as state:
        state.faults.clear()


def reboot(directory: Path) -> None:
    """The host starts anew: the kernel hangs no longer, slices are gone, and so is what had vanished."""
    with Store(directory).changed() as state:
        state.drop_slices(state.slices)
        for card in state.cards.values():
            card.hangs = False


def take_for_host(directory: Path, address: str, driver: str = "simdrm") -> None:
    """A driver of the host claims the card's functions, as after a careless `modprobe`."""
    with Store(directory).changed() as state:
        state.cards[address].drivers = dict.fromkeys(state.cards[address].drivers, driver)


def unplug(directory: Path, address: str) -> None:
    """Take the card off the bus."""
    with Store(directory).changed() as state:
        state.cards[address].present = False


def plug_in(directory: Path, address: str, *, other: bool = False, flashed: bool = False) -> None:
    """A card comes onto the bus there: the same one, another one (`other`), or with another firmware."""
    with Store(directory).changed() as state:
        card = state.cards[address]
        card.present = True
        card.comings += 1
        card.other_identity, card.other_firmware = other, flashed


def read_state(directory: Path) -> State:
    """The bus as it is now, for a test or a second process."""
    return Store(directory).read()


def memory_file(directory: Path, address: str) -> Path:
    """The file that holds what is in the card's memory."""
    return directory / "memory" / address
