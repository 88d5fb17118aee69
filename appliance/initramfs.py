"""The newc archive that Linux unpacks as its first file system; equal input gives equal bytes."""

from __future__ import annotations

import gzip
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Entry:
    """One name in the archive; everything belongs to root and is dated 1970."""

    mode: int
    data: bytes = b""


def directory() -> Entry:
    return Entry(mode=stat.S_IFDIR | 0o755)


def program(data: bytes) -> Entry:
    return Entry(mode=stat.S_IFREG | 0o755, data=data)


def plain(data: bytes) -> Entry:
    return Entry(mode=stat.S_IFREG | 0o644, data=data)


def numbered(folder: str, files: Sequence[Path]) -> dict[str, Entry]:
    """The folder, with these files in an order that their names tell."""
    named = {
        f"{folder}/{number:02}-{file.name}": plain(file.read_bytes()) for number, file in enumerate(files)
    }
    return {folder: directory(), **named}


def pack(entries: Mapping[str, Entry]) -> bytes:
    """A gzip-compressed newc archive. Parents must be named before their children (sorted names are)."""
    parts: list[bytes] = []
    for inode, (name, entry) in enumerate(_with_trailer(entries), start=1):
        parts += [_header(inode, name, entry), _padded(entry.data)]
    return gzip.compress(b"".join(parts), compresslevel=6, mtime=0)


def _with_trailer(entries: Mapping[str, Entry]) -> Iterator[tuple[str, Entry]]:
    yield from sorted(entries.items())
    yield TRAILER, Entry(mode=0)


def _header(inode: int, name: str, entry: Entry) -> bytes:
    """Fields as the kernel's Documentation/driver-api/early-userspace/buffer-format.rst lists them."""
    fields = [inode, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, 0, 0, len(name) + 1, 0]
    text = "070701" + "".join(f"{field:08x}" for field in fields)
    return _padded(text.encode() + name.encode() + b"\0")


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
