"""Every fault of the campaign: each happens in it, and `docs/failures.md` says what becomes of it."""

from __future__ import annotations

from hosts.agent.simulated_state import Operation
from tests.agent.campaign.appliance import MANNERS
from tests.agent.campaign.trouble import GUESTS, MOODS, Mood

# What each operation of the bus may do, as `simulated_state.Fault` explains.
BUS_FAULTS: dict[Operation, tuple[str, ...]] = {
    "bind": ("error", "delay", "hang", "lie", "vanish"),
    "reset": ("error", "delay", "hang", "lie", "vanish", "wrong-identity", "enotty", "stale"),
    "memory": ("error", "delay", "stuck", "partial"),
    "config": ("error",),
    "card": ("vanish",),
    "fingerprint": ("wrong-identity",),
    "holders": ("busy",),
    "divide": ("error", "delay", "hang", "lie", "partial"),
    "undivide": ("error", "delay", "hang", "lie"),
    "registers": ("error",),
    "clear": ("error", "delay", "lie"),
}
# What an operation of the hypervisor, the packet filter or a disk's program may do.
CALLS: dict[str, tuple[Mood, ...]] = {
    "define": MOODS,
    "start": MOODS,
    "shutdown": MOODS,
    "destroy": MOODS,
    "undefine": MOODS,
    "machines": ("refuse", "cut-before", "delay", "delay-after", "hang"),
    "make_network": MOODS,
    "remove_network": MOODS,
    "nft": ("refuse", "cut-before", "cut-after", "delay"),
    "qemu-img": tuple(mood for mood in MOODS if mood != "lie"),
    "mkfs": tuple(mood for mood in MOODS if mood != "lie"),
}
# Of a slow call: seconds until a call returns that takes its time, or until the kernel is given up.
DELAYS = (20.0, 90.0, 400.0, 1500.0)
BUS_PAIRS = [(operation, kind) for operation, kinds in BUS_FAULTS.items() for kind in kinds]
CALL_PAIRS = [(call, mood) for call, moods in CALLS.items() for mood in moods]
# What is not an operation's mood.
OTHERS = (
    "broker away", "card foreign-machine", "card host-driver", "clock wrong", "disk full", "host new-kernel",
    "host reboot", "journal cut-after", "journal full", "journal lost", "libvirt away", "machine crashed",
    "machine failed", "machine guest", "message again", "message late", "message lost", "message shuffled",
    "worker killed", "worker restart", "worker stall",
)  # fmt: skip
# Those that strike an operation: every history begins with one of them.
DRILLS: list[tuple[str, str]] = [
    *BUS_PAIRS,
    *CALL_PAIRS,
    *(("scrub-machine", manner) for manner in MANNERS),
    *(("guest-agent", guest) for guest in GUESTS if guest != "honest"),
]
FAULTS = frozenset([*OTHERS, *(f"{operation} {kind}" for operation, kind in DRILLS)])
