"""The worker's local socket, for the `leasehold-host` commands: one JSON line asks, JSON lines answer.

Two processes cannot share the journal or an embedded hypervisor, so tools ask the one that runs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

# A question's arguments, and the lines of its answer: the last one is the whole of a short answer.
Answer = Callable[[Mapping[str, Any]], Iterator[Any]]
LINE_AT_MOST = 4096
# Longer than any step of an order keeps silent, than the slowest look at a host takes.
ASK_SECONDS = 300.0
_END = object()


class Refused(Exception):
    """The question is not answered; the text says why, the hint what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ControlSocket:
    """Serves named questions on a socket that only its owner can open. An answer may raise Refused."""

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
            lines = self._lines(await reader.readline())
            while (line := await asyncio.to_thread(next, lines, _END)) is not _END:
                writer.write(json.dumps(line, default=str).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # whoever asked is gone, or did not ask in one line
        finally:
            writer.close()

    def _lines(self, question: bytes) -> Iterator[Any]:
        try:
            yield from self._answer(question)
        except Refused as error:
            yield {"error": str(error), "hint": error.hint}
        except Exception as error:
            log.exception("A question could not be answered")
            yield {"error": f"{type(error).__name__}: {error}", "hint": "The worker's log says more."}

    def _answer(self, question: bytes) -> Iterator[Any]:
        try:
            asked = json.loads(question)
            name, arguments = asked["ask"], asked.get("with", {})
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Refused('Ask with one line such as {"ask": "status"}.') from None
        if name not in self._answers or not isinstance(arguments, dict):
            raise Refused(f"Known questions: {', '.join(sorted(self._answers))}.")
        return self._answers[name](arguments)


def ask(path: Path, question: str, **arguments: Any) -> Iterator[Any]:
    """The answer of the worker that listens at `path`, line by line. OSError if none does, or Refused."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ASK_SECONDS)
        connection.connect(str(path))
        connection.sendall(json.dumps({"ask": question, "with": arguments}).encode() + b"\n")
        with connection.makefile("rb") as file:
            for line in file:
                answer = json.loads(line)
                if isinstance(answer, dict) and "error" in answer:
                    raise Refused(answer["error"], answer.get("hint", ""))
                yield answer
