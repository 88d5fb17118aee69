"""What the journal knows about GPUs, machines and consoles: the rows, and all that writes them."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeVar
from uuid import UUID

import msgspec

from hosts.agent.journal import Journal
from hosts.agent.spool import Origin
from hosts.protocol.messages import (
    Fingerprint,
    Goal,
    GpuOrder,
    HomeOrder,
    Provision,
    Release,
    SnapshotOrder,
    TakeSnapshot,
)

GpuState = Literal["clean", "leased", "dirty", "scrubbing", "quarantined", "missing"]
MachineState = Literal["building", "on", "off", "suspended", "releasing", "gone"]
Switch = Literal["on", "off"]


@dataclass(frozen=True)
class GpuRecord:
    """A GPU as this host remembers it. What is not recorded as clean is not clean."""

    gpu_id: UUID
    address: str
    tenure: int
    state: GpuState
    lease_id: UUID | None
    fingerprint: Fingerprint | None

    def is_leased_to_another(self, lease_id: UUID | None) -> bool:
        return self.state == "leased" and self.lease_id != lease_id


@dataclass(frozen=True)
class MachineRecord:
    """A machine that this host was told to run. `provision` is None for one adopted after lost memory.

    `suspended` is off because the worker stopped it for its own exit; it comes back with the worker.
    """

    lease_id: UUID
    subject: str
    provision: Provision | None
    state: MachineState
    desired: Switch
    ends_at: datetime | None
    grace_seconds: int

    @property
    def deadline(self) -> datetime | None:
        """When the machine is stopped without being told to."""
        return self.ends_at and self.ends_at + timedelta(seconds=self.grace_seconds)


class Gpus:
    """The table of GPUs."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def all(self) -> list[GpuRecord]:
        with self._journal.transaction():
            return [_gpu(row) for row in self._journal.execute("SELECT * FROM gpu ORDER BY id")]

    def at(self, address: str) -> list[GpuRecord]:
        """Those last seen at this address: more than one after cards were exchanged."""
        return [gpu for gpu in self.all() if gpu.address == address]

    def get(self, gpu_id: UUID) -> GpuRecord | None:
        with self._journal.transaction():
            row = self._journal.execute("SELECT * FROM gpu WHERE id = ?", str(gpu_id)).fetchone()
            return None if row is None else _gpu(row)

    def put(
        self,
        order: GpuOrder,
        state: GpuState,
        *,
        lease_id: UUID | None,
        fingerprint: Fingerprint | None = None,
    ) -> None:
        """Write the state of the GPU that a command names, at that command's tenure or the higher one it has.

        A fingerprint once known stays until another is given.
        """
        with self._journal.transaction():
            self._journal.execute(
                "INSERT INTO gpu (id, address, tenure, state, lease_id, fingerprint)"
                " VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET address = excluded.address,"
                " tenure = max(gpu.tenure, excluded.tenure),"
                " state = excluded.state, lease_id = excluded.lease_id,"
                " fingerprint = coalesce(excluded.fingerprint, gpu.fingerprint)",
                str(order.gpu_id),
                order.address,
                order.tenure,
                state,
                _text(lease_id),
                None if fingerprint is None else msgspec.json.encode(fingerprint),
            )

    def set_state(self, gpu_id: UUID, state: GpuState) -> None:
        with self._journal.transaction():
            self._journal.execute("UPDATE gpu SET state = ? WHERE id = ?", state, str(gpu_id))


class Machines:
    """The table of machines."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def kept(self) -> list[MachineRecord]:
        """Every machine that is not gone."""
        with self._journal.transaction():
            rows = self._journal.execute("SELECT * FROM machine WHERE state != 'gone' ORDER BY lease_id")
            return [_machine(row) for row in rows]

    def get(self, lease_id: UUID) -> MachineRecord | None:
        with self._journal.transaction():
            row = self._journal.execute("SELECT * FROM machine WHERE lease_id = ?", str(lease_id)).fetchone()
            return None if row is None else _machine(row)

    def plan(self, provision: Provision, origin: Origin) -> None:
        """Remember a machine that is to be built; one that exists keeps its state."""
        self._insert(provision.lease_id, origin.subject, state="building")
        with self._journal.transaction():
            self._journal.execute(
                "UPDATE machine SET subject = ?, provision = ?, desired = 'on', ends_at = ?,"
                " grace_seconds = ? WHERE lease_id = ?",
                origin.subject,
                msgspec.json.encode(provision),
                provision.ends_at.isoformat(),
                provision.grace_seconds,
                str(provision.lease_id),
            )

    def adopt(self, lease_id: UUID, *, state: Literal["on", "off"]) -> None:
        """Remember a machine of ours that was found without any memory of it; it is kept until told."""
        self._insert(lease_id, f"lease:{lease_id}", state=state)

    def begin_release(self, lease_id: UUID, origin: Origin) -> None:
        """From now on only the release may touch the machine, even if it was never built here."""
        self._insert(lease_id, origin.subject, state="releasing")
        self.set_state(lease_id, "releasing")

    def set_state(self, lease_id: UUID, state: MachineState) -> None:
        with self._journal.transaction():
            self._journal.execute("UPDATE machine SET state = ? WHERE lease_id = ?", state, str(lease_id))

    def set_desired(self, lease_id: UUID, desired: Switch) -> None:
        with self._journal.transaction():
            self._journal.execute("UPDATE machine SET desired = ? WHERE lease_id = ?", desired, str(lease_id))

    def set_end(self, lease_id: UUID, ends_at: datetime) -> None:
        with self._journal.transaction():
            self._journal.execute(
                "UPDATE machine SET ends_at = ? WHERE lease_id = ?", ends_at.isoformat(), str(lease_id)
            )

    def forget_keys(self, lease_id: UUID) -> None:
        """What the machine was built from stays; the keys of what lies in the pool do not."""
        with self._journal.transaction():
            machine = self.get(lease_id)
            if machine is not None and machine.provision is not None:
                self._journal.execute(
                    "UPDATE machine SET provision = ? WHERE lease_id = ?",
                    msgspec.json.encode(without_keys(machine.provision)),
                    str(lease_id),
                )

    def _insert(self, lease_id: UUID, subject: str, *, state: MachineState) -> None:
        with self._journal.transaction():
            self._journal.execute(
                "INSERT OR IGNORE INTO machine (lease_id, subject, state, desired, grace_seconds)"
                " VALUES (?, ?, ?, ?, 0)",
                str(lease_id),
                subject,
                state,
                "off" if state == "off" else "on",
            )


class Consoles:
    """The table of console sessions: each is opened at most once."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def begin(self, session_id: UUID, lease_id: UUID) -> bool:
        """Record a session; False if it was opened before."""
        with self._journal.transaction():
            cursor = self._journal.execute(
                "INSERT OR IGNORE INTO console (session_id, lease_id, open) VALUES (?, ?, 1)",
                str(session_id),
                str(lease_id),
            )
            return cursor.rowcount == 1

    def end(self, session_id: UUID) -> bool:
        """Record that a session is over; False if it was over already."""
        with self._journal.transaction():
            cursor = self._journal.execute(
                "UPDATE console SET open = 0 WHERE session_id = ? AND open = 1", str(session_id)
            )
            return cursor.rowcount == 1

    def open_sessions(self) -> list[tuple[UUID, UUID]]:
        """(session, lease) of every session not recorded as over."""
        with self._journal.transaction():
            rows = self._journal.execute("SELECT session_id, lease_id FROM console WHERE open = 1")
            return [(UUID(row["session_id"]), UUID(row["lease_id"])) for row in rows]


G = TypeVar("G", bound=Goal)
K = TypeVar("K", HomeOrder, SnapshotOrder)


def without_keys(goal: G) -> G:
    """The same goal, by which nobody can open what lies in the pool."""
    match goal:
        case Provision():
            machine = msgspec.structs.replace(
                goal.machine, home=_closed(goal.machine.home), snapshot=_closed(goal.machine.snapshot)
            )
            return msgspec.structs.replace(goal, machine=machine)
        case Release():
            return msgspec.structs.replace(goal, save=_closed(goal.save))
        case TakeSnapshot():
            return msgspec.structs.replace(goal, snapshot=_closed(goal.snapshot))
        case _:
            return goal


def _closed(order: K | None) -> K | None:
    return None if order is None else msgspec.structs.replace(order, sealed_key="")


def _gpu(row: sqlite3.Row) -> GpuRecord:
    fingerprint = row["fingerprint"]
    return GpuRecord(
        gpu_id=UUID(row["id"]),
        address=row["address"],
        tenure=row["tenure"],
        state=row["state"],
        lease_id=_uuid(row["lease_id"]),
        fingerprint=None if fingerprint is None else msgspec.json.decode(fingerprint, type=Fingerprint),
    )


def _machine(row: sqlite3.Row) -> MachineRecord:
    provision = row["provision"]
    return MachineRecord(
        lease_id=UUID(row["lease_id"]),
        subject=row["subject"],
        provision=None if provision is None else msgspec.json.decode(provision, type=Provision),
        state=row["state"],
        desired=row["desired"],
        ends_at=None if row["ends_at"] is None else datetime.fromisoformat(row["ends_at"]),
        grace_seconds=row["grace_seconds"],
    )


def _uuid(text: str | None) -> UUID | None:
    return None if text is None else UUID(text)


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)
