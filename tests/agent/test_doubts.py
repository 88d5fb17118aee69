"""A GPU that was proven clean stays so while the card is left alone, and until the host boots again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from hosts.agent import boot, mending, scrubbing
from hosts.agent.mending import mend
from hosts.agent.simulated import read_state, take_for_host
from hosts.agent.simulated_state import plug_in, unplug
from hosts.agent.watch import Watch
from hosts.protocol.messages import (
    GpuFailed,
    GpuOrder,
    Intake,
    Inventory,
    MachineRunning,
    Ordered,
    ProvisionFailed,
    Scrubbed,
    ScrubPolicy,
)
from tests.agent.host_in_a_box import Box, a_box, gpu_order
from tests.chosen import chosen

GPU = gpu_order()
LEASE = "lease:1"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """A host with one clean GPU."""
    with a_box(tmp_path) as box:
        box.intake()
        yield box


def look(box: Box) -> None:
    """One round of the watch, and what it leads to."""
    Watch(box.rig).look()
    mend(box.rig)
    box.settle()


def reboot(box: Box, name: str = "second boot") -> None:
    box.boot_id = name
    box.restart()


def run_kernel(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    for module in (boot, mending, scrubbing):
        monkeypatch.setattr(module, "running_kernel", lambda: release)


def scrubs(box: Box) -> int:
    return len(box.events(Scrubbed))


def take_and_give_back(box: Box) -> None:
    unplug(box.bus_directory, GPU.address)
    plug_in(box.bus_directory, GPU.address)


TOUCHED: dict[str, tuple[Callable[[Box], None], str, str]] = {
    "back-between-looks": (take_and_give_back, "clean", "off the bus and came back"),
    "other-driver": (lambda box: take_for_host(box.bus_directory, GPU.address), "clean", "simdrm"),
    "gone": (lambda box: unplug(box.bus_directory, GPU.address), "missing", "No display-class card"),
    "other-card": (
        lambda box: plug_in(box.bus_directory, GPU.address, other=True),
        "quarantined",
        "serial changed",
    ),
    "other-firmware": (
        lambda box: plug_in(box.bus_directory, GPU.address, flashed=True),
        "quarantined",
        "rom_sha256 changed",
    ),
}


@pytest.mark.parametrize(("touch", "state", "reason"), TOUCHED.values(), ids=TOUCHED)
def test_a_clean_card_that_was_touched_is_told_and_scrubbed_or_given_up(
    box: Box, touch: Callable[[Box], None], state: str, reason: str
) -> None:
    touch(box)
    look(box)
    assert box.gpu_state() == state
    assert scrubs(box) == (2 if state == "clean" else 1)
    told = [event.reason for event in box.events(GpuFailed)]
    told += [event.reason for event in box.events(Ordered)]
    assert [reason in each for each in told] == [True]
    look(box)
    assert scrubs(box) + len(box.events(GpuFailed)) == 2


@pytest.mark.parametrize(("touch", "state", "reason"), TOUCHED.values(), ids=TOUCHED)
def test_no_machine_starts_on_a_card_that_was_touched_since_the_last_look(
    box: Box, touch: Callable[[Box], None], state: str, reason: str
) -> None:
    touch(box)
    box.carry_out(box.provision(GPU), subject=LEASE)
    assert reason in box.last(ProvisionFailed).reason
    assert not box.machines.creations
    look(box)
    assert box.gpu_state() == state
    assert scrubs(box) == (2 if state == "clean" else 1)


def test_a_card_that_came_back_stays_missing_until_its_intake(box: Box) -> None:
    unplug(box.bus_directory, GPU.address)
    look(box)
    plug_in(box.bus_directory, GPU.address)
    look(box)
    assert box.gpu_state() == "missing"
    box.intake()
    look(box)
    assert box.gpu_state() == "clean"


def test_after_a_boot_a_clean_gpu_is_scrubbed_before_anything_starts_on_it(box: Box) -> None:
    box.boot_id = "second boot"
    box.close()
    box.open()
    box.start()
    assert "was started anew" in box.last(Ordered).reason
    assert box.gpu_state() != "clean" or scrubs(box) == 2
    box.settle()
    assert (box.gpu_state(), scrubs(box)) == ("clean", 2)
    box.restart()
    look(box)
    assert (box.gpu_state(), scrubs(box)) == ("clean", 2)


def test_the_portal_hears_of_the_doubt_before_it_hears_the_inventory(box: Box) -> None:
    reboot(box)
    kinds = [type(report.event) for report in box.reports()]
    assert kinds.index(Ordered) < len(kinds) - 1 - kinds[::-1].index(Inventory)


def test_a_new_kernel_is_named(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    before = boot.running_kernel()
    run_kernel(monkeypatch, "9.9.9-new")
    reboot(box)
    box.settle()
    told = f"The host was started anew; its kernel was {before}, and is 9.9.9-new."
    assert box.last(Ordered).reason == told
    assert box.last(Scrubbed).evidence.kernel == "9.9.9-new"
    assert box.gpu_state() == "clean"


def test_a_running_lease_is_not_touched_by_a_boot(box: Box) -> None:
    box.carry_out(box.provision(GPU), subject=LEASE)
    box.machines.lose_power()
    reboot(box)
    box.settle()
    assert box.gpu_state() == "leased"
    assert len(box.events(MachineRunning)) == 2
    assert scrubs(box) == 1


def test_a_scrub_that_a_boot_with_another_kernel_cut_proves_nothing_about_that_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the filling on another kernel runs, as if the host had been restarted there."""
    before = boot.running_kernel()

    def act(boundary: str) -> None:
        if boundary == "intake:fill:before":
            run_kernel(monkeypatch, "9.9.9-new")

    with a_box(tmp_path, on_boundary=act) as box:
        goal = Intake(gpu=GPU, scrub=ScrubPolicy())
        box.carry_out(goal, subject=f"gpu:{GPU.gpu_id}")
        assert box.last(Scrubbed).evidence.kernel == before
        assert box.gpu_state() == "dirty"


class Killed(BaseException):
    """The worker ends here."""


def test_a_scrub_that_a_boot_has_cut_begins_anew(tmp_path: Path) -> None:
    """All was done but the last comparison; nobody knows what the card has been through since."""

    def die(boundary: str) -> None:
        if boundary == "intake:compare:before":
            raise Killed

    with a_box(tmp_path) as box:
        box.close()
        box.open(on_boundary=die)
        box.deliver(Intake(gpu=GPU, scrub=ScrubPolicy()), subject=f"gpu:{GPU.gpu_id}")
        runner = box.executor.runner
        (plan,) = runner.choose([])
        with pytest.raises(Killed):
            all(runner.advance(plan.plan_id) for _ in scrubbing.INTAKE.steps)
        assert read_state(box.bus_directory).cards[GPU.address].resets == 2
        reboot(box)
        box.settle()
        assert box.gpu_state() == "clean"
        assert read_state(box.bus_directory).cards[GPU.address].resets == 4
        assert len(box.last(Scrubbed).evidence.resets) == 2


class NeverSilentlyOffered(RuleBasedStateMachine):
    """Whatever is done to a card, in whatever order: what was not scrubbed since is not handed to a lease."""

    directory: Path
    number = 0

    def __init__(self) -> None:
        super().__init__()
        NeverSilentlyOffered.number += 1
        self.box = Box(self.directory / str(NeverSilentlyOffered.number))
        self.box.start()
        self.touched = scrubs(self.box)
        self.boots = self.tenure = 0

    def teardown(self) -> None:
        self.box.close()

    def order(self) -> GpuOrder:
        return gpu_order(tenure=self.tenure)

    def touch(self) -> None:
        """Nothing that was proven before now counts."""
        self.touched = scrubs(self.box)

    @property
    def is_proven(self) -> bool:
        passed = [event.evidence.verdict == "passed" for event in self.box.events(Scrubbed)]
        return any(passed[self.touched :])

    @rule()
    def take_away(self) -> None:
        unplug(self.box.bus_directory, GPU.address)
        self.touch()

    @rule(other=st.booleans(), flashed=st.booleans())
    def put_in(self, other: bool, flashed: bool) -> None:
        plug_in(self.box.bus_directory, GPU.address, other=other, flashed=flashed)
        self.touch()

    @rule()
    def give_to_the_host(self) -> None:
        take_for_host(self.box.bus_directory, GPU.address)
        self.touch()

    @rule()
    def boot_again(self) -> None:
        self.boots += 1
        self.touch()
        reboot(self.box, f"boot {self.boots}")
        self.box.settle()

    @rule()
    def look_around(self) -> None:
        look(self.box)
        assert self.box.gpu_state() != "clean" or self.is_proven

    @rule()
    def take_in(self) -> None:
        order = self.order()
        self.box.carry_out(Intake(gpu=order, scrub=ScrubPolicy()), subject=f"gpu:{order.gpu_id}")

    @rule()
    def lease_it(self) -> None:
        """A lease begins, and is over at once."""
        self.tenure += 1
        before = sum(self.box.machines.creations.values())
        lease = UUID(int=self.tenure)
        self.box.carry_out(self.box.provision(self.order(), lease=lease.int), subject=f"lease:{lease}")
        started = sum(self.box.machines.creations.values()) > before
        assert not started or self.is_proven
        self.touch()
        self.box.carry_out(self.box.release(self.order(), lease=lease.int), subject=f"lease:{lease}")


def test_whatever_is_done_to_a_card_it_is_never_silently_offered(tmp_path: Path) -> None:
    NeverSilentlyOffered.directory = tmp_path
    run_state_machine_as_test(
        NeverSilentlyOffered,
        settings=chosen(12, stateful_step_count=8),
    )
