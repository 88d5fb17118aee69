"""The door: what comes off the queue is checked here, and journalled as accepted or reported as refused.

A refused command changes nothing. Refusals are reported sparingly, so that a flood of forgeries stays cheap.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from hosts.agent.goals import Refusal, TooLate, take_goal
from hosts.agent.rig import Rig
from hosts.agent.spool import Origin
from hosts.protocol.codec import MessageError, decode_command
from hosts.protocol.messages import Accepted, Command, OpenConsole, ReadHome, Receipt, Refused
from hosts.protocol.signing import ForgedMessage, Verifier

log = logging.getLogger(__name__)

REFUSALS_AT_ONCE = 20
REFUSALS_PER_SECOND = 1.0


class Allowance:
    """A token bucket: `burst` at once, then `per_second`."""

    def __init__(self, burst: int, per_second: float) -> None:
        self._burst = burst
        self._per_second = per_second
        self._left = float(burst)
        self._at = time.monotonic()
        self._lock = threading.Lock()

    def take(self) -> bool:
        with self._lock:
            now = time.monotonic()
            self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
            self._at = now
            if self._left < 1:
                return False
            self._left -= 1
            return True


class Acceptance:
    """Takes envelopes. `open_console` and `read_home` are called, outside transactions, for each console and
    reading that was accepted.
    """

    def __init__(
        self,
        rig: Rig,
        verifier: Verifier,
        *,
        open_console: Callable[[OpenConsole, Origin], None],
        read_home: Callable[[ReadHome, Origin], None],
    ) -> None:
        self._rig = rig
        self._verifier = verifier
        self._open_console = open_console
        self._read_home = read_home
        self._refusals = Allowance(REFUSALS_AT_ONCE, REFUSALS_PER_SECOND)

    def deliver(self, envelope: str) -> None:
        """Check, journal and answer one envelope. When this returns, it may be acknowledged."""
        try:
            command = decode_command(self._verifier.open(envelope))
        except (ForgedMessage, MessageError) as error:
            self.refuse(str(error))
            return
        origin = Origin(command.subject, command.generation, command.command_id)
        try:
            self._deliver_command(command, origin)
        except Refusal as reason:
            self.refuse(str(reason), origin, final=reason.final)

    def refuse(self, reason: str, origin: Origin | None = None, *, final: bool = True) -> None:
        """Report that something was refused; what cannot be attributed is about the host."""
        log.warning("Refused: %s", reason)
        if self._refusals.take():
            refused = Refused(reason=reason[:2000], final=final)
            self._rig.spool.add(refused, origin or self._rig.spool.host_origin)

    def _deliver_command(self, command: Command, origin: Origin) -> None:
        self._check_address(command)
        self._rig.spool.hear(command.protocol)
        if isinstance(command.goal, Receipt):
            self._rig.spool.forget(journal_id=command.goal.journal_id, through=command.goal.through)
        elif self._accept(command, origin):
            match command.goal:
                case OpenConsole() as goal:
                    self._open_console(goal, origin)
                case ReadHome() as goal:
                    self._read_home(goal, origin)

    def _check_address(self, command: Command) -> None:
        if command.host != self._rig.config.host:
            raise Refusal(f"The command is for host {command.host!r}.")
        if command.expires_at <= self._rig.clock():
            raise TooLate(f"The command expired at {command.expires_at.isoformat()}.")
        if command.journal_id not in (None, self._rig.journal.journal_id):
            # Generations were lost with that journal: what was carried out before would look new.
            raise TooLate(f"The command is for this host's earlier journal {command.journal_id}.")

    def _accept(self, command: Command, origin: Origin) -> bool:
        """Journal the command, its plans and the answer at once; False if it was accepted before."""
        with self._rig.journal.transaction():
            if self._is_known(command):
                self._rig.spool.repeat_standing(origin)
                return False
            self._check_generation(command)
            take_goal(self._rig, command.goal, origin)
            self._remember(command)
            self._rig.spool.add(Accepted(), origin)
        log.info("Accepted %s for %s", type(command.goal).__name__.lower(), command.subject)
        return True

    def _is_known(self, command: Command) -> bool:
        known = self._rig.journal.execute("SELECT 1 FROM command WHERE id = ?", str(command.command_id))
        return known.fetchone() is not None

    def _check_generation(self, command: Command) -> None:
        row = self._rig.journal.execute(
            "SELECT generation FROM subject WHERE name = ?", command.subject
        ).fetchone()
        if row is not None and command.generation < row["generation"]:
            raise Refusal(f"Generation {row['generation']} of {command.subject} was accepted before.")

    def _remember(self, command: Command) -> None:
        """Raise the subject's generation. Older commands of it are refused by that from now on."""
        execute = self._rig.journal.execute
        execute(
            "INSERT OR REPLACE INTO subject (name, generation) VALUES (?, ?)",
            command.subject,
            command.generation,
        )
        execute(
            "DELETE FROM command WHERE subject = ? AND generation < ?", command.subject, command.generation
        )
        execute(
            "INSERT INTO command (id, subject, generation) VALUES (?, ?, ?)",
            str(command.command_id),
            command.subject,
            command.generation,
        )
