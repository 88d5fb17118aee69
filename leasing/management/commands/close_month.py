"""`manage.py close_month`: issue the invoices of a month, once, for one team or for all."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from leasing.actors import SYSTEM
from leasing.billing.closing import close_month
from leasing.billing.months import month_before
from leasing.errors import DomainError
from leasing.models import Tenant


class Command(BaseCommand):
    help = "Close MONTH (2026-03; the last one that is over if left out). Running it again changes nothing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("month", nargs="?", help="as in 2026-03")
        parser.add_argument("--team", action="append", help="only this one, by its slug; may be repeated")

    def handle(self, *args: Any, **options: Any) -> None:
        tenants = Tenant.objects.order_by("slug")
        if options["team"]:
            tenants = tenants.filter(slug__in=options["team"])
            if unknown := set(options["team"]) - {tenant.slug for tenant in tenants}:
                raise CommandError(f"There is no team “{min(unknown)}”.")
        failed = [tenant.slug for tenant in tenants if not self._close(tenant, options["month"])]
        if failed:
            raise CommandError(f"Not closed: {', '.join(failed)}")

    def _close(self, tenant: Tenant, month: str | None) -> bool:
        """Each in a transaction of its own: what was done before a crash stays done."""
        now = timezone.now()
        name = month or month_before(now, tenant.timezone).name
        try:
            closed = close_month(actor=SYSTEM, tenant=tenant, name=name, now=now)
        except DomainError as error:
            self.stderr.write(f"{tenant.slug} {name}: {error.message} {error.hint}".rstrip())
            return False
        word = "closed" if closed.fresh else "was closed already"
        self.stdout.write(f"{tenant.slug} {name}: {word}")
        for invoice in closed.invoices:
            self.stdout.write(f"  {invoice.number}  {invoice.gross} {invoice.currency}")
        return True
