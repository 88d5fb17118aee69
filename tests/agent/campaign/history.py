"""A history: dice say what people, hardware, broker and power do next; promises are checked throughout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from uuid import UUID

import pytest
from nacl.signing import SigningKey

from hosts.agent.machines import MachineFacts, MachineState, StopCause
from hosts.agent.orders import Action, OrderRefused, order
from hosts.agent.plans import gpu_lock, machine_locks
from hosts.agent.simulated import Fault, State
from tests.agent.campaign.appliance import MANNERS
from tests.agent.campaign.clock import Clock
from tests.agent.campaign.desk import Card, Desk, PowerAction, Rented, whole_card
from tests.agent.campaign.faults import BUS_PAIRS, CALL_PAIRS, CALLS, DELAYS, DRILLS
from tests.agent.campaign.machine_room import MachineRoom, no_real_waiting
from tests.agent.campaign.strands import Strands
from tests.agent.campaign.trouble import GUESTS, Trouble
from tests.agent.campaign.watched_bus import CARDS
from tests.agent.host_in_a_box import Control
from tests.quick_files import quick_directory

# What divisions, scrubs, and the beginnings and ends of leases are made of.
DIVISIONS = ("divide", "undivide")
SCRUBS = ("bind", "reset", "memory", "holders", "config", "clear", "registers", "scrub-machine")
OF_NVIDIA = ("clear", "registers")
BEGINS = ("define", "start", "make_network", "qemu-img", "mkfs", "fingerprint", "card", "nft", "machines")
ENDS = ("guest-agent", "shutdown", "destroy", "undefine", "remove_network")
RUNGS_OF_SLICES = ("", "", "sysfs-reset")
FIRST_RUNGS = ("vfio-hot-reset", "bridge-reset")
RUNGS = ("", "", "", "", "vfio-hot-reset", "bridge-reset", "sysfs-reset", "remove-rescan")
FOREIGN = UUID(int=0xF0)
ROUNDS = 60


def seeds_of(config: pytest.Config, usual: int) -> range:
    """Of the histories to play: so many as this run was told, or the `usual` number."""
    first, count = config.getoption("--first-seed"), config.getoption("--histories")
    return range(first, first + (usual if count is None else count))


class Broken(AssertionError):
    """A promise was not kept."""


@dataclass(frozen=True)
class Beginning:
    """A host in service, from which many histories may begin."""

    files: dict[Path, bytes]
    control: Control
    signing: SigningKey
    cards: State
    reset_in: dict[str, tuple[int, str]]
    journal_id: UUID | None
    applied: int


@cache
def in_service() -> Beginning:
    with TemporaryDirectory(dir=quick_directory()) as folder:
        history = History(0, Path(folder))
        with no_real_waiting(history.room):
            return history.come_into_service()


class History:
    """Everything that happens follows from the seed. `told` is the story so far."""

    card_bytes = 16 * 1024

    def __init__(self, seed: int, directory: Path) -> None:
        self.seed = seed
        self.dice = Random(seed)
        self.clock = Clock()
        self.trouble = Trouble(Strands(self.clock))
        self.room = MachineRoom(directory, trouble=self.trouble, card_bytes=self.card_bytes)
        self.room.meanwhile = self._meanwhile
        self.told: list[str] = []
        self.calm = False
        self.broker_away = False
        self.seen: list[str] = []
        self.late_commands: list[tuple[float, str]] = []
        self.late_reports: list[tuple[float, str]] = []
        self.desk = Desk(
            clock=self.clock,
            control=self.room.control,
            image=self.room.image,
            cards=[whole_card(number) for number in range(CARDS)],
            told=self.told,
        )
        self.acts: list[tuple[int, Callable[[], None]]] = [
            (9, self.rent),
            (4, self.release),
            (3, self.power),
            (1, self.extend),
            (5, self.save),
            (1, self.look_at_host),
            (1, self.order_on_host),
            (3, self.divide_some),
            (4, self.tend_cards),
            (4, self.send),
            (4, self.report),
            (8, self.exchange),
            (20, self.work),
            (5, self.look),
            (3, self.pass_time),
            (6, self.break_card),
            (7, self.upset_hypervisor),
            (2, self.upset_scrub_machine),
            (1, self.upset_guest),
            (2, self.stop_guest),
            (2, self.cut_power_soon),
            (1, self.restart),
            (1, self.reboot),
            (1, self.fill_disk),
            (1, self.lose_hypervisor),
            (1, self.lose_broker),
            (1, self.set_clock),
            (1, self.use_card_elsewhere),
            (1, self.calm_down),
        ]
        self.weights = [weight for weight, _ in self.acts]

    def _choose_methods(self) -> None:
        """How the cards are scrubbed, each model by ways of its own."""
        self._scrub_by(*self.dice.choice([("bar",), ("machine",), ("bar", "machine")]))
        self.desk.cards[-1].methods = ("nvidia-clear", "machine")

    def _scrub_by(self, *methods: str) -> None:
        for card in self.desk.cards[:-1]:
            card.methods = methods

    def live(self, acts: int) -> None:
        """The host comes into service, most of the time without trouble; then things happen."""
        self._choose_methods()
        if self.dice.random() < 0.8:
            self.begin_at(in_service())
            self.rent()
            self._drill(*DRILLS[self.seed % len(DRILLS)])
        else:
            for card in self.desk.cards:
                self.desk.intake(card)
        self._live_on(acts)

    def _drill(self, operation: str, kind: str) -> None:
        """Each fault in its turn strikes what is under way, wherever the dice lead from there."""
        self.told.append(f"drill {operation} {kind}")
        self.calm = True
        self._settle()
        clean = [card for card in self.desk.cards if card.state == "clean"]
        card = clean[-1] if operation in OF_NVIDIA else clean[0]
        if operation == "scrub-machine":
            self._scrub_by("machine")
        if operation == "undivide":
            self.divide(card)
            self._settle()
        if operation == "bind":
            self._give_to_host(card.address)
        if operation in SCRUBS:
            self.room.leave_traces(card.address)
        self._let_go_wrong(operation, kind, card)
        self._want(operation, card)
        self._settle()
        self.calm = False
        if self.room.is_up:
            full = {address for address in self.room.called_clean() if not self.room.is_blank(address)}
            self._demand(not full, f"called clean, and not blank: {full}")

    def _settle(self) -> None:
        """All orders arrive and are carried out, as far as that is possible."""
        self.exchange()
        self._work_off()
        self.exchange()

    def _let_go_wrong(self, operation: str, kind: str, card: Card) -> None:
        if operation == "scrub-machine":
            self.room.appliances.manners.append(kind)  # type: ignore[arg-type]
        elif operation == "guest-agent":
            self.trouble.guest = kind  # type: ignore[assignment]
        elif operation in CALLS:
            self.trouble.moods[operation].append(kind)  # type: ignore[arg-type]
            if operation == "shutdown":
                self.trouble.guest = "refuse"  # the power button is pressed at once
        else:
            self._break(operation, kind, card, times=1, rung="")

    def close(self) -> None:
        if self.room.is_up:
            self.room.down()
        self.room.strands.unwind()

    def _live_on(self, acts: int) -> None:
        for _ in range(acts):
            act = self.dice.choices(self.acts, self.weights)[0][1]
            self.told.append(act.__name__)
            act()
            self._check()
            self._recover_some()

    def come_into_service(self) -> Beginning:
        """All cards are taken in, in peace; how things are then."""
        self.calm = True
        self._choose_methods()
        for card in self.desk.cards:
            self.desk.intake(card)
        self.exchange()
        self._go_round(lambda: all(card.state == "clean" for card in self.desk.cards))
        self.room.down()
        return Beginning(
            files={path: (self.room.directory / path).read_bytes() for path in self._kept()},
            control=self.room.control,
            signing=self.room.signing,
            cards=self.room.cards.state,
            reset_in=self.room.reset_in,
            journal_id=self.desk.journal_id,
            applied=self.desk.applied,
        )

    def begin_at(self, beginning: Beginning) -> None:
        for path, content in beginning.files.items():
            (self.room.directory / path).write_bytes(content)
        self.room.control.key = beginning.control.key
        self.room.control.generations.update(beginning.control.generations)
        self.room.signing = beginning.signing
        self.room.cards.state = deepcopy(beginning.cards)
        self.room.reset_in.update(beginning.reset_in)
        self.desk.journal_id, self.desk.applied = beginning.journal_id, beginning.applied
        for card in self.desk.cards:
            card.state = "clean"

    def _kept(self) -> list[Path]:
        root = self.room.directory
        return [path.relative_to(root) for path in self.room.config.state_directory.glob("journal*")]

    def _recover_some(self) -> None:
        """Nothing stays away for long."""
        self.trouble.hypervisor_away &= self.dice.random() < 0.7
        self.broker_away &= self.dice.random() < 0.7

    # What people do.

    def rent(self) -> None:
        self.desk.rent(self.dice.choice([1, 1, 2]), self.dice.choice([*self.desk.free_homes(), None]))

    def release(self) -> None:
        if lease := self._lease("running") or self._lease("ordered"):
            self.desk.release(lease, "completed" if lease.state == "running" else "cancelled")

    def power(self) -> None:
        if lease := self._lease("running"):
            action: PowerAction = self.dice.choice(["on", "off", "restart"])
            self.desk.switch(lease, action, patience=self.desk.patience or self.dice.choice([0, 5]))

    def extend(self) -> None:
        if lease := self._lease("running"):
            self.desk.extend(lease)

    def save(self) -> None:
        """Now, of a machine that is switched off for it, or when the lease ends."""
        lease = self._lease("running") or self._lease("ordered")
        if lease and lease.saves is None:
            if at_once := lease.state == "running" and self.dice.random() < 0.5:
                self.desk.switch(lease, "off")
            self.desk.save(lease, at_once=at_once)

    def look_at_host(self) -> None:
        self.desk.inspect()

    def order_on_host(self) -> None:
        card = self.dice.choice(self.desk.cards)
        action: Action = self.dice.choice(["scrub", "reset"])
        if self.room.up():
            with self.room.mortal():
                try:
                    order(self.room.rig, action, card.address, by="an operator")
                except OrderRefused as refusal:
                    self.told.append(f"  {refusal}")

    def divide_some(self) -> None:
        self.divide(self.dice.choice(self.desk.cards))

    def divide(self, card: Card) -> None:
        """Into slices, or what is divided into none."""
        card = card.whole or card
        if card.division:
            self.desk.make_whole(card)
        elif card.state == "clean":
            model = next(each for each in self.room.cards.state.topology if each.address == card.address)
            for profile in self.dice.sample(model.profiles, min(len(model.profiles), 1)):
                self.desk.divide(card, profile, self.dice.randrange(1, profile.most + 1))

    def take_in(self, card: Card) -> None:
        self.desk.intake(card)

    def tend_cards(self) -> None:
        """What the portal does about a card that nobody uses, and about a release that failed."""
        for card in self.desk.cards:
            if self.calm or any(each.state == "missing" for each in self.desk.slices_of(card)):
                self.desk.make_whole(card)
            if card.is_idle and card.state != "clean":
                self.desk.intake(card)
        self._release_again()

    def _release_again(self) -> None:
        wanted = {command.subject for command in self.desk.open.values()}
        for lease in self.desk.rented.values():
            if lease.state == "releasing" and lease.subject not in wanted:
                self.desk.release(lease, "")

    # What the broker does.

    def send(self) -> None:
        """Commands arrive in any order, or not at all; sometimes one of long ago comes again."""
        if not self.broker_away:
            self._deliver(self.desk.sendings())

    def _deliver(self, sent: list[str]) -> None:
        self.seen += sent
        old = [] if self._happens(0.7) else self.dice.sample(self.seen, min(len(self.seen), 2))
        self._happened("message again" if old else "")
        for envelope in self._arriving(sent + old, self.late_commands):
            self.room.take(envelope)

    def _arriving(self, sent: list[str], late: list[tuple[float, str]]) -> list[str]:
        """Those that are neither lost nor late, and those that were late, in whatever order."""
        now = self.clock.elapsed
        arriving = [envelope for due, envelope in late if due <= now]
        late[:] = [(due, envelope) for due, envelope in late if due > now]
        for envelope in sent:
            fate = "" if self.calm else self.dice.choices(("", "lost", "late"), (75, 18, 7))[0]
            self._happened(f"message {fate}" if fate else "")
            if fate == "late":
                late.append((now + self.dice.choice(DELAYS), envelope))
            elif not fate:
                arriving.append(envelope)
        if not self.calm and self.dice.random() < 0.5:
            self.dice.shuffle(arriving)
            self._happened("message shuffled" if len(arriving) > 1 else "")
        return arriving

    def report(self) -> None:
        if self.broker_away:
            return
        for envelope in self._arriving(self.room.spooled(), self.late_reports):
            self.desk.receive(envelope)
        if self._happens(0.5) and self.desk.journal_id:
            self.room.take(self.desk.receipt())

    def exchange(self) -> None:
        self.send()
        self.report()

    def lose_broker(self) -> None:
        self.broker_away = True
        self._happened("broker away")

    # What the host does.

    def work(self) -> None:
        for _ in range(self.dice.randrange(1, 25)):
            if not self.room.advance(self.dice.choice):
                break

    def look(self) -> None:
        self.room.look()

    def pass_time(self) -> None:
        self.clock.sleep(self.dice.choice([1, 30, 61, 61, 600, 4000]))

    # What goes wrong.

    def break_card(self) -> None:
        operation, kind = self.dice.choice(BUS_PAIRS)
        card = self.dice.choice(self.desk.cards)
        times = self.dice.choice([1, 1, 1, 2, 2, 3, 0] if kind != "delay" else [1, 2])
        self._break(operation, kind, card, times=times, rung=self._rung(card))
        self._lead_to(operation, card)

    def _break(self, operation: str, kind: str, card: Card, *, times: int, rung: str) -> None:
        on_third = kind in ("enotty", "stale")  # which no other rung knows
        fault = Fault(
            operation=operation,  # type: ignore[arg-type]
            address=card.address,
            kind=kind,  # type: ignore[arg-type]
            times=times,
            rung=rung if operation == "reset" and not on_third else "",
            seconds=self.dice.choice(DELAYS) if kind in ("delay", "hang") else 0,
        )
        self.told.append(f"  {fault.operation} {fault.kind} {fault.rung} {fault.address} x{fault.times}")
        before = FIRST_RUNGS if on_third else ()
        self.room.cards.state.faults += [
            fault,
            *(Fault(operation="reset", address=card.address, rung=each) for each in before),
        ]

    def _rung(self, card: Card) -> str:
        return self.dice.choice(RUNGS if card.whole is None else RUNGS_OF_SLICES)

    def upset_hypervisor(self) -> None:
        call, mood = self.dice.choice(CALL_PAIRS)
        self.told.append(f"  {call}: {mood}")
        self.trouble.moods[call] += [mood] * self.dice.choice([1, 1, 2, 4])
        self.trouble.delay = self.dice.choice(DELAYS)
        self.room.machines.obeys = self._happens(0.5)
        self._lead_to(call, self.dice.choice(self.desk.cards))

    def _lead_to(self, operation: str, card: Card) -> None:
        """Most of the time somebody wants at once what is going to fail."""
        if self.dice.random() < 0.7:
            self._want(operation, card)
            self.exchange()
            self.work()

    def _want(self, operation: str, card: Card) -> None:
        if operation in DIVISIONS:
            self.divide(card)
        elif operation in SCRUBS and card.is_idle:
            self.take_in(card)
        elif operation in SCRUBS or operation in ENDS:
            self.desk.patience = 5 if operation in ("shutdown", "guest-agent") else 0
            self.release()
        elif operation in BEGINS:
            self.rent()

    def upset_scrub_machine(self) -> None:
        manner = self.dice.choice(MANNERS)
        self.told.append(f"  {manner}")
        self.room.appliances.manners += [manner] * self.dice.choice([1, 1, 2])
        self._lead_to("scrub-machine", self.dice.choice(self.desk.cards))

    def upset_guest(self) -> None:
        self.trouble.guest = self.dice.choice(GUESTS)
        self.desk.patience = self.dice.choice([0, 5])

    def stop_guest(self) -> None:
        running = [facts for facts in self.room.machines.all() if facts.lease_id and facts.is_active]
        if running:
            facts = self.dice.choice(running)
            cause = self.dice.choice([StopCause.GUEST, StopCause.CRASHED, StopCause.FAILED])
            self._happened(f"machine {cause.name.lower()}")
            self.room.machines.stop_by_itself(facts.name, cause)

    def cut_power_soon(self) -> None:
        """Right after one of the next commits: anywhere that something is written."""
        self.trouble.cut_after_commits = self.dice.randrange(1, 40)

    def restart(self) -> None:
        if self.room.is_up:
            self._happened("worker restart")
            self.room.down()

    def reboot(self) -> None:
        self._happened("host reboot")
        self.room.reboot()
        if self.dice.random() < 0.4:
            self._happened("host new-kernel")
            self.trouble.kernel = f"6.1.0-{self.room.boots}"
        if self.dice.random() < 0.2:
            self._happened("journal lost")
            self.room.lose_journal()

    def fill_disk(self) -> None:
        if self.dice.random() < 0.5:
            self.trouble.disk_full = self.dice.randrange(1, 4)
        else:
            self.trouble.full_for_commits = self.dice.randrange(1, 8)

    def lose_hypervisor(self) -> None:
        self.trouble.hypervisor_away = True

    def set_clock(self) -> None:
        self.clock.skew = timedelta(minutes=self.dice.choice([-300, -40, -1, 0, 1, 40, 300]))
        self._happened("clock wrong" if self.clock.skew else "clock right")

    def use_card_elsewhere(self) -> None:
        """A machine that is not ours, or a driver of the host; only of a card that no machine uses."""
        card = self.dice.choice(self.desk.cards)
        address, machines = card.address, self.room.machines
        if any(address in machines.cards_of(facts) for facts in machines.all() if facts.is_active):
            return
        if card.division or card.state == "withdrawn":
            return  # its slices are what is used
        if not self.room.is_up or self.room.running or self._may_overlook():
            return  # whoever comes and goes between two looks is not seen
        self.told.append(f"  {address}")
        self.room.leave_traces(address)
        if self.dice.random() < 0.5:
            self._give_to_host(address)
            self._happened("card host-driver")
        else:
            self._happened("card foreign-machine")
            used = frozenset({address})
            facts = MachineFacts("foreign", FOREIGN, MachineState.RUNNING, None, None, used)
            name = f"foreign-{card.address}"
            machines.add_foreign(name, replace(facts, name=name))
        self.clock.sleep(61)
        self.room.look()

    def _may_overlook(self) -> bool:
        """Whether the watch waits for something, or may have to in its next round: it mends divisions too."""
        divides = any(fault.operation in DIVISIONS for fault in self.room.cards.state.faults)
        return bool(self.trouble.is_ahead or self.room.strands.waiting or divides)

    def _give_to_host(self, address: str) -> None:
        drivers = self.room.cards.state.cards[address].drivers
        drivers.update(dict.fromkeys(drivers, "simdrm"))

    def calm_down(self) -> None:
        self.trouble.clear()
        self.room.appliances.manners.clear()
        self.room.cards.state.faults.clear()
        self.broker_away = False

    # What must hold.

    def _check(self) -> None:
        """After each act: no promise was broken, and what the journal calls clean is clean."""
        if self.room.machines.wrongs:
            raise Broken("; ".join(self.room.machines.wrongs))
        self._check_access()
        self._check_clean()

    def _check_clean(self) -> None:
        """What the journal calls clean was reset since the host was booted, under the kernel that runs."""
        if self.room.is_up:
            called = self.room.called_clean()
            stale = {address for address in called if self.room.reset_in.get(address) != self.room.boot}
            self._demand(not stale, f"clean, and not reset since the host was booted: {stale}")

    def _check_access(self) -> None:
        """Whoever is let through has a lane of their own, and has not been told that their lease is over."""
        given = Counter(address for address, _port in self.room.filter.forwards.values())
        self._demand(max(given.values(), default=1) == 1, f"two ports lead to one machine: {given}")
        if self.room.is_up and not self.trouble.is_ahead:
            known = {lane.bridge: lane.lease_id for lane in self.room.rig.lanes.all()}
            admitted = {known[bridge] for bridge in self.room.filter.admitted if bridge in known}
            over = admitted & self._over() if admitted else set()
            self._demand(not over, f"over, and let through: {over}")

    def _over(self) -> set[UUID]:
        """Leases of which their tenants were told that they are over."""
        return {lease.lease_id for lease in self.desk.rented.values() if lease.state == "gone"}

    def come_to_an_end(self) -> None:
        """Nothing goes wrong any more: everything reaches its goal, or has honestly failed, and is clean."""
        self.told.append("— the end —")
        self._calm_down_for_good()
        self._others_go_on()
        self._make_whole()
        self._go_round(lambda: not any(self._rented("ordered")))
        for lease in self._rented("ordered"):
            raise Broken(f"{lease.subject} neither runs nor has it failed")
        for lease in self._rented("running"):
            self.desk.release(lease, "completed")
        self._go_round(self._is_over)
        if self._is_over():
            self._come_back()
        self._check_end()

    def _come_back(self) -> None:
        """A home volume serves its person's next lease, whatever has become of those before it."""
        for home in sorted({lease.home for lease in self.desk.rented.values() if lease.home}):
            lease = self.desk.rent(1, home)
            assert lease is not None
            self._go_round(lambda lease=lease: lease.state != "ordered")  # type: ignore[misc]
            self._demand(lease.state == "running", f"{lease.subject} has not got its home: {lease.outcome}")
            self.desk.release(lease, "completed")
        self._go_round(self._is_over)

    def _go_round(self, is_done: Callable[[], bool]) -> None:
        """Everybody does their duty, a minute at a time."""
        for _ in range(ROUNDS):
            self.tend_cards()
            self.exchange()
            self._work_off()
            self.room.look()
            self._check()
            if is_done():
                break
            self.clock.sleep(61)

    def _calm_down_for_good(self) -> None:
        self.calm = True
        self.calm_down()
        self.clock.skew = timedelta()
        self.room.machines.obeys = True
        for facts in self.room.machines.all():
            if facts.lease_id is None and not facts.scrubs:
                self.room.machines.remove_foreign(facts.name)
        for card in self.room.cards.state.cards.values():
            card.present = True

    def _others_go_on(self) -> None:
        """Whoever does not wait for what never returns comes to their goal before anything is restarted."""
        if self.room.strands.slow():
            self._go_round(lambda: not self.room.strands.slow())
        if self.room.strands.hung() or self._wedged():
            self._go_round(lambda: not self._held_up())
            self._demand(not self._held_up(), f"held up, and need not be: {self._held_up()}")

    def _held_up(self) -> list[str]:
        """Leases and cards that are not at their goal, and that nothing is in the way of."""
        locks = self.room.locks_of_hung_plans() | {gpu_lock(address) for address in self._wedged()}
        return [told for told, wanted in self._on_the_way() if locks.isdisjoint(wanted)]

    def _on_the_way(self) -> Iterator[tuple[str, set[str]]]:
        """Leases and cards that are not at their goal, and what they need for it."""
        for lease in [*self._rented("ordered"), *self._rented("releasing")]:
            yield lease.subject, machine_locks(lease.lease_id, lease.orders)
        for card in self.desk.cards:
            if card.state not in ("clean", "leased"):
                whole = card.whole or card
                yield f"{card.state} {card.address}", {gpu_lock(card.address), gpu_lock(whole.address)}

    def _wedged(self) -> set[str]:
        return {address for address, card in self.room.cards.state.cards.items() if card.hangs}

    def _make_whole(self) -> None:
        """Somebody restarts what hangs."""
        if self._wedged():
            self.room.reboot()
        elif self.room.strands.hung():
            self.room.down()

    def _is_over(self) -> bool:
        leases = all(lease.state == "gone" for lease in self.desk.rented.values())
        cards = all(card.state == "clean" for card in self.desk.cards)
        return leases and cards and not self.desk.open and not self.room.machines.all()

    def _check_end(self) -> None:
        self._demand(not self.desk.open, f"never answered: {[*self.desk.open.values()]}")
        for lease in self.desk.rented.values():
            self._demand(lease.state == "gone" and lease.outcome, f"{lease.subject} is {lease.state}")
            self._demand(lease.saved or not lease.saves, f"nobody knows what became of {lease.saves}")
        for card in self.desk.cards:
            self._demand(card.state == "clean", f"{card.address} is {card.state}")
            there = self.room.state_of(card.gpu_id)
            self._demand(there == "clean", f"{card.address} is {there} on the host")
            self._demand(self.room.is_blank(card.address), f"{card.address} is called clean and is not")
        self._demand(not self.room.cards.state.slices, f"slices are left: {self.room.cards.state.slices}")
        self._demand(not self.room.machines.all(), f"left: {self.room.machines.all()}")
        kept = {lease.saves for lease in self.desk.rented.values() if lease.saved == "kept"}
        self._demand(self.room.pool() == kept, f"in the pool: {self.room.pool()}, not {kept}")
        again = [name for name, count in self.trouble.homes_made.items() if count > 1]
        self._demand(not again, f"home volumes were made anew: {again}")
        self._demand(not self.room.disks(), f"disks are left: {self.room.disks()}")
        self._demand(not self.room.machines.networks(), f"networks: {self.room.machines.networks()}")
        self._demand(not self.room.rig.lanes.all(), f"lanes: {self.room.rig.lanes.all()}")
        self._demand(not self.room.filter.admitted, f"let through: {self.room.filter.admitted}")
        self._demand(not self.room.rig.plans.open(), "plans are open")
        self._demand(not self.room.rig.machines.kept(), f"kept: {self.room.rig.machines.kept()}")
        defined = self.room.machines.definitions.items()
        made = [name for name, count in defined if count > 1 and not name.startswith("scrub-")]
        self._demand(not made, f"defined more than once: {made}")

    def _demand(self, holds: object, otherwise: str) -> None:
        if not holds:
            raise Broken(otherwise)

    # Ways and means.

    def _meanwhile(self, boundary: str) -> None:
        """Other threads of the worker, and the power, do not wait for a step to end."""
        if self.calm:
            return
        match self.dice.randrange(60):
            case 0:
                self.told.append(f"  power cut at {boundary}")
                self._happened("worker killed")
                self.room.strands.cut()
            case 1 | 2:
                self.room.watch_meanwhile()
            case 3 if not self.broker_away and self.seen:
                self.room.take_meanwhile(self.dice.choice(self.seen))
            case 4:
                self.told.append(f"  stalls at {boundary}")
                self._happened("worker stall")
                self.room.stall(self.dice.choice(DELAYS))

    def _work_off(self) -> None:
        """All plans to their end."""
        for _ in range(1000):
            if not self.room.advance(self.dice.choice):
                self.report()
                return
        raise Broken("plans do not come to an end")

    def _lease(self, state: str) -> Rented | None:
        found = self._rented(state)
        return self.dice.choice(found) if found else None

    def _rented(self, state: str) -> list[Rented]:
        return [lease for lease in self.desk.rented.values() if lease.state == state]

    def _happened(self, fault: str) -> None:
        if fault:
            self.told.append(f"  {fault}")
            self.trouble.happened[fault] += 1

    def _happens(self, chance: float) -> bool:
        return self.calm or self.dice.random() < chance
