"""`manage.py openings`: make the table that searches are answered from anew, host by host."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from hosts.models import Host
from leasing.openings.upkeep import rebuild


class Command(BaseCommand):
    help = "Make all openings anew from holds, closures and GPUs. Bookings may go on meanwhile."

    def handle(self, *args: Any, **options: Any) -> None:
        hosts = list(Host.objects.order_by("name"))
        for host in hosts:
            rebuild(host.pk)
        self.stdout.write(f"The openings of {len(hosts)} hosts are made anew.")
