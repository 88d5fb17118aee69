"""Images and their versions: shown to those who see the fleet, added and retired by operators."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from leasing import images as service
from leasing import policy
from leasing.errors import InvalidRequest, NotVisible
from leasing.models import Image, ImageUpload
from portal.middleware import PersonRequest
from portal.pages.actions import operating, text_in
from portal.pages.image_files import files_context, ready_uploads

_FLAGS = ("cloud_init", "tpm", "hides_hypervisor")
_TEXTS = tuple(name for name in service.FIELDS if name not in (*_FLAGS, "mounts", "ports", "desktops"))


@login_required
@require_safe
def images(request: PersonRequest) -> HttpResponse:
    policy.require_fleet_reader(request.user)
    context = {
        **files_context(),
        "back": request.path,
        "ready": ready_uploads(),
        "upload_formats": ImageUpload.Format.choices,
        "images": service.images_in_use(),
        "formats": Image.Format.choices,
        "firmwares": Image.Firmware.choices,
        "desktops": Image.Desktop.choices,
        "flags": [
            ("cloud_init", _("Set up by cloud-init")),
            ("tpm", _("With a TPM 2.0")),
            ("hides_hypervisor", _("Hides the hypervisor")),
        ],
        "may_operate": policy.is_operator(request.user),
    }
    return render(request, "fleet/images.html", context)


@operating("images")
def add_image(request: PersonRequest) -> str:
    given = {name: request.POST.get(name, "").strip()[:501] for name in (*_TEXTS, *_FLAGS)}
    facts: dict[str, Any] = {name: given[name] for name in _TEXTS if given[name]}
    facts |= {name: given[name] == "yes" for name in _FLAGS if given[name] in ("yes", "no")}
    if desktops := request.POST.getlist("desktops")[: len(Image.Desktop) + 1]:
        facts["desktops"] = [each for each in desktops if each != "none"]
    if ports := request.POST.get("ports", "").strip():
        facts["ports"] = _ports(ports)
    if chosen := request.POST.get("upload", ""):
        facts["upload"] = _upload_id(chosen)
    slug = text_in(request, "slug", 50)
    image = service.add_version(actor=request.actor, slug=slug, facts=facts, now=timezone.now())
    return _("Version %(n)d of %(image)s is offered.") % {"n": image.version, "image": image.name}


def _ports(text: str) -> list[int]:
    """Numbers, with commas or spaces between them; `-` is none."""
    words = text.replace(",", " ").split() if text != "-" else []
    if len(text) > 200 or not all(word.isdecimal() and len(word) < 6 for word in words):
        raise InvalidRequest(_("Name ports by their numbers, such as 22, 3389."), field="ports")
    return [int(word) for word in words]


def _upload_id(chosen: str) -> UUID:
    try:
        return UUID(chosen)
    except ValueError:
        raise NotVisible(_("There is no such upload.")) from None


@operating("images")
def retire_image(request: PersonRequest, image_id: int) -> str:
    reason = request.POST.get("reason", "")
    image = service.retire_image(actor=request.actor, image_id=image_id, reason=reason, now=timezone.now())
    return _("%(image)s is not offered any more.") % {"image": image.name}


@operating("images")
def offer_image(request: PersonRequest, image_id: int) -> str:
    image = service.offer_image(actor=request.actor, image_id=image_id, now=timezone.now())
    return _("Version %(n)d of %(image)s is offered.") % {"n": image.version, "image": image.name}
