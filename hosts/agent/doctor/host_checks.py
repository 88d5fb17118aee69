"""Whether the host is fit to run machines at all. Pure."""

from __future__ import annotations

from typing import Any

from hosts.agent.doctor.facts import (
    Clock,
    FilterFacts,
    FolderFacts,
    HomePoolFacts,
    HostFacts,
    HugePages,
    HypervisorFacts,
    Processor,
    Storage,
    Version,
)
from hosts.agent.doctor.host_reader import HUGE_PAGES, ISOLATED_CPUS
from hosts.agent.doctor.verdicts import Read, failed, passed, skipped, warned
from hosts.agent.pci import DEVICES
from hosts.protocol.checkup import Check
from hosts.protocol.homes import POOL_MARK

# Since 8.7 libvirt can give a guest the host's address width, which large BARs need. QEMU 7.2 is Debian 12's.
OLDEST_LIBVIRT: Version = (8, 7, 0)
OLDEST_QEMU: Version = (7, 2, 0)
GIB = 1024**3
NO_BRIDGE: Read = ("host.toml", "the network's mode is not bridge")
_TIGHT_BYTES, _FULL_BYTES = 20 * GIB, 2 * GIB
_IN_MEMORY = ("tmpfs", "ramfs")
_ON_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "ceph", "fuse.glusterfs")
_KINDS = {"vmx": ("VT-x", "kvm_intel"), "svm": ("AMD-V", "kvm_amd")}


def privileges(host: HostFacts) -> Check:
    read = ("geteuid", "root" if host.is_root else "not root")
    if host.is_root and not host.denied:
        return passed("privileges", "root", read)
    denied = ", ".join(sorted(set(host.denied))) or "open files of other users"
    return warned("privileges", "not-root", read, denied=denied)


def cards(count: int) -> Check:
    read = (f"/{DEVICES}", f"{count} of class 03")
    return passed("cards", "found", read, count=count) if count else failed("cards", "none", read)


def cpu_virtualisation(processor: Processor, *, domain_type: str) -> Check:
    code = "cpu-virtualisation"
    if domain_type == "qemu":
        return skipped(code, "not-used", ("host.toml", 'domain_type = "qemu"'))
    read = ("/proc/cpuinfo", processor.virtualisation or "neither vmx nor svm")
    if not processor.virtualisation:
        return failed(code, "off", read)
    kind, module = _KINDS[processor.virtualisation]
    if not processor.has_kvm:
        return failed(code, "no-kvm", read, ("/dev/kvm", "absent"), kind=kind, module=module)
    return passed(code, "on", read, kind=kind)


def huge_pages(pages: tuple[HugePages, ...]) -> Check:
    if not pages:
        return passed("hugepages", "none", (f"/{HUGE_PAGES}", 0))
    told = ", ".join(f"{each.count} × {each.size_kib} KiB" for each in pages)
    gib = sum(each.size_kib * each.count for each in pages) / 1024**2
    return passed("hugepages", "reserved", (f"/{HUGE_PAGES}", told), gib=f"{gib:.1f}", pages=told)


def isolated_cpus(processor: Processor) -> Check:
    read = (f"/{ISOLATED_CPUS}", processor.isolated or "none")
    if processor.isolated:
        return passed("isolated-cpus", "some", read, cpus=processor.isolated)
    return passed("isolated-cpus", "none", read)


def libvirt(hypervisor: HypervisorFacts) -> Check:
    if hypervisor.libvirt is None:
        error = hypervisor.error or "no answer"
        return failed("libvirt", "away", (hypervisor.uri, error), uri=hypervisor.uri, error=error)
    version = _written(hypervisor.libvirt)
    read = (hypervisor.uri, version)
    if hypervisor.libvirt < OLDEST_LIBVIRT:
        return failed("libvirt", "old", read, version=version, needed=_written(OLDEST_LIBVIRT))
    if hypervisor.unanswered:
        calls = [(hypervisor.uri, call) for call in hypervisor.unanswered]
        return warned("libvirt", "unanswered", read, *calls, call=hypervisor.unanswered[0])
    return passed("libvirt", "ok", read, version=version, uri=hypervisor.uri)


def qemu(hypervisor: HypervisorFacts) -> Check:
    if hypervisor.qemu is None:
        return skipped("qemu", "unknown", (hypervisor.uri, hypervisor.error or "no answer"))
    version = _written(hypervisor.qemu)
    read = (hypervisor.uri, version)
    if hypervisor.qemu < OLDEST_QEMU:
        return warned("qemu", "old", read, version=version, needed=_written(OLDEST_QEMU))
    return passed("qemu", "ok", read, version=version)


def nftables(found: FilterFacts | None) -> Check:
    if found is None:
        return skipped("nftables", "not-used", NO_BRIDGE)
    if found.error:
        return failed("nftables", "away", ("nft", found.error), error=found.error)
    return passed("nftables", "ok", ("nft --version", found.nft), version=found.nft)


def dnsmasq(found: FilterFacts | None) -> Check:
    if found is None:
        return skipped("dnsmasq", "not-used", NO_BRIDGE)
    if not found.dnsmasq:
        return failed("dnsmasq", "away", ("PATH", "no dnsmasq"))
    return passed("dnsmasq", "ok", ("PATH", found.dnsmasq), path=found.dnsmasq)


def forwarding(found: FilterFacts | None) -> Check:
    if found is None:
        return skipped("forwarding", "not-used", NO_BRIDGE)
    if found.error:
        return skipped("forwarding", "unknown", ("nft", found.error))
    if found.dropping:
        family, table, chain = found.dropping[0].split(" ")
        read = ("nft list chains", "; ".join(found.dropping))
        return warned("forwarding", "dropped", read, family=family, table=table, chain=chain)
    return passed("forwarding", "ok", ("nft list chains", "none that drops what is forwarded"))


def storage(place: Storage) -> Check:
    facts: dict[str, Any] = {
        "path": place.path,
        "type": place.kind,
        "free": place.free // GIB,
        "total": place.total // GIB,
    }
    read = (
        ("/proc/self/mounts", place.kind),
        (f"statvfs {place.path}", f"{place.free} of {place.total} bytes are free"),
    )
    if place.kind in _IN_MEMORY:
        return failed("storage", "in-memory", *read, **facts)
    if place.free < _FULL_BYTES:
        return failed("storage", "full", *read, **facts)
    if place.kind in _ON_NETWORK:
        return warned("storage", "network", *read, **facts)
    if place.free < max(_TIGHT_BYTES, place.total // 10):
        return warned("storage", "tight", *read, **facts)
    return passed("storage", "ok", *read, **facts)


def images(folder: FolderFacts) -> Check:
    """The worker makes the folder when the first image comes, if it may write where that is to be."""
    facts = {"path": folder.path, "there": folder.there}
    if folder.read_only:
        return failed("images", "read-only", (folder.there, "read-only file system"), **facts)
    if not folder.writable:
        return failed("images", "not-writable", (folder.there, "permission denied"), **facts)
    outcome = "ok" if folder.there == folder.path else "to-be-made"
    return passed("images", outcome, (folder.there, "can be written to"), **facts)


def home_pool(pool: HomePoolFacts | None) -> Check:
    code = "home-pool"
    if pool is None:
        return skipped(code, "not-used", ("host.toml", "no home_pool"))
    facts = {"name": pool.name, "path": pool.path, "found": pool.mark, "error": pool.error or pool.mark_error}
    if pool.error:
        return failed(code, "absent", (pool.path, pool.error), **facts)
    read = (f"{pool.path}/{POOL_MARK}", pool.mark_error or pool.mark)
    if pool.mark_error:
        return failed(code, "unmarked", read, **facts)
    if pool.mark != pool.name:
        return failed(code, "other", read, **facts)
    if pool.read_only:
        return failed(code, "read-only", read, (pool.path, "read-only file system"), **facts)
    if not pool.writable:
        return failed(code, "not-writable", read, (pool.path, "permission denied"), **facts)
    return passed(code, "ok", read, **facts)


def time_sync(clock: Clock) -> Check:
    if clock.synchronised is None:
        return warned("time-sync", "unknown", ("adjtimex", "no answer"))
    if not clock.synchronised:
        return warned("time-sync", "off", ("adjtimex", f"maxerror {clock.error_us} µs, unsynchronised"))
    return passed(
        "time-sync",
        "ok",
        ("adjtimex", f"maxerror {clock.error_us} µs"),
        milliseconds=f"{clock.error_us / 1000:.0f}",
    )


def _written(version: Version) -> str:
    return ".".join(map(str, version))
