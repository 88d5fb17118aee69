"""The mapped window: it writes what it is told, nothing else, finds the first wrong byte, and lets go."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hosts.agent.memory import BLOCK, MappedWindow, mapped
from tests.agent.memory_files import memory

SIZE = 3 * BLOCK + 4096


@pytest.fixture
def window(tmp_path: Path) -> Iterator[MappedWindow]:
    with memory(tmp_path, SIZE) as window:
        yield window


@given(offset=st.integers(0, 5000), length=st.integers(0, 5000), unit=st.binary(min_size=1, max_size=9))
@settings(max_examples=60, deadline=None)
def test_a_window_writes_what_it_is_told_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, offset: int, length: int, unit: bytes
) -> None:
    with memory(tmp_path_factory.mktemp("memory"), 10_000, content=b"") as window:
        window.fill(offset, length, unit)
        assert window.read(0, window.size) == b"\0" * offset + (unit * length)[:length] + b"\0" * (
            10_000 - offset - length
        )


@pytest.mark.parametrize(("offset", "length"), [(-1, 4), (0, SIZE + 1), (SIZE, 1), (4, -1)])
def test_a_window_has_ends(window: MappedWindow, offset: int, length: int) -> None:
    for act in (
        lambda: window.read(offset, length),
        lambda: window.fill(offset, length, 0),
        lambda: window.first_mismatch(offset, length, 0),
    ):
        with pytest.raises(ValueError, match="not inside"):
            act()


@given(place=st.integers(0, SIZE - 1), byte=st.integers(0, 255), background=st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_the_first_wrong_byte_is_found_wherever_it_is(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int, background: int
) -> None:
    with memory(tmp_path_factory.mktemp("memory"), SIZE, content=b"") as window:
        window.fill(0, SIZE, background)
        window.fill(place, SIZE - place, byte)
        found = window.first_mismatch(0, SIZE, background)
        assert found == (None if byte == background else place)
        assert window.first_mismatch(place, SIZE - place, byte) is None


def test_what_is_written_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(bytes(8192))
    with mapped(path, 8192) as window:
        window.fill(8190, 2, b"ab")
    assert path.read_bytes() == bytes(8190) + b"ab"


def test_the_mapping_is_let_go_and_the_window_has_no_bytes_left(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(bytes(4096))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 4096) as mapping:
        window = MappedWindow(mapping)
        window.close()
        with pytest.raises(ValueError, match="not inside 0 bytes"):
            window.read(0, 1)


def test_a_file_that_cannot_be_mapped_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), mapped(tmp_path / "none", 4096):
        pass
