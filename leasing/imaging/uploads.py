"""Files come in: piece after piece over HTTP, or from a path on the portal's own server."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.utils.translation import gettext as _

from hosts.protocol.images import PIECE_BYTES
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import InvalidRequest, NotVisible, WrongState
from leasing.fleet import authorise
from leasing.imaging import store
from leasing.locking import locked
from leasing.models import ImageUpload
from leasing.transactions import atomically
from leasing.wake import wake_control

OPEN_AT_MOST = 10
FORGOTTEN_AFTER = timedelta(days=7)
State = ImageUpload.State


class OtherOffset(WrongState):
    """The piece does not follow what has come so far."""

    code = "other-offset"


def uploads() -> QuerySet[ImageUpload]:
    return ImageUpload.objects.select_related("by", "stored")


def known_upload(upload_id: UUID) -> ImageUpload:
    """NotVisible if there is none."""
    upload = uploads().filter(pk=upload_id).first()
    if upload is None:
        raise NotVisible(_("There is no such upload."))
    return upload


@atomically
def begin_upload(
    *, actor: Actor, file_name: str, format: str, size: int, digest: str = "", now: datetime
) -> ImageUpload:
    """Say what is about to come. `digest` is the SHA-256 that it must have, if that is known."""
    authorise(actor)
    upload = ImageUpload(
        file_name=file_name.strip(),
        format=format,
        size=size,
        declared_digest=digest.strip().lower(),
        by=actor.person,
        created_at=now,
        changed_at=now,
    )
    _check(upload)
    upload.save(force_insert=True)
    record(
        action="image.upload",
        actor=actor,
        subject=f"image-upload:{upload.pk}",
        now=now,
        file=upload.file_name,
        format=format,
        size=size,
        digest=upload.declared_digest,
    )
    return upload


def _check(upload: ImageUpload) -> None:
    try:
        upload.clean_fields(exclude=["by", "stored"])
    except ValidationError as error:
        field, reasons = next(iter(error.message_dict.items()))
        names = {"declared_digest": "digest"}
        raise InvalidRequest(reasons[0], field=names.get(field, field)) from error
    most = settings.IMAGE_AT_MOST_BYTES
    if not 0 < upload.size <= most:
        raise InvalidRequest(
            _("A file has between 1 byte and %(limit)d GiB.") % {"limit": most >> 30}, field="size"
        )
    open_ones = ImageUpload.objects.filter(state__in=[State.RECEIVING, State.WAITING, State.CONVERTING])
    if open_ones.count() >= OPEN_AT_MOST:
        raise WrongState(
            _("%(count)d uploads are under way already.") % {"count": OPEN_AT_MOST},
            hint=_("Wait for one of them, or remove one."),
        )
    if not store.has_room_for(upload.size):
        raise WrongState(_("There is not enough room in the portal's store."))


@atomically
def add_piece(*, actor: Actor, upload_id: UUID, offset: int, data: bytes, now: datetime) -> ImageUpload:
    """Add what follows; after the last piece its conversion begins. OtherOffset says where to go on."""
    authorise(actor)
    upload = _locked_upload(upload_id)
    if upload.state != State.RECEIVING:
        raise WrongState(_("This upload is complete already."))
    if offset != upload.received:
        raise OtherOffset(_("It goes on at byte %(offset)d.") % {"offset": upload.received}, field="offset")
    if not 0 < len(data) <= PIECE_BYTES or offset + len(data) > upload.size:
        raise InvalidRequest(_("The piece is empty, too large, or more than was announced."))
    _write(upload, data)
    upload.received += len(data)
    upload.changed_at = now
    if upload.received == upload.size:
        upload.state = State.WAITING
        transaction.on_commit(wake_control)
    upload.save(update_fields=["received", "changed_at", "state"])
    return upload


def _write(upload: ImageUpload, data: bytes) -> None:
    last = upload.received + len(data) == upload.size
    try:
        store.write_piece(store.upload_path(upload.pk), upload.received, data, last=last)
    except OSError as error:
        raise WrongState(
            _("The portal's store cannot be written: %(why)s") % {"why": error.strerror}
        ) from error


def remove_upload(*, actor: Actor, upload_id: UUID, now: datetime) -> None:
    """Forget an upload that is not being converted, and its file in the store if no version is made of it."""
    authorise(actor)
    with transaction.atomic():
        upload = _locked_upload(upload_id)
        if upload.state == State.CONVERTING:
            raise WrongState(_("It is being converted."))
        _forget(upload)
        record(
            action="image.upload-removed",
            actor=actor,
            subject=f"image-upload:{upload.pk}",
            now=now,
            file=upload.file_name,
        )


def forget_old(now: datetime) -> None:
    """Uploads that nobody has gone on with for a week."""
    old = ImageUpload.objects.filter(state=State.RECEIVING, changed_at__lt=now - FORGOTTEN_AFTER)
    for pk in list(old.values_list("pk", flat=True)):
        with transaction.atomic():
            upload = locked(old.filter(pk=pk)).first()
            if upload is not None:
                _forget(upload)


def _forget(upload: ImageUpload) -> None:
    paths = [store.upload_path(upload.pk)]
    ImageUpload.objects.filter(pk=upload.pk).delete()
    stored = upload.stored
    if stored is not None and not (stored.versions.exists() or stored.uploads.exists()):
        paths.append(store.content_path(stored.digest))
        stored.delete()
    transaction.on_commit(lambda: _unlink(paths))


def _unlink(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def import_file(*, actor: Actor, path: Path, format: str, digest: str = "", now: datetime) -> ImageUpload:
    """Take in a file that lies on this server, whole. OSError if it cannot be read."""
    with path.open("rb") as file:
        size, name = path.stat().st_size, path.name[:200]
        upload = begin_upload(actor=actor, file_name=name, format=format, size=size, digest=digest, now=now)
        while upload.received < size:
            data = file.read(PIECE_BYTES)
            upload = add_piece(actor=actor, upload_id=upload.pk, offset=upload.received, data=data, now=now)
    return upload


def _locked_upload(upload_id: UUID) -> ImageUpload:
    upload = locked(ImageUpload.objects.filter(pk=upload_id)).first()
    if upload is None:
        raise NotVisible(_("There is no such upload."))
    return upload
