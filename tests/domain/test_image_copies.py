"""Which host is told to hold which image, what it says of it, and who is given a piece of one."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from nacl.signing import SigningKey
from pytest_django import Settings

from hosts.protocol import messages as m
from hosts.protocol.images import PIECE_SECONDS, PieceRequest, sign_piece_request
from leasing.actors import SYSTEM
from leasing.audit.log import record
from leasing.errors import NotVisible
from leasing.fsck import run_checks
from leasing.images import add_version, retire_image
from leasing.imaging import store
from leasing.imaging.copies import Served, serve_piece
from leasing.models import AuditEntry, Image, ImageCopy, ImageUpload, OutboxMessage, StoredImage
from tests.domain.test_first_lease import book, bring_up
from tests.world import ScriptedHost, World

pytestmark = pytest.mark.django_db
CONTENT = b"boot" + bytes(5 << 20) + b"root"


@pytest.fixture
def world(db: None, settings: Settings, tmp_path: Path) -> World:
    settings.IMAGE_STORE = tmp_path
    return World(gpus=1)


def stored(world: World, content: bytes = CONTENT) -> StoredImage:
    digest = hashlib.sha256(content).hexdigest()
    draft = store.folder() / "draft"
    draft.write_bytes(content)
    store.keep(draft, digest)
    record(action="image.store", actor=SYSTEM, subject="image-upload:1", now=world.now, digest=digest)
    return StoredImage.objects.create(
        digest=digest,
        name=f"debian-{digest[:12]}",
        size=len(content),
        data=8192,
        source_name="debian.qcow2",
        source_format="qcow2",
        source_digest=digest,
        created_at=world.now,
    )


def offered(world: World, image: StoredImage, slug: str = "debian") -> Image:
    upload = ImageUpload.objects.create(
        file_name="debian", format="raw", size=1, state="ready", stored=image, created_at=world.now,
        changed_at=world.now,
    )  # fmt: skip
    facts = {"name": slug, "os_family": "linux", "upload": upload.pk}
    return add_version(actor=world.actor(world.operator), slug=slug, facts=facts, now=world.now)


def goals(world: World, host: ScriptedHost | None = None) -> list[set[str]]:
    """The digests of each goal that the host was given, in order."""
    rows = OutboxMessage.objects.filter(host=(host or world.host).row, kind="images").order_by("generation")
    decoded = [msgspec.json.decode(row.goal, type=m.Goal) for row in rows]
    return [{image.digest for image in goal.images} for goal in decoded if isinstance(goal, m.HoldImages)]


def say(world: World, *copies: m.CopyFacts, host: ScriptedHost | None = None) -> str:
    host = host or world.host
    order = OutboxMessage.objects.filter(host=host.row, kind="images").latest("generation")
    return host.say(m.ImageCopies(copies=copies), at=world.now, command=order)


def test_hosts_are_told_of_what_is_offered_once(world: World) -> None:
    world.tick()
    assert goals(world) == []
    image = stored(world)
    offered(world, image)
    world.tick()
    world.tick(after=timedelta(minutes=1))
    assert goals(world) == [{image.digest}]
    order = OutboxMessage.objects.get(kind="images")
    assert say(world, m.CopyFacts(digest=image.digest, state="held", done=image.size)) == "applied"
    order.refresh_from_db()
    assert order.answered_at is not None
    copy = ImageCopy.objects.get()
    assert (copy.state, copy.percent, copy.reason) == ("held", 100, "")
    assert run_checks(world.now) == []


def test_a_file_that_is_not_in_the_store_is_found(world: World) -> None:
    image = stored(world)
    offered(world, image)
    assert run_checks(world.now) == []
    store.content_path(image.digest).unlink()
    Image.objects.filter(stored=image).update(digest="00" * 32)
    found = [(finding.check, finding.problem) for finding in run_checks(world.now)]
    assert found == [
        ("images", "is not in the store, or has another size"),
        ("images", "has another digest than its file"),
    ]


def test_a_new_host_and_one_that_lost_its_memory_are_told(world: World) -> None:
    image = stored(world)
    offered(world, image)
    world.tick()
    other = world.enrol("hv2")
    world.tick()
    assert goals(world, other) == []  # it has not come in yet
    other.inventory(at=world.now)
    world.tick()
    assert goals(world, other) == [{image.digest}]
    other.journal_id, other.sequence = uuid4(), 0
    other.inventory(at=world.now)
    world.tick()
    assert goals(world, other) == [{image.digest}] * 2


def test_a_host_of_the_previous_version_is_not_told(world: World) -> None:
    offered(world, stored(world))
    world.host.row.refresh_from_db()
    world.host.row.protocol = 1
    world.host.row.save()
    world.tick()
    assert goals(world) == []


def test_a_retired_image_stays_as_long_as_a_lease_has_it(world: World) -> None:
    image = stored(world)
    version = offered(world, image)
    world.image = version
    lease = book(world, hours=1)
    gpu = bring_up(world, lease)
    say(world, m.CopyFacts(digest=image.digest, state="held", done=image.size))
    operator = world.actor(world.operator)
    retire_image(actor=operator, image_id=version.pk, reason="holes in it", now=world.now)
    world.tick()
    assert goals(world) == [{image.digest}]
    world.tick(after=timedelta(hours=1))
    world.host.say(m.MachineGone(lease_id=lease.pk), at=world.now, command=world.command(lease, "release"))
    world.scrub(world.host, gpu, lease=lease)
    world.tick()
    assert goals(world) == [{image.digest}, set()]
    assert not ImageCopy.objects.get().wanted
    say(world)
    assert not ImageCopy.objects.exists()
    assert run_checks(world.now) == []


def test_progress_and_trouble_are_kept_as_the_host_says_them(world: World) -> None:
    image = stored(world)
    offered(world, image)
    world.tick()
    say(world, m.CopyFacts(digest=image.digest, state="fetching", done=image.size // 2))
    assert ImageCopy.objects.get().percent in (49, 50)
    say(world, m.CopyFacts(digest=image.digest, state="failed", reason="The disk is full."))
    copy = ImageCopy.objects.get()
    assert (copy.state, copy.done, copy.reason) == ("failed", 0, "The disk is full.")
    say(world, m.CopyFacts(digest="00" * 32, state="held"))  # of what it was never told
    copy.refresh_from_db()
    assert (copy.state, ImageCopy.objects.count()) == ("waiting", 1)


def asked(world: World, image: StoredImage, offset: int = 0, **changes: Any) -> Served:
    key = changes.pop("key", world.host.key)
    facts: dict[str, Any] = {"host": world.host.row.account, "digest": image.digest}
    facts |= {"offset": offset, "at": world.now}
    envelope = sign_piece_request(PieceRequest(**(facts | changes)), key=key)
    return serve_piece(envelope=envelope, address="192.0.2.1", now=world.now)


def test_a_host_is_given_the_pieces_of_what_it_is_to_hold(world: World) -> None:
    image = stored(world)
    offered(world, image)
    world.tick()
    content = bytearray(image.size)
    offset = 0
    while (piece := asked(world, image, offset).piece) is not None:
        content[piece.offset : piece.offset + len(piece.data)] = piece.data
        offset = piece.offset + len(piece.data)
    assert bytes(content) == CONTENT
    assert asked(world, image, image.size).piece is None


@pytest.mark.parametrize("pieces", [1, 40])
def test_zeros_are_passed_over_whether_or_not_the_file_has_them(
    world: World, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PIECE_BYTES", 4096)
    content = b"a" + bytes(pieces * 4096) + b"z" + bytes(4095)
    image = stored(world, content)
    offered(world, image)
    world.tick()
    built, offset, requests = bytearray(len(content)), 0, 0
    while (piece := asked(world, image, offset).piece) is not None:
        built[piece.offset : piece.offset + len(piece.data)] = piece.data
        offset = piece.offset + len(piece.data)
        requests += 1
    assert bytes(built) == content
    assert requests <= 2 + pieces // store.READ_AT_MOST


def test_nobody_else_is_given_anything(world: World) -> None:
    image, other = stored(world), stored(world, b"for nobody")
    offered(world, image)
    world.tick()
    stranger = world.enrol("hv2")
    refusals: list[dict[str, Any]] = [
        {"key": SigningKey.generate()},
        {"key": stranger.key},
        {"key": stranger.key, "host": stranger.row.account},
        {"at": world.now - timedelta(seconds=PIECE_SECONDS + 1)},
        {"at": world.now + timedelta(seconds=PIECE_SECONDS + 1)},
        {"digest": other.digest},
    ]
    for changes in refusals:
        with pytest.raises(NotVisible):
            asked(world, image, **changes)
    with pytest.raises(NotVisible):
        serve_piece(envelope="{}", address="", now=world.now)
    assert AuditEntry.objects.filter(action="image.refuse").count() == len(refusals) + 1
    world.host.row.refresh_from_db()
    world.host.row.retired_at = world.now
    world.host.row.save()
    with pytest.raises(NotVisible):
        asked(world, image)
