"""The scrub machine on real VFIO: the plain GPU's intake was done by it, and the host's own look agreed."""

from __future__ import annotations

from typing import Any

import pytest

from lab.hypervisor.machine import GPU_MEMORY_BYTES, PLAIN
from tests.lab.stage import Stage

pytestmark = pytest.mark.timeout(500)  # whoever comes first has the host enrolled
OPERATOR = ("", "operator")


@pytest.fixture(scope="module")
def record(stage: Stage) -> dict[str, Any]:
    """The scrub record of the intake that made the GPU clean."""
    gpu = stage.gpu(PLAIN)
    assert gpu["state"] == "clean", gpu["state_reason"]
    found: list[dict[str, Any]] = stage.lab.portal.call(f"scrub-records/?gpu={gpu['id']}", OPERATOR)[
        "results"
    ]
    return found[-1]


def test_a_machine_overwrote_all_of_the_memory_from_inside(record: dict[str, Any]) -> None:
    assert record["passed"], record["reasons"]
    (method,) = record["evidence"]["methods"]
    assert (method["name"], method["kind"], method["proven"]) == ("machine", "overwrite", True)
    assert method["reached_bytes"] == method["read_back_bytes"] == GPU_MEMORY_BYTES
    assert (method["mismatches"], method["failure"]) == (0, "")
    assert (method["facts"]["device"], method["facts"]["program"]) == ("1234:1111", "plain 1")


def test_the_canaries_that_the_host_had_planted_were_gone(record: dict[str, Any]) -> None:
    witness = record["evidence"]["witness"]
    assert (witness["window"], witness["coverage"]) == ("bar", "full")
    assert (witness["canaries_planted"], witness["canaries_refused"]) == (128, 0)
    assert (witness["canaries_found"], witness["mismatches"]) == (0, 0)
    assert witness["read_bytes"] == GPU_MEMORY_BYTES


def test_the_machine_had_the_card_once_and_is_gone(stage: Stage) -> None:
    run = stage.host.hypervisor.run
    name = f"scrub-{PLAIN.functions[0].replace(':', '-').replace('.', '-')}"
    assert name not in run("virsh list --all --name").split()
    log = run(f"cat /var/log/libvirt/qemu/{name}.log")
    assert log.count("starting up libvirt") == 1
    assert '"driver":"vfio-pci"' in log
