"""`manage.py restored`: after a restore from a backup, ask every host before it is told anything."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from hosts.models import Host
from leasing.restoring import begin_anew


class Command(BaseCommand):
    help = (
        "Say that the database was restored from a backup: until a host has begun a new journal it is not "
        "believed and takes no orders, and no GPU counts as clean. Names the leases that were running then."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        leases = begin_anew(now=timezone.now())
        hosts = Host.objects.filter(retired_at=None).values_list("name", flat=True)
        self.stdout.write(f"Each of these hosts has to begin a new journal: {', '.join(hosts) or 'none'}.")
        for lease in leases:
            self.stdout.write(
                f"{lease.machine_name}  {lease.tenant.slug}  {lease.owner}  {lease.state} until "
                f"{lease.ends_at:%Y-%m-%dT%H:%MZ}, unless it was ended after the backup: ask, and credit it"
            )
