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
from leasing.openings.spans import ALWAYS, FOREVER, Span, gaps, length_classes, micros, openings

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
GPUS_PER_HOST = 8
WIDTHS = (1, 4, 8)
TENANTS = 200
DAYS = 100
# How a host's GPUs are shared out: each part has its own row of leases, one after the other.
SHARES = ((8,), (4, 4), (4, 1, 1, 1, 1), (2, 2, 2, 2), (1,) * 8)
HOUR = 3_600_000_000


@dataclass(frozen=True)
class Fleet:
    model: GpuModel
    flavors: dict[int, Flavor]
    image: Image
    tenants: list[Tenant]
    people: list[Person]


def build(*, gpus: int, holds: int, busy: float, seed: int = 1) -> Fleet:
    """`gpus` GPUs that are booked for the share `busy` of the next hundred days; about `holds` holds."""
    dice = random.Random(seed)
    fleet = _catalogue()
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


def _catalogue() -> Fleet:
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
        Person(username=f"p{n}", email=f"p{n}@example.org") for n in range(TENANTS)
    )
    member = Permission.objects.get(content_type__app_label="leasing", codename="member")
    TenantPersonPermission.objects.bulk_create(
        TenantPersonPermission(user=person, content_object=tenant, permission=member)
        for tenant, person in zip(tenants, people, strict=True)
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
    leases: list[Lease] = []
    holds: list[tuple[UUID, UUID, Span]] = []
    kept: list[Opening] = []
    for _host, block, gpus in hosts:
        taken: dict[UUID, list[Span]] = {gpu.pk: [] for gpu in gpus}
        for part in _parts(gpus, dice):
            for span in _row(per_gpu, busy, dice):
                lease = _lease(fleet, len(part), span, dice)
                leases.append(lease)
                for gpu in part:
                    taken[gpu.pk].append(span)
                    holds.append((lease.pk, gpu.pk, span))
        kept += _openings(block, [gaps(spans) for spans in taken.values()])
    _copy(Lease, leases)
    _copy(
        Hold,
        (
            Hold(lease_id=lease, gpu_id=gpu, starts_at=_moment(span.starts), ends_at=_moment(span.ends))
            for lease, gpu, span in holds
        ),
    )
    _copy(Opening, kept)


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


def _lease(fleet: Fleet, width: int, span: Span, dice: random.Random) -> Lease:
    number = dice.randrange(TENANTS)
    flavor = fleet.flavors.get(width) or fleet.flavors[1]
    return Lease(
        id=uuid4(),
        tenant=fleet.tenants[number],
        owner=fleet.people[number],
        flavor=flavor,
        image=fleet.image,
        state="scheduled",
        state_since=NOW,
        starts_at=_moment(span.starts),
        ends_at=_moment(span.ends),
        requested_at=NOW,
        rate_per_hour=Decimal(3),
        currency="EUR",
        quoted_total=Decimal(36),
    )


def _openings(block: Block, free: list[list[Span]]) -> Iterator[Opening]:
    for starts, ends, gpus in openings(free):
        if starts == ALWAYS or ends == FOREVER or ends > micros(NOW):
            fine, middle, coarse = length_classes(starts, ends)
            yield Opening(
                block=block,
                model_id=block.model_id,
                scope=Scope.ONLY_NODE,
                gpus=gpus,
                starts=starts,
                ends=ends,
                fine=fine,
                middle=middle,
                coarse=coarse,
            )


def _moment(value: int) -> datetime:
    return datetime.fromtimestamp(value / 1e6, UTC)


def _copy(model: Any, rows: Iterable[Any]) -> None:
    """COPY takes a row in microseconds; every column is written as the field would."""
    fields = [
        field for field in model._meta.concrete_fields if not field.has_default() or not field.primary_key
    ]
    if model._meta.pk.get_internal_type() == "BigAutoField":
        fields = [field for field in fields if not field.primary_key]
    else:
        fields = list(model._meta.concrete_fields)
    columns = ", ".join(field.column for field in fields)
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY {model._meta.db_table} ({columns}) FROM STDIN") as out,
    ):
        for row in rows:
            out.write_row(
                [field.get_db_prep_save(getattr(row, field.attname), connection) for field in fields]
            )
