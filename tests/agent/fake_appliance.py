"""A scrub machine without a machine: it answers on the channel's socket as its manner says."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hosts.agent.scrub_channel import PHASES, Patience
from hosts.agent.scrub_machine import Appliance

Say = Callable[[dict[str, Any] | bytes], None]
Manner = Callable[["FakeAppliance", Say, str], None]


def write_appliance(
    directory: Path, *, variant: str = "plain", patience: Patience | None = None
) -> Appliance:
    """An image that has the right form and could not boot."""
    directory.mkdir(parents=True, exist_ok=True)
    files = {"vmlinux": b"kernel", "initrd.img": b"initramfs"}
    for name, data in files.items():
        (directory / name).write_bytes(data)
    manifest = {
        "kernel": "vmlinux",
        "initrd": "initrd.img",
        "cmdline": "quiet",
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "scrub": {"variant": variant, "memory_mib": 260},
    }
    text = json.dumps(manifest).encode()
    (directory / "manifest.json").write_bytes(text)
    return Appliance(directory, hashlib.sha256(text).hexdigest(), patience or Patience(whole=20, silence=5))


class FakeAppliance:
    """What runs in a fake scrub machine. `memory` is the file that holds the card's memory."""

    def __init__(self, memory: Path, manner: Manner, *, device: str = "1234:a600") -> None:
        self.memory = memory
        self.device = device
        self.nonces: list[str] = []
        self._manner = manner
        self._threads: list[threading.Thread] = []

    def start(self, xml: str, path: Path) -> None:
        found = re.search(r"leasehold\.nonce=([0-9a-f]+)", xml)
        assert found is not None
        self.nonces.append(found.group(1))
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(10)
        thread = threading.Thread(target=self._serve, args=(listener, found.group(1)), daemon=True)
        thread.start()
        self._threads.append(thread)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(10)

    def result(self, **changes: Any) -> dict[str, Any]:
        size = self.memory.stat().st_size
        facts = {
            "variant": "plain",
            "program": "1",
            "kernel": "6.1.0-test",
            "driver": "none",
            "device": self.device,
            "total_bytes": size,
            "reached_bytes": size,
            "mismatches": 0,
            "first_mismatch": -1,
            "seconds": {"fill": 0.5, "read": 0.25, "zero": 0.0, "check": 0.1},
        }
        return {**facts, **changes}

    def zero(self) -> None:
        with self.memory.open("r+b") as file:
            file.write(bytes(self.memory.stat().st_size))

    def _serve(self, listener: socket.socket, nonce: str) -> None:
        """Whoever listens may come late, never, or leave early."""
        with listener, suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
            channel, _ = listener.accept()

            def say(line: dict[str, Any] | bytes) -> None:
                text = line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
                channel.sendall(text)

            with channel:
                self._manner(self, say, nonce)


def honest(appliance: FakeAppliance, say: Say, nonce: str) -> None:
    """Zeros the memory, tells how far it is, and the truth."""
    appliance.zero()
    for phase in PHASES:
        for done in (1, 2):
            say({"nonce": nonce, "phase": phase, "done": done, "total": 2})
    say({"nonce": nonce, "result": appliance.result()})


def lying(appliance: FakeAppliance, say: Say, nonce: str) -> None:
    """Says what an honest one says, and does nothing."""
    say({"nonce": nonce, "result": appliance.result()})


def with_result(**changes: Any) -> Manner:
    """Zeros the memory, and has such a result."""

    def manner(appliance: FakeAppliance, say: Say, nonce: str) -> None:
        appliance.zero()
        say({"nonce": nonce, "result": appliance.result(**changes)})

    return manner


def saying(*lines: bytes | dict[str, Any]) -> Manner:
    """Says exactly this, and hangs up."""

    def manner(appliance: FakeAppliance, say: Say, nonce: str) -> None:
        for line in lines:
            say({"nonce": nonce, **line} if isinstance(line, dict) else line)

    return manner


def of_another_run(appliance: FakeAppliance, say: Say, nonce: str) -> None:
    """Has a flawless result, of a run before this one."""
    appliance.zero()
    say({"nonce": "0" * len(nonce), "result": appliance.result()})


def silent(appliance: FakeAppliance, say: Say, nonce: str) -> None:
    """Says that it has begun, and nothing more."""
    say({"nonce": nonce, "phase": "fill", "done": 1, "total": 2})
    threading.Event().wait(3)


def endless(appliance: FakeAppliance, say: Say, nonce: str) -> None:
    """Is always busy."""
    while True:
        say({"nonce": nonce, "phase": "fill", "done": 1, "total": 2})
        threading.Event().wait(0.05)
