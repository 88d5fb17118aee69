"""Virtual functions of a real kernel: made, given to a machine, reset by FLR and taken away again.

No emulated display has SR-IOV; an NVMe controller stands for the card. It has no memory to scrub, so what
makes a slice clean is shown on the simulated bus instead. It boots a hypervisor of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab.hypervisor.image import prepare_image
from lab.hypervisor.machine import VirtualHypervisor
from tools.pace import slowness

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
BOOT_SECONDS = 600.0 * slowness()
ACT_SECONDS = 600.0 * slowness()
# What QEMU 7.2 asks for before it gives an NVMe controller virtual functions.
QUEUES = "max_ioqpairs=12,msix_qsize=9,sriov_max_vfs=4,sriov_vq_flexible=8,sriov_vi_flexible=4"
CARD = (
    "pcie-root-port,id=port4,addr=0x13,chassis=4,slot=4",
    "nvme-subsys,id=subsystem",
    f"nvme,serial=card,subsys=subsystem,bus=port4,{QUEUES}",
)
ACT = """
import json, subprocess, time
from lxml import etree
from hosts.agent import pci
from hosts.agent.bus import BusError
from hosts.agent.pci import PciTree
from hosts.agent.reset import climb
from hosts.agent.slicing_bus import SlicingBus

NVME = 0x0108
pci.PciFunction.is_display = property(lambda function: function.class_code == NVME)
bus, told = SlicingBus(), {}

(whole,) = bus.cards()
told["refusal"], told["profiles"] = whole.refusal, [[each.name, each.most] for each in whole.profiles]
bus.bind(whole)
told["whole_bound"] = bus.is_bound(whole)
try:
    bus.divide(whole, "vf", 5)
except BusError as error:
    told["too_many"] = str(error)
bus.divide(whole, "vf", 4)
made = bus.slices(whole)
told["slices"] = [each.address for each in made]
told["whole_refusal"] = bus.card(whole.address).refusal
cards = [bus.card(each.address) for each in made]
told["refusals"] = [card.refusal for card in cards]
told["groups"] = sorted({card.iommu_group for card in cards})
told["drivers"] = [list(bus.host_drivers(card.address)) for card in cards]
first = cards[0]
bus.bind(first)
told["bound"] = [bus.is_bound(card) for card in cards]
told["config"] = pci.PciFunction(PciTree(bus._tree.root).devices / first.address).config(4).hex()
record = climb(bus, first, clock=time.monotonic)
told["reset"] = [record.method, record.scope]
told["dead"] = bus.dead_because(first)
domain = etree.fromstring(
    "<domain type='kvm'><name>slice</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>"
    "<os><type arch='x86_64' machine='q35'>hvm</type></os><devices/></domain>"
)
domain.find("devices").extend(bus.gpu_fragments(first, slot=1))
with open("/root/slice.xml", "wb") as file:
    file.write(etree.tostring(domain))
subprocess.run(["virsh", "create", "/root/slice.xml"], check=True, capture_output=True)
told["holders"] = [each.partition(" ")[0] for each in bus.holders(first)]
try:
    climb(bus, first, clock=time.monotonic)
except BusError as error:
    told["while_used"] = type(error).__name__
subprocess.run(["virsh", "destroy", "slice"], check=True, capture_output=True)
told["reset_after"] = climb(bus, first, clock=time.monotonic).method
bus.undivide(whole)
told["after"] = [list(bus.slices(whole)), bus.card(whole.address).refusal]
bus.bind(bus.card(whole.address))
told["whole_again"] = bus.is_bound(whole)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the host program saw, step by step."""
    folder: Path = tmp_path_factory.mktemp("sriov", numbered=False)
    with VirtualHypervisor(prepare_image(), folder, more_devices=CARD) as hypervisor:
        hypervisor.boot()
        hypervisor.wait_booted(seconds=BOOT_SECONDS)
        hypervisor.put("/root/act.py", ACT.encode())
        lines = hypervisor.run("/opt/leasehold/bin/python /root/act.py", seconds=ACT_SECONDS).splitlines()
    seen: dict[str, Any] = json.loads(lines[-1])
    return seen


def test_a_card_with_virtual_functions_offers_them(told: dict[str, Any]) -> None:
    assert (told["refusal"], told["profiles"], told["whole_bound"]) == ("", [["vf", 4]], True)
    assert "at most 4" in told["too_many"]


def test_each_virtual_function_is_a_card_of_its_own(told: dict[str, Any]) -> None:
    assert len(told["slices"]) == len(told["groups"]) == 4
    assert told["refusals"] == [""] * 4
    assert told["drivers"] == [[]] * 4
    assert told["bound"] == [True, False, False, False]
    assert told["whole_refusal"] == "It is divided into 4 slices."


def test_one_is_reset_by_flr_alone_and_not_while_a_machine_has_it(told: dict[str, Any]) -> None:
    assert (told["reset"], told["reset_after"], told["dead"]) == (
        ["sysfs-reset", "function"],
        "sysfs-reset",
        "",
    )
    assert told["config"] == "ffffffff"  # which is no sign of death in a virtual function
    assert told["holders"] == ["qemu-system-x86"]
    assert told["while_used"] == "CardBusy"


def test_the_card_is_whole_again(told: dict[str, Any]) -> None:
    assert told["after"] == [[], ""]
    assert told["whole_again"]
