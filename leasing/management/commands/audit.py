"""`manage.py audit`: verify the audit log, show its head and its key, prove an entry, export entries."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from leasing.actors import SYSTEM
from leasing.audit.anchor import BadAnchor, Head, read_anchors
from leasing.audit.proofs import NotProvable, prove_entry
from leasing.audit.search import Search, export_lines
from leasing.audit.verification import verify_and_note
from leasing.keys import public_key
from leasing.models import AuditEntry

FILTERS = {
    "action": "such as lease.end, or several with commas between them",
    "actor": "who did it, by their name",
    "subject": "what it is about, such as lease:<id> or ws-1a2b3c4d",
    "tenant": "the team's short name",
}


class Command(BaseCommand):
    help = (
        "Verify the audit log against its last anchored head, show that head or its key, prove one entry, or "
        "export entries."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        acts = parser.add_subparsers(dest="act", required=True)
        verify = acts.add_parser("verify", help="prove every sealed entry; exits with 1 if that fails")
        verify.add_argument(
            "--witness",
            type=Path,
            metavar="FILE",
            help="also against heads kept elsewhere, such as syslog's",
        )
        acts.add_parser("head", help="print the last anchored head as JSON")
        acts.add_parser("key", help="print the public key that signs the heads, in hex")
        prove = acts.add_parser("prove", help="print an entry's inclusion proof as JSON")
        prove.add_argument("entry", type=int, help="number of the entry")
        export = acts.add_parser("export", help="print entries as lines of JSON, oldest first")
        for name, what in FILTERS.items():
            export.add_argument(f"--{name}", default="", help=what)
        for name in ("since", "before"):
            export.add_argument(f"--{name}", type=_moment, metavar="MOMENT", help="in ISO 8601, with a zone")

    def handle(self, *args: Any, **options: Any) -> None:
        match options["act"]:
            case "verify":
                self._verify(options["witness"])
            case "head":
                self.stdout.write(_json(_last_head()))
            case "key":
                self.stdout.write(public_key())
            case "prove":
                self._prove(options["entry"])
            case "export":
                self._export(options)

    def _verify(self, witness: Path | None) -> None:
        verdict = verify_and_note(actor=SYSTEM, now=timezone.now(), witness=witness)
        for problem in verdict.problems:
            self.stderr.write(problem)
        if verdict.problems:
            if verdict.anchor and verdict.anchor.size > verdict.sealed:
                self.stderr.write(
                    "If the database was restored from a backup, its later heads have to be put aside, as "
                    "leasehold-restore does: see “Backup and restore” in docs/operating.md."
                )
            self.stderr.write("The audit log does NOT verify.")
            sys.exit(1)
        self.stdout.write(
            f"The audit log verifies: {verdict.proven} entries lead to the anchored head, "
            f"{verdict.sealed - verdict.proven} await an anchor, {verdict.unsealed} await sealing."
        )

    def _prove(self, entry_id: int) -> None:
        try:
            self.stdout.write(_json(prove_entry(entry_id)))
        except NotProvable as error:
            raise CommandError(str(error)) from error

    def _export(self, options: dict[str, Any]) -> None:
        search = Search(
            actions=tuple(filter(None, options["action"].split(","))),
            **{name: options[name] for name in ("actor", "subject", "tenant", "since", "before")},
        )
        lines = export_lines(AuditEntry.objects.all(), search, actor=SYSTEM, now=timezone.now())
        for line in lines:
            self.stdout.write(line, ending="")


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ArgumentTypeError("say the zone, such as 2026-11-01T00:00Z")
    return moment


def _last_head() -> Head:
    try:
        anchors = list(read_anchors())
    except BadAnchor as error:
        raise CommandError(str(error)) from error
    if not anchors:
        raise CommandError("Nothing is anchored yet.")
    return max(anchors, key=lambda head: head.size)


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
