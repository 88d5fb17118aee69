"""The bus contract on a real kernel: the card of two functions, whose `reset_method` is stale."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.hypervisor.machine import WITH_AUDIO, VirtualHypervisor
from tests.agent import bus_contract
from tests.agent.bus_contract import CONTRACT

pytestmark = pytest.mark.timeout(500)
MODULES = "/usr/local/lib/python3.11/dist-packages"
RUNNER = f"""
import json, sys, time, traceback
sys.path.insert(0, "{MODULES}")
from bus_contract import CONTRACT
from hosts.agent.sysfs import SysfsBus
told = {{}}
for clause in CONTRACT:
    try:
        clause(SysfsBus(), "{WITH_AUDIO.functions[0]}")
        told[clause.__name__] = ""
    except BaseException:
        told[clause.__name__] = traceback.format_exc()[-2000:]
print(json.dumps(told))
"""
SECONDS = 300.0


@pytest.fixture(scope="module")
def told(hypervisor: VirtualHypervisor) -> dict[str, str]:
    """What went wrong with each clause; nothing if it holds. The card stays with VFIO."""
    hypervisor.put(f"{MODULES}/bus_contract.py", Path(bus_contract.__file__).read_bytes())
    hypervisor.put("/root/contract.py", RUNNER.encode())
    answer = hypervisor.run("/opt/leasehold/bin/python /root/contract.py", seconds=SECONDS)
    found: dict[str, str] = json.loads(answer.splitlines()[-1])
    return found


@pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)
def test_contract(told: dict[str, str], clause: object) -> None:
    assert told[clause.__name__] == ""  # type: ignore[attr-defined]
