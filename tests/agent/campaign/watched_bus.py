"""A simulated bus on which each card is looked into when a machine gets it, whatever the journal says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

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
from hosts.agent.simulated_state import Operation, Store
from tests.agent.campaign.trouble import GIVEN, MoodyMachines

CARDS = 3

Holder = Callable[[str], UUID | None]


class StoreInMemory(Store):
    """What the cards are like, for one process alone; it outlives the worker."""

    def __init__(self, card_bytes: int) -> None:
        cards = demo_topology(card_bytes)[:CARDS]
        drivers = {card.address: dict.fromkeys(card.functions, card.host_driver) for card in cards}
        self.state = State(
            topology=cards, cards={address: CardState(drivers=each) for address, each in drivers.items()}
        )

    def create(self, topology: Sequence[SimulatedCard], host_drivers: dict[str, CardState]) -> None:
        """It is there."""

    def read(self) -> State:
        return self.state

    @contextmanager
    def changed(self) -> Iterator[State]:
        yield self.state


class WatchedBus(SimulatedBus):
    """`owners` are the leases whose data may lie in a card; `holder` says whom the journal gave it to.

    `note_reset` is told of each card that was reset.
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
        if not is_blank(self._folder, card.address) and self._owners.get(card.address) != lease_id:
            owner = self._owners.get(card.address)
            self._machines.wrongs.append(f"{card.address} went to {lease_id} with what {owner} left in it")
        self._owners[card.address] = lease_id
        port, device = super().gpu_fragments(card, slot=slot)
        port.set(GIVEN, f"{card.address} of {lease_id}")
        return [port, device]


def is_blank(directory: Path, address: str) -> bool:
    """Whether nothing is left in the card's memory, as a physicist would look."""
    return not any(memory_file(directory, address).read_bytes())


def leave_traces(directory: Path, address: str, owners: dict[str, UUID | None]) -> None:
    """Somebody who is no tenant has used the card."""
    path = memory_file(directory, address)
    path.write_bytes(b"somebody else's " * (path.stat().st_size // 16))
    owners[address] = None
