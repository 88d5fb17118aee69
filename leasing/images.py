"""Images in versions: which one is offered, and how one is retired while leases still run from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import transaction
from django.db.models import Count, Exists, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.utils.translation import gettext as _

from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import InvalidRequest, NotVisible, WrongState
from leasing.fleet import authorise
from leasing.locking import locked
from leasing.models import Image, ImageUpload, Lease, StoredImage, WaitlistEntry
from leasing.states.lease import ON_HOST, LeaseState

_AHEAD = (LeaseState.REQUESTED, LeaseState.SCHEDULED)
# What a version says of itself; what a new one leaves out is as it was.
FIELDS = (
    "name", "os_family", "format", "digest", "file_name", "cmdline", "login", "default_user", "cloud_init",
    "mounts", "ports", "desktops", "firmware", "tpm", "hides_hypervisor",
)  # fmt: skip


def images_in_use() -> QuerySet[Image]:
    """All versions, each with how many leases run from it (`running`) and are booked with it (`booked`)."""
    counted = Image.objects.annotate(running=_count(ON_HOST), booked=_count(_AHEAD))
    return counted.order_by("slug", "-version")


def _count(states: Collection[str]) -> Coalesce:
    leases = Lease.objects.filter(image=OuterRef("pk"), state__in=states).order_by()
    return Coalesce(Subquery(leases.values("image").annotate(n=Count("pk")).values("n")), 0)


def add_version(*, actor: Actor, slug: str, facts: Mapping[str, Any], now: datetime) -> Image:
    """Offer another version of an image, the first one if there is none yet. InvalidRequest names the field.

    `facts` are some of FIELDS, or the id of a finished `upload` in the place of format, file and digest. The
    version that was offered is retired; leases keep it, and who waits for the image, or was offered a lease
    with it, gets the new one.
    """
    authorise(actor)
    with transaction.atomic():
        versions = [*locked(Image.objects.filter(slug=slug)).order_by("version")]
        before = next((image for image in versions if image.offered), None)
        number = versions[-1].version + 1 if versions else 1
        if before is not None:
            _retire(before, reason=_told_replaced(number), now=now)
        kept = {name: getattr(versions[-1], name) for name in FIELDS} if versions else {}
        given = {name: _tidy(name, facts[name]) for name in FIELDS if name in facts}
        stored = _stored(facts["upload"]) if facts.get("upload") else None
        if stored is not None:
            given |= {"format": Image.Format.RAW, "digest": stored.digest, "file_name": stored.name}
        elif not {"digest", "file_name"} <= given.keys():
            raise InvalidRequest(_("Choose an upload, or name a file and its digest."), field="file_name")
        image = Image(slug=slug, version=number, stored=stored, **kept | given)
        _check(image)
        image.save()
        if before is not None:
            _carry_over(before, image)
        told = {name: getattr(image, name) for name in FIELDS}
        record(action="image.add", actor=actor, subject=_subject(image), now=now, slug=slug, **told)
    return image


def retire_image(*, actor: Actor, image_id: int, reason: str, now: datetime) -> Image:
    """No lease is booked with it any more. Those that run or are booked keep it, and its file has to stay."""
    authorise(actor)
    reason = reason.strip()
    if not reason or len(reason) > 200:
        raise InvalidRequest(
            _("Say why in a few words; whoever comes next will want to know."), field="reason"
        )
    with transaction.atomic():
        image = _locked_image(image_id)
        if not image.offered:
            raise WrongState(_("This version is not offered."))
        _retire(image, reason=reason, now=now)
        record(
            action="image.retire",
            actor=actor,
            subject=_subject(image),
            now=now,
            slug=image.slug,
            reason=reason,
        )
    return image


def offer_image(*, actor: Actor, image_id: int, now: datetime) -> Image:
    """Offer a retired version again, in place of the one that is offered now."""
    authorise(actor)
    with transaction.atomic():
        image = _locked_image(image_id)
        if image.offered:
            raise WrongState(_("This version is offered already."))
        before = locked(Image.objects.filter(slug=image.slug, offered=True)).first()
        if before is not None:
            _retire(before, reason=_told_replaced(image.version), now=now)
        _refuse_other_content(image)
        image.offered, image.retired_at, image.retired_because = True, None, ""
        image.save(update_fields=["offered", "retired_at", "retired_because"])
        if before is not None:
            _carry_over(before, image)
        record(action="image.offer", actor=actor, subject=_subject(image), now=now, slug=image.slug)
    return image


def _stored(upload_id: UUID) -> StoredImage:
    upload = ImageUpload.objects.filter(pk=upload_id).select_related("stored").first()
    if upload is None or upload.stored is None:
        raise InvalidRequest(_("This upload does not exist, or is not ready."), field="upload")
    return upload.stored


def _told_replaced(version: int) -> str:
    return f"Replaced by version {version}."


def _retire(image: Image, *, reason: str, now: datetime) -> None:
    image.offered, image.retired_at, image.retired_because = False, now, reason
    image.save(update_fields=["offered", "retired_at", "retired_because"])


def _carry_over(before: Image, after: Image) -> None:
    """What is not a booking yet follows the image, not its version."""
    Lease.objects.filter(image=before, state=LeaseState.OFFERED).update(image=after)
    WaitlistEntry.objects.filter(image=before, closed_at=None).update(image=after)


def _tidy(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return value.strip().lower() if name == "digest" else value.strip()


def _check(image: Image) -> None:
    try:
        image.full_clean()
    except ValidationError as error:
        field, reasons = next(iter(error.message_dict.items()))
        raise InvalidRequest(reasons[0], field="" if field == NON_FIELD_ERRORS else field) from error
    _refuse_other_content(image)


def _refuse_other_content(image: Image) -> None:
    """A file that leases run from keeps its content: their machines start from it again."""
    used = Exists(Lease.objects.filter(image=OuterRef("pk"), state__in=[*ON_HOST, *_AHEAD]))
    same_file = Image.objects.filter(file_name=image.file_name).exclude(digest=image.digest)
    if found := same_file.filter(Q(used) | Q(offered=True)).first():
        raise InvalidRequest(
            _("“%(file)s” is the file of %(image)s, version %(version)d, which is in use.")
            % {"file": found.file_name, "image": found.slug, "version": found.version},
            hint=_("Give the new version a file name of its own."),
            field="file_name",
        )


def _locked_image(image_id: int) -> Image:
    image = locked(Image.objects.filter(pk=image_id)).first()
    if image is None:
        raise NotVisible(_("There is no such image."))
    return image


def _subject(image: Image) -> str:
    return f"image:{image.slug}-{image.version}"
