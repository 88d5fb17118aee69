"""A hot reset through VFIO: what else it would reach is asked first."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

import pytest

from hosts.agent import vfio

ADDRESS = "0000:41:00.0"
Row = tuple[int, int, int, int]  # group, segment, bus, device and function


class Ioctls:
    """The calls that reach the kernel, and what it says is reset together."""

    def __init__(self, together: list[Row], *, denied: int = 0) -> None:
        self.together = together
        self.denied = denied
        self.made: list[int] = []

    def __call__(self, descriptor: int, number: int, argument: object = 0) -> int:
        self.made.append(number)
        if number == self.denied:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        if number == vfio.GET_HOT_RESET_INFO:
            assert isinstance(argument, bytearray)
            rows = b"".join(struct.pack("=IHBB", *row) for row in self.together)
            struct.pack_into("=III", argument, 0, len(argument), 0, len(self.together))
            argument[12 : 12 + len(rows)] = rows
        return os.open("/dev/null", os.O_RDWR) if number == vfio.GROUP_GET_DEVICE_FD else 0


@pytest.fixture
def group(tmp_path: Path) -> str:
    for name in ("20", "vfio"):
        (tmp_path / name).touch()
    return str(tmp_path / "20")


def test_a_card_that_is_reset_alone_is_reset(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ioctls = Ioctls([(20, 0, 0x41, 0), (20, 0, 0x41, 1)])
    monkeypatch.setattr(fcntl, "ioctl", ioctls)
    vfio.hot_reset(group, ADDRESS)
    assert ioctls.made[-1] == vfio.HOT_RESET


def test_a_reset_that_would_reach_another_group_is_refused_before_anything_is_touched(
    group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's device would be reset under its user."""
    ioctls = Ioctls([(20, 0, 0x41, 0), (33, 0, 0x42, 0x08)])
    monkeypatch.setattr(fcntl, "ioctl", ioctls)
    with pytest.raises(PermissionError, match=r"would also reach 0000:42:01\.0") as caught:
        vfio.hot_reset(group, ADDRESS)
    assert caught.value.errno == errno.EPERM
    assert vfio.HOT_RESET not in ioctls.made


def test_a_host_that_remaps_no_interrupts_is_told_by_what_vfio_refuses(
    group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "ioctl", Ioctls([], denied=vfio.SET_IOMMU))
    with pytest.raises(PermissionError, match="interrupts are not remapped") as caught:
        vfio.hot_reset(group, ADDRESS)
    assert caught.value.errno == errno.EPERM
