"""`manage.py import_image`: take in a large file that lies on this server already."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from leasing.actors import SYSTEM
from leasing.errors import DomainError
from leasing.imaging import store
from leasing.imaging.conversion import convert_upload
from leasing.imaging.uploads import import_file
from leasing.models import ImageUpload


class Command(BaseCommand):
    help = "Take in the image FILE, check and convert it. Its version is added on the page, or over the API."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--format", choices=ImageUpload.Format.values, required=True)
        parser.add_argument("--sha256", default="", help="what the file must have")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            upload = import_file(
                actor=SYSTEM,
                path=options["file"],
                format=options["format"],
                digest=options["sha256"],
                now=timezone.now(),
            )
        except DomainError as error:
            raise CommandError(" ".join(filter(None, (str(error.message), str(error.hint))))) from error
        except OSError as error:
            raise CommandError(f"{options['file']}: {error.strerror}") from error
        try:
            done = convert_upload(upload.pk, clock=timezone.now)
        except store.Busy:
            self.stdout.write("The control worker is converting it; the page of images shows how far it is.")
            return
        if done.stored is None:
            raise CommandError(str(done.reason))
        self.stdout.write(f"{done.stored.digest}  {done.stored.name}")
