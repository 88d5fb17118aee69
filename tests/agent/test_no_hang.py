"""A child that the kernel does not let die costs one GPU: the others are leased and released meanwhile."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from hosts.agent import children, orders, stuck
from hosts.agent.bus import BusError, Card, Wedged
from hosts.agent.check_up import whole_check_up_of
from hosts.agent.cli import main
from hosts.agent.inventory import take_inventory
from hosts.agent.mending import mend
from hosts.agent.orders import OrderRefused
from hosts.agent.pci import PciFunction
from hosts.agent.slicing_bus import SlicingBus
from hosts.agent.watch import Watch
from hosts.protocol.checkup import Check, CheckUp
from hosts.protocol.messages import (
    GpuFailed,
    GpuOrder,
    Intake,
    MachineGone,
    MachineRunning,
    Scrubbed,
    ScrubPolicy,
)
from tests.agent.fake_sysfs import FakeHost, FakeKernel, gone
from tests.agent.host_in_a_box import Box, wait_for

GOOD = GpuOrder(gpu_id=UUID(int=1), tenure=1, address="0000:01:00.0")
BAD = GpuOrder(gpu_id=UUID(int=2), tenure=1, address="0000:02:00.0")


@dataclass
class WedgingKernel(FakeKernel):
    """One card's reset sends a real child into a wait that no signal ends; `deadline` is when time is up."""

    fifo: Path = Path()
    wedged: threading.Event = field(default_factory=threading.Event)
    deadline: threading.Event = field(default_factory=threading.Event)
    undead: list[int] = field(default_factory=list)

    def hot_reset(self, group: Path, address: str, *, seconds: float) -> None:
        if address == BAD.address:
            self.wedged.set()
            assert self.deadline.wait(30)
            children.call(
                "write", [[str(self.fifo), "1"]], seconds=0.2, kill=lambda pid, _: self.undead.append(pid)
            )
        super().hot_reset(group, address, seconds=seconds)


class TwoCards(Box):
    """A host with two cards on a `/sys` of files."""

    host: FakeHost
    kernel: WedgingKernel

    def make_bus(self) -> Any:
        self.host = host = FakeHost(self.directory / "root")
        fifo = self.directory / "fifo"
        os.mkfifo(fifo)
        for number, order in enumerate((GOOD, BAD), start=1):
            port = host.bridge(f"0000:00:0{number}.0", group=number)
            host.function(order.address, group=6 + number, bridge=port)
        self.kernel = WedgingKernel(host, fifo=fifo)
        return SlicingBus(host.root, kernel=self.kernel)

    def take_in(self, order: GpuOrder) -> None:
        self.deliver(Intake(gpu=order, scrub=ScrubPolicy()), subject=f"gpu:{order.gpu_id}")

    def state_of(self, order: GpuOrder) -> str:
        return next(gpu.state for gpu in self.rig.gpus.all() if gpu.gpu_id == order.gpu_id)


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoCards]:
    monkeypatch.setattr(stuck, "REAP_SECONDS", 0.2)
    box = TwoCards(tmp_path)
    box.start()
    try:
        yield box
    finally:
        box.kernel.deadline.set()
        box.close()
        for pid in box.kernel.undead:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: stuck.reap_stuck() == 0)


def begin_lease(box: TwoCards, lease: int) -> GpuOrder:
    order = GpuOrder(gpu_id=GOOD.gpu_id, tenure=lease + 1, address=GOOD.address)
    box.deliver(box.provision(order, lease=lease), subject=f"lease:{lease}")
    wait_for(lambda: len(box.events(MachineRunning)) == lease)
    return order


def lease_and_release(box: TwoCards, lease: int) -> None:
    order = begin_lease(box, lease)
    box.deliver(box.release(order, lease=lease), subject=f"lease:{lease}")
    wait_for(lambda: len(box.events(MachineGone)) == lease)
    wait_for(lambda: box.state_of(GOOD) == "clean")


def test_the_other_gpu_is_leased_and_released_before_and_after_the_first_is_given_up(
    box: TwoCards, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.take_in(GOOD)
    wait_for(lambda: box.events(Scrubbed))
    box.take_in(BAD)
    assert box.kernel.wedged.wait(20)
    touched, read = [], PciFunction.config

    def config(function: PciFunction, size: int) -> bytes:
        touched.append(function.path.name)
        return read(function, size)

    monkeypatch.setattr(PciFunction, "config", config)
    lease_and_release(box, 1)
    Watch(box.rig).look()
    assert box.state_of(BAD) == "scrubbing"

    box.kernel.deadline.set()
    wait_for(lambda: box.state_of(BAD) == "quarantined")
    assert "cannot be killed" in box.last(GpuFailed).reason
    assert stuck.reap_stuck() == 1
    lease_and_release(box, 2)
    Watch(box.rig).look()
    assert box.rig.bus.hanging() == {BAD.address}
    assert [event.evidence.verdict for event in box.events(Scrubbed)] == ["passed"] * 3
    assert GOOD.address in touched
    assert BAD.address not in touched


@contextmanager
def hanging_in_a_reset(card: Path, name: str = "config") -> Iterator[None]:
    """Whoever reads its configuration space, or another of its files, meanwhile waits."""
    file = card / name
    content = file.read_bytes()
    file.unlink()
    os.mkfifo(file)
    try:
        yield
    finally:
        with suppress(OSError):  # nobody waits
            os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))
        file.unlink()
        file.write_bytes(content)


def test_a_leased_card_that_its_guest_resets_for_ever_keeps_nobody_waiting(box: TwoCards) -> None:
    box.take_in(GOOD)
    wait_for(lambda: box.events(Scrubbed))
    watch = Watch(box.rig)
    watch.look()
    begin_lease(box, 1)
    wait_for(lambda: not box.rig.plans.open())
    before = told_of(GOOD, whole_check_up_of(box.rig))
    with hanging_in_a_reset(box.host.path(GOOD.address)):
        again = threading.Thread(target=look_around, args=[box, watch], daemon=True)
        again.start()
        again.join(20)
        assert not again.is_alive()
        after = whole_check_up_of(box.rig)
    assert box.state_of(GOOD) == "leased"
    assert before == told_of(GOOD, after)
    assert [check.facts["count"] for check in after.checks if check.code == "cards"] == ["2"]

    gone(box.host, GOOD.address)
    watch.look()
    assert box.state_of(GOOD) == "missing"
    assert box.last(GpuFailed).missing


def look_around(box: TwoCards, watch: Watch) -> None:
    """Everything that is looked at without being told to."""
    watch.look()
    mend(box.rig)
    take_inventory(box.rig)
    whole_check_up_of(box.rig)
    with pytest.raises(OrderRefused, match="in use by the machine"):
        orders.order(box.rig, "reset", GOOD.address, by="test")


def told_of(card: GpuOrder, found: CheckUp) -> list[Check]:
    return [check for check in found.checks if check.subject == card.address]


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """A host whose cards are read in earnest, and given up soon."""
    monkeypatch.setattr(children, "READ_SECONDS", 0.3)
    host = FakeHost(tmp_path / "root")
    for number, order in enumerate((GOOD, BAD), start=1):
        port = host.bridge(f"0000:00:0{number}.0", group=number)
        host.function(order.address, group=6 + number, bridge=port, rom="the option ROM")
    return host


LOOKS: dict[str, Callable[[SlicingBus], list[str]]] = {
    "cards": lambda bus: [card.address for card in bus.cards()],
    "examine": lambda bus: [card.grounds.address for card in bus.examine()],
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize("file", ["config", "max_link_width"])
def test_a_card_that_does_not_answer_whoever_looks_is_left_out_from_then_on(
    two: FakeHost, look: Callable[[SlicingBus], list[str]], file: str
) -> None:
    (two.path(BAD.address) / "max_link_width").touch()
    bus = SlicingBus(two.root, kernel=FakeKernel(two))
    with hanging_in_a_reset(two.path(BAD.address), file):
        assert look(bus) == [GOOD.address]
        assert bus.hanging() == {BAD.address}
    assert look(bus) == [GOOD.address]


@pytest.fixture
def alone(two: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Asks the program on that host, where no worker runs, and no libvirt."""
    config = tmp_path / "host.toml"
    config.write_text(f'state_directory = "{tmp_path}"\nlibvirt_uri = "test:///none"\n')
    monkeypatch.setattr(
        "hosts.agent.cli.commands.open_bus", lambda _: SlicingBus(two.root, kernel=FakeKernel(two))
    )

    def ask(command: str) -> dict[str, Any]:
        told = io.StringIO()
        with redirect_stdout(told):
            main([command, "--config", str(config), "--json"])
        found: dict[str, Any] = json.loads(told.getvalue())
        return found

    return ask


def give_to_a_machine(host: FakeHost, address: str, group: int) -> None:
    """QEMU has its group open."""
    driver = host.path(address) / "driver"
    driver.unlink()
    driver.symlink_to(host.root / "sys/bus/pci/drivers/vfio-pci")
    host.write("proc/4711/comm", "qemu-system-x86")
    (host.root / "proc/4711/fd").mkdir()
    (host.root / "proc/4711/fd/30").symlink_to(f"/dev/vfio/{group}")


def test_without_a_worker_a_card_in_a_machines_hands_is_not_touched(
    two: FakeHost, alone: Callable[[str], dict[str, Any]]
) -> None:
    give_to_a_machine(two, BAD.address, 8)
    with hanging_in_a_reset(two.path(BAD.address)):
        found, listed = alone("doctor"), alone("inventory")
    told = [check for check in found["checks"] if check["subject"] == BAD.address]
    assert [(check["code"], check["outcome"], check["verdict"]) for check in told] == [
        ("answers", "untouched", "skip")
    ]
    assert [check["facts"]["count"] for check in found["checks"] if check["code"] == "cards"] == ["2"]
    assert [card["address"] for card in listed["cards"]] == [GOOD.address]
    assert listed["not_touched"] == [BAD.address]
    assert not (two.root / "run/leasehold-hanging-cards").exists()


def test_who_may_not_see_what_others_have_open_touches_no_card_that_a_machine_may_have(
    two: FakeHost, alone: Callable[[str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    give_to_a_machine(two, BAD.address, 99)
    assert alone("inventory")["not_touched"] == []
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert alone("inventory")["not_touched"] == [BAD.address]


@pytest.mark.parametrize("may_write", [True, False])
def test_without_a_worker_a_card_that_hangs_is_told_of_and_the_others_are_shown(
    two: FakeHost,
    alone: Callable[[str], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    may_write: bool,
) -> None:
    if not may_write:
        monkeypatch.setattr(Path, "mkdir", refused)
    with hanging_in_a_reset(two.path(BAD.address)):
        found, listed = alone("doctor"), alone("inventory")
    told = {(check["subject"], check["code"]): check["verdict"] for check in found["checks"]}
    assert told[BAD.address, "hang"] == "fail"
    assert told[GOOD.address, "answers"] == "pass"
    assert [card["address"] for card in listed["cards"]] == [GOOD.address]
    assert listed["not_touched"] == [BAD.address]
    assert (two.root / "run/leasehold-hanging-cards").exists() == may_write


def refused(*_: object, **__: object) -> None:
    raise PermissionError


ACTS: dict[str, Callable[[SlicingBus, Card], object]] = {
    "card": lambda bus, card: bus.card(card.address),
    "dead_because": lambda bus, card: bus.dead_because(card),
    "fingerprint": lambda bus, card: bus.fingerprint(card),
    "bind": lambda bus, card: bus.bind(card),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_plan_whose_card_does_not_answer_fails_and_touches_it_no_more(
    two: FakeHost, act: Callable[[SlicingBus, Card], object]
) -> None:
    kernel = FakeKernel(two)
    bus = SlicingBus(two.root, kernel=kernel)
    card = bus.card(BAD.address)
    kernel.writes.clear()
    with hanging_in_a_reset(two.path(BAD.address)):
        with pytest.raises(Wedged, match="has to be rebooted"):
            act(bus, card)
        written = list(kernel.writes)
        with pytest.raises(Wedged, match="has to be rebooted"):
            bus.bind(card)
    assert bus.hanging() == {BAD.address}
    assert kernel.writes == written


def test_a_rom_that_is_never_read_is_not_switched_off_behind_whoever_reads_it(two: FakeHost) -> None:
    kernel = FakeKernel(two)
    bus = SlicingBus(two.root, kernel=kernel)
    card = bus.card(BAD.address)
    kernel.writes.clear()
    with hanging_in_a_reset(two.path(BAD.address), "rom"), pytest.raises(Wedged):
        bus.fingerprint(card)
    assert [(Path(path).name, text) for path, text in kernel.writes] == [("rom", "1")]


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_card_is_not_blamed_for_want_of_a_process_to_ask_it_with(
    two: FakeHost, act: Callable[[SlicingBus, Card], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = SlicingBus(two.root, kernel=FakeKernel(two))
    card = bus.card(BAD.address)
    children.dismiss_idle()
    with monkeypatch.context() as starved:
        starved.setattr(children, "COMMAND", ("/bin/cat",))
        starved.setattr(children, "START_SECONDS", 0.1)
        with pytest.raises(BusError, match="no process could be started") as caught:
            act(bus, card)
    assert not isinstance(caught.value, Wedged)
    assert bus.hanging() == frozenset()
    assert bus.card(BAD.address) == card


@pytest.mark.parametrize("file", ["config", "rom"])
@pytest.mark.parametrize(
    "failure",
    [
        children.ChildNotStarted("no process could be started"),
        children.ChildEnded("signal 9"),
        ChildProcessError("MemoryError: "),
    ],
    ids=repr,
)
def test_what_no_process_could_read_is_not_taken_for_the_cards_silence(
    two: FakeHost, file: str, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or an unchanged card would have lost its serial number, or its ROM, until the next boot."""
    known = SlicingBus(two.root, kernel=FakeKernel(two)).card(BAD.address)
    assert known.fingerprint.rom_sha256
    read = children.read_in_child

    def starved(path: Path, size: int) -> bytes:
        if path.name == file:
            raise failure
        return read(path, size)

    bus = SlicingBus(two.root, kernel=FakeKernel(two))
    with monkeypatch.context() as patched:
        patched.setattr("hosts.agent.pci.read_in_child", starved)
        with pytest.raises(BusError, match=str(failure)):
            bus.card(BAD.address)
    assert bus.card(BAD.address) == known


def test_what_a_card_answers_with_an_error_is_its_silence(
    two: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = SlicingBus(two.root, kernel=FakeKernel(two))
    rom = two.path(BAD.address) / "rom"
    rom.unlink()
    rom.mkdir()
    assert PciFunction(two.path(BAD.address)).rom() == b""
    monkeypatch.setattr(FakeKernel, "write", lambda *_, **__: None)
    assert bus.card(BAD.address).fingerprint.rom_sha256 == ""
