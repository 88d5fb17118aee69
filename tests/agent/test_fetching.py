"""Images come from the portal, whole and right or not at all, whatever happens on the way."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hosts.agent import fetching
from hosts.agent.cli.tables import show_status
from hosts.agent.fetching import Fetcher
from hosts.agent.pieces import Piece, Source
from hosts.agent.portal_client import NoAnswer
from hosts.agent.standing import status
from hosts.protocol.images import HeldImage, HoldImages, ImageCopies
from hosts.protocol.messages import ImageOrder, MachineOrder, MachineRunning, ProvisionFailed
from tests.agent.host_in_a_box import HOST, Box, a_box, wait_for

PIECE = 64 * 1024
# Data, a hole, data, and a hole up to the end.
CONTENT = b"boot" * 32 * 1024 + bytes(256 * 1024) + b"root" * 20_000 + bytes(100_000)


@dataclass
class Portal:
    """What is asked, and what it gives. `away_after` pieces it does not answer; 0 is not at all."""

    contents: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)
    away_after: int | None = None

    def put(self, content: bytes = CONTENT, *, name: str = "debian", digest: str = "") -> HeldImage:
        digest = digest or hashlib.sha256(content).hexdigest()
        self.contents[digest] = content
        return HeldImage(name=name, digest=digest, size=len(content), data=len(content.replace(b"\0", b"")))

    @contextmanager
    def open(self) -> Iterator[Source]:
        yield self

    def ask(self, digest: str, offset: int) -> Piece | None:
        if self.away_after is not None:
            if self.away_after == 0:
                raise NoAnswer("https://portal.example did not answer: Connection refused.")
            self.away_after -= 1
        self.asked.append((digest, offset))
        content = self.contents[digest]
        while offset < len(content) and not content[offset]:
            offset += 1
        return Piece(offset, content[offset : offset + PIECE]) if offset < len(content) else None


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with a_box(tmp_path) as box:
        box.machines.keeps_keys = False  # encryption takes a second
        yield box


@pytest.fixture
def portal() -> Portal:
    return Portal()


@pytest.fixture
def fetcher(box: Box, portal: Portal) -> Fetcher:
    return Fetcher(box.rig, portal.open)


@pytest.fixture
def syncing_each_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "SYNC_BYTES", PIECE)


def want(box: Box, *images: HeldImage) -> None:
    box.deliver(HoldImages(images=images), subject=f"images:{HOST}")


def told(box: Box) -> dict[str, tuple[str, str]]:
    """State and reason of each copy, as last reported."""
    return {copy.digest: (copy.state, copy.reason) for copy in box.last(ImageCopies).copies}


def path_of(box: Box, image: HeldImage) -> Path:
    return box.config.images_directory / f"{image.name}.raw"


def parts(box: Box) -> list[str]:
    return [path.name for path in (box.config.images_directory / ".fetching").glob("*")]


def test_an_image_is_brought_whole_with_its_holes(box: Box, portal: Portal, fetcher: Fetcher) -> None:
    image = portal.put()
    want(box, image)
    fetcher.look()
    path = path_of(box, image)
    assert path.read_bytes() == CONTENT
    assert (path.stat().st_mode & 0o777, parts(box)) == (0o644, [])
    assert told(box) == {image.digest: ("held", "")}
    assert len(portal.asked) < len(CONTENT) / PIECE  # the holes were not asked for


def test_what_has_another_digest_never_gets_the_name(box: Box, portal: Portal, fetcher: Fetcher) -> None:
    image = portal.put(digest="5eed" * 16)
    want(box, image)
    fetcher.look()
    assert told(box) == {image.digest: ("failed", "What came from the portal has another digest.")}
    assert (path_of(box, image).exists(), parts(box)) == (False, [])


@pytest.mark.usefixtures("syncing_each_piece")
def test_a_portal_that_went_away_is_asked_for_the_rest(box: Box, portal: Portal, fetcher: Fetcher) -> None:
    image = portal.put()
    want(box, image)
    portal.away_after = 2
    fetcher.look()
    state, reason = told(box)[image.digest]
    assert (state, "did not answer" in reason, path_of(box, image).exists()) == ("waiting", True, False)
    portal.away_after = None
    box.rig.copies.await_held(image.digest, seconds=0, is_over=lambda: True)  # somebody needs it
    fetcher.look()
    assert path_of(box, image).read_bytes() == CONTENT
    offsets = [offset for _, offset in portal.asked]
    assert offsets == sorted(set(offsets))  # nothing was asked for twice


@pytest.mark.usefixtures("syncing_each_piece")
def test_a_crash_goes_on_where_the_disk_surely_had_it(box: Box, portal: Portal) -> None:
    image = portal.put()
    want(box, image)

    class Killed(BaseException):
        pass

    def die(_: object) -> None:
        if len(portal.asked) == 2:
            raise Killed

    with pytest.raises(Killed):
        Fetcher(box.rig, portal.open, on_piece=die).look()
    part = box.config.images_directory / ".fetching" / f"{image.digest}.part"
    with part.open("r+b") as file:  # what a power failure may leave behind what was synced
        file.seek(0, os.SEEK_END)
        file.write(b"garbage" * 1000)
    box.restart()
    Fetcher(box.rig, portal.open).look()
    assert path_of(box, image).read_bytes() == CONTENT
    assert told(box) == {image.digest: ("held", "")}


def test_a_full_disk_is_said_and_its_room_given_back(
    box: Box, portal: Portal, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = portal.put()
    want(box, image)
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(*_: object) -> int:
        raise full

    monkeypatch.setattr(os, "pwrite", fail)
    fetcher.look()
    monkeypatch.undo()
    state, reason = told(box)[image.digest]
    assert (state, "is full" in reason, parts(box)) == ("failed", True, [])
    assert f"debian  failed  0        {reason}" in show_status(status(box.rig))


def test_nothing_is_begun_that_has_no_room(
    box: Box, portal: Portal, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = portal.put()
    want(box, image)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=fetching.KEPT_FREE))
    fetcher.look()
    state, reason = told(box)[image.digest]
    assert (state, "are needed" in reason, portal.asked) == ("failed", True, [])


def test_what_is_not_wanted_any_more_is_removed_once_no_machine_uses_it(
    box: Box, portal: Portal, fetcher: Fetcher
) -> None:
    image, other = portal.put(), portal.put(b"other", name="other")
    want(box, image, other)
    fetcher.look()
    run_machine(box, image)
    want(box, other)
    fetcher.look()
    assert path_of(box, image).exists()
    box.carry_out(box.release(), subject="lease:1")
    fetcher.look()
    assert (path_of(box, image).exists(), path_of(box, other).exists()) == (False, True)
    assert told(box) == {other.digest: ("held", "")}


def machine_of(image: HeldImage) -> MachineOrder:
    order = ImageOrder(name=image.name, format="raw", digest=image.digest, firmware="bios")
    return MachineOrder(name="lease-1", vcpus=1, memory_mib=64, disk_gib=1, image=order)


def run_machine(box: Box, image: HeldImage, **changes: Any) -> None:
    box.intake()
    goal = box.provision(machine=machine_of(image), **changes)
    box.carry_out(goal, subject="lease:1")


def test_a_machine_waits_for_its_image(box: Box, portal: Portal, fetcher: Fetcher) -> None:
    first, image = portal.put(b"first" * 100_000, name="first"), portal.put()
    want(box, first, image)
    box.intake()
    box.deliver(box.provision(machine=machine_of(image)), subject="lease:1")
    wait_for(lambda: image.digest in box.rig.copies.hurried)
    fetcher.start()
    box.settle()
    fetcher.stop(seconds=5)
    assert box.events(MachineRunning)
    assert portal.asked[0][0] == image.digest  # before the one that was named first


def test_a_machine_whose_image_does_not_come_fails_and_says_why(
    box: Box, portal: Portal, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hosts.agent.machine_steps.IMAGE_SECONDS", 0.0)
    image = portal.put(digest="5eed" * 16)
    want(box, image)
    fetcher.look()
    run_machine(box, image)
    failed = box.last(ProvisionFailed)
    assert (failed.step, "another digest" in failed.reason) == ("reserve", True)


def test_a_release_ends_the_waiting(box: Box, portal: Portal) -> None:
    image = portal.put()
    want(box, image)
    box.intake()
    box.deliver(box.provision(machine=machine_of(image)), subject="lease:1")
    wait_for(lambda: image.digest in box.rig.copies.hurried)
    box.carry_out(box.release(), subject="lease:1")
    assert [plan.state for plan in box.rig.plans.latest(10) if plan.kind == "provision"] == ["cancelled"]


@pytest.mark.parametrize("harm", ["removed", "changed"])
def test_a_copy_that_was_harmed_is_fetched_anew_before_a_machine_starts(
    box: Box, portal: Portal, fetcher: Fetcher, harm: str
) -> None:
    image = portal.put()
    want(box, image)
    fetcher.look()
    if harm == "removed":
        path_of(box, image).unlink()
    else:
        path_of(box, image).write_bytes(b"forged")
    fetcher.start()
    run_machine(box, image)
    fetcher.stop(seconds=5)
    assert box.events(MachineRunning)
    assert path_of(box, image).read_bytes() == CONTENT


def test_a_file_that_somebody_put_there_is_not_overwritten(
    box: Box, portal: Portal, fetcher: Fetcher
) -> None:
    image = portal.put()
    path_of(box, image).write_bytes(b"somebody's")
    want(box, image)
    fetcher.look()
    assert told(box) == {image.digest: ("failed", "Another file lies at debian.raw.")}
    assert path_of(box, image).read_bytes() == b"somebody's"


def test_with_a_lost_journal_what_lies_there_is_taken_over(
    box: Box, portal: Portal, fetcher: Fetcher
) -> None:
    image = portal.put()
    path_of(box, image).write_bytes(CONTENT)
    want(box, image)
    fetcher.look()
    assert (told(box), portal.asked) == ({image.digest: ("held", "")}, [])


def test_a_portal_that_sends_too_much_is_not_believed(box: Box, portal: Portal, fetcher: Fetcher) -> None:
    image = portal.put()
    portal.contents[image.digest] = CONTENT + b"more" * PIECE
    want(box, image)
    fetcher.look()
    assert told(box)[image.digest][0] == "failed"
    assert not path_of(box, image).exists()
