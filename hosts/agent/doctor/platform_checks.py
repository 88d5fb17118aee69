"""Whether this kernel on this board keeps devices apart. Pure."""

from __future__ import annotations

from collections.abc import Collection

from hosts.agent.doctor.facts import Platform
from hosts.agent.doctor.host_reader import (
    CMDLINE,
    ECAP,
    IOMMUS,
    LOCKDOWN,
    NOIOMMU_MODE,
    UNSAFE_INTERRUPTS,
)
from hosts.agent.doctor.verdicts import failed, passed, skipped, warned
from hosts.protocol.checkup import Check

ACS_OVERRIDE = "pcie_acs_override"
_REMAPS_INTERRUPTS = 8  # bit 3 of an Intel unit's extended capabilities
_ON = ("Y", "1")
_KINDS = {"dmar": "Intel VT-d", "ivhd": "AMD-Vi", "smmu": "Arm SMMU"}


def iommu(platform: Platform, *, vendor: str) -> Check:
    if platform.iommus:
        kinds = (name for start, name in _KINDS.items() if platform.iommus[0].startswith(start))
        units = ", ".join(platform.iommus)
        return passed("iommu", "on", (f"/{IOMMUS}", units), kind=next(kinds, "IOMMU"), units=units)
    outcome = {"GenuineIntel": "off-intel", "AuthenticAMD": "off-amd"}.get(vendor, "off")
    return failed("iommu", outcome, (f"/{IOMMUS}", "empty"), (f"/{CMDLINE}", platform.cmdline))


def interrupt_remapping(platform: Platform) -> Check:
    """Intel units tell whether they could; the others always can. The kernel may have been told not to."""
    code, told = "interrupt-remapping", (f"/{CMDLINE}", platform.cmdline)
    if platform.unsafe_interrupts in _ON:
        return failed(code, "unsafe", (f"/{UNSAFE_INTERRUPTS}", platform.unsafe_interrupts))
    if not platform.iommus:
        return skipped(code, "no-iommu", (f"/{IOMMUS}", "empty"))
    read = [
        (f"/{IOMMUS}/{name}/{ECAP}", ecap)
        for name, ecap in zip(platform.iommus, platform.ecaps, strict=False)
        if ecap
    ]
    can = all(int(ecap, 16) & _REMAPS_INTERRUPTS for _, ecap in read)
    verdict, outcome = (failed, "off")
    if can and not _remapping_is_forbidden(platform.cmdline):
        verdict, outcome = (passed, "on")
    return verdict(code, outcome, told, *read[:4])


def _remapping_is_forbidden(cmdline: str) -> bool:
    """As Linux reads its parameters: drivers/iommu/irq_remapping.c; of two that differ, the later counts."""
    forbidden = False
    for word in cmdline.split():
        name, _, values = word.partition("=")
        if name == "intremap":
            for value in values.split(","):
                forbidden = {"off": True, "on": False}.get(value, forbidden)
        elif word == "nointremap":
            forbidden = True
    return forbidden or "noapic" in cmdline.split()


def iommu_passthrough(platform: Platform) -> Check:
    words = platform.cmdline.split()
    is_on = "iommu=pt" in words or "iommu.passthrough=1" in words
    read = (f"/{CMDLINE}", platform.cmdline)
    return passed("iommu-passthrough", "on", read) if is_on else warned("iommu-passthrough", "off", read)


def acs_override(platform: Platform, *, accepted_risks: Collection[str]) -> Check:
    read = (f"/{CMDLINE}", platform.cmdline)
    if ACS_OVERRIDE not in platform.cmdline:
        return passed("acs-override", "absent", read)
    if ACS_OVERRIDE in accepted_risks:
        return warned("acs-override", "accepted", read)
    return failed("acs-override", "present", read)


def noiommu(platform: Platform) -> Check:
    read = (f"/{NOIOMMU_MODE}", platform.noiommu_mode or "absent")
    return failed("noiommu", "on", read) if platform.noiommu_mode in _ON else passed("noiommu", "off", read)


def lockdown(platform: Platform) -> Check:
    read = (f"/{LOCKDOWN}", platform.lockdown or "absent")
    if not platform.lockdown or "[none]" in platform.lockdown:
        return passed("lockdown", "off", read)
    mode = platform.lockdown.partition("[")[2].partition("]")[0] or platform.lockdown
    return failed("lockdown", "on", read, mode=mode)
