"""A call that never returns costs its line: others on it end in their own time, new ones go elsewhere."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hosts.agent.lines import Line, Lines, Overdue, Unconnected, dialled
from tests.agent.host_in_a_box import wait_for


@dataclass
class Daemon:
    """Its calls wait for an answer by their connection's socket. `refuses` says that nobody can connect.

    Whoever connects waits until it `answers`.
    """

    made: list[socket.socket] = field(default_factory=list)
    hung_up: list[int] = field(default_factory=list)
    refuses: bool = False
    now: float = 0.0
    is_called: threading.Event = field(default_factory=threading.Event)
    answers: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.answers.set()

    def dial(self) -> Line:
        self.is_called.set()
        self.answers.wait(10)
        if self.refuses:
            raise ConnectionRefusedError
        ours, theirs = socket.socketpair()
        number = len(self.made)
        self.made.append(theirs)

        def hang_up() -> None:
            self.hung_up.append(number)
            ours.close()

        return Line((number, ours), hang_up, ours.dup())

    def answer(self, number: int, text: bytes) -> None:
        self.made[number].sendall(text)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    daemon = Daemon()
    yield daemon
    daemon.answers.set()
    for wire in daemon.made:
        wire.close()


@pytest.fixture
def lines(daemon: Daemon) -> Iterator[Lines]:
    lines = Lines(daemon.dial, clock=lambda: daemon.now)
    yield lines
    lines.close()


@dataclass
class Caller:
    """Asks on a thread of its own. What came of it is `answer` or `error`."""

    lines: Lines
    seconds: float
    number: int = -1
    answer: bytes = b""
    error: Exception | None = None
    asked: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._ask, daemon=True)
        self.thread.start()
        assert self.asked.wait(10)

    def _ask(self) -> None:
        try:
            with self.lines.call("start lease-1", self.seconds):
                self.number, wire = self.lines.connection
                self.asked.set()
                self.answer = wire.recv(100)
                if not self.answer:
                    raise ConnectionError("cut")
        except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
            self.error = error

    def ended(self) -> bool:
        self.thread.join(10)
        return not self.thread.is_alive()


def test_a_call_that_is_overdue_is_ended_and_the_next_one_goes_by_another_line(
    daemon: Daemon, lines: Lines
) -> None:
    stuck = Caller(lines, 60)
    daemon.now = 59
    lines.look()
    assert lines.unanswered() == ()
    daemon.now = 60
    lines.look()
    lines.look()
    assert stuck.ended()
    assert isinstance(stuck.error, Overdue)
    assert str(stuck.error) == "Cannot start lease-1: no answer within 60 s."
    assert lines.unanswered() == ("Cannot start lease-1: no answer within 60 s.",)
    after = Caller(lines, 60)
    assert (stuck.number, after.number) == (0, 1)
    daemon.answer(1, b"yes")
    assert after.ended()
    assert (after.answer, after.error) == (b"yes", None)
    lines.look()
    assert daemon.hung_up == [0]


def test_others_on_the_line_that_was_given_up_go_on_until_they_are_overdue_too(
    daemon: Daemon, lines: Lines
) -> None:
    stuck, slow, slower = Caller(lines, 60), Caller(lines, 600), Caller(lines, 900)
    daemon.now = 60
    lines.look()
    lines.look()
    assert stuck.thread.is_alive()
    callers = (stuck, slow, slower)
    daemon.answer(0, b"yes")  # one of them takes it
    wait_for(lambda: any(each.answer for each in callers))
    daemon.now = 900
    lines.look()
    assert all(each.ended() for each in callers)
    assert [type(each.error) for each in callers if not each.answer] == [Overdue, Overdue]
    lines.look()
    assert daemon.hung_up == [0]


def test_an_error_in_time_is_the_calls_own(daemon: Daemon, lines: Lines) -> None:
    with pytest.raises(ZeroDivisionError), lines.call("divide", 60):
        raise ZeroDivisionError
    daemon.now = 1000
    lines.look()
    assert lines.unanswered() == ()


def test_while_nobody_can_be_dialled_calls_wait_and_then_go_on(daemon: Daemon, lines: Lines) -> None:
    stuck = Caller(lines, 60)
    daemon.now, daemon.refuses = 60, True
    lines.look()
    wait_for(lambda: all(thread.name != "libvirt-dial" for thread in threading.enumerate()))
    assert stuck.ended()
    with (
        pytest.raises(Unconnected, match="look around: no connection within 0 s"),
        lines.call("look around", 0),
    ):
        pytest.fail("There is no line.")
    after: list[Caller] = []
    waiting = threading.Thread(target=lambda: after.append(Caller(lines, 60)))
    waiting.start()
    daemon.refuses = False

    def is_connected() -> bool:
        lines.look()
        return bool(after)

    wait_for(is_connected)
    waiting.join()
    assert after[0].number == 1
    daemon.answer(1, b"yes")
    assert after[0].ended()


def test_while_a_daemon_never_answers_its_caller_overdue_calls_are_cut(daemon: Daemon, lines: Lines) -> None:
    """And what it answers once everything has ended is closed."""
    stuck, slow = Caller(lines, 60), Caller(lines, 600)
    daemon.is_called.clear()
    daemon.answers.clear()
    daemon.now = 60
    lines.look()
    assert daemon.is_called.wait(10)
    daemon.now = 600
    lines.look()
    lines.look()
    assert stuck.ended()
    assert slow.ended()
    assert [type(each.error) for each in (stuck, slow)] == [Overdue, Overdue]
    with pytest.raises(Unconnected), lines.call("look around", 0):
        pytest.fail("There is no line.")
    lines.close()
    daemon.answers.set()
    wait_for(lambda: sorted(daemon.hung_up) == [0, 1])


def test_all_lines_end_with_the_program(daemon: Daemon, lines: Lines) -> None:
    stuck = Caller(lines, 60)
    other = Caller(lines, 600)
    daemon.now = 60
    lines.look()
    lines.close()
    assert stuck.ended()
    assert other.ended()
    wait_for(lambda: sorted(daemon.hung_up) == [0, 1])


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    with ExitStack() as stack:

        def listen(folder: str) -> Path:
            path = tmp_path / folder / "sock"
            path.parent.mkdir()
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(str(path))
            server.listen()
            return path

        yield listen


def open_descriptors() -> set[int]:
    """Without the one that they were listed by."""
    listed = list(Path("/proc/self/fd").iterdir())
    return {int(entry.name) for entry in listed if entry.is_symlink()}


def test_the_socket_of_a_connection_is_found_among_all_others(listening: Callable[[str], Path]) -> None:
    daemons, others = listening("libvirt"), listening("elsewhere")
    with ExitStack() as stack:
        earlier, later, stranger = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(3))
        earlier.connect(str(daemons))
        before = open_descriptors()
        with dialled() as wires:
            stranger.connect(str(others))
            later.connect(str(daemons))
        (wire,) = wires
        assert open_descriptors() - before == {wire.fileno()}
        wire.shutdown(socket.SHUT_RDWR)
        assert later.recv(1) == b""
        earlier.setblocking(False)
        with pytest.raises(BlockingIOError):
            earlier.recv(1)
        wire.close()
