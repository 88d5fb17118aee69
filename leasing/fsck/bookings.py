"""Checks of what was promised: guards, holds, openings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime

from django.db import connection
from django.db.models import F, Window
from django.db.models.functions import Lag

from leasing.fsck.finding import Finding
from leasing.guards import missing_guards
from leasing.models import Block, Hold, Lease
from leasing.openings.spans import EVER, Open, clipped, micros
from leasing.openings.upkeep import openings_of, read
from leasing.states.lease import LeaseState


def guards_are_installed(now: datetime) -> Iterator[Finding]:
    """The database enforces every rule that it is meant to enforce"""
    for name in missing_guards(connection):
        yield Finding(f"guard:{name}", "is missing, disabled or altered; `manage.py migrate` installs it")


def holds_do_not_overlap(now: datetime) -> Iterator[Finding]:
    """No two holds of one GPU overlap"""
    before = Window(Lag("ends_at"), partition_by="gpu", order_by="starts_at")
    for hold in Hold.objects.annotate(free_from=before).filter(free_from__gt=F("starts_at")):
        yield Finding(
            f"gpu:{hold.gpu_id}", f"the hold of lease {hold.lease_id} begins before the last one ends"
        )


def openings_match_holds(now: datetime) -> Iterator[Finding]:
    """What searches are answered from is what the holds, closures and GPUs say"""
    from_now = micros(now)
    for block in Block.objects.select_related("model", "host"):
        kept: dict[int, list[Open]] = defaultdict(list)
        for scope, *opening in block.openings.values_list("scope", "starts", "ends", "gpus"):
            kept[scope].append(Open(*opening))
        due: dict[int, list[Open]] = defaultdict(list)
        for scope, found in openings_of(read(block, EVER), EVER):
            due[scope].append(found)
        for scope in set(kept) | set(due):
            wrong = clipped(due[scope], from_now) ^ clipped(kept[scope], from_now)
            if wrong:
                yield Finding(
                    f"block:{block.pk}",
                    f"{len(wrong)} openings are missing or wrong; `manage.py openings` makes them anew",
                )


def leases_have_their_holds(now: datetime) -> Iterator[Finding]:
    """A lease that is using GPUs holds as many as its flavor says, on its own host"""
    states = [LeaseState.PROVISIONING, LeaseState.ACTIVE]
    leases = Lease.objects.filter(state__in=states).select_related("flavor").prefetch_related("holds__gpu")
    for lease in leases:
        hosts = [hold.gpu.host_id for hold in lease.holds.all()]
        if hosts != [lease.host_id] * lease.flavor.gpu_count:
            yield Finding(f"lease:{lease.pk}", f"{len(hosts)} holds do not match its flavor and host")
