"""What the host program needs of a hypervisor, in words that do not depend on libvirt."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from hosts.agent.doctor.facts import Version
from hosts.agent.placing import NOTHING, Occupied


class HypervisorError(Exception):
    """The hypervisor refused or failed; the text says what was asked and why it was not done."""


class HypervisorSilent(HypervisorError):
    """The call was given up, because no answer came. The next one goes another way."""


class GuestSilent(HypervisorError):
    """No agent inside the machine has answered, or none in time."""


class MachineState(enum.Enum):
    ABSENT = "absent"
    OFF = "off"
    RUNNING = "running"
    PAUSED = "paused"
    CRASHED = "crashed"


ACTIVE = (MachineState.RUNNING, MachineState.PAUSED)


class StopCause(enum.Enum):
    """Why a machine stopped. GUEST: it shut itself down, by its user's wish or obeying the power button."""

    GUEST = "guest"
    DESTROYED = "destroyed"
    CRASHED = "crashed"
    FAILED = "failed"


@dataclass(frozen=True)
class Stop:
    """A machine that ran has stopped."""

    name: str
    cause: StopCause


@dataclass(frozen=True)
class MachineFacts:
    """One machine the hypervisor knows, ours or not. Not ours: no lease, it scrubs nothing and reads nothing.

    `pci_addresses` are the host's devices it is given, as `0000:41:00.0`. `scrubs` is the card that a scrub
    machine was made for, `reads` the reading of a reading machine; these serve no lease. `usb` are bus and
    device of the host's USB devices it is given.
    `run` is another number each time it is started.
    """

    name: str
    uuid: UUID
    state: MachineState
    lease_id: UUID | None
    generation: int | None
    pci_addresses: frozenset[str]
    scrubs: str = ""
    reads: UUID | None = None
    occupied: Occupied = NOTHING
    usb: frozenset[tuple[int, int]] = frozenset()
    run: int = 0

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE


@dataclass(frozen=True)
class Counters:
    """What a running machine has used since it was started.

    `network_bytes` went in and out through its interfaces; None if not all of them can be seen.
    """

    processor_seconds: float
    network_bytes: int | None


StopListener = Callable[[Stop], None]


class MachineHost(Protocol):
    """Machines by name. Calls may be repeated: what is so is left so. Errors: HypervisorError.

    `keeps_keys`: whether it can run machines with encrypted disks, and keep their keys for them.
    """

    keeps_keys: bool

    def define(self, xml: str, *, disk_key: bytes | None = None, home_key: bytes | None = None) -> None:
        """Make the machine known, or change it if it is. The keys open its encrypted disk, and its home."""

    def start(self, name: str) -> None:
        """Run it; an error if it is absent."""

    def shutdown(self, name: str) -> None:
        """Press the power button. Returns at once; the guest may take its time, or not care."""

    def reboot(self, name: str) -> None:
        """Ask the guest to restart; an error if it is not running."""

    def reset(self, name: str) -> None:
        """Restart it without asking the guest; an error if it is not running."""

    def destroy(self, name: str) -> None:
        """Stop it now, without asking the guest."""

    def undefine(self, name: str) -> None:
        """Forget it with its firmware variables and keys; an error while it runs."""

    def state(self, name: str) -> MachineState: ...

    def machines(self) -> list[MachineFacts]:
        """All of them, those that are not Leasehold's included."""

    def console_socket(self, name: str) -> Path:
        """The socket of the running machine's VNC server."""

    def channel_socket(self, name: str, channel: str) -> Path:
        """The socket behind one of the running machine's virtio-serial channels."""

    def ask_guest(self, name: str, command: str, arguments: Mapping[str, Any], *, seconds: int) -> str:
        """The answer of the agent inside the machine, as it was given. Takes twice `seconds` at most.

        GuestSilent if none comes; HypervisorError if the agent refuses. No answer is to be trusted.
        """

    def counters(self, name: str) -> Counters:
        """How much the running machine has used; an error if it is not running."""

    def make_network(self, xml: str) -> None:
        """Make the network known if it is not, and let it run."""

    def remove_network(self, lease_id: UUID) -> None:
        """Stop and forget the network of a lease."""

    def networks(self) -> dict[UUID, int]:
        """The leases that have a network of ours, each with the number of its lane."""

    def cut_off(self, name: str, netdev: str, forwards: Sequence[str]) -> None:
        """Nothing passes through QEMU's own network of a machine any more, nor is anything let in."""

    def versions(self) -> tuple[Version, Version]:
        """Of libvirt, and of QEMU."""

    def unanswered(self) -> tuple[str, ...]:
        """The latest calls that were given up, because no answer came, in words."""

    def on_stopped(self, listener: StopListener) -> None:
        """Call `listener` after each stop, on another thread, where it must not call back."""

    def close(self) -> None:
        """Let go of the hypervisor. Machines run on."""
