"""Where leases go that have to leave their GPUs: one plan for all, made on a board that is no database.

The rule: in order of their start (of equal ones the larger first, then who asked first), each goes where a
booking would be placed, as if the closure were in force and those before it had moved already. Those that
find nothing are tried once more where GPUs are kept for somebody who waits: that is a hope, and a lease is a
promise.

Whoever is left fits nowhere. What others leave is no help to them: it is closed, or taken at another time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from leasing.holds import pick_gpus, pool_for, pool_of, window
from leasing.models import Block, Closure, Flavor, Lease
from leasing.openings.search import tightest_block
from leasing.openings.spans import Span, micros
from leasing.openings.upkeep import GpuTime, kept_of, openings_of, read, span_of


@dataclass(frozen=True)
class Move:
    """Other GPUs, all of one block, for a lease; they are held in `[starts_at, ends_at)`."""

    lease: Lease
    block_id: int
    gpu_ids: tuple[UUID, ...]
    starts_at: datetime
    ends_at: datetime

    @property
    def span(self) -> Span:
        return span_of(self.starts_at, self.ends_at)


class Board:
    """Blocks as they would be with the closure in force, in place of the one that it `replaces`."""

    def __init__(self, region: Span, closure: Closure, replaces: Closure | None) -> None:
        self.region, self.closure, self.replaces = region, closure, replaces
        self.blocks: dict[int, list[GpuTime]] = {}
        self.gpus: dict[UUID, GpuTime] = {}
        self.kept: dict[int, list[tuple[UUID, Span]]] = {}

    def show(self, blocks: Iterable[Block]) -> None:
        """Put blocks on the board. They are only as certain as the caller's locks on them."""
        for block in blocks:
            times = read(block, self.region)
            if block.host_id == self.closure.host_id:
                self._close(times)
            self.blocks[block.pk] = times
            self.gpus |= {time.gpu.pk: time for time in times}
            self.kept[block.pk] = list(kept_of(block))

    def give_up_kept(self, block_ids: Iterable[int]) -> None:
        """Nothing of these blocks is kept for anybody."""
        for block_id in block_ids:
            for gpu_id, span in self.kept[block_id]:
                self.gpus[gpu_id].free(span)

    def take_off(self, lease: Lease) -> None:
        for hold in lease.holds.all():
            if hold.gpu_id in self.gpus:
                self.gpus[hold.gpu_id].free(span_of(hold.starts_at, hold.ends_at))

    def put_back(self, lease: Lease) -> None:
        for hold in lease.holds.all():
            if hold.gpu_id in self.gpus:
                self.gpus[hold.gpu_id].busy.append(span_of(hold.starts_at, hold.ends_at))

    def put(self, move: Move) -> bool:
        """Whether the GPUs are free for it; they are its then."""
        times = [self.gpus[gpu_id] for gpu_id in move.gpu_ids]
        if not all(time.is_free(move.span) for time in times):
            return False
        for time in times:
            time.busy.append(move.span)
        return True

    def find(self, lease: Lease, *, now: datetime) -> Move | None:
        """Where a booking of it would be placed. Blocks that have to be looked into come onto the board."""
        starts_at, ends_at = window(lease.flavor, lease.starts_at, lease.ends_at, now=now)
        span, pool = span_of(starts_at, ends_at), pool_for(lease)
        shown = self.blocks.keys() if pool.within is None else self.blocks.keys() & pool.within
        found = [one for pk in sorted(shown) if (one := self._rank(pk, lease, span, now)) is not None]
        # The tightest of those that are not on the board yet; if nothing of it is ready, also the others.
        while (pk := tightest_block(pool, *span, without=self.blocks.keys())) is not None:
            self.show(Block.objects.filter(pk=pk))
            ranked = self._rank(pk, lease, span, now)
            found += [ranked] if ranked is not None else []
            if ranked is not None and not ranked[0]:
                break
        if not found:
            return None
        _unready, _width, block_id, gpu_ids = min(found)
        return Move(lease, block_id, gpu_ids, starts_at, ends_at)

    def _rank(
        self, block_id: int, lease: Lease, span: Span, now: datetime
    ) -> tuple[int, int, int, tuple[UUID, ...]] | None:
        """How good the block is for the lease, least is best; None if it cannot serve it."""
        found = fit(lease.flavor, self.blocks[block_id], span, now=now)
        if found is None:
            return None
        unready, width, gpu_ids = found
        return unready, width, block_id, gpu_ids

    def _close(self, times: list[GpuTime]) -> None:
        closed = span_of(self.closure.starts_at, self.closure.ends_at)
        for time in times:
            if self.closure.gpu_id not in (None, time.gpu.pk):
                continue
            if self.replaces is not None:
                time.free(span_of(self.replaces.starts_at, self.replaces.ends_at))
            time.busy.append(closed)


def fit(
    flavor: Flavor, times: list[GpuTime], span: Span, *, now: datetime
) -> tuple[int, int, tuple[UUID, ...]] | None:
    """How well a block with these times fits: least is best; None if it cannot serve the flavor.

    First how many of its GPUs could not be handed over, if that were now; then how many GPUs the narrowest
    opening around the span has; and last which GPUs it would be.
    """
    chosen = pick_gpus(flavor, times, span, now=now)
    if chosen is None:
        return None
    pool = pool_of(flavor)
    unready = sum(not gpu.ready for gpu in chosen) if span.starts <= micros(now) else 0
    width = min(
        found.gpus
        for scope, found in openings_of(times, span)
        if scope in pool.scopes
        and found.gpus >= pool.count
        and found.starts <= span.starts
        and found.ends >= span.ends
    )
    return unready, width, tuple(sorted(gpu.gpu_id for gpu in chosen))


def plan_moves(leases: Iterable[Lease], board: Board, *, now: datetime) -> list[Move]:
    """A move for each of the leases that can have one. Their holds are on the board."""
    moves, left = _moves(sorted(leases, key=_turn), board, now=now)
    if left:
        models = {lease.flavor.model_id for lease in left}
        kept = list(Block.objects.filter(model__in=models, kept_for__isnull=False))
        board.show(block for block in kept if block.pk not in board.blocks)
        board.give_up_kept(block.pk for block in kept)
        moves += _moves(left, board, now=now)[0]
    return moves


def given_up(moves: Iterable[Move], board: Board) -> frozenset[int]:
    """The blocks of which something is kept that these moves are in the way of."""
    return frozenset(
        move.block_id
        for move in moves
        for gpu_id, span in board.kept[move.block_id]
        if gpu_id in move.gpu_ids and span.starts < move.span.ends and span.ends > move.span.starts
    )


def _moves(leases: list[Lease], board: Board, *, now: datetime) -> tuple[list[Move], list[Lease]]:
    """One after the other, and who is left."""
    moves: list[Move] = []
    left: list[Lease] = []
    for lease in leases:
        board.take_off(lease)
        move = board.find(lease, now=now)
        if move is None:
            board.put_back(lease)
            left.append(lease)
        else:
            board.put(move)
            moves.append(move)
    return moves, left


def _turn(lease: Lease) -> tuple[datetime, int, datetime, UUID]:
    return lease.starts_at, -lease.flavor.gpu_count, lease.requested_at, lease.pk
