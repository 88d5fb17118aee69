"""A scrubber that works from inside: a small machine that is given the card, scrubs it and says how.

The way for cards whose memory no BAR shows: whatever the vendor's driver can allocate there is overwritten.
The machine is built, started and removed like a leased one, and lives as long as the scrub.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Literal

from hosts.agent.domain import DomainType
from hosts.agent.images import open_kernel_image, read_scrub_facts
from hosts.agent.machines import MachineHost
from hosts.agent.scrub_channel import Patience, ScrubResult, listen
from hosts.agent.scrub_domain import CHANNEL, ScrubMachineSpec, machine_name, scrub_machine_xml
from hosts.agent.scrubber import Outcome, ScrubFailed, Workplace
from hosts.agent.small_machine import open_channel, remove_small_machine, running

# The card's place in the machine: the first root port's bus.
INSIDE = "0000:01:00.0"
MIB = 1024 * 1024
# Where each program was seen to do what it says in a scrub machine. OpenCL was tried with PoCL on a CPU, CUDA
# on an NVIDIA H200 by itself: neither counts.
_PROVEN_ON = {"plain": ("1234:1111",)}


@dataclass(frozen=True)
class MachineRoom:
    """Where scrub machines run; serial logs go to `folder`."""

    hypervisor: MachineHost
    domain_type: DomainType
    folder: Path


@dataclass(frozen=True)
class Appliance:
    """A scrub machine's system: the folder that `appliance.build` made, and the digest of its manifest."""

    directory: Path
    digest: str
    patience: Patience


class MachineScrubber:
    """Runs one appliance. ImageError if that is not what its digest says."""

    version = "1"
    kind: Literal["overwrite"] = "overwrite"

    def __init__(
        self,
        name: str,
        appliance: Appliance,
        room: MachineRoom,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = name
        self._appliance = appliance
        self._facts = read_scrub_facts(appliance.directory, appliance.digest)
        self._room = room
        self._sleep = sleep

    @property
    def proven_on(self) -> tuple[str, ...]:
        return _PROVEN_ON.get(self._facts.variant, ())

    def run(self, place: Workplace) -> Outcome:
        nonce = token_hex(16)
        host, name = self._room.hypervisor, machine_name(place.card.address)
        with (
            running(host, name, self._definition(place, nonce)),
            open_channel(host, name, CHANNEL, sleep=self._sleep) as channel,
        ):
            result = listen(channel, nonce, patience=self._appliance.patience, progress=place.progress)
        self._check(result, place)
        # What it said is of use when it failed.
        self._serial_log(place).unlink(missing_ok=True)
        return _outcome(result)

    def _definition(self, place: Workplace, nonce: str) -> str:
        told = f"leasehold.nonce={nonce} leasehold.channel={CHANNEL} leasehold.gpu={INSIDE}"
        address = place.card.address
        self._room.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        spec = ScrubMachineSpec(
            address=address,
            memory_mib=self._facts.memory_mib,
            boot=open_kernel_image(self._appliance.directory, self._appliance.digest, cmdline=told),
            serial_log=self._serial_log(place),
            domain_type=self._room.domain_type,
        )
        spec.serial_log.unlink(missing_ok=True)
        return scrub_machine_xml(spec, place.bus.gpu_fragments(place.card, slot=1))

    def _serial_log(self, place: Workplace) -> Path:
        return self._room.folder / f"{machine_name(place.card.address)}.log"

    def _check(self, result: ScrubResult, place: Workplace) -> None:
        """That it did what it was built for, to this card and no other one."""
        wanted, expected = self._facts.variant, place.card.fingerprint.vendor_device
        if result.variant != wanted:
            raise ScrubFailed(f"The program {wanted!r} was started; {result.variant!r} answered.")
        if result.variant == "plain" and result.device != expected:
            raise ScrubFailed(f"It scrubbed a device {result.device}; the card is {expected}.")


def remove_scrub_machines(hypervisor: MachineHost, address: str | None = None) -> list[str]:
    """Those of one card, or all; their names. One that cannot be removed is left, and still has its card."""
    removed = []
    for facts in hypervisor.machines():
        if facts.scrubs and address in (None, facts.scrubs):
            remove_small_machine(hypervisor, facts.name)
            removed.append(facts.name)
    return removed


def _outcome(result: ScrubResult) -> Outcome:
    seconds = result.seconds
    return Outcome(
        reached_bytes=result.reached_bytes,
        written_bytes=result.reached_bytes,
        read_back_bytes=result.reached_bytes,
        mismatches=result.mismatches,
        coverage="full",
        pattern="a mix of place and nonce, then 00",
        facts={
            "program": f"{result.variant} {result.program}",
            "kernel": result.kernel,
            "driver": result.driver,
            "device": result.device,
            "of": f"{result.total_bytes} bytes",
            "first mismatch": str(result.first_mismatch) if result.mismatches else "none",
            "pattern written": _rate(result.reached_bytes, seconds.fill),
            "pattern read": _rate(result.reached_bytes, seconds.read),
            "zeros written": _rate(result.reached_bytes, seconds.zero),
            "zeros read": _rate(result.reached_bytes, seconds.check),
        },
    )


def _rate(count: int, seconds: float) -> str:
    return f"{count / MIB / seconds:.0f} MiB/s" if seconds else "in no time"
