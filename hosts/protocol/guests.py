"""The part of the protocol about what is inside machines: what they say of themselves, whether they are used.

What a guest says comes from whoever leases it. It is shown as said by the guest, and decides nothing.
"""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from msgspec import Meta

from hosts.protocol.fields import Message, Moment

Answers = Literal["agent", "ssh", "none"]
Use = Literal["unknown", "none", "console", "network", "processor", "person"]
GuestAddress = Annotated[str, Meta(max_length=45)]
XidCode = Annotated[int, Meta(ge=1, le=9999)]


class GuestFacts(Message, frozen=True, kw_only=True):
    """A machine that runs. Host name, system and addresses are as its agent says, empty where it does not.

    `answers`: who in it answers. `use`: the first sign of use since its first start, seen at `used_at`;
    "none" if it was watched without a break and there was none; "unknown" where use may have gone unseen.
    """

    SINCE = 2

    lease_id: UUID
    answers: Answers
    hostname: Annotated[str, Meta(max_length=63)] = ""
    system: Annotated[str, Meta(max_length=80)] = ""
    addresses: Annotated[tuple[GuestAddress, ...], Meta(max_length=4)] = ()
    use: Use = "unknown"
    used_at: Moment | None = None


class Guests(Message, frozen=True, kw_only=True, tag="guests"):
    """What is known at this moment of machines that run; those left out are as they were."""

    SINCE = 2

    guests: Annotated[tuple[GuestFacts, ...], Meta(max_length=64)]


class GuestError(Message, frozen=True, kw_only=True):
    """An error of a GPU in the guest's kernel log. No `gpu_id`: the guest does not say which GPU it is."""

    SINCE = 2

    code: XidCode
    text: Annotated[str, Meta(max_length=200)]
    gpu_id: UUID | None = None


class GuestErrors(Message, frozen=True, kw_only=True, tag="guest-errors"):
    """What the guest says of errors of its GPUs: each code is told once for each GPU."""

    SINCE = 2

    lease_id: UUID
    errors: Annotated[tuple[GuestError, ...], Meta(min_length=1, max_length=16)]
