"""A fleet of any size with any number of future leases, written straight into PostgreSQL."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from django.contrib.auth.models import Permission
from django.db import connection

from hosts.models import Gpu, GpuModel, Host
from leasing.guards import NO_OVERLAP, install_guards
from leasing.models import (
    Block,
    Flavor,
    Hold,
    Image,
    Lease,
    Opening,
    Person,
    Quota,
    Rate,
    Tenant,
    TenantPersonPermission,
)
from leasing.openings.search import Scope
from leasing.openings.spans import Span, gaps, length_classes, micros, openings

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
GPUS_PER_HOST = 8
WIDTHS = (1, 4, 8)
TENANTS = 200
DAYS = 100
# How a host's GPUs are shared out: each part has its own row of leases, one after the other.
SHARES = ((8,), (4, 4), (4, 1, 1, 1, 1), (2, 2, 2, 2), (1,) * 8)
HOUR = 3_600_000_000
# Those that a model has by default.
LEAD, TURNAROUND = HOUR // 30, HOUR // 12


@dataclass(frozen=True)
class Fleet:
    model: GpuModel
    flavors: dict[int, Flavor]
    image: Image
    tenants: list[Tenant]
    people: list[Person]


def build(*, gpus: int, holds: int, busy: float, people: int = TENANTS, seed: int = 1) -> Fleet:
    """`gpus` GPUs that are booked for the share `busy` of the next hundred days; about `holds` holds.

    Each of the two hundred tenants has as many of the `people`.
    """
    dice = random.Random(seed)
    fleet = _catalogue(people)
    hosts = _hosts(fleet.model, gpus // GPUS_PER_HOST)
    per_gpu = holds // gpus
    with connection.cursor() as cursor:
        table = Hold._meta.db_table
        cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {NO_OVERLAP}")
    for first in range(0, len(hosts), 50):
        _book(fleet, hosts[first : first + 50], per_gpu=per_gpu, busy=busy, dice=dice)
    install_guards(connection)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    return fleet


def _catalogue(count: int) -> Fleet:
    model = GpuModel.objects.create(slug="h100", name="H100", memory_mib=80 * 1024, vendor_device="10de:2330")
    flavors = {
        width: Flavor.objects.create(slug=f"x{width}", name=f"{width}×H100", model=model, gpu_count=width)
        for width in WIDTHS
    }
    long_ago = NOW - timedelta(days=365)
    for flavor in flavors.values():
        Rate.objects.create(flavor=flavor, per_hour=Decimal(3), currency="EUR", valid_from=long_ago)
    image = Image.objects.create(
        slug="tenant", name="Tenant", os_family="linux", format="qcow2", digest="ef" * 32, file_name="tenant"
    )
    tenants = Tenant.objects.bulk_create(Tenant(slug=f"t{n}", name=f"T{n}") for n in range(TENANTS))
    people = Person.objects.bulk_create(
        Person(username=f"p{n}", email=f"p{n}@example.org") for n in range(count)
    )
    member = Permission.objects.get(content_type__app_label="leasing", codename="member")
    TenantPersonPermission.objects.bulk_create(
        TenantPersonPermission(user=person, content_object=tenants[n % TENANTS], permission=member)
        for n, person in enumerate(people)
    )
    limits = {
        "gpus": 100_000,
        "gpu-hours": 100_000_000,
        "budget": 1_000_000_000,
        "ahead": 400,
        "longest": 400,
    }
    Quota.objects.bulk_create(
        Quota(
            tenant=tenant,
            kind=kind,
            value=value,
            currency="EUR" if kind == "budget" else "",
            valid_from=long_ago,
            created_at=long_ago,
        )
        for tenant in tenants
        for kind, value in limits.items()
    )
    return Fleet(model, flavors, image, tenants, people)


def _hosts(model: GpuModel, count: int) -> list[tuple[Host, Block, list[Gpu]]]:
    hosts = Host.objects.bulk_create(
        Host(
            name=f"hv{n:05d}",
            account=f"hv{n:05d}",
            signing_key=f"{n:064x}",
            key_id=f"{n:016x}",
            sealing_key=f"{n:064x}",
            last_seen_at=NOW,
        )
        for n in range(count)
    )
    blocks = Block.objects.bulk_create(
        Block(host=host, model=model, gpus=GPUS_PER_HOST, nodes=1) for host in hosts
    )
    gpus = Gpu.objects.bulk_create(
        (_gpu(host, model, slot) for host in hosts for slot in range(GPUS_PER_HOST)), batch_size=2000
    )
    of_host = [gpus[n * GPUS_PER_HOST : (n + 1) * GPUS_PER_HOST] for n in range(count)]
    return list(zip(hosts, blocks, of_host, strict=True))


def _gpu(host: Host, model: GpuModel, slot: int) -> Gpu:
    return Gpu(
        host=host,
        model=model,
        address=f"0000:{slot + 1:02x}:00.0",
        state="clean",
        state_since=NOW,
        share_vcpus=8,
        share_memory_mib=65536,
        share_disk_gib=500,
    )


def _book(
    fleet: Fleet,
    hosts: Iterable[tuple[Host, Block, list[Gpu]]],
    *,
    per_gpu: int,
    busy: float,
    dice: random.Random,
) -> None:
    leases, holds, kept = _Rows(_lease(fleet)), _Rows(Hold(starts_at=NOW, ends_at=NOW)), _Rows(_opening())
    for _host, block, gpus in hosts:
        taken: dict[UUID, list[Span]] = {gpu.pk: [] for gpu in gpus}
        for part in _parts(gpus, dice):
            flavor = fleet.flavors.get(len(part)) or fleet.flavors[1]
            for span in _row(per_gpu, busy, dice):
                lease, number = uuid4(), dice.randrange(len(fleet.people))
                window = {
                    "starts_at": _moment(span.starts + LEAD),
                    "ends_at": _moment(span.ends - TURNAROUND),
                }
                held = {"starts_at": _moment(span.starts), "ends_at": _moment(span.ends)}
                owner = {"tenant_id": fleet.tenants[number % TENANTS].pk, "owner_id": fleet.people[number].pk}
                leases.add(id=lease, flavor_id=flavor.pk, **owner, **window)
                for gpu in part:
                    taken[gpu.pk].append(span)
                    holds.add(lease_id=lease, gpu_id=gpu.pk, **held)
        for opening in openings([gaps(spans) for spans in taken.values()]):
            if opening.ends > micros(NOW):
                classes = dict(zip(("fine", "middle", "coarse"), length_classes(*opening[:2]), strict=True))
                kept.add(block_id=block.pk, model_id=block.model_id, **opening._asdict(), **classes)
    for rows in (leases, holds, kept):
        rows.copy()


def _parts(gpus: list[Gpu], dice: random.Random) -> Iterator[list[Gpu]]:
    left = list(gpus)
    for size in dice.choice(SHARES):
        yield left[:size]
        del left[:size]


def _row(count: int, busy: float, dice: random.Random) -> Iterator[Span]:
    """Leases one after the other over the next days, with gaps between them that make up the rest."""
    if not count:
        return
    mean = DAYS * 24 * HOUR / count
    at = micros(NOW) + int(dice.uniform(-1, 1) * mean)
    for _ in range(count):
        length = int(dice.uniform(0.5, 1.5) * mean * busy)
        yield Span(at, at + length)
        at += length + int(dice.uniform(0.02, 1.98) * mean * (1 - busy))


def _lease(fleet: Fleet) -> Lease:
    return Lease(
        image=fleet.image,
        state="scheduled",
        state_since=NOW,
        requested_at=NOW,
        rate_per_hour=Decimal(3),
        currency="EUR",
        quoted_total=Decimal(36),
        tenant=fleet.tenants[0],
        owner=fleet.people[0],
        flavor=fleet.flavors[1],
        starts_at=NOW,
        ends_at=NOW,
    )


def _opening() -> Opening:
    return Opening(scope=Scope.ONLY_NODE)


def _times(span: Span) -> dict[str, datetime]:
    return {"starts_at": _moment(span.starts), "ends_at": _moment(span.ends)}


def _moment(value: int) -> datetime:
    return datetime.fromtimestamp(value / 1e6, UTC)


class _Rows:
    """Rows of one table that differ from a first one in the columns that are given; written by COPY."""

    def __init__(self, first: Any) -> None:
        self._table = first._meta.db_table
        fields = [field for field in first._meta.concrete_fields if field.attname != "id" or first.pk]
        self._places = {field.attname: place for place, field in enumerate(fields)}
        self._columns = ", ".join(field.column for field in fields)
        self._first = [field.get_db_prep_save(getattr(first, field.attname), connection) for field in fields]
        self._rows: list[list[Any]] = []

    def add(self, **changed: Any) -> None:
        row = list(self._first)
        for name, value in changed.items():
            row[self._places[name]] = value
        self._rows.append(row)

    def copy(self) -> None:
        statement = f"COPY {self._table} ({self._columns}) FROM STDIN"
        with connection.cursor() as cursor, cursor.copy(statement) as out:
            for row in self._rows:
                out.write_row(row)
