"""Gives a lease its lane, lets it through, shuts it, and takes it back."""

from __future__ import annotations

from threading import Lock
from uuid import UUID

from lxml import etree

from hosts.agent.network.lanes import Lane
from hosts.agent.rig import Rig
from hosts.agent.turns import turn
from hosts.protocol.messages import Access, Forward, Provision

# What is let through is what the journal says at that moment, and not a moment before.
_ADMITTING = Lock()


def connect(rig: Rig, goal: Provision) -> None:
    """The network that the machine is going to use is there, and open."""
    if goal.machine.network is None or not rig.network.connects:
        return
    lane = rig.lanes.take(
        goal.lease_id,
        goal.machine.network.ports,
        present=rig.network.present(),
        is_usable=rig.network.is_usable,
    )
    rig.network.make(lane)
    admit(rig)


def admit(rig: Rig) -> bool:
    """Let through what the journal says; whether anybody else had changed that."""
    with turn(_ADMITTING):
        return rig.network.admit(rig.lanes.all())


def shut(rig: Rig, lease_id: UUID) -> None:
    """Nothing passes any more, also while the machine still runs."""
    rig.lanes.close(lease_id)
    admit(rig)


def disconnect(rig: Rig, lease_id: UUID) -> None:
    """The machine is gone: nothing of its network stays."""
    shut(rig, lease_id)
    rig.network.remove(lease_id)
    rig.lanes.drop(lease_id)


def is_disconnected(rig: Rig, lease_id: UUID) -> bool:
    return rig.lanes.get(lease_id) is None and lease_id not in rig.network.present()


def interfaces(rig: Rig, lease_id: UUID) -> tuple[list[etree._Element], list[etree._Element]]:
    """What the machine's definition says about its network: under `<devices>`, and beside them."""
    lane = rig.lanes.get(lease_id)
    if lane is None:
        return [], []
    devices, beside = rig.network.join(lane)
    return [*devices], [*beside]


def access_of(rig: Rig, lease_id: UUID, *, host_key: str) -> Access | None:
    """What people need to know to reach the machine."""
    lane = rig.lanes.get(lease_id)
    if lane is None or not lane.is_open:
        return None
    return Access(address=rig.config.network.address, forwards=_forwards(lane), host_key=host_key)


def _forwards(lane: Lane) -> tuple[Forward, ...]:
    return tuple(Forward(port=port, inside=inside) for port, inside in lane.forwards)
