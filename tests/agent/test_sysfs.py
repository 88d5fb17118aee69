"""Cards found, refused, bound and reset through `/sys`, on files; the lab has a real kernel."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from lxml import etree

from hosts.agent import children
from hosts.agent.bus import BusError, Card, CardBusy, CardMissing, ResetFailed, Unasked, Wedged
from hosts.agent.pci import PciTree
from hosts.agent.reset import climb
from hosts.agent.slicing_bus import SlicingBus
from hosts.agent.stuck import ChildStuckError
from hosts.protocol.messages import CardDetails
from tests.agent.fake_sysfs import (
    PREFETCHABLE_MEMORY,
    SERIAL,
    UNASSIGNED,
    FakeHost,
    FakeKernel,
    config_space,
    gone,
    plain_host,
)

GPU, AUDIO, PORT = "0000:01:00.0", "0000:01:00.1", "0000:00:01.0"
NVIDIA = "0000:03:00.0"
Plain = tuple[FakeHost, FakeKernel, SlicingBus]


@pytest.fixture
def plain(tmp_path: Path) -> Plain:
    return plain_host(tmp_path / "root")


def no_clock() -> float:
    return 0.0


def test_a_card_has_every_function_of_its_slot(plain: Plain) -> None:
    card = plain[2].card(GPU)
    assert card.functions == (GPU, AUDIO)
    assert (card.iommu_group, card.numa_node, card.memory_bytes) == (7, 1, 1 << 20)
    assert card.name == "PCI device 1234:1111"
    assert card.refusal == ""
    assert [found.address for found in plain[2].cards()] == [GPU]


PCI_IDS = """
# Syntax:
1111  No
\t1111  no
1234  Technical Corp.
\t1110  Other
\t\t1af4 1100  Wrong board
\t1111  QEMU VGA
\t\t1af4 1100  Virtual board
1af4  Red Hat
"""


def test_names_come_from_pci_ids(plain: Plain) -> None:
    host, _, bus = plain
    host.write("usr/share/misc/pci.ids", PCI_IDS)
    card = bus.card(GPU)
    assert (card.name, card.details.board) == ("Technical Corp. QEMU VGA", "Virtual board")


def test_what_pci_ids_does_not_name_has_a_number(plain: Plain) -> None:
    host, _, bus = plain
    host.write("usr/share/misc/pci.ids", "1234  Technical Corp.\n\t2222  Other")
    card = bus.card(GPU)
    assert (card.name, card.details.board) == ("Technical Corp. device 1111", "")


def test_a_database_that_is_replaced_is_read_again(plain: Plain) -> None:
    host, _, bus = plain
    names = set()
    for number, name in enumerate(("QEMU VGA", "QEMU VGA, renamed")):
        host.write("usr/share/misc/pci.ids", f"1234  Technical Corp.\n\t1111  {name}")
        os.utime(host.root / "usr/share/misc/pci.ids", ns=(number, number))
        names.add(bus.card(GPU).name)
    assert names == {"Technical Corp. QEMU VGA", "Technical Corp. QEMU VGA, renamed"}


def test_details_say_what_the_files_tell(plain: Plain) -> None:
    host, _, bus = plain
    for name, text in (
        ("max_link_width", "16"),
        ("max_link_speed", "16.0 GT/s PCIe"),
        ("local_cpulist", "0-15"),
        ("vbios_version", "113-D1234"),
        ("unique_id", "8c6a"),
    ):
        (host.path(GPU) / name).write_text(f"{text}\n")
    (host.path(GPU) / "driver/module").mkdir()
    (host.path(GPU) / "driver/module/version").write_text("6.7.0\n")
    told = bus.card(GPU).details
    assert told == CardDetails(
        vbios="113-D1234",
        serial="8c6a",
        driver="bochs-drm",
        driver_version="6.7.0",
        link="x16 at 16.0 GT/s",
        path=(PORT,),
        cpus="0-15",
    )


def test_the_vendors_driver_is_asked_and_its_question_marks_are_not_taken_for_answers(plain: Plain) -> None:
    host, _, bus = plain
    file = f"proc/driver/nvidia/gpus/{GPU}/information"
    host.write(file, "Model: \t\t A6000\nGPU UUID: \t GPU-1234\nVideo BIOS: \t ??.??.??.??.??")
    told = bus.card(GPU).details
    assert (told.serial, told.vbios) == ("GPU-1234", "")


def test_a_look_at_a_card_asks_it_little(plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who keeps watch looks each second, and each question goes to another process."""
    _, _, bus = plain
    bus.cards()
    asked: list[str] = []
    ask = children.read_in_child

    def counted(path: Path, size: int) -> bytes:
        asked.append(f"{path.parent.name}/{path.name}")
        return ask(path, size)

    monkeypatch.setattr("hosts.agent.pci.read_in_child", counted)
    bus.cards()
    assert sorted(asked) == [f"{GPU}/config"] * 2 + [f"{AUDIO}/config"]


def test_other_pci_domains_are_read(plain: Plain) -> None:
    host, _, bus = plain
    host.function("0001:02:00.0", group=9, bridge=PORT)
    assert bus.card("0001:02:00.0").functions == ("0001:02:00.0",)


def test_a_fingerprint_has_ids_serial_revision_and_rom(plain: Plain) -> None:
    host, _, bus = plain
    before = bus.fingerprint(bus.card(GPU))
    assert (before.vendor_device, before.subsystem) == ("1234:1111", "1af4:1100")
    assert (before.serial, before.firmware) == (SERIAL, "revision 02")
    (host.path(GPU) / "rom").write_text("another ROM")
    after = bus.fingerprint(bus.card(GPU))
    assert before.rom_sha256 != after.rom_sha256
    assert len(after.rom_sha256) == 64


def test_the_rom_of_a_card_in_use_is_left_alone(plain: Plain) -> None:
    host, kernel, bus = plain
    open_by(host, "/dev/vfio/7", name="qemu")
    assert bus.card(GPU).fingerprint.rom_sha256 == ""
    assert not any(path.endswith("/rom") for path, _ in kernel.writes)


def test_a_resizable_bar_counts_with_its_largest_size(plain: Plain) -> None:
    host, _, bus = plain
    (host.path(GPU) / "resource0_resize").write_text("0000000000000f00\n")
    assert bus.card(GPU).memory_bytes == 2 << 30


Change = Callable[[FakeHost], object]
REFUSALS: dict[str, tuple[Change, str]] = {
    "shared": (
        lambda host: host.function("0000:00:05.0", kind="0x010802", group=7, driver="nvme"),
        "Shares IOMMU group 7 with 0000:00:05.0 (NVMe controller): they could reach each other's memory.",
    ),
    "spread": (
        lambda host: host.function("0000:01:00.2", kind="0x0c0330", group=8, bridge=PORT),
        "Its functions are spread over the IOMMU groups 7, 8.",
    ),
    "no-iommu": (
        lambda host: (host.root / "sys/kernel/iommu_groups/7").joinpath("name").write_text("vfio-noiommu\n"),
        "IOMMU group 7 is a no-IOMMU group, which isolates nothing.",
    ),
    "iommu-off": (
        lambda host: switch_iommu_off(host),
        "The IOMMU is off: enable VT-d or AMD-Vi in the firmware, and intel_iommu=on for Intel.",
    ),
    "not-covered": (lambda host: unlink_groups(host), "It has no IOMMU group"),
    "acs-override": (
        lambda host: host.write("proc/cmdline", "quiet pcie_acs_override=downstream"),
        "The kernel runs with pcie_acs_override: devices may reach each other past the IOMMU.",
    ),
    "interrupts": (
        lambda host: host.write("sys/class/iommu/dmar0/intel-iommu/ecap", "f00f57"),
        "The IOMMU does not remap interrupts",
    ),
    "boot-vga": (
        lambda host: (host.path(GPU) / "boot_vga").write_text("1\n"),
        "It is the host's boot display.",
    ),
    "has-virtual": (
        lambda host: (host.path(GPU) / "sriov_numvfs").write_text("2\n"),
        "Its virtual functions are switched on.",
    ),
    "mediated": (
        lambda host: (host.path(GPU) / "mdev_supported_types/nvidia-35/devices/83b8f4f2").mkdir(parents=True),
        "It is divided into 1 slice.",
    ),
    "no-address": (
        lambda host: (host.path(GPU) / "resource").write_text(
            f"0x0 0xfffff {PREFETCHABLE_MEMORY | UNASSIGNED:#x}"
        ),
        "Its memory has no address: enable Above 4G Decoding in the firmware.",
    ),
    "lockdown": (
        lambda host: host.write("sys/kernel/security/lockdown", "none [integrity] confidentiality"),
        "Kernel lockdown (integrity) forbids the host to map the card's memory.",
    ),
}


def unlink_groups(host: FakeHost) -> None:
    for address in (GPU, AUDIO):
        (host.path(address) / "iommu_group").unlink()


def switch_iommu_off(host: FakeHost) -> None:
    unlink_groups(host)
    (host.root / "sys/class/iommu/dmar0").rmdir()


@pytest.mark.parametrize(("change", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_refused(plain: Plain, change: Change, reason: str) -> None:
    host, kernel, bus = plain
    change(host)
    card = bus.card(GPU)
    assert reason in card.refusal
    with pytest.raises(BusError, match="may not be leased"):
        bus.bind(card)
    assert not kernel.done


def test_a_display_on_the_root_bus_without_reset_is_refused(plain: Plain) -> None:
    host, _, bus = plain
    host.function("0000:00:02.0", kind="0x030000", group=3)
    (host.path("0000:00:02.0") / "reset").unlink()
    assert "It offers no way to be reset." in bus.card("0000:00:02.0").refusal


def test_bridges_in_the_group_are_ignored(plain: Plain) -> None:
    host, _, bus = plain
    host.bridge("0000:00:02.0", group=7)
    bus.bind(bus.card(GPU))
    assert bus.is_bound(bus.card(GPU))


@pytest.mark.parametrize("risk", ["pcie_acs_override", "boot_vga"])
def test_an_administrator_may_accept_a_risk_by_name(plain: Plain, risk: str) -> None:
    host, kernel, _ = plain
    host.write("proc/cmdline", "pcie_acs_override=downstream" if risk == "pcie_acs_override" else "")
    (host.path(GPU) / "boot_vga").write_text(str(int(risk == "boot_vga")))
    assert SlicingBus(host.root, kernel=kernel).card(GPU).refusal
    assert SlicingBus(host.root, kernel=kernel, accepted_risks=[risk]).card(GPU).refusal == ""


def open_by(host: FakeHost, node: str, *, name: str, pid: int = 812) -> None:
    """A process has the device node open."""
    descriptors = host.root / f"proc/{pid}/fd"
    descriptors.mkdir(parents=True)
    (descriptors / "3").symlink_to(node)
    host.write(f"proc/{pid}/comm", name)


def test_a_card_that_the_host_uses_is_not_unbound(plain: Plain) -> None:
    host, kernel, bus = plain
    (host.path(GPU) / "drm/card1").mkdir(parents=True)
    open_by(host, "/dev/dri/card1", name="Xwayland")
    with pytest.raises(CardBusy, match=r"Xwayland \(812\)"):
        bus.bind(bus.card(GPU))
    assert not kernel.done


def test_other_open_devices_do_not_count(plain: Plain) -> None:
    host, _, bus = plain
    open_by(host, "/dev/dri/card0", name="Xwayland")
    assert bus.holders(bus.card(GPU)) == ()


def test_nvidias_nodes_count_while_its_driver_is_bound(plain: Plain) -> None:
    host, _, bus = plain
    host.function("0000:02:00.0", group=8, bridge=PORT, driver="nvidia", vendor=0x10DE)
    open_by(host, "/dev/nvidiactl", name="nvidia-persistenced")
    assert bus.holders(bus.card("0000:02:00.0")) == ("nvidia-persistenced (812)",)


def test_every_override_is_written_before_the_first_unbind(plain: Plain) -> None:
    _, kernel, bus = plain
    bus.bind(bus.card(GPU))
    names = [path.rpartition("/")[2] for path, _ in kernel.writes]
    moves = [name for name in names if name in ("driver_override", "unbind", "bind")]
    assert moves == ["driver_override", "driver_override", "unbind", "unbind", "bind", "bind"]


def power_of(host: FakeHost) -> list[str]:
    return [
        (host.path(function) / name).read_text().strip()
        for function in (GPU, AUDIO)
        for name in ("d3cold_allowed", "power/control")
    ]


def test_no_function_of_a_bound_card_sleeps(plain: Plain) -> None:
    host, _, bus = plain
    bus.bind(bus.card(GPU))
    assert power_of(host) == ["0", "on", "0", "on"]


def test_a_card_that_vfio_had_from_boot_is_kept_awake_too(plain: Plain) -> None:
    host, kernel, bus = plain
    bus.bind(card := bus.card(GPU))
    (host.path(AUDIO) / "power/control").write_text("auto\n")
    assert not bus.is_bound(card)
    kernel.writes.clear()
    bus.bind(card)
    assert power_of(host) == ["0", "on", "0", "on"]
    assert [path.rpartition("/")[2] for path, _ in kernel.writes if "power" in path] == ["control"]
    assert kernel.done["bind"] == 2, "nothing was bound again"


def test_a_card_in_use_is_kept_awake_without_being_moved(plain: Plain) -> None:
    host, _, bus = plain
    bus.bind(card := bus.card(GPU))
    open_by(host, "/dev/vfio/7", name="qemu")
    (host.path(GPU) / "d3cold_allowed").write_text("1\n")
    bus.bind(card)
    assert power_of(host) == ["0", "on", "0", "on"]


def test_the_driver_is_loaded_when_it_is_absent(plain: Plain) -> None:
    host, _, bus = plain
    (host.root / "sys/bus/pci/drivers/vfio-pci").rmdir()
    bus.bind(bus.card(GPU))
    assert bus.is_bound(bus.card(GPU))


def test_a_group_that_is_not_viable_is_not_bound(plain: Plain) -> None:
    host, _, bus = plain
    card = bus.card(GPU)
    bus.bind(card)
    host.function("0000:00:05.0", kind="0x010802", group=7, driver="nvme")
    assert not bus.is_bound(card)


def test_a_bind_that_changed_nothing_is_an_error(plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    _, kernel, bus = plain
    monkeypatch.setattr(kernel, "_on_bind", lambda path, text: None)
    with pytest.raises(BusError, match=f"{GPU} on no driver"):
        bus.bind(bus.card(GPU))


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (OSError(errno.EIO, "Input/output error"), BusError, "Input/output error"),
        (TimeoutError("no answer within 30 s"), BusError, "no answer within 30 s"),
        (ChildStuckError("process 9 cannot be killed"), Wedged, f"hangs on {GPU}"),
    ],
)
def test_a_failing_bind_names_the_card(
    plain: Plain, failure: Exception, kind: type[BusError], words: str
) -> None:
    _, kernel, bus = plain
    kernel.failures["unbind"] = [failure]
    with pytest.raises(kind, match=words) as caught:
        bus.bind(bus.card(GPU))
    assert GPU in str(caught.value)
    assert type(caught.value) is kind


def test_the_ladder_is_in_order(plain: Plain) -> None:
    _, _, bus = plain
    methods = [rung.method for rung in bus.reset_rungs(bus.card(GPU))]
    assert methods == ["vfio-hot-reset", "bridge-reset", "sysfs-reset", "remove-rescan"]


def test_a_card_that_was_only_taken_off_the_bus_is_not_reset(plain: Plain) -> None:
    _, kernel, bus = plain
    bus.bind(card := bus.card(GPU))
    errors = [OSError(errno.EIO, "Input/output error")] * 2
    kernel.failures.update({"hot-reset": [*errors], "reset_subordinate": [*errors], "reset": [*errors]})
    with pytest.raises(ResetFailed, match="needs a power cycle") as caught:
        climb(bus, card, clock=no_clock)
    assert kernel.done["rescan"] == 1
    assert str(caught.value).count("Input/output error") > 3
    assert bus.is_bound(card)


def test_after_a_rescan_a_rung_that_failed_before_may_work(plain: Plain) -> None:
    _, kernel, bus = plain
    bus.bind(card := bus.card(GPU))
    error = OSError(errno.EIO, "Input/output error")
    kernel.failures.update({"hot-reset": [error], "reset_subordinate": [error], "reset": [error]})
    record = climb(bus, card, clock=no_clock)
    assert (record.method, record.attempts) == ("remove-rescan", 4)
    assert (kernel.done["rescan"], kernel.done["hot-reset"]) == (1, 1)


def test_the_bridge_is_not_reset_over_a_strangers_head(plain: Plain) -> None:
    host, _, bus = plain
    host.function("0000:01:02.0", kind="0x010802", group=8, bridge=PORT, driver="nvme")
    assert "bridge-reset" not in [rung.method for rung in bus.reset_rungs(bus.card(GPU))]


def test_each_failing_rung_leads_to_the_next(plain: Plain) -> None:
    _, kernel, bus = plain
    bus.bind(card := bus.card(GPU))
    kernel.failures["hot-reset"] = [PermissionError(errno.EPERM, "The reset would also reach 0000:02:00.0")]
    kernel.failures["reset_subordinate"] = [TimeoutError("no answer within 120 s")]
    kernel.failures["reset"] = [OSError(errno.EIO, "Input/output error")]
    record = climb(bus, card, clock=no_clock)
    assert (record.method, record.attempts) == ("remove-rescan", 4)
    assert [failure.partition(":")[0] for failure in record.failures] == [
        "vfio-hot-reset",
        "bridge-reset",
        "sysfs-reset",
    ]
    assert "also reach 0000:02:00.0" in record.failures[0]


def test_a_stale_reset_method_is_renewed(plain: Plain) -> None:
    _, kernel, bus = plain
    bus.bind(card := bus.card(GPU))
    kernel.stale = {GPU}
    (rung,) = [rung for rung in bus.reset_rungs(card) if rung.method == "sysfs-reset"]
    rung.run()
    assert kernel.done["reset"] == 2
    assert not kernel.stale


def test_no_host_driver_catches_a_card_that_comes_back(plain: Plain) -> None:
    host, kernel, bus = plain
    bus.bind(card := bus.card(GPU))
    unbound = kernel.done["unbind"]
    bus.reset_rungs(card)[-1].run()
    assert kernel.done["rescan"] == 1
    assert kernel.done["unbind"] == unbound, "a host driver had the card in between"
    assert bus.is_bound(card)
    assert (host.root / "sys/bus/pci/drivers_autoprobe").read_text() == "1\n"


def test_autoprobing_is_restored_when_the_rescan_fails(plain: Plain) -> None:
    host, kernel, bus = plain
    bus.bind(card := bus.card(GPU))
    kernel.failures["rescan"] = [OSError(errno.EIO, "Input/output error")]
    with pytest.raises(ResetFailed, match="Input/output error"):
        bus.reset_rungs(card)[-1].run()
    assert (host.root / "sys/bus/pci/drivers_autoprobe").read_text() == "1\n"


def test_a_remove_that_was_cut_short_is_undone_at_the_next_start(
    plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker was killed while no driver was to be probed and the card was off the bus."""
    host, kernel, bus = plain
    bus.bind(card := bus.card(GPU))
    autoprobe = host.root / "sys/bus/pci/drivers_autoprobe"

    def die(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(kernel, "_on_rescan", die)
        killed.setattr(bus, "_restore_autoprobe", lambda: None)
        with pytest.raises(KeyboardInterrupt):
            bus.reset_rungs(card)[-1].run()
    assert autoprobe.read_text() == "0\n"
    after = SlicingBus(host.root, kernel=kernel)
    after.recover()
    assert autoprobe.read_text() == "1\n"
    assert after.card(GPU).functions == (GPU, AUDIO)
    assert (host.path(GPU) / "driver").exists() is False


def test_autoprobing_that_an_administrator_switched_off_stays_off(plain: Plain) -> None:
    host, _, bus = plain
    host.write("sys/bus/pci/drivers_autoprobe", "0")
    bus.recover()
    bus.bind(card := bus.card(GPU))
    bus.reset_rungs(card)[-1].run()
    bus.recover()
    assert (host.root / "sys/bus/pci/drivers_autoprobe").read_text() == "0\n"


def test_a_card_whose_rom_cannot_be_read_is_listed_and_not_asked_again(plain: Plain) -> None:
    host, kernel, bus = plain
    host.function("0000:02:00.0", group=8, bridge=PORT)
    kernel.failures["rom"] = [TimeoutError("no answer within 30 s")]
    assert [card.fingerprint.rom_sha256 for card in bus.cards()] == ["", ""]
    assert [card.fingerprint.rom_sha256 for card in bus.cards()] == ["", ""]
    assert len([path for path, _ in kernel.writes if path.endswith("/rom")]) == 1


def test_a_card_that_disappears_while_the_bus_is_listed_is_left_out(
    plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, _, bus = plain
    host.function("0000:02:00.0", group=8, bridge=PORT)
    displays = bus._tree.displays()
    gone(host, GPU)
    monkeypatch.setattr(PciTree, "displays", lambda _: displays)
    assert [card.address for card in bus.cards()] == ["0000:02:00.0"]


def test_a_card_that_does_not_come_back_is_reported(plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    _, kernel, bus = plain
    bus.bind(card := bus.card(GPU))
    monkeypatch.setattr(kernel, "_on_rescan", lambda path, text: None)
    monkeypatch.setattr("hosts.agent.sysfs.RETURN_SECONDS", 0.1)
    with pytest.raises(ResetFailed, match="did not come back"):
        bus.reset_rungs(card)[-1].run()


def put_to_sleep(host: FakeHost, *, control: str) -> None:
    host.path(GPU).joinpath("power_state").write_text("D3hot\n")
    host.path(GPU).joinpath("power/control").write_text(f"{control}\n")


DEATHS: dict[str, tuple[Change, str]] = {
    "ones": (
        lambda host: (host.path(AUDIO) / "config").write_bytes(b"\xff" * 256),
        f"{AUDIO}: configuration space does not answer",
    ),
    "nothing": (
        lambda host: (host.path(GPU) / "config").write_bytes(b""),
        f"{GPU}: configuration space does not answer",
    ),
    "header": (
        lambda host: (host.path(GPU) / "config").write_bytes(config_space(header_type=0x7F)),
        f"{GPU}: configuration space does not answer",
    ),
    "asleep": (
        lambda host: (host.path(GPU) / "power_state").write_text("D3cold\n"),
        f"{GPU}: its power state is D3cold",
    ),
    "dozing": (
        lambda host: put_to_sleep(host, control="on"),
        f"{GPU}: its power state is D3hot",
    ),
    "gone": (lambda host: gone(host, AUDIO), f"{AUDIO}: it is gone from the bus"),
}


@pytest.mark.parametrize(("change", "reason"), DEATHS.values(), ids=DEATHS)
def test_a_dead_card_is_known_by(plain: Plain, change: Change, reason: str) -> None:
    host, _, bus = plain
    card = bus.card(GPU)
    (host.path(GPU) / "power_state").write_text("D0\n")
    assert bus.dead_because(card) == ""
    change(host)
    assert bus.dead_because(card) == reason


def test_a_card_that_may_sleep_is_not_dead(plain: Plain) -> None:
    """As one that carries vGPUs, which its maker's driver lets sleep."""
    host, _, bus = plain
    put_to_sleep(host, control="auto")
    assert bus.dead_because(bus.card(GPU)) == ""


@pytest.mark.parametrize("first", [0xFFFFFFFF, 0xBADF1100, 0xBADFFFFF])
def test_a_dead_card_of_nvidias_is_known_by_its_first_register(plain: Plain, first: int) -> None:
    host, _, bus = plain
    card = an_nvidia(host, bus)
    assert bus.dead_because(card) == "", "its driver is asked nothing"
    bus.bind(card)
    assert bus.dead_because(card) == ""
    with (host.path(NVIDIA) / "resource0_wc").open("r+b") as registers:
        registers.write(first.to_bytes(4, "little"))
    assert bus.dead_because(card) == f"its first register reads {first:08x}"


def test_what_memory_a_card_of_nvidias_has_is_read_from_it_once_it_is_bound(plain: Plain) -> None:
    host, kernel, bus = plain
    card = an_nvidia(host, bus)
    assert card.memory_bytes == 16 << 20, "what its BAR could show"
    bus.bind(card)
    open_by(host, "/dev/vfio/9", name="qemu")
    assert bus.card(NVIDIA).memory_bytes == 16 << 20, "a machine is using it"
    shutil.rmtree(host.root / "proc/812")
    card = bus.card(NVIDIA)
    assert card.memory_bytes == 48 << 20
    with bus.memory(card) as window:
        assert (window.name, window.is_fast, window.size) == ("bar0-window", False, 48 << 20)
    del kernel.writes[:]
    assert bus.card(NVIDIA) == card
    assert not kernel.writes


def test_a_card_of_nvidias_that_could_not_be_asked_for_its_memory_is_asked_again(
    plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, _, bus = plain
    bus.bind(an_nvidia(host, bus))

    def no_child(*_: object) -> None:
        raise children.ChildNotStarted("no process could be started")

    with monkeypatch.context() as starved:
        starved.setattr("hosts.agent.sysfs.far_mapped", no_child)
        with pytest.raises(Unasked, match="no process could be started"):
            bus.card(NVIDIA)
    assert bus.card(NVIDIA).memory_bytes == 48 << 20


def test_a_chip_that_is_not_known_has_the_memory_that_its_bar_shows(plain: Plain) -> None:
    host, _, bus = plain
    bus.bind(an_nvidia(host, bus, first=0x130000A1))
    card = bus.card(NVIDIA)
    assert card.memory_bytes == 16 << 20
    with pytest.raises(BusError, match="Chip 130"), bus.memory(card):
        pass


def an_nvidia(host: FakeHost, bus: SlicingBus, *, first: int = 0xB72000A1) -> Card:
    """A card whose first register is an A6000's, and another one says 48 MiB; the rest is silence."""
    host.function(NVIDIA, group=9, bridge=PORT, driver="nouveau", vendor=0x10DE, memory=16 << 20)
    (host.path(NVIDIA) / "device").write_text("0x2230\n")
    with (host.path(NVIDIA) / "resource0_wc").open("r+b") as registers:
        registers.write(first.to_bytes(4, "little"))
        registers.seek(0x1183A4)
        registers.write((48).to_bytes(4, "little"))
    return bus.card(NVIDIA)


def test_a_card_that_is_gone_is_missing(plain: Plain) -> None:
    host, _, bus = plain
    card = bus.card(GPU)
    gone(host, GPU)
    with pytest.raises(CardMissing):
        bus.card(GPU)
    with pytest.raises(CardMissing, match=GPU):
        bus.fingerprint(card)
    assert bus.dead_because(card)


def test_memory_decoding_is_switched_on_before_mapping(plain: Plain) -> None:
    host, _, bus = plain
    with bus.memory(bus.card(GPU)):
        assert (host.path(GPU) / "config").read_bytes()[4:6] == b"\x02\x00"


def test_a_card_without_mappable_memory_says_so(plain: Plain) -> None:
    host, _, bus = plain
    host.function("0000:02:00.0", group=8, bridge=PORT, memory=0)
    card = bus.card("0000:02:00.0")
    assert card.memory_bytes == 0
    with pytest.raises(BusError, match="no memory that the host can map"), bus.memory(card):
        pass


def test_the_functions_share_one_guest_slot(plain: Plain) -> None:
    port, *hostdevs = plain[2].gpu_fragments(plain[2].card(GPU), slot=2)
    assert port.get("index") == "2"
    assert [device.get("managed") for device in hostdevs] == ["no", "no"]
    assert etree.tostring(hostdevs[1]) == (
        b'<hostdev mode="subsystem" type="pci" managed="no"><driver name="vfio"/>'
        b'<source><address domain="0x0000" bus="0x01" slot="0x00" function="0x1"/></source><rom bar="off"/>'
        b'<address type="pci" domain="0x0000" bus="0x02" slot="0x00" function="0x1"/></hostdev>'
    )
    first = hostdevs[0].find("address")
    assert first is not None
    assert first.get("multifunction") == "on"


def wedge(kernel: FakeKernel, name: str) -> None:
    kernel.failures[name] = [ChildStuckError("process 9 cannot be killed")]


def test_a_card_in_which_the_kernel_hangs_is_not_touched_again_before_a_reboot(
    plain: Plain,
) -> None:
    """Not by a restarted worker either: reading its configuration would never return."""
    host, kernel, bus = plain
    card = bus.card(GPU)
    wedge(kernel, "unbind")
    with pytest.raises(Wedged):
        bus.bind(card)
    host.path(GPU).joinpath("config").unlink()
    again = SlicingBus(host.root, kernel=kernel)
    for each in (bus, again):
        with pytest.raises(Wedged, match="rebooted"):
            each.card(GPU)
        assert each.hanging() == {GPU}
        assert (each.cards(), each.examine()) == ((), ())
        assert each.host_drivers(GPU) == ("bochs-drm", "hda")
    shutil.rmtree(host.root / "run")
    assert again.hanging() == frozenset()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError("no answer within 30 s"), BusError),
        (ChildStuckError("process 9 cannot be killed"), Wedged),
    ],
)
def test_a_driver_that_does_not_load_is_an_error_of_no_card(
    plain: Plain, error: Exception, kind: type[BusError]
) -> None:
    host, kernel, bus = plain
    (host.root / "sys/bus/pci/drivers/vfio-pci").rmdir()
    kernel.failures["modprobe"] = [error]
    with pytest.raises(BusError, match=f"vfio-pci: {error}") as caught:
        bus.bind(bus.card(GPU))
    assert type(caught.value) is kind
    assert bus.hanging() == frozenset()


def test_cards_that_are_to_be_left_out_are_not_read(plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = plain[2]
    read: list[str] = []
    monkeypatch.setattr(bus, "_card", lambda display: read.append(display.address))
    assert bus.cards(without={GPU}) == ()
    assert read == []


def test_drivers_of_the_host_are_told_and_vfio_is_none(plain: Plain) -> None:
    bus = plain[2]
    assert bus.host_drivers(GPU) == ("bochs-drm", "hda")
    bus.bind(bus.card(GPU))
    assert bus.host_drivers(GPU) == bus.host_drivers("0000:99:00.0") == ()
