"""What is uploaded becomes a raw disk in the store, or is refused; and cannot do harm meanwhile."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from pytest_django import Settings

from hosts.protocol.images import PIECE_BYTES
from leasing.errors import DomainError, InvalidRequest, NotVisible, WrongState
from leasing.images import add_version
from leasing.imaging import sandbox, store, uploads
from leasing.imaging.conversion import convert_upload
from leasing.imaging.sandbox import Limits, sandboxed
from leasing.imaging.uploads import OtherOffset, add_piece, begin_upload, forget_old, remove_upload
from leasing.models import AuditEntry, ImageUpload, StoredImage
from tests.world import World

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.skipif(connection.vendor != "sqlite", reason="files are the same beside either database"),
]
MIB = 1 << 20
SECRET = "what only the portal may read"


@pytest.fixture
def world(db: None, settings: Settings) -> Iterator[World]:
    """Its store lies where others may pass through, and holds a secret."""
    with tempfile.TemporaryDirectory(prefix="lh-store-", dir="/var/tmp") as folder:
        settings.IMAGE_STORE = Path(folder) / "store"
        settings.IMAGE_AT_MOST_BYTES = 64 * MIB
        (Path(folder) / "secret").write_text(SECRET)
        yield World(gpus=0)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two MiB of which the half is a hole."""
    path = tmp_path_factory.mktemp("disk") / "disk.raw"
    path.write_bytes(random.Random(7).randbytes(MIB))
    os.truncate(path, 2 * MIB)
    return path


def made(disk: Path, format: str, *options: str) -> Path:
    path = disk.with_suffix(f".{format}")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", format, *options, disk, path], check=True)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def upload(world: World, path: Path, format: str, **facts: Any) -> ImageUpload:
    """All of the file, in pieces, and what became of it."""
    actor, content = world.actor(world.operator), path.read_bytes()
    begun = begin_upload(
        actor=actor, file_name=path.name, format=format, size=len(content), now=world.now, **facts
    )
    half = -(-len(content) // 2)
    for offset in (0, half):
        add_piece(
            actor=actor,
            upload_id=begun.pk,
            offset=offset,
            data=content[offset : offset + half],
            now=world.now,
        )
    return convert_upload(begun.pk, clock=lambda: world.now)


def refused(done: ImageUpload) -> str:
    """Why; and nothing is left of it."""
    assert done.state == "failed"
    assert not StoredImage.objects.exists()
    assert not store.upload_path(done.pk).exists()
    assert not [*store.folder().rglob("*.raw")]
    entry = AuditEntry.objects.get(action="image.unfit")
    assert str(done.reason) in entry.text.encode().decode("unicode_escape")
    return done.reason.code


@pytest.mark.parametrize("format", ["raw", "qcow2", "vmdk", "vdi", "vhdx"])
def test_every_format_becomes_the_same_raw_disk(world: World, disk: Path, format: str) -> None:
    source = disk if format == "raw" else made(disk, format)
    done = upload(world, source, format, digest=sha256(source))
    assert (done.state, done.percent, str(done.reason)) == ("ready", 100, "")
    stored = StoredImage.objects.get()
    kept = store.content_path(stored.digest)
    assert kept.read_bytes() == disk.read_bytes()
    assert stored.digest == sha256(disk) == sha256(kept)
    assert (stored.size, stored.source_digest) == (2 * MIB, sha256(source))
    assert stored.data < 2 * MIB  # the hole is one still
    assert (kept.stat().st_uid, kept.stat().st_mode & 0o777) == (os.geteuid(), 0o600)
    assert not store.upload_path(done.pk).exists()
    assert AuditEntry.objects.filter(action__in=["image.upload", "image.store"]).count() == 2


def test_a_version_is_made_of_an_upload(world: World, disk: Path) -> None:
    done = upload(world, made(disk, "qcow2"), "qcow2")
    facts = {"name": "Debian", "os_family": "linux", "upload": done.pk}
    image = add_version(actor=world.actor(world.operator), slug="debian", facts=facts, now=world.now)
    stored = StoredImage.objects.get()
    assert (image.format, image.digest, image.file_name) == ("raw", stored.digest, stored.name)
    assert (image.stored, stored.name) == (stored, f"disk-{stored.digest[:12]}")
    with pytest.raises(InvalidRequest):
        add_version(
            actor=world.actor(world.operator),
            slug="other",
            facts=facts | {"upload": UUID(int=1)},
            now=world.now,
        )


def test_a_disk_over_another_file_is_refused_and_does_not_leak_it(world: World, disk: Path) -> None:
    secret = store.folder().parent / "secret"
    evil = disk.with_name("evil.qcow2")
    over = ["-u", "-F", "raw", "-b", str(secret)]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *over, evil, "1M"], check=True)
    assert refused(upload(world, evil, "qcow2")) == "image-elsewhere"


def test_a_disk_with_its_data_elsewhere_is_refused(world: World, disk: Path) -> None:
    evil, data = disk.with_name("evil2.qcow2"), disk.with_name("data")
    options = ["-o", f"data_file={data},data_file_raw=on"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, evil, "1M"], check=True)
    data.unlink()
    assert refused(upload(world, evil, "qcow2")) in ("image-elsewhere", "image-unreadable")


def test_a_vmdk_that_names_other_files_is_refused(world: World, disk: Path) -> None:
    secret = store.folder().parent / "secret"
    secret.write_bytes(b"x" * 512)
    evil = disk.with_name("evil.vmdk")
    evil.write_text(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
        f'createType="monolithicFlat"\nRW 1 FLAT "{secret}" 0\n'
        'ddb.adapterType = "ide"\n'
    )
    assert refused(upload(world, evil, "vmdk")) in ("image-elsewhere", "image-unreadable")


@pytest.mark.parametrize("root", {os.geteuid() == 0, False})
def test_inside_nothing_is_to_be_seen_but_the_file(disk: Path, root: bool) -> None:
    """As who attacks qemu-img from within the file would find it."""
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as folder,
        socket.create_server(("127.0.0.1", 0)) as door,
    ):
        Path(folder).chmod(0o755)
        source = Path(folder) / "image"
        shutil.copy(disk, source)
        source.chmod(0o644)
        look = f"""
            echo $(ls /); echo $(ls /in); id -u; grep Cap /etc/passwd /proc/self/status; cat {source};
            (echo > /dev/tcp/127.0.0.1/{door.getsockname()[1]}) && echo CONNECTED;
            (echo > /in/image) && echo WROTE; (echo > /usr/made) && echo WROTE
        """
        limits = Limits(seconds=10, file_bytes=MIB)
        command = sandboxed(
            ("/usr/bin/bash", "-c", look), source=source, result=None, limits=limits, root=root
        )
        nobody = [] if root or os.geteuid() else ["setpriv", "--reuid=65534", "--clear-groups"]
        said = subprocess.run([*nobody, *command], capture_output=True, text=True, check=False)
    user = str(sandbox.NOBODY if os.geteuid() == 0 else os.geteuid())
    assert said.stdout.split("\n") == ["bin dev in lib lib64 usr", "image", user, ""], said.stderr


def test_inside_memory_and_files_are_bounded(disk: Path) -> None:
    limits = Limits(seconds=10, file_bytes=MIB)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        sandbox.open_to_sandbox(Path(folder))
        greedy = "head -c 3M /dev/zero > /out/image.raw; stat -c %s /out/image.raw; "
        greedy += 'perl -e \'my $x = "x" x 3000000000; print "FED"\''
        command = sandboxed(
            ("/usr/bin/bash", "-c", greedy),
            source=disk,
            result=Path(folder),
            limits=limits,
            root=os.geteuid() == 0,
        )
        said = subprocess.run(command, capture_output=True, text=True)
    assert said.stdout == f"{MIB}\n"


def test_what_takes_too_long_is_stopped(world: World, disk: Path, settings: Settings) -> None:
    settings.IMAGE_CONVERSION_SECONDS = 0
    assert refused(upload(world, made(disk, "qcow2"), "qcow2")) == "image-late"


def test_an_absurd_size_is_refused(world: World, disk: Path) -> None:
    huge = disk.with_name("huge.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", huge, "60T"], check=True)
    assert refused(upload(world, huge, "qcow2")) == "image-too-large"


@pytest.mark.parametrize("format", ["qcow2", "vmdk", "vdi", "vhdx"])
def test_a_disk_that_was_cut_off_is_refused(world: World, disk: Path, format: str) -> None:
    cut = made(disk, format)
    os.truncate(cut, cut.stat().st_size * 2 // 5)
    assert refused(upload(world, cut, format)) in ("image-damaged", "image-unreadable")


def test_another_format_than_was_said_is_refused(world: World, disk: Path) -> None:
    assert refused(upload(world, disk, "qcow2")) == "image-unreadable"


def test_another_digest_than_was_said_is_refused(world: World, disk: Path) -> None:
    assert refused(upload(world, disk, "raw", digest="5eed" * 16)) == "image-other-digest"


def test_without_a_sandbox_nothing_is_read(world: World, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "bwrap" else f"/usr/bin/{name}")
    assert refused(upload(world, disk, "raw")) == "image-no-sandbox"


def test_a_conversion_that_is_cut_short_again_and_again_is_given_up(world: World, disk: Path) -> None:
    begun = begin(world, disk)
    put(world, begun, disk.read_bytes())
    ImageUpload.objects.filter(pk=begun.pk).update(state="converting", attempts=3)
    assert refused(convert_upload(begun.pk, clock=lambda: world.now)) == "image-gave-up"


def test_two_do_not_convert_the_same_file(world: World, disk: Path) -> None:
    begun = begin(world, disk)
    put(world, begun, disk.read_bytes())
    with store.working_on(store.upload_path(begun.pk)), pytest.raises(store.Busy):
        convert_upload(begun.pk, clock=lambda: world.now)


def begin(world: World, path: Path, **facts: Any) -> ImageUpload:
    said: dict[str, Any] = {"file_name": path.name, "format": "raw", "size": path.stat().st_size}
    return begin_upload(actor=world.actor(world.operator), now=world.now, **(said | facts))


def put(world: World, begun: ImageUpload, data: bytes, offset: int = 0) -> ImageUpload:
    return add_piece(
        actor=world.actor(world.operator), upload_id=begun.pk, offset=offset, data=data, now=world.now
    )


def test_pieces_follow_each_other(world: World, disk: Path) -> None:
    begun = begin(world, disk)
    put(world, begun, b"first")
    with pytest.raises(OtherOffset, match="goes on at byte 5"):
        put(world, begun, b"again")
    with pytest.raises(InvalidRequest):
        put(world, begun, b"x" * (PIECE_BYTES + 1), offset=5)
    with pytest.raises(InvalidRequest):
        put(world, begun, b"x" * 2 * MIB, offset=5)
    # Of a piece that a crash cut short more may lie on the disk than was counted.
    with store.upload_path(begun.pk).open("ab") as file:
        file.write(b"garbage")
    put(world, begun, b"next", offset=5)
    assert store.upload_path(begun.pk).read_bytes() == b"firstnext"


@pytest.mark.parametrize(
    ("facts", "field"),
    [({"size": 0}, "size"), ({"size": 65 * MIB}, "size"), ({"format": "iso"}, "format"),
     ({"digest": "short"}, "digest"), ({"file_name": " "}, "file_name")],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_it_comes(
    world: World, disk: Path, facts: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        begin(world, disk, **facts)
    assert refusal.value.field == field


def test_uploads_are_few_and_fit(world: World, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "OPEN_AT_MOST", 1)
    begun = begin(world, disk)
    with pytest.raises(WrongState, match="under way"):
        begin(world, disk)
    remove_upload(actor=world.actor(world.operator), upload_id=begun.pk, now=world.now)
    monkeypatch.setattr(store, "has_room_for", lambda count: False)
    with pytest.raises(WrongState, match="not enough room"):
        begin(world, disk)


def test_only_operators_upload(world: World, disk: Path) -> None:
    actor = world.actor(world.ada)
    with pytest.raises(NotVisible):
        begin_upload(actor=actor, file_name="x", format="raw", size=1, now=world.now)
    begun = begin(world, disk)
    with pytest.raises(NotVisible):
        add_piece(actor=actor, upload_id=begun.pk, offset=0, data=b"x", now=world.now)
    with pytest.raises(DomainError):
        remove_upload(actor=actor, upload_id=begun.pk, now=world.now)


def test_what_nobody_goes_on_with_is_forgotten(
    world: World, disk: Path, django_capture_on_commit_callbacks: Any
) -> None:
    begun = begin(world, disk)
    put(world, begun, b"first")
    forget_old(world.now)
    assert ImageUpload.objects.exists()
    with django_capture_on_commit_callbacks(execute=True):
        forget_old(world.now + uploads.FORGOTTEN_AFTER * 2)
    assert not ImageUpload.objects.exists()
    assert not store.upload_path(begun.pk).exists()


def test_what_no_version_is_made_of_goes_with_its_upload(
    world: World, disk: Path, django_capture_on_commit_callbacks: Any
) -> None:
    actor = world.actor(world.operator)
    first, second = upload(world, disk, "raw"), upload(world, made(disk, "qcow2"), "qcow2")
    kept = store.content_path(StoredImage.objects.get().digest)  # of both: they have the same content
    facts = {"name": "Debian", "os_family": "linux", "upload": first.pk}
    with django_capture_on_commit_callbacks(execute=True):
        remove_upload(actor=actor, upload_id=second.pk, now=world.now)
        assert StoredImage.objects.exists()
    image = add_version(actor=actor, slug="debian", facts=facts, now=world.now)
    with django_capture_on_commit_callbacks(execute=True):
        remove_upload(actor=actor, upload_id=first.pk, now=world.now)
    assert kept.exists()
    image.delete()
    third = upload(world, disk, "raw")
    with django_capture_on_commit_callbacks(execute=True):
        remove_upload(actor=actor, upload_id=third.pk, now=world.now)
    assert not kept.exists()
    assert not StoredImage.objects.exists()


def test_a_file_on_the_server_is_imported(world: World, disk: Path) -> None:
    out = StringIO()
    call_command("import_image", str(disk), format="raw", sha256=sha256(disk), stdout=out)
    assert out.getvalue().startswith(sha256(disk))
    with pytest.raises(CommandError, match="not what was said"):
        call_command("import_image", str(disk), format="raw", sha256="5eed" * 16)
    with pytest.raises(CommandError, match="No such file"):
        call_command("import_image", "/nowhere", format="raw")


def test_pieces_of_a_kept_file_leave_its_holes_out(world: World, disk: Path) -> None:
    digest = upload(world, disk, "raw").stored.digest  # type: ignore[union-attr]
    found = store.read_piece(digest, 0)
    assert found is not None
    assert disk.read_bytes()[: len(found.data)] == found.data
    assert store.read_piece(digest, found.offset + len(found.data)) is None
