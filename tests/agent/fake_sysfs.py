"""A `/sys` made of files, and a kernel small enough to move its links: binding, resets, remove and rescan.

It emulates what the bus code relies on, traps included. The lab runs the same contract on a real kernel.
"""

from __future__ import annotations

import errno
import shutil
import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from hosts.agent.child_program import decode_memory
from hosts.agent.kernel import Writes
from hosts.agent.slicing_bus import SlicingBus

PREFETCHABLE_MEMORY = 0x0014220C
UNASSIGNED = 0x20000000
SERIAL = "0123456789abcdef"


def config_space(*, vendor: int = 0x1234, header_type: int = 0, serial: str = SERIAL) -> bytes:
    """4096 bytes with ids, header type and a Device Serial Number behind another extended capability."""
    space = bytearray(4096)
    struct.pack_into("<H", space, 0, vendor)
    space[14] = header_type
    struct.pack_into("<I", space, 0x100, 0x0001 | 1 << 16 | 0x140 << 20)
    struct.pack_into("<I", space, 0x140, 0x0003 | 1 << 16)
    space[0x144:0x14C] = bytes.fromhex(serial)[::-1]
    return bytes(space)


@dataclass
class FakeHost:
    """Builds the files of a host below `root`."""

    root: Path

    def __post_init__(self) -> None:
        for directory in ("sys/bus/pci/devices", "sys/bus/pci/drivers/vfio-pci", "sys/kernel/iommu_groups"):
            (self.root / directory).mkdir(parents=True)
        for directory in ("sys/class/iommu/dmar0", "proc", "dev/vfio"):
            (self.root / directory).mkdir(parents=True)
        self.write("sys/bus/pci/drivers_autoprobe", "1")
        self.write("proc/cmdline", "root=/dev/vda intel_iommu=on")

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")

    def path(self, address: str) -> Path:
        return self.root / "sys/bus/pci/devices" / address

    def bridge(self, address: str, *, group: int | None = None, **attributes: str) -> str:
        """A root port; it is in a group of its own unless one is given."""
        self._device(f"pci0000:00/{address}", "0x060400", config_space(header_type=1), attributes)
        if group is not None:
            self._join(address, group)
        (self.path(address) / "rescan").touch()
        self._drive(address, "pcieport")
        return address

    def function(
        self,
        address: str,
        *,
        kind: str = "0x038000",
        group: int | None,
        bridge: str = "",
        driver: str = "bochs-drm",
        memory: int = 1 << 20,
        flags: int = PREFETCHABLE_MEMORY,
        vendor: int = 0x1234,
        **attributes: str,
    ) -> str:
        """An endpoint, with the attributes of an emulated display unless told otherwise."""
        where = f"pci0000:00/{bridge}/{address}" if bridge else f"pci0000:00/{address}"
        defaults = {"vendor": f"{vendor:#06x}", "reset_method": "bus", "reset": "", "driver_override": ""}
        device = self._device(where, kind, config_space(vendor=vendor), {**defaults, **attributes})
        if memory:
            rows = [f"{0:#018x} {memory - 1:#018x} {flags:#018x}"] + ["0x0 0x0 0x0"] * 5
            (device / "resource").write_text("\n".join(rows))
            (device / "resource0").write_bytes(b"\x5a" * memory)
            (device / "resource0_wc").hardlink_to(device / "resource0")
        if group is not None:
            self._join(address, group)
        if driver:
            self._drive(address, driver)
        return address

    def virtual_function(self, card: str, index: int, *, carries: str = "") -> str:
        """As the kernel makes it: ids of ones, no driver. It carries vGPUs the mdev or vendor way."""
        address = f"{card[:-1]}{index + 4}"
        parent = self.path(card).resolve()
        ids = {name: (parent / name).read_text().strip() for name in ("vendor", "device")}
        where = f"{parent.parent.name}/{address}"
        self._device(
            f"pci0000:00/{where}",
            "0x030200",
            config_space(vendor=0xFFFF),
            {
                **ids,
                "reset_method": "flr",
                "reset": "",
                "driver_override": "",
            },
        )
        device = self.path(address)
        (device / "config").write_bytes(b"\xff" * 4 + (device / "config").read_bytes()[4:])
        rows = [f"{0:#018x} {(1 << 18) - 1:#018x} {PREFETCHABLE_MEMORY:#018x}"] + ["0x0 0x0 0x0"] * 5
        (device / "resource").write_text("\n".join(rows))
        (device / "resource0_wc").write_bytes(b"\x5a" * (1 << 18))
        (device / "physfn").symlink_to(self.path(card))
        (parent / f"virtfn{index}").symlink_to(self.path(address))
        self._join(address, 40 + index)
        if carries == "mdev":
            self.mediated_type(
                address, "nvidia-592", "NVIDIA A40-4Q", "framebuffer=4096M, max_instance=12", 1
            )
        if carries == "vendor":
            folder = device / "nvidia"
            folder.mkdir()
            types = "ID    : vGPU Name\n557 : NVIDIA L4-1Q\n1414 : NVIDIA H200X-1-18C\n"
            (folder / "creatable_vgpu_types").write_text(types)
            (folder / "current_vgpu_type").write_text("0\n")
            (folder / "vgpu_params").write_text("\n")
        return address

    def mediated_type(self, address: str, name: str, title: str, description: str, available: int) -> None:
        folder = self.path(address) / "mdev_supported_types" / name
        (folder / "devices").mkdir(parents=True)
        for file, text in {
            "name": title,
            "description": description,
            "available_instances": str(available),
            "device_api": "vfio-pci",
            "create": "",
        }.items():
            (folder / file).write_text(f"{text}\n")

    def _device(self, where: str, kind: str, config: bytes, attributes: dict[str, str]) -> Path:
        device = self.root / "sys/devices" / where
        device.mkdir(parents=True)
        self.path(device.name).symlink_to(device)
        (device / "config").write_bytes(config)
        common = {"class": kind, "vendor": "0x1234", "device": "0x1111", "revision": "0x02"}
        subsystem = {"subsystem_vendor": "0x1af4", "subsystem_device": "0x1100", "numa_node": "1"}
        for name, text in {**common, **subsystem, **attributes}.items():
            (device / name).write_text(text + "\n")
        (device / "remove").touch()
        (device / "d3cold_allowed").write_text("1\n")
        (device / "power").mkdir()
        (device / "power/control").write_text("auto\n")
        return device

    def _join(self, address: str, group: int) -> None:
        members = self.root / f"sys/kernel/iommu_groups/{group}/devices"
        members.mkdir(parents=True, exist_ok=True)
        (members / address).symlink_to(self.path(address))
        (self.path(address) / "iommu_group").symlink_to(members.parent)

    def _drive(self, address: str, driver: str) -> None:
        directory = self.root / "sys/bus/pci/drivers" / driver
        directory.mkdir(exist_ok=True)
        (directory / "unbind").touch()
        (self.path(address) / "driver").symlink_to(directory)


@dataclass
class FakeKernel:
    """What the kernel does when a file is written. `failures` maps a file's name to errors still to come."""

    host: FakeHost
    failures: dict[str, list[Exception]] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    stale: set[str] = field(default_factory=set)
    renewed: str = "bus"
    removed: dict[str, Path] = field(default_factory=dict)
    writes: list[tuple[str, str]] = field(default_factory=list)
    native: dict[str, str] = field(default_factory=dict)
    limited: bool = False
    carries: str = ""

    def write(self, writes: Writes, *, seconds: float) -> None:
        for path, text in writes:
            self.writes.append((str(path), text))
            self._write(path, text)

    def hot_reset(self, group: Path, address: str, *, seconds: float) -> None:
        self._fail("hot-reset")
        assert group.exists()
        self.done["hot-reset"] += 1

    def is_viable(self, group: Path) -> bool:
        members = self.host.root / f"sys/kernel/iommu_groups/{group.name}/devices"
        drivers = {self._driver(entry.name) for entry in members.iterdir()}
        return group.exists() and drivers <= {"vfio-pci", "", "pcieport", "pci-stub"}

    def switch_nvidia_functions(self, address: str, *, on: bool) -> None:
        self._fail("sriov-manage")
        count = int((self.host.path(address) / "sriov_totalvfs").read_text()) if on else 0
        self._set_functions(self.host.path(address), count)

    def decode_memory(self, config: Path) -> None:
        decode_memory(str(config))

    def load_vfio(self) -> None:
        self._fail("modprobe")
        (self.host.root / "sys/bus/pci/drivers/vfio-pci").mkdir(exist_ok=True)

    def _write(self, path: Path, text: str) -> None:
        self._fail(path.name)
        handler = getattr(self, f"_on_{path.name}", None)
        if handler:
            handler(path, text)
        elif path.name != "rom":
            path.write_text(text + "\n")

    def _fail(self, name: str) -> None:
        if self.failures.get(name):
            raise self.failures[name].pop(0)

    def _driver(self, address: str) -> str:
        link = self.host.path(address) / "driver"
        return link.readlink().name if link.is_symlink() else ""

    def _on_unbind(self, path: Path, address: str) -> None:
        link = self.host.path(address) / "driver"
        assert link.readlink() == path.parent.resolve()
        link.unlink()
        self.done["unbind"] += 1

    def _on_bind(self, path: Path, address: str) -> None:
        if self._driver(address):
            raise OSError(errno.EBUSY, "Device or resource busy")
        if (self.host.path(address) / "driver_override").read_text().strip() != path.parent.name:
            raise OSError(errno.EINVAL, "Invalid argument")
        (self.host.path(address) / "driver").symlink_to(path.parent)
        (self.host.path(address) / "power/control").write_text("auto\n")
        group = (self.host.path(address) / "iommu_group").readlink().name
        (self.host.root / "dev/vfio" / group).touch()
        self.done["bind"] += 1

    def _on_reset(self, path: Path, text: str) -> None:
        if path.parent.name in self.stale:
            raise OSError(errno.ENOTTY, "Inappropriate ioctl for device", str(path))
        self.done["reset"] += 1

    def _on_reset_method(self, path: Path, text: str) -> None:
        if text == "default":
            self.stale.discard(path.parent.name)
            text = self.renewed
        path.write_text(text.strip() + "\n")

    def _on_reset_subordinate(self, path: Path, text: str) -> None:
        self.done["reset_subordinate"] += 1

    def _on_drivers_probe(self, path: Path, address: str) -> None:
        if driver := self.native.get(address):
            self.host._drive(address, driver)

    def _on_sriov_numvfs(self, path: Path, text: str) -> None:
        """Half of what the driver was asked for, once, if told to be `limited`."""
        if self._driver(path.parent.name) in ("", "vfio-pci"):
            raise OSError(errno.ENOENT, "No such file or directory", str(path))
        count = int(text) // 2 if self.limited else int(text)
        self.limited = False
        self._set_functions(path.parent, count)
        self._fail("after-numvfs")

    def _set_functions(self, card: Path, count: int) -> None:
        for link in card.glob("virtfn*"):
            address = link.readlink().name
            (link / "iommu_group/devices" / address).unlink()
            gone(self.host, address)
            link.unlink()
        for index in range(count):
            self.host.virtual_function(card.name, index, carries=self.carries)
        (card / "sriov_numvfs").write_text(f"{count}\n")

    def _on_create(self, path: Path, name: str) -> None:
        """A mediated device; each one leaves less for the others, and a virtual function carries one."""
        left = path.parent / "available_instances"
        if left.read_text().strip() == "0":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        device = path.parent / "devices" / name
        device.mkdir(parents=True)
        place = self.host.root / "sys/bus/mdev/devices" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(device)
        (device / "remove").touch()
        group = 90 + len(list(place.parent.iterdir()))
        (device / "iommu_group").symlink_to(self.host.root / f"sys/kernel/iommu_groups/{group}")
        left.write_text(f"{int(left.read_text()) - 1}\n")

    def _on_current_vgpu_type(self, path: Path, text: str) -> None:
        offered = (path.parent / "creatable_vgpu_types").read_text()
        if text != "0" and f"{text} :" not in offered:
            raise OSError(errno.EINVAL, "Invalid argument", str(path))
        path.write_text(f"{text}\n")

    def _on_remove(self, path: Path, text: str) -> None:
        if path.parent.parent.parent.name == "mdev":
            device = path.parent.resolve()
            left = device.parent.parent / "available_instances"
            left.write_text(f"{int(left.read_text()) + 1}\n")
            path.parent.unlink()
            shutil.rmtree(device)
            return
        link = self.host.path(path.parent.name)
        self.removed[link.name] = link.readlink()
        (link / "driver_override").write_text("\n")
        (link / "d3cold_allowed").write_text("1\n")
        (link / "power/control").write_text("auto\n")
        (link / "driver").unlink(missing_ok=True)
        link.unlink()

    def _on_rescan(self, path: Path, text: str) -> None:
        autoprobe = (self.host.root / "sys/bus/pci/drivers_autoprobe").read_text().strip()
        for address, device in self.removed.items():
            self.host.path(address).symlink_to(device)
            if autoprobe == "1":
                (device / "driver").symlink_to(self.host.root / "sys/bus/pci/drivers/bochs-drm")
        self.removed.clear()
        self.done["rescan"] += 1


def plain_host(root: Path) -> tuple[FakeHost, FakeKernel, SlicingBus]:
    """One display with an audio function behind a root port of its own."""
    host = FakeHost(root)
    host.bridge("0000:00:01.0", group=1, reset_subordinate="")
    host.function("0000:01:00.0", group=7, bridge="0000:00:01.0", rom="the option ROM")
    host.function("0000:01:00.1", kind="0x040300", group=7, bridge="0000:00:01.0", memory=0, driver="hda")
    kernel = FakeKernel(host)
    return host, kernel, SlicingBus(root, kernel=kernel)


def gone(host: FakeHost, address: str) -> None:
    """Take a device away as if it had fallen off the bus."""
    shutil.rmtree(host.path(address).resolve())
    host.path(address).unlink()
