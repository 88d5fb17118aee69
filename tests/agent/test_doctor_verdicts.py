"""Every verdict of `doctor` from plain facts: what fails, what only warns, and how each is put in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from hosts.agent.doctor import card_checks, host_checks, platform_checks
from hosts.agent.doctor.examination import blocking_verdicts, fitting, in_order, platform_verdicts
from hosts.agent.doctor.facts import (
    CardFacts,
    Clock,
    FilterFacts,
    FolderFacts,
    FunctionFacts,
    Grounds,
    GroupFacts,
    HomePoolFacts,
    HostFacts,
    HugePages,
    HypervisorFacts,
    Link,
    Neighbour,
    Platform,
    Processor,
    Storage,
    Window,
)
from hosts.agent.doctor.verdicts import VALUE_AT_MOST, failed, passed, skipped, warned
from hosts.protocol.checkup import Check, CheckUp
from hosts.protocol.findings import DRIFT_TOPICS, TOPICS, put_in_words

GPU, AUDIO = "0000:41:00.0", "0000:41:00.1"
GIB = 1024**3
READ = ("/a/file", "says so")
FAST = Link(16, "16.0 GT/s PCIe")
INTEL = Platform(cmdline="quiet intel_iommu=on iommu=pt", iommus=("dmar0",), ecaps=("f00f5e",))
AMD = Platform(cmdline="quiet", iommus=("ivhd0",), ecaps=("",))
BARE = Platform(cmdline="quiet")
PROCESSOR = Processor("GenuineIntel", "vmx", has_kvm=True, numa_nodes=2)
GROUNDS = Grounds(
    functions=(
        FunctionFacts(GPU, ids="10de:2230", driver="vfio-pci", reset_methods="flr bus"),
        FunctionFacts(AUDIO, ids="10de:1aef", driver="vfio-pci", can_reset=False),
    ),
    groups=(GroupFacts(20),),
)
CARD = CardFacts(
    grounds=GROUNDS,
    claimed_by="/etc/modprobe.d/vfio.conf",
    window=Window(0, address=0x38_0000_0000, size=48 * GIB, most=48 * GIB, resizable=True),
    rom_bytes=512 * 1024,
    numa_node=1,
    link=FAST,
    best_link=FAST,
    power_state="D0",
    d3cold_allowed="0",
)
HYPERVISOR = HypervisorFacts("qemu:///system", libvirt=(9, 0, 0), qemu=(7, 2, 22))
FILTER = FilterFacts(nft="nftables v1.0.6", dnsmasq="/usr/sbin/dnsmasq")
POOL = HomePoolFacts("studio", "/srv/leasehold-homes", mark="studio")
IMAGES = FolderFacts("/srv/images", "/srv/images")
STORAGE = Storage("/var/lib/leasehold", "ext4", total=1000 * GIB, free=800 * GIB)
HOST = HostFacts(
    simulated=False,
    domain_type="kvm",
    accepted_risks=frozenset(),
    is_root=True,
    denied=(),
    platform=INTEL,
    processor=PROCESSOR,
    huge_pages=(),
    hypervisor=HYPERVISOR,
    filter=FILTER,
    storage=STORAGE,
    images=IMAGES,
    home_pool=POOL,
    clock=Clock(synchronised=True, error_us=1200),
)


def with_first(**changes: Any) -> Grounds:
    return replace(GROUNDS, functions=(replace(GROUNDS.functions[0], **changes), GROUNDS.functions[1]))


def with_drivers(driver: str, **changes: Any) -> CardFacts:
    functions = tuple(replace(function, driver=driver) for function in GROUNDS.functions)
    return replace(CARD, grounds=replace(GROUNDS, functions=functions), **changes)


def hypervisor(**changes: Any) -> HypervisorFacts:
    return replace(HYPERVISOR, **changes)


def platform(**changes: Any) -> Platform:
    return replace(INTEL, **changes)


def shared() -> Grounds:
    neighbour = Neighbour("0000:00:05.0", "NVMe controller")
    return replace(GROUNDS, groups=(GroupFacts(20, others=(neighbour,)),))


def host_cases() -> Iterator[tuple[str, Check]]:
    yield "pass root", host_checks.privileges(HOST)
    yield "warn not-root", host_checks.privileges(replace(HOST, is_root=False, denied=("/proc/cmdline",)))
    yield "pass found", host_checks.cards(2)
    yield "fail none", host_checks.cards(0)
    processor = host_checks.cpu_virtualisation
    yield "pass on", processor(PROCESSOR, domain_type="kvm")
    yield "fail off", processor(replace(PROCESSOR, virtualisation=""), domain_type="kvm")
    yield "fail no-kvm", processor(replace(PROCESSOR, has_kvm=False), domain_type="kvm")
    yield "skip not-used", processor(replace(PROCESSOR, virtualisation=""), domain_type="qemu")
    yield "pass none", host_checks.huge_pages(())
    yield "pass reserved", host_checks.huge_pages((HugePages(1048576, 64),))
    yield "pass none", host_checks.isolated_cpus(PROCESSOR)
    yield "pass some", host_checks.isolated_cpus(replace(PROCESSOR, isolated="4-31"))
    yield "pass ok", host_checks.libvirt(HYPERVISOR)
    yield "fail old", host_checks.libvirt(hypervisor(libvirt=(8, 6, 9)))
    yield "pass ok", host_checks.libvirt(hypervisor(libvirt=(8, 7, 0)))
    yield "fail away", host_checks.libvirt(HypervisorFacts("qemu:///system", error="no socket"))
    silent = hypervisor(unanswered=("Cannot start lease-1: no answer within 900 s.",))
    yield "warn unanswered", host_checks.libvirt(silent)
    yield "pass ok", host_checks.qemu(HYPERVISOR)
    yield "warn old", host_checks.qemu(hypervisor(qemu=(7, 1, 9)))
    yield "skip unknown", host_checks.qemu(hypervisor(libvirt=None, qemu=None))
    for check in (host_checks.nftables, host_checks.dnsmasq, host_checks.forwarding):
        yield "skip not-used", check(None)
        yield "pass ok", check(FILTER)
    yield "fail away", host_checks.nftables(FilterFacts(error="No such file or directory: 'nft'"))
    yield "skip unknown", host_checks.forwarding(FilterFacts(error="No such file or directory: 'nft'"))
    yield "fail away", host_checks.dnsmasq(replace(FILTER, dnsmasq=""))
    yield "warn dropped", host_checks.forwarding(replace(FILTER, dropping=("ip filter FORWARD",)))
    yield "pass ok", host_checks.storage(STORAGE)
    yield "warn tight", host_checks.storage(replace(STORAGE, free=99 * GIB))
    yield "warn tight", host_checks.storage(replace(STORAGE, total=100 * GIB, free=19 * GIB))
    yield "fail full", host_checks.storage(replace(STORAGE, free=GIB))
    yield "fail in-memory", host_checks.storage(replace(STORAGE, kind="tmpfs"))
    yield "warn network", host_checks.storage(replace(STORAGE, kind="nfs4"))
    images = host_checks.images
    yield "pass ok", images(IMAGES)
    yield "pass to-be-made", images(replace(IMAGES, there="/srv"))
    yield "fail read-only", images(replace(IMAGES, read_only=True, writable=False))
    yield "fail not-writable", images(replace(IMAGES, there="/srv", writable=False))
    pool = host_checks.home_pool
    yield "pass ok", pool(POOL)
    yield "skip not-used", pool(None)
    yield "fail absent", pool(replace(POOL, mark="", error="No such file or directory"))
    yield "fail unmarked", pool(replace(POOL, mark="", mark_error="No such file or directory"))
    yield "fail other", pool(replace(POOL, mark="archive"))
    yield "fail read-only", pool(replace(POOL, read_only=True, writable=False))
    yield "fail not-writable", pool(replace(POOL, writable=False))
    yield "pass ok", host_checks.time_sync(HOST.clock)
    yield "warn off", host_checks.time_sync(Clock(synchronised=False, error_us=16_000_000))
    yield "warn unknown", host_checks.time_sync(Clock(synchronised=None))


def platform_cases() -> Iterator[tuple[str, Check]]:
    iommu = platform_checks.iommu
    yield "pass on", iommu(INTEL, vendor="GenuineIntel")
    yield "pass on", iommu(AMD, vendor="AuthenticAMD")
    yield "fail off-intel", iommu(BARE, vendor="GenuineIntel")
    yield "fail off-amd", iommu(BARE, vendor="AuthenticAMD")
    yield "fail off", iommu(BARE, vendor="")
    remapping = platform_checks.interrupt_remapping
    yield "pass on", remapping(INTEL)
    yield "pass on", remapping(AMD)
    yield "fail off", remapping(platform(ecaps=("f00f57",)))
    yield "fail off", remapping(platform(iommus=("dmar0", "dmar1"), ecaps=("f00f5e", "f00f57")))
    yield "fail unsafe", remapping(platform(unsafe_interrupts="Y"))
    for words in ("intremap=off", "intremap=nosid,off", "intremap=on nointremap", "noapic intremap=on"):
        yield "fail off", remapping(platform(cmdline=f"quiet intel_iommu=on {words}"))
        yield "fail off", remapping(replace(AMD, cmdline=f"quiet {words}"))
    for words in (
        "intremap=on",
        "intremap=off intremap=on",
        "nointremap intremap=on",
        "intremap=no_x2apic_optout",
    ):
        yield "pass on", remapping(platform(cmdline=words))
    yield "skip no-iommu", remapping(BARE)
    yield "pass on", platform_checks.iommu_passthrough(INTEL)
    yield "pass on", platform_checks.iommu_passthrough(platform(cmdline="iommu.passthrough=1"))
    yield "warn off", platform_checks.iommu_passthrough(BARE)
    override = platform(cmdline="quiet pcie_acs_override=downstream,multifunction")
    yield "pass absent", platform_checks.acs_override(INTEL, accepted_risks=())
    yield "fail present", platform_checks.acs_override(override, accepted_risks=["boot_vga"])
    yield "warn accepted", platform_checks.acs_override(override, accepted_risks=["pcie_acs_override"])
    yield "pass off", platform_checks.noiommu(INTEL)
    yield "fail on", platform_checks.noiommu(platform(noiommu_mode="Y"))
    yield "pass off", platform_checks.lockdown(INTEL)
    yield "pass off", platform_checks.lockdown(platform(lockdown="[none] integrity confidentiality"))
    yield "fail on", platform_checks.lockdown(platform(lockdown="none [integrity] confidentiality"))
    for check in platform_verdicts(replace(HOST, simulated=True)):
        yield "skip simulated", check


def ground_cases() -> Iterator[tuple[str, Check]]:
    yield "pass yes", card_checks.answers(GROUNDS)
    yield "fail no", card_checks.answers(with_first(is_alive=False))
    yield "skip untouched", card_checks.untouched(GPU, "libvirt")
    yield "pass whole", card_checks.functions(GROUNDS)
    yield "pass slice", card_checks.functions(replace(GROUNDS, physical_function="0000:41:00.7"))
    yield "warn sliced", card_checks.functions(with_first(virtual_functions=4))
    yield "warn mediated", card_checks.functions(with_first(mediated=("83b8f4f2",)))
    yield "fail bridge", card_checks.functions(with_first(is_bridge=True))
    group = card_checks.iommu_group
    yield "pass alone", group(GROUNDS, iommu_is_on=True)
    yield "fail off", group(replace(GROUNDS, groups=()), iommu_is_on=False)
    yield "fail not-covered", group(replace(GROUNDS, groups=()), iommu_is_on=True)
    yield "fail spread", group(replace(GROUNDS, groups=(GroupFacts(20), GroupFacts(21))), iommu_is_on=True)
    yield "fail shared", group(shared(), iommu_is_on=True)
    yield "fail no-iommu", group(replace(GROUNDS, groups=(GroupFacts(0, is_noiommu=True),)), iommu_is_on=True)
    display = replace(GROUNDS, is_boot_display=True)
    yield "pass no", card_checks.boot_display(GROUNDS, accepted_risks=())
    yield "fail yes", card_checks.boot_display(display, accepted_risks=["pcie_acs_override"])
    yield "warn accepted", card_checks.boot_display(display, accepted_risks=["boot_vga"])
    yield "pass assigned", card_checks.above_4g(GROUNDS, address="0x3800000000")
    yield "fail unassigned", card_checks.above_4g(replace(GROUNDS, unassigned_bars=True), address="–")
    yield "pass offered", card_checks.reset(GROUNDS)
    yield "pass offered", card_checks.reset(with_first(reset_methods="pm"))
    yield "warn weak", card_checks.reset(replace(with_first(reset_methods="pm"), has_bridge=False))
    yield "pass bridge", card_checks.reset(with_first(can_reset=False))
    yield "fail harmful", card_checks.reset(with_first(ids="1002:7550", reset_methods="bus"))
    yield "pass offered", card_checks.reset(with_first(ids="1002:7550", reset_methods="flr bus"))
    yield "fail own-only", card_checks.reset(with_first(ids="1002:67df", reset_methods="bus"))
    yield "pass offered", card_checks.reset(with_first(ids="1002:67df", reset_methods="device_specific"))
    yield "fail reboot", card_checks.reset(with_first(ids="1002:74a1", reset_methods="flr bus"))
    yield "fail none", card_checks.reset(replace(with_first(can_reset=False), has_bridge=False))


def card_cases() -> Iterator[tuple[str, Check]]:
    yield "pass vfio", card_checks.host_driver(CARD)
    yield "pass in-machine", card_checks.host_driver(replace(CARD, holders=("qemu (1)",)))
    yield "pass none", card_checks.host_driver(with_drivers(""))
    yield "warn idle", card_checks.host_driver(with_drivers("nouveau"))
    yield "fail held", card_checks.host_driver(with_drivers("nvidia", holders=("nvidia-persist (812)",)))
    yield "pass claimed", card_checks.vfio_at_boot(CARD)
    yield "warn not-claimed", card_checks.vfio_at_boot(replace(CARD, claimed_by=""))
    yield "pass present", card_checks.option_rom(CARD)
    yield "skip absent", card_checks.option_rom(replace(CARD, rom_bytes=0))
    yield "warn shadow", card_checks.option_rom(replace(CARD, rom_is_shadow=True))
    window = Window(1, address=0xE000_0000, size=GIB // 4, most=48 * GIB, resizable=True)
    yield "pass full", card_checks.resizable_bar(CARD)
    yield "warn small", card_checks.resizable_bar(replace(CARD, window=window))
    yield "skip fixed", card_checks.resizable_bar(replace(CARD, window=replace(window, resizable=False)))
    yield "skip fixed", card_checks.resizable_bar(replace(CARD, window=None))
    yield "pass known", card_checks.numa_node(CARD, nodes=2)
    yield "warn unknown", card_checks.numa_node(replace(CARD, numa_node=-1), nodes=2)
    yield "skip single", card_checks.numa_node(replace(CARD, numa_node=-1), nodes=1)
    yield "pass full", card_checks.pcie_link(CARD)
    yield "warn narrow", card_checks.pcie_link(replace(CARD, link=Link(4, "16.0 GT/s PCIe")))
    yield "warn slow", card_checks.pcie_link(replace(CARD, link=Link(16, "2.5 GT/s PCIe")))
    yield "skip unknown", card_checks.pcie_link(replace(CARD, link=Link(0, "Unknown")))
    yield "pass kept-awake", card_checks.d3cold(CARD)
    yield "pass allowed", card_checks.d3cold(replace(CARD, d3cold_allowed="1"))
    yield "warn asleep", card_checks.d3cold(replace(CARD, power_state="D3cold"))
    simulated = replace(CARD, simulated=True)
    for check in (
        card_checks.vfio_at_boot,
        card_checks.option_rom,
        card_checks.resizable_bar,
        card_checks.pcie_link,
        card_checks.d3cold,
    ):
        yield "skip simulated", check(simulated)


CASES = [*host_cases(), *platform_cases(), *ground_cases(), *card_cases()]


@pytest.mark.parametrize(
    ("expected", "check"), CASES, ids=lambda each: each if isinstance(each, str) else each.code
)
def test_a_verdict_follows_from_the_facts(expected: str, check: Check) -> None:
    assert f"{check.verdict} {check.outcome}" == expected


@pytest.mark.parametrize(
    "check", [check for _, check in CASES], ids=lambda each: f"{each.code}-{each.outcome}"
)
def test_a_verdict_can_be_put_in_words(check: Check) -> None:
    words = put_in_words(check, TOPICS)
    assert words.why
    for text in (words.finding, words.change, words.lines):
        assert "?" not in text
        assert "%(" not in text
    assert words.change or check.verdict not in ("warn", "fail")


@pytest.mark.parametrize(
    "check", [check for _, check in CASES], ids=lambda each: f"{each.code}-{each.outcome}"
)
def test_a_verdict_says_what_was_read(check: Check) -> None:
    assert check.read
    for each in check.read:
        assert each.source
        assert each.value not in ("", "None")


def test_every_outcome_in_the_book_is_one_that_a_check_can_have() -> None:
    doctors = {code: topic for code, topic in TOPICS.items() if code not in DRIFT_TOPICS}
    written = {(code, outcome) for code, topic in doctors.items() for outcome in topic.outcomes}
    seen = {(check.code, check.outcome) for _, check in CASES}
    assert seen == written


def test_the_words_of_every_outcome_name_facts_that_exist() -> None:
    for _, check in CASES:
        outcome = TOPICS[check.code].outcomes[check.outcome]
        named = set(re.findall(r"%\((\w+)\)", outcome.finding + outcome.change + outcome.lines))
        assert named <= set(check.facts), (check.code, check.outcome)


def test_what_a_newer_host_found_keeps_its_codes() -> None:
    strange = warned("flux", "leaking", READ, subject=GPU, amount=3)
    words = put_in_words(strange, TOPICS)
    assert (words.title, words.finding, words.change) == ("flux", "leaking (amount: 3)", "")
    assert put_in_words(skipped("iommu", "levitating", READ), TOPICS).finding == "levitating"


def test_words_can_be_those_of_another_language() -> None:
    words = put_in_words(host_checks.cards(3), TOPICS, translate=lambda text: f"» {text}")
    assert words.finding == "» 3 display-class cards are on the bus."


def test_a_fact_that_was_not_told_is_a_question_mark() -> None:
    assert "?" in put_in_words(passed("cards", "found", READ), TOPICS).finding


def test_values_are_cut_to_what_a_message_carries() -> None:
    check = failed("iommu", "off", ("/proc/cmdline", "x" * 5000), note="y" * 5000)
    assert {len(check.facts["note"]), len(check.read[0].value)} == {VALUE_AT_MOST}


def test_the_worst_comes_first() -> None:
    ordered = in_order(
        [
            passed("a", "x", READ),
            skipped("b", "x", READ),
            failed("c", "x", READ, subject=GPU),
            warned("d", "x", READ),
            failed("e", "x", READ),
        ]
    )
    assert [check.code for check in ordered] == ["e", "c", "d", "a", "b"]


def test_what_does_not_fit_is_the_least_of_it_and_is_counted() -> None:
    checks = in_order([passed("a", "x", ("source", "z" * 400))] * 300 + [failed("b", "x", READ)])
    kept = fitting(CheckUp(simulated=False, checks=checks))
    assert kept.checks[0].code == "b"
    assert 100 < len(kept.checks) < 301
    assert kept.left_out == 301 - len(kept.checks)
    assert fitting(CheckUp(simulated=False, checks=checks[:3])).left_out == 0


BLOCKED = {
    "shared": (INTEL, shared()),
    "no-iommu": (BARE, replace(GROUNDS, groups=())),
    "override": (platform(cmdline="pcie_acs_override=downstream"), GROUNDS),
    "interrupts": (platform(ecaps=("f00f57",)), GROUNDS),
    "lockdown": (platform(lockdown="none [integrity]"), GROUNDS),
    "display": (INTEL, replace(GROUNDS, is_boot_display=True)),
    "bridge": (INTEL, with_first(is_bridge=True)),
    "memory": (INTEL, replace(GROUNDS, unassigned_bars=True)),
    "reset": (INTEL, replace(with_first(can_reset=False), has_bridge=False)),
}


@pytest.mark.parametrize(("around", "grounds"), BLOCKED.values(), ids=BLOCKED)
def test_one_ground_is_enough_to_forbid_a_lease(around: Platform, grounds: Grounds) -> None:
    verdicts = [check.verdict for check in blocking_verdicts(around, grounds, accepted_risks=())]
    assert verdicts.count("fail") == 1


def test_a_card_in_order_is_blocked_by_nothing() -> None:
    for around in (INTEL, AMD):
        verdicts = {check.verdict for check in blocking_verdicts(around, GROUNDS, accepted_risks=())}
        assert verdicts == {"pass"}
