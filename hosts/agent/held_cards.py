"""Which cards are in somebody's hands now, and are not to be touched by whoever only looks around."""

from __future__ import annotations

from hosts.agent.plans import locked_cards
from hosts.agent.rig import Rig


def cards_in_use(rig: Rig) -> set[str]:
    """Addresses of the cards that are leased, given to a running machine, worked on by a plan, or hanging.

    Their guest or plan may be resetting them, and in a reset that hangs, reading as little as their
    configuration space never returns.
    """
    leased = {gpu.address for gpu in rig.gpus.all() if gpu.state == "leased"}
    running = (facts for facts in rig.hypervisor.machines() if facts.is_active)
    given = {address for facts in running for address in facts.pci_addresses}
    return leased | given | locked_cards(rig.plans.open()) | rig.bus.hanging()
