"""The PCI bus as the host program sees it: one interface for `/sys`, and for the simulated bus.

Everything above this line of the house (plans, scrubbers, machines) knows cards only through it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from lxml import etree

from hosts.agent.doctor.facts import CardFacts as Examined
from hosts.protocol.messages import CardDetails, CardFacts, Fingerprint, SlicePart, SliceProfile

NO_DETAILS = CardDetails()
PROFILES_AT_MOST = 32


class BusError(Exception):
    """An operation on a card failed; the text is for an operator."""


class CardMissing(BusError):
    """No card answers at this address."""


class CardBusy(BusError):
    """Someone holds the card; the text names the holders."""


class Unasked(BusError):
    """There was no process to ask the card with: nothing is known of the card."""


class ResetFailed(BusError):
    """A rung of the reset ladder, or all of it, failed."""


class Wedged(BusError):
    """The kernel did not come back within the deadline. Nothing may be tried on this card again: the child
    that waits for the kernel cannot be killed, and only a reboot of the host helps."""


@dataclass(frozen=True)
class Card:
    """A display-class PCI device with every endpoint function of its slot, or one slice of such a card.

    `refusal` is empty if the card may be leased. `memory_bytes` is the size of the memory that the host can
    map; `numa_node` is -1 where the firmware does not say. A slice says whose `part` it is;
    `profiles` are the ways in which a whole card can be divided now.
    """

    address: str
    functions: tuple[str, ...]
    iommu_group: int | None
    name: str
    memory_bytes: int
    numa_node: int
    fingerprint: Fingerprint
    refusal: str = ""
    details: CardDetails = NO_DETAILS
    part: SlicePart | None = None
    profiles: tuple[SliceProfile, ...] = ()

    def facts(self) -> CardFacts:
        """The card as a report carries it."""
        return CardFacts(
            address=self.address,
            functions=self.functions,
            iommu_group=self.iommu_group,
            name=self.name[:200],
            memory_bytes=self.memory_bytes,
            numa_node=self.numa_node,
            fingerprint=self.fingerprint,
            refusal=self.refusal[:2000],
            details=self.details,
            part=self.part,
            profiles=self.profiles[:PROFILES_AT_MOST],
        )


def divided_into(count: int) -> str:
    """Why a card that is divided may not be leased itself."""
    return f"It is divided into {count} {'slice' if count == 1 else 'slices'}."


@dataclass(frozen=True)
class Slice:
    """One slice that a card is divided into now."""

    address: str
    profile: str


@dataclass(frozen=True)
class ResetRung:
    """One way to reset a card. `run` blocks up to its deadline; ResetFailed or Wedged if it did not work."""

    method: str
    scope: str
    run: Callable[[], None]


def run_first(rungs: Sequence[ResetRung]) -> None:
    """The first of them that works; ResetFailed if none does."""
    failures = []
    for rung in rungs:
        try:
            rung.run()
        except ResetFailed as error:
            failures.append(f"{rung.method}: {error}")
        else:
            return
    raise ResetFailed(" ".join(failures))


class MemoryWindow(Protocol):
    """A way to a card's memory. Offsets and lengths in bytes; ValueError beyond the end.

    `name` says through what: `bar`, the mapped BAR itself. One that is not fast is for samples only.
    """

    @property
    def name(self) -> str: ...

    @property
    def is_fast(self) -> bool: ...

    @property
    def size(self) -> int: ...

    def fill(self, offset: int, length: int, pattern: int | bytes) -> None:
        """Write one byte value, or a pattern repeated (and cut at the end), over the range."""

    def read(self, offset: int, length: int) -> bytes: ...

    def write_each(self, parts: Sequence[tuple[int, bytes]]) -> None:
        """Write each part at its offset."""

    def read_each(self, offsets: Sequence[int], length: int) -> list[bytes]:
        """As much at each of the offsets."""

    def first_mismatch(self, offset: int, length: int, byte: int) -> int | None:
        """Where the range first differs from `byte`, or None."""


class Registers(MemoryWindow, Protocol):
    """A card's registers, mapped writable; each access to one is a single one of 32 bits."""

    def read32(self, offset: int) -> int: ...

    def write32(self, offset: int, value: int) -> None: ...


class PciBus(Protocol):
    """What can be done to cards. Every method may raise BusError; none blocks for ever."""

    @property
    def simulated(self) -> bool: ...

    def recover(self) -> None:
        """Undo what a killed worker left half done. Called once, before anything else."""

    def cards(self, *, without: Collection[str] = ()) -> tuple[Card, ...]:
        """Display-class cards by address, those that cannot be leased included, with the reason.

        Those `without`, and those that hang, are not touched and not among them.
        """

    def hanging(self) -> frozenset[str]:
        """Cards in which the kernel hangs, by address. Until the host is rebooted each other access to one
        of them might never return; it is refused with Wedged."""

    def held(self) -> frozenset[str]:
        """Cards that a machine has open, or may have as far as this program is let see, by address. Touches
        nothing that may hang."""

    def host_drivers(self, address: str) -> tuple[str, ...]:
        """Drivers of the host that have claimed a function of the card. Touches nothing that may hang."""

    def incarnation(self, address: str) -> str:
        """Another one each time that the card comes onto the bus; empty if it is not there. Touches nothing
        that may hang."""

    def examine(self, *, without: Collection[str] = ()) -> tuple[Examined, ...]:
        """The same cards as `doctor` looks at them. Nothing is changed by it."""

    def card(self, address: str) -> Card:
        """One card, read anew. CardMissing if nothing is there."""

    def dead_because(self, card: Card) -> str:
        """Why the card seems dead: a function that does not answer, registers that read ones; or empty."""

    def is_bound(self, card: Card) -> bool:
        """Every endpoint is on vfio-pci and kept awake and from harmful resets, and the group is viable."""

    def bind(self, card: Card) -> None:
        """Give every function to vfio-pci and verify it. Idempotent. CardBusy if the host uses the card."""

    def holders(self, card: Card) -> tuple[str, ...]:
        """Who has the card open, as "name (pid)"."""

    def reset_rungs(self, card: Card) -> tuple[ResetRung, ...]:
        """The reset ladder that this card offers, gentlest scope that is known to work first."""

    def memory(self, card: Card) -> AbstractContextManager[MemoryWindow]:
        """The best way to the card's memory, for the time of the context; decoding is switched on first."""

    def registers(self, card: Card) -> AbstractContextManager[Registers]:
        """The card's first BAR, as `memory`."""

    def fingerprint(self, card: Card) -> Fingerprint:
        """Identity, firmware and modes, read from the card now."""

    def gpu_fragments(self, card: Card, *, slot: int) -> list[etree._Element]:
        """What goes under a domain's `<devices>`: a root port of its own and the card's functions behind it.

        `slot` counts the machine's GPUs from 1, and is the index of the root port. From here on the card's
        memory has to be taken for a tenant's.
        """

    def slices(self, card: Card) -> tuple[Slice, ...]:
        """What the card is divided into now, in the order of their making; nothing if it is whole."""

    def divide(self, card: Card, profile: str, count: int) -> None:
        """Make slices of a card that is whole. It may leave fewer than `count` behind, error or not.

        The same card, profile and count give the same addresses, also after a reboot.
        """

    def undivide(self, card: Card) -> None:
        """Take every slice of the card away. What is in their memory may be in the card's afterwards."""
