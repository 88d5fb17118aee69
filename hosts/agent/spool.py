"""Reports on their way to the portal: numbered, signed and kept until the portal says that it has them."""

from __future__ import annotations

import threading
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from hosts.agent.journal import Journal
from hosts.protocol.codec import OLDEST, encode
from hosts.protocol.messages import Event, Report, Scrubbed, StepReport
from hosts.protocol.signing import Signer, parse_envelope

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Origin:
    """What a report answers: the subject and generation of a goal, and the command that stated it, if any."""

    subject: str
    generation: int = 0
    command_id: UUID | None = None


class Spool:
    """The queue of reports on disk. `news` is set whenever a report was added.

    What an older portal has no words for is sent in ours: it stores that unread, and one that does understand
    learns from it what is understood here.
    """

    def __init__(self, journal: Journal, *, signer: Signer, host: str, clock: Clock) -> None:
        self._journal = journal
        self._signer = signer
        self._host = host
        self._clock = clock
        self.news = threading.Event()

    @property
    def journal_id(self) -> UUID:
        return self._journal.journal_id

    @property
    def spoken(self) -> int:
        """The protocol version in which the portal is spoken to."""
        with self._journal.transaction():
            return int(self._journal.recall(_SPOKEN) or OLDEST)

    def hear(self, protocol: int) -> None:
        """The portal has spoken in this version: it is answered in the same one."""
        with self._journal.transaction():
            if protocol != self.spoken:
                self._journal.remember(_SPOKEN, str(protocol))

    def origin_of(self, subject: str) -> Origin:
        """For what no command asked for: the subject's latest generation, or the report would look stale."""
        with self._journal.transaction():
            row = self._journal.execute("SELECT generation FROM subject WHERE name = ?", subject).fetchone()
            return Origin(subject, 0 if row is None else row["generation"])

    @property
    def host_origin(self) -> Origin:
        """For what is about the host as a whole."""
        return self.origin_of(f"host:{self._host}")

    def add(self, event: Event, origin: Origin) -> int:
        """Number, sign and store a report inside the caller's transaction; its sequence."""
        with self._journal.transaction():
            cursor = self._journal.execute("INSERT INTO report (envelope) VALUES ('')")
            sequence = cursor.lastrowid or 0
            envelope = self._signer.sign(encode(self._report(event, origin, sequence)))
            self._journal.execute("UPDATE report SET envelope = ? WHERE sequence = ?", envelope, sequence)
            if not isinstance(event, StepReport):
                self._remember_standing(origin, event)
        self.news.set()
        return sequence

    def repeat_standing(self, origin: Origin) -> None:
        """Report again what was last reported for this command, for a portal that asks twice."""
        with self._journal.transaction():
            row = self._journal.execute(
                "SELECT standing FROM command WHERE id = ?", str(origin.command_id)
            ).fetchone()
            if row is not None and row["standing"] is not None:
                self.add(_EVENTS.decode(row["standing"]), origin)

    def void_scrubs(self, gpu_id: UUID) -> None:
        """Evidence of the past proves nothing of the scrub that begins: it is not repeated any more."""
        with self._journal.transaction():
            about_it = self._journal.execute(
                "SELECT id, standing FROM command WHERE instr(CAST(standing AS TEXT), ?)", str(gpu_id)
            )
            for row in about_it.fetchall():
                event = _EVENTS.decode(row["standing"])
                if isinstance(event, Scrubbed) and event.gpu_id == gpu_id:
                    self._journal.execute("UPDATE command SET standing = NULL WHERE id = ?", row["id"])

    def unreceipted(self, *, after: int, limit: int) -> list[tuple[int, str]]:
        """The stored (sequence, envelope) pairs beyond `after`, in order."""
        with self._journal.transaction():
            rows = self._journal.execute(
                "SELECT sequence, envelope FROM report WHERE sequence > ? ORDER BY sequence LIMIT ?",
                after,
                limit,
            )
            return [(row["sequence"], row["envelope"]) for row in rows]

    def holds(self, sequence: int) -> bool:
        """Whether the portal has yet to acknowledge this report."""
        with self._journal.transaction():
            found = self._journal.execute("SELECT 1 FROM report WHERE sequence = ?", sequence)
            return found.fetchone() is not None

    def forget(self, *, journal_id: UUID, through: int) -> None:
        """The portal has all up to `through` of that journal; other journals' receipts are not ours."""
        if journal_id == self._journal.journal_id:
            with self._journal.transaction():
                self._journal.execute("DELETE FROM report WHERE sequence <= ?", through)

    def size(self) -> int:
        with self._journal.transaction():
            return int(self._journal.execute("SELECT count(*) FROM report").fetchone()[0])

    def _report(self, event: Event, origin: Origin, sequence: int) -> Report:
        return Report(
            protocol=max(self.spoken, event.SINCE),
            host=self._host,
            journal_id=self._journal.journal_id,
            sequence=sequence,
            command_id=origin.command_id,
            subject=origin.subject,
            generation=origin.generation,
            occurred_at=self._clock(),
            event=event,
        )

    def _remember_standing(self, origin: Origin, event: Event) -> None:
        """What nobody asked for, such as a guest that stopped, is how the latest goal stands from then on."""
        which, value = ("id", str(origin.command_id)) if origin.command_id else ("subject", origin.subject)
        self._journal.execute(
            f"UPDATE command SET standing = ? WHERE {which} = ? AND generation = ?",  # noqa: S608 — two words
            msgspec.json.encode(event),
            value,
            origin.generation,
        )


def resign_reports(journal: Journal, signer: Signer) -> None:
    """The host has new keys: what waits is signed anew, word for word. Inside the caller's transaction."""
    for row in journal.execute("SELECT sequence, envelope FROM report").fetchall():
        body = b64decode(parse_envelope(row["envelope"]).body)
        journal.execute(
            "UPDATE report SET envelope = ? WHERE sequence = ?", signer.sign(body), row["sequence"]
        )


_SPOKEN = "spoken_protocol"
_EVENTS: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Event)
