"""Leasehold's worker on the virtual hypervisor, installed and enrolled as an administrator would do it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from lab.hypervisor.base import ADDRESS
from lab.hypervisor.machine import LabError, VirtualGpu, VirtualHypervisor
from lab.portal import LabPortal

NAME = "virtual"
SERVICE = "leasehold-host"
STATE = "/var/lib/leasehold"
CONFIG = "/etc/leasehold/host.toml"
PROGRAM = "/root/search.py"
TOKEN = "/root/token"
CERTIFICATE = "/root/portal.pem"
APPLIANCE = "/opt/leasehold/appliances/plain"
SCRUBBERS = "/etc/leasehold/scrubbers.toml"
OPERATOR = ("", "operator")
# A server of the hypervisor's own, and the world outside it.
HOST_PORT = 8000
WORLD = "11.0.0.2"
INVENTORY_SECONDS = 150.0
INTAKE_SECONDS = 300.0

# Prints where in the GPU's memory the bytes are, or -1, and how many bytes are not zero.
SEARCH = """
import mmap, os, sys
device, sought = sys.argv[1], bytes.fromhex(sys.argv[2])
with open(f"{device}/config", "r+b", buffering=0) as config:
    command = os.pread(config.fileno(), 2, 4)
    os.pwrite(config.fileno(), bytes([command[0] | 2, command[1]]), 4)
with open(f"{device}/resource0", "r+b", buffering=0) as file:
    with mmap.mmap(file.fileno(), os.fstat(file.fileno()).st_size) as memory:
        found = memory[:]
print(found.find(sought), len(found) - found.count(0))
"""


@dataclass(frozen=True)
class Found:
    """What a look into a GPU's memory found: the offset of what was sought, and how many bytes are set."""

    offset: int | None
    bytes_not_zero: int


@dataclass
class LabHost:
    """The hypervisor as Leasehold's host. `scrubbers` are entries of root's list beside the scrub machine."""

    hypervisor: VirtualHypervisor
    portal: LabPortal
    scrubbers: dict[str, dict[str, str]] = field(default_factory=dict)

    def enrol(self) -> None:
        """With a token, over HTTPS, as an operator would; then start the worker."""
        run = self.hypervisor.run
        self._list_scrubbers()
        self.hypervisor.put(CERTIFICATE, self.portal.certificate.read_bytes())
        self.hypervisor.put(TOKEN, self.portal.manage("enrolment_token", NAME).encode(), mode=0o600)
        portal = f"--portal {self.portal.url_from_inside} --ca-file {CERTIFICATE}"
        run(f"/opt/leasehold/bin/leasehold-host enrol {portal} --token-file {TOKEN}", seconds=120)
        run(f"systemctl daemon-reload && systemctl start {SERVICE}")

    def make_world(self) -> None:
        """A place outside the hypervisor, with a web server, and a server of the hypervisor's own."""
        inside = "ip netns exec world"
        serve = "python3 -m http.server --directory /usr/share/doc/python3"
        self.hypervisor.run(
            "set -e; ip netns add world; ip link add wan type veth peer name wan netns world;"
            f"ip address add {ADDRESS}/24 dev wan; ip link set wan up;"
            f"{inside} ip address add {WORLD}/24 dev wan; {inside} ip link set wan up;"
            f"systemd-run --quiet {inside} {serve} 80; systemd-run --quiet {serve} {HOST_PORT}"
        )

    def fetch_from_world(self, port: int) -> str:
        """What somebody outside reads on a port of the hypervisor; empty if nothing answers."""
        fetch = f"import urllib.request as u; print(u.urlopen('http://{ADDRESS}:{port}/', timeout=9).read())"
        return self.hypervisor.attempt(f'ip netns exec world python3 -c "{fetch}"').output

    def admit_gpus(self, *gpus: VirtualGpu) -> None:
        """Once the host has reported its cards: take these in, until they are clean."""
        self.portal.wait_until("the host reports its cards", self.cards, seconds=INVENTORY_SECONDS)
        self.portal.seed("admit", *(gpu.functions[0] for gpu in gpus))
        self.portal.wait_until("the GPUs are clean", lambda: self._are_clean(gpus), seconds=INTAKE_SECONDS)

    def cards(self) -> dict[str, dict[str, Any]]:
        """What the host has reported, by address."""
        return {card["address"]: card for card in self.portal.call("found-cards/", OPERATOR)["results"]}

    def gpus(self) -> dict[str, dict[str, Any]]:
        """The GPUs in service, by address."""
        return {gpu["address"]: gpu for gpu in self.portal.call("gpus/", OPERATOR)["results"]}

    def search(self, gpu: VirtualGpu, sought: bytes) -> Found:
        """Read a whole GPU's memory from the hypervisor; no machine may have it at that time."""
        self.hypervisor.put(PROGRAM, SEARCH.encode())
        told = self.hypervisor.run(
            f"python3 {PROGRAM} /sys/bus/pci/devices/{gpu.functions[0]} {sought.hex()}"
        )
        offset, bytes_not_zero = map(int, told.split())
        return Found(offset=None if offset < 0 else offset, bytes_not_zero=bytes_not_zero)

    def serial_log(self, lease_id: str) -> str:
        """What the lease's machine has printed so far."""
        return self.hypervisor.run(f"cat {STATE}/machines/{lease_id}.log || true")

    def wait_printed(self, lease_id: str, words: str, *, times: int = 1, seconds: float) -> None:
        """Until the lease's machine has printed the words so many times."""
        log = f"{STATE}/machines/{lease_id}.log"
        self.hypervisor.wait_for(f'[ "$(grep -c "{words}" {log})" -ge {times} ]', seconds=seconds)

    def worker_log(self) -> str:
        """What the worker has said since it was installed; or why that cannot be read."""
        try:
            return self.hypervisor.run(f"journalctl --no-pager -u {SERVICE}")
        except LabError as error:
            return str(error)

    def _are_clean(self, gpus: Iterable[VirtualGpu]) -> bool:
        found = self.gpus()
        return all(found[gpu.functions[0]]["state"] == "clean" for gpu in gpus)

    def _list_scrubbers(self) -> None:
        digest = hashlib.sha256(self.hypervisor.image.appliance_manifest.read_bytes()).hexdigest()
        machine = {"directory": APPLIANCE, "sha256": digest}
        listed = {"machines": {"machine": machine}, "scrubbers": self.scrubbers}
        self.hypervisor.put(SCRUBBERS, msgspec.toml.encode(listed))
