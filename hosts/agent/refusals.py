"""Why a card may not be leased, in words that tell an operator what to do about it."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from hosts.agent.pci import PciFunction, PciTree, read_text

ACS_OVERRIDE = "pcie_acs_override"
BOOT_VGA = "boot_vga"


def refusal(tree: PciTree, card: list[PciFunction], *, accepted_risks: Collection[str]) -> str:
    """All reasons against leasing the card (its functions, the display first), or an empty text.

    `accepted_risks` names the risks (ACS_OVERRIDE, BOOT_VGA) that an administrator takes on this host.
    """
    reasons = [*_isolation(tree, card, accepted_risks), *_host_use(card, accepted_risks), *_means(tree, card)]
    return " ".join(reasons)


def _isolation(tree: PciTree, card: list[PciFunction], accepted_risks: Collection[str]) -> Iterator[str]:
    groups = sorted({function.group for function in card if function.group is not None})
    if not groups:
        yield _without_group(tree)
        return
    if len(groups) > 1:
        yield f"Its functions are spread over the IOMMU groups {', '.join(map(str, groups))}."
    if ACS_OVERRIDE in read_text(tree.root / "proc/cmdline") and ACS_OVERRIDE not in accepted_risks:
        yield f"The kernel runs with {ACS_OVERRIDE}: devices may reach each other past the IOMMU."
    for group in groups:
        yield from _group(tree, group, card)
    if not _remaps_interrupts(tree):
        yield "The IOMMU does not remap interrupts: a guest could raise any interrupt on the host."


def _without_group(tree: PciTree) -> str:
    iommus = tree.root / "sys/class/iommu"
    if iommus.is_dir() and any(iommus.iterdir()):
        return "It has no IOMMU group: the IOMMU does not cover it."
    return "The IOMMU is off: enable VT-d or AMD-Vi in the firmware, and intel_iommu=on for Intel."


def _group(tree: PciTree, group: int, card: list[PciFunction]) -> Iterator[str]:
    if "noiommu" in read_text(tree.root / f"sys/kernel/iommu_groups/{group}/name"):
        yield f"IOMMU group {group} is a no-IOMMU group, which isolates nothing."
    ours = {function.address for function in card}
    others = [
        f"{member.address} ({member.kind})"
        for member in tree.group_members(group)
        if member.address not in ours and not member.is_bridge
    ]
    if others:
        yield (
            f"Shares IOMMU group {group} with {', '.join(others)}: they could reach each other's memory. "
            "Move one of them to a slot whose root port has ACS."
        )


def _remaps_interrupts(tree: PciTree) -> bool:
    """Bit 3 of each Intel unit's extended capabilities; AMD units always remap."""
    units = tree.root.glob("sys/class/iommu/dmar*/intel-iommu/ecap")
    return all(int(read_text(unit) or "8", 16) & 8 for unit in units)


def _host_use(card: list[PciFunction], accepted_risks: Collection[str]) -> Iterator[str]:
    display = card[0]
    if display.text("boot_vga") == "1" and BOOT_VGA not in accepted_risks:
        yield "It is the host's boot display."
    if display.physical_function:
        yield f"It is a virtual function of {display.physical_function}."
    for function in card:
        if function.number("sriov_numvfs"):
            yield f"{function.address} has virtual functions switched on."
        if function.header_type == 1:
            yield f"{function.address} is a bridge."


def _means(tree: PciTree, card: list[PciFunction]) -> Iterator[str]:
    if not any((function.path / "reset").exists() or function.bridge for function in card):
        yield "It offers no way to be reset."
    if any(not bar.assigned for function in card for bar in function.bars()):
        yield "Its memory has no address: enable Above 4G Decoding in the firmware."
    lockdown = read_text(tree.root / "sys/kernel/security/lockdown")
    if lockdown and "[none]" not in lockdown:
        yield "Kernel lockdown forbids the host to map the card's memory, so it could not be scrubbed."
