"""What stands in the way of a window, as far as the person who asks may know it.

Whoever else has booked is never named. Each GPU that cannot serve has causes; those are told of which one
alone, were it gone, would let the window fit, or else all that there are.

In a large fleet a few blocks tell: a cause is settled by the first where it is all that is in the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from django.db.models import Q

from leasing.causes import Blocked, Cause, Wish, marked, read_groups
from leasing.extras import PLAIN, Extras
from leasing.holds import pool_of, window
from leasing.models import Block, Flavor, Lease, Person
from leasing.openings.search import is_open, tightest_block
from leasing.openings.spans import Span
from leasing.openings.upkeep import span_of
from leasing.reasons import Reason, because
from leasing.states.lease import AHEAD, LeaseState

# So many blocks are read at once, and each time so many times more.
FIRST, MORE = 4, 4
# So many blocks that are free but for some minutes are looked at one by one, and then all.
CLOSEST = 4


def telling(groups: Iterable[Blocked], count: int) -> list[Cause]:
    """The causes to tell of, of a window that needs `count` GPUs of one group; none if nothing is in the way,
    or if no group has so many.
    """
    large = [group for group in groups if len(group) >= count]
    if _fits(large, count, frozenset()):
        return []
    present = [cause for cause in Cause if any(cause in gpu for group in large for gpu in group)]
    return [cause for cause in present if _fits(large, count, frozenset([cause]))] or present


@dataclass(frozen=True)
class InTheWay:
    """Why a window cannot be had, and which leases of the person's own have such GPUs then."""

    reasons: list[Reason]
    own: list[Lease]


def in_the_way(
    flavor: Flavor,
    starts_at: datetime,
    ends_at: datetime,
    *,
    person: Person,
    extras: Extras = PLAIN,
    now: datetime,
) -> InTheWay:
    """What keeps the person from a lease of the flavor in this window, where it could be with the extras."""
    held, pool = window(flavor, starts_at, ends_at, now=now), pool_of(flavor, extras)
    if is_open(pool, *span_of(*held)):
        return InTheWay([], [])
    wish = Wish(flavor, starts_at, ends_at, held, person, pool, now)
    blocks = _Blocks(wish)
    causes = blocks.alone()
    if not causes:
        groups = list(blocks.groups(blocks.every()))
        if all(len(group) < flavor.gpu_count for group in groups):
            too_few = "too-few-with-extras" if extras else "too-few-together"
            return InTheWay([because(too_few, gpus=flavor.gpu_count, model=flavor.model.name)], [])
        causes = telling(groups, flavor.gpu_count)
    return InTheWay([_said(cause, flavor) for cause in causes], _own(wish) if Cause.OWN in causes else [])


class _Blocks:
    """The blocks that have GPUs enough, read as far as they are asked for."""

    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        self._read: dict[int, list[Blocked]] = {}

    def alone(self) -> list[Cause]:
        """The causes of which one alone is all that is in the way of the window somewhere."""
        rare = marked(self._wish)
        return [cause for cause in Cause if self._tells(cause, self._suspects(cause, rare[cause]))]

    def groups(self, batches: Iterable[list[int]]) -> Iterator[Blocked]:
        for batch in batches:
            if unread := [block_id for block_id in batch if block_id not in self._read]:
                self._read |= read_groups(self._wish, unread)
            for block_id in batch:
                yield from self._read[block_id]

    def every(self) -> Iterator[list[int]]:
        pool, last, count = self._wish.pool, 0, FIRST
        blocks = Block.objects.filter(model=pool.model_id, gpus__gte=pool.count).order_by("pk")
        if pool.within is not None:
            blocks = blocks.filter(pk__in=pool.within)
        while batch := list(blocks.filter(pk__gt=last).values_list("pk", flat=True)[:count]):
            yield batch
            last, count = batch[-1], count * MORE

    def _tells(self, cause: Cause, batches: Iterable[list[int]]) -> bool:
        return _fits(self.groups(batches), self._wish.pool.count, frozenset([cause]))

    def _suspects(self, cause: Cause, rare: list[int]) -> Iterator[list[int]]:
        """If any block tells of the cause, one of these does."""
        if cause is Cause.OTHERS:
            return self.every()
        return chain(_batches(rare), self._nearly_open() if cause is Cause.TURNAROUND else ())

    def _nearly_open(self) -> Iterator[list[int]]:
        """Blocks with GPUs enough that are free for all of the window but some minutes at its edges."""
        core, seen = self._core(), set[int]()
        while core.starts < core.ends and len(seen) < CLOSEST:
            block_id = tightest_block(self._wish.pool, *core, without=seen)
            if block_id is None:
                return
            seen.add(block_id)
            yield [block_id]
        yield from self.every()

    def _core(self) -> Span:
        """What no hold touches whose lease does not overlap the window, but for those that are `marked`.

        A hold reaches no farther beyond its lease than the model says.
        """
        lead, turnaround = self._wish.around
        return span_of(max(self._wish.starts_at, self._wish.now) + turnaround, self._wish.ends_at - lead)


def _batches(block_ids: list[int]) -> Iterator[list[int]]:
    first, count = 0, FIRST
    while first < len(block_ids):
        yield block_ids[first : first + count]
        first, count = first + count, count * MORE


def _said(cause: Cause, flavor: Flavor) -> Reason:
    if cause is not Cause.TURNAROUND:
        return because(cause)
    seconds = flavor.model.lead_seconds + flavor.model.turnaround_seconds
    return because(cause, minutes=-(-seconds // 60))


def _own(wish: Wish) -> list[Lease]:
    """Those whose holds meet the window's; what is only booked need not be looked at if it is far from it."""
    (begin, end), (lead, turnaround) = wish.held, wish.around
    far = Q(state__in=AHEAD) & (Q(starts_at__gte=end + lead) | Q(ends_at__lte=begin - turnaround))
    own = Lease.objects.filter(
        ~far,
        owner=wish.person,
        holds__gpu__model=wish.flavor.model,
        holds__starts_at__lt=end,
        holds__ends_at__gt=begin,
    )
    return list(own.exclude(state=LeaseState.OFFERED).distinct().order_by("starts_at", "id"))


def _fits(groups: Iterable[Blocked], count: int, without: frozenset[Cause]) -> bool:
    return any(sum(gpu <= without for gpu in group) >= count for group in groups)
