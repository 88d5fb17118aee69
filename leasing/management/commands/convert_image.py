"""`manage.py convert_image`: make an upload ready; the control worker starts it."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand
from django.utils import timezone

from leasing.imaging import store
from leasing.imaging.conversion import convert_upload


class Command(BaseCommand):
    help = "Check and convert a complete upload. The control worker does this by itself."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("upload", type=UUID)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            upload = convert_upload(options["upload"], clock=timezone.now)
        except store.Busy:
            self.stderr.write("Another process is at it.")
            return
        self.stdout.write(f"{upload.file_name}: {upload.state} {upload.reason}".strip())
