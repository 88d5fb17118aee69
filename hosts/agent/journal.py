"""The host's memory: one SQLite file, synced at every commit, written by one connection.

What is not in the journal did not happen as far as this program is concerned; so everything is written here
before it is done, acknowledged or reported.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from hosts.agent.journal_upgrades import UPGRADES

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE subject (name TEXT PRIMARY KEY, generation INTEGER NOT NULL) STRICT;
CREATE TABLE command (
    id TEXT PRIMARY KEY,
    subject TEXT NOT NULL,
    generation INTEGER NOT NULL,
    standing BLOB
) STRICT;
CREATE INDEX command_subject ON command (subject);
CREATE TABLE gpu (
    id TEXT PRIMARY KEY,
    address TEXT NOT NULL,
    tenure INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('clean', 'leased', 'dirty', 'scrubbing', 'quarantined', 'missing')),
    lease_id TEXT,
    fingerprint BLOB
) STRICT;
CREATE TABLE machine (
    lease_id TEXT PRIMARY KEY,
    subject TEXT NOT NULL,
    provision BLOB,
    state TEXT NOT NULL CHECK (state IN ('building', 'on', 'off', 'suspended', 'releasing', 'gone')),
    desired TEXT NOT NULL CHECK (desired IN ('on', 'off')),
    ends_at TEXT,
    grace_seconds INTEGER NOT NULL
) STRICT;
CREATE TABLE plan (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    command_id TEXT,
    subject TEXT NOT NULL,
    generation INTEGER NOT NULL,
    lease_id TEXT,
    locks TEXT NOT NULL,
    goal BLOB NOT NULL,
    state TEXT NOT NULL
        CHECK (state IN ('waiting', 'running', 'cancelling', 'done', 'failed', 'cancelled')),
    step TEXT NOT NULL DEFAULT '',
    attempt INTEGER NOT NULL DEFAULT 0,
    progress BLOB,
    failure TEXT NOT NULL DEFAULT '',
    added_at TEXT,
    ended_at TEXT
) STRICT;
CREATE INDEX plan_open ON plan (id) WHERE state IN ('waiting', 'running', 'cancelling');
CREATE TABLE console (session_id TEXT PRIMARY KEY, lease_id TEXT NOT NULL, open INTEGER NOT NULL) STRICT;
CREATE TABLE lane (
    lease_id TEXT PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE,
    ports TEXT NOT NULL,
    is_open INTEGER NOT NULL
) STRICT;
CREATE TABLE report (sequence INTEGER PRIMARY KEY AUTOINCREMENT, envelope TEXT NOT NULL) STRICT;
PRAGMA user_version = 3;
"""
SCHEMA_VERSION = 3
LOCK_SECONDS = 2.0


class JournalError(Exception):
    """The journal cannot be used; the text says why."""


class Journal:
    """The open file. Every read and write happens inside `transaction()`, one at a time."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        try:
            self._connection = _connect(path)
        except sqlite3.OperationalError as error:
            raise JournalError(f"{path} cannot be opened; is another worker running? ({error})") from error
        with self.transaction():
            self.is_new = self._prepare()
            self.journal_id = UUID(self.recall("journal_id") or "")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what is written inside, synced to the disk, or nothing. Nested ones join the outermost."""
        with self._lock:
            if self._depth:
                yield
                return
            self._connection.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite ends it by itself when the disk is full
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """Run one statement inside the current transaction."""
        if not self._depth:
            raise JournalError("The journal is read and written inside a transaction only.")
        return self._connection.execute(statement, values)

    def recall(self, key: str) -> str | None:
        """A remembered value, such as the boot id of the host's last start."""
        row = self.execute("SELECT value FROM meta WHERE key = ?", key).fetchone()
        return None if row is None else str(row["value"])

    def remember(self, key: str, value: str) -> None:
        self.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", key, value)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _prepare(self) -> bool:
        """Create what is missing, or take over what the previous version of this program wrote."""
        version = int(self.execute("PRAGMA user_version").fetchone()[0])
        if version not in (0, *UPGRADES, SCHEMA_VERSION):
            raise JournalError(f"The journal has schema {version}; this program writes {SCHEMA_VERSION}.")
        statements = _SCHEMA.split(";\n") if version == 0 else UPGRADES.get(version, ())
        for statement in filter(str.strip, statements):
            self.execute(statement)
        if version == 0:
            self.remember("journal_id", str(uuid4()))
        return version == 0


def _connect(path: Path) -> sqlite3.Connection:
    # Others may pass through on their way to the disks, of which the hypervisor's own user opens one.
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = sqlite3.connect(path, LOCK_SECONDS, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    # One process owns the file: EXCLUSIVE keeps a second one out, and spares the shared-memory file.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    # What is written over, such as a sealed key, is not left in free pages.
    connection.execute("PRAGMA secure_delete = ON")
    return connection
