"""The few VFIO ioctls that the host program needs itself: is a group viable, and reset all of a card.

Numbers and layouts are those of Linux' include/uapi/linux/vfio.h. Standard library only: `child` runs it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BASE = ord(";") << 8 | 100
SET_IOMMU = _BASE + 2
GROUP_GET_STATUS = _BASE + 3
GROUP_SET_CONTAINER = _BASE + 4
GROUP_GET_DEVICE_FD = _BASE + 6
GET_HOT_RESET_INFO = _BASE + 12
HOT_RESET = _BASE + 13
TYPE1_IOMMU = 1
VIABLE = 1
_HEADER = struct.Struct("=III")
_DEPENDENT = struct.Struct("=IHBB")


def is_viable(group: Path) -> bool:
    """Whether every member of the group (`/dev/vfio/<n>`) is in VFIO's hands or harmless.

    A group that somebody uses cannot be opened twice; it could not be in use without being viable.
    """
    try:
        descriptor = os.open(group, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return error.errno == errno.EBUSY
    try:
        status = bytearray(struct.pack("=II", 8, 0))
        fcntl.ioctl(descriptor, GROUP_GET_STATUS, status)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return bool(struct.unpack("=II", status)[1] & VIABLE)


def hot_reset(group: str, address: str) -> None:
    """Reset the bus or slot of `address` through its group device. Raises OSError.

    EPERM, before anything is touched, when the reset would reach a device outside the group.
    """
    with _opened(group) as group_fd, _opened(str(Path(group).parent / "vfio")) as container:
        fcntl.ioctl(group_fd, GROUP_SET_CONTAINER, struct.pack("=i", container))
        _set_iommu(container)
        device = fcntl.ioctl(group_fd, GROUP_GET_DEVICE_FD, bytearray(address.encode() + b"\0"))
        try:
            _refuse_strangers(device, int(Path(group).name))
            request = _HEADER.pack(_HEADER.size + 4, 0, 1) + struct.pack("=i", group_fd)
            fcntl.ioctl(device, HOT_RESET, bytearray(request))
        finally:
            os.close(device)


def _set_iommu(container: int) -> None:
    try:
        fcntl.ioctl(container, SET_IOMMU, TYPE1_IOMMU)
    except PermissionError as error:
        told = "VFIO takes the group into no IOMMU, as it does where interrupts are not remapped"
        raise PermissionError(error.errno, f"{told} (SET_IOMMU: {error.strerror})") from error


def _refuse_strangers(device: int, group: int) -> None:
    strangers = [name for owner, name in _reset_together(device) if owner != group]
    if strangers:
        raise PermissionError(errno.EPERM, f"The reset would also reach {', '.join(strangers)}")


def _reset_together(device: int) -> list[tuple[int, str]]:
    """(group, address) of each device that a hot reset of this one reaches."""
    room = 64
    reply = bytearray(_HEADER.size + room * _DEPENDENT.size)
    _HEADER.pack_into(reply, 0, len(reply), 0, 0)
    fcntl.ioctl(device, GET_HOT_RESET_INFO, reply)
    count = _HEADER.unpack_from(reply)[2]
    rows = (_DEPENDENT.unpack_from(reply, _HEADER.size + n * _DEPENDENT.size) for n in range(count))
    return [(group, f"{seg:04x}:{bus:02x}:{fn >> 3:02x}.{fn & 7}") for group, seg, bus, fn in rows]


@contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
