"""Starts conversions: a process of its own for each, one at a time, so that nothing waits for it."""

from __future__ import annotations

import subprocess
import sys

from django.conf import settings

from leasing.imaging import store
from leasing.models import ImageUpload

_children: list[subprocess.Popen[bytes]] = []


def start_conversion() -> None:
    """If an upload is complete and nobody is at it. Whoever converts holds a lock on the file."""
    _children[:] = [child for child in _children if child.poll() is None]
    if _children:
        return
    states = (ImageUpload.State.WAITING, ImageUpload.State.CONVERTING)
    upload = ImageUpload.objects.filter(state__in=states).order_by("created_at").first()
    if upload is None or _is_worked_on(upload):
        return
    program = str(settings.BASE_DIR / "manage.py")
    command = ["nice", "-n", "5", sys.executable, program, "convert_image", str(upload.pk)]
    _children.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))


def _is_worked_on(upload: ImageUpload) -> bool:
    try:
        with store.working_on(store.upload_path(upload.pk)):
            return False
    except store.Busy:
        return True
    except FileNotFoundError:
        return False
