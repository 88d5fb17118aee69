"""What became of the time of GPUs, for each model: booked, used, out of service, or idle; in seconds."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from django.db import connection
from django.db.models import Q

from hosts.models import Gpu
from leasing.exports.filter import Billed
from leasing.exports.lines import greatest, least, whole_seconds
from leasing.exports.sums import sums
from leasing.models import AuditEntry, Lease, UsageSegment
from leasing.states.lease import LeaseState
from leasing.terms import whole_seconds as seconds_between

# What takes a GPU out of the offer, until somebody asks for its intake again.
OUT = frozenset({"gpu.quarantine", "gpu.withdraw", "gpu.vanish"})
ADMITTED, BACK = "gpu.admit", "gpu.readmit"
_PROMISED = (LeaseState.SCHEDULED, LeaseState.PROVISIONING, LeaseState.ACTIVE, LeaseState.RELEASING)


@dataclass(frozen=True)
class ModelUse:
    """`there` is all time of the model's GPUs since they came into service. `used` is part of `booked`."""

    slug: str
    name: str
    gpus: int
    there: int
    booked: int
    used: int
    repair: int

    @property
    def unused(self) -> int:
        """Booked, and not used: machines that were not up yet, or no more."""
        return max(0, self.booked - self.used)

    @property
    def idle(self) -> int:
        return max(0, self.there - self.repair - max(self.booked, self.used))


class _Away(NamedTuple):
    gpu: str
    starts_at: datetime
    ends_at: datetime


def fleet_use(since: datetime, before: datetime, *, now: datetime) -> list[ModelUse]:
    """In `[since, before)`, up to now."""
    until = max(since, min(before, now))
    service = _in_service(until)
    booked, used = _booked(since, until), _used(since, until, now=now)
    there: dict[str, int] = defaultdict(int)
    repair: dict[str, int] = defaultdict(int)
    counts: dict[str, int] = defaultdict(int)
    names, of_gpu = {}, {}
    for gpu in Gpu.objects.select_related("model", "host").order_by("model__name", "id"):
        begins, slug = service.get(f"gpu:{gpu.pk}"), gpu.model.slug
        ends = min(until, gpu.host.retired_at or until)
        if begins is None or begins >= ends:
            continue
        names[slug], of_gpu[f"gpu:{gpu.pk}"] = gpu.model.name, (slug, max(begins, since), ends)
        there[slug] += seconds_between(max(begins, since), ends)
        counts[slug] += 1
    for away in _away(until):
        if away.gpu in of_gpu:
            slug, begins, ends = of_gpu[away.gpu]
            repair[slug] += seconds_between(max(away.starts_at, begins), min(away.ends_at, ends))
    return [
        ModelUse(slug, name, counts[slug], there[slug], booked[slug], used[slug], repair[slug])
        for slug, name in names.items()
    ]


def _used(since: datetime, until: datetime, *, now: datetime) -> dict[str, int]:
    use = UsageSegment.objects.filter(cause=UsageSegment.Cause.USE)
    segments = use.filter(Q(ends_at=None) | Q(ends_at__gt=since), starts_at__lt=until)
    found: dict[str, int] = defaultdict(int)
    if since < until:
        lines = Billed(segments, Billed.everything().credits.filter(pk=0))
        for one in sums(lines, [since, until], by="model", now=now):
            found[one.key] += one.gpu_seconds
    return found


def _booked(since: datetime, until: datetime) -> dict[str, int]:
    """Leases that hold their GPUs, or did until they were stopped."""
    leases = Lease.objects.filter(starts_at__lt=until, ends_at__gt=since)
    promised = leases.filter(Q(state__in=_PROMISED) | Q(active_at__isnull=False)).order_by()
    columns = ("flavor__model__slug", "flavor__gpu_count", "starts_at", "ends_at", "stopped_at")
    inner, parameters = promised.values_list(*columns).query.get_compiler(connection.alias).as_sql()
    ends = least("ends_at", "COALESCE(stopped_at, ends_at)", "%s")
    length = f"{whole_seconds(ends)} - {whole_seconds(greatest('starts_at', '%s'))}"
    statement = (
        f"WITH booked(model, gpus, starts_at, ends_at, stopped_at) AS ({inner})"  # noqa: S608 - names of ours
        f" SELECT model, SUM(gpus * {greatest('0', length)}) FROM booked GROUP BY model"
    )
    edges = [connection.ops.adapt_datetimefield_value(edge) for edge in (until, since)]
    with connection.cursor() as cursor:
        cursor.execute(statement, (*parameters, *edges))
        found = {model: int(seconds) for model, seconds in cursor.fetchall()}
    return defaultdict(int, found)


def _in_service(until: datetime) -> dict[str, datetime]:
    """Since when each GPU is there, by the subject of its entries."""
    return {subject: at for subject, _action, at in _told({ADMITTED}, until)}


def _away(until: datetime) -> Iterator[_Away]:
    """When GPUs were under repair, until they were asked for again; some may still be."""
    since: dict[str, datetime] = {}
    for subject, action, at in _told({*OUT, BACK}, until):
        if action in OUT:
            since.setdefault(subject, at)
        elif subject in since:
            yield _Away(subject, since.pop(subject), at)
    for subject, at in since.items():
        yield _Away(subject, at, until)


def _told(actions: set[str], until: datetime) -> Iterator[tuple[str, str, datetime]]:
    entries = AuditEntry.objects.filter(action__in=actions, recorded_at__lt=until).order_by("pk")
    for subject, action, text in entries.values_list("subject", "action", "text").iterator():
        yield subject, action, datetime.fromisoformat(json.loads(text)["effective_at"])
