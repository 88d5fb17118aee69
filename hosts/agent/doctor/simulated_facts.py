"""What `doctor` judges about a simulated card: as much as the simulation has of a real one."""

from __future__ import annotations

from collections.abc import Mapping

from hosts.agent.bus import Card
from hosts.agent.doctor.facts import CardFacts, FunctionFacts, Grounds, GroupFacts


def simulated_facts(card: Card, drivers: Mapping[str, str], *, reset_methods: str) -> CardFacts:
    """`drivers` are those of its functions."""
    functions = tuple(
        FunctionFacts(
            address=address,
            ids=card.fingerprint.vendor_device,
            driver=drivers[address],
            reset_methods=reset_methods,
        )
        for address in card.functions
    )
    return CardFacts(
        grounds=Grounds(functions=functions, groups=(GroupFacts(card.iommu_group or 0),)),
        numa_node=card.numa_node,
        simulated=True,
    )
