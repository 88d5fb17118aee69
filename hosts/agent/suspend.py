"""Stops the machines with the worker, where nobody else would: they come back, disk and all, when it does."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from hosts.agent.machines import ACTIVE, HypervisorError
from hosts.agent.rig import Rig

log = logging.getLogger(__name__)

OBEY_SECONDS = 5.0
POLL_SECONDS = 0.2


def suspend_machines(rig: Rig) -> None:
    """Note that they go down with us and not by their users' wish; then stop all that run."""
    names = [facts.name for facts in rig.hypervisor.machines() if facts.lease_id and facts.is_active]
    with rig.journal.transaction():
        for machine in rig.machines.kept():
            if machine.state == "on":
                rig.machines.set_state(machine.lease_id, "suspended")
    for name in names:
        _attempt(rig.hypervisor.shutdown, name)
    deadline = time.monotonic() + OBEY_SECONDS
    while time.monotonic() < deadline and any(rig.hypervisor.state(name) in ACTIVE for name in names):
        time.sleep(POLL_SECONDS)
    for name in names:
        _attempt(rig.hypervisor.destroy, name)


def _attempt(order: Callable[[str], None], name: str) -> None:
    """One stubborn machine does not keep the others up."""
    try:
        order(name)
    except HypervisorError as error:
        log.error("%s", error)
