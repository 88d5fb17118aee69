"""What every bus has to do, by the clauses of `tests/agent/bus_contract.py`, for a card of one function."""

from __future__ import annotations

import sys
from typing import Any

from hosts.agent.slicing_bus import SlicingBus
from tests.agent.bus_contract import CONTRACT
from tests.lab.inside.telling import tell


def play(address: str) -> dict[str, Any]:
    bus = SlicingBus()
    rungs = [rung.method for rung in bus.reset_rungs(bus.card(address))]
    for clause in CONTRACT:
        clause(bus, address)
    return {"kept": [clause.__name__ for clause in CONTRACT], "rungs": rungs}


if __name__ == "__main__":
    tell(lambda: play(sys.argv[1]))
