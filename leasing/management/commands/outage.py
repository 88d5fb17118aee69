"""`manage.py outage`: record that something of ours was of no use, so that nobody pays for it."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from hosts.models import Gpu, GpuModel, Host
from leasing.actors import SYSTEM
from leasing.billing.outages import preview_outage, record_outage
from leasing.billing.subjects import outage_subject
from leasing.errors import DomainError


class Command(BaseCommand):
    help = "Record an outage of a host, a GPU or a model. Without --sure it only says what it would do."

    def add_arguments(self, parser: ArgumentParser) -> None:
        about = parser.add_mutually_exclusive_group(required=True)
        about.add_argument("--host", help="its name")
        about.add_argument("--gpu", help="its id")
        about.add_argument("--model", help="its slug")
        parser.add_argument("--from", dest="starts_at", required=True, help="ISO 8601 with a zone")
        parser.add_argument("--until", dest="ends_at", required=True, help="likewise, not after now")
        parser.add_argument("--reason", required=True, help="for the teams to read")
        parser.add_argument("--sure", action="store_true", help="do it; it cannot be taken back")

    def handle(self, *args: Any, **options: Any) -> None:
        act = record_outage if options["sure"] else preview_outage
        try:
            recorded = act(
                actor=SYSTEM,
                what=_subject(options),
                starts_at=_moment(options["starts_at"]),
                ends_at=_moment(options["ends_at"]),
                reason=options["reason"],
                now=timezone.now(),
            )
        except DomainError as error:
            raise CommandError(" ".join(filter(None, (str(error.message), str(error.hint))))) from error
        self.stdout.write(f"{recorded.outage.what}: {recorded.leases} leases lay in it")
        for note in recorded.credit_notes:
            number = f"{note.number}  " if options["sure"] else ""
            self.stdout.write(f"  {number}{note.gross} {note.currency} to {note.tenant.slug}")
        if not options["sure"]:
            self.stdout.write("Nothing was recorded: say --sure.")


def _subject(options: dict[str, Any]) -> Host | Gpu | GpuModel:
    if options["host"]:
        host = Host.objects.filter(name=options["host"], retired_at=None).first()
        if host is None:
            raise CommandError(f"There is no host “{options['host']}”.")
        return host
    kind = "gpu" if options["gpu"] else "model"
    return outage_subject(kind, options[kind])


def _moment(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise CommandError(f"“{text}” is no moment with a zone, such as 2026-03-02T09:00+01:00.")
    return at.astimezone(UTC)
