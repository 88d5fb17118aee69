"""Just enough of the RFB protocol (RFC 6143) to look at a console once."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

RAW = 0


def grab_picture(path: Path) -> bytes:
    """The whole screen, four bytes a pixel."""
    with socket.socket(socket.AF_UNIX) as console:
        console.settimeout(10)
        console.connect(str(path))
        width, height = _greet(console)
        console.sendall(struct.pack(">BxHi", 2, 1, RAW))
        console.sendall(struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
        return _first_update(console, width, height)


def _greet(console: socket.socket) -> tuple[int, int]:
    """Version, security type "none", shared access; the server answers with its size."""
    _read(console, 12)
    console.sendall(b"RFB 003.008\n")
    kinds = _read(console, _read(console, 1)[0])
    assert 1 in kinds
    console.sendall(b"\x01")
    assert _read(console, 4) == bytes(4)
    console.sendall(b"\x01")
    width, height, _pixel_format, name_length = struct.unpack(">HH16sI", _read(console, 24))
    _read(console, name_length)
    return width, height


def _first_update(console: socket.socket, width: int, height: int) -> bytes:
    picture = bytearray(width * height * 4)
    kind, rectangles = struct.unpack(">BxH", _read(console, 4))
    assert kind == 0
    for _ in range(rectangles):
        x, y, columns, rows, encoding = struct.unpack(">HHHHi", _read(console, 12))
        assert encoding == RAW
        for row in range(y, y + rows):
            start = (row * width + x) * 4
            picture[start : start + columns * 4] = _read(console, columns * 4)
    return bytes(picture)


def _read(console: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = console.recv(count - len(data))
        assert part, "the console closed"
        data += part
    return data
