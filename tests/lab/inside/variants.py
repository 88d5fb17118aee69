"""One machine with everything that a definition can say of passthrough: two cards beside each other on a NUMA
node, huge pages of that node, a ROM from a file and a USB device; what its guest and QEMU itself say of it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

from hosts.agent.usb import read_usb
from hosts.protocol.machine import UsbDevice
from hosts.protocol.messages import GpuOrder
from tests.lab.inside.bench import Bench, name_of
from tests.lab.inside.telling import tell

NODES = NEAR, _FAR = 0, 1
GUEST_DEVICES = "/sys/bus/pci/devices"


def play(usb_id: str, usb_port: str) -> dict[str, Any]:
    bench, told = Bench("variants", usb_devices=(usb_id,)), dict[str, Any]()
    cards = [card for card in bench.rig.bus.cards() if card.numa_node == NEAR and not card.refusal]
    first, second = (
        GpuOrder(gpu_id=UUID(int=0x6B0 + number), tenure=1, address=card.address)
        for number, card in enumerate(cards)
    )
    told["gpus"] = [first.address, second.address]
    told["plugged in"] = [[each.usb_id, each.port] for each in read_usb(bench.rig.reader)]
    told["intakes"] = [bench.intake(each) for each in (first, second)]
    bench.provision(1, first, second, chosen_usb=(UsbDevice(usb_id=usb_id, port=usb_port),))
    told["displays"] = bench.guest_says(
        1, f"cd {GUEST_DEVICES} && for each in *; do echo $each $(cat $each/class $each/vendor); done"
    ).splitlines()
    told["roms"] = bench.guest_says(
        1, f"cd {GUEST_DEVICES} && for each in 0000:0[12]*/rom; do echo 1 >$each; sha256sum $each; done"
    ).splitlines()
    told["usb"] = bench.guest_says(1, "cd /sys/bus/usb/devices && cat [0-9]*-[0-9]*/serial").split()
    told["qemu"] = of_qemu(name_of(1))
    told["released"] = bench.release(1, first, second)
    bench.close()
    return told


def of_qemu(machine: str) -> dict[str, Any]:
    """What the kernel says of its process: by which policy its huge pages were taken, and where they are."""
    process = Path("/proc") / Path(f"/run/libvirt/qemu/{machine}.pid").read_text().strip()
    huge = [line for line in (process / "numa_maps").read_text().splitlines() if " huge " in line]
    return {
        "policies": sorted({line.split()[1] for line in huge}),
        "page KiB": sorted({size for line in huge for size in re.findall(r"kernelpagesize_kB=(\d+)", line)}),
        "pages": [
            sum(int(count) for line in huge for count in re.findall(rf" N{node}=(\d+)", line))
            for node in NODES
        ],
    }


if __name__ == "__main__":
    tell(lambda: play(*sys.argv[1:]))
