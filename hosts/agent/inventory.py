"""What the host has and what runs on it, as it is at this moment."""

from __future__ import annotations

import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import msgspec

from hosts.agent import machines
from hosts.agent.boot import running_kernel
from hosts.agent.held_cards import cards_in_use
from hosts.agent.home_steps import pool_at_hand
from hosts.agent.rig import Rig
from hosts.agent.usb import offered, read_usb
from hosts.protocol.messages import CardFacts, Inventory, MachineFacts

# So that the report fits into a message whatever else runs on the host.
FOREIGN_MACHINES_AT_MOST = 50
GIB = 1024**3
MIB = 1024**2


def take_inventory(rig: Rig, *, restarted: bool = False) -> Inventory:
    """Look at cards, machines and the host's size. BusError or HypervisorError if that is not possible."""
    return Inventory(
        cards=_cards(rig),
        machines=_machines(rig),
        simulated=rig.bus.simulated,
        restarted=restarted,
        networks=tuple(sorted(rig.network.present())),
        usb=offered(rig.config.usb_devices, read_usb(rig.reader)) if rig.config.usb_devices else (),
        pool=pool_at_hand(rig.config),
        reads_homes=rig.config.reads_homes,
        **host_facts(disk_bytes=shutil.disk_usage(rig.config.state_directory).total),
    )


def host_facts(*, disk_bytes: int) -> dict[str, Any]:
    """The host's size and programs."""
    return {
        "cpu_count": os.cpu_count() or 0,
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB,
        "disk_gib": disk_bytes // GIB,
        "kernel": running_kernel(),
        "worker_version": worker_version(),
    }


def _cards(rig: Rig) -> tuple[CardFacts, ...]:
    """The cards; those in use, or taken into use meanwhile, as they were when nobody used them.

    In a machine's hands, or in a reset, a card may answer nothing, have a ROM that must not be read, or be
    off the bus for a moment. That must not look as if another card had taken its place. Nor is one touched
    then that is known.
    """
    used = cards_in_use(rig)
    known = {address for address in used if _recall(rig, address)}
    found = (card.facts() for card in rig.bus.cards(without=known))
    seen = {facts.address: _with_profiles(rig, facts) for facts in found}
    used |= cards_in_use(rig)
    with rig.journal.transaction():
        kept = {address: facts for address in used if (facts := _recall(rig, address))}
        for address in seen.keys() - used:
            _remember(rig, seen[address])
    return tuple(facts for _, facts in sorted((seen | kept).items()))


def _with_profiles(rig: Rig, facts: CardFacts) -> CardFacts:
    """The ways to divide a card show only while its maker's driver has it: those once seen are kept."""
    known = None if facts.part or facts.profiles else _recall(rig, facts.address)
    if known is None or known.fingerprint.vendor_device != facts.fingerprint.vendor_device:
        return facts
    return msgspec.structs.replace(facts, profiles=known.profiles)


def _recall(rig: Rig, address: str) -> CardFacts | None:
    with rig.journal.transaction():
        text = rig.journal.recall(f"card:{address}")
    return None if text is None else msgspec.json.decode(text, type=CardFacts)


def _remember(rig: Rig, facts: CardFacts) -> None:
    if facts != _recall(rig, facts.address):
        rig.journal.remember(f"card:{facts.address}", msgspec.json.encode(facts).decode())


def worker_version() -> str:
    """The installed wheel's version; a checkout that is not installed has none."""
    try:
        return version("leasehold-host")
    except PackageNotFoundError:
        return "source"


def _machines(rig: Rig) -> tuple[MachineFacts, ...]:
    found = sorted(rig.hypervisor.machines(), key=lambda facts: facts.name)
    ours = [facts for facts in found if facts.lease_id is not None]
    foreign = [facts for facts in found if facts.lease_id is None]
    return tuple(_facts(each) for each in (*ours, *foreign[:FOREIGN_MACHINES_AT_MOST]))


def _facts(facts: machines.MachineFacts) -> MachineFacts:
    state: Literal["running", "off"] = "running" if facts.is_active else "off"
    return MachineFacts(name=facts.name[:200], state=state, lease_id=facts.lease_id)
