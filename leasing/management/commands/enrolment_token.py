"""`manage.py enrolment_token`: a token with which a hypervisor may be let in, once."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from hosts.models import Host
from leasing.actors import SYSTEM
from leasing.enrolment import tokens
from leasing.errors import DomainError


class Command(BaseCommand):
    help = "Print a token with which the host NAME is let in, or gets new keys if it is enrolled (--again)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="what the host is to be called")
        parser.add_argument("--hours", type=int, default=24, help="how long it is good for (default: 24)")
        parser.add_argument("--simulated", action="store_true", help="its GPUs are not real")
        parser.add_argument("--again", action="store_true", help="it is enrolled, and gets new keys")

    def handle(self, *args: Any, **options: Any) -> None:
        lifetime, now = timedelta(hours=options["hours"]), timezone.now()
        try:
            if options["again"]:
                host = Host.objects.filter(name=options["name"], retired_at=None).first()
                if host is None:
                    raise CommandError(f"No host “{options['name']}” is enrolled.")
                _, text = tokens.make_token_for(actor=SYSTEM, host_id=host.pk, lifetime=lifetime, now=now)
            else:
                _, text = tokens.make_token(
                    actor=SYSTEM,
                    name=options["name"],
                    simulated=options["simulated"],
                    lifetime=lifetime,
                    now=now,
                )
        except DomainError as error:
            raise CommandError(" ".join(filter(None, (str(error.message), str(error.hint))))) from error
        self.stdout.write(text)
        self.stderr.write(
            "Shown this once. Put it into a file on the host, mode 0600, and run there:\n"
            "leasehold-host enrol --portal URL --token-file FILE"
        )
