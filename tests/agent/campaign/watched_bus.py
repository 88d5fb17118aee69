"""A simulated bus on which each card is looked into when a machine gets it, whatever the journal says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import msgspec
from lxml import etree

from hosts.agent.bus import Card
from hosts.agent.simulated import (
    CardState,
    Fault,
    SimulatedBus,
    SimulatedCard,
    State,
    demo_topology,
    memory_file,
)
from hosts.agent.simulated_state import MIB, Operation, Store
from tests.agent.campaign.trouble import GIVEN, MoodyMachines

CARDS = 3
# The last card is one of NVIDIA's, whose memory is seen through its registers alone: in whole mebibytes.
NVIDIA = "10de:2230"
_AMPERE = 0x172000A1

# The lease that the journal says has a card, if any does.
Holder = Callable[[str], UUID | None]


class StoreInMemory(Store):
    """What the cards are like, for one process alone; it outlives the worker."""

    def __init__(self, card_bytes: int) -> None:
        *cards, last = demo_topology(card_bytes)[:CARDS]
        cards.append(_of_nvidia(last))
        drivers = {card.address: dict.fromkeys(card.functions, card.host_driver) for card in cards}
        self.state = State(
            topology=tuple(cards),
            cards={address: CardState(drivers=each) for address, each in drivers.items()},
        )

    def create(self, topology: Sequence[SimulatedCard], host_drivers: dict[str, CardState]) -> None:
        """It is there."""

    def read(self) -> State:
        return self.state

    def relatives(self, address: str) -> set[str]:
        """Itself, the card that it is a slice of, and its slices: what has memory in common with it."""
        slices = {each.address for each in self.state.slices_of(address)}
        wholes = {each.part.parent for each in self.state.slices if each.address == address and each.part}
        return {address, *slices, *wholes}

    def find(self, address: str) -> SimulatedCard:
        return next(card for card in self.state.all_cards() if card.address == address)

    @contextmanager
    def changed(self) -> Iterator[State]:
        yield self.state


def _of_nvidia(card: SimulatedCard) -> SimulatedCard:
    return msgspec.structs.replace(
        card,
        boot_0=_AMPERE,
        memory_bytes=MIB,
        profiles=(),
        fingerprint=msgspec.structs.replace(card.fingerprint, vendor_device=NVIDIA),
    )


class WatchedBus(SimulatedBus):
    """`owners` are the leases whose data may lie in a card; `holder` says whom the journal gave it to.

    A machine of no lease is a scrub machine: that may have what is not clean, also what was ordered anew
    meanwhile. `note_reset` is told of each card that was reset.
    """

    def __init__(
        self,
        directory: Path,
        store: StoreInMemory,
        machines: MoodyMachines,
        owners: dict[str, UUID | None],
        holder: Holder,
        note_reset: Callable[[str], None],
    ) -> None:
        super().__init__(directory, store=store)
        self._folder = directory
        self._cards = store
        self._machines = machines
        self._owners = owners
        self._holder = holder
        self._note_reset = note_reset

    def _next(self, operation: Operation, address: str, rung: str) -> Fault | None:
        fault = super()._next(operation, address, rung)
        if fault:
            self._machines.trouble.happened[f"{operation} {fault.kind}"] += 1
        return fault

    def _take(self, seconds: float) -> None:
        self._machines.trouble.strands.wait(seconds)

    def _reset(self, card: Card, method: str) -> None:
        super()._reset(card, method)
        self._note_reset(card.address)

    def gpu_fragments(self, card: Card, *, slot: int) -> list[etree._Element]:
        lease_id = self._holder(card.address)
        if lease_id:
            if not is_blank(self._folder, self._cards.find(card.address)):
                self._check_owner(card.address, lease_id)
            self._owners[card.address] = lease_id
        port, device = super().gpu_fragments(card, slot=slot)
        port.set(GIVEN, f"{card.address} of {lease_id}")
        return [port, device]

    def _check_owner(self, address: str, lease_id: UUID) -> None:
        owner = self._owners.get(address)
        if owner != lease_id:
            self._machines.wrongs.append(f"{address} went to {lease_id} with what {owner} left in it")


def is_blank(directory: Path, card: SimulatedCard) -> bool:
    """Whether nothing is left in the card's memory, as a physicist would look."""
    with memory_file(directory, _whole(card)).open("rb") as file:
        file.seek(card.offset)
        return not file.read(card.memory_bytes).strip(b"\0")


def clear(directory: Path, card: SimulatedCard, share: float) -> None:
    """Zeros in so much of its memory."""
    with memory_file(directory, _whole(card)).open("r+b") as file:
        file.seek(card.offset)
        file.write(bytes(int(card.memory_bytes * share)))


def leave_traces(directory: Path, card: SimulatedCard) -> None:
    """All of its memory holds what somebody else wrote."""
    with memory_file(directory, _whole(card)).open("r+b") as file:
        file.seek(card.offset)
        file.write(b"somebody else's " * (card.memory_bytes // 16))


def _whole(card: SimulatedCard) -> str:
    return card.part.parent if card.part else card.address
