"""What a ROM says about itself: the version in NVIDIA's form, and nothing where it is not that."""

from __future__ import annotations

import struct

import pytest

from hosts.agent.option_rom import Rom, nvidia_version, read_rom


def nvidia_rom(*, token: bytes = b"i", length: int = 5, offset: int = 0x80) -> bytes:
    """A ROM with a BIOS information table of two tokens, and the version 94.02.42.00.a1."""
    rom = bytearray(0x100)
    rom[:2] = b"\x55\xaa"
    rom[0x20:0x2C] = b"\xff\xb8BIT\x00\x00\x01\x0c\x06\x02\x00"
    struct.pack_into("<BBHH", rom, 0x2C, ord("2"), 1, 4, 0x60)
    struct.pack_into("<BBHH", rom, 0x32, ord(token), 2, length, offset)
    rom[0x80:0x85] = bytes.fromhex("0042 0294 a1")
    return bytes(rom)


def test_the_version_is_read_from_the_table() -> None:
    assert nvidia_version(nvidia_rom()) == "94.02.42.00.a1"


@pytest.mark.parametrize(
    "rom",
    [
        b"",
        b"\x55\xaa" + bytes(200),
        nvidia_rom(token=b"x"),
        nvidia_rom(length=3),
        nvidia_rom(offset=0xFFFF),
        nvidia_rom()[:0x2B],
        nvidia_rom()[:0x34],
    ],
)
def test_what_has_another_form_has_no_version(rom: bytes) -> None:
    assert nvidia_version(rom) == ""


def test_no_rom_has_no_digest() -> None:
    assert read_rom(b"") == Rom("", "")
    assert len(read_rom(b"x").sha256) == 64
