"""Which boot of the host this is, and with which kernel: what was proven about a card holds for one boot."""

from __future__ import annotations

import os
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def read_boot_id() -> str:
    """Another one after each boot of the host."""
    return BOOT_ID.read_text().strip()


def running_kernel() -> str:
    """Its release, such as 6.1.0-32-amd64."""
    return os.uname().release
