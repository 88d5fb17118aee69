"""A card that is divided: three kinds of slices by the files of a host, and a host that makes them."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import pytest

from hosts.agent.bus import BusError, Card, CardBusy, CardMissing, PciBus
from hosts.agent.cli import tables
from hosts.agent.dividing import DIVIDE
from hosts.agent.drift_notes import differences_found
from hosts.agent.inventory import take_inventory
from hosts.agent.machines import MachineFacts, MachineState
from hosts.agent.mending import mend
from hosts.agent.reset import climb
from hosts.agent.simulated import Fault, Kind, inject, reboot
from hosts.agent.simulated_state import Store
from hosts.agent.slicing_bus import SlicingBus
from hosts.protocol.messages import (
    Divide,
    Divided,
    DivisionFailed,
    Fingerprint,
    GpuFailed,
    GpuOrder,
    Intake,
    ProvisionFailed,
    Scrubbed,
    ScrubPolicy,
    SliceProfile,
    Undivide,
    Undivided,
)
from tests.agent.bus_contract import CONTRACT, SECRET, scrub_now, scrubbing_leaves_zeros_and_evidence
from tests.agent.fake_sysfs import FakeHost, FakeKernel
from tests.agent.host_in_a_box import Box, a_box, gpu_order
from tests.agent.test_sysfs import open_by

GPU = "0000:01:00.0"
FIRST = "0000:01:00.4"
AMD, NVIDIA = 0x1002, 0x10DE


def a_host(root: Path, *, vendor: int, carries: str = "", driver: str = "") -> tuple[FakeKernel, SlicingBus]:
    """One card with up to four virtual functions, in the hands of VFIO unless another `driver` has it."""
    host = FakeHost(root)
    host.bridge("0000:00:01.0", group=1)
    attributes = {"sriov_totalvfs": "4", "sriov_numvfs": "0", "sriov_drivers_autoprobe": "1"}
    host.function(
        GPU,
        group=7,
        bridge="0000:00:01.0",
        vendor=vendor,
        driver=driver or "vfio-pci",
        **attributes,  # type: ignore[arg-type]
    )
    (root / "dev/vfio/7").touch()
    kernel = FakeKernel(host, native={GPU: "nvidia" if vendor == NVIDIA else "amdgpu"}, carries=carries)
    return kernel, SlicingBus(root, kernel=kernel)


@pytest.fixture
def amd(tmp_path: Path) -> tuple[FakeKernel, SlicingBus]:
    return a_host(tmp_path, vendor=AMD)


def titles(bus: SlicingBus) -> list[tuple[str, str, int]]:
    return [(each.title, each.kind, each.memory_bytes >> 30) for each in bus.card(GPU).profiles]


def test_a_card_with_virtual_functions_is_divided_and_made_whole_again(
    amd: tuple[FakeKernel, SlicingBus],
) -> None:
    _, bus = amd
    whole = bus.card(GPU)
    assert [(each.name, each.most) for each in whole.profiles] == [("vf", 4)]
    bus.divide(whole, "vf", 3)
    assert [each.address for each in bus.slices(whole)] == [FIRST, "0000:01:00.5", "0000:01:00.6"]
    assert bus.card(GPU).refusal == "It is divided into 3 slices."
    assert bus.card(GPU).profiles == ()
    slices = [card for card in bus.cards() if card.part]
    assert [(card.address, card.refusal, card.part and card.part.parent) for card in slices] == [
        (each.address, "", GPU) for each in bus.slices(whole)
    ]
    with pytest.raises(BusError, match="may not be leased"):
        bus.bind(bus.card(GPU))
    bus.undivide(whole)
    assert bus.slices(whole) == ()
    bus.bind(bus.card(GPU))
    assert bus.card(GPU).profiles == whole.profiles


def test_no_driver_of_the_host_takes_a_virtual_function(amd: tuple[FakeKernel, SlicingBus]) -> None:
    kernel, bus = amd
    bus.divide(bus.card(GPU), "vf", 2)
    written = [(Path(path).name, text) for path, text in kernel.writes]
    assert written.index(("sriov_drivers_autoprobe", "0")) < written.index(("sriov_numvfs", "2"))
    assert written.index(("driver_override", "\n")) < written.index(("drivers_probe", GPU))


WITHOUT_PROOF = [rule for rule in CONTRACT if rule is not scrubbing_leaves_zeros_and_evidence]


@pytest.mark.parametrize("rule", WITHOUT_PROOF)
def test_a_virtual_function_is_a_card(
    amd: tuple[FakeKernel, SlicingBus], rule: Callable[[PciBus, str], None]
) -> None:
    _, bus = amd
    bus.divide(bus.card(GPU), "vf", 2)
    rule(bus, FIRST)


def test_the_guest_finds_a_virtual_function_in_its_slot(amd: tuple[FakeKernel, SlicingBus]) -> None:
    """A guest looks for further functions only where it has found the first."""
    _, bus = amd
    bus.divide(bus.card(GPU), "vf", 2)
    _, device = bus.gpu_fragments(bus.card(FIRST), slot=1)
    host, guest = device.find("source/address"), device.find("address")
    assert host is not None
    assert guest is not None
    assert (host.get("function"), guest.get("function")) == ("0x4", "0x0")


def test_a_virtual_function_is_reset_alone(amd: tuple[FakeKernel, SlicingBus]) -> None:
    kernel, bus = amd
    bus.divide(bus.card(GPU), "vf", 2)
    bus.bind(bus.card(FIRST))
    assert climb(bus, bus.card(FIRST), clock=lambda: 0.0).method == "sysfs-reset"
    assert kernel.done["reset"] == 1
    assert kernel.done["hot-reset"] == kernel.done["rescan"] == 0


def test_a_virtual_function_of_hardware_that_nothing_is_proven_on_is_not_clean(
    amd: tuple[FakeKernel, SlicingBus],
) -> None:
    """All is overwritten and read back; that is not enough where nobody has shown that it is."""
    _, bus = amd
    bus.divide(bus.card(GPU), "vf", 2)
    bus.bind(bus.card(FIRST))
    with bus.memory(bus.card(FIRST)) as window:
        window.fill(0, len(SECRET), SECRET)
    evidence = scrub_now(bus, FIRST)
    assert evidence.verdict == "failed"
    assert any("not proven on 1002:1111" in reason for reason in evidence.reasons)
    assert evidence.witness is not None
    assert not evidence.witness.mismatches


def test_a_driver_that_refuses_is_told_and_nothing_is_divided(amd: tuple[FakeKernel, SlicingBus]) -> None:
    kernel, bus = amd
    kernel.failures["sriov_numvfs"] = [OSError(errno.EBUSY, "Device or resource busy")]
    with pytest.raises(BusError, match="Device or resource busy"):
        bus.divide(bus.card(GPU), "vf", 2)
    assert bus.slices(bus.card(GPU)) == ()


def test_a_card_that_no_driver_takes_is_not_divided(amd: tuple[FakeKernel, SlicingBus]) -> None:
    kernel, bus = amd
    kernel.native.clear()
    with pytest.raises(BusError, match="No driver of this host takes"):
        bus.divide(bus.card(GPU), "vf", 2)


def test_no_more_functions_than_the_card_has(amd: tuple[FakeKernel, SlicingBus]) -> None:
    _, bus = amd
    with pytest.raises(BusError, match="at most 4"):
        bus.divide(bus.card(GPU), "vf", 5)


@pytest.mark.parametrize("carries", ["mdev", "vendor"])
def test_a_vgpu_is_made_by_either_of_the_makers_ways(tmp_path: Path, carries: str) -> None:
    _, bus = a_host(tmp_path, vendor=NVIDIA, carries=carries)
    profile = {"mdev": "nvidia-592", "vendor": "557"}[carries]
    bus.divide(bus.card(GPU), profile, 2)
    first, second = bus.slices(bus.card(GPU))
    assert {first.profile, second.profile} == {profile}
    assert (len(first.address) == 36) == (carries == "mdev")
    card = bus.card(first.address)
    assert (card.refusal, card.memory_bytes >> 30) == ("", 4 if carries == "mdev" else 1)
    assert card.part is not None
    assert (card.part.parent, card.part.kind) == (GPU, "vgpu")
    assert card in bus.cards()
    assert bus.card(GPU).refusal == "It is divided into 2 slices."
    bus.undivide(bus.card(GPU))
    bus.divide(bus.card(GPU), profile, 2)
    assert bus.slices(bus.card(GPU)) == (first, second)
    bus.undivide(bus.card(GPU))
    assert bus.slices(bus.card(GPU)) == ()
    with pytest.raises(CardMissing):
        bus.card(first.address)


def test_a_vgpu_that_mig_backs_shows_itself_by_its_name(tmp_path: Path) -> None:
    _, bus = a_host(tmp_path, vendor=NVIDIA, carries="vendor", driver="nvidia")
    bus.divide(bus.card(GPU), "1414", 1)
    made, *unused = [card for card in bus.cards() if card.address != GPU]
    assert made.part is not None
    assert (made.part.kind, made.memory_bytes >> 30, made.name) == ("mig-vgpu", 18, "NVIDIA H200X-1-18C")
    assert {card.refusal for card in unused} == {"It is there to carry vGPUs, and is none itself."}


def test_profiles_are_offered_while_the_makers_driver_has_the_card(tmp_path: Path) -> None:
    kernel, bus = a_host(tmp_path, vendor=NVIDIA, carries="vendor", driver="nvidia")
    assert titles(bus) == []
    kernel.switch_nvidia_functions(GPU, on=True)
    assert titles(bus) == [("NVIDIA L4-1Q", "vgpu", 1), ("NVIDIA H200X-1-18C", "mig-vgpu", 18)]
    assert {each.most for each in bus.card(GPU).profiles} == {4}


def test_a_card_without_virtual_functions_carries_its_vgpus_itself(tmp_path: Path) -> None:
    """As before Ampere."""
    kernel, bus = a_host(tmp_path, vendor=NVIDIA, driver="nvidia")
    (kernel.host.path(GPU) / "sriov_totalvfs").unlink()
    kernel.host.mediated_type(GPU, "nvidia-222", "GRID T4-1Q", "framebuffer=1024M", 16)
    assert titles(bus) == [("GRID T4-1Q", "vgpu", 1)]
    bus.divide(bus.card(GPU), "nvidia-222", 3)
    assert len(bus.slices(bus.card(GPU))) == 3
    assert len({each.address for each in bus.slices(bus.card(GPU))}) == 3


def test_a_profile_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    _, bus = a_host(tmp_path, vendor=NVIDIA, carries="vendor")
    with pytest.raises(BusError, match="0 of 2 vGPUs of type 999 were made"):
        bus.divide(bus.card(GPU), "999", 2)
    bus.undivide(bus.card(GPU))
    with pytest.raises(BusError, match="4 of 5 vGPUs of type 557 were made"):
        bus.divide(bus.card(GPU), "557", 5)


@pytest.fixture
def mediated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[FakeKernel, SlicingBus]:
    """A card that is divided into two mediated devices."""
    monkeypatch.setattr("hosts.agent.slicing_bus.STALE_POLL_SECONDS", 0.0)
    kernel, bus = a_host(tmp_path, vendor=NVIDIA, carries="mdev")
    bus.divide(bus.card(GPU), "nvidia-592", 2)
    return kernel, bus


def busy() -> OSError:
    return OSError(errno.EBUSY, "Device or resource busy")


def test_a_mediated_device_that_is_busy_for_a_while_is_waited_for(
    mediated: tuple[FakeKernel, SlicingBus],
) -> None:
    """As one is with a machine that has just stopped."""
    kernel, bus = mediated
    kernel.failures["remove"] = [OSError(errno.EIO, "Input/output error")]
    with pytest.raises(BusError, match="Input/output error"):
        bus.undivide(bus.card(GPU))
    assert len(bus.slices(bus.card(GPU))) == 2
    kernel.failures["remove"] = [busy(), busy(), busy()]
    bus.undivide(bus.card(GPU))
    assert bus.slices(bus.card(GPU)) == ()


def test_a_mediated_device_that_stays_busy_is_told_of(
    mediated: tuple[FakeKernel, SlicingBus], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hosts.agent.slicing_bus.STALE_SECONDS", 0.0)
    kernel, bus = mediated
    kernel.failures["remove"] = [busy() for _ in range(100)]
    with pytest.raises(BusError, match="busy"):
        bus.undivide(bus.card(GPU))
    assert len(bus.slices(bus.card(GPU))) == 2


@pytest.mark.parametrize(
    ("vendor", "carries", "profile"),
    [(AMD, "", "vf"), (NVIDIA, "mdev", "nvidia-592"), (NVIDIA, "vendor", "557")],
)
def test_a_slice_that_somebody_has_open_keeps_its_card_divided(
    tmp_path: Path, vendor: int, carries: str, profile: str
) -> None:
    """The kernel would wait for them; and a maker's program that has its own nodes open is none of them."""
    kernel, bus = a_host(tmp_path, vendor=vendor, carries=carries)
    whole = bus.card(GPU)
    bus.divide(whole, profile, 2)
    if carries == "vendor":
        kernel.host._drive(FIRST, "nvidia")
    last = bus.card(bus.slices(whole)[-1].address)
    assert last.iommu_group is not None
    open_by(kernel.host, f"/dev/vfio/{last.iommu_group}", name="qemu")
    open_by(kernel.host, "/dev/nvidiactl", name="nvidia-vgpu-mgr", pid=813)
    with pytest.raises(CardBusy, match=r"stays divided: qemu \(812\) has a slice"):
        bus.undivide(whole)
    assert len(bus.slices(whole)) == 2
    (kernel.host.root / "proc/812/fd/3").unlink()
    bus.undivide(whole)
    assert bus.slices(whole) == ()


@pytest.mark.parametrize("carries", ["mdev", "vendor"])
def test_nothing_on_the_host_proves_a_vgpu_clean(tmp_path: Path, carries: str) -> None:
    _, bus = a_host(tmp_path, vendor=NVIDIA, carries=carries)
    bus.divide(bus.card(GPU), {"mdev": "nvidia-592", "vendor": "557"}[carries], 1)
    card = bus.card(bus.slices(bus.card(GPU))[0].address)
    bus.bind(card)
    record = climb(bus, card, clock=lambda: 0.0)
    assert (record.method, record.scope) == ("vgpu-made-anew", "slice")
    with pytest.raises(BusError, match="nothing here proves it clean"), bus.memory(card):
        pass


def test_a_mediated_device_is_given_to_a_machine_by_its_name(tmp_path: Path) -> None:
    _, bus = a_host(tmp_path, vendor=NVIDIA, carries="mdev")
    bus.divide(bus.card(GPU), "nvidia-592", 1)
    name = bus.slices(bus.card(GPU))[0].address
    port, device = bus.gpu_fragments(bus.card(name), slot=2)
    assert port.get("index") == "2"
    assert (device.get("type"), device.get("model"), device.get("managed")) == ("mdev", "vfio-pci", "no")
    address = device.find("source/address")
    assert address is not None
    assert address.get("uuid") == name


# One host that carries the orders out, on the simulated bus.

PARENT = gpu_order()
KINDS = ("vf", "sim-q", "sim-1-c")


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """A host with one clean GPU."""
    with a_box(tmp_path) as box:
        box.intake()
        yield box


def subject(order: GpuOrder = PARENT) -> str:
    return f"gpu:{order.gpu_id}"


def divide(box: Box, profile: str = "vf", count: int = 2) -> None:
    box.carry_out(Divide(gpu=PARENT, profile=profile, count=count), subject=subject())


def made(box: Box) -> list[GpuOrder]:
    """The slices, as the portal would call them."""
    addresses = [each.address for each in box.rig.bus.slices(box.rig.bus.card(PARENT.address))]
    return [
        GpuOrder(gpu_id=UUID(int=0x51C0 + index), tenure=0, address=address)
        for index, address in enumerate(addresses)
    ]


def intake(box: Box, order: GpuOrder) -> None:
    policy = ScrubPolicy(methods=("bar",))
    box.carry_out(Intake(gpu=order, scrub=policy), subject=subject(order))


def states(box: Box) -> dict[str, str]:
    return {gpu.address: gpu.state for gpu in box.rig.gpus.all()}


def found(box: Box) -> list[tuple[str, str]]:
    mend(box.rig)
    box.settle()
    return [
        (each.outcome, each.verdict) for each in differences_found(box.rig) if each.code == "divided-card"
    ]


def profiles_told(box: Box) -> tuple[SliceProfile, ...]:
    return next(card.profiles for card in take_inventory(box.rig).cards if card.address == PARENT.address)


def test_profiles_are_told_of_the_same_card_when_no_driver_shows_them_any_more(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfio-pci shows none, and a card is in its hands from its intake on."""
    shown, offered = box.rig.bus.card, profiles_told(box)
    assert offered
    monkeypatch.setattr(box.rig.bus, "card", lambda address: replace(shown(address), profiles=()))
    assert profiles_told(box) == offered

    other = Fingerprint(vendor_device="10de:2236")
    monkeypatch.setattr(
        box.rig.bus, "card", lambda address: replace(shown(address), profiles=(), fingerprint=other)
    )
    assert profiles_told(box) == ()


@pytest.mark.parametrize("profile", KINDS)
def test_each_slice_is_scrubbed_by_itself_and_the_whole_after_them(box: Box, profile: str) -> None:
    divide(box, profile)
    slices = made(box)
    assert box.last(Divided).slices == tuple(each.address for each in slices)
    for each in slices:
        intake(box, each)
    assert {states(box)[each.address] for each in slices} == {"clean"}
    card = box.rig.bus.card(slices[0].address)
    with box.rig.bus.memory(card) as window:
        window.fill(100, len(SECRET), SECRET)
    intake(box, slices[1])
    with box.rig.bus.memory(card) as window:
        assert window.read(100, len(SECRET)) == SECRET  # the other's scrub does not reach it
    box.carry_out(Undivide(gpu=PARENT), subject=subject())
    assert box.last(Undivided).gpu_id == PARENT.gpu_id
    assert made(box) == []
    box.rig.bus.bind(box.rig.bus.card(PARENT.address))
    with box.rig.bus.memory(box.rig.bus.card(PARENT.address)) as window:
        assert window.read(100, len(SECRET)) == SECRET  # and dividing scrubs nothing
    assert states(box)[PARENT.address] == "dirty"
    assert {states(box)[each.address] for each in slices} == {"missing"}
    intake(box, PARENT)
    assert states(box)[PARENT.address] == "clean"
    with box.rig.bus.memory(box.rig.bus.card(PARENT.address)) as window:
        assert window.first_mismatch(0, window.size, 0) is None


def test_a_lease_on_a_slice_leaves_its_scrub_behind_and_the_whole_is_refused(box: Box) -> None:
    divide(box)
    first, second = made(box)
    intake(box, first)
    intake(box, second)
    box.carry_out(box.provision(replace_tenure(first)), subject="lease:1")
    assert states(box)[first.address] == "leased"
    box.carry_out(Undivide(gpu=PARENT), subject=subject())
    assert len(made(box)) == 2
    box.carry_out(box.provision(replace_tenure(PARENT), lease=2), subject="lease:2")
    assert "divided into 2 slices" in box.last(ProvisionFailed).reason


def replace_tenure(order: GpuOrder) -> GpuOrder:
    return msgspec.structs.replace(order, tenure=order.tenure + 1)


def test_a_card_is_not_made_whole_while_a_slice_is_being_cleaned(box: Box) -> None:
    divide(box)
    first, _ = made(box)
    intake(box, first)
    box.rig.gpus.set_state(first.gpu_id, "scrubbing")
    box.carry_out(Undivide(gpu=PARENT), subject=subject())
    failed = box.last(DivisionFailed)
    assert (failed.divided, f"{first.address} is scrubbing" in failed.reason) == (True, True)
    assert len(made(box)) == 2


def test_a_card_that_is_not_clean_is_not_divided(box: Box) -> None:
    box.rig.gpus.set_state(PARENT.gpu_id, "quarantined")
    divide(box)
    failed = box.last(DivisionFailed)
    assert (failed.divided, "not known to be clean" in failed.reason) == (False, True)
    assert made(box) == []


FAULTS = {
    "refused": ("error", "Input/output error"),
    "limited": ("partial", "4 slices were asked for, and 2"),
}


@pytest.mark.parametrize(("kind", "reason"), FAULTS.values(), ids=FAULTS)
def test_what_cannot_be_made_wholly_is_not_made(box: Box, kind: Kind, reason: str) -> None:
    inject(box.bus_directory, Fault(operation="divide", address=PARENT.address, kind=kind))
    divide(box, "sim-q", 4)
    assert reason in box.last(DivisionFailed).reason
    assert made(box) == []
    assert found(box) == []
    intake(box, PARENT)
    assert states(box)[PARENT.address] == "clean"


@pytest.fixture
def failed_division(box: Box, monkeypatch: pytest.MonkeyPatch) -> Box:
    """Two of four slices were made, and could not be taken away again until the end of this."""
    undivide, tried = box.rig.bus.undivide, Counter[str]()

    def fail(card: Card) -> None:
        tried["undivide"] += 1
        if tried["undivide"] > 1:
            raise BusError(f"{card.address}: Device or resource busy.")
        undivide(card)

    inject(box.bus_directory, Fault(operation="divide", address=PARENT.address, kind="partial"))
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(box.rig.bus, "undivide", fail)
        divide(box, "sim-q", 4)
        assert len(made(box)) == 2
        assert not box.last(DivisionFailed).divided
        assert left_over(box) == [("left", "fail")]
    return box


def left_over(box: Box) -> list[tuple[str, str]]:
    mend(box.rig)
    differences = differences_found(box.rig)
    return [(each.outcome, each.verdict) for each in differences if each.code == "left-over-slices"]


def test_what_a_failed_division_left_is_removed_as_soon_as_that_is_possible(failed_division: Box) -> None:
    box = failed_division
    box.restart()
    told = [check for check in differences_found(box.rig) if check.code == "left-over-slices"]
    assert [(check.outcome, check.subject, check.facts["count"]) for check in told] == [
        ("removed", PARENT.address, "2")
    ]
    assert made(box) == []
    assert left_over(box) == []
    intake(box, PARENT)
    assert states(box)[PARENT.address] == "clean"


def test_what_a_failed_division_left_stays_with_a_machine_that_has_it(failed_division: Box) -> None:
    box = failed_division
    given = frozenset({made(box)[1].address})
    stranger = MachineFacts("stranger", uuid4(), MachineState.RUNNING, None, None, given)
    box.machines.add_foreign("stranger", stranger)
    assert left_over(box) == [("left", "fail")]
    assert "stranger runs with one of them" in differences_found(box.rig)[0].facts["reason"]
    assert len(made(box)) == 2
    box.machines.destroy("stranger")
    assert left_over(box) == [("removed", "warn")]


def test_what_a_failed_division_left_stays_with_whoever_has_it_in_hand(failed_division: Box) -> None:
    """No machine has it yet."""
    box = failed_division
    order = GpuOrder(gpu_id=UUID(int=0x51C0), tenure=0, address=made(box)[1].address)
    box.rig.gpus.put(order, "leased", lease_id=UUID(int=1))
    assert left_over(box) == [("left", "fail")]
    assert differences_found(box.rig)[0].facts["reason"] == f"{order.address} is in use."
    box.rig.gpus.put(order, "dirty", lease_id=None)
    assert left_over(box) == [("removed", "warn")]


def test_a_card_that_was_divided_again_keeps_its_slices(failed_division: Box) -> None:
    box = failed_division
    box.rig.bus.undivide(box.rig.bus.card(PARENT.address))
    intake(box, PARENT)
    divide(box, "sim-q", 4)
    assert left_over(box) == []
    assert len(made(box)) == 4


def test_a_profile_that_the_card_has_not_is_told(box: Box) -> None:
    divide(box, "sim-9", 2)
    assert "cannot be divided by 'sim-9'" in box.last(DivisionFailed).reason


class Killed(BaseException):
    """The worker ends here."""


@pytest.mark.parametrize("moment", ["divide:divide:before", "divide:divide:after", "divide:note:after"])
def test_a_worker_that_was_killed_in_between_goes_on(tmp_path: Path, moment: str) -> None:
    def die(boundary: str) -> None:
        if boundary == moment:
            raise Killed

    with a_box(tmp_path) as box:
        box.intake()
        box.close()
        box.open(on_boundary=die)
        box.deliver(Divide(gpu=PARENT, profile="sim-q", count=4), subject=subject())
        runner = box.executor.runner
        (plan,) = runner.choose([])
        with pytest.raises(Killed):
            all(runner.advance(plan.plan_id) for _ in DIVIDE.steps)
        box.restart()
        box.settle()
        assert len(made(box)) == 4
        assert len(box.events(Divided)) == 1
        assert found(box) == []


def test_after_a_reboot_the_same_slices_are_there_and_scrubbed_again(box: Box) -> None:
    divide(box, "sim-q", 3)
    slices = made(box)
    for each in slices:
        intake(box, each)
    scrubs = len(box.events(Scrubbed))
    reboot(box.bus_directory)
    box.boot_id = "second boot"
    box.restart()
    box.settle()
    assert made(box) == slices
    told = differences_found(box.rig)
    assert (told[0].code, told[0].outcome) == ("divided-card", "restored")
    assert len(box.events(Scrubbed)) == scrubs + 3
    assert {states(box)[each.address] for each in slices} == {"clean"}
    assert box.events(GpuFailed) == []


def test_slices_that_cannot_be_made_again_are_missing_and_tried_again(box: Box) -> None:
    divide(box)
    slices = made(box)
    for each in slices:
        intake(box, each)
    reboot(box.bus_directory)
    inject(box.bus_directory, Fault(operation="divide", address=PARENT.address, kind="error", times=2))
    box.boot_id = "second boot"
    box.restart()
    box.settle()
    assert {states(box)[each.address] for each in slices} == {"missing"}
    assert found(box) == [("restored", "warn")]


def test_another_number_of_slices_is_told_and_left(box: Box) -> None:
    divide(box, "sim-q", 3)
    with Store(box.bus_directory).changed() as state:
        state.drop_slices(state.slices[:1])
    assert found(box) == found(box) == [("other", "fail")]
    assert len(made(box)) == 2


def test_the_inventory_has_slices_and_ways_to_divide(box: Box) -> None:
    whole = tables.show_inventory(msgspec.to_builtins(take_inventory(box.rig)))
    assert "CAN BE DIVIDED" in whole
    assert "DIVIDED CARD" not in whole
    divide(box)
    cards = {card.address: card for card in take_inventory(box.rig).cards}
    parts = [card.part for card in cards.values() if card.part]
    assert [(part.parent, part.kind) for part in parts] == [(PARENT.address, "vf")] * 2
    assert cards[PARENT.address].refusal == "It is divided into 2 slices."
    assert "DIVIDED CARD" in tables.show_inventory(msgspec.to_builtins(take_inventory(box.rig)))
