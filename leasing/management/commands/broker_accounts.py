"""`manage.py broker_accounts`: hosts' accounts at the broker, made anew or printed to be made by hand."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from hosts.models import Host
from leasing.enrolment import accounts


class Command(BaseCommand):
    help = "Make every host's account at the broker anew, with the password it has: the broker has lost them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--print", action="store_true", help="print what to type at the broker instead")

    def handle(self, *args: Any, **options: Any) -> None:
        hosts = Host.objects.filter(retired_at=None).exclude(broker_hash="")
        if options["print"]:
            lines = [line for host in hosts for line in accounts.account_lines(host)]
            self.stdout.write("\n".join(dict.fromkeys(lines)))
            return
        if not accounts.may_administer():
            raise CommandError("LEASEHOLD_BROKER_ADMIN is not set; --print says what to type at the broker.")
        refused = [host.name for host in hosts if not accounts.make_account(host, now=timezone.now())]
        if refused:
            raise CommandError(f"The broker did not make the accounts of {', '.join(refused)}.")
        self.stdout.write(f"The accounts of {len(hosts)} hosts are made anew.")
