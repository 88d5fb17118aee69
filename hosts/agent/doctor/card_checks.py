"""Whether a card may be leased, and whether it is as fast and as safe as it could be. Pure."""

from __future__ import annotations

from collections.abc import Collection

from hosts.agent.doctor.facts import CardFacts, FunctionFacts, Grounds, GroupFacts
from hosts.agent.doctor.verdicts import failed, passed, skipped, warned
from hosts.agent.known_bad import Harm, KnownBad, known_bad
from hosts.agent.pci import DEVICES, GROUPS
from hosts.protocol.checkup import Check

BOOT_VGA = "boot_vga"
VFIO_DRIVER = "vfio-pci"
MIB = 1024**2
# What leaves a card's state mostly as it was.
_WEAK_RESETS = {"pm"}
_NOTHING_LEFT: dict[Harm, str] = {"own-only": "own-only", "reboot": "reboot"}


def answers(grounds: Grounds) -> Check:
    silent = [function.address for function in grounds.functions if not function.is_alive]
    if silent:
        return failed("answers", "no", subject=grounds.address, functions=", ".join(silent))
    return passed("answers", "yes", subject=grounds.address)


def functions(grounds: Grounds) -> Check:
    code, subject = "functions", grounds.address
    if grounds.physical_function:
        return passed(code, "slice", subject=subject, physical=grounds.physical_function)
    for function in grounds.functions:
        if function.virtual_functions:
            return warned(code, "sliced", subject=subject, function=function.address)
        if function.mediated:
            device = function.mediated[0]
            return warned(code, "mediated", subject=subject, function=function.address, device=device)
        if function.is_bridge:
            return failed(code, "bridge", subject=subject, function=function.address)
    told = ", ".join(f"{each.address} ({each.ids})" for each in grounds.functions)
    return passed(code, "whole", subject=subject, functions=told)


def iommu_group(grounds: Grounds, *, iommu_is_on: bool) -> Check:
    code, subject = "iommu-group", grounds.address
    if not grounds.groups:
        return failed(code, "not-covered" if iommu_is_on else "off", subject=subject)
    if len(grounds.groups) > 1:
        numbers = ", ".join(str(group.number) for group in grounds.groups)
        return failed(code, "spread", subject=subject, groups=numbers)
    group = grounds.groups[0]
    if group.is_noiommu:
        return failed(code, "no-iommu", subject=subject, group=group.number)
    if group.others:
        return failed(
            code, "shared", _members(group), subject=subject, group=group.number, others=_told(group)
        )
    return passed(code, "alone", _members(group), subject=subject, group=group.number)


def _told(group: GroupFacts) -> str:
    return ", ".join(f"{each.address} ({each.kind})" for each in group.others)


def _members(group: GroupFacts) -> tuple[str, str]:
    return f"/{GROUPS}/{group.number}/devices", _told(group) or "the card alone"


def boot_display(grounds: Grounds, *, accepted_risks: Collection[str]) -> Check:
    code, subject = "boot-display", grounds.address
    read = (f"/{DEVICES}/{subject}/boot_vga", int(grounds.is_boot_display))
    if not grounds.is_boot_display:
        return passed(code, "no", read, subject=subject)
    if BOOT_VGA in accepted_risks:
        return warned(code, "accepted", read, subject=subject)
    return failed(code, "yes", read, subject=subject)


def above_4g(grounds: Grounds, *, address: str) -> Check:
    if grounds.unassigned_bars:
        return failed("above-4g", "unassigned", subject=grounds.address)
    return passed("above-4g", "assigned", subject=grounds.address, address=address)


def reset(grounds: Grounds) -> Check:
    code, subject = "reset", grounds.address
    able = [function for function in grounds.functions if function.can_reset]
    read = tuple((f"/{DEVICES}/{each.address}/reset_method", each.reset_methods or "absent") for each in able)
    if not able:
        outcome = passed(code, "bridge", subject=subject) if grounds.has_bridge else None
        return outcome or failed(code, "none", subject=subject)
    display = grounds.functions[0]
    bad = known_bad(display.ids) if display.ids else None
    if bad and not _harmless(display, bad):
        return failed(code, _NOTHING_LEFT.get(bad.harm, "harmful"), *read, subject=subject)
    methods = {method for each in able for method in each.reset_methods.split()}
    if bad:
        methods -= bad.methods
    told = ", ".join(sorted(methods)) or "reset"
    if methods and methods <= _WEAK_RESETS and not grounds.has_bridge:
        return warned(code, "weak", *read, subject=subject, methods=told)
    return passed(code, "offered", *read, subject=subject, methods=told)


def _harmless(display: FunctionFacts, bad: KnownBad) -> bool:
    """Whether some way to reset the card does it no harm."""
    return "bus" not in bad.methods or bool(set(display.reset_methods.split()) - bad.methods)


def host_driver(card: CardFacts) -> Check:
    code, subject = "host-driver", card.grounds.address
    drivers = sorted({function.driver for function in card.grounds.functions} - {"", VFIO_DRIVER})
    facts = {"drivers": ", ".join(drivers), "holders": ", ".join(card.holders)}
    read = tuple(
        (f"/{DEVICES}/{each.address}/driver", each.driver or "none") for each in card.grounds.functions[:4]
    )
    if not drivers:
        bound = any(function.driver for function in card.grounds.functions)
        outcome = ("in-machine" if card.holders else "vfio") if bound else "none"
        return passed(code, outcome, *read, subject=subject, **facts)
    if card.holders:
        return failed(code, "held", *read, subject=subject, **facts)
    return warned(code, "idle", *read, subject=subject, **facts)


def vfio_at_boot(card: CardFacts) -> Check:
    code, subject = "vfio-at-boot", card.grounds.address
    if card.simulated:
        return skipped(code, "simulated", subject=subject)
    if card.claimed_by:
        return passed(code, "claimed", subject=subject, source=card.claimed_by)
    ids = ",".join(dict.fromkeys(function.ids for function in card.grounds.functions))
    return warned(code, "not-claimed", ("/etc/modprobe.d", "no such line"), subject=subject, ids=ids)


def option_rom(card: CardFacts) -> Check:
    code, subject = "option-rom", card.grounds.address
    if card.simulated:
        return skipped(code, "simulated", subject=subject)
    if not card.rom_bytes:
        return skipped(code, "absent", subject=subject)
    if card.rom_is_shadow:
        return warned(code, "shadow", subject=subject)
    return passed(code, "present", subject=subject, kib=card.rom_bytes // 1024)


def resizable_bar(card: CardFacts) -> Check:
    code, subject = "resizable-bar", card.grounds.address
    window = card.window
    if card.simulated:
        return skipped(code, "simulated", subject=subject)
    if window is None or not window.resizable:
        return skipped(code, "fixed", subject=subject, now=window.size // MIB if window else 0)
    facts = {"now": window.size // MIB, "most": window.most // MIB}
    if window.size < window.most:
        return warned(code, "small", subject=subject, **facts)
    return passed(code, "full", subject=subject, **facts)


def numa_node(card: CardFacts, *, nodes: int) -> Check:
    code, subject = "numa-node", card.grounds.address
    read = (f"/{DEVICES}/{subject}/numa_node", card.numa_node)
    if card.numa_node >= 0:
        return passed(code, "known", read, subject=subject, node=card.numa_node)
    if nodes > 1:
        return warned(code, "unknown", read, subject=subject, nodes=nodes)
    return skipped(code, "single", read, subject=subject)


def pcie_link(card: CardFacts) -> Check:
    code, subject = "pcie-link", card.grounds.address
    if card.simulated:
        return skipped(code, "simulated", subject=subject)
    if not card.link.width or not card.best_link.width:
        return skipped(code, "unknown", subject=subject)
    facts = {"now": card.link, "most": card.best_link}
    if card.link.width < card.best_link.width:
        return warned(code, "narrow", subject=subject, **facts)
    if card.link.rate < card.best_link.rate:
        return warned(code, "slow", subject=subject, **facts)
    return passed(code, "full", subject=subject, **facts)


def d3cold(card: CardFacts) -> Check:
    code, subject = "d3cold", card.grounds.address
    if card.simulated:
        return skipped(code, "simulated", subject=subject)
    read = (f"/{DEVICES}/{subject}/d3cold_allowed", card.d3cold_allowed or "absent")
    if card.power_state in ("D3cold", "D3hot"):
        return warned(code, "asleep", read, subject=subject, state=card.power_state, function=subject)
    return passed(code, "allowed" if card.d3cold_allowed == "1" else "kept-awake", read, subject=subject)
