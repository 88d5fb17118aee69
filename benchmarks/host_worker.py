"""A host worker's whole plan of provision beside a bare define and start, without the control plane.

    python -m benchmarks.host_worker [--quick] [--json]

The worker's journal, executor, watch and image checks as they are, on a simulated bus and libvirt's
embedded driver; the order is put into the journal, and nobody fetches the reports. `benchmarks.provision` has
the rest. Of two machines, the bare one comes first for one and second for the other.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from uuid import UUID, uuid4

from nacl.signing import SigningKey

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)] if str(ROOT) not in sys.path else []

from benchmarks.demo_stack import tenant_images, wait_until  # noqa: E402 - also a plain script
from benchmarks.provision import Bare, _describe_machine, _spread, run_bare  # noqa: E402
from hosts.agent.config import Config  # noqa: E402
from hosts.agent.executor import Executor  # noqa: E402
from hosts.agent.goals import take_goal  # noqa: E402
from hosts.agent.hardware import Hardware  # noqa: E402
from hosts.agent.host_plans import PLAN_KINDS  # noqa: E402
from hosts.agent.hypervisor import Hypervisor  # noqa: E402
from hosts.agent.journal import Journal  # noqa: E402
from hosts.agent.reconcile import reconcile  # noqa: E402
from hosts.agent.rig import Rig, make_rig, open_books  # noqa: E402
from hosts.agent.scrubbers import load_scrubbers  # noqa: E402
from hosts.agent.simulated import SimulatedBus, demo_topology  # noqa: E402
from hosts.agent.spool import Origin, utc_now  # noqa: E402
from hosts.agent.watch import Watch  # noqa: E402
from hosts.protocol.messages import (  # noqa: E402
    Goal,
    GpuOrder,
    ImageOrder,
    Intake,
    MachineOrder,
    Provision,
    Release,
    ScrubPolicy,
)
from hosts.protocol.signing import REPORT, Signer, public_hex  # noqa: E402

QUICK, FULL = 4, 40
STEPS = [step.name for step in PLAN_KINDS["provision"].steps]
MIB = 1 << 20


@dataclass(frozen=True)
class Round:
    """Seconds: each step, define and start with what is between them, the whole plan; and bare."""

    steps: dict[str, float]
    both: float
    whole: float
    bare: Bare


class Host:
    """The parts of one worker. `noted` has when each boundary of a plan's step was passed."""

    def __init__(self, folder: Path, hypervisor: Hypervisor) -> None:
        images, self.noted = tenant_images(), dict[str, float]()
        self.image = ImageOrder(
            name=images.name,
            format="direct-kernel",
            digest=hashlib.sha256((images / "manifest.json").read_bytes()).hexdigest(),
        )
        config = Config(
            host="bench",
            portal="https://portal.invalid",
            broker_url="",
            control_keys=(public_hex(SigningKey.generate()),),
            state_directory=folder / "state",
            images_directory=images.parent,
            domain_type="qemu",
            bus="simulated",
            bus_directory=folder / "bus",
        )
        signer = Signer(SigningKey.generate(), REPORT)
        bus = SimulatedBus(folder / "bus", demo_topology(MIB))
        books = open_books(config=config, clock=utc_now, journal=Journal(config.journal_path), signer=signer)
        hardware = Hardware(bus=bus, hypervisor=hypervisor, scrubbers=load_scrubbers())
        self.rig: Rig = make_rig(books, hardware, close_consoles=lambda _: None)
        self.hypervisor, self._tenure = hypervisor, 0
        self._definition = ""
        self._definitions = folder / "libvirt" / "etc" / "qemu"
        self._executor = Executor(self.rig, PLAN_KINDS, on_boundary=self._note)
        self._watch = Watch(self.rig)

    def start(self) -> None:
        reconcile(self.rig, boot_id="bench")
        self._executor.start()
        self._watch.start()

    def stop(self) -> None:
        self._watch.stop(seconds=10)
        self._executor.stop(seconds=10)
        self.rig.journal.close()

    def measure(self, *, bare_first: bool) -> Round:
        """One machine by the plan, and one bare."""
        if bare_first:
            bare = run_bare(self.hypervisor, self._definition)
        steps = self._provision()
        if not bare_first:
            bare = run_bare(self.hypervisor, self._definition)
        return Round(steps=steps, both=self._between("define", "start"), whole=self._whole(), bare=bare)

    def _provision(self) -> dict[str, float]:
        """What each step took. The machine is released afterwards; its definition is kept."""
        lease, gpu, self._tenure = uuid4(), demo_topology()[0], self._tenure + 1
        order = GpuOrder(gpu_id=UUID(int=1), tenure=self._tenure, address=gpu.address)
        self._carry_out(Intake(gpu=order, scrub=ScrubPolicy()), f"gpu:{order.gpu_id}")
        machine = MachineOrder(name=f"m-{lease}", vcpus=1, memory_mib=256, disk_gib=1, image=self.image)
        goal = Provision(
            lease_id=lease,
            ends_at=datetime.now(UTC) + timedelta(hours=1),
            grace_seconds=60,
            gpus=(order,),
            machine=machine,
        )
        self._carry_out(goal, f"lease:{lease}")
        self._definition = (self._definitions / f"{machine.name}.xml").read_text()
        release = Release(lease_id=lease, gpus=(order,), shutdown_seconds=0, scrub=ScrubPolicy())
        self._carry_out(release, f"lease:{lease}")
        return {step: self._between(step, step) for step in STEPS}

    def _carry_out(self, goal: Goal, subject: str) -> None:
        with self.rig.journal.transaction():
            take_goal(self.rig, goal, Origin(subject, 1))
        wait_until(lambda: not self.rig.plans.open(), subject)

    def _note(self, boundary: str) -> None:
        self.noted[boundary] = perf_counter()

    def _whole(self) -> float:
        """The plan, from its first step's beginning to its last one's end; of both the journal knows."""
        return self._between(STEPS[0], STEPS[-1])

    def _between(self, first: str, last: str) -> float:
        return self.noted[f"provision:{last}:after"] - self.noted[f"provision:{first}:before"]


def main() -> int:
    options = _options()
    load = [os.getloadavg()[0]]
    with _started() as host:
        host.measure(bare_first=False)  # libvirt probes QEMU, the image is read
        count = QUICK if options.quick else FULL
        rounds = [host.measure(bare_first=bool(number % 2)) for number in range(count)]
    load.append(os.getloadavg()[0])
    bare = [each.bare.define + each.bare.start for each in rounds]
    ours = {
        "whole plan": [each.whole for each in rounds],
        "define and start, as steps": [each.both for each in rounds],
    }
    figures = {
        "benchmark": "host_worker",
        "machines": len(rounds),
        "machine": _describe_machine(load),
        "seconds": {
            **{name: _spread(values) for name, values in ours.items()},
            "the rest of the plan": _spread([each.whole - each.both for each in rounds]),
            "define and start, bare": _spread(bare),
            "define, bare": _spread([each.bare.define for each in rounds]),
            "start, bare": _spread([each.bare.start for each in rounds]),
            **{f"step {step}": _spread([each.steps[step] for each in rounds]) for step in STEPS},
        },
        "ratios": {name: _ratios(values, bare) for name, values in ours.items()},
    }
    if not options.json:
        _print_table(figures)
    print(json.dumps(figures))
    return 0


def _ratios(ours: list[float], bare: list[float]) -> dict[str, float]:
    """Of the medians; and the median of each round's own, with the quarter of the rounds below and above."""
    low, middle, high = quantiles((our / their for our, their in zip(ours, bare, strict=True)), n=4)
    told = {"of the medians": median(ours) / median(bare), "median": middle, "lower": low, "upper": high}
    return {name: round(value, 3) for name, value in told.items()}


@contextmanager
def _started() -> Iterator[Host]:
    """Its sockets' paths have to be short."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as folder:
        hypervisor = Hypervisor.open(f"qemu:///embed?root={folder}/libvirt")
        host = Host(Path(folder), hypervisor)
        host.start()
        try:
            yield host
        finally:
            host.stop()
            hypervisor.close()


def _print_table(figures: dict[str, object]) -> None:
    seconds = figures["seconds"]
    assert isinstance(seconds, dict)
    print(f"{figures['machines']} machines; {figures['machine']}")
    print(f"{'seconds':<30}{'median':>8}{'least':>8}{'most':>8}")
    for name, spread in seconds.items():
        print(f"{name:<30}{spread['median']:>8.3f}{spread['least']:>8.3f}{spread['most']:>8.3f}")
    ratios = figures["ratios"]
    assert isinstance(ratios, dict)
    print(f"{'over bare (target ≤ 1.1)':<30}{'medians':>8}{'rounds':>8}{'quartiles':>16}")
    for name, each in ratios.items():
        told = f"{each['lower']:.2f} to {each['upper']:.2f}"
        print(f"{name:<30}{each['of the medians']:>8.2f}{each['median']:>8.2f}{told:>16}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} machines instead of {FULL}")
    parser.add_argument("--json", action="store_true", help="only the figures, as one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
