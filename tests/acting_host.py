"""A host that takes the commands it is sent and answers them as dice say: well, badly, late, twice, never."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from hosts.protocol import messages as m
from hosts.protocol.codec import decode_command
from hosts.protocol.signing import COMMAND, Verifier, key_id
from leasing.keys import portal_signing_key
from leasing.reports import receive_report
from tests.world import World, evidence, inventory


class ActingHost:
    """It keeps what a real one keeps: generations, commands it accepted, machines, and GPUs to scrub."""

    def __init__(self, world: World, dice: random.Random) -> None:
        self.world, self.dice = world, dice
        self.voice = world.host
        self.honest = False
        self.silent_until: datetime | None = None
        self.generations: dict[str, int] = {}
        self.known: dict[UUID, m.Command] = {}
        self.todo: list[m.Command] = []
        self.machines: dict[UUID, str] = {}
        self.scrubs: list[tuple[m.GpuOrder, UUID | None, m.Command]] = []
        self.held_back: list[str] = []
        self.said: list[str] = []
        key = portal_signing_key().verify_key
        self.verifier = Verifier({key_id(key): key}, COMMAND)

    def behave(self) -> None:
        """From now on everything is answered, and everything succeeds."""
        self.honest, self.silent_until = True, None

    def fall_silent(self) -> None:
        self.silent_until = self.world.now + self.dice.choice([self._minutes(m) for m in (1, 10, 40)])

    def repeat(self) -> None:
        """Send something again that was sent before."""
        if self.said:
            receive_report(self.dice.choice(self.said), now=self.world.now)

    def lose_journal(self) -> None:
        """The disk is new: machines run on, everything else is forgotten."""
        self.voice.journal_id, self.voice.sequence = uuid4(), 0
        self.generations, self.known, self.todo, self.scrubs, self.held_back = {}, {}, [], [], []
        self.look_around()

    def work(self) -> None:
        """Take what was sent, do some of it, and say so."""
        if self.silent_until is not None and self.world.now < self.silent_until:
            return
        sent, self.world.sent = self.world.sent, []
        for host, envelope in sent:
            if host.pk == self.voice.row.pk:
                self.take(decode_command(self.verifier.open(envelope)))
        for command in [c for c in self.todo if self.happens(0.8)]:
            self.todo.remove(command)
            self.carry_out(command)
        for scrub in [s for s in self.scrubs if self.happens(0.8)]:
            if scrub in self.scrubs:
                self.scrubs.remove(scrub)
                self.scrub(*scrub)
        self.look_around()

    def take(self, command: m.Command) -> None:
        if isinstance(command.goal, m.Receipt):
            return
        if command.expires_at <= self.world.now:
            self.say(m.Refused(reason="expired", final=False), command)
        elif command.journal_id not in (None, self.voice.journal_id):
            self.say(m.Refused(reason="for an earlier journal", final=False), command)
        elif command.command_id in self.known:
            self.say(m.Accepted(), command)
        elif command.generation < self.generations.get(command.subject, 0):
            self.say(m.Refused(reason="an older generation"), command)
        elif not self.happens(0.93):
            self.say(m.Refused(reason="out of sorts"), command)
        else:
            self.accept(command)

    def accept(self, command: m.Command) -> None:
        self.known[command.command_id] = command
        self.generations[command.subject] = command.generation
        if isinstance(command.goal, m.Release):
            self.todo = [other for other in self.todo if other.subject != command.subject]
        self.todo.append(command)
        self.say(m.Accepted(), command)

    def carry_out(self, command: m.Command) -> None:
        match command.goal:
            case m.Provision():
                self.provision(command, command.goal)
            case m.Power():
                self.switch(command, command.goal)
            case m.Release():
                self.release(command, command.goal)
            case m.Intake():
                self.scrubs.append((command.goal.gpu, None, command))
            case m.Inspect():
                self.look_around(command)

    def provision(self, command: m.Command, goal: m.Provision) -> None:
        if self.happens(0.85):
            self.machines[goal.lease_id] = "running"
            self.say(m.MachineRunning(lease_id=goal.lease_id), command)
        else:
            self.machines[goal.lease_id] = "off"
            self.say(m.ProvisionFailed(lease_id=goal.lease_id, step="start", reason="no memory"), command)

    def switch(self, command: m.Command, goal: m.Power) -> None:
        if goal.action == "off":
            self.machines[goal.lease_id] = "off"
            self.say(m.MachineStopped(lease_id=goal.lease_id, cause="command"), command)
        else:
            self.machines[goal.lease_id] = "running"
            self.say(m.MachineRunning(lease_id=goal.lease_id), command)

    def release(self, command: m.Command, goal: m.Release) -> None:
        if not self.happens(0.9):
            for gpu in goal.gpus:
                self.fail_gpu(gpu, command, "stop")
            return
        self.machines.pop(goal.lease_id, None)
        self.say(m.MachineGone(lease_id=goal.lease_id), command)
        self.scrubs += [(gpu, goal.lease_id, command) for gpu in goal.gpus]

    def scrub(self, gpu: m.GpuOrder, lease_id: UUID | None, command: m.Command) -> None:
        self.say(m.ScrubStarted(gpu_id=gpu.gpu_id, tenure=gpu.tenure), command)
        if not self.happens(0.95):
            return  # forgotten: no verdict ever comes
        if not self.happens(0.95):
            self.fail_gpu(gpu, command, "reset")
            return
        flaws: dict[str, object] = {} if self.happens(0.85) else {"canaries_found": 1}
        proof = evidence(gpu.address, at=self.world.now, **flaws)
        self.say(m.Scrubbed(gpu_id=gpu.gpu_id, tenure=gpu.tenure, lease_id=lease_id, evidence=proof), command)

    def fail_gpu(self, gpu: m.GpuOrder, command: m.Command, step: str) -> None:
        self.say(m.GpuFailed(gpu_id=gpu.gpu_id, tenure=gpu.tenure, step=step, reason="stuck"), command)

    def look_around(self, command: m.Command | None = None) -> None:
        machines = tuple(
            m.MachineFacts(name=f"ws-{lease_id.hex[:8]}", state=state, lease_id=lease_id)  # type: ignore[arg-type]
            for lease_id, state in self.machines.items()
        )
        missing = not self.happens(0.98)
        addresses = [gpu.address for gpu in self.world.gpus[missing:]]
        self.say(inventory(*addresses, machines=machines), command)

    def say(self, event: m.Event, command: m.Command | None = None) -> None:
        """Report; at times late, behind what is said next."""
        at = self.world.now - self._minutes(self.dice.choice([0, 0, 0, 1, 30]) if not self.honest else 0)
        self.held_back.append(self.voice.envelope(event, at=at, command=command))
        if not self.happens(0.85):
            return
        self.dice.shuffle(self.held_back)
        self.said += self.held_back
        while self.held_back:
            receive_report(self.held_back.pop(), now=self.world.now)

    def happens(self, chance: float) -> bool:
        return self.honest or self.dice.random() < chance

    @staticmethod
    def _minutes(count: int) -> timedelta:
        return timedelta(minutes=count)
