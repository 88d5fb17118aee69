"""The domain XML of a leased machine. Pure; the PCI bus supplies what concerns GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import UUID

from lxml import etree

NAMESPACE = "urn:leasehold:machine:1"
CONSOLE_VIDEO_KIB = 16 * 1024

DiskFormat = Literal["qcow2", "raw"]
DomainType = Literal["kvm", "qemu"]


@dataclass(frozen=True)
class DirectKernel:
    """Boot this kernel; nothing on the disk is asked."""

    kernel: Path
    initrd: Path
    cmdline: str


@dataclass(frozen=True)
class UefiDisk:
    """Boot the disk through UEFI. `nvram` is the machine's own copy of the template."""

    nvram: Path
    loader: Path = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
    template: Path = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")


@dataclass(frozen=True)
class Backing:
    """The golden image under a scratch disk, its format stated so that nobody guesses it."""

    path: Path
    format: DiskFormat


@dataclass(frozen=True)
class Disk:
    """A scratch disk. `encrypted`: its key reaches the hypervisor under `key_usage` of the machine."""

    path: Path
    format: DiskFormat = "qcow2"
    encrypted: bool = True
    backing: Backing | None = None


@dataclass(frozen=True)
class Placement:
    """Where it runs: memory strictly on that NUMA node, vCPUs on those host CPUs (`0-7,16`)."""

    numa_node: int | None = None
    cpus: str = ""
    hugepages: bool = False


@dataclass(frozen=True)
class MachineSpec:
    """A machine that serves one lease, all but its GPUs. `seed` is the disk that cloud-init reads.

    `vnc_socket` None lets the hypervisor choose a place that its confinement allows.
    """

    name: str
    uuid: UUID
    lease_id: UUID
    generation: int
    vcpus: int
    memory_mib: int
    boot: DirectKernel | UefiDisk
    disk: Disk | None
    serial_log: Path
    seed: Path | None = None
    domain_type: DomainType = "kvm"
    vnc_socket: Path | None = None
    placement: Placement = Placement()


def key_usage(machine: str) -> str:
    """The name under which the hypervisor keeps the disk key of a machine."""
    return f"leasehold:{machine}"


def node(tag: str, *children: etree._Element | str, **attributes: str) -> etree._Element:
    """An element with its attributes and its content, text or elements."""
    element = etree.Element(tag, attributes)
    for child in children:
        if isinstance(child, str):
            element.text = child
        else:
            element.append(child)
    return element


def domain_xml(spec: MachineSpec, gpu_fragments: Sequence[etree._Element]) -> str:
    """The whole domain. The fragments go under `<devices>` as they are."""
    domain = node(
        "domain",
        node("name", spec.name),
        node("uuid", str(spec.uuid)),
        node("metadata", _lease(spec)),
        node("memory", str(spec.memory_mib), unit="MiB"),
        *_memory_backing(spec.placement),
        _vcpu(spec),
        *_numa_tuning(spec.placement),
        os_element(spec.boot),
        node("features", node("acpi"), node("apic")),
        cpu_element(spec.domain_type, spec.vcpus),
        node("clock", offset="utc"),
        node("on_poweroff", "destroy"),
        node("on_reboot", "restart"),
        node("on_crash", "destroy"),
        node("devices", *_devices(spec), *gpu_fragments),
        type=spec.domain_type,
    )
    return etree.tostring(domain, pretty_print=True, encoding="unicode")


def _lease(spec: MachineSpec) -> etree._Element:
    attributes = {"id": str(spec.lease_id), "generation": str(spec.generation)}
    return etree.Element(f"{{{NAMESPACE}}}lease", attributes, nsmap={"leasehold": NAMESPACE})


def _memory_backing(placement: Placement) -> Iterator[etree._Element]:
    if placement.hugepages:
        yield node("memoryBacking", node("hugepages", node("page", size="1", unit="GiB")))


def _vcpu(spec: MachineSpec) -> etree._Element:
    vcpu = node("vcpu", str(spec.vcpus), placement="static")
    if spec.placement.cpus:
        vcpu.set("cpuset", spec.placement.cpus)
    return vcpu


def _numa_tuning(placement: Placement) -> Iterator[etree._Element]:
    if placement.numa_node is not None:
        yield node("numatune", node("memory", mode="strict", nodeset=str(placement.numa_node)))


def os_element(boot: DirectKernel | UefiDisk) -> etree._Element:
    """What it boots."""
    os_type = node("type", "hvm", arch="x86_64", machine="q35")
    if isinstance(boot, DirectKernel):
        return node(
            "os",
            os_type,
            node("kernel", str(boot.kernel)),
            node("initrd", str(boot.initrd)),
            node("cmdline", boot.cmdline),
        )
    return node(
        "os",
        os_type,
        node("loader", str(boot.loader), readonly="yes", type="pflash"),
        node("nvram", str(boot.nvram), template=str(boot.template)),
        node("boot", dev="hd"),
    )


def cpu_element(domain_type: DomainType, vcpus: int) -> etree._Element:
    """Large GPU memory needs the host's real address width; emulation has a model of its own."""
    topology = node("topology", sockets="1", cores=str(vcpus), threads="1")
    if domain_type == "kvm":
        return node(
            "cpu",
            topology,
            node("maxphysaddr", mode="passthrough"),
            mode="host-passthrough",
            check="none",
            migratable="off",
        )
    return node(
        "cpu",
        node("model", "qemu64", fallback="forbid"),
        topology,
        mode="custom",
        match="exact",
        check="none",
    )


def _devices(spec: MachineSpec) -> Iterator[etree._Element]:
    yield node("controller", type="usb", model="none")
    if spec.disk is not None:
        yield _disk(spec.disk, spec.name)
    if spec.seed is not None:
        yield _seed(spec.seed)
    yield serial_element(spec.serial_log)
    yield node("channel", node("target", type="virtio", name="org.qemu.guest_agent.0"), type="unix")
    yield node("input", type="tablet", bus="virtio")
    yield _graphics(spec.vnc_socket)
    yield node("video", node("model", type="vga", vram=str(CONSOLE_VIDEO_KIB), heads="1", primary="yes"))
    yield node("rng", node("backend", "/dev/urandom", model="random"), model="virtio")
    yield node("memballoon", model="none")


def serial_element(log: Path) -> etree._Element:
    """A serial port whose text is added to a file."""
    source = node("source", path=str(log), append="on")
    return node("serial", source, node("target", port="0"), type="file")


def _graphics(socket: Path | None) -> etree._Element:
    """A unix socket, never a port: file permissions say who may open the console."""
    listen = node("listen", type="socket")
    if socket is not None:
        listen.set("socket", str(socket))
    return node("graphics", listen, type="vnc")


def _disk(disk: Disk, machine: str) -> etree._Element:
    return node(
        "disk",
        node("driver", name="qemu", type=disk.format, discard="unmap"),
        _source(disk, machine),
        _backing_store(disk.backing),
        node("target", dev="vda", bus="virtio"),
        type="file",
        device="disk",
    )


def _seed(path: Path) -> etree._Element:
    """On virtio, because kernels that are made for virtual machines may know no other bus."""
    return node(
        "disk",
        node("driver", name="qemu", type="raw"),
        node("source", file=str(path)),
        node("backingStore"),
        node("target", dev="vdb", bus="virtio"),
        node("readonly"),
        type="file",
        device="disk",
    )


def _source(disk: Disk, machine: str) -> etree._Element:
    source = node("source", file=str(disk.path))
    if disk.encrypted:
        secret = node("secret", type="passphrase", usage=key_usage(machine))
        source.append(node("encryption", secret, format="luks"))
    return source


def _backing_store(backing: Backing | None) -> etree._Element:
    """An empty element ends the chain, and says that nothing is to be looked for behind it."""
    if backing is None:
        return node("backingStore")
    return node(
        "backingStore",
        node("format", type=backing.format),
        node("source", file=str(backing.path)),
        node("backingStore"),
        type="file",
    )
