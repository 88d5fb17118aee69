"""`leasehold-host`, command by command: with a worker, without one, for people, for programs, and refused."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hosts.agent import control_socket, orders
from hosts.agent.cli import main, reaching, tables
from hosts.agent.cli.exits import MEANINGS, CommandFailed, Exit
from hosts.agent.config import Enrolment, write_enrolment
from hosts.agent.control_socket import ControlSocket
from hosts.agent.doctor.verdicts import failed, passed, warned
from hosts.agent.hardware import Hardware
from hosts.agent.hypervisor import Hypervisor
from hosts.agent.identity import Identity, save_identity
from hosts.agent.journal import Journal
from hosts.agent.loop import Loop
from hosts.agent.machines import HypervisorError
from hosts.agent.scrubbers import load_scrubbers
from hosts.agent.simulated import Fault, SimulatedBus, inject
from hosts.agent.standing import answers
from hosts.protocol.checkup import CheckUp
from hosts.protocol.messages import Ordered, Scrubbed
from tests.agent.host_in_a_box import Box, a_box, gpu_order

ADDRESS = gpu_order().address
SECONDS = 10.0


@dataclass
class Shell:
    """Types commands, as root would on this host."""

    config: Path
    capsys: pytest.CaptureFixture[str]
    said: str = ""
    complained: str = ""

    def __call__(self, *words: str) -> int:
        status = main([*words, "--config", str(self.config)])
        self.said, self.complained = self.capsys.readouterr()
        return status

    def json(self, *words: str) -> Any:
        self(*words, "--json")
        return json.loads(self.said)


def write_config(box: Box) -> Path:
    """The files of an enrolled host that is the box."""
    state = box.config.state_directory
    if not box.config.identity_path.exists():
        save_identity(box.config.identity_path, Identity(box.signing, box.sealing))
    write_enrolment(
        box.config.enrolment_path,
        Enrolment(
            host="box",
            portal="https://portal.example",
            broker_url="redis://:secret@127.0.0.1:1/0",
            control_keys=box.config.control_keys,
        ),
    )
    path = box.directory / "host.toml"
    path.write_text(
        f'state_directory = "{state}"\nbus = "simulated"\nbus_directory = "{box.bus_directory}"\n'
        'domain_type = "qemu"\n'
    )
    path.chmod(0o644)
    return path


@contextmanager
def held_journal(directory: Path) -> Iterator[Journal]:
    """The journal of the box in that directory, as a worker has it."""
    journal = Journal(directory / "state" / "journal.sqlite3")
    yield journal
    journal.close()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with a_box(tmp_path) as box:
        box.intake()
        yield box


@pytest.fixture(autouse=True)
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step is so short that it is not shown."""
    monkeypatch.setattr(orders, "FOLLOW_SECONDS", 0.0005)


@pytest.fixture
def shell(box: Box, capsys: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    """With a worker that listens."""
    loop, socket = Loop(), ControlSocket(box.config.socket_path, answers(box.rig))
    loop.start()
    loop.run(socket.start(), seconds=SECONDS)
    yield Shell(write_config(box), capsys)
    loop.run(socket.stop(), seconds=SECONDS)
    loop.stop(seconds=SECONDS)


@pytest.fixture
def quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Without a worker: it has been here, and is stopped."""
    with a_box(tmp_path) as box:
        box.intake()
    hardware = Hardware(
        bus=SimulatedBus(box.bus_directory), hypervisor=box.machines, scrubbers=load_scrubbers()
    )
    monkeypatch.setattr(reaching, "open_hardware", lambda _: hardware)
    monkeypatch.setattr(Hypervisor, "open", lambda _: box.machines)
    return Shell(write_config(box), capsys)


def test_the_help_names_every_command_and_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    for word in ("enrol", "doctor", "inventory", "run", "status", "journal", "scrub", "reset"):
        assert re.search(rf"\n    {word}\s", told)
    assert all(f"{int(status)}  " in told for status in Exit)
    assert set(MEANINGS) == set(Exit)


def test_a_wrong_word_is_a_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["scrub"])
    assert ended.value.code == Exit.UNUSABLE


def test_status_and_journal_of_a_running_worker(shell: Shell) -> None:
    assert shell.json("status")["gpus"][0]["state"] == "clean"
    assert [plan["kind"] for plan in shell.json("journal")] == ["intake"]
    assert shell("status") == 0
    assert ADDRESS in shell.said
    assert shell("journal", "--last", "1") == 0
    assert "intake" in shell.said
    assert shell("journal", "--last", "0") == Exit.REFUSED
    assert "Between 1 and" in shell.complained


def test_inventory_of_a_running_worker(shell: Shell) -> None:
    assert ADDRESS in [card["address"] for card in shell.json("inventory")["cards"]]
    assert shell("inventory") == 0
    assert "Simulated A6000" in shell.said
    assert "simulated" in shell.said


def test_doctor_asks_the_running_worker(shell: Shell, box: Box) -> None:
    found = shell.json("doctor")
    for each in found["checks"]:
        assert each["read"]
        assert each["why"]
        assert each["change"] or each["verdict"] not in ("fail", "warn")
    assert found["simulated"] is True
    assert {check["subject"] for check in found["checks"]} >= {"", ADDRESS}
    assert shell("doctor") == (1 if any(each["verdict"] == "fail" for each in found["checks"]) else 0)
    assert "The GPUs of this host are simulated." in shell.said
    box.machines.refuses.add("versions")
    assert shell("doctor", "--only-problems") == Exit.NOT_IN_ORDER
    assert "FAIL  libvirt: libvirt does not answer" in shell.said
    assert "  ok  " not in shell.said


def test_a_scrub_shows_its_steps_and_its_result(shell: Shell, box: Box) -> None:
    assert shell("scrub", ADDRESS) == Exit.DONE
    assert re.match(r"scrub: [a-z-]+ \(\d of 9\)\n", shell.complained)
    assert "The portal judges" in shell.said
    assert shell.json("scrub", ADDRESS)["in_order"] is True
    assert shell.complained == ""
    assert len(box.events(Scrubbed)) == 3


def test_a_scrub_that_does_not_pass_is_not_in_order(shell: Shell, box: Box) -> None:
    inject(box.bus_directory, Fault(operation="memory", address=ADDRESS, kind="stuck", times=0))
    assert shell("scrub", ADDRESS) == Exit.NOT_IN_ORDER
    assert "did not succeed; it is quarantined." in shell.said
    assert "canaries" in shell.said


def test_a_reset_says_that_it_cleans_nothing(shell: Shell) -> None:
    assert shell("reset", ADDRESS) == Exit.DONE
    assert "a reset cleans no memory" in shell.said


def test_a_leased_gpu_is_refused_in_words(shell: Shell, box: Box) -> None:
    box.carry_out(box.provision(), subject="lease:1")
    assert shell("reset", ADDRESS) == Exit.REFUSED
    assert "is leased to" in shell.complained
    assert "end it at the portal" in shell.complained
    assert "is leased to" in shell.json("reset", ADDRESS)["error"]


def test_who_ordered_it_is_reported(shell: Shell, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "oskar")
    shell("reset", ADDRESS)
    assert box.last(Ordered).by == "oskar"


def test_without_a_worker_the_journal_is_read(quiet: Shell) -> None:
    assert quiet.json("status")["gpus"][0]["state"] == "clean"
    assert quiet.json("journal")[0]["kind"] == "intake"
    assert quiet("status") == quiet("journal") == Exit.DONE


def test_without_a_worker_the_order_is_carried_out_here(quiet: Shell) -> None:
    assert quiet("scrub", ADDRESS) == Exit.DONE
    assert re.match(r"scrub: [a-z-]+ \(\d of 9\)\n", quiet.complained)
    assert quiet("reset", ADDRESS) == Exit.DONE
    assert quiet.json("status")["gpus"][0]["state"] == "dirty"
    assert "Take it into service" in (quiet("scrub", gpu_order(3).address), quiet.complained)[1]


def test_without_a_worker_unfinished_plans_come_first(quiet: Shell, tmp_path: Path) -> None:
    with held_journal(tmp_path) as journal, journal.transaction():
        journal.execute("UPDATE plan SET state = 'running'")
    assert quiet("scrub", ADDRESS) == Exit.REFUSED
    assert "1 unfinished plans" in quiet.complained
    assert "systemctl start leasehold-host" in quiet.complained


def test_a_journal_that_somebody_holds_is_not_read(quiet: Shell, tmp_path: Path) -> None:
    with held_journal(tmp_path):
        assert quiet("status") == Exit.UNUSABLE
    assert "is another worker running?" in quiet.complained


def test_without_a_worker_the_host_is_looked_at_here(quiet: Shell) -> None:
    assert quiet("inventory") == Exit.DONE
    assert ADDRESS in quiet.said
    assert quiet("doctor") in (Exit.DONE, Exit.NOT_IN_ORDER)
    assert "libvirt 9.0.0 answers" in quiet.said


def test_a_hypervisor_that_is_away_is_a_finding(quiet: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_uri: str) -> None:
        raise HypervisorError("Cannot connect to qemu:///system: no socket")

    monkeypatch.setattr(Hypervisor, "open", refuse)
    assert quiet("doctor", "--only-problems") == Exit.NOT_IN_ORDER
    assert "no socket" in quiet.said


def test_a_worker_that_has_never_run_is_told_of(quiet: Shell, tmp_path: Path) -> None:
    (tmp_path / "state" / "journal.sqlite3").unlink()
    assert quiet("status") == Exit.REFUSED
    assert "has never run here" in quiet.complained


def test_a_host_that_is_not_enrolled_is_told_how_to_be(quiet: Shell, tmp_path: Path) -> None:
    (tmp_path / "state" / "enrolment.json").unlink()
    for command in ("run", "status", "journal"):
        assert quiet(command) == Exit.UNUSABLE
        assert "leasehold-host enrol" in quiet.complained
    assert quiet("doctor") in (Exit.DONE, Exit.NOT_IN_ORDER)


Raise = Callable[..., Any]


def raising(error: BaseException) -> Raise:
    def ask(*_: object, **__: object) -> Iterator[Any]:
        raise error

    return ask


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (PermissionError(), Exit.REFUSED, "run this as root"),
        (TimeoutError(), Exit.NO_ANSWER, "journalctl -u leasehold-host"),
        (KeyboardInterrupt(), Exit.REFUSED, "What was ordered goes on"),
    ],
)
def test_an_answer_that_does_not_come(
    quiet: Shell, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: Exit, told: str
) -> None:
    monkeypatch.setattr(reaching, "ask", raising(error))
    assert quiet("scrub", ADDRESS) == status
    assert told in quiet.complained


def test_who_may_not_ask_the_worker_is_examined_all_the_same(
    quiet: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaching, "ask", raising(PermissionError()))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert quiet("doctor", "--only-problems") in (Exit.DONE, Exit.NOT_IN_ORDER)
    assert "Not run by root" in quiet.said


@pytest.mark.parametrize(
    "line", [b"", b"status\n", b"[]\n", b'{"ask": []}\n', b'{"ask": "scrub", "with": 3}\n']
)
def test_the_socket_answers_nonsense_in_words(box: Box, line: bytes) -> None:
    socket = ControlSocket(box.config.socket_path, answers(box.rig))
    (told,) = socket._lines(line)
    assert set(told) == {"error", "hint"}


def test_an_answer_that_breaks_is_told_and_logged(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    socket = ControlSocket(box.config.socket_path, {"status": lambda _: iter([1 / 0])})
    (told,) = socket._lines(b'{"ask": "status"}')
    assert "ZeroDivisionError" in told["error"]
    assert "could not be answered" in caplog.text


def test_who_stops_listening_stops_nothing(shell: Shell, box: Box) -> None:
    lines = control_socket.ask(box.config.socket_path, "scrub", address=ADDRESS, by="oskar")
    assert "ordered" in next(lines)
    lines.close()  # type: ignore[attr-defined]
    box.settle()
    assert len(box.events(Scrubbed)) == 2
    assert threading.active_count() < 50


def test_advice_is_shown_with_what_was_read() -> None:
    checks = (
        failed("iommu", "off-intel", ("/proc/cmdline", "quiet")),
        warned("pcie-link", "narrow", ("current_link_width", "4"), subject=ADDRESS, now="x4", most="x16"),
        passed("cards", "found", ("/sys/bus/pci/devices", "1 of class 03"), count=1),
    )
    told = tables.show_check_up(CheckUp(simulated=False, checks=checks, left_out=2), only_problems=False)
    assert told.startswith("Host\n  FAIL  IOMMU: The IOMMU is off.")
    assert "            intel_iommu=on" not in told.splitlines()[0]
    assert "\n          intel_iommu=on\n" in told
    assert "(/proc/cmdline: quiet)" in told
    assert f"\n\n{ADDRESS}\n  warn  PCIe link: x4; card and slot can do x16." in told
    assert "  ok    Cards: 1 display-class cards are on the bus.\n        (/sys/bus/pci/devices: 1 of" in told
    assert told.endswith("3 checks: 1 failed, 1 warnings. 2 more are not shown.")


def test_a_table_is_as_wide_as_its_cells() -> None:
    assert tables.table(("A", "LONG"), [["long cell", None]]) == "A          LONG\nlong cell  –"


def test_failures_carry_a_hint_and_a_status() -> None:
    error = CommandFailed("no", "yes")
    assert (str(error), error.hint, error.status) == ("no", "yes", Exit.REFUSED)
