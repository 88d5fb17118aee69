"""What a closure means for those who hold its GPUs: one plan, which is shown and then carried out.

What has not begun moves to equal GPUs for the same time at the same price (leasing.maintenance.relocation).
What runs stays until its end. What can move nowhere stays, too, unless the operator wants it to wait or to be
cancelled; what is only offered to somebody who waits in line is taken back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from uuid import UUID

from django.db.models import QuerySet

from hosts.models import Gpu
from leasing.holds import window
from leasing.maintenance.relocation import Board, Move, given_up, plan_moves
from leasing.models import Block, Closure, Hold, Lease
from leasing.openings.spans import ALWAYS, Span
from leasing.openings.upkeep import span_of
from leasing.states.lease import AHEAD, RUNNING, LeaseState


class Unmovable(StrEnum):
    """What the operator wants of leases that have not begun and can move nowhere."""

    STAY = "stay"
    WAIT = "wait"
    CANCEL = "cancel"


class Fate(StrEnum):
    """What a closure means for a lease."""

    MOVES = "moves"
    RUNS_ON = "runs-on"
    STAYS = "stays"
    WAITS = "waits"
    CANCELLED = "cancelled"
    WITHDRAWN = "withdrawn"


IF_UNMOVABLE = {
    Unmovable.STAY: Fate.STAYS,
    Unmovable.WAIT: Fate.WAITS,
    Unmovable.CANCEL: Fate.CANCELLED,
}
REMAINS = frozenset({Fate.RUNS_ON, Fate.STAYS})


@dataclass(frozen=True)
class Affected:
    """A lease that holds GPUs in the closed time; `gpus` are those that it has or, if it moves, will have."""

    lease: Lease
    fate: Fate
    gpus: list[Gpu]
    move: Move | None


@dataclass(frozen=True)
class Plan:
    """A closure as it would be, and whom it affects, in the order of their starts.

    `replaces` is the closure as it is, if there is one; `gives_up` are the blocks of which something is kept
    for somebody who waits, and is needed now. `empties_at` is when the last lease that remains in
    the closed time is gone and its GPUs are clean; None if none remains.
    """

    closure: Closure
    replaces: Closure | None
    affected: list[Affected]
    empties_at: datetime | None
    gives_up: frozenset[int]

    @property
    def moves(self) -> list[Move]:
        return [one.move for one in self.affected if one.move is not None]

    @property
    def counts(self) -> list[tuple[Fate, int]]:
        """How many leases meet which fate."""
        return [(fate, len(found)) for fate in Fate if (found := self.of(fate))]

    def of(self, fate: Fate) -> list[Affected]:
        return [one for one in self.affected if one.fate is fate]

    @property
    def region(self) -> Span:
        """From the first start to the last end of what moves."""
        held = (hold for move in self.moves for hold in move.lease.holds.all())
        return hull([*(move.span for move in self.moves), *(span_of(h.starts_at, h.ends_at) for h in held)])

    @property
    def seen(self) -> str:
        """Stands for the list: who is affected, and how. To be given back with the confirmation."""
        return ".".join(sorted(_mark(one.lease, one.fate) for one in self.affected))

    def unseen(self, seen: str) -> list[Affected]:
        """Those who were not in that list, or with another fate; that one can move by now is no surprise."""
        marks = frozenset(seen.split("."))
        return [one for one in self.affected if marks.isdisjoint(_acceptable(one))]

    def holds(self) -> bool:
        """Whether what it was made from is still so. The caller has locked its leases."""
        return _facts(leases_in(self.closure)) == _facts(one.lease for one in self.affected)

    def fits(self, blocks: Iterable[Block]) -> bool:
        """Whether its moves are still possible. The caller has locked the blocks that it touches: these."""
        board = Board(self.region, self.closure, self.replaces)
        board.show(blocks)
        board.give_up_kept(self.gives_up)
        for move in self.moves:
            board.take_off(move.lease)
        return all(board.put(move) for move in self.moves)


def make_plan(
    closure: Closure, *, replaces: Closure | None = None, unmovable: Unmovable, now: datetime
) -> Plan:
    """The plan for a closure that is not there yet, or not with these times."""
    leases = list(leases_in(closure))
    ahead = [lease for lease in leases if lease.state in AHEAD]
    board = Board(_region(ahead, now=now), closure, replaces)
    board.show(own_blocks(closure))
    planned = plan_moves(ahead, board, now=now)
    moves = {move.lease.pk: move for move in planned}
    gpus = Gpu.objects.select_related("host").in_bulk(
        [gpu_id for move in moves.values() for gpu_id in move.gpu_ids]
    )
    affected = [_affected(lease, moves.get(lease.pk), unmovable, gpus) for lease in leases]
    gone = [one.lease.pk for one in affected if one.fate not in REMAINS]
    empties = empties_at(closure, without=gone)
    return Plan(closure, replaces, affected, empties, given_up(planned, board))


def holds_in(closure: Closure) -> QuerySet[Hold]:
    """The holds of its GPUs that overlap it."""
    found = Hold.objects.filter(gpu__host=closure.host_id, ends_at__gt=closure.starts_at)
    if closure.gpu_id is not None:
        found = found.filter(gpu=closure.gpu_id)
    return found if closure.ends_at is None else found.filter(starts_at__lt=closure.ends_at)


def leases_in(closure: Closure) -> QuerySet[Lease]:
    """The leases, not yet ended, that hold its GPUs in the closed time."""
    held = Lease.objects.filter(pk__in=holds_in(closure).values("lease"), state__in=[*AHEAD, *RUNNING])
    return (
        held.select_related("flavor__model", "owner", "tenant")
        .prefetch_related("holds__gpu__host")
        .order_by("starts_at", "requested_at", "id")
    )


def own_blocks(closure: Closure) -> QuerySet[Block]:
    """The blocks of which it takes GPUs."""
    blocks = Block.objects.filter(host=closure.host_id)
    return blocks if closure.gpu is None else blocks.filter(model=closure.gpu.model_id)


def empties_at(closure: Closure, *, without: Iterable[UUID] = ()) -> datetime | None:
    """When the last hold in it ends; None if there is none."""
    found = holds_in(closure).exclude(lease__in=list(without))
    return found.order_by("-ends_at").values_list("ends_at", flat=True).first()


def hull(spans: Collection[Span]) -> Span:
    """From the first start to the last end."""
    if not spans:
        return Span(ALWAYS, ALWAYS + 1)
    return Span(min(span.starts for span in spans), max(span.ends for span in spans))


def _region(leases: Iterable[Lease], *, now: datetime) -> Span:
    """All that the leases have, or would have elsewhere."""
    held = [(hold.starts_at, hold.ends_at) for lease in leases for hold in lease.holds.all()]
    wanted = [window(lease.flavor, lease.starts_at, lease.ends_at, now=now) for lease in leases]
    return hull([span_of(*one) for one in [*held, *wanted]])


def _affected(lease: Lease, move: Move | None, unmovable: Unmovable, gpus: dict[UUID, Gpu]) -> Affected:
    if move is not None:
        return Affected(lease, Fate.MOVES, [gpus[gpu_id] for gpu_id in move.gpu_ids], move)
    ahead = Fate.WITHDRAWN if lease.state == LeaseState.OFFERED else IF_UNMOVABLE[unmovable]
    fate = Fate.RUNS_ON if lease.state in RUNNING else ahead
    return Affected(lease, fate, [hold.gpu for hold in lease.holds.all()], None)


def _acceptable(one: Affected) -> set[str]:
    return {_mark(one.lease, fate) for fate in (Fate if one.fate is Fate.MOVES else [one.fate])}


def _mark(lease: Lease, fate: Fate) -> str:
    told = f"{lease.pk} {lease.starts_at.isoformat()} {lease.ends_at.isoformat()} {fate}"
    return sha256(told.encode()).hexdigest()[:16]


def _facts(leases: Iterable[Lease]) -> set[object]:
    return {
        (lease.pk, lease.state, lease.starts_at, lease.ends_at, hold.gpu_id, hold.starts_at, hold.ends_at)
        for lease in leases
        for hold in lease.holds.all()
    }
