"""`manage.py audit`: verify the audit log, show its head and the key that signs it, prove an entry."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandError

from leasing.audit.anchor import BadAnchor, Head, read_anchors
from leasing.audit.proofs import NotProvable, prove_entry
from leasing.audit.verifier import verify_log
from leasing.keys import public_key


class Command(BaseCommand):
    help = (
        "Verify the audit log against its last anchored head, show that head or its key, or prove one entry."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        acts = parser.add_subparsers(dest="act", required=True)
        acts.add_parser("verify", help="prove every sealed entry; exits with 1 if that fails")
        acts.add_parser("head", help="print the last anchored head as JSON")
        acts.add_parser("key", help="print the public key that signs the heads, in hex")
        prove = acts.add_parser("prove", help="print an entry's inclusion proof as JSON")
        prove.add_argument("entry", type=int, help="number of the entry")

    def handle(self, *args: Any, **options: Any) -> None:
        match options["act"]:
            case "verify":
                self._verify()
            case "head":
                self.stdout.write(_json(_last_head()))
            case "key":
                self.stdout.write(public_key())
            case "prove":
                self._prove(options["entry"])

    def _verify(self) -> None:
        verdict = verify_log()
        for problem in verdict.problems:
            self.stderr.write(problem)
        if verdict.problems:
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
