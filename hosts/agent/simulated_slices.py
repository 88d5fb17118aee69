"""How a simulated card is divided. Each slice is a card at an address of its own, with a part of the memory.

As with real ones, slices are gone after a reboot, and what was in their memory is not.
"""

from __future__ import annotations

from uuid import UUID, uuid5

import msgspec

from hosts.agent.bus import BusError, Slice, divided_into
from hosts.agent.simulated_state import CardState, SimulatedCard, State, Store
from hosts.protocol.messages import SlicePart, SliceProfile

_NAMES = UUID("b2a0c8f6-52b5-4c53-8ac3-8f1f0c0a8d11")
_FIRST_FUNCTION = 4


def slices_of(store: Store, address: str) -> tuple[Slice, ...]:
    """What the card is divided into now."""
    return tuple(
        Slice(each.address, each.part.profile) for each in store.read().slices_of(address) if each.part
    )


def refusal_of(state: State, card: SimulatedCard) -> str:
    """A divided card serves in slices only."""
    count = len(state.slices_of(card.address))
    return divided_into(count) if count else ""


def divide(store: Store, address: str, name: str, count: int) -> None:
    """Make the slices. BusError, and nothing is made, if the card cannot be divided so."""
    with store.changed() as state:
        card = next(card for card in state.topology if card.address == address)
        profile = next((each for each in card.profiles if each.name == name), None)
        if profile is None:
            raise BusError(f"{address} cannot be divided by {name!r}.")
        if state.slices_of(address):
            raise BusError(f"{address} is divided already.")
        if count > profile.most:
            raise BusError(f"{address} can be divided into {profile.most} such slices, not into {count}.")
        for index in range(count):
            made = _slice(card, profile, index)
            state.slices.append(made)
            state.cards[made.address] = CardState(drivers={made.address: ""}, comings=index + 1)
            state.cards[address].drivers = dict.fromkeys(card.functions, card.host_driver)


def _slice(card: SimulatedCard, profile: SliceProfile, index: int) -> SimulatedCard:
    address = _address(card.address, profile, index)
    device = int(card.fingerprint.vendor_device[5:], 16) + 1 + ("vf", "vgpu", "mig-vgpu").index(profile.kind)
    return SimulatedCard(
        address=address,
        functions=(address,),
        iommu_group=card.iommu_group * 100 + index,
        name=f"{card.name}, {profile.title}",
        memory_bytes=profile.memory_bytes,
        numa_node=card.numa_node,
        fingerprint=msgspec.structs.replace(
            card.fingerprint,
            vendor_device=f"1234:{device:04x}",
            serial="",
            rom_sha256="",
            modes=f"slice={profile.name}",
        ),
        host_driver="",
        part=SlicePart(parent=card.address, kind=profile.kind, profile=profile.name),
        offset=index * profile.memory_bytes,
    )


def _address(parent: str, profile: SliceProfile, index: int) -> str:
    """Of a virtual function its place on the bus; a vGPU has nothing but a name."""
    if profile.kind != "vf":
        return str(uuid5(_NAMES, f"{parent}/{index}"))
    place = _FIRST_FUNCTION + index
    return f"{parent[:-4]}{place // 8:02x}.{place % 8}"
