"""Files of images: uploads and their conversion, and copies on hosts, as they are at the moment."""

from __future__ import annotations

from itertools import groupby
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from hosts.protocol.images import PIECE_BYTES
from leasing import policy
from leasing.errors import InvalidRequest
from leasing.imaging import copies, uploads
from leasing.models import ImageUpload, StoredImage
from portal.middleware import PersonRequest
from portal.pages.actions import action

SHOWN_UPLOADS = 20


@login_required
@require_safe
def images_live(request: PersonRequest) -> HttpResponse:
    policy.require_fleet_reader(request.user)
    context = {**files_context(), "may_operate": policy.is_operator(request.user), "back": reverse("images")}
    return render(request, "fleet/_image_files.html", context)


def files_context() -> dict[str, Any]:
    """The latest uploads, and the stored images that hosts have or are about to have."""
    known = copies.known_copies()
    return {
        "uploads": uploads.uploads()[:SHOWN_UPLOADS],
        "stored": [(image, list(rows)) for image, rows in groupby(known, _stored)],
    }


def _stored(copy: Any) -> StoredImage:
    stored: StoredImage = copy.stored
    return stored


def ready_uploads() -> list[ImageUpload]:
    """What a version can be made of."""
    return list(uploads.uploads().filter(state=ImageUpload.State.READY)[:SHOWN_UPLOADS])


@action
def upload_image(request: PersonRequest) -> str:
    """A whole file in one form: for browsers without JavaScript, which sends pieces to the API instead."""
    policy.require_operator(request.user)
    file = request.FILES.get("file")
    if not isinstance(file, UploadedFile) or not file.size:
        raise InvalidRequest(_("Choose a file."), field="file")
    upload = uploads.begin_upload(
        actor=request.actor,
        file_name=(file.name or "")[:200],
        format=request.POST.get("format", ""),
        size=file.size,
        digest=request.POST.get("digest", "")[:65],
        now=timezone.now(),
    )
    for data in file.chunks(PIECE_BYTES):
        upload = uploads.add_piece(
            actor=request.actor,
            upload_id=upload.pk,
            offset=upload.received,
            data=data,
            now=timezone.now(),
        )
    messages.success(request, _("%(file)s has arrived and is being checked.") % {"file": upload.file_name})
    return reverse("images")


@action
def remove_upload(request: PersonRequest, upload_id: UUID) -> str:
    policy.require_operator(request.user)
    uploads.remove_upload(actor=request.actor, upload_id=upload_id, now=timezone.now())
    messages.success(request, _("The upload is removed."))
    return reverse("images")
