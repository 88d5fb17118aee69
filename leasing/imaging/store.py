"""The folder of image files: what is on its way in, and what is kept under its digest. No database."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from django.conf import settings

from hosts.protocol.images import PIECE_BYTES

MIB = 1 << 20
# What uploads leave free, for the database and whatever else shares the disk.
KEPT_FREE = 2048 * MIB
# Of so many pieces that turn out to be nothing but zeros, one says how far it has come.
READ_AT_MOST = 16


class Busy(Exception):
    """Somebody else works on this file."""


class Piece(NamedTuple):
    """Data of a file from `offset` on."""

    offset: int
    data: bytes


def folder() -> Path:
    path: Path = settings.IMAGE_STORE
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def upload_path(upload_id: UUID) -> Path:
    uploads = folder() / "uploads"
    uploads.mkdir(mode=0o700, exist_ok=True)
    return uploads / f"{upload_id}.part"


def content_path(digest: str) -> Path:
    return folder() / "content" / digest[:2] / f"{digest}.raw"


def has_room_for(count: int) -> bool:
    return shutil.disk_usage(folder()).free - KEPT_FREE >= count


def write_piece(path: Path, offset: int, data: bytes, *, last: bool) -> None:
    """Put `data` at the offset; what lies behind it is of a piece that was cut short. OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, offset)
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written
        if last:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_bytes(path: Path) -> int:
    """How much of the file is not in holes."""
    status = path.stat()
    return min(status.st_size, status.st_blocks * 512)


def keep(path: Path, digest: str) -> None:
    """Give a whole file the name of its digest, at once; it is on the disk then."""
    target = content_path(digest)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chown(path, os.geteuid(), os.getegid())
    path.chmod(0o600)
    _sync(path)
    path.replace(target)
    _sync(target.parent)


def read_piece(digest: str, offset: int) -> Piece | None:
    """The next data from the offset on, or None if there is only a hole up to the end. OSError.

    Zeros count as a hole, wherever they are: file systems keep those that share a block with data.
    """
    descriptor = os.open(content_path(digest), os.O_RDONLY | os.O_CLOEXEC)
    try:
        for _ in range(READ_AT_MOST):
            start = os.lseek(descriptor, offset, os.SEEK_DATA)
            found = os.pread(descriptor, PIECE_BYTES, start)
            if data := found.rstrip(b"\0"):
                return Piece(start, data)
            offset = start + len(found)
        return Piece(offset - 1, b"\0")
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data behind the offset
            return None
        raise
    finally:
        os.close(descriptor)


@contextmanager
def working_on(path: Path) -> Iterator[None]:
    """Alone, until this process ends if need be. Busy if somebody else is."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Busy(str(path)) from error
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
