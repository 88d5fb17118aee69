"""The host worker is killed before and after every step of every plan that a lease needs.

Started again, it reaches the goal without being asked again, and has created the machine once.
"""

from __future__ import annotations

from itertools import zip_longest

import pytest

from hosts.agent.host_plans import PLAN_KINDS
from hosts.protocol.messages import MachineGone, MachineRunning
from tests.crash.real_host import RealHost

pytestmark = pytest.mark.timeout(180)


def boundaries(plan: str) -> list[str]:
    steps = PLAN_KINDS[plan].steps
    return [f"{plan}:{step.name}:{moment}" for step in steps for moment in ("before", "after")]


def disk_identity(host: RealHost) -> int | None:
    return host.disk.stat().st_ino if host.disk.exists() else None


@pytest.mark.parametrize(
    ("at_provision", "at_release"), list(zip_longest(boundaries("provision"), boundaries("release")))
)
def test_lease(host: RealHost, at_provision: str, at_release: str | None) -> None:
    host.begin_lease()
    host.crash_at(at_provision)
    host.provision()
    host.await_death()
    disk, machines = disk_identity(host), host.machine_processes()
    host.start()
    running = host.await_event(MachineRunning, lambda event: event.lease_id == host.lease_id)
    assert running.access is not None
    (forward,) = running.access.forwards
    assert host.is_let_in(forward.port)
    assert disk in (None, disk_identity(host))
    assert host.starts(host.machine) == len(host.machine_processes()) == 1
    assert machines in ([], host.machine_processes())

    host.crash_at(at_release)
    host.release()
    if at_release is not None:
        host.await_death()
        host.start()
    host.await_event(MachineGone, lambda event: event.lease_id == host.lease_id)
    assert_clean(host)
    assert host.starts(host.machine) == 1
    assert host.machine_processes() == []
    assert not host.disk.exists()
    assert not host.is_let_in(forward.port)


@pytest.mark.parametrize("boundary", boundaries("scrub"))
def test_scrub(host: RealHost, boundary: str) -> None:
    """Each fill is counted; one that was cut short is begun anew."""
    host.begin_lease()
    host.crash_at(boundary)
    host.release()
    host.await_death()
    host.start()
    assert_clean(host)
    cut_short = boundary in ("scrub:plant:after", "scrub:fill:before", "scrub:fill:after")
    assert host.await_clean().fills == (2 if cut_short else 1)


def assert_clean(host: RealHost) -> None:
    assert host.await_clean().verdict == "passed"
    assert not any(host.gpu_memory)
    assert host.gaps() == set()
