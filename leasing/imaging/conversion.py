"""From an uploaded file to a raw disk in the store: its digest, its inside, then the conversion."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils.text import slugify

from leasing.actors import SYSTEM
from leasing.audit.log import record
from leasing.imaging import store
from leasing.imaging.inspection import Unfit, require_whole_vdi, virtual_size
from leasing.imaging.sandbox import (
    INPUT,
    RESULT,
    Ran,
    SandboxMissing,
    conversion_seconds,
    open_to_sandbox,
    qemu_img,
    readable_inside,
)
from leasing.locking import locked
from leasing.models import ImageUpload, StoredImage
from leasing.reasons import NONE, Reason, because

ATTEMPTS = 3
TELL_SECONDS = 0.5
# qemu-img check: clusters that nothing uses waste room and do no harm.
_SOUND = (0, 3)
Clock = Callable[[], datetime]
State = ImageUpload.State


def convert_upload(upload_id: UUID, *, clock: Clock) -> ImageUpload:
    """Make the upload ready, or say why it cannot be. Busy if another process is at it.

    What a crash interrupts is begun anew, a few times.
    """
    path = store.upload_path(upload_id)
    with store.working_on(path):
        upload = _begin(upload_id, now=clock())
        if upload.state == State.CONVERTING:
            try:
                stored = _converted(upload, path, now=clock)
            except Unfit as error:
                _fail(upload, error.reason, now=clock())
            except SandboxMissing as error:
                _fail(upload, because("image-no-sandbox", words=str(error)), now=clock())
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                _fail(upload, because("image-no-room"), now=clock())
            else:
                _finish(upload, stored, now=clock())
        path.unlink(missing_ok=True)
    return upload


def _begin(upload_id: UUID, *, now: datetime) -> ImageUpload:
    with transaction.atomic():
        upload = locked(ImageUpload.objects.filter(pk=upload_id)).get()
        if upload.state not in (State.WAITING, State.CONVERTING):
            return upload
        upload.attempts += 1
        upload.state, upload.percent, upload.changed_at = State.CONVERTING, 0, now
        upload.save(update_fields=["attempts", "state", "percent", "changed_at"])
    if upload.attempts > ATTEMPTS:
        _fail(upload, because("image-gave-up", count=ATTEMPTS), now=now)
    return upload


def _converted(upload: ImageUpload, path: Path, *, now: Clock) -> StoredImage:
    """The upload's content, in the store. Unfit, SandboxMissing."""
    found = store.sha256_of(path)
    if upload.declared_digest and found != upload.declared_digest:
        raise Unfit(because("image-other-digest", found=found))
    readable_inside(path)
    size = _inspected(upload, path)
    with _workplace(upload) as folder:
        if not store.has_room_for(min(size, path.stat().st_size * 4)):
            raise Unfit(because("image-no-room"))
        _require_done(_convert(upload, path, folder, size=size, now=now), upload)
        result = folder / Path(RESULT).name
        digest = store.sha256_of(result)
        data, whole = store.data_bytes(result), result.stat().st_size
        store.keep(result, digest)
    stored, _ = StoredImage.objects.get_or_create(
        digest=digest,
        defaults={
            "name": name_of(upload.file_name, digest),
            "size": whole,
            "data": data,
            "source_name": upload.file_name,
            "source_format": upload.format,
            "source_digest": found,
            "created_at": now(),
        },
    )
    return stored


def name_of(file_name: str, digest: str) -> str:
    """What the file is called on hosts: readable, and another one for other content."""
    stem = slugify(Path(file_name).stem.replace(".", "-").replace("_", "-"))[:40].strip("-")
    return f"{stem or 'image'}-{digest[:12]}"


def _inspected(upload: ImageUpload, path: Path) -> int:
    """The size of its disk."""
    ran = qemu_img("info", "--output=json", "-f", upload.format, INPUT, source=path)
    if ran.status:
        raise Unfit(_unreadable(upload, ran))
    size = virtual_size(ran.output, format=upload.format, most=settings.IMAGE_AT_MOST_BYTES)
    if upload.format == "raw":
        return size
    seconds = conversion_seconds()
    checked = qemu_img("check", "-q", "-f", upload.format, INPUT, source=path, seconds=seconds)
    if checked.late:
        raise Unfit(because("image-late"))
    if checked.status not in _SOUND:
        raise Unfit(because("image-damaged", words=_last_words(checked)))
    if upload.format == "vdi":
        require_whole_vdi(path)
    return size


def _convert(upload: ImageUpload, path: Path, folder: Path, *, size: int, now: Clock) -> Ran:
    told_at = 0.0

    def tell(percent: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= TELL_SECONDS:
            told_at = time.monotonic()
            open_ones = ImageUpload.objects.filter(pk=upload.pk, state=State.CONVERTING)
            open_ones.update(percent=percent, changed_at=now())

    return qemu_img(
        *("convert", "-p", "-m", "4", "-S", "4k", "-f", upload.format, "-O", "raw", INPUT, RESULT),
        source=path,
        result=folder,
        seconds=conversion_seconds(),
        file_bytes=size,
        on_percent=tell,
    )


def _require_done(ran: Ran, upload: ImageUpload) -> None:
    if ran.late:
        raise Unfit(because("image-late"))
    if "No space left" in ran.errors:
        raise Unfit(because("image-no-room"))
    if ran.status:
        raise Unfit(_unreadable(upload, ran))


def _unreadable(upload: ImageUpload, ran: Ran) -> Reason:
    return because("image-unreadable", format=upload.format, words=_last_words(ran))


def _last_words(ran: Ran) -> str:
    return ran.errors.splitlines()[-1][:300] if ran.errors else ""


@contextmanager
def _workplace(upload: ImageUpload) -> Iterator[Path]:
    """An empty folder in the store; its own parent is closed to everybody else."""
    work = store.folder() / "work"
    work.mkdir(mode=0o700, exist_ok=True)
    folder = work / str(upload.pk)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    open_to_sandbox(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _finish(upload: ImageUpload, stored: StoredImage, *, now: datetime) -> None:
    with transaction.atomic():
        upload.stored, upload.percent = stored, 100
        _settle(upload, State.READY, NONE, now=now)
        record(
            action="image.store",
            actor=SYSTEM,
            subject=f"image-upload:{upload.pk}",
            now=now,
            file=upload.file_name,
            format=upload.format,
            digest=stored.digest,
            source_digest=stored.source_digest,
            size=stored.size,
        )


def _fail(upload: ImageUpload, reason: Reason, *, now: datetime) -> None:
    with transaction.atomic():
        _settle(upload, State.FAILED, reason, now=now)
        record(
            action="image.unfit",
            actor=SYSTEM,
            subject=f"image-upload:{upload.pk}",
            now=now,
            file=upload.file_name,
            reason=reason.in_english(),
        )


def _settle(upload: ImageUpload, state: str, reason: Reason, *, now: datetime) -> None:
    upload.state, upload.reason, upload.changed_at = state, reason, now
    upload.save(update_fields=["state", "reason", "percent", "stored", "changed_at"])
