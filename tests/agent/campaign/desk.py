"""The portal's part in a history: it orders, believes only what is reported in sequence, and asks again."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID, uuid5

from hosts.protocol import messages as m
from hosts.protocol.codec import decode_report
from hosts.protocol.homes import HomeOrder
from hosts.protocol.signing import parse_envelope
from hosts.protocol.snapshots import SnapshotFailed, SnapshotRemoved, SnapshotTaken
from tests.agent.campaign.clock import Clock
from tests.agent.host_in_a_box import HOST, Control, gpu_order

PowerAction = Literal["on", "off", "restart"]
POOL = "studio"
_SLICES = UUID(int=0x51C0)
HOMES = (UUID(int=0x40E1), UUID(int=0x40E2))


@dataclass
class Card:
    """A GPU as the portal believes it to be. `awaited`: the host cleans it by itself, or was asked to.

    One that is divided is out of service; its division is ordered, stands or is ending. A slice is of a
    `whole`.
    """

    gpu_id: UUID
    address: str
    state: str = "dirty"
    tenure: int = 0
    awaited: bool = False
    division: str = ""
    methods: tuple[str, ...] = ("bar",)
    profile: m.SliceProfile | None = None
    count: int = 0
    whole: Card | None = None

    @property
    def order(self) -> m.GpuOrder:
        return m.GpuOrder(gpu_id=self.gpu_id, tenure=self.tenure, address=self.address)

    @property
    def policy(self) -> m.ScrubPolicy:
        """All methods are to be used; without a fast window samples have to do."""
        return m.ScrubPolicy(
            methods=self.methods, read_back="full" if "nvidia-clear" not in self.methods else "sampled"
        )

    @property
    def is_idle(self) -> bool:
        """Whether nobody uses it, and nothing is done with it."""
        return self.state in ("clean", "quarantined", "missing") or (
            self.state == "dirty" and not self.awaited
        )


def whole_card(number: int) -> Card:
    """One of the simulated bus' cards."""
    order = gpu_order(number)
    return Card(order.gpu_id, order.address)


@dataclass
class Rented:
    """A lease. `outcome` is what its tenant is told when it is over, `saved` what of the snapshot `saves`."""

    lease_id: UUID
    cards: list[Card]
    orders: tuple[m.GpuOrder, ...]
    state: str = "ordered"
    outcome: str = ""
    saves: UUID | None = None
    saved: str = ""
    home: UUID | None = None

    @property
    def subject(self) -> str:
        return f"lease:{self.lease_id.int}"


@dataclass
class Desk:
    """Commands that are not answered yet are in `open`, by id."""

    clock: Clock
    control: Control
    image: m.ImageOrder
    cards: list[Card]
    rented: dict[UUID, Rented] = field(default_factory=dict)
    open: dict[UUID, m.Command] = field(default_factory=dict)
    journal_id: UUID | None = None
    over: set[UUID] = field(default_factory=set)
    applied: int = 0
    waiting: dict[int, m.Report] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    patience: int = 0
    known: dict[str, m.Report] = field(default_factory=dict)
    made: set[UUID] = field(default_factory=set)

    def free_homes(self) -> list[UUID]:
        """Home volumes that no lease has."""
        taken = {lease.home for lease in self.rented.values() if lease.state != "gone"}
        return [home for home in HOMES if home not in taken]

    def rent(self, count: int, home: UUID | None = None) -> Rented | None:
        """A lease on cards that are believed to be clean, handed over to it at once."""
        free = [card for card in self.cards if card.state == "clean"]
        free = [card for card in free if card.methods == free[0].methods][:count]
        if len(free) < count:
            return None
        for card in free:
            card.state, card.tenure = "leased", card.tenure + 1
        lease = Rented(UUID(int=len(self.rented) + 1), free, tuple(card.order for card in free))
        lease.home = home
        self.rented[lease.lease_id] = lease
        machine = m.MachineOrder(
            name=f"lease-{lease.lease_id.int}", vcpus=1, memory_mib=64, disk_gib=1, image=self.image,
            network=m.NetworkOrder(ports=(22,)), home=self._home(home),
        )  # fmt: skip
        ends_at = self.clock.now + timedelta(hours=4)
        goal = m.Provision(
            lease_id=lease.lease_id, ends_at=ends_at, grace_seconds=120, gpus=lease.orders, machine=machine
        )
        self.order(goal, lease.subject)
        return lease

    def _home(self, home: UUID | None) -> HomeOrder | None:
        if home is None:
            return None
        return HomeOrder(volume_id=home, pool=POOL, size_gib=1, made=home in self.made, sealed_key="")

    def switch(self, lease: Rented, action: PowerAction, *, patience: int = 0) -> None:
        goal = m.Power(lease_id=lease.lease_id, action=action, shutdown_seconds=patience)
        self.order(goal, lease.subject)

    def extend(self, lease: Rented) -> None:
        ends_at = self.clock.now + timedelta(hours=5)
        self.order(m.Update(lease_id=lease.lease_id, ends_at=ends_at), lease.subject)

    def release(self, lease: Rented, why: str) -> None:
        lease.outcome = lease.outcome or why
        lease.state = "releasing"
        goal = m.Release(
            lease_id=lease.lease_id,
            gpus=lease.orders,
            shutdown_seconds=self.patience,
            scrub=lease.cards[0].policy,
            save=_snapshot(lease) if lease.saves and not lease.saved else None,
        )
        self.order(goal, lease.subject)

    def save(self, lease: Rented, *, at_once: bool) -> None:
        """The tenant wants a snapshot, now or when the lease ends."""
        lease.saves = UUID(int=0x5A00 + lease.lease_id.int)
        if at_once:
            goal = m.TakeSnapshot(lease_id=lease.lease_id, snapshot=_snapshot(lease))
            self.order(goal, f"snapshot:{lease.saves}")

    def intake(self, card: Card) -> None:
        card.state, card.awaited = "dirty", True
        self.order(m.Intake(gpu=card.order, scrub=card.policy), self._subject(card))

    def divide(self, card: Card, profile: m.SliceProfile, count: int) -> None:
        """A clean card leaves service; its slices come into it."""
        card.state, card.division, card.profile, card.count = "out of service", "ordered", profile, count
        self._order_division(card)

    def _order_division(self, card: Card) -> None:
        assert card.profile is not None
        goal = m.Divide(gpu=card.order, profile=card.profile.name, count=card.count)
        self.order(goal, self._subject(card))

    def make_whole(self, card: Card) -> None:
        """If nothing is in the way of it."""
        slices = self.slices_of(card)
        if card.division == "stands" and all(each.is_idle for each in slices):
            card.division = "ending"
            for each in slices:
                each.state = "withdrawn"
            self.order(m.Undivide(gpu=card.order), self._subject(card))

    def slices_of(self, card: Card) -> list[Card]:
        return [each for each in self.cards if each.whole is card]

    def inspect(self) -> None:
        self.order(m.Inspect(), f"host:{HOST}")

    def order(self, goal: m.Goal, subject: str) -> None:
        """What an earlier generation of the subject wanted is wanted no more."""
        for known in [each for each in self.open.values() if each.subject == subject]:
            del self.open[known.command_id]
        command = self.control.command(goal, subject=subject, issued_at=self.clock.now)
        self.open[command.command_id] = command

    def sendings(self) -> list[str]:
        """Everything unanswered once more, each with a fresh expiry."""
        now = self.clock.now
        fresh = {
            "issued_at": now, "expires_at": now + timedelta(minutes=30), "journal_id": self.journal_id,
        }  # fmt: skip
        return [self.control.sign(_with(command, fresh)) for command in self.open.values()]

    def receipt(self) -> str:
        goal = m.Receipt(journal_id=self.journal_id or UUID(int=0), through=self.applied)
        expires = self.clock.now + timedelta(minutes=30)
        return self.control.envelope(goal, subject=f"receipts:{HOST}", generation=0, expires_at=expires)

    def receive(self, envelope: str) -> None:
        report = self.known.get(envelope) or self._read(envelope)
        if report.journal_id in self.over:
            return
        if report.journal_id != self.journal_id:
            self._adopt(report.journal_id)
        if report.sequence > self.applied:
            self.waiting[report.sequence] = report
        while following := self.waiting.pop(self.applied + 1, None):
            self.applied += 1
            self._apply(following)

    def _read(self, envelope: str) -> m.Report:
        """As the host wrote it: whether others could have is not at stake here."""
        report = self.known[envelope] = decode_report(b64decode(parse_envelope(envelope).body))
        return report

    def _adopt(self, journal_id: UUID) -> None:
        """A new journal: what the host knew about its GPUs is lost, and so are the orders it had."""
        if self.journal_id is not None:
            self.over.add(self.journal_id)
            for card in self.cards:
                if card.state in ("clean", "dirty", "scrubbing"):
                    card.state, card.awaited = "dirty", False
        self.journal_id, self.applied = journal_id, 0
        self.waiting.clear()
        for card in self.cards:
            if card.division == "stands":
                self._order_division(card)

    def _apply(self, report: m.Report) -> None:
        match report.event:
            case m.Refused(final=True):
                self._refused(report)
            case m.MachineRunning(lease_id=lease_id):
                self._answer(report, m.Provision, m.Power)
                self._runs(self.rented[lease_id])
            case m.MachineStopped():
                self._answer(report, m.Power)
            case m.ProvisionFailed(lease_id=lease_id, step=step):
                self._answer(report, m.Provision)
                self._fail(self.rented[lease_id], f"failed at {step}")
            case m.MachineGone(lease_id=lease_id):
                self._answer(report, m.Release)
                self._gone(self.rented[lease_id])
            case m.ScrubStarted() | m.Scrubbed() | m.GpuFailed() | m.Ordered():
                self._apply_to_card(report, report.event)
            case SnapshotTaken() | SnapshotFailed() | SnapshotRemoved():
                self._apply_to_snapshot(report, report.event)
            case m.Divided() | m.Undivided() | m.DivisionFailed():
                self._apply_to_division(report, report.event)
            case m.Inventory() | m.Accepted():
                self._answer(report, m.Inspect, m.Update)

    def _apply_to_division(self, report: m.Report, event: m.Divided | m.Undivided | m.DivisionFailed) -> None:
        self._answer(report, m.Divide, m.Undivide)
        card = next(card for card in self.cards if card.gpu_id == event.gpu_id)
        match event:
            case m.Divided(slices=addresses) if card.division == "ordered":
                card.division = "stands"
                self.cards += [
                    Card(uuid5(_SLICES, each), each, methods=card.methods, whole=card) for each in addresses
                ]
            case m.Undivided() if card.division == "ending":
                self._end_division(card)
            case m.DivisionFailed(reason=reason):
                self.told.append(f"division of {card.address} failed: {reason}")
                self._undo_division(card)

    def _undo_division(self, card: Card) -> None:
        """It is what it was before the order."""
        if card.division == "ordered":
            self._end_division(card)
        elif card.division == "ending":
            card.division = "stands"
            for each in self.slices_of(card):
                each.state, each.awaited = "dirty", False

    def _end_division(self, card: Card) -> None:
        card.state, card.awaited, card.division = "dirty", False, ""
        self.cards[:] = [each for each in self.cards if each.whole is not card]

    def _apply_to_card(
        self, report: m.Report, event: m.ScrubStarted | m.Scrubbed | m.GpuFailed | m.Ordered
    ) -> None:
        if isinstance(event, m.Scrubbed | m.GpuFailed):
            self._answer(report, m.Intake)
        if isinstance(event, m.GpuFailed):
            self._answer(report, m.Release)
        card = next((card for card in self.cards if card.gpu_id == event.gpu_id), None)
        if card is None or event.tenure != card.tenure or card.state in ("out of service", "withdrawn"):
            return
        match event:
            case m.Ordered(action=action) if card.state in ("clean", "dirty"):
                card.state, card.awaited = "dirty", action == "scrub"
            case m.ScrubStarted() if card.state in ("clean", "dirty"):
                card.state = "scrubbing"
            case m.Scrubbed(evidence=evidence) if card.state == "scrubbing":
                card.state = "clean" if evidence.verdict == "passed" else "quarantined"
                card.awaited = False
                self.told += [f"scrub of {card.address}: {reason}" for reason in evidence.reasons]
            case m.GpuFailed(missing=missing, step=step, reason=reason):
                self.told.append(f"{card.address} failed at {step}: {reason}")
                card.state, card.awaited = "missing" if missing else "quarantined", False
                for lease in self.rented.values():
                    if card in lease.cards and card.order in lease.orders and lease.state != "releasing":
                        self._fail(lease, f"{card.order.address} failed")

    def _apply_to_snapshot(self, report: m.Report, event: m.SnapshotEvent) -> None:
        self._answer(report, m.TakeSnapshot, m.RemoveSnapshot)
        if not isinstance(event, SnapshotRemoved):
            self._saved(self.rented[event.lease_id], report)

    def _saved(self, lease: Rented, report: m.Report) -> None:
        """Of one that failed nothing stays. A lease that is being released has another try in its release."""
        if lease.saved or lease.saves is None:
            return
        if isinstance(report.event, SnapshotTaken):
            lease.saved = "kept"
        elif lease.state != "releasing" or report.subject == lease.subject:
            lease.saved = "failed"
            self.order(m.RemoveSnapshot(snapshot_id=lease.saves, pool=POOL), f"snapshot:{lease.saves}")

    def _refused(self, report: m.Report) -> None:
        command = self.open.pop(report.command_id, None) if report.command_id else None
        if command is None:
            return
        reason = report.event.reason if isinstance(report.event, m.Refused) else ""
        self.told.append(f"refused {type(command.goal).__name__}: {reason}")
        match command.goal:
            case m.Provision(lease_id=lease_id):
                self._fail(self.rented[lease_id], "refused")
            case m.Intake(gpu=gpu):
                for card in self.cards:
                    card.awaited &= card.gpu_id != gpu.gpu_id
            case m.Divide(gpu=gpu) | m.Undivide(gpu=gpu):
                self._undo_division(next(card for card in self.cards if card.gpu_id == gpu.gpu_id))

    def _fail(self, lease: Rented, why: str) -> None:
        if lease.state in ("ordered", "running"):
            self.release(lease, why)

    def _runs(self, lease: Rented) -> None:
        if lease.state == "ordered":
            lease.state = "running"
        if lease.home:
            self.made.add(lease.home)

    def _gone(self, lease: Rented) -> None:
        lease.state = "gone"
        for command in list(self.open.values()):
            if isinstance(command.goal, m.TakeSnapshot) and command.goal.lease_id == lease.lease_id:
                del self.open[command.command_id]  # the release has seen to it
        for card, order in zip(lease.cards, lease.orders, strict=True):
            if card.state == "leased" and card.tenure == order.tenure:
                card.state, card.awaited = "dirty", True

    def _answer(self, report: m.Report, *kinds: type[Any]) -> None:
        """The goal that the report is about, if it is one of these kinds and of that generation."""
        for command in list(self.open.values()):
            same = (command.subject, command.generation) == (report.subject, report.generation)
            if same and isinstance(command.goal, kinds):
                del self.open[command.command_id]

    def _subject(self, card: Card) -> str:
        return f"gpu:{card.gpu_id}"


def _slice(whole: Card, address: str) -> Card:
    return Card(uuid5(_SLICES, address), address, methods=whole.methods, whole=whole)


def _snapshot(lease: Rented) -> m.SnapshotOrder:
    assert lease.saves is not None
    return m.SnapshotOrder(snapshot_id=lease.saves, pool=POOL, sealed_key="")


def _with(command: m.Command, changes: dict[str, Any]) -> m.Command:
    fields = {name: getattr(command, name) for name in m.Command.__struct_fields__}
    return m.Command(**{**fields, **changes})
