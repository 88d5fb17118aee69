"""All checks together: every verdict about a host, and those among them that forbid to lease a card."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import msgspec

from hosts.agent.doctor import card_checks, host_checks, platform_checks
from hosts.agent.doctor.facts import CardFacts, FilterFacts, Grounds, HostFacts, HypervisorFacts, Platform
from hosts.agent.doctor.host_reader import (
    read_clock,
    read_folder,
    read_home_pool,
    read_huge_pages,
    read_platform,
    read_processor,
    read_storage,
)
from hosts.agent.doctor.reader import Reader
from hosts.agent.doctor.verdicts import SIMULATED, skipped
from hosts.protocol.checkup import Check, CheckUp
from hosts.protocol.fields import MAX_MESSAGE_BYTES

# What a report puts around it is far smaller than the rest.
ROOM_BYTES = MAX_MESSAGE_BYTES - 4096
_WORST_FIRST = ("fail", "warn", "pass", "skip")


@dataclass(frozen=True)
class Surroundings:
    """What the examiner is told rather than reads; of the pool of home volumes name and directory."""

    simulated: bool
    domain_type: Literal["kvm", "qemu"]
    accepted_risks: frozenset[str]
    state_directory: Path
    images_directory: Path
    hypervisor: HypervisorFacts
    filter: FilterFacts | None = None
    home_pool: tuple[str, Path] | None = None


def examine(
    surroundings: Surroundings,
    cards: Collection[CardFacts],
    *,
    unseen: Mapping[str, Collection[Check]] = MappingProxyType({}),
    root: Path = Path("/"),
) -> CheckUp:
    """Read the host below `root` and judge it with its cards. Of those left `unseen`, by address, is said
    what is known."""
    host = read_host(surroundings, root)
    checks = [
        *_host_verdicts(host, len(cards) + len(unseen)),
        *(each for card in cards for each in _card_verdicts(host, card)),
        *chain.from_iterable(unseen.values()),
    ]
    return CheckUp(simulated=surroundings.simulated, checks=in_order(checks))


def read_host(surroundings: Surroundings, root: Path) -> HostFacts:
    reader = Reader(root)
    return HostFacts(
        simulated=surroundings.simulated,
        domain_type=surroundings.domain_type,
        accepted_risks=surroundings.accepted_risks,
        is_root=os.geteuid() == 0,
        platform=read_platform(reader),
        processor=read_processor(reader),
        huge_pages=read_huge_pages(reader),
        hypervisor=surroundings.hypervisor,
        filter=surroundings.filter,
        storage=read_storage(reader, surroundings.state_directory),
        images=read_folder(surroundings.images_directory),
        home_pool=read_home_pool(*surroundings.home_pool) if surroundings.home_pool else None,
        clock=read_clock(),
        denied=tuple(reader.denied),
    )


def blocking_verdicts(
    platform: Platform, grounds: Grounds, *, accepted_risks: Collection[str]
) -> Iterator[Check]:
    """Those that decide whether a card may be leased at all."""
    iommu_is_on = bool(platform.iommus)
    yield card_checks.iommu_group(grounds, iommu_is_on=iommu_is_on)
    if iommu_is_on:
        yield platform_checks.acs_override(platform, accepted_risks=accepted_risks)
        yield platform_checks.interrupt_remapping(platform)
    yield card_checks.boot_display(grounds, accepted_risks=accepted_risks)
    yield card_checks.functions(grounds)
    yield card_checks.reset(grounds)
    yield card_checks.above_4g(grounds, address="")
    yield platform_checks.lockdown(platform)


def in_order(checks: Iterable[Check]) -> tuple[Check, ...]:
    """The worst first; what concerns the host before its cards; else as examined."""
    return tuple(sorted(checks, key=lambda each: (_WORST_FIRST.index(each.verdict), each.subject)))


def fitting(check_up: CheckUp, *, room: int = ROOM_BYTES) -> CheckUp:
    """As much of it as fits into a message: the least of it is left out."""
    sizes = [len(msgspec.json.encode(check)) + 1 for check in check_up.checks]
    kept = 0
    while kept < len(sizes) and sum(sizes[: kept + 1]) <= room:
        kept += 1
    return CheckUp(simulated=check_up.simulated, checks=check_up.checks[:kept], left_out=len(sizes) - kept)


def _host_verdicts(host: HostFacts, cards: int) -> Iterator[Check]:
    yield host_checks.privileges(host)
    yield host_checks.cards(cards)
    yield host_checks.cpu_virtualisation(host.processor, domain_type=host.domain_type)
    yield from platform_verdicts(host)
    yield host_checks.huge_pages(host.huge_pages)
    yield host_checks.isolated_cpus(host.processor)
    yield host_checks.libvirt(host.hypervisor)
    yield host_checks.qemu(host.hypervisor)
    yield host_checks.nftables(host.filter)
    yield host_checks.dnsmasq(host.filter)
    yield host_checks.forwarding(host.filter)
    yield host_checks.storage(host.storage)
    yield host_checks.images(host.images)
    yield host_checks.home_pool(host.home_pool)
    yield host_checks.time_sync(host.clock)


def platform_verdicts(host: HostFacts) -> Iterator[Check]:
    """Whether kernel and board keep devices apart; of no matter where these are simulated."""
    platform = host.platform
    checks: dict[str, Callable[[], Check]] = {
        "iommu": lambda: platform_checks.iommu(platform, vendor=host.processor.vendor),
        "interrupt-remapping": lambda: platform_checks.interrupt_remapping(platform),
        "iommu-passthrough": lambda: platform_checks.iommu_passthrough(platform),
        "acs-override": lambda: platform_checks.acs_override(platform, accepted_risks=host.accepted_risks),
        "noiommu": lambda: platform_checks.noiommu(platform),
        "lockdown": lambda: platform_checks.lockdown(platform),
    }
    for code, check in checks.items():
        yield skipped(code, "simulated", SIMULATED) if host.simulated else check()


def _card_verdicts(host: HostFacts, card: CardFacts) -> Iterator[Check]:
    grounds = card.grounds
    yield card_checks.answers(grounds)
    yield card_checks.functions(grounds)
    yield card_checks.iommu_group(grounds, iommu_is_on=card.simulated or bool(host.platform.iommus))
    yield card_checks.boot_display(grounds, accepted_risks=host.accepted_risks)
    yield card_checks.host_driver(card)
    yield card_checks.vfio_at_boot(card)
    yield card_checks.option_rom(card)
    yield card_checks.above_4g(grounds, address=f"{card.window.address:#x}" if card.window else "–")
    yield card_checks.resizable_bar(card)
    yield card_checks.numa_node(card, nodes=host.processor.numa_nodes)
    yield card_checks.pcie_link(card)
    yield card_checks.reset(grounds)
    yield card_checks.d3cold(card)
