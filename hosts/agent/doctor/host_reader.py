"""Reads what `doctor` judges about the host: kernel, processor, memory, clock and storage."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

from hosts.agent.doctor.facts import (
    Clock,
    FolderFacts,
    HomePoolFacts,
    HugePages,
    Platform,
    Processor,
    Storage,
)
from hosts.agent.doctor.reader import Reader
from hosts.protocol.homes import POOL_MARK

CMDLINE = "proc/cmdline"
IOMMUS = "sys/class/iommu"
ECAP = "intel-iommu/ecap"
UNSAFE_INTERRUPTS = "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"
NOIOMMU_MODE = "sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
LOCKDOWN = "sys/kernel/security/lockdown"
ISOLATED_CPUS = "sys/devices/system/cpu/isolated"
NODES = "sys/devices/system/node"
HUGE_PAGES = "sys/kernel/mm/hugepages"
_TIME_ERROR = 5
_VIRTUALISATION = ("vmx", "svm")


def read_platform(reader: Reader) -> Platform:
    """What the kernel says about isolation."""
    iommus = reader.names(IOMMUS)
    return Platform(
        cmdline=reader.text(CMDLINE),
        iommus=iommus,
        ecaps=tuple(reader.text(f"{IOMMUS}/{name}/{ECAP}") for name in iommus),
        unsafe_interrupts=reader.text(UNSAFE_INTERRUPTS),
        noiommu_mode=reader.text(NOIOMMU_MODE),
        lockdown=reader.text(LOCKDOWN),
    )


def read_processor(reader: Reader) -> Processor:
    text = reader.text("proc/cpuinfo")
    flags = set(_field(text, "flags").split())
    nodes = [name for name in reader.names(NODES) if re.fullmatch(r"node\d+", name)]
    return Processor(
        vendor=_field(text, "vendor_id"),
        virtualisation=next((flag for flag in _VIRTUALISATION if flag in flags), ""),
        has_kvm=reader.exists("dev/kvm"),
        isolated=reader.text(ISOLATED_CPUS),
        numa_nodes=max(1, len(nodes)),
    )


def read_huge_pages(reader: Reader) -> tuple[HugePages, ...]:
    """Those that are reserved."""
    found = []
    for name in reader.names(HUGE_PAGES):
        count = int(reader.text(f"{HUGE_PAGES}/{name}/nr_hugepages") or "0")
        size = re.fullmatch(r"hugepages-(\d+)kB", name)
        if size and count:
            found.append(HugePages(int(size[1]), count))
    return tuple(found)


def read_storage(reader: Reader, directory: Path) -> Storage:
    """The file system that the directory is on, or will be on once it is made."""
    there = next(path for path in (directory, *directory.parents) if path.exists())
    size = os.statvfs(there)
    return Storage(
        path=str(directory),
        kind=_mounted_kind(reader.text("proc/self/mounts"), there.resolve()),
        total=size.f_blocks * size.f_frsize,
        free=size.f_bavail * size.f_frsize,
    )


def read_folder(directory: Path) -> FolderFacts:
    """As it is for whoever reads, as of `read_home_pool`."""
    there = next(path for path in (directory, *directory.parents) if path.exists())
    return FolderFacts(
        path=str(directory),
        there=str(there),
        read_only=bool(os.statvfs(there).f_flag & os.ST_RDONLY),
        writable=_may_write(there),
    )


def read_home_pool(name: str, directory: Path) -> HomePoolFacts:
    """As it is for whoever reads: the unit may forbid the worker to write where others of root's may."""
    path = str(directory)
    try:
        read_only = bool(os.statvfs(directory).f_flag & os.ST_RDONLY)
    except OSError as error:
        return HomePoolFacts(name, path, error=error.strerror or str(error))
    try:
        mark = (directory / POOL_MARK).read_text(errors="replace").strip()
    except OSError as error:
        return HomePoolFacts(name, path, mark_error=error.strerror or str(error))
    writable = _may_write(directory)
    return HomePoolFacts(name, path, mark=mark, read_only=read_only, writable=writable)


def _may_write(directory: Path) -> bool:
    """Whether root may, who alone can tell."""
    return os.geteuid() != 0 or os.access(directory, os.W_OK | os.X_OK)


def read_clock() -> Clock:
    """What the kernel says of its own clock (adjtimex(2), which anyone may ask)."""
    timex = (ctypes.c_long * 64)()
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(timex)
    except (OSError, AttributeError):
        return Clock(synchronised=None)
    if state < 0:
        return Clock(synchronised=None)
    return Clock(synchronised=state != _TIME_ERROR, error_us=timex[3])


def _field(text: str, name: str) -> str:
    """The first field of that name in the form of /proc/cpuinfo."""
    found = re.search(rf"^{name}\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1] if found else ""


def _mounted_kind(mounts: str, path: Path) -> str:
    """The type of the last file system mounted on the path or the nearest directory above it."""
    rows = [line.split(" ") for line in mounts.splitlines()]
    kinds = {row[1].replace("\\040", " "): row[2] for row in rows if len(row) > 2}
    return next((kinds[str(each)] for each in (path, *path.parents) if str(each) in kinds), "unknown")
