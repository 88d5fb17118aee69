"""One host of a history: the agent's parts, driven step by step on one thread, and how they go down."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from hosts.agent import building
from hosts.agent.bus import BusError
from hosts.agent.config import HomePool
from hosts.agent.drift_notes import differences_found
from hosts.agent.homes import VOLUME_SUFFIX
from hosts.agent.journal import Journal
from hosts.agent.machines import HypervisorError
from hosts.agent.network.ways import NetworkError
from hosts.agent.nvidia import FirmwareClear, RegisterWindow
from hosts.agent.reconcile import reconcile
from hosts.agent.rig import Rig
from hosts.agent.runner import Runner
from hosts.agent.scrub_channel import Patience, listen
from hosts.agent.scrub_machine import _PROVEN_ON
from hosts.agent.scrubbers import Installed
from hosts.agent.watch import Watch
from hosts.agent.witness import PROVEN_WINDOWS
from hosts.protocol.checkup import CheckUp
from hosts.protocol.homes import POOL_MARK
from tests.agent.campaign.appliance import Appliances
from tests.agent.campaign.desk import POOL
from tests.agent.campaign.strands import PowerCut, StrandLock
from tests.agent.campaign.trouble import (
    BrittleJournal,
    MoodyFilter,
    MoodyMachines,
    Trouble,
    make_home,
    qemu_img,
)
from tests.agent.campaign.watched_bus import (
    NVIDIA,
    StoreInMemory,
    WatchedBus,
    clear,
    is_blank,
    leave_traces,
)
from tests.agent.host_in_a_box import Box

# The modules that wait, or look how long they have waited.
_WAITING = ("machine_steps", "watch", "acceptance", "suspend")
# Those that are held while something is waited for; a process that ends lets them go.
_LOCKS = ("building._CHOOSING", "network.connecting._ADMITTING")
# The modules that ask which kernel runs.
_KERNEL = ("boot", "inventory", "mending", "scrubbing")
WATCH = "watch"
EXPECTED = (HypervisorError, NetworkError, BusError, sqlite3.OperationalError)


class MachineRoom(Box):
    """A box that runs no thread. Whatever needs the worker starts it first, if it is down."""

    scrub_patience = Patience()
    machines: MoodyMachines
    runner: Runner
    watch: Watch

    def __init__(self, directory: Path, *, trouble: Trouble, card_bytes: int) -> None:
        self.trouble, self.strands = trouble, trouble.strands
        self.clock = self.strands.clock
        self.strands.on_wait = self._check_journal
        self.owners: dict[str, UUID | None] = {}
        self.reset_in: dict[str, tuple[int, str]] = {}
        self.cards = StoreInMemory(card_bytes)
        self.appliances = Appliances(self.strands, self.clear, self.describe, trouble.note)
        self.running: list[int] = []
        self.is_up = False
        self.deaths = 0
        self.boots = 1
        self.meanwhile: Callable[[str], None] = lambda _: None
        pool = HomePool(name=POOL, directory=directory / "pool")
        pool.directory.mkdir()
        (pool.directory / POOL_MARK).write_text(POOL)
        super().__init__(directory, home_pool=pool)
        self.rig.journal.close()
        self.machines.relatives = self.cards.relatives

    def make_scrubbers(self) -> dict[str, Installed]:
        found = super().make_scrubbers()
        patient = FirmwareClear(clock=self.clock.monotonic, sleep=self.clock.sleep)
        return {**found, patient.name: replace(found[patient.name], scrubber=patient)}

    def clear(self, address: str, share: float) -> None:
        """A scrub machine has written zeros to so much of the card's memory."""
        clear(self.bus_directory, self.cards.find(address), share)

    def describe(self, address: str) -> tuple[str, int]:
        """The card's ids, and how much memory it has."""
        card = self.cards.find(address)
        return card.fingerprint.vendor_device, card.memory_bytes

    def make_machines(self) -> MoodyMachines:
        return MoodyMachines(self.directory, self.trouble)

    def make_filter(self) -> MoodyFilter:
        return MoodyFilter(self.trouble)

    def make_journal(self) -> Journal:
        return BrittleJournal(self.config.journal_path, self.trouble)

    def make_bus(self) -> WatchedBus:
        return WatchedBus(
            self.bus_directory, self.cards, self.machines, self.owners, self._holder, self._note_reset
        )

    @property
    def boot(self) -> tuple[int, str]:
        """Which boot of the host it is, and of which kernel."""
        return self.boots, self.trouble.kernel

    def _note_reset(self, address: str) -> None:
        self.reset_in[address] = self.boot

    def _check_journal(self) -> None:
        """Nobody could write, nor even read it, until whoever waits is done."""
        journal = self.rig.journal
        if isinstance(journal, BrittleJournal) and journal.is_held and self.is_up:
            self.machines.wrongs.append("something slow was waited for inside a transaction")

    def _holder(self, address: str) -> UUID | None:
        held = [gpu.lease_id for gpu in self.rig.gpus.at(address) if gpu.state == "leased"]
        return held[0] if held else None

    def up(self) -> bool:
        """Start the worker if it is down; whether it runs. It may die of the attempt."""
        if not self.is_up:
            with self.mortal():
                self.open(self._at_boundary)
                self.is_up = True
                self.runner, self.running = self.executor.runner, []
                self.now = self.clock.on_the_host
                reconcile(self.rig, boot_id=f"boot {self.boots}")
                self.watch = Watch(self.rig, on_death=self._worker_ends)
                self.machines.on_stopped(self.watch._on_stopped)
        return self.is_up

    def _at_boundary(self, boundary: str) -> None:
        self.meanwhile(boundary)

    def _worker_ends(self) -> None:
        self.strands.cut()

    @contextmanager
    def mortal(self) -> Iterator[None]:
        """The worker may end inside: killed, or because it could not go on. Machines run on."""
        try:
            yield
        except (PowerCut, *EXPECTED):
            self.deaths += 1
            self.down()

    def down(self) -> None:
        self.is_up = False
        self.strands.forget()
        self.rig.journal.close()
        self.machines.close()

    def reboot(self) -> None:
        if self.is_up:
            self.down()
        self.boots += 1
        self.machines.lose_power()
        self.filter.forget()
        self.cards.state.drop_slices(self.cards.state.slices)
        for card in self.cards.state.cards.values():
            card.hangs = False

    def lose_journal(self) -> None:
        if self.is_up:
            self.down()
        for path in self.config.state_directory.glob("journal*"):
            path.unlink()

    def advance(self, pick: Callable[[list[int]], int]) -> bool:
        """Run one step of one plan, as the executor's threads would; False if there is nothing to do."""
        if not self.up():
            return True
        with self.mortal():
            self.now = self.clock.on_the_host
            self.running += [plan.plan_id for plan in self.runner.choose(self.running)]
            ready = [plan_id for plan_id in self.running if self.strands.is_ready(plan_id)]
            if not ready:
                return False
            plan_id = pick(ready)
            if self.strands.run(plan_id, partial(self._go_on, plan_id)) is False:
                self.running.remove(plan_id)
        return True

    def _go_on(self, plan_id: int) -> bool:
        try:
            return self.runner.advance(plan_id)
        except Exception as error:  # noqa: BLE001 — as the executor does; what it raises then ends the worker
            self.runner.give_up(self.rig.plans.get(plan_id), error)
            return False

    def stall(self, seconds: float) -> None:
        """The worker gets no processor so long."""
        self.clock.sleep(seconds)
        self.now = self.clock.on_the_host

    def locks_of_hung_plans(self) -> set[str]:
        """What they keep from others, and what those keep from others who wait for them."""
        held: set[str] = set()
        if self.up():
            hung = self.strands.hung()
            for plan in self.rig.plans.open():
                if plan.plan_id in hung or held & plan.locks:
                    held |= plan.locks
        return held

    def take(self, envelope: str) -> None:
        """A message comes off the queue. One that cannot be written is lost; the portal sends it again."""
        if self.up():
            self.now = self.clock.on_the_host
            try:
                self.acceptance.deliver(envelope)
            except PowerCut:
                self.deaths += 1
                self.down()
            except sqlite3.OperationalError:
                pass

    def look(self) -> None:
        """A round of the watch, or more of one that takes its time."""
        if self.up():
            self.now = self.clock.on_the_host
            try:
                self.watch_meanwhile()
            except PowerCut:
                self.deaths += 1
                self.down()

    def watch_meanwhile(self) -> None:
        """What it cannot see, or not write, it tries again in the next round."""
        with suppress(*EXPECTED):
            if self.strands.is_ready(WATCH):
                self.strands.run(WATCH, self.watch.look)

    def take_meanwhile(self, envelope: str) -> None:
        with suppress(sqlite3.OperationalError):
            self.acceptance.deliver(envelope)

    def spooled(self) -> list[str]:
        if not self.up():
            return []
        return [envelope for _, envelope in self.rig.spool.unreceipted(after=0, limit=1000)]

    def pool(self) -> set[UUID | None]:
        """The snapshots that lie in it. All but these and home volumes is a claim, or a half of something."""
        assert self.config.home_pool is not None
        found: set[UUID | None] = set()
        for path in self.config.home_pool.directory.iterdir():
            name, _, kind = path.name.partition(".")
            if kind == "snapshot.qcow2":
                found.add(UUID(name))
            elif path.name != POOL_MARK and not path.name.endswith(VOLUME_SUFFIX):
                found.add(None)
        return found

    def called_clean(self) -> list[str]:
        """Addresses of the GPUs that the journal calls clean."""
        with self.rig.journal.transaction():
            rows = self.rig.journal.execute("SELECT address FROM gpu WHERE state = 'clean'")
            return [row["address"] for row in rows]

    def state_of(self, gpu_id: UUID) -> str | None:
        gpu = self.rig.gpus.get(gpu_id)
        return None if gpu is None else gpu.state

    def is_blank(self, address: str) -> bool:
        return is_blank(self.bus_directory, self.cards.find(address))

    def leave_traces(self, address: str) -> None:
        """Somebody who is no tenant has used the card."""
        leave_traces(self.bus_directory, self.cards.find(address))
        self.owners[address] = None

    def disks(self) -> set[UUID]:
        return building.leases_with_disks(self.rig)


def differences_alone(rig: Rig) -> CheckUp:
    """The machine that the tests run on is not examined every time."""
    return CheckUp(simulated=True, checks=differences_found(rig))


@contextmanager
def no_real_waiting(room: MachineRoom) -> Iterator[None]:
    """Inside, the agent waits by the history's clock, makes its disks without a program, and takes ways of
    scrubbing and looking for proven on the simulated cards that are not."""
    clock, trouble = room.clock, room.trouble
    passing: Any = SimpleNamespace(sleep=clock.sleep, monotonic=clock.monotonic)
    with pytest.MonkeyPatch.context() as patch:
        for name in _WAITING:
            patch.setattr(f"hosts.agent.{name}.time", passing)
        for name in _LOCKS:
            patch.setattr(f"hosts.agent.{name}", StrandLock(trouble.strands))
        for name in _KERNEL:
            patch.setattr(f"hosts.agent.{name}.running_kernel", lambda: trouble.kernel)
        patch.setattr("hosts.agent.reset.ANSWER_SECONDS", 0.0)
        patch.setattr("hosts.agent.disks._qemu_img", qemu_img(trouble))
        patch.setattr("hosts.agent.homes.Pool._make", make_home(trouble))
        patch.setattr("hosts.agent.scrub_machine.open_channel", room.appliances.open_channel)
        patch.setattr("hosts.agent.scrub_machine.listen", partial(listen, clock=clock.monotonic))
        patch.setitem(_PROVEN_ON, "plain", ("1234:*", NVIDIA))
        patch.setitem(PROVEN_WINDOWS, RegisterWindow.name, (NVIDIA,))
        for name in ("snapshot_steps", "home_steps"):
            patch.setattr(f"hosts.agent.{name}.opened_key", lambda *_: b"key")
        for name in ("watch", "host_plans"):
            patch.setattr(f"hosts.agent.{name}.check_up_of", differences_alone)
        yield
