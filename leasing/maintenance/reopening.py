"""The end of a closure by the clock: what opens is shown to those who wait, like all that comes free.

That it would open was known, and could be booked, all along, but for one thing: what is open may be had at
once, without its lead.
"""

from __future__ import annotations

from datetime import datetime

from django.db.models import QuerySet

from leasing.maintenance.plan import own_blocks
from leasing.models import Closure
from leasing.openings.upkeep import lock_blocks, note_freed, span_of


def closures_just_over(now: datetime) -> QuerySet[Closure]:
    """Closures that are over, and were not shown as such."""
    return Closure.objects.filter(ends_at__lte=now, shown=False).order_by("id")


def show_opened(closure: Closure) -> None:
    """Note what has opened, to be shown to the line. The caller has locked the closure."""
    for block in lock_blocks(own_blocks(closure).values_list("pk", flat=True)):
        note_freed(block, span_of(closure.starts_at, closure.ends_at))
    closure.shown = True
    closure.save(update_fields=["shown"])
