"""What the lab's tests have in common: a host in service, and the words of the play."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lab.host import LabHost
from lab.hypervisor.machine import VirtualGpu
from lab.portal import Who
from lab.running import Lab
from tools.pace import slowness

FLAVOR = "audio"
RELEASE_SECONDS = 200.0 * slowness()


@dataclass
class Stage:
    """The lab with its host in service, and the words of the play."""

    lab: Lab
    host: LabHost

    def book(self, who: Who, *, with_home: bool = False) -> str:
        """Ask for the workstation with the two-function GPU now, for two hours; its lease's id."""
        asked = {"flavor": FLAVOR, "image": "tiny", "duration_seconds": 7200, "with_home": with_home}
        return str(self.lab.portal.call("leases/", who, asked)["id"])

    def lease(self, lease_id: str, who: Who) -> dict[str, Any]:
        lease: dict[str, Any] = self.lab.portal.call(f"leases/{lease_id}/", who)
        return lease

    def wait_state(self, lease_id: str, who: Who, state: str, *, seconds: float) -> dict[str, Any]:
        self.lab.portal.wait_until(
            f"the lease is {state}",
            lambda: self.lease(lease_id, who)["state"] in (state, "ended"),
            seconds=seconds,
        )
        lease = self.lease(lease_id, who)
        assert lease["state"] == state, lease["outcome_reason"]
        return lease

    def end(self, lease_id: str, who: Who) -> None:
        self.lab.portal.call(f"leases/{lease_id}/end/", who, {})

    def wait_gpu(self, gpu: VirtualGpu, state: str, *, seconds: float = RELEASE_SECONDS) -> dict[str, Any]:
        final = (state, "quarantined", "missing")
        self.lab.portal.wait_until(
            f"the GPU is {state}", lambda: self.gpu(gpu)["state"] in final, seconds=seconds
        )
        assert self.gpu(gpu)["state"] == state, self.gpu(gpu)["state_reason"]
        return self.gpu(gpu)

    def gpu(self, gpu: VirtualGpu) -> dict[str, Any]:
        return self.host.gpus()[gpu.functions[0]]

    def scrub_of(self, lease_id: str, who: Who) -> dict[str, Any]:
        (record,) = self.lab.portal.call(f"scrub-records/?lease={lease_id}", who)["results"]
        found: dict[str, Any] = record
        return found

    def starts_of(self, lease: dict[str, Any]) -> int:
        """How often libvirt has ever started the lease's machine."""
        log = f"/var/log/libvirt/qemu/{lease['machine_name']}.log"
        return int(self.host.hypervisor.run(f"grep -c 'starting up libvirt' {log}"))
