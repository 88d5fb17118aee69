"""Talks to QEMU's guest agent in the virtual hypervisor: runs commands there, as root, moves small files."""

from __future__ import annotations

import base64
import json
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.2
CHUNK = 1 << 18


class AgentError(Exception):
    """The guest agent refused, or did not answer in time."""


@dataclass(frozen=True)
class Finished:
    """A command that has ended; its status is negative when a signal ended it."""

    status: int
    output: str
    errors: str


class GuestAgent:
    """One connection to the agent. Every call has a deadline; a late answer to an earlier call is skipped."""

    def __init__(self, path: Path, *, seconds: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(seconds)
        self._received = b""
        try:
            self._socket.connect(str(path))
            self._synchronise()
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def run(self, command: str, *, seconds: float) -> Finished:
        """Run a shell command; AgentError if it has not ended within `seconds`."""
        deadline = time.monotonic() + seconds
        words = {"path": "/bin/bash", "arg": ["-c", command], "capture-output": True}
        process = self.call("guest-exec", **words)["pid"]
        while not (status := self.call("guest-exec-status", pid=process))["exited"]:
            if time.monotonic() > deadline:
                raise AgentError(f"Still running after {seconds} s: {command}")
            time.sleep(POLL_SECONDS)
        return Finished(
            status=status["exitcode"] if "exitcode" in status else -status["signal"],
            output=decoded(status.get("out-data", "")),
            errors=decoded(status.get("err-data", "")),
        )

    def write(self, path: str, data: bytes) -> None:
        handle = self.call("guest-file-open", path=path, mode="w")
        for start in range(0, len(data), CHUNK):
            chunk = base64.b64encode(data[start : start + CHUNK]).decode()
            self.call("guest-file-write", handle=handle, **{"buf-b64": chunk})
        self.call("guest-file-close", handle=handle)

    def read(self, path: str) -> bytes:
        handle = self.call("guest-file-open", path=path, mode="r")
        data, ended = b"", False
        while not ended:
            part = self.call("guest-file-read", handle=handle, count=CHUNK)
            data, ended = data + base64.b64decode(part["buf-b64"]), part["eof"]
        self.call("guest-file-close", handle=handle)
        return data

    def call(self, command: str, **arguments: object) -> Any:
        self._send(command, arguments)
        answer = self._answer()
        if "error" in answer:
            raise AgentError(f"{command}: {answer['error'].get('desc', answer['error'])}")
        return answer["return"]

    def _synchronise(self) -> None:
        """Skip what an earlier connection has left in the channel."""
        token = secrets.randbits(31)
        self._send("guest-sync", {"id": token})
        while self._answer().get("return") != token:
            pass

    def _send(self, command: str, arguments: dict[str, object]) -> None:
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")

    def _answer(self) -> dict[str, Any]:
        while b"\n" not in self._received:
            part = self._socket.recv(1 << 16)
            if not part:
                raise AgentError("The channel to the guest agent is closed.")
            self._received += part
        line, _, self._received = self._received.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


def decoded(text: str) -> str:
    return base64.b64decode(text).decode(errors="replace")
