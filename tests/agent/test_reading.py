"""Reading home volumes without a GPU: what a real small machine answers, and what is left when it has."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from appliance.debian import DEFAULT_CACHE
from appliance.reader import build_reader
from hosts.agent import reading_desk
from hosts.agent.config import HomePool, ReaderSystem
from hosts.agent.domain import DirectKernel
from hosts.agent.hypervisor import Hypervisor
from hosts.agent.images import open_kernel_image, sha256_of
from hosts.agent.inventory import take_inventory
from hosts.agent.machines import ACTIVE, HypervisorError, MachineState
from hosts.agent.mending import mend
from hosts.agent.reading_desk import ReadingDesk
from hosts.agent.reading_machine import (
    CHANNEL,
    Answer,
    ReadingFailed,
    ReadingRoom,
    Volume,
    asked,
    listing_of,
    machine_name,
    reading_machine_xml,
)
from hosts.agent.reconcile import reconcile
from hosts.protocol.homes import HomeRead, ReadHome, Wanted
from hosts.protocol.messages import Refused
from hosts.protocol.signing import public_hex, seal
from tests.agent.fake_machines import FakeMachines
from tests.agent.host_in_a_box import HOST, Box, a_box, wait_for, write_image
from tests.agent.test_homes import VOLUME, a_pool

READING = UUID(int=77)
BIG = os.urandom(1 << 20) * 3 + b"\nand a bit more\n"
FILES = {"notes.txt": b"turntable\n", "renders/final cut.exr": BIG, "renders/空.txt": b""}


@pytest.fixture(scope="session")
def reader_system() -> Path:
    """Built once, kept beside the packages it is made of."""
    return build_reader(DEFAULT_CACHE.parent / "reader").parent


@pytest.fixture
def room(embedded: Hypervisor, reader_system: Path, tmp_path: Path) -> ReadingRoom:
    digest = sha256_of(reader_system / "manifest.json")
    system = open_kernel_image(reader_system, digest, cmdline=f"leasehold.channel={CHANNEL}")
    return ReadingRoom(embedded, "qemu", tmp_path / "machines", system)


def a_home(folder: Path) -> Path:
    """The file system of a home as somebody left it."""
    tree, plain = folder / "tree", folder / "plain"
    for name, content in FILES.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    (tree / "shadow").symlink_to("/proc/cmdline")
    (tree / "up").symlink_to("renders")
    (tree / os.fsdecode(b"caf\xe9")).write_bytes(b"1")
    (tree / "two\nlines").write_bytes(b"2")
    plain.write_bytes(b"")
    os.truncate(plain, 64 << 20)
    subprocess.run(["/sbin/mkfs.ext4", "-q", "-F", "-d", str(tree), str(plain)], check=True)
    return plain


def a_volume(folder: Path, *, in_use: bool = False) -> Path:
    """A volume with it. `in_use`: its machine was cut off."""
    plain, disk = a_home(folder), folder / "home.qcow2"
    if in_use:
        subprocess.run(["/sbin/debugfs", "-w", "-R", "feature needs_recovery", str(plain)], check=True)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(plain), str(disk)], check=True)
    return disk


def answer(room: ReadingRoom, disk: Path, wanted: Wanted, path: str) -> tuple[bool, bytes]:
    with asked(room, Volume(READING, disk, None), wanted, path) as said:
        found = said.clean, b"".join(said.chunks())
        assert room.hypervisor.state(machine_name(READING)) is MachineState.RUNNING, (
            "it ends once it was heard"
        )
        return found


@pytest.mark.timeout(180)
def test_a_real_machine_lists_folders_and_gives_files_and_changes_nothing(
    room: ReadingRoom, embedded: Hypervisor, tmp_path: Path
) -> None:
    disk = a_volume(tmp_path)
    before = hashlib.sha256(disk.read_bytes()).hexdigest()
    with asked(room, Volume(UUID(int=9), disk, None), "list", "") as said:
        (facts,) = embedded.machines()
        listing = listing_of(said)
    assert (facts.reads, facts.lease_id, said.clean) == (UUID(int=9), None, True)
    kinds = [(entry.name, entry.kind) for entry in listing.entries]
    assert kinds == [
        ("lost+found", "folder"), ("renders", "folder"), ("notes.txt", "file"), ("shadow", "other"),
        ("up", "other"),
    ]  # fmt: skip
    assert (listing.entries[2].size, listing.more) == (len(FILES["notes.txt"]), False)
    assert listing.unnamed == 2
    assert answer(room, disk, "file", "/renders/final cut.exr") == (True, BIG)
    for wanted, path, words in (
        ("file", "/shadow", "a link lies on the way"), ("list", "/notes.txt", "no folder"),
    ):  # fmt: skip
        with pytest.raises(ReadingFailed, match=words):
            answer(room, disk, wanted, path)  # type: ignore[arg-type]
    assert hashlib.sha256(disk.read_bytes()).hexdigest() == before
    assert embedded.machines() == []
    assert list((tmp_path / "machines").iterdir()) == []


@pytest.mark.timeout(120)
def test_a_volume_whose_machine_was_cut_off_is_read_as_it_lies_there_and_that_is_said(
    room: ReadingRoom, tmp_path: Path
) -> None:
    clean, archive = answer(room, a_volume(tmp_path, in_use=True), "archive", "/renders")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert {each.name for each in tar if each.isfile()} == {"./final cut.exr", "./空.txt"}
        content = tar.extractfile("./final cut.exr")
        assert content is not None
        assert content.read() == BIG
    assert not clean


class RealBox(Box):
    """A host whose small machines are real."""

    def __init__(self, directory: Path, hypervisor: Hypervisor, **settings: Any) -> None:
        self.real = hypervisor
        super().__init__(directory, **settings)

    def make_machines(self) -> FakeMachines:
        return cast(FakeMachines, self.real)


class Gateway:
    """The portal's end: what it was shown, told and given, and how each host ended."""

    def __init__(self) -> None:
        self.tokens: list[str | None] = []
        self.given: list[list[str | bytes]] = []
        self.ends: list[int | None] = []
        self._server = serve(self._take, "127.0.0.1", 0, max_size=None)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}/reading"

    def close(self) -> None:
        self._server.shutdown()

    def _take(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.tokens.append(connection.request.headers.get("Authorization"))
        with suppress(ConnectionClosed):
            self.given.append([])
            while True:
                self.given[-1].append(connection.recv())
                if self.given[-1][-1] == "end":
                    connection.close()
        self.ends.append(connection.close_code)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    opened = Gateway()
    yield opened
    opened.close()


@pytest.fixture
def box(embedded: Hypervisor, reader_system: Path, tmp_path: Path) -> Box:
    pool = a_pool(tmp_path / "homes", host=HOST)
    a_volume(tmp_path).rename(pool.path(VOLUME))
    digest = sha256_of(reader_system / "manifest.json")
    return RealBox(
        tmp_path,
        embedded,
        home_pool=HomePool(name="studio", directory=tmp_path / "homes"),
        reader=ReaderSystem(directory=reader_system, sha256=digest),
    )


def order(box: Box, gateway: Gateway, *, wanted: Wanted = "list", path: str = "") -> ReadHome:
    return ReadHome(
        reading_id=uuid4(),
        volume_id=VOLUME,
        pool="studio",
        wanted=wanted,
        path=path,
        gateway_url=gateway.url,
        sealed_key=seal(b"unused", to_public_hex=public_hex(box.sealing)),
        sealed_token=seal(b"once", to_public_hex=public_hex(box.sealing)),
    )


def read(box: Box, goal: ReadHome) -> HomeRead:
    box.readings.clear()
    box.deliver(goal, subject=f"home:{VOLUME}")
    ((accepted, origin),) = box.readings
    before = len(box.events(HomeRead))
    ReadingDesk(box.rig, box.sealing).open(accepted, origin)
    wait_for(lambda: len(box.events(HomeRead)) > before, seconds=60)
    return box.last(HomeRead)


@pytest.mark.timeout(180)
def test_the_host_dials_gives_what_it_found_and_lets_go(box: Box, gateway: Gateway, tmp_path: Path) -> None:
    pool = a_pool(tmp_path / "homes", host=HOST)
    assert read(box, order(box, gateway)).reason == ""
    assert gateway.tokens == ["Bearer once"]
    head, listing, _end = gateway.given[0]
    assert json.loads(head) == {"size": None, "clean": True}
    assert "notes.txt" in {entry["name"] for entry in json.loads(listing)["entries"]}
    assert read(box, order(box, gateway, wanted="file", path="/renders")).reason == "It is no file."
    wait_for(lambda: len(gateway.ends) == 2)
    assert gateway.ends == [1000, 1011]
    assert pool.holders("reading") == set()
    pool.claim(VOLUME, UUID(int=1))
    assert "is with lease" in read(box, order(box, gateway)).reason
    pool.detach(UUID(int=1))
    unheard = order(box, gateway)
    gateway.close()
    assert "refused" in read(box, unheard).reason.lower()


def test_a_host_without_the_system_refuses(tmp_path: Path, gateway: Gateway) -> None:
    with a_box(tmp_path, home_pool=HomePool(name="studio", directory=tmp_path)) as box:
        box.deliver(order(box, gateway), subject=f"home:{VOLUME}")
        assert "no system to read home volumes" in box.last(Refused).reason
        assert box.readings == []
        assert not take_inventory(box.rig).reads_homes


def test_a_host_refuses_to_read_in_a_pool_that_it_does_not_have(box: Box, gateway: Gateway) -> None:
    goal = msgspec.structs.replace(order(box, gateway), pool="other")
    box.deliver(goal, subject=f"home:{VOLUME}")
    assert "no pool other" in box.last(Refused).reason
    assert box.readings == []


def test_what_a_killed_worker_was_reading_is_let_go(tmp_path: Path) -> None:
    pool = a_pool(tmp_path / "homes", host=HOST)
    settings: dict[str, Any] = {
        "home_pool": HomePool(name="studio", directory=tmp_path / "homes"),
        "reader": ReaderSystem(directory=tmp_path, sha256="0" * 64),
    }
    with a_box(tmp_path, **settings) as box:
        assert take_inventory(box.rig).reads_homes
        pool.claim(VOLUME, READING, "reading")
        a_pool(tmp_path / "homes", host="another").claim(UUID(int=8), UUID(int=80), "reading")
        box.machines.define(reading_domain(tmp_path))
        box.machines.start(machine_name(READING))
        reconcile(box.rig, boot_id=box.boot_id)
        assert box.machines.machines() == []
        assert pool.holders("reading") == set()
        assert a_pool(tmp_path / "homes", host="another").holders("reading") == {UUID(int=80)}
        assert [each.reading_id for each in box.events(HomeRead)] == [READING]


class Stubborn(FakeMachines):
    """Three times it does not destroy what runs; `held` is who had a volume then."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.held: list[set[UUID]] = []

    def channel_socket(self, name: str, channel: str) -> Path:
        raise HypervisorError(f"Cannot find {channel} of {name}.")

    def destroy(self, name: str) -> None:
        if self.state(name) in ACTIVE and len(self.held) < 3:
            self.held.append(a_pool(self.directory / "homes", host=HOST).holders("reading"))
            raise HypervisorError(f"Cannot destroy {name}.")
        super().destroy(name)


class StubbornBox(Box):
    def make_machines(self) -> FakeMachines:
        return Stubborn(self.directory)


def test_the_volume_is_free_once_the_machine_is_gone_and_not_before(
    tmp_path: Path, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_desk, "AGAIN_SECONDS", 0.01)
    pool = a_pool(tmp_path / "homes", host=HOST)
    a_volume(tmp_path).rename(pool.path(VOLUME))
    image = write_image(tmp_path, "reader")
    box = StubbornBox(
        tmp_path,
        home_pool=HomePool(name="studio", directory=tmp_path / "homes"),
        reader=ReaderSystem(directory=tmp_path / "reader", sha256=image.digest),
    )
    box.machines.keeps_keys = False
    goal = order(box, gateway)
    assert "Cannot" in read(box, goal).reason
    assert cast(Stubborn, box.machines).held == [{goal.reading_id}] * 3
    assert (box.machines.machines(), pool.holders("reading"), box.rig.readings) == ([], set(), set())


def test_what_could_not_be_let_go_at_the_start_is_let_go_when_its_pool_is_there(tmp_path: Path) -> None:
    a_pool(tmp_path / "homes", host=HOST).claim(VOLUME, READING, "reading")
    with a_box(tmp_path, home_pool=HomePool(name="studio", directory=tmp_path / "homes")) as box:
        assert [each.reading_id for each in box.events(HomeRead)] == [READING]
        a_pool(tmp_path / "homes", host=HOST).claim(VOLUME, UUID(int=78), "reading")
        (tmp_path / "homes").rename(tmp_path / "not mounted")
        reconcile(box.rig, boot_id=box.boot_id)
        assert len(box.events(HomeRead)) == 1
        (tmp_path / "not mounted").rename(tmp_path / "homes")
        box.rig.readings.add(UUID(int=78))
        mend(box.rig)
        assert len(box.events(HomeRead)) == 1
        box.rig.readings.clear()
        mend(box.rig)
        assert [each.reading_id for each in box.events(HomeRead)] == [READING, UUID(int=78)]
        assert a_pool(tmp_path / "homes", host=HOST).holders("reading") == set()


def reading_domain(folder: Path) -> str:
    system = DirectKernel(folder / "vmlinux", folder / "initrd.img", "")
    room = ReadingRoom(cast(FakeMachines, None), "qemu", folder / "machines", system)
    return reading_machine_xml(room, Volume(READING, folder / "home.qcow2", b"key"))


def test_the_machine_has_the_volume_and_may_not_write_to_it(tmp_path: Path) -> None:
    domain = etree.fromstring(reading_domain(tmp_path))
    assert [each.tag for each in domain.iterfind("devices/*")] == [
        "controller", "serial", "channel", "memballoon", "disk",
    ]  # fmt: skip
    disk = domain.find("devices/disk")
    assert disk is not None
    assert disk.find("readonly") is not None
    secret = disk.find("source/encryption/secret")
    assert secret is not None
    assert secret.get("usage") == f"leasehold:{machine_name(READING)}:home"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"", "without an answer"),
        (b"other 5 clean\nhello\nnonce done\n", "without an answer"),
        (b"nonce 5 clean\nhello", "in the middle"),
        (b"nonce 5 clean\nhello\nother done\n", "in the middle"),
        (b"nonce 6 clean\nhello\nnonce done\n", "not as long"),
        (b"nonce 2 clean\n\n\nnonce done", "in the middle"),
        (b"nonce -1 clean\n\nnonce It is not there.\n", "It is not there."),
    ],
)
def test_what_does_not_come_to_its_end_is_never_taken_for_all_of_it(said: bytes, words: str) -> None:
    here, there = socket.socketpair()
    with here, there:
        there.sendall(said)
        there.shutdown(socket.SHUT_WR)
        with pytest.raises(ReadingFailed, match=words):
            b"".join(Answer(here, "nonce").chunks())


@given(st.binary(max_size=3000), st.integers(1, 700))
def test_all_of_it_comes_through_whatever_is_in_it(content: bytes, piece: int) -> None:
    here, there = socket.socketpair()
    whole = b"nonce %d clean\n%s\nnonce done\n" % (len(content), content)
    here.settimeout(10)
    with here, there:
        sender = threading.Thread(target=send_in_pieces, args=(there, whole, piece))
        sender.start()
        assert b"".join(Answer(here, "nonce").chunks()) == content
        sender.join()


def send_in_pieces(channel: socket.socket, whole: bytes, piece: int) -> None:
    for start in range(0, len(whole), piece):
        channel.sendall(whole[start : start + piece])
