"""Names from the database of PCI ids that Debian's package pci.ids brings; what is not in it has a number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

PCI_IDS = "usr/share/misc/pci.ids"


@dataclass(frozen=True)
class PciNames:
    """A device by the names of its vendor and itself, or by number; its board by name, or empty."""

    device: str
    board: str = ""


def look_up(database: Path, ids: str, subsystem: str) -> PciNames:
    """The device `ids` and its board `subsystem`, both such as 10de:2230. Without a database, by number."""
    try:
        changed = database.stat().st_mtime_ns
    except OSError:
        return PciNames(f"PCI device {ids}")
    return _look_up(database, changed, ids, subsystem)


@lru_cache(maxsize=256)
def _look_up(database: Path, changed: int, ids: str, subsystem: str) -> PciNames:
    """`changed` is when the database was written: one that was replaced is read again."""
    vendor, device = ids.split(":")
    with database.open(errors="replace") as lines:
        rows = list(_rows_of(vendor, lines))
    if not rows:
        return PciNames(f"PCI device {ids}")
    maker, *below = rows
    name, boards = _device(device, below)
    return PciNames(f"{maker} {name}" if name else f"{maker} device {device}", _board(subsystem, boards))


def _rows_of(vendor: str, lines: Iterable[str]) -> Iterator[str]:
    """The vendor's name, then the lines below it: devices after one tab, boards after two."""
    found = False
    for line in lines:
        if line.startswith("#") or not line.strip():
            continue
        if found and not line.startswith("\t"):
            return
        if found:
            yield line.rstrip()
        elif line.startswith(f"{vendor}  "):
            found = True
            yield line[6:].strip()


def _device(device: str, rows: list[str]) -> tuple[str, list[str]]:
    """Its name, and the rows of its boards."""
    for number, row in enumerate(rows):
        if row.startswith(f"\t{device}  "):
            rest = rows[number + 1 :]
            ends = next((i for i, each in enumerate(rest) if not each.startswith("\t\t")), len(rest))
            return row[7:], rest[:ends]
    return "", []


def _board(subsystem: str, rows: list[str]) -> str:
    wanted = f"\t\t{subsystem.replace(':', ' ')}  "
    return next((row[len(wanted) :] for row in rows if row.startswith(wanted)), "")
