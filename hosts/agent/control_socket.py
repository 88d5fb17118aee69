"""The worker's local socket, for the `leasehold-host` commands: one JSON line asks, one JSON line answers.

Two processes cannot share the journal or an embedded hypervisor, so tools ask the one that runs.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Answer = Callable[[], Any]
LINE_AT_MOST = 4096
ASK_SECONDS = 10.0


class ControlSocket:
    """Serves named questions on a socket that only its owner can open."""

    def __init__(self, path: Path, answers: Mapping[str, Answer]) -> None:
        self._path = path
        self._answers = answers
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, self._path, limit=LINE_AT_MOST)
        finally:
            os.umask(mask)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readline()
            answer = await asyncio.to_thread(self._answer, line)
            writer.write(json.dumps(answer, default=str).encode() + b"\n")
            await writer.drain()
        except (ConnectionError, ValueError):
            pass  # whoever asked is gone, or did not ask in one line
        finally:
            writer.close()

    def _answer(self, line: bytes) -> Any:
        try:
            question = json.loads(line)["ask"]
        except (ValueError, KeyError, TypeError):
            return {"error": 'Ask with one line such as {"ask": "status"}.'}
        if question not in self._answers:
            return {"error": f"Known questions: {', '.join(sorted(self._answers))}."}
        return self._answers[question]()


def ask(path: Path, question: str) -> Any:
    """The answer of the worker that listens at `path`. OSError if none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ASK_SECONDS)
        connection.connect(str(path))
        connection.sendall(json.dumps({"ask": question}).encode() + b"\n")
        with connection.makefile("rb") as file:
            return json.loads(file.readline())
