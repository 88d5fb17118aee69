"""The thread that brings images from the portal, one at a time, and removes those that nobody wants any more.

A copy appears under its name only when all of it is there and has the right digest. What a crash interrupts
goes on where the journal says that the disk surely has it.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hosts.agent.copies import Copy
from hosts.agent.images import ImageError, sha256_of
from hosts.agent.pieces import Open, Source
from hosts.agent.portal_client import PortalError
from hosts.agent.rig import Rig
from hosts.protocol.images import CopyState

log = logging.getLogger(__name__)

MIB = 1 << 20
PARTS = ".fetching"
SYNC_BYTES = 64 * MIB
# What is left for the disks of machines that run, whatever is fetched.
KEPT_FREE = 1024 * MIB
PORTAL_PAUSE = 30.0
FAULT_PAUSE = 600.0
REPORT_SECONDS = 5.0


class NotFetched(Exception):
    """The copy is not there, and why; tried again after `pause` seconds. Without `fault` it is only late."""

    def __init__(self, reason: str, *, pause: float, fault: bool = True) -> None:
        super().__init__(reason)
        self.pause = pause
        self.fault = fault


class Fetcher:
    """`open_source` connects to the portal. `on_piece` is told after each piece was written."""

    def __init__(
        self, rig: Rig, open_source: Open, *, on_piece: Callable[[Copy], None] = lambda _: None
    ) -> None:
        self._rig = rig
        self._open_source = open_source
        self._on_piece = on_piece
        self._directory = rig.config.images_directory
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._retry_at: dict[str, float] = {}
        self._report_at = 0.0
        self._thread = threading.Thread(target=self._run, name="images", daemon=True)
        rig.copies.on_wanted = self._wake.set

    def start(self) -> None:
        self._thread.start()

    def stop(self, *, seconds: float) -> None:
        """After the piece that is under way."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                pause = self.look()
            except Exception:
                log.exception("Could not look after the images")
                pause = PORTAL_PAUSE
            self._wake.wait(pause)

    def look(self) -> float:
        """Remove what is not wanted, fetch what is; how long there is nothing to do, in seconds."""
        before = self._rig.copies.all()
        self._remove_unwanted(before)
        self._look_after_held()
        while not self._stopping.is_set() and (copy := self._next()):
            self._rig.copies.change(copy.digest, state="fetching", reason="")
            self._rig.copies.report()
            self._try_to_fetch(copy)
        if before != self._rig.copies.all() or self._rig.copies.untold:
            self._rig.copies.untold = False
            self._rig.copies.report()
        waits = [at - time.monotonic() for at in self._retry_at.values()]
        return max(0.0, min([*waits, self._rig.config.reconcile_seconds]))

    def _remove_unwanted(self, copies: list[Copy]) -> None:
        used = {
            machine.provision.machine.image.digest
            for machine in self._rig.machines.kept()
            if machine.provision is not None
        }
        for copy in copies:
            if not copy.wanted and copy.digest not in used:
                self._part(copy).unlink(missing_ok=True)
                if copy.ours:
                    copy.path(self._directory).unlink(missing_ok=True)
                    log.info("Removed the image %s", copy.path(self._directory).name)
                self._rig.copies.forget(copy.digest)
        known = {f"{copy.digest}.part" for copy in self._rig.copies.all()}
        for part in (self._directory / PARTS).glob("*.part"):
            if part.name not in known:
                part.unlink(missing_ok=True)

    def _look_after_held(self) -> None:
        """So that no machine waits for a digest, and what has rotted is fetched anew, before one needs it."""
        for copy in self._rig.copies.all():
            if copy.state != "held" or self._stopping.is_set():
                continue
            path = copy.path(self._directory)
            if not path.exists() or sha256_of(path) != copy.digest:
                log.warning("The image %s was removed or changed by something else", path.name)
                self._rig.copies.change(copy.digest, state="waiting", done=0)

    def _next(self) -> Copy | None:
        """What a machine waits for comes first."""
        hurried = self._rig.copies.take_hurried()
        for digest in hurried:
            self._retry_at.pop(digest, None)
        now = time.monotonic()
        due = [
            copy
            for copy in self._rig.copies.all()
            if copy.wanted and copy.state != "held" and self._retry_at.get(copy.digest, now) <= now
        ]
        return min(due, key=lambda copy: copy.digest not in hurried, default=None)

    def _try_to_fetch(self, copy: Copy) -> None:
        try:
            self._fetch(copy)
        except NotFetched as error:
            self._put_off(copy, error)
        except PortalError as error:
            self._put_off(copy, NotFetched(str(error), pause=PORTAL_PAUSE, fault=False))
        except (OSError, ImageError) as error:
            self._put_off(copy, self._explained(copy, error))
        else:
            self._retry_at.pop(copy.digest, None)
        self._rig.copies.report()

    def _put_off(self, copy: Copy, error: NotFetched) -> None:
        log.warning("The image %s is not here: %s", copy.image.name, error)
        self._retry_at[copy.digest] = time.monotonic() + error.pause
        state: CopyState = "failed" if error.fault else "waiting"
        self._rig.copies.change(copy.digest, state=state, reason=str(error))

    def _explained(self, copy: Copy, error: Exception) -> NotFetched:
        """On a full disk the part only takes room from machines that run."""
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            self._discard(copy)
            return NotFetched(f"The disk of {self._directory} is full.", pause=FAULT_PAUSE)
        reason = getattr(error, "strerror", None) or str(error)
        return NotFetched(f"It cannot be written: {reason}.", pause=FAULT_PAUSE)

    def _fetch(self, copy: Copy) -> None:
        """Bring the file under its name, or raise."""
        path, part = copy.path(self._directory), self._part(copy)
        if path.exists():
            self._take_over(copy, path)
            return
        part.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._check_room(copy)
        if not self._fill(copy, part):
            self._rig.copies.change(copy.digest, state="waiting")
            return
        if sha256_of(part) != copy.digest:
            self._discard(copy)
            raise NotFetched("What came from the portal has another digest.", pause=FAULT_PAUSE)
        part.chmod(0o644)
        part.replace(path)
        _sync(path.parent)
        self._rig.copies.change(copy.digest, state="held", done=copy.image.size, ours=True)
        log.info("The image %s is here", path.name)

    def _take_over(self, copy: Copy, path: Path) -> None:
        """It lies here already. A damaged one of ours makes room for another; what is not ours stays."""
        if sha256_of(path) == copy.digest:
            self._rig.copies.change(copy.digest, state="held", done=copy.image.size, ours=True)
        elif copy.ours:
            path.unlink()
            raise NotFetched("It was changed or damaged, and is fetched anew.", pause=0.0, fault=False)
        else:
            raise NotFetched(f"Another file lies at {path.name}.", pause=FAULT_PAUSE)

    def _check_room(self, copy: Copy) -> None:
        free = shutil.disk_usage(self._directory).free
        if copy.image.data - copy.done + KEPT_FREE > free:
            self._discard(copy)
            needed = (copy.image.data + KEPT_FREE) // MIB
            raise NotFetched(
                f"The disk of {self._directory} has {free // MIB} MiB free; {needed} MiB are needed.",
                pause=FAULT_PAUSE,
            )

    def _fill(self, copy: Copy, part: Path) -> bool:
        """Write what is missing. False if that was cut short, and is no longer wanted or goes on later."""
        started = part.exists()
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            offset = copy.done if started else 0
            os.ftruncate(descriptor, offset)
            with self._open_source() as source:
                whole = self._pull(copy, source, descriptor, offset)
            if whole:
                os.ftruncate(descriptor, copy.image.size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return whole

    def _pull(self, copy: Copy, source: Source, descriptor: int, offset: int) -> bool:
        """Piece after piece; as far as it came is noted, whatever ends it."""
        synced = offset
        try:
            while offset < copy.image.size:
                began = time.monotonic()
                piece = source.ask(copy.digest, offset)
                if piece is None:
                    break
                if piece.offset + len(piece.data) > copy.image.size:
                    raise NotFetched("The portal sends more than the image has.", pause=FAULT_PAUSE)
                _write(descriptor, piece.data, piece.offset)
                offset = piece.offset + len(piece.data)
                if offset - synced >= SYNC_BYTES:
                    synced = offset
                    self._note(copy, descriptor, offset)
                self._on_piece(copy)
                if self._must_stop(copy, len(piece.data), began):
                    return False
        finally:
            self._note(copy, descriptor, offset)
        return True

    def _note(self, copy: Copy, descriptor: int, offset: int) -> None:
        """What is noted is on the disk."""
        os.fsync(descriptor)
        self._rig.copies.change(copy.digest, done=offset)
        if time.monotonic() >= self._report_at:
            self._report_at = time.monotonic() + REPORT_SECONDS
            self._rig.copies.report(even_if_waiting=False)

    def _must_stop(self, copy: Copy, count: int, began: float) -> bool:
        """Keep to the rate that the host allows; whether to leave it for now."""
        if limit := self._rig.config.image_mib_per_second:
            self._stopping.wait(max(0.0, count / (limit * MIB) - (time.monotonic() - began)))
        found = self._rig.copies.find(copy.digest)
        return self._stopping.is_set() or found is None or not found.wanted

    def _discard(self, copy: Copy) -> None:
        with suppress(OSError):
            self._part(copy).unlink(missing_ok=True)
        self._rig.copies.change(copy.digest, done=0)

    def _part(self, copy: Copy) -> Path:
        return self._directory / PARTS / f"{copy.digest}.part"


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
