"""Check of the image files that the portal keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime

from leasing.fsck.finding import Finding
from leasing.imaging import store
from leasing.imaging.copies import wanted_images
from leasing.models import AuditEntry, Image


def image_files_are_whole(now: datetime) -> Iterator[Finding]:
    """Every disk that hosts are to fetch lies in the store, and its version has the digest that was stored"""
    told = AuditEntry.objects.filter(action="image.store").values_list("text", flat=True)
    digests = {json.loads(text)["detail"]["digest"] for text in told}
    for stored in wanted_images():
        path = store.content_path(stored.digest)
        if not path.is_file() or path.stat().st_size != stored.size:
            yield Finding(f"image-file:{stored.name}", "is not in the store, or has another size")
        if stored.digest not in digests:
            yield Finding(f"image-file:{stored.name}", "was not put into the store by a conversion")
    for image in Image.objects.filter(stored__isnull=False).select_related("stored"):
        if image.stored is not None and image.digest != image.stored.digest:
            yield Finding(f"image:{image.slug}-{image.version}", "has another digest than its file")
