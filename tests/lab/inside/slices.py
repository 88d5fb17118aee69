"""A card is divided, a slice is leased, and the card made whole again, by the worker's plans, on real SR-IOV.

No emulated display has virtual functions: an NVMe controller stands for the card. It has no memory that could
be scrubbed, and so never comes out of a scrub as clean; where a plan asks for that, it is written by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

from hosts.agent import orders, pci
from hosts.agent.bus import Card
from hosts.agent.pci import PciFunction
from hosts.protocol.messages import Divide, GpuOrder, Undivide
from tests.lab.inside.bench import Bench
from tests.lab.inside.telling import tell

NVME = 0x0108
DEVICES = Path("/sys/bus/pci/devices")
PROFILE, MOST = "vf", 4


def play() -> dict[str, Any]:
    bench, told = Bench("slices"), dict[str, Any]()
    bus, gpus = bench.rig.bus, bench.rig.gpus
    (card,) = bus.cards()
    whole = GpuOrder(gpu_id=UUID(int=0x6B0), tenure=1, address=card.address)

    def divide(count: int) -> list[dict[str, Any]]:
        return bench.ask(Divide(gpu=whole, profile=PROFILE, count=count), f"gpu:{whole.gpu_id}")

    def undivide() -> list[dict[str, Any]]:
        return bench.ask(Undivide(gpu=whole), f"gpu:{whole.gpu_id}")

    told["whole"] = {"refusal": card.refusal, "profiles": [[each.name, each.most] for each in card.profiles]}
    told["intake"] = bench.intake(whole)
    told["not clean"] = divide(MOST)
    gpus.set_state(whole.gpu_id, "clean")
    told["too many"] = divide(MOST + 1)
    gpus.set_state(whole.gpu_id, "clean")
    told["divided"] = divide(MOST)
    told["slices"] = [as_a_card(bench, each.address) for each in bus.slices(card)]
    told["divided card"] = bus.card(card.address).refusal

    # What a reboot does: nothing is left of them, and the worker starts with that.
    (DEVICES / card.address / "sriov_numvfs").write_text("0")
    bench.boot_id = "second boot"
    bench.restart()
    bus, gpus = bench.rig.bus, bench.rig.gpus
    told["after a reboot"] = [each.address for each in bus.slices(card)]

    one = GpuOrder(gpu_id=UUID(int=0x6B1), tenure=1, address=bus.slices(card)[0].address)
    told["intake of a slice"] = bench.intake(one)
    told["bound"] = [bus.is_bound(bus.card(each.address)) for each in bus.slices(card)]
    gpus.set_state(one.gpu_id, "clean")
    bench.provision(1, one)
    told["in the guest"] = bench.guest_says(1, "cat /sys/bus/pci/devices/0000:01:00.0/class").strip()
    told["holders"] = [each.partition(" ")[0] for each in bus.holders(bus.card(one.address))]
    told["reset while used"] = refusal_of_reset(bench, one)
    told["undivided while used"] = undivide()
    told["released"] = bench.release(1, one)
    told["dead"] = bus.dead_because(bus.card(one.address))
    told["undivided"] = undivide()
    told["after"] = {
        "slices": [each.address for each in bus.slices(card)],
        "functions": (DEVICES / card.address / "sriov_numvfs").read_text().strip(),
        "refusal": bus.card(card.address).refusal,
    }
    told["intake again"] = bench.intake(whole)
    told["whole again"] = bus.is_bound(bus.card(card.address))
    bench.close()
    return told


def as_a_card(bench: Bench, address: str) -> dict[str, Any]:
    card: Card = bench.rig.bus.card(address)
    return {
        "address": address,
        "refusal": card.refusal,
        "group": card.iommu_group,
        "drivers": bench.rig.bus.host_drivers(address),
        "ids in its configuration": PciFunction(DEVICES / address).config(4).hex(),
        "resets": [rung.method for rung in bench.rig.bus.reset_rungs(card)],
        "by": (DEVICES / address / "reset_method").read_text().split(),
    }


def refusal_of_reset(bench: Bench, gpu: GpuOrder) -> str:
    try:
        orders.order(bench.rig, "reset", gpu.address, by="somebody")
    except orders.OrderRefused as refused:
        return str(refused)
    return ""


if __name__ == "__main__":
    pci.PciFunction.is_display = property(  # type: ignore[assignment, method-assign]
        lambda function: function.class_code == NVME
    )
    tell(play)
