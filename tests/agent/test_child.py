"""Kernel calls in a child: answers and errors come back, a deadline holds, a stuck child is told apart."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hosts.agent import child, children, kernel, stuck, vfio
from tests.agent.worker_parts import wait_for

MORE_THAN_SELECT_TAKES = 1024


@pytest.fixture
def never_read(tmp_path: Path) -> Path:
    """A file that no child ever finishes opening for writing."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def test_texts_are_written_in_order(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.touch()
    second.touch()
    child.write_in_child([(str(first), "vfio-pci"), (str(second), "0000:01:00.0")], seconds=30)
    assert (first.read_text(), second.read_text()) == ("vfio-pci", "0000:01:00.0")


def test_files_are_never_created(tmp_path: Path) -> None:
    later = tmp_path / "later"
    later.touch()
    with pytest.raises(FileNotFoundError) as caught:
        child.write_in_child([(str(tmp_path / "absent"), "1"), (str(later), "1")], seconds=30)
    assert caught.value.filename == str(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
    assert later.read_text() == ""


def test_the_kernels_errno_comes_back() -> None:
    with pytest.raises(OSError, match="/dev/full") as caught:
        child.write_in_child([("/dev/full", "1")], seconds=30)
    assert caught.value.errno == errno.ENOSPC


def test_one_child_answers_after_the_other_question(tmp_path: Path) -> None:
    """Errors are answers too; only one that could not answer is replaced."""
    with children.borrowed() as first:
        pid = first.pid
        with pytest.raises(FileNotFoundError):
            first.ask("read-file", str(tmp_path / "absent"), 4, seconds=30)
    with children.borrowed() as again, children.borrowed() as other:
        assert again.pid == pid
        assert other.pid != pid
        os.kill(again.pid, signal.SIGKILL)
        with pytest.raises(children.ChildEnded, match="signal 9"):
            again.ask("read-file", "/proc/version", 4, seconds=30)
    with children.borrowed() as another:
        assert another.pid != pid


def test_children_that_wait_are_few_and_end_with_the_program() -> None:
    with ExitStack() as many:
        pids = {many.enter_context(children.borrowed()).pid for _ in range(4)}
        assert len(pids) == 4
    wait_for(lambda: alive(pids) == children.IDLE_AT_MOST)
    children.dismiss_idle()
    wait_for(lambda: alive(pids) == 0)


def alive(pids: set[int]) -> int:
    stuck.reap_stuck()
    return sum(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_child_too_many_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was done went well, however long that child takes to end."""
    with ExitStack() as many:
        pids = {many.enter_context(children.borrowed()).pid for _ in range(children.IDLE_AT_MOST + 1)}
        monkeypatch.setattr(stuck, "REAP_SECONDS", 0)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
    assert alive(pids) == len(pids)
    assert stuck.reap_stuck() == 0
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: alive(pids) == children.IDLE_AT_MOST)


NO_CHILD: dict[str, tuple[str, ...]] = {
    "never up": ("/bin/cat",),
    "ends at once": ("/bin/false",),
    "not there": ("/absent",),
}


@pytest.fixture(params=list(NO_CHILD.values()), ids=list(NO_CHILD))
def no_child(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is at hand, and none can be started."""
    children.dismiss_idle()
    monkeypatch.setattr(children, "COMMAND", request.param)
    monkeypatch.setattr(children, "START_SECONDS", 0.2)


@pytest.mark.usefixtures("no_child")
def test_what_no_child_could_be_started_for_does_not_hang(tmp_path: Path) -> None:
    with pytest.raises(children.ChildNotStarted, match="no process could be started"):
        children.read_in_child(tmp_path, 4)


def test_not_even_if_what_was_started_cannot_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    def immortal(*_: object, **__: object) -> None:
        raise stuck.ChildStuckError("process 9 cannot be killed")

    children.dismiss_idle()
    monkeypatch.setattr(children, "COMMAND", ("/bin/cat",))
    monkeypatch.setattr(children, "START_SECONDS", 0.2)
    monkeypatch.setattr(children, "end", immortal)
    with pytest.raises(children.ChildNotStarted, match="cannot be killed"):
        children.call("read-file", "/proc/version", 4, seconds=30)


def test_a_child_that_begins_to_end_and_does_not_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does whose mapping the kernel never gets rid of."""
    program = "import os, sys; print('{\"value\": null}', flush=True); sys.stdin.readline(); os.close(1)"
    children.dismiss_idle()
    monkeypatch.setattr(children, "COMMAND", (sys.executable, "-c", f"{program}; sys.stdin.read()"))
    monkeypatch.setattr(stuck, "REAP_SECONDS", 0.2)
    with children.borrowed() as child, pytest.raises(stuck.ChildStuckError, match="does not end"):
        child.ask("read-file", "/proc/version", 4, seconds=30)
    wait_for(lambda: stuck.reap_stuck() == 0)


def test_a_file_is_read_as_far_as_wanted(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(bytes(range(256)) * 16)
    assert children.read_in_child(path, 300) == (bytes(range(256)) * 2)[:300]
    assert children.read_in_child(path, 1 << 20) == bytes(range(256)) * 16


def test_a_read_that_does_not_return_hangs_whether_or_not_it_could_be_ended(
    never_read: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "READ_SECONDS", 0.3)
    with pytest.raises(stuck.ChildStuckError, match="is not read"):
        children.read_in_child(never_read, 4)


def test_a_child_imports_nothing_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\nfrom _json import *\n")
    monkeypatch.chdir(tmp_path)
    children.dismiss_idle()
    assert children.read_in_child(Path("/proc/version"), 5) == b"Linux"
    assert not (tmp_path / "imported").exists()


def test_a_time_out_that_the_kernel_answers_with_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [{"value": None}, {"error": [errno.ETIMEDOUT, "Connection timed out", "unique_id"]}]
    program = f"print({json.dumps(told[0])!r}, flush=True); input(); print({json.dumps(told[1])!r})"
    children.dismiss_idle()
    monkeypatch.setattr(children, "COMMAND", (sys.executable, "-c", program))
    with pytest.raises(TimeoutError, match="unique_id") as caught:
        children.read_in_child(Path("unique_id"), 4)
    assert not isinstance(caught.value, children.NoAnswer)
    children.dismiss_idle()


def test_memory_is_decoded_from_then_on(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_bytes(b"\xde\x10\x30\x22\x01\x04" + bytes(58))
    child.decode_memory_in_child(config, seconds=30)
    assert config.read_bytes()[:8] == b"\xde\x10\x30\x22\x03\x04\0\0"


def test_an_unknown_operation_is_an_error_of_the_child() -> None:
    with pytest.raises(ChildProcessError, match="KeyError"):
        children.call("erase", seconds=30)


def test_a_child_that_does_not_answer_is_killed(never_read: Path) -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.3 s"):
        child.write_in_child([(str(never_read), "1")], seconds=0.3)
    assert time.monotonic() - started < 10


def test_a_child_that_does_not_even_listen_is_killed() -> None:
    with children.borrowed() as deaf:
        os.kill(deaf.pid, signal.SIGSTOP)
        with pytest.raises(TimeoutError, match=r"no answer within 0\.3 s"):
            deaf.ask("write-each", ["x" * (1 << 20)], seconds=0.3)


def test_a_long_request_arrives_whole(tmp_path: Path) -> None:
    path, text = tmp_path / "file", "0123456789abcdef" * (1 << 16)
    path.touch()
    child.write_in_child([(str(path), text)], seconds=30)
    assert path.read_text() == text


@pytest.fixture
def many_files() -> Iterator[None]:
    """May be open."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


@pytest.mark.usefixtures("many_files")
def test_a_program_that_has_many_files_open_asks_as_well() -> None:
    children.dismiss_idle()
    with Path(os.devnull).open() as file, ExitStack() as many:
        while (more := os.dup(file.fileno())) < MORE_THAN_SELECT_TAKES:
            many.callback(os.close, more)
        many.callback(os.close, more)
        assert children.read_in_child(Path("/proc/version"), 5) == b"Linux"
    children.dismiss_idle()


def test_a_child_that_cannot_be_killed_is_told_apart(
    never_read: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stuck, "REAP_SECONDS", 0.2)
    spared: list[int] = []
    try:
        with pytest.raises(stuck.ChildStuckError, match="cannot be killed"):
            children.call(
                "write", [[str(never_read), "1"]], seconds=0.3, kill=lambda pid, number: spared.append(pid)
            )
        assert len(spared) == 1
        assert stuck.reap_stuck() == 1
    finally:
        for pid in spared:
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while stuck.reap_stuck() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert stuck.reap_stuck() == 0


def test_a_program_that_outlives_the_child_that_ran_it_is_told_apart(
    never_read: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one in the kernel's hands does, which its group's kill signal does not end."""
    monkeypatch.setattr(stuck, "REAP_SECONDS", 0.2)
    opened: list[int] = []

    def kill(pid: int, number: int) -> None:
        opened.append(os.open(never_read, os.O_WRONLY))  # waits for the program
        os.kill(pid, number)

    with pytest.raises(stuck.ChildStuckError, match="cannot be killed"):
        children.call("run", ["/bin/cat", str(never_read)], seconds=0.3, kill=kill)
    os.close(*opened)


def test_a_driver_that_never_loads_is_given_up(never_read: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "MODPROBE", "/bin/cat")
    monkeypatch.setattr(kernel, "VFIO_DRIVER", str(never_read))
    monkeypatch.setattr(kernel, "LOAD_SECONDS", 0.3)
    with pytest.raises(TimeoutError):
        kernel.LinuxKernel().load_vfio()


def test_a_driver_that_is_not_there_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "MODPROBE", "/bin/cat")
    monkeypatch.setattr(kernel, "VFIO_DRIVER", str(tmp_path / "absent"))
    with pytest.raises(OSError, match="No such file"):
        kernel.LinuxKernel().load_vfio()


def test_a_hot_reset_of_no_group_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        child.hot_reset_in_child(tmp_path / "7", "0000:01:00.0", seconds=30)


def test_a_file_that_is_no_group_is_not_viable(tmp_path: Path) -> None:
    (tmp_path / "7").touch()
    assert not vfio.is_viable(tmp_path / "7")
    assert not vfio.is_viable(tmp_path / "8")


def test_ioctl_numbers_are_linuxs() -> None:
    assert hex(vfio.GROUP_GET_STATUS) == "0x3b67"
    assert hex(vfio.GET_HOT_RESET_INFO) == "0x3b70"
    assert hex(vfio.HOT_RESET) == "0x3b71"
