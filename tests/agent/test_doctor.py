"""`doctor` on files that look like a host: what its readers see and may not see; the worker's reports."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hosts.agent.check_up import ask_hypervisor, check_up_of
from hosts.agent.config import HomePool
from hosts.agent.doctor.card_reader import read_card
from hosts.agent.doctor.examination import Surroundings, examine
from hosts.agent.doctor.facts import HypervisorFacts, Link
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
from hosts.agent.pci import PciTree
from hosts.agent.slicing_bus import SlicingBus
from hosts.agent.watch import Watch
from hosts.protocol.checkup import Check, CheckUp
from hosts.protocol.homes import POOL_MARK
from hosts.protocol.messages import Inspect, Inventory, Report
from tests.agent.fake_sysfs import FakeHost, plain_host
from tests.agent.host_in_a_box import Box, a_box

GPU, AUDIO, PORT = "0000:01:00.0", "0000:01:00.1", "0000:00:01.0"
HYPERVISOR = HypervisorFacts("qemu:///system", libvirt=(9, 0, 0), qemu=(7, 2, 22))


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """A host in order, but for the drivers that have its card."""
    host = plain_host(tmp_path / "root")[0]
    host.write("sys/class/iommu/dmar0/intel-iommu/ecap", "f00f5e")
    host.write("proc/cpuinfo", "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vmx sse2\n")
    host.write("proc/self/mounts", "/dev/vda / ext4 rw 0 0\ntmpfs /dev/shm tmpfs rw 0 0")
    host.write("dev/kvm", "")
    return host


def examined(host: FakeHost) -> dict[tuple[str, str], Check]:
    surroundings = Surroundings(
        simulated=False,
        domain_type="kvm",
        accepted_risks=frozenset(),
        state_directory=Path("/"),
        images_directory=host.root / "images",
        hypervisor=HYPERVISOR,
    )
    found = examine(surroundings, SlicingBus(host.root).examine(), root=host.root)
    return {(check.code, check.subject): check for check in found.checks}


def outcome(host: FakeHost, code: str, subject: str = "") -> str:
    check = examined(host)[code, subject]
    return f"{check.verdict} {check.outcome}"


def card_facts(host: FakeHost) -> object:
    tree = PciTree(host.root)
    functions = [function for function in (tree.function(GPU), tree.function(AUDIO)) if function]
    return read_card(tree, functions, holders=())


def test_everything_is_looked_at(host: FakeHost) -> None:
    found = examined(host)
    assert found["iommu", ""].facts == {"kind": "Intel VT-d", "units": "dmar0"}
    assert found["cpu-virtualisation", ""].outcome == "on"
    assert found["functions", GPU].facts["functions"] == f"{GPU} (1234:1111), {AUDIO} (1234:1111)"
    assert found["iommu-group", GPU].facts == {"group": "7"}
    assert found["host-driver", GPU].facts["drivers"] == "bochs-drm, hda"
    assert {check.verdict for check in found.values()} == {"pass", "warn", "skip"}


def test_what_shares_the_group_is_named(host: FakeHost) -> None:
    host.function("0000:00:05.0", kind="0x010802", group=7, driver="nvme")
    found = examined(host)["iommu-group", GPU]
    assert found.facts == {"group": "7", "others": "0000:00:05.0 (NVMe controller)"}
    assert found.read[0].source == "/sys/kernel/iommu_groups/7/devices"


def test_who_holds_the_card_is_named(host: FakeHost) -> None:
    (host.path(GPU) / "drm/card0").mkdir(parents=True)
    host.write("proc/812/comm", "Xwayland")
    (host.root / "proc/812/fd").mkdir()
    (host.root / "proc/812/fd/9").symlink_to("/dev/dri/card0")
    assert examined(host)["host-driver", GPU].facts["holders"] == "Xwayland (812)"
    assert outcome(host, "host-driver", GPU) == "fail held"


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("etc/modprobe.d/vfio.conf", "options vfio-pci ids=1234:1111,10de:1aef disable_vga=1"),
        ("etc/modprobe.d/vfio.conf", "# kept\noptions   vfio-pci  ids=1234:1111:1af4:1100"),
        ("proc/cmdline", "quiet intel_iommu=on vfio-pci.ids=1234:1111"),
    ],
)
def test_a_claim_for_vfio_is_found_where_it_is_written(host: FakeHost, file: str, line: str) -> None:
    assert outcome(host, "vfio-at-boot", GPU) == "warn not-claimed"
    host.write(file, line)
    found = examined(host)["vfio-at-boot", GPU]
    assert found.outcome == "claimed"
    assert found.facts["source"] == f"/{file}"


def test_a_claim_for_one_function_only_is_none(host: FakeHost) -> None:
    (host.path(AUDIO) / "device").write_text("0x9999\n")
    host.write("etc/modprobe.d/vfio.conf", "options vfio-pci ids=1234:1111")
    assert outcome(host, "vfio-at-boot", GPU) == "warn not-claimed"
    assert examined(host)["vfio-at-boot", GPU].facts["ids"] == "1234:1111,1234:9999"


def test_the_link_is_compared_with_what_both_ends_can_do(host: FakeHost) -> None:
    assert outcome(host, "pcie-link", GPU) == "skip unknown"
    for name, width, speed in (("current", 8, "8.0 GT/s PCIe"), ("max", 16, "16.0 GT/s PCIe")):
        host.write(f"sys/bus/pci/devices/{GPU}/{name}_link_width", str(width))
        host.write(f"sys/bus/pci/devices/{GPU}/{name}_link_speed", speed)
    assert examined(host)["pcie-link", GPU].facts == {"now": "x8 at 8.0 GT/s", "most": "x16 at 16.0 GT/s"}
    host.write(f"sys/bus/pci/devices/{PORT}/max_link_width", "8")
    host.write(f"sys/bus/pci/devices/{PORT}/max_link_speed", "8.0 GT/s PCIe")
    assert outcome(host, "pcie-link", GPU) == "pass full"
    assert Link(8, "Unknown").rate == 0


def test_a_window_smaller_than_the_card_offers(host: FakeHost) -> None:
    host.write(f"sys/bus/pci/devices/{GPU}/resource0_resize", "0000000000000f00")
    assert outcome(host, "resizable-bar", GPU) == "warn small"
    assert examined(host)["resizable-bar", GPU].facts == {"now": "1", "most": "2048"}


@pytest.mark.parametrize(
    ("flags", "expected"), [(0x46200, "pass present"), (0x46202, "warn shadow")], ids=["own", "shadow"]
)
def test_the_rom_may_be_the_firmwares_copy(host: FakeHost, flags: int, expected: str) -> None:
    rows = ["0x0 0x0 0x0"] * 6 + [f"0xc0000 0xdffff {flags:#x}"]
    host.write(f"sys/bus/pci/devices/{GPU}/resource", "\n".join(rows))
    assert outcome(host, "option-rom", GPU) == expected
    assert examined(host)["option-rom", GPU].facts.get("kib") in ("128", None)


def test_a_card_that_fell_asleep(host: FakeHost) -> None:
    assert outcome(host, "d3cold", GPU) == "pass allowed"
    host.write(f"sys/bus/pci/devices/{GPU}/power_state", "D3cold")
    assert outcome(host, "d3cold", GPU) == "warn asleep"


def test_a_card_that_is_silent(host: FakeHost) -> None:
    (host.path(AUDIO) / "config").write_bytes(b"\xff" * 64)
    found = examined(host)["answers", GPU]
    assert (found.verdict, found.facts) == ("fail", {"functions": AUDIO})


def test_parameters_that_make_vfio_unsafe(host: FakeHost) -> None:
    host.write("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y")
    host.write("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "1")
    assert outcome(host, "interrupt-remapping") == "fail unsafe"
    assert outcome(host, "noiommu") == "fail on"


def test_reserved_and_isolated(host: FakeHost) -> None:
    host.write("sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "64")
    host.write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "0")
    host.write("sys/devices/system/cpu/isolated", "4-31")
    assert examined(host)["hugepages", ""].facts["gib"] == "64.0"
    assert examined(host)["isolated-cpus", ""].facts == {"cpus": "4-31"}


def test_nodes_are_counted(host: FakeHost) -> None:
    for name in ("node0", "node1", "possible"):
        (host.root / "sys/devices/system/node" / name).mkdir(parents=True)
    assert read_processor(Reader(host.root)).numa_nodes == 2
    assert outcome(host, "numa-node", GPU) == "pass known"


def test_a_host_of_which_nothing_can_be_read(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    assert read_platform(reader).cmdline == ""
    assert read_huge_pages(reader) == ()
    assert read_processor(reader).numa_nodes == 1
    assert reader.denied == []


def test_what_may_not_be_read_is_told(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_text

    def denied(path: Path, *arguments: object, **more: object) -> str:
        if path.name == "lockdown":
            raise PermissionError
        return read(path, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", denied)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    found = examined(host)["privileges", ""]
    assert (found.verdict, found.facts) == ("warn", {"denied": "/sys/kernel/security/lockdown"})


def test_the_file_system_below_a_folder_still_to_be_made(host: FakeHost, tmp_path: Path) -> None:
    mounts = f"/dev/vda / ext4 rw 0 0\nnas:/x {tmp_path} nfs4 rw 0 0\n"
    host.write("proc/self/mounts", mounts)
    place = read_storage(Reader(host.root), tmp_path / "not" / "yet")
    assert (place.kind, place.path) == ("nfs4", str(tmp_path / "not" / "yet"))
    assert 0 < place.free <= place.total


def pool_of(folder: Path) -> Check:
    """What `doctor` says of the pool `studio` in the folder."""
    with a_box(folder / "box", home_pool=HomePool(name="studio", directory=folder / "homes")) as box:
        (found,) = [check for check in check_up_of(box.rig).checks if check.code == "home-pool"]
        return found


def test_a_pool_of_home_volumes_is_there_marked_and_nobody_elses(tmp_path: Path) -> None:
    assert pool_of(tmp_path).outcome == "absent"
    (tmp_path / "homes").mkdir()
    assert pool_of(tmp_path).outcome == "unmarked"
    (tmp_path / "homes" / POOL_MARK).write_text("archive\n")
    assert (pool_of(tmp_path).outcome, pool_of(tmp_path).facts["found"]) == ("other", "archive")
    (tmp_path / "homes" / POOL_MARK).write_text("studio\n")
    found = pool_of(tmp_path)
    assert (found.verdict, found.outcome) == ("pass", "ok")
    assert [(each.source, each.value) for each in found.read] == [(f"{tmp_path}/homes/{POOL_MARK}", "studio")]


def test_a_folder_for_images_is_judged_by_what_is_there_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "box" / "images"
    with a_box(tmp_path / "box") as box:
        assert images_of(box).outcome == "ok"
        folder.rename(tmp_path / "away")
        assert images_of(box).outcome == "to-be-made"
        assert images_of(box).facts == {"path": str(folder), "there": str(folder.parent)}


def test_who_is_not_root_does_not_judge_what_root_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / POOL_MARK).write_text("studio\n")
    monkeypatch.setattr("os.access", lambda *_: False)
    for user, expected in ((0, False), (1000, True)):
        monkeypatch.setattr("os.geteuid", lambda user=user: user)
        assert read_folder(tmp_path).writable is expected
        assert read_home_pool("studio", tmp_path).writable is expected


def images_of(box: Box) -> Check:
    return next(check for check in check_up_of(box.rig).checks if check.code == "images")


@pytest.mark.skipif(os.geteuid() != 0, reason="file systems are mounted by root")
def test_a_folder_for_images_that_the_worker_may_only_read_is_found(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from hosts.agent.doctor.host_reader import read_folder"
    asked = f"{script}; print(read_folder(Path(sys.argv[1]) / 'images'))"
    words = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", str(tmp_path), sys.executable, asked]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert f"there='{tmp_path}', read_only=True, writable=False" in told
    assert read_folder(tmp_path / "images").writable


READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$2" -c "$3" "$1"'
READ_POOL = """
import sys
from pathlib import Path
from hosts.agent.doctor.host_reader import read_home_pool
from hosts.agent.homes import DiskError, Pool
found = read_home_pool("studio", Path(sys.argv[1]))
print(found.read_only, found.writable)
try:
    Pool(Path(sys.argv[1]), name="studio", host="hv1").check()
except DiskError as error:
    print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="file systems are mounted by root")
def test_a_pool_that_the_worker_may_only_read_is_found_and_not_offered(tmp_path: Path) -> None:
    """As the unit's ProtectSystem has it: the folder is read-only in a namespace of the worker's."""
    (tmp_path / POOL_MARK).write_text("studio\n")
    words = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", str(tmp_path), sys.executable, READ_POOL]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
    assert told == ["True False", f"The pool studio at {tmp_path} cannot be written to."]
    outside = read_home_pool("studio", tmp_path)
    assert (outside.read_only, outside.writable) == (False, True)


def test_the_kernel_is_asked_for_its_clock() -> None:
    clock = read_clock()
    assert clock.synchronised in (True, False)
    assert clock.error_us >= 0


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with a_box(tmp_path) as box:
        yield box


def check_ups(box: Box) -> list[Report]:
    return [report for report in box.reports() if isinstance(report.event, CheckUp)]


def test_a_simulated_host_says_so(box: Box) -> None:
    Watch(box.rig).look()
    found = box.last(CheckUp)
    assert found.simulated
    assert {check.outcome for check in found.checks if check.code == "iommu"} == {"simulated"}
    cards = {check.subject for check in found.checks} - {""}
    assert len(cards) == 4
    assert not [check for check in found.checks if check.subject and check.verdict == "fail"]


def test_a_portal_of_the_previous_version_is_shown_one_check_up_per_start(box: Box) -> None:
    watch = Watch(box.rig)
    watch.look()
    assert [report.protocol for report in check_ups(box)] == [2]
    watch._check_up_at = 1.0
    watch.look()
    assert len(check_ups(box)) == 1
    box.rig.spool.hear(2)
    watch._check_up_at = 1.0
    watch.look()
    assert len(check_ups(box)) == 2


def test_whoever_orders_a_look_is_told_everything(box: Box) -> None:
    box.carry_out(Inspect(), subject="host:box", protocol=1)
    assert not check_ups(box)
    box.carry_out(Inspect(), subject="host:box")
    assert len(check_ups(box)) == 1
    answers = [report for report in box.reports() if report.command_id == check_ups(box)[0].command_id]
    assert isinstance([each.event for each in answers if each.event.SINCE == 1][-2], Inventory)


def test_a_call_that_was_never_answered_is_reported_at_once(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(box.rig)
    watch.look()
    box.rig.spool.hear(CheckUp.SINCE)
    monkeypatch.setattr(
        box.machines, "unanswered", lambda: ("Cannot start lease-1: no answer within 900 s.",)
    )
    watch.look()
    watch.look()
    assert len(check_ups(box)) == 2
    found = next(check for check in box.last(CheckUp).checks if check.code == "libvirt")
    assert (found.verdict, found.outcome) == ("warn", "unanswered")
    assert "start lease-1" in found.facts["call"]


def test_a_hypervisor_that_does_not_answer_is_a_finding(box: Box) -> None:
    box.machines.refuses.add("versions")
    assert "refused by the test" in ask_hypervisor("qemu:///x", box.machines).error
    Watch(box.rig).look()
    found = {check.code: check for check in box.last(CheckUp).checks}
    assert (found["libvirt"].outcome, found["qemu"].outcome) == ("away", "unknown")
