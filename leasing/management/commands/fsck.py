"""`manage.py fsck`: check every invariant, on a live system."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from leasing.fsck import CHECKS, Finding, run_checks, words_of


class Command(BaseCommand):
    help = "Check every invariant. Exits with 1 if one does not hold."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print the findings as one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        found = run_checks(timezone.now())
        if options["json"]:
            self.stdout.write(
                json.dumps({"checks": list(CHECKS), "findings": [one._asdict() for one in found]})
            )
        else:
            self._print_table(found)
        if found:
            sys.exit(1)

    def _print_table(self, found: list[Finding]) -> None:
        for name in CHECKS:
            findings = [finding for finding in found if finding.check == name]
            verdict = f"{len(findings)} FOUND" if findings else "ok"
            self.stdout.write(f"{name:<10} {verdict:<9} {words_of(name)}")
            for finding in findings:
                self.stdout.write(f"{'':<21}{finding.subject}: {finding.problem}")
