"""The bus contract on the simulated bus and on a `/sys` made of files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hosts.agent.bus import PciBus
from hosts.agent.simulated import SimulatedBus, demo_topology
from tests.agent.bus_contract import CONTRACT
from tests.agent.fake_sysfs import plain_host


def simulated(directory: Path) -> tuple[PciBus, str]:
    return SimulatedBus(directory, demo_topology(1 << 20)), "0000:41:00.0"


def files(directory: Path) -> tuple[PciBus, str]:
    return plain_host(directory)[2], "0000:01:00.0"


@pytest.mark.parametrize("make", [simulated, files])
@pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)
def test_contract(
    clause: Callable[[PciBus, str], None],
    make: Callable[[Path], tuple[PciBus, str]],
    tmp_path: Path,
) -> None:
    clause(*make(tmp_path / "bus"))
