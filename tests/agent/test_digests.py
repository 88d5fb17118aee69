"""A digest is computed once, and again as soon as anything could have changed it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hosts.agent.digests import BELIEVED_SECONDS, SETTLED_SECONDS, Digests


class Clock:
    """Starts long after every file was written."""

    def __init__(self) -> None:
        self.now = 4e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def known(clock: Clock) -> Digests:
    return Digests(clock=clock)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each time that a file was read."""
    seen: list[str] = []

    def counted(file: object, name: str) -> object:
        seen.append(name)
        return real(file, name)

    real: Callable[..., object] = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", counted)
    return seen


def image(folder: Path, content: bytes = b"golden") -> Path:
    path = folder / "image"
    path.write_bytes(content)
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_an_unchanged_file_is_read_once(known: Digests, tmp_path: Path, reads: list[str]) -> None:
    path = image(tmp_path)
    assert known.of(path) == known.of(path) == sha256(b"golden")
    assert len(reads) == 1


def test_other_content_of_the_same_size_and_modification_time_is_noticed(
    known: Digests, tmp_path: Path
) -> None:
    path = image(tmp_path)
    before = path.stat()
    assert known.of(path) == sha256(b"golden")
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # until the kernel's clock has moved
        path.write_bytes(b"forged")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert known.of(path) == sha256(b"forged")


def test_another_file_under_the_same_name_is_noticed(known: Digests, tmp_path: Path) -> None:
    path = image(tmp_path)
    assert known.of(path) == sha256(b"golden")
    (tmp_path / "other").write_bytes(b"forged")
    (tmp_path / "other").replace(path)
    assert known.of(path) == sha256(b"forged")


def test_what_has_just_changed_is_not_believed(tmp_path: Path, reads: list[str]) -> None:
    path, clock = image(tmp_path), Clock()
    known = Digests(clock=clock)
    clock.now = path.stat().st_ctime_ns / 1e9 + SETTLED_SECONDS / 2
    known.of(path)
    known.of(path)
    assert len(reads) == 2


def test_a_file_that_changes_while_it_is_read_is_not_believed(
    known: Digests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = image(tmp_path)
    real = hashlib.file_digest

    def disturbed(file: object, name: str) -> object:
        digest = real(file, name)  # type: ignore[arg-type]
        path.write_bytes(b"longer than before")
        return digest

    monkeypatch.setattr(hashlib, "file_digest", disturbed)
    known.of(path)
    monkeypatch.undo()
    assert known.of(path) == sha256(b"longer than before")


def test_nothing_is_believed_for_longer_than_a_day(
    known: Digests, clock: Clock, tmp_path: Path, reads: list[str]
) -> None:
    path = image(tmp_path)
    known.of(path)
    clock.now += BELIEVED_SECONDS
    known.of(path)
    assert len(reads) == 2
    clock.now -= 2 * BELIEVED_SECONDS  # a clock that was set back proves nothing either
    known.of(path)
    assert len(reads) == 3
