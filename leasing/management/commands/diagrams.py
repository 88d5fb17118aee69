"""`manage.py diagrams`: write docs/lifecycles.md from the state tables."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand

from leasing.diagrams import lifecycles_page


class Command(BaseCommand):
    help = "Write lifecycles.md, drawn from the state tables, into a folder."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("folder", type=Path, nargs="?", default=Path("docs"))

    def handle(self, *args: Any, **options: Any) -> None:
        (options["folder"] / "lifecycles.md").write_text(lifecycles_page(), encoding="utf-8")
