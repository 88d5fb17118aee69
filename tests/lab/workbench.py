"""A hypervisor for what a worker is asked to do by hand, with hardware that the lab's usual one lacks.

Two NUMA nodes, of which the first has the processor, two cards and a USB controller with two tablets; and an
NVMe controller that can be divided. It has no control plane.
"""

from __future__ import annotations

from lab.hypervisor.machine import DISPLAY, MEMORY_MIB

FAR_MIB = 1024
NODES = (
    "-object", f"memory-backend-ram,id=memory0,size={MEMORY_MIB - FAR_MIB}M",
    "-object", f"memory-backend-ram,id=memory1,size={FAR_MIB}M",
    "-numa", "node,nodeid=0,cpus=0,memdev=memory0",
    "-numa", "node,nodeid=1,memdev=memory1",
)  # fmt: skip
NEAR_GPUS = (
    "pxb-pcie,id=near,bus_nr=64,numa_node=0",
    "pcie-root-port,id=near1,bus=near,addr=1,chassis=21,slot=21,x-speed=5",
    f"{DISPLAY},bus=near1",
    "pcie-root-port,id=near2,bus=near,addr=2,chassis=22,slot=22,x-speed=5",
    f"{DISPLAY},bus=near2",
)
TABLET = "0627:0001"
TABLETS = (
    "qemu-xhci,id=usb,bus=pcie.0",
    "usb-tablet,bus=usb.0,port=1,serial=left",
    "usb-tablet,bus=usb.0,port=2,serial=right",
)
# What QEMU 7.2 asks for before it gives an NVMe controller virtual functions.
QUEUES = "max_ioqpairs=12,msix_qsize=9,sriov_max_vfs=4,sriov_vq_flexible=8,sriov_vi_flexible=4"
DIVISIBLE = (
    "pcie-root-port,id=port4,bus=pcie.0,addr=0x13,chassis=4,slot=4",
    "nvme-subsys,id=subsystem",
    f"nvme,serial=card,subsys=subsystem,bus=port4,{QUEUES}",
)
MORE_DEVICES = (*NEAR_GPUS, *TABLETS, *DIVISIBLE)
