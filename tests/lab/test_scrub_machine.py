"""The scrub machine on real VFIO: it cleans the plain GPU from inside, and the host's own look agrees.

It is emulated twice; in `tests/agent/test_appliance.py` it scrubs a display that is emulated once.
"""

from __future__ import annotations

from typing import Any

import pytest

from lab.hypervisor.machine import GPU_MEMORY_BYTES, PLAIN
from tests.lab.stage import Stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # whoever comes first has the host enrolled
OPERATOR = ("", "operator")


@pytest.fixture(scope="module")
def record(stage: Stage) -> dict[str, Any]:
    """The scrub record of the intake that made the GPU clean."""
    stage.host.admit_gpus(PLAIN)
    (found,) = stage.lab.portal.call(f"scrub-records/?gpu={stage.gpu(PLAIN)['id']}", OPERATOR)["results"]
    one: dict[str, Any] = found
    return one


def test_a_machine_overwrites_all_of_the_memory_from_inside(record: dict[str, Any]) -> None:
    assert record["passed"], record["reasons"]
    (method,) = record["evidence"]["methods"]
    assert (method["name"], method["kind"], method["proven"]) == ("machine", "overwrite", True)
    assert method["reached_bytes"] == method["read_back_bytes"] == GPU_MEMORY_BYTES
    assert (method["mismatches"], method["failure"]) == (0, "")
    assert (method["facts"]["device"], method["facts"]["program"]) == ("1234:1111", "plain 1")


def test_the_canaries_that_the_host_planted_are_gone(record: dict[str, Any]) -> None:
    witness = record["evidence"]["witness"]
    assert (witness["window"], witness["coverage"]) == ("bar", "full")
    assert witness["read_bytes"] == GPU_MEMORY_BYTES
    assert (witness["canaries_planted"], witness["canaries_refused"]) == (128, 0)
    assert (witness["canaries_found"], witness["mismatches"]) == (0, 0)


@pytest.mark.usefixtures("record")
def test_the_machine_is_gone(stage: Stage) -> None:
    run = stage.host.hypervisor.run
    assert run("virsh list --all --name").split() == []
    assert run("find /var/lib/leasehold -path '*/machines/*' -o -path '*/disks/*'").split() == []
