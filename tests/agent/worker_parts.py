"""A host worker's parts around one journal, without a broker; and the other side of the wire, which signs.

Nothing here is simulated, so that a hypervisor without a test runner can have them on its own hardware, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

from nacl.public import PrivateKey
from nacl.signing import SigningKey

from hosts.agent.acceptance import Acceptance
from hosts.agent.config import Config
from hosts.agent.executor import Executor
from hosts.agent.hardware import Hardware
from hosts.agent.host_plans import PLAN_KINDS
from hosts.agent.journal import Journal
from hosts.agent.reconcile import reconcile
from hosts.agent.rig import Rig, make_rig, open_books
from hosts.agent.runner import Boundary
from hosts.agent.spool import Origin
from hosts.protocol.codec import PROTOCOL, decode_report, encode
from hosts.protocol.messages import Command, Goal, OpenConsole, ReadHome, Report
from hosts.protocol.signing import COMMAND, REPORT, Signer, Verifier, key_id
from tools.pace import slowness

E = TypeVar("E")
HOST = "box"
SETTLE_SECONDS = 20.0 * slowness()


def wait_for(condition: Callable[[], object], *, seconds: float = SETTLE_SECONDS) -> None:
    """Until the condition holds, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "The condition did not come true in time."
        time.sleep(0.01)


@dataclass
class Control:
    """The other side: it signs commands. `generations` maps a subject to its latest."""

    key: SigningKey = field(default_factory=SigningKey.generate)
    generations: dict[str, int] = field(default_factory=dict)

    def command(self, goal: Goal, *, subject: str, **changes: Any) -> Command:
        generation = self.generations[subject] = self.generations.get(subject, 0) + 1
        now = datetime.now(UTC)
        fields: dict[str, Any] = {
            "protocol": PROTOCOL,
            "command_id": uuid4(),
            "host": HOST,
            "subject": subject,
            "generation": generation,
            "issued_at": now,
            "expires_at": now + timedelta(minutes=1),
            "goal": goal,
        }
        return Command(**(fields | changes))

    def sign(self, command: Command) -> str:
        return Signer(self.key, COMMAND).sign(encode(command))

    def envelope(self, goal: Goal, *, subject: str, **changes: Any) -> str:
        return self.sign(self.command(goal, subject=subject, **changes))


class WorkerParts:
    """One host. `restart` forgets everything but the journal and what `make_hardware` finds again.

    Who derives from it sets `config` before `open`. `patience` is for plans, in seconds.
    """

    config: Config
    patience = SETTLE_SECONDS

    def __init__(self) -> None:
        self.control = Control()
        self.signing = SigningKey.generate()
        self.sealing = PrivateKey.generate()
        self.now = datetime.now(UTC)
        self.boot_id = "first boot"
        self.closed_leases: list[UUID] = []
        self.consoles: list[tuple[OpenConsole, Origin]] = []
        self.readings: list[tuple[ReadHome, Origin]] = []

    def make_hardware(self) -> Hardware:
        raise NotImplementedError

    def make_journal(self) -> Journal:
        return Journal(self.config.journal_path)

    def open(self, on_boundary: Boundary = lambda _: None) -> None:
        """Assemble the worker's parts around the journal, without starting anything."""
        hardware = self.make_hardware()
        books = open_books(
            config=self.config,
            clock=lambda: self.now,
            journal=self.make_journal(),
            signer=Signer(self.signing, REPORT),
        )
        self.rig: Rig = make_rig(books, hardware, close_consoles=self.closed_leases.append)
        keys = {key_id(self.control.key.verify_key): self.control.key.verify_key}
        self.acceptance = Acceptance(
            self.rig,
            Verifier(keys, COMMAND),
            open_console=lambda goal, origin: self.consoles.append((goal, origin)),
            read_home=lambda goal, origin: self.readings.append((goal, origin)),
        )
        self.executor = Executor(self.rig, PLAN_KINDS, on_boundary=on_boundary)

    def start(self) -> None:
        reconcile(self.rig, boot_id=self.boot_id)
        self.executor.start()

    def close(self) -> None:
        self.executor.stop(seconds=SETTLE_SECONDS)
        self.rig.journal.close()

    def restart(self, on_boundary: Boundary = lambda _: None) -> None:
        self.close()
        self.open(on_boundary)
        self.start()

    def deliver(self, goal: Goal, *, subject: str, **changes: Any) -> str:
        """Sign and deliver a command as if it came off the queue; its envelope."""
        envelope = self.control.envelope(goal, subject=subject, **changes)
        self.acceptance.deliver(envelope)
        return envelope

    def settle(self) -> None:
        """Wait until no plan is open."""
        wait_for(lambda: not self.rig.plans.open(), seconds=self.patience)

    def carry_out(self, goal: Goal, *, subject: str, **changes: Any) -> None:
        self.deliver(goal, subject=subject, **changes)
        self.settle()

    def reports(self) -> list[Report]:
        """Everything in the spool, its signatures checked."""
        verifier = Verifier({key_id(self.signing.verify_key): self.signing.verify_key}, REPORT)
        stored = self.rig.spool.unreceipted(after=0, limit=10_000)
        return [decode_report(verifier.open(envelope)) for _, envelope in stored]

    def events(self, kind: type[E]) -> list[E]:
        return [report.event for report in self.reports() if isinstance(report.event, kind)]

    def last(self, kind: type[E]) -> E:
        return self.events(kind)[-1]
