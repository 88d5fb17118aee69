"""Whether a card may be leased, and whether it is as fast and as safe as it could be. Pure."""

from __future__ import annotations

from collections.abc import Collection

from hosts.agent.doctor.facts import CardFacts, FunctionFacts, Grounds, GroupFacts
from hosts.agent.doctor.verdicts import SIMULATED, Read, failed, passed, skipped, warned
from hosts.agent.known_bad import Harm, KnownBad, known_bad
from hosts.agent.pci import DEVICES, GROUPS
from hosts.protocol.checkup import Check

BOOT_VGA = "boot_vga"
VFIO_DRIVER = "vfio-pci"
MIB = 1024**2
# What leaves a card's state mostly as it was.
_WEAK_RESETS = {"pm"}
_NOTHING_LEFT: dict[Harm, str] = {"own-only": "own-only", "reboot": "reboot"}


def _file(address: str, name: str, said: object) -> Read:
    return f"/{DEVICES}/{address}/{name}", said


def answers(grounds: Grounds) -> Check:
    silent = [function for function in grounds.functions if not function.is_alive]
    read = [_file(each.address, "config", each.config or "none") for each in silent or grounds.functions]
    if silent:
        told = ", ".join(function.address for function in silent)
        return failed("answers", "no", *read, subject=grounds.address, functions=told)
    return passed("answers", "yes", *read, subject=grounds.address)


def untouched(address: str, seen_in: str) -> Check:
    """Somebody has it: what reads a card that is being reset may never return."""
    return skipped("answers", "untouched", (seen_in, "in use"), subject=address)


def functions(grounds: Grounds) -> Check:
    code, subject = "functions", grounds.address
    if physical := grounds.physical_function:
        return passed(code, "slice", _file(subject, "physfn", physical), subject=subject, physical=physical)
    for function in grounds.functions:
        address = function.address
        if count := function.virtual_functions:
            read = _file(address, "sriov_numvfs", count)
            return warned(code, "sliced", read, subject=subject, function=address)
        if made := function.mediated:
            read = _file(address, "mdev_supported_types/*/devices", ", ".join(made))
            return warned(code, "mediated", read, subject=subject, function=address, device=made[0])
        if function.is_bridge:
            read = _file(address, "config", function.config or "a bridge's header")
            return failed(code, "bridge", read, subject=subject, function=address)
    told = ", ".join(f"{each.address} ({each.ids})" for each in grounds.functions)
    return passed(code, "whole", (f"/{DEVICES}", told), subject=subject, functions=told)


def iommu_group(grounds: Grounds, *, iommu_is_on: bool) -> Check:
    code, subject = "iommu-group", grounds.address
    numbers = ", ".join(str(group.number) for group in grounds.groups)
    read = _file(subject, "iommu_group", numbers or "absent")
    if not grounds.groups:
        return failed(code, "not-covered" if iommu_is_on else "off", read, subject=subject)
    if len(grounds.groups) > 1:
        return failed(code, "spread", read, subject=subject, groups=numbers)
    group = grounds.groups[0]
    if group.is_noiommu:
        named = (f"/{GROUPS}/{group.number}/name", "vfio-noiommu")
        return failed(code, "no-iommu", named, subject=subject, group=group.number)
    if group.others:
        return failed(
            code, "shared", _members(group), subject=subject, group=group.number, others=_told(group)
        )
    return passed(code, "alone", _members(group), subject=subject, group=group.number)


def _told(group: GroupFacts) -> str:
    return ", ".join(f"{each.address} ({each.kind})" for each in group.others)


def _members(group: GroupFacts) -> Read:
    return f"/{GROUPS}/{group.number}/devices", _told(group) or "the card alone"


def boot_display(grounds: Grounds, *, accepted_risks: Collection[str]) -> Check:
    code, subject = "boot-display", grounds.address
    read = _file(subject, "boot_vga", int(grounds.is_boot_display))
    if not grounds.is_boot_display:
        return passed(code, "no", read, subject=subject)
    if BOOT_VGA in accepted_risks:
        return warned(code, "accepted", read, subject=subject)
    return failed(code, "yes", read, subject=subject)


def above_4g(grounds: Grounds, *, address: str) -> Check:
    read = _file(grounds.address, "resource", ", ".join(grounds.bars) or "no memory BAR")
    if grounds.unassigned_bars:
        return failed("above-4g", "unassigned", read, subject=grounds.address)
    return passed("above-4g", "assigned", read, subject=grounds.address, address=address)


def reset(grounds: Grounds) -> Check:
    code, subject = "reset", grounds.address
    able = [function for function in grounds.functions if function.can_reset]
    if not able:
        read = [_file(each.address, "reset", "absent") for each in grounds.functions]
        verdict, outcome = (passed, "bridge") if grounds.has_bridge else (failed, "none")
        return verdict(code, outcome, *read, subject=subject)
    read = [_file(each.address, "reset_method", each.reset_methods or "absent") for each in able]
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
    read = [_file(each.address, "driver", each.driver or "none") for each in card.grounds.functions[:4]]
    read += [("/proc/*/fd", holder) for holder in card.holders[:4]]
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
        return skipped(code, "simulated", SIMULATED, subject=subject)
    ids = ",".join(dict.fromkeys(function.ids for function in card.grounds.functions))
    if card.claimed_by:
        return passed(code, "claimed", (card.claimed_by, ids), subject=subject, source=card.claimed_by)
    return warned(code, "not-claimed", ("/etc/modprobe.d", "no such line"), subject=subject, ids=ids)


def option_rom(card: CardFacts) -> Check:
    code, subject = "option-rom", card.grounds.address
    if card.simulated:
        return skipped(code, "simulated", SIMULATED, subject=subject)
    if not card.rom_bytes:
        return skipped(code, "absent", _file(subject, "rom", "absent"), subject=subject)
    if card.rom_is_shadow:
        read = _file(subject, "resource", f"{card.rom_bytes} bytes of ROM, a shadow copy")
        return warned(code, "shadow", read, subject=subject)
    read = _file(subject, "resource", f"{card.rom_bytes} bytes of ROM")
    return passed(code, "present", read, subject=subject, kib=card.rom_bytes // 1024)


def resizable_bar(card: CardFacts) -> Check:
    code, subject, window = "resizable-bar", card.grounds.address, card.window
    if card.simulated:
        return skipped(code, "simulated", SIMULATED, subject=subject)
    if window is None:
        return skipped(code, "fixed", _file(subject, "resource", "no memory BAR"), subject=subject, now=0)
    now, sizes = _file(subject, "resource", f"{window.size:#x}"), f"resource{window.index}_resize"
    facts = {"now": window.size // MIB, "most": window.most // MIB}
    if not window.resizable:
        return skipped(code, "fixed", now, _file(subject, sizes, "absent"), subject=subject, **facts)
    read = now, _file(subject, sizes, f"{window.most:#x} at most")
    if window.size < window.most:
        return warned(code, "small", *read, subject=subject, **facts)
    return passed(code, "full", *read, subject=subject, **facts)


def numa_node(card: CardFacts, *, nodes: int) -> Check:
    code, subject = "numa-node", card.grounds.address
    read = _file(subject, "numa_node", card.numa_node)
    if card.numa_node >= 0:
        return passed(code, "known", read, subject=subject, node=card.numa_node)
    if nodes > 1:
        return warned(code, "unknown", read, subject=subject, nodes=nodes)
    return skipped(code, "single", read, subject=subject)


def pcie_link(card: CardFacts) -> Check:
    code, subject = "pcie-link", card.grounds.address
    if card.simulated:
        return skipped(code, "simulated", SIMULATED, subject=subject)
    read = (
        _file(subject, "current_link_*", card.link if card.link.width else "unknown"),
        _file(subject, "max_link_*", card.best_link if card.best_link.width else "unknown"),
    )
    if not card.link.width or not card.best_link.width:
        return skipped(code, "unknown", *read, subject=subject)
    facts = {"now": card.link, "most": card.best_link}
    if card.link.width < card.best_link.width:
        return warned(code, "narrow", *read, subject=subject, **facts)
    if card.link.rate < card.best_link.rate:
        return warned(code, "slow", *read, subject=subject, **facts)
    return passed(code, "full", *read, subject=subject, **facts)


def d3cold(card: CardFacts) -> Check:
    code, subject = "d3cold", card.grounds.address
    if card.simulated:
        return skipped(code, "simulated", SIMULATED, subject=subject)
    read = (
        _file(subject, "power_state", card.power_state or "absent"),
        _file(subject, "d3cold_allowed", card.d3cold_allowed or "absent"),
    )
    if card.power_state in ("D3cold", "D3hot"):
        return warned(code, "asleep", *read, subject=subject, state=card.power_state, function=subject)
    return passed(code, "allowed" if card.d3cold_allowed == "1" else "kept-awake", *read, subject=subject)
