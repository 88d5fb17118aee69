"""The part of the protocol about divided cards: the ways, the slices, the order and what came of it."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from msgspec import Meta

from hosts.protocol.evidence import GpuOrder
from hosts.protocol.fields import CardAddress, Count, Counter, Message, PciAddress, Short, Text

SliceKind = Literal["vf", "vgpu", "mig-vgpu"]


class SliceProfile(Message, frozen=True, kw_only=True):
    """A way to divide a card. `most` slices at once, each of `memory_bytes`: 0 if that is not known before.

    A `vf` is a virtual function of SR-IOV; a `vgpu` shares the card's engines in time, a `mig-vgpu` has
    engines of its own.
    """

    SINCE = 2

    name: Short
    kind: SliceKind
    title: Short
    most: Count
    memory_bytes: Annotated[int, Meta(ge=0, le=2**50)] = 0


class SlicePart(Message, frozen=True, kw_only=True):
    """Of which card, by its address, a slice is a part, and by which profile it was made."""

    SINCE = 2

    parent: PciAddress
    kind: SliceKind
    profile: Short


class Divide(Message, frozen=True, kw_only=True, tag="divide"):
    """Make `count` slices of the GPU's card by one of its profiles. Refused unless it is clean and unused."""

    SINCE = 2

    gpu: GpuOrder
    profile: Short
    count: Annotated[int, Meta(ge=1, le=64)]


class Undivide(Message, frozen=True, kw_only=True, tag="undivide"):
    """Take the slices of the GPU's card away; none of them may be in use."""

    SINCE = 2

    gpu: GpuOrder


class Divided(Message, frozen=True, kw_only=True, tag="divided"):
    """The GPU's card is divided: these are its slices."""

    SINCE = 2

    gpu_id: UUID
    tenure: Counter
    profile: Short
    slices: Annotated[tuple[CardAddress, ...], Meta(max_length=64)]


class Undivided(Message, frozen=True, kw_only=True, tag="undivided"):
    """The GPU's card is whole again, and not known to be clean."""

    SINCE = 2

    gpu_id: UUID
    tenure: Counter


class DivisionFailed(Message, frozen=True, kw_only=True, tag="division-failed"):
    """The card could not be divided, or made whole: `divided` says what it still is."""

    SINCE = 2

    gpu_id: UUID
    tenure: Counter
    reason: Text
    divided: bool


DivisionEvent = Divided | Undivided | DivisionFailed
