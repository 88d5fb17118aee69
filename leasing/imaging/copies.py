"""Copies on hosts: which host is to hold what, what hosts say they hold, and the pieces that they fetch."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils.translation import gettext as _

from hosts.models import Host
from hosts.protocol.images import (
    IMAGES_AT_MOST,
    HeldImage,
    HoldImages,
    ImageCopies,
    open_piece_request,
)
from hosts.protocol.signing import ForgedMessage, parse_envelope, verify_key
from leasing.actors import SYSTEM
from leasing.audit.log import record_sparingly
from leasing.errors import NotVisible
from leasing.imaging import store
from leasing.locking import locked
from leasing.models import Image, ImageCopy, ImageGoal, Lease, StoredImage
from leasing.outbox import queue_command
from leasing.states.lease import ON_HOST, LeaseState
from leasing.transactions import atomically

_USED = (*ON_HOST, LeaseState.REQUESTED, LeaseState.SCHEDULED)


def wanted_images() -> list[StoredImage]:
    """What hosts hold: what is offered, and what leases run from or are booked with."""
    mine = Image.objects.filter(stored=OuterRef("pk"))
    leases = Lease.objects.filter(image__stored=OuterRef("pk"), state__in=_USED)
    wanted = StoredImage.objects.filter(Exists(mine.filter(offered=True)) | Exists(leases))
    return list(wanted.order_by("digest")[:IMAGES_AT_MOST])


def known_copies() -> QuerySet[ImageCopy]:
    """By image, then by host."""
    copies = ImageCopy.objects.filter(host__retired_at=None).select_related("host", "stored")
    return copies.order_by("stored__name", "host__name")


def order_copies(now: datetime) -> None:
    """Tell each host that was last told something else, or has lost its memory since."""
    wanted = wanted_images()
    digests = [stored.digest for stored in wanted]
    speaking = Q(retired_at=None, journal_id__isnull=False, protocol__gte=HoldImages.SINCE)
    for host in Host.objects.filter(speaking).select_related("image_goal"):
        goal = getattr(host, "image_goal", None)
        told = (goal.journal_id, goal.digests) if goal else (host.journal_id, [])
        if told != (host.journal_id, digests):
            _order(host.pk, wanted, now=now)


@atomically
def _order(host_id: UUID, wanted: list[StoredImage], *, now: datetime) -> None:
    host = locked(Host.objects.filter(pk=host_id)).get()
    if host.journal_id is None:
        return
    host.generation += 1
    host.save(update_fields=["generation"])
    for stored in wanted:
        facts = {"wanted": True, "changed_at": now}
        ImageCopy.objects.update_or_create(host=host, stored=stored, defaults=facts)
    ImageCopy.objects.filter(host=host).exclude(stored__in=wanted).update(wanted=False, changed_at=now)
    ImageGoal.objects.update_or_create(
        host=host,
        defaults={"journal_id": host.journal_id, "digests": [stored.digest for stored in wanted]},
    )
    images = tuple(
        HeldImage(name=stored.name, digest=stored.digest, size=stored.size, data=stored.data)
        for stored in wanted
    )
    queue_command(
        host=host,
        subject=f"images:{host.account}",
        generation=host.generation,
        goal=HoldImages(images=images),
        now=now,
    )


def take_report(host: Host, event: ImageCopies, *, now: datetime) -> None:
    """Believe the host about its copies: what it does not name, it does not have."""
    said = {copy.digest: copy for copy in event.copies}
    for row in ImageCopy.objects.filter(host=host).select_related("stored"):
        found = said.get(row.stored.digest)
        if found is None and not row.wanted:
            row.delete()
            continue
        row.state = found.state if found else ImageCopy.State.WAITING
        row.done, row.reason = (found.done, found.reason) if found else (0, "")
        row.changed_at = now
        row.save(update_fields=["state", "done", "reason", "changed_at"])


class Served(NamedTuple):
    """A piece of an image of `size` bytes; None if there is only a hole up to its end."""

    piece: store.Piece | None
    size: int


def serve_piece(*, envelope: str, address: str, now: datetime) -> Served:
    """What a host asks for, if it is to hold that image. To anybody else there is nothing: NotVisible."""
    try:
        copy, offset = _asked(envelope, now=now)
        return Served(store.read_piece(copy.stored.digest, offset), copy.stored.size)
    except (ForgedMessage, OSError) as error:
        record_sparingly(
            action="image.refuse", actor=SYSTEM, subject="image-copies", now=now, reason=str(error)[:500],
            address=address,
        )  # fmt: skip
        raise NotVisible(_("There is nothing here.")) from error


def _asked(envelope: str, *, now: datetime) -> tuple[ImageCopy, int]:
    claimed = parse_envelope(envelope).key_id[:40].replace("\x00", "")
    host = Host.objects.filter(key_id=claimed, retired_at=None).first()
    if host is None:
        raise ForgedMessage(f"No host has the key {claimed!r}.")
    request = open_piece_request(envelope, keys={host.key_id: verify_key(host.signing_key)}, now=now)
    copies = ImageCopy.objects.filter(host=host, stored__digest=request.digest, wanted=True)
    copy = copies.select_related("stored").first()
    if request.host != host.account or copy is None:
        raise ForgedMessage(f"{host.name} asked for the image {request.digest[:12]}, which is not for it.")
    return copy, request.offset
