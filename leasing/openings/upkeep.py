"""Keeps the openings true: whoever changes what is free refreshes them in the same transaction.

The block's row is locked before its holds are read; otherwise two refreshes of one block would each miss what
the other has not committed yet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from typing import NamedTuple, TypeVar
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q, QuerySet

from hosts.models import Gpu, Host
from leasing.locking import locked
from leasing.models import Block, Closure, Hold, Lease, Opening, WaitlistEntry
from leasing.openings.search import TABLE, Scope
from leasing.openings.spans import (
    ALWAYS,
    EVER,
    FOREVER,
    Open,
    Span,
    gaps,
    length_classes,
    micros,
    moment,
    openings,
    touching,
)
from leasing.prepared import Change, change
from leasing.statements import Columns, ask, fields_of
from leasing.states.gpu import BOOKABLE

_COLUMNS = ("block_id", "model_id", "scope", "gpus", "starts", "ends", "fine", "middle", "coarse")
# Said, because a column of nothing but nulls has no type.
_NUMBERS = ", ".join(f"CAST(column{number} AS bigint)" for number, _name in enumerate(_COLUMNS, 1))
_HOLDS = Hold._meta.db_table
# As far as the database's moments go.
LAST = datetime.max.replace(tzinfo=UTC)


ScopedOpening = tuple[Scope, Open]
R = TypeVar("R")


class BlockGpu(NamedTuple):
    """What placing a lease needs to know of a GPU; the host was heard of at `last_seen_at`."""

    pk: UUID
    address: str
    numa_node: int
    state: str
    last_seen_at: datetime | None


@dataclass
class GpuTime:
    """A GPU and when it is not free, as far as a region's neighbours."""

    gpu: BlockGpu
    busy: list[Span] = field(default_factory=list)

    def is_free(self, span: Span) -> bool:
        return not any(one.starts < span.ends and one.ends > span.starts for one in self.busy)

    def free(self, span: Span) -> None:
        """Without what keeps it busy in just this span."""
        if span in self.busy:
            self.busy.remove(span)

    def gap_around(self, span: Span) -> Span:
        """The gap that the span lies in."""
        return Span(
            max((one.ends for one in self.busy if one.ends <= span.starts), default=ALWAYS),
            min((one.starts for one in self.busy if one.starts >= span.ends), default=FOREVER),
        )


def span_of(starts_at: datetime, ends_at: datetime | None) -> Span:
    return Span(micros(starts_at), FOREVER if ends_at is None else micros(ends_at))


def lock_blocks(ids: Iterable[int]) -> list[Block]:
    """In their order, so that nobody who does the same waits for somebody who waits for them."""
    return list(locked(Block.objects.filter(pk__in=list(ids))).order_by("id"))


def closures_of(gpu: Gpu) -> QuerySet[Closure]:
    """Of the GPU, or of its whole host."""
    return Closure.objects.filter(Q(gpu=None) | Q(gpu=gpu), host=gpu.host_id)


def refresh(gpu_ids: Iterable[UUID], starts_at: datetime, ends_at: datetime | None) -> None:
    """What is free of these GPUs has changed in `[starts_at, ends_at)`; some may have come free."""
    blocks = Block.objects.filter(host__gpus__in=list(gpu_ids), model=F("host__gpus__model"))
    refresh_blocks(blocks, span_of(starts_at, ends_at))


def refresh_host(host_id: UUID, starts_at: datetime, ends_at: datetime | None) -> None:
    """What is free of all GPUs of a host has changed in `[starts_at, ends_at)`."""
    refresh_blocks(Block.objects.filter(host_id=host_id), span_of(starts_at, ends_at))


def refresh_blocks(blocks: QuerySet[Block], region: Span) -> None:
    for block in lock_blocks(set(blocks.values_list("pk", flat=True))):
        write(block, read(block, region), region)
        note_freed(block, region)


def note_freed(block: Block, region: Span, *, again: bool = False) -> None:
    """What may have come free is still to be shown to those who wait. The caller has locked the block.

    With `again`, nothing came free: it is to be shown once more.
    """
    block.freed_from = min(region.starts, FOREVER if block.freed_from is None else block.freed_from)
    block.freed_until = max(region.ends, block.freed_until or ALWAYS)
    block.frees_extras |= not again
    block.save(update_fields=["freed_from", "freed_until", "frees_extras"])


def noting_block(lease: Lease) -> QuerySet[Block]:
    """Where a lease without GPUs notes that it gives back what it was to have beside them.

    Any block of its model would do; it is always the same.
    """
    blocks = Block.objects.filter(model=lease.flavor.model_id) if lease.with_home else Block.objects.none()
    return Block.objects.filter(pk__in=blocks.order_by("id").values("pk")[:1])


def note_freed_extras(lease: Lease) -> None:
    """To be shown to those who wait. The caller has locked the block."""
    noting_block(lease).update(frees_extras=True)


@transaction.atomic
def rebuild(host_id: UUID) -> None:
    """Make a host's blocks and openings anew from its GPUs."""
    for model_id in Gpu.objects.filter(host_id=host_id).values_list("model_id", flat=True).distinct():
        Block.objects.get_or_create(host_id=host_id, model_id=model_id)
    for block in list(locked(Block.objects.filter(host_id=host_id)).order_by("id")):
        times = read(block, EVER)
        block.gpus, block.nodes = len(times), len({time.gpu.numa_node for time in times})
        block.save(update_fields=["gpus", "nodes"])
        write(block, times, EVER)
        note_freed(block, EVER)


def read(block: Block, region: Span) -> list[GpuTime]:
    """The GPUs of a block that the caller has locked, and what keeps each busy around the region."""
    times: dict[UUID, GpuTime] = {}
    closed: list[tuple[UUID | None, Span]] = []
    for gpu_id, address, *facts, starts_at, ends_at in ask(_READ, _around(block, region), _READ_COLUMNS):
        if address is None:
            closed.append((gpu_id, span_of(starts_at, ends_at)))
            continue
        if (time := times.get(gpu_id)) is None:
            time = times[gpu_id] = GpuTime(BlockGpu(gpu_id, address, *facts))
            if time.gpu.state not in BOOKABLE:
                time.busy.append(EVER)
        if starts_at is not None:
            time.busy.append(_near(span_of(starts_at, ends_at), region))
    for gpu_id, span in [*closed, *kept_of(block)]:
        for time in times.values() if gpu_id is None else filter(None, [times.get(gpu_id)]):
            time.busy.append(span)
    return list(times.values())


def _around(block: Block, region: Span) -> dict[str, datetime | UUID | int]:
    return {
        "host": block.host_id,
        "model": block.model_id,
        "begin": moment(region.starts),
        "end": LAST if region.ends == FOREVER else moment(region.ends),
    }


def _near(span: Span, region: Span) -> Span:
    """Beyond a neighbour of the region everything counts as busy: it has no part in what touches it."""
    if span.ends < region.starts:
        return Span(ALWAYS, span.ends)
    return Span(span.starts, FOREVER) if span.starts > region.ends else span


# GPUs with their holds, from the last that begins before a region to the first that begins after it, and the
# closures of their host. Holds of a GPU do not overlap: no earlier one touches the region, and no later one.
# Both ends are found once a GPU: a plan made for an empty table would look for them again at each hold.
_READ = f"""
WITH gpus AS MATERIALIZED (
    SELECT g.id, g.address, g.numa_node, g.state, h.last_seen_at,
        COALESCE(
            (SELECT max(starts_at) FROM {_HOLDS} WHERE gpu_id = g.id AND starts_at < %(begin)s), %(begin)s
        ) AS first,
        COALESCE(
            (SELECT min(starts_at) FROM {_HOLDS} WHERE gpu_id = g.id AND starts_at > %(end)s), %(end)s
        ) AS last
    FROM {Gpu._meta.db_table} g JOIN {Host._meta.db_table} h ON h.id = g.host_id
    WHERE g.host_id = %(host)s AND g.model_id = %(model)s
)
SELECT g.id, g.address, g.numa_node, g.state, g.last_seen_at, k.starts_at, k.ends_at
FROM gpus g LEFT JOIN {_HOLDS} k ON k.gpu_id = g.id AND k.starts_at >= g.first AND k.starts_at <= g.last
UNION ALL
SELECT c.gpu_id, NULL, NULL, NULL, NULL, c.starts_at, c.ends_at
FROM {Closure._meta.db_table} c WHERE c.host_id = %(host)s"""
_READ_COLUMNS = Columns(
    *fields_of(Gpu, "id", "address", "numa_node", "state"),
    *fields_of(Host, "last_seen_at"),
    *fields_of(Hold, "starts_at", "ends_at"),
)


def write(block: Block, times: list[GpuTime], region: Span) -> None:
    """Replace the openings that touch the region."""
    touching_it = f"DELETE FROM {TABLE} WHERE block_id = %s AND starts <= %s AND ends >= %s"
    change((touching_it, [block.pk, region.ends, region.starts]))
    for insertion in _inserting(block, openings_of(times, region)):
        change(insertion)


def write_taken(
    block: Block,
    times: list[GpuTime],
    taken: Collection[GpuTime],
    span: Span,
    *,
    holding: Sequence[Change],
) -> None:
    """The GPUs `taken` of a block, which is as it was read, are busy in a span: replace what that changes.

    Most openings around a lease stay as they are. `holding` writes the holds themselves, at once with it.
    """
    before = set(openings_of(times, span))
    for time in taken:
        time.busy.append(span)
    after = set(openings_of(times, span))
    gone, new = before - after, after - before
    changed = change(*holding, *_deleting(block, gone), *_inserting(block, new))
    if gone and changed[len(holding)] != len(gone):
        write(block, times, span)


def _deleting(block: Block, gone: Collection[ScopedOpening]) -> Iterator[Change]:
    rows = [(int(scope), *found) for scope, found in sorted(gone)]
    if rows:
        filled = _filled(rows)
        marks = ", ".join(["(%s, %s, %s, %s)"] * len(filled))
        yield (
            f"DELETE FROM {TABLE} WHERE block_id = %s AND (scope, starts, ends, gpus) IN (VALUES {marks})",
            [block.pk, *chain.from_iterable(filled)],
        )


def _inserting(block: Block, found: Iterable[ScopedOpening]) -> Iterator[Change]:
    rows = [
        (block.pk, block.model_id, int(scope), gpus, starts, ends, *length_classes(starts, ends))
        for scope, (starts, ends, gpus) in sorted(found)
    ]
    if rows:
        filled = _filled(rows)
        marks = ", ".join([f"({', '.join(['%s'] * len(_COLUMNS))})"] * len(filled))
        given = f"(VALUES {marks}) AS given"
        yield (
            f"INSERT INTO {TABLE} ({', '.join(_COLUMNS)}) SELECT DISTINCT {_NUMBERS} FROM {given}",
            [*chain.from_iterable(filled)],
        )


def _filled(rows: list[R]) -> list[R]:
    """With the last one repeated, so that the database has few statements to plan."""
    return rows + rows[-1:] * (-len(rows) % 8)


def openings_of(times: list[GpuTime], region: Span) -> Iterator[ScopedOpening]:
    """The openings of a block that touch the region, of all its GPUs together and of each node's."""
    nodes: dict[int, list[list[Span]]] = defaultdict(list)
    for time in times:
        nodes[time.gpu.numa_node].append(touching(gaps(time.busy), region))
    everything = [free for members in nodes.values() for free in members]
    yield from _scoped(Scope.SEVERAL_NODES if len(nodes) > 1 else Scope.ONLY_NODE, everything, region)
    if len(nodes) > 1:
        for members in nodes.values():
            yield from _scoped(Scope.ONE_OF_SEVERAL, members, region)


def forget_past(now: datetime) -> int:
    """Openings that are over serve nobody."""
    return Opening.objects.filter(ends__lte=micros(now)).delete()[0]


def _scoped(scope: Scope, free: list[list[Span]], region: Span) -> Iterator[ScopedOpening]:
    for found in openings(free):
        if found.starts <= region.ends and found.ends >= region.starts:
            yield scope, found


def give_up_kept(block: Block) -> None:
    """Nothing of the block is kept for anybody any more. The caller has locked it."""
    spans = [kept for _gpu_id, kept in kept_of(block)]
    entry_id, block.kept_for_id = block.kept_for_id, None
    block.save(update_fields=["kept_for"])
    for entry in locked(WaitlistEntry.objects.filter(pk__in=[entry_id])):
        entry.kept_gpus.clear()
        entry.kept_from = entry.kept_until = None
        entry.save(update_fields=["kept_from", "kept_until"])
    for region in set(spans):
        write(block, read(block, region), region)
        note_freed(block, region)


def kept_of(block: Block) -> Iterator[tuple[UUID, Span]]:
    """The GPUs of a block that are kept for somebody who waits, and when."""
    if block.kept_for_id is not None:
        rows = WaitlistEntry.objects.filter(pk=block.kept_for_id)
        for starts_at, ends_at, gpu_id in rows.values_list("kept_from", "kept_until", "kept_gpus"):
            if starts_at is not None:
                yield gpu_id, span_of(starts_at, ends_at)


def is_kept(gpu: Gpu, starts_at: datetime, ends_at: datetime) -> bool:
    """Whether the GPU is kept for somebody in that time. Sure only if the caller has locked its block."""
    kept = WaitlistEntry.objects.filter(kept_from__lt=ends_at, kept_until__gt=starts_at)
    return kept.filter(kept_gpus=gpu).exists()
