"""The part of the protocol about clean GPUs: what a card is, how it is to be scrubbed, what was then seen."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from msgspec import Meta

from hosts.protocol.fields import CardAddress, Counter, Message, Moment, Sha256, Short, Text

ReadBack = Literal["full", "sampled"]
Coverage = Literal["full", "sampled", "none"]
Seconds = Annotated[float, Meta(ge=0)]


class Fingerprint(Message, frozen=True, kw_only=True):
    """What tells one card from another, and a changed card from an unchanged one."""

    vendor_device: Annotated[str, Meta(pattern=r"^[0-9a-f]{4}:[0-9a-f]{4}\Z")]
    subsystem: Short = ""
    serial: Short = ""
    firmware: Short = ""
    rom_sha256: Short = ""
    modes: Short = ""


class GpuOrder(Message, frozen=True, kw_only=True):
    """One GPU as a command names it. `tenure` rises with each lease; the host refuses a lower one."""

    gpu_id: UUID
    tenure: Counter
    address: CardAddress
    fingerprint: Fingerprint | None = None


class ScrubPolicy(Message, frozen=True, kw_only=True):
    """How a GPU's memory is cleared, and what has to be shown before the GPU may be called clean.

    All `methods` are used, in this order; protocol 1 knows one, `scrubber`. Reach is in thousandths of the
    memory. `read_back` full: the host reads all of it afterwards; sampled: its canaries and some more.
    """

    ADDED = {"methods": 2, "read_back": 2}

    scrubber: Short = "bar"
    required_reach_permille: Annotated[int, Meta(ge=0, le=1000)] = 1000
    methods: Annotated[tuple[Short, ...], Meta(max_length=8)] = ()
    read_back: ReadBack = "full"

    @property
    def wanted(self) -> tuple[str, ...]:
        """The methods, in the words of either version."""
        return self.methods or (self.scrubber,)


class ResetRecord(Message, frozen=True, kw_only=True):
    """One reset of one card: which rung of the ladder worked, after how many failures."""

    method: Short
    scope: Short
    seconds: float
    attempts: Counter
    failures: tuple[Short, ...] = ()


class MethodRecord(Message, frozen=True, kw_only=True):
    """What one method of a scrub says it did, in bytes. It is believed as far as the witness goes.

    An `overwrite` wrote, and may have read back; a `claim` is somebody's word, such as the firmware's, and
    proves nothing alone. `proven_on` are PCI ids, such as 1234:*, of hardware on which it was shown to work.
    """

    SINCE = 2

    name: Short
    version: Short
    digest: Sha256
    kind: Literal["overwrite", "claim"]
    proven_on: Annotated[tuple[Short, ...], Meta(max_length=64)]
    proven: bool
    coverage: Coverage = "none"
    reached_bytes: Counter = 0
    written_bytes: Counter = 0
    read_back_bytes: Counter = 0
    mismatches: Counter = 0
    pattern: Short = ""
    seconds: Seconds = 0.0
    facts: Annotated[dict[Short, Short], Meta(max_length=32)] = {}
    failure: Text = ""

    @property
    def counts(self) -> bool:
        """Whether its reach counts: it wrote, on hardware it is proven on, and did not fail."""
        return self.kind == "overwrite" and self.proven and not self.failure


class Witness(Message, frozen=True, kw_only=True):
    """What the host itself wrote and read through its own window to the memory, beside every method.

    Canaries are random values at random places that no method knows; `seed` and size give places and values
    again. A mismatch is a block of up to 1 MiB that is not all zeros.
    """

    SINCE = 2

    window: Short
    window_bytes: Counter
    proven: bool
    seed: Short
    canaries_planted: Counter
    canary_places: Annotated[tuple[Counter, ...], Meta(max_length=512)] = ()
    canaries_refused: Counter = 0
    canaries_found: Counter = 0
    coverage: Coverage = "none"
    read_bytes: Counter = 0
    mismatches: Counter = 0
    first_mismatch: Counter | None = None
    seconds: Seconds = 0.0


class ScrubEvidence(Message, frozen=True, kw_only=True):
    """What the host says it did to a GPU's memory and what it then saw.

    What protocol 1 had no words for came with `methods` and `witness`; up to `canaries_found` are its own,
    and sum those up (see `first_evidence`). Byte counts.
    """

    ADDED = {"methods": 2, "witness": 2}

    scrubber: Short
    scrubber_version: Short
    scrubber_digest: Sha256
    proven: bool
    coverage: Coverage
    reached_bytes: Counter
    written_bytes: Counter
    read_back_bytes: Counter
    pattern: Short
    mismatches: Counter
    canaries_planted: Counter
    canaries_found: Counter
    simulated: bool
    memory_bytes: Counter
    methods: Annotated[tuple[MethodRecord, ...], Meta(max_length=8)] = ()
    witness: Witness | None = None
    fills: Counter
    resets: tuple[ResetRecord, ...]
    fingerprint_before: Fingerprint
    fingerprint_after: Fingerprint
    started_at: Moment
    finished_at: Moment
    kernel: Short
    verdict: Literal["passed", "failed"]
    reasons: tuple[Text, ...] = ()
