"""Memory that is mapped in a child: as good as near memory, and its reader's death is not ours."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hosts.agent import children, far_memory, stuck
from hosts.agent.far_memory import FarWindow, far_mapped

SIZE = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "memory"
    path.write_bytes(b"\x5a" * SIZE)
    return path


@pytest.fixture
def far(file: Path) -> Iterator[FarWindow]:
    with far_mapped(file, SIZE) as window:
        yield window


def test_it_writes_reads_and_compares(far: FarWindow, file: Path) -> None:
    assert (far.size, far.name, far.is_fast) == (SIZE, "bar", True)
    far.fill(0, SIZE, 0)
    assert far.first_mismatch(0, SIZE, 0) is None
    everything = bytes(range(256))
    far.fill(1000, 256, everything)
    assert far.read(1000, 256) == everything
    assert far.first_mismatch(0, SIZE, 0) == 1001
    assert file.read_bytes() == bytes(1000) + everything + bytes(SIZE - 1256)


def test_many_places_are_written_and_read_at_once(far: FarWindow, file: Path) -> None:
    far.write_each([(0, b"\0\xff\n"), (SIZE - 2, b'"\\')])
    assert file.read_bytes() == b"\0\xff\n" + b"\x5a" * (SIZE - 5) + b'"\\'
    assert far.read_each([SIZE - 2, 0], 2) == [b'"\\', b"\0\xff"]


def test_registers_are_read_and_written_by_words(far: FarWindow, file: Path) -> None:
    far.write32(8, 0xBADF1100)
    assert far.read32(8) == 0xBADF1100
    assert file.read_bytes()[4:16] == b"\x5a" * 4 + b"\x00\x11\xdf\xba" + b"\x5a" * 4


BEYOND: dict[str, Callable[[FarWindow], object]] = {
    "read": lambda far: far.read(SIZE, 1),
    "fill": lambda far: far.fill(-1, 4, 0),
    "first_mismatch": lambda far: far.first_mismatch(0, SIZE + 1, 0),
    "read_each": lambda far: far.read_each([0, SIZE - 3], 4),
    "write_each": lambda far: far.write_each([(0, b"no"), (SIZE - 1, b"no")]),
    "read32": lambda far: far.read32(SIZE - 3),
    "write32": lambda far: far.write32(SIZE, 0),
}


@pytest.mark.parametrize("act", BEYOND.values(), ids=BEYOND)
def test_it_has_ends(far: FarWindow, act: Callable[[FarWindow], object]) -> None:
    with pytest.raises(ValueError, match="not inside"):
        act(far)
    assert far.read(0, 1) == b"\x5a"


def test_memory_that_cannot_be_mapped_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), far_mapped(tmp_path / "none", SIZE):
        pass


def test_a_card_that_goes_away_kills_the_child_alone(far: FarWindow, file: Path) -> None:
    """What a BAR does when its card leaves the bus, a file does when it is cut off: SIGBUS."""
    os.truncate(file, 0)
    with pytest.raises(OSError, match=rf"went away under its mapping \(signal {signal.SIGBUS:d}\)"):
        far.first_mismatch(0, SIZE, 0)
    with pytest.raises(OSError, match="went away"):
        far.read(0, 1)


def test_a_read_that_never_returns_has_a_deadline(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.monotonic()
    with far_mapped(file, SIZE) as far:
        monkeypatch.setattr(far_memory, "ANSWER_SECONDS", 0.2)
        monkeypatch.setattr(far_memory, "SLOWEST_BYTES_PER_SECOND", 1 << 30)
        pid = far._child.pid
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(TimeoutError, match="no answer within"):
            far.read(0, 4)
        assert is_gone(pid)
    assert time.monotonic() - started < 20


def test_a_child_that_cannot_be_killed_is_told_apart(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stuck, "REAP_SECONDS", 0.2)
    monkeypatch.setattr(far_memory, "ANSWER_SECONDS", 0.2)
    with far_mapped(file, SIZE) as far:
        os.kill(far._child.pid, signal.SIGSTOP)
        with monkeypatch.context() as immortal:
            immortal.setattr(children, "end", lambda process, kill: stuck.end(process, kill=lambda *_: None))
            with pytest.raises(stuck.ChildStuckError):
                far.read32(0)
        assert stuck.reap_stuck() == 1
        os.kill(far._child.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while stuck.reap_stuck() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert stuck.reap_stuck() == 0


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_the_next_mapping_is_in_the_same_child_and_nothing_of_the_last_is_left_in_it(file: Path) -> None:
    with far_mapped(file, SIZE) as far:
        pid = far._child.pid
        assert str(file) in Path(f"/proc/{pid}/maps").read_text()
    assert str(file) not in Path(f"/proc/{pid}/maps").read_text()
    with far_mapped(file, SIZE) as far:
        assert far._child.pid == pid


def test_two_cards_have_a_child_each(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"\xa5" * SIZE)
    with far_mapped(file, SIZE) as one, far_mapped(other, SIZE) as two:
        os.kill(one._child.pid, signal.SIGSTOP)
        assert two.read(0, 2) == b"\xa5\xa5"
        os.kill(one._child.pid, signal.SIGCONT)
        assert one.read(0, 2) == b"\x5a\x5a"


def test_a_child_whose_card_went_away_is_not_asked_again(file: Path) -> None:
    with far_mapped(file, SIZE) as far:
        pid = far._child.pid
        os.truncate(file, 0)
        with pytest.raises(OSError, match="went away"):
            far.read(0, 1)
    file.write_bytes(b"\x5a" * SIZE)
    with far_mapped(file, SIZE) as far:
        assert far._child.pid != pid
        assert far.read(0, 1) == b"\x5a"
