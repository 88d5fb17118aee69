"""The domain XML of a leased machine. Pure; the PCI bus supplies what concerns GPUs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import UUID

from lxml import etree

from hosts.agent.placing import ANYWHERE, Placement
from hosts.agent.usb import UsbDevice
from hosts.protocol.homes import HOME_SERIAL

NAMESPACE = "urn:leasehold:machine:1"
QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
AGENT_CHANNEL = "org.qemu.guest_agent.0"
CONSOLE_VIDEO_KIB = 16 * 1024
# Debian's OVMF: its code, and the variables that a machine starts with. The secure one has Microsoft's keys.
FIRMWARE = "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"
SECURE_FIRMWARE = "/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"
# What a guest is told instead of the hypervisor's name: any twelve characters that no driver looks for.
HIDDEN_VENDOR = "workstation0"

DiskFormat = Literal["qcow2", "raw"]
DomainType = Literal["kvm", "qemu"]


@dataclass(frozen=True)
class DirectKernel:
    """Boot this kernel; nothing on the disk is asked."""

    kernel: Path
    initrd: Path
    cmdline: str


@dataclass(frozen=True)
class BiosDisk:
    """Boot the disk through a BIOS."""


@dataclass(frozen=True)
class UefiDisk:
    """Boot the disk through UEFI. `nvram` is the machine's own copy of the firmware's variables.

    `secure`: only what Microsoft's keys have signed, which includes Debian's and others' boot loaders.
    """

    nvram: Path
    secure: bool = False


Boot = DirectKernel | BiosDisk | UefiDisk


@dataclass(frozen=True)
class Backing:
    """The golden image under a scratch disk, its format stated so that nobody guesses it."""

    path: Path
    format: DiskFormat


@dataclass(frozen=True)
class Disk:
    """A disk in a file. `encrypted`: its key reaches the hypervisor under `key_usage` of the machine."""

    path: Path
    format: DiskFormat = "qcow2"
    encrypted: bool = True
    backing: Backing | None = None
    read_only: bool = False


@dataclass(frozen=True)
class MachineSpec:
    """A machine that serves one lease, all but its GPUs. `home` is its owner's volume, `seed` the disk that
    cloud-init reads.

    `tpm`: it has a TPM 2.0, whose state goes with it. `hides_hypervisor`: the guest is not told of it.

    `vnc_socket` None lets the hypervisor choose a place that its confinement allows.
    """

    name: str
    uuid: UUID
    lease_id: UUID
    generation: int
    vcpus: int
    memory_mib: int
    boot: Boot
    disk: Disk | None
    serial_log: Path
    home: Disk | None = None
    seed: Path | None = None
    tpm: bool = False
    hides_hypervisor: bool = False
    usb: tuple[UsbDevice, ...] = ()
    domain_type: DomainType = "kvm"
    vnc_socket: Path | None = None
    placement: Placement = ANYWHERE


def key_usage(machine: str) -> str:
    """The name under which the hypervisor keeps the disk key of a machine."""
    return f"leasehold:{machine}"


def home_key_usage(machine: str) -> str:
    """The same for the key of its owner's home volume."""
    return f"leasehold:{machine}:home"


def node(tag: str, *children: etree._Element | str, **attributes: str) -> etree._Element:
    """An element with its attributes and its content, text or elements."""
    element = etree.Element(tag, attributes)
    for child in children:
        if isinstance(child, str):
            element.text = child
        else:
            element.append(child)
    return element


def domain_xml(
    spec: MachineSpec, fragments: Sequence[etree._Element], *, beside: Sequence[etree._Element] = ()
) -> str:
    """The whole domain. The fragments go under `<devices>` as they are; `beside` are those beside it."""
    domain = node(
        "domain",
        node("name", spec.name),
        node("uuid", str(spec.uuid)),
        node("metadata", _lease(spec)),
        node("memory", str(spec.memory_mib), unit="MiB"),
        *_memory_backing(spec.placement),
        _vcpu(spec),
        *_cpu_tuning(spec.placement),
        *_numa_tuning(spec.placement),
        os_element(spec.boot),
        node("features", node("acpi"), node("apic"), *_features(spec)),
        cpu_element(spec.domain_type, spec.vcpus, threads=spec.placement.threads),
        node("clock", offset="utc"),
        node("on_poweroff", "destroy"),
        node("on_reboot", "restart"),
        node("on_crash", "destroy"),
        node("devices", *_devices(spec), *fragments),
        *beside,
        type=spec.domain_type,
    )
    return etree.tostring(domain, pretty_print=True, encoding="unicode")


def _lease(spec: MachineSpec) -> etree._Element:
    attributes = {"id": str(spec.lease_id), "generation": str(spec.generation)}
    return etree.Element(f"{{{NAMESPACE}}}lease", attributes, nsmap={"leasehold": NAMESPACE})


def _memory_backing(placement: Placement) -> Iterator[etree._Element]:
    if placement.page_kib:
        page = node("page", size=str(placement.page_kib), unit="KiB")
        yield node("memoryBacking", node("hugepages", page))


def _vcpu(spec: MachineSpec) -> etree._Element:
    vcpu = node("vcpu", str(spec.vcpus), placement="static")
    if spec.placement.shared_cpus:
        vcpu.set("cpuset", _listed(spec.placement.shared_cpus))
    return vcpu


def _cpu_tuning(placement: Placement) -> Iterator[etree._Element]:
    pins = [node("vcpupin", vcpu=str(vcpu), cpuset=str(cpu)) for vcpu, cpu in enumerate(placement.cpus)]
    if placement.emulator_cpus:
        pins.append(node("emulatorpin", cpuset=_listed(placement.emulator_cpus)))
    if pins:
        yield node("cputune", *pins)


def _numa_tuning(placement: Placement) -> Iterator[etree._Element]:
    if placement.numa_node is not None:
        mode = "strict" if placement.strict else "preferred"
        yield node("numatune", node("memory", mode=mode, nodeset=str(placement.numa_node)))


def _listed(cpus: Iterable[int]) -> str:
    return ",".join(map(str, cpus))


def _features(spec: MachineSpec) -> Iterator[etree._Element]:
    if spec.hides_hypervisor:
        yield node("hyperv", node("vendor_id", state="on", value=HIDDEN_VENDOR), mode="custom")
        yield node("kvm", node("hidden", state="on"))
    if isinstance(spec.boot, UefiDisk) and spec.boot.secure:
        # Without it the guest could change the variables that say what is trusted.
        yield node("smm", state="on")


def os_element(boot: Boot) -> etree._Element:
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
    if isinstance(boot, BiosDisk):
        return node("os", os_type, node("boot", dev="hd"))
    code, variables = SECURE_FIRMWARE if boot.secure else FIRMWARE
    loader = node("loader", code, readonly="yes", type="pflash")
    if boot.secure:
        loader.set("secure", "yes")
    return node(
        "os", os_type, loader, node("nvram", str(boot.nvram), template=variables), node("boot", dev="hd")
    )


def cpu_element(domain_type: DomainType, vcpus: int, *, threads: int = 1) -> etree._Element:
    """Large GPU memory needs the host's real address width; emulation has a model of its own."""
    topology = node("topology", sockets="1", cores=str(vcpus // threads), threads=str(threads))
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
    yield node("controller", type="usb", model="qemu-xhci" if spec.usb else "none")
    yield from map(_usb, spec.usb)
    if spec.disk is not None:
        yield disk_element(spec.disk, key_usage(spec.name), device="vda")
    if spec.home is not None:
        yield disk_element(spec.home, home_key_usage(spec.name), device="vdc", serial=HOME_SERIAL)
    if spec.seed is not None:
        yield _seed(spec.seed)
    yield serial_element(spec.serial_log)
    yield node("channel", node("target", type="virtio", name=AGENT_CHANNEL), type="unix")
    if spec.tpm:
        yield node("tpm", node("backend", type="emulator", version="2.0"), model="tpm-crb")
    yield node("input", type="tablet", bus="virtio")
    yield _graphics(spec.vnc_socket)
    yield node("video", node("model", type="vga", vram=str(CONSOLE_VIDEO_KIB), heads="1", primary="yes"))
    yield node("rng", node("backend", "/dev/urandom", model="random"), model="virtio")
    yield node("memballoon", model="none")


def _usb(device: UsbDevice) -> etree._Element:
    """That very device: another one of its kind may be another machine's."""
    vendor, product = device.usb_id.split(":")
    source = node(
        "source",
        node("vendor", id=f"0x{vendor}"),
        node("product", id=f"0x{product}"),
        node("address", bus=str(device.bus), device=str(device.device)),
    )
    return node("hostdev", source, mode="subsystem", type="usb", managed="no")


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


def disk_element(disk: Disk, usage: str, *, device: str, serial: str = "") -> etree._Element:
    """A disk on virtio. `usage` is the name under which the hypervisor keeps its key."""
    return node(
        "disk",
        node("driver", name="qemu", type=disk.format, discard="unmap"),
        _source(disk, usage),
        _backing_store(disk.backing),
        node("target", dev=device, bus="virtio"),
        *([node("readonly")] if disk.read_only else []),
        *([node("serial", serial)] if serial else []),
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


def _source(disk: Disk, usage: str) -> etree._Element:
    source = node("source", file=str(disk.path))
    if disk.encrypted:
        secret = node("secret", type="passphrase", usage=usage)
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
