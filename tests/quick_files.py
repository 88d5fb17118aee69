"""A place in memory for the files of tests: syncing every commit takes most of a host worker's test."""

from __future__ import annotations

import shutil
from pathlib import Path

MEMORY = Path("/dev/shm")
ENOUGH_BYTES = 1 << 30


def quick_directory() -> Path | None:
    """Where temporary folders are best made; None for the usual place, if there is not enough memory."""
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ENOUGH_BYTES else None
