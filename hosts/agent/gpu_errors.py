"""Errors of GPUs that only the guest sees: NVIDIA's Xid lines in its kernel log, read through its agent.

Asked for only where the host's operator has allowed it, and only of images whose agent permits `guest-exec`.
What comes back is the guest's own word: evidence for people, and nothing is decided by it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

import msgspec

from hosts.agent import guest
from hosts.agent.journal import Journal
from hosts.agent.machines import HypervisorError, MachineHost
from hosts.protocol.guests import GuestError
from hosts.protocol.messages import GpuOrder

MOST_ERRORS = 16
LONGEST_TEXT = 200
LARGEST_OUTPUT = 16 * 1024
COMMAND = {
    "path": "/bin/sh",
    "arg": ["-c", "dmesg | grep -a 'NVRM: Xid' | cut -c 1-300 | tail -n 40"],
    "capture-output": True,
}
# The bus of the guest's address is the number of the GPU's root port: see hosts.agent.fragments.
LINE = re.compile(
    r"NVRM: Xid \((?:PCI:)?[0-9a-fA-F]{4,8}:(?P<bus>[0-9a-fA-F]{2}):.*?\): (?P<code>[0-9]{1,4})\b"
)


class _Begun(msgspec.Struct):
    pid: int


class _Status(msgspec.Struct):
    exited: bool = False
    output: str = msgspec.field(name="out-data", default="")


@dataclass(frozen=True)
class Line:
    """One line of the guest's log. `bus` is where the guest sees the card."""

    code: int
    bus: int
    text: str


def begin(host: MachineHost, name: str) -> int | None:
    """Have the guest look into its log; a number to ask for the result by. None if it does not."""
    try:
        return guest.call(host, name, "guest-exec", _Begun, COMMAND).pid
    except HypervisorError:
        return None


def result(host: MachineHost, name: str, pid: int) -> list[Line]:
    """What it has found by now. The agent forgets what was asked for once."""
    try:
        status = guest.call(host, name, "guest-exec-status", _Status, {"pid": pid})
    except HypervisorError:
        return []
    return list(read_lines(status.output)) if status.exited else []


def read_lines(output: str) -> Iterator[Line]:
    """The Xid lines in what the agent has encoded."""
    try:
        text = base64.b64decode(output[: LARGEST_OUTPUT // 3 * 4], validate=False).decode(errors="replace")
    except (binascii.Error, ValueError):
        return
    for line in text.splitlines():
        if found := LINE.search(line):
            code = int(found["code"])
            if code:
                yield Line(code, int(found["bus"], 16), guest.plain(line[found.start() :], LONGEST_TEXT))


class ErrorsTold:
    """Which errors of a lease were told, in the journal: each code once for each GPU, so many in all."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def news(self, lease_id: UUID, lines: Sequence[Line], gpus: Sequence[GpuOrder]) -> list[GuestError]:
        """What is to be told now, inside the caller's transaction; it counts as told from then on."""
        told = self._told(lease_id)
        news: list[GuestError] = []
        for line in lines:
            gpu_id = gpus[line.bus - 1].gpu_id if 0 < line.bus <= len(gpus) else None
            key = (line.code, str(gpu_id or ""))
            if key not in told and len(told) < MOST_ERRORS:
                told.append(key)
                news.append(GuestError(code=line.code, text=line.text, gpu_id=gpu_id))
        if news:
            self._journal.remember(_key(lease_id), msgspec.json.encode(told).decode())
        return news

    def drop(self, lease_id: UUID) -> None:
        with self._journal.transaction():
            self._journal.execute("DELETE FROM meta WHERE key = ?", _key(lease_id))

    def _told(self, lease_id: UUID) -> list[tuple[int, str]]:
        text = self._journal.recall(_key(lease_id))
        return [] if text is None else msgspec.json.decode(text, type=list[tuple[int, str]])


def _key(lease_id: UUID) -> str:
    return f"gpu-errors:{lease_id}"
