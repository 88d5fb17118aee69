"""`manage.py usage export`: lines of usage as a file, with the filters that the pages have."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from leasing.actors import SYSTEM
from leasing.errors import DomainError
from leasing.exports.export import FORMS, export_usage
from leasing.exports.filter import Billed, UsageFilter

FILTERS = ("since", "before", "month", "tenant", "person", "model", "project", "cost_centre", "lease")


class Command(BaseCommand):
    help = "Export lines of usage."

    def add_arguments(self, parser: ArgumentParser) -> None:
        acts = parser.add_subparsers(dest="act", required=True)
        export = acts.add_parser("export", help="write the lines as a file")
        export.add_argument("--form", choices=list(FORMS), default="csv", help="of the file")
        export.add_argument("--out", type=Path, metavar="FILE", help="where to; standard output if not said")
        export.add_argument("--month", default="", help="such as 2026-03, in each team's own zone")
        for name in ("since", "before"):
            export.add_argument(f"--{name}", type=datetime.fromisoformat, help="in ISO 8601, with a zone")
        export.add_argument("--tenant", default="", help="the team's short name")
        export.add_argument("--person", default="", help="by their name")
        export.add_argument("--model", default="", help="the GPU model's short name")
        export.add_argument("--project", default="", help="as its leases are tagged")
        export.add_argument("--cost-centre", default="", help="as its leases are tagged")
        export.add_argument("--lease", type=UUID, help="only of one lease")

    def handle(self, *args: Any, **options: Any) -> None:
        chosen = UsageFilter(**{name: options[name] for name in FILTERS})
        if any(at is not None and at.tzinfo is None for at in (chosen.since, chosen.before)):
            raise CommandError("Say the zone, as in 2026-11-01T00:00Z.")
        try:
            made = export_usage(
                actor=SYSTEM,
                billed=Billed.everything(),
                chosen=chosen,
                form=options["form"],
                now=timezone.now(),
            )
        except DomainError as error:
            raise CommandError(str(error)) from error
        with options["out"].open("wb") if options["out"] else nullcontext(sys.stdout.buffer) as file:
            for piece in made.pieces():
                file.write(piece.encode() if isinstance(piece, str) else piece)
            file.flush()
