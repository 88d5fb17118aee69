"""Digests of large files, computed once for as long as the kernel says that a file is as it was.

What is known lies in this process' memory alone: nobody else can write it, and it is gone with the process.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# A kernel's clock for files moves in steps of up to 10 ms: a file that has just changed may change unseen.
SETTLED_SECONDS = 2.0
# A disk may rot without the kernel's knowledge: whatever is known is looked at anew once a day.
BELIEVED_SECONDS = 24 * 3600.0
REMEMBERED_AT_MOST = 1000


@dataclass(frozen=True)
class Standing:
    """What the kernel says of a file. No program can set `changed_ns`, only the clock can."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, descriptor: int) -> Standing:
        stat = os.fstat(descriptor)
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


class Digests:
    """SHA-256 of files in hex. Safe to use from several threads. `clock` gives Unix time in seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[Standing, tuple[str, float]] = {}

    def of(self, path: Path) -> str:
        """The file's digest. OSError if it cannot be read."""
        with path.open("rb") as file:
            standing, now = Standing.of(file.fileno()), self._clock()
            if found := self._recall(standing, now):
                return found
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if standing == Standing.of(file.fileno()):
                self._remember(standing, digest, now)
        return digest

    def _recall(self, standing: Standing, now: float) -> str:
        with self._lock:
            digest, computed_at = self._known.get(standing, ("", 0.0))
        return digest if 0 <= now - computed_at < BELIEVED_SECONDS else ""

    def _remember(self, standing: Standing, digest: str, now: float) -> None:
        if standing.changed_ns / 1e9 > now - SETTLED_SECONDS:
            return
        with self._lock:
            self._known.pop(standing, None)
            self._known[standing] = (digest, now)
            while len(self._known) > REMEMBERED_AT_MOST:
                del self._known[next(iter(self._known))]
