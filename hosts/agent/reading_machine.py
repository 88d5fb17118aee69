"""Reads a home volume without a GPU and without trusting it: a small machine mounts it, and answers once.

A file system that somebody else has written never meets this host's kernel. The machine may not write, has
no network, and is gone when it has answered. It is asked in one line over virtio-serial, `nonce wanted path`,
the path in base64. It answers with a line `nonce size state`, where the size is -1 if nobody knows it before;
with what was asked for; and with a last line, `nonce done`, or what went wrong. Then it waits until the host
hangs up.
"""

from __future__ import annotations

import re
import socket
import stat
import threading
from base64 import b64encode
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from uuid import UUID

import msgspec
from lxml import etree

from hosts.agent.domain import DirectKernel, Disk, DomainType, disk_element, home_key_usage
from hosts.agent.machines import MachineHost
from hosts.agent.small_domain import SmallMachine, small_machine_xml
from hosts.agent.small_machine import open_channel, remove_small_machine, running
from hosts.protocol.homes import Wanted

CHANNEL = "org.leasehold.reading"
MEMORY_MIB = 256
CHUNK = 256 * 1024
SILENCE_SECONDS = 120.0
LONGEST_SECONDS = 2 * 3600.0
# No last line is longer.
LAST_BYTES = 512
MOST_ENTRIES = 5000
LISTING_BYTES = 4 << 20
_ENTRY = re.compile(rb"([0-9a-f]{1,8}) ([0-9]{1,19}) (-?[0-9]{1,19}) \./([^/]{1,255})")


class ReadingFailed(Exception):
    """Nothing, or not all, was read; the text is for whoever wanted it."""


class Entry(msgspec.Struct, frozen=True):
    """What is in a folder. `size` in bytes, `changed_at` in seconds since 1970."""

    name: str
    kind: str
    size: int
    changed_at: int


class Listing(msgspec.Struct, frozen=True):
    """Folders first, then by name. `more`: there are others; `unnamed` have names that are not text."""

    entries: tuple[Entry, ...]
    more: bool
    unnamed: int


@dataclass(frozen=True)
class ReadingRoom:
    """Where reading machines run."""

    hypervisor: MachineHost
    domain_type: DomainType
    folder: Path
    system: DirectKernel


@dataclass(frozen=True)
class Volume:
    """What is read, for which reading. `key` None: it is not encrypted."""

    reading_id: UUID
    path: Path
    key: bytes | None


class Answer:
    """What a reading machine says. `size` in bytes, None if it is not known before the end.

    `clean`: the last machine that had the volume had written everything to its place.
    """

    def __init__(self, channel: socket.socket, nonce: str) -> None:
        self._said = channel.makefile("rb")
        self._mark = f"\n{nonce} ".encode()
        words = self._line().split()
        if len(words) != 3 or words[0] != nonce.encode() or words[2] not in (b"clean", b"unclean"):
            raise ReadingFailed("The reading machine has ended without an answer.")
        size = int(words[1])
        self.size = None if size < 0 else size
        self.clean = words[2] == b"clean"

    def chunks(self) -> Iterator[bytes]:
        """All that was asked for. ReadingFailed as soon as it is known that something is missing."""
        held, passed = b"", 0
        while not self._has_last_line(held):
            if len(held) > LAST_BYTES:
                passed += len(held) - LAST_BYTES
                yield held[:-LAST_BYTES]
                held = held[-LAST_BYTES:]
            chunk = self._more()
            if not chunk:
                raise ReadingFailed("The reading machine ended in the middle.")
            held += chunk
        rest, _found, last = held.rpartition(self._mark)
        if last != b"done\n":
            raise ReadingFailed(last.decode(errors="replace").strip())
        if self.size not in (None, passed + len(rest)):
            raise ReadingFailed("The file is not as long as it should be.")
        if rest:
            yield rest

    def _has_last_line(self, held: bytes) -> bool:
        """Nothing comes after it, but the machine waits until it was heard. No file can know the nonce."""
        return held.endswith(b"\n") and self._mark in held[-LAST_BYTES:]

    def _line(self) -> bytes:
        try:
            return self._said.readline(LAST_BYTES)
        except OSError as error:
            raise _silent() from error

    def _more(self) -> bytes:
        try:
            return self._said.read1(CHUNK)
        except OSError as error:
            raise _silent() from error


@contextmanager
def asked(room: ReadingRoom, volume: Volume, wanted: Wanted, path: str) -> Iterator[Answer]:
    """The answer of a machine that is made for it. ReadingFailed, HypervisorError."""
    host, name, nonce = room.hypervisor, machine_name(volume.reading_id), token_hex(16)
    request = f"{nonce} {wanted} {b64encode(path.encode()).decode() or '='}\n"
    try:
        with (
            running(host, name, reading_machine_xml(room, volume), home_key=volume.key),
            _not_for_ever(host, name),
            open_channel(host, name, CHANNEL) as channel,
        ):
            channel.settimeout(SILENCE_SECONDS)
            channel.sendall(request.encode())
            yield Answer(channel, nonce)
    finally:
        _serial_log(room, volume).unlink(missing_ok=True)


def listing_of(answer: Answer) -> Listing:
    """From what a machine says that was asked for a list."""
    said = b""
    for chunk in answer.chunks():
        said += chunk
        if len(said) > LISTING_BYTES:
            break
    lines = said.split(b"/\n")
    # What was cut off in the middle is not there.
    found = [_entry(line) for line in (lines[:-1] if len(said) > LISTING_BYTES else lines) if line]
    named = [each for each in found if each is not None]
    entries = sorted(named, key=lambda each: (each.kind != "folder", each.name))
    more = len(said) > LISTING_BYTES or len(entries) > MOST_ENTRIES
    return Listing(tuple(entries[:MOST_ENTRIES]), more, len(found) - len(named))


def remove_reading_machines(host: MachineHost, *, but: Collection[UUID]) -> list[str]:
    """Those of no reading that is going on; their names."""
    left = [facts.name for facts in host.machines() if facts.reads is not None and facts.reads not in but]
    for name in left:
        remove_small_machine(host, name)
    return left


def machine_name(reading_id: UUID) -> str:
    return f"reading-{reading_id}"


def reading_machine_xml(room: ReadingRoom, volume: Volume) -> str:
    """The whole domain."""
    room.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    name = machine_name(volume.reading_id)
    machine = SmallMachine(
        name=name,
        purpose=("reading", {"id": str(volume.reading_id)}),
        memory_mib=MEMORY_MIB,
        boot=room.system,
        channel=CHANNEL,
        serial_log=_serial_log(room, volume),
        domain_type=room.domain_type,
    )
    disk = Disk(volume.path, encrypted=volume.key is not None, read_only=True)
    fragments: list[etree._Element] = [disk_element(disk, home_key_usage(name), device="vda")]
    return small_machine_xml(machine, fragments)


def _serial_log(room: ReadingRoom, volume: Volume) -> Path:
    return room.folder / f"{machine_name(volume.reading_id)}.log"


@contextmanager
def _not_for_ever(host: MachineHost, name: str) -> Iterator[None]:
    """Whoever takes what is read as slowly as that does not keep the volume from its next lease."""
    timer = threading.Timer(LONGEST_SECONDS, host.destroy, [name])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _entry(line: bytes) -> Entry | None:
    """None if its name is not text, or has signs in it that move a cursor."""
    match = _ENTRY.fullmatch(line)
    if match is None:
        return None
    try:
        name = match[4].decode()
    except UnicodeDecodeError:
        return None
    mode = int(match[1], 16)
    kind = "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"
    return Entry(name, kind, int(match[2]), int(match[3])) if name.isprintable() else None


def _silent() -> ReadingFailed:
    return ReadingFailed(f"The reading machine has said nothing for {SILENCE_SECONDS:g} s.")
