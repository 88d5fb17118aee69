"""What comes free is offered to those who wait, in the order of their line, before anybody else may book it.

Whatever frees GPUs notes on their block what it freed, in the same transaction (leasing.openings.upkeep).
Until that was shown to the line nobody places a new booking on the block: a passer-by who wants to shows it
first. So the line is shown everything at the next tick at the latest, and nobody can be quicker than it.

An offer is a lease in the state `offered`, with holds like any other. It counts as neither usage nor money.
Its price is fixed when it is made; limits and roles are looked at when it is claimed (leasing.waitlist).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Count, F, Q, QuerySet

from leasing import devices, holds, metering, moving, tidings
from leasing.actors import SYSTEM, Actor
from leasing.audit.log import record
from leasing.errors import InvalidRequest, NothingFree
from leasing.extras import extras_of_entry, look_again
from leasing.lines import Wish, claim_until, first_start
from leasing.locking import locked
from leasing.models import Block, Flavor, Lease, WaitlistEntry
from leasing.openings.search import Scope
from leasing.openings.spans import Open, Span, micros, moment
from leasing.openings.upkeep import give_up_kept, kept_of, note_freed, openings_of, read
from leasing.pricing import keep_terms, quote_lease
from leasing.promises import promised
from leasing.reasons import NONE, Reason, because
from leasing.states.gpu import BOOKABLE
from leasing.states.lease import LeaseEvent, LeaseState
from leasing.transitions import apply_lease_event
from leasing.wishes import free_start, fresh_entries, impossible_because, line, wishes

# Who lets so many offers pass is no longer in line.
CHANCES = 3
_ENDS = WaitlistEntry.Outcome
_IN_LINE = ("entry__rank_at", "entry__joined_at", "entry")


def place_after_line(lease: Lease, *, now: datetime, **more: Any) -> list[UUID]:
    """Hold GPUs for a new booking, as `holds.place` does: those who wait come first."""
    while True:
        try:
            return holds.place(lease, now=now, after_line=True, **more)
        except holds.LineFirst as first:
            show_freed(first.block, now=now)


def freed_blocks(model_id: int | None = None) -> QuerySet[Block]:
    """Blocks of which something is still to be shown to the line."""
    blocks = Block.objects.filter(freed_from__isnull=False).order_by("id")
    return blocks if model_id is None else blocks.filter(model=model_id)


def show_freed(block: Block, *, now: datetime) -> None:
    """Offer what came free of a block, which the caller has locked, to those who wait, each in turn."""
    while _frees_more(block, now=now):
        pass
    block.freed_from = block.freed_until = None
    block.save(update_fields=["freed_from", "freed_until"])


def _frees_more(block: Block, *, now: datetime) -> bool:
    """Whether one of them gave up what was kept for them: that is for the first in line again."""
    kept_for = block.kept_for_id
    waiting = wishes(line(block.model_id).filter(flavor__gpu_count__lte=block.gpus), now=now)
    freed = _Freed(block) if waiting else None
    for entry, wish in waiting:
        start = freed.start_for(entry, wish, now=now) if freed else None
        if start is not None and _offer_on(block, entry, moment(start), now=now):
            # What is offered with it may be what the others of the same person wait for.
            if block.kept_for_id != kept_for or extras_of_entry(entry):
                return True
            freed = _Freed(block)
    return False


def show_all_freed(model_id: int, *, now: datetime) -> None:
    """Offer what came free of a GPU model, before somebody changes what they have booked."""
    for block in locked(freed_blocks(model_id)):
        show_freed(block, now=now)


@transaction.atomic
def show_freed_extras() -> None:
    """What had GPUs that came free may have had a home volume or devices, which go to other blocks, too."""
    blocks = locked(Block.objects.filter(frees_extras=True)).order_by("id")
    if freed := [block.pk for block in blocks]:
        Block.objects.filter(pk__in=freed).update(frees_extras=False)
        look_again(WaitlistEntry.objects.filter(Q(with_home=True) | Q(devices__isnull=False)))


def look_for(entry_id: UUID, *, now: datetime) -> None:
    """Offer a fresh entry what is free already. To be called after all that came free was shown."""
    for block in locked(Block.objects.filter(kept_for=entry_id)):
        # It may have come free while the entry had another offer; no search finds what is kept.
        for region in {span for _gpu_id, span in kept_of(block)}:
            note_freed(block, region, again=True)
            show_freed(block, now=now)
    entry = fresh_entries().filter(pk=entry_id).first()
    if entry is None:
        return
    ((_same, wish),) = wishes([entry], now=now)
    start = free_start(entry, wish, now=now)
    if start is not None:
        _offer_anywhere(entry, start, now=now)
        return
    # Unless it has been changed meanwhile.
    unchanged = WaitlistEntry.objects.filter(
        pk=entry.pk, last_start_at=entry.last_start_at, passes=entry.passes
    )
    unchanged.update(fresh=False)


def offers_due(now: datetime) -> QuerySet[Lease]:
    """Offers that nobody claimed in time."""
    return Lease.objects.filter(state=LeaseState.OFFERED, decide_by__lte=now).order_by(*_IN_LINE)


def offers_spoilt() -> QuerySet[Lease]:
    """Offers that lack a GPU, or will not have it in time; that of the first in line first."""
    offers = Lease.objects.filter(state=LeaseState.OFFERED).order_by(*_IN_LINE)
    fit = Count("holds", filter=Q(holds__gpu__state__in=BOOKABLE, holds__starts_at__lte=F("starts_at")))
    return offers.filter(pk__in=offers.annotate(fit=fit).filter(fit__lt=F("flavor__gpu_count")).values("pk"))


def mend(offer: Lease, *, now: datetime) -> None:
    """Equal GPUs for a spoilt offer, which the caller has locked, or else none."""
    if not moving.move(offer, now=now, only_ready=False):
        withdraw(offer, because("offer-spoilt"), now=now)
        tidings.offer_withdrawn(offer, because("offer-spoilt"), now=now)


def pass_on(offer: Lease, reason: Reason, *, actor: Actor = SYSTEM, now: datetime) -> None:
    """The owner lets the offer, which the caller has locked, pass: its GPUs are for the next in line."""
    entry = _end(offer, LeaseEvent.PASS, reason, actor=actor, now=now)
    entry.passes += 1
    entry.save(update_fields=["passes"])
    if entry.passes >= CHANCES and entry.closed_at is None:
        close(entry, _ENDS.PASSED, because("wait-passed", count=CHANCES), now=now)


def withdraw(offer: Lease, reason: Reason, *, actor: Actor = SYSTEM, now: datetime) -> None:
    """The offer, which the caller has locked, is taken back; its entry waits on as if there had been none."""
    _end(offer, LeaseEvent.WITHDRAW, reason, actor=actor, now=now)


def close(
    entry: WaitlistEntry,
    outcome: WaitlistEntry.Outcome,
    reason: Reason = NONE,
    *,
    actor: Actor = SYSTEM,
    now: datetime,
) -> None:
    """The entry, which the caller has locked, waits no more; its owner is told if it was not their doing."""
    entry.closed_at, entry.outcome, entry.outcome_reason = now, outcome, reason
    entry.save(update_fields=["closed_at", "outcome", "outcome_reason"])
    note(entry, f"waitlist.{outcome}", actor=actor, now=now, reason=reason.in_english())
    if reason:
        tidings.waits_no_more(entry, now=now)


def give_up(entry: WaitlistEntry, *, now: datetime) -> None:
    """Close an entry, which the caller has locked, to which nothing can be offered any more."""
    if reason := impossible_because(entry):
        close(entry, _ENDS.WITHDRAWN, reason, now=now)
    else:
        close(entry, _ENDS.LAPSED, because("wait-lapsed"), now=now)


def note(entry: WaitlistEntry, action: str, *, actor: Actor, now: datetime, **facts: Any) -> None:
    """Write into the audit log what happened to an entry."""
    record(action=action, actor=actor, subject=f"waitlist:{entry.pk}", tenant=entry.tenant, now=now, **facts)


class _Freed:
    """When the GPUs of a locked block are free together, around what came free of it."""

    def __init__(self, block: Block) -> None:
        assert block.freed_from is not None  # noqa: S101 - asked for by whoever shows it
        assert block.freed_until is not None  # noqa: S101
        self.block, region = block, Span(block.freed_from, block.freed_until)
        times = read(block, region)
        self.openings = list(openings_of(times, region))
        kept = dict(kept_of(block))
        for time in times:
            if time.gpu.pk in kept:
                time.busy.remove(kept[time.gpu.pk])
        self.with_kept = list(openings_of(times, region)) if kept else self.openings

    def start_for(self, entry: WaitlistEntry, wish: Wish, *, now: datetime) -> int | None:
        """The first start on this block; what is kept for the entry is free for it."""
        reach = extras_of_entry(entry).reach(entry.flavor)
        if reach is not None and self.block.pk not in reach:
            return None
        found = self.with_kept if self.block.kept_for_id == entry.pk else self.openings
        model = entry.flavor.model
        return first_start(
            wish,
            _within_reach(entry.flavor, found),
            lead=model.lead_seconds * 1_000_000,
            turnaround=model.turnaround_seconds * 1_000_000,
            now=micros(now),
        )


def _within_reach(flavor: Flavor, found: list[tuple[Scope, Open]]) -> Iterator[Open]:
    scopes = holds.pool_of(flavor).scopes
    return (opening for scope, opening in found if scope in scopes)


def _offer_on(block: Block, entry: WaitlistEntry, starts_at: datetime, *, now: datetime) -> bool:
    """Whether this slot of the locked block is the entry's now."""
    if _closed_as_impossible(entry, now=now):
        return False
    try:
        with transaction.atomic():
            if not _still_wants(entry, starts_at, now=now):
                return False
            offer = _new_offer(entry, starts_at, now=now)
            if block.kept_for_id == entry.pk:
                give_up_kept(block)
            holds.place_on(offer, block, now=now)
            devices.require_free(offer)
            _announce(offer, now=now)
    except (NothingFree, InvalidRequest):
        block.refresh_from_db()
        WaitlistEntry.objects.filter(pk=entry.pk).update(fresh=True)
        return False
    return True


def _offer_anywhere(entry: WaitlistEntry, starts_at: datetime, *, now: datetime) -> None:
    """Blocks are locked before entries: the slot is taken first, and given back if the entry waits no more.

    If somebody was quicker, or it has no price, the entry stays fresh, and the next tick looks again.
    """
    if _closed_as_impossible(entry, now=now):
        return
    with suppress(NothingFree, InvalidRequest), transaction.atomic():
        offer = _new_offer(entry, starts_at, now=now)
        place_after_line(offer, now=now)
        devices.require_free(offer)
        if _still_wants(entry, starts_at, besides=offer, now=now):
            _announce(offer, now=now)
        else:
            transaction.set_rollback(True)


def _still_wants(
    entry: WaitlistEntry, starts_at: datetime, *, besides: Lease | None = None, now: datetime
) -> bool:
    """Lock the entry, and ask again whether it waits for just this and has no other offer."""
    same = WaitlistEntry.objects.filter(
        pk=entry.pk, closed_at=None, last_start_at__gte=starts_at, passes=entry.passes
    )
    others = Lease.objects.filter(entry=entry, state=LeaseState.OFFERED)
    extras = extras_of_entry(entry)
    if besides is not None:
        others, extras = others.exclude(pk=besides.pk), replace(extras, lease_id=besides.pk)
    if not locked(same).exists() or others.exists():
        return False
    return not extras.lacking(entry.flavor, starts_at, starts_at + entry.duration, now=now)


def _closed_as_impossible(entry: WaitlistEntry, *, now: datetime) -> bool:
    """Close an entry to which nothing can be offered any more."""
    reason = impossible_because(entry)
    if reason:
        with transaction.atomic():
            waiting = locked(WaitlistEntry.objects.filter(pk=entry.pk, closed_at=None)).first()
            if waiting is not None:
                close(waiting, _ENDS.WITHDRAWN, reason, now=now)
    return bool(reason)


def _new_offer(entry: WaitlistEntry, starts_at: datetime, *, now: datetime) -> Lease:
    """Raises InvalidRequest if it has no price at that time."""
    ends_at = starts_at + entry.duration
    quote = quote_lease(
        flavor=entry.flavor, tenant=entry.tenant, starts_at=starts_at, ends_at=ends_at, now=now
    )
    offer = Lease.objects.create(
        tenant=entry.tenant,
        owner=entry.owner,
        flavor=entry.flavor,
        image=entry.image,
        state=LeaseState.OFFERED,
        state_since=now,
        starts_at=starts_at,
        ends_at=ends_at,
        requested_at=now,
        decide_by=claim_until(starts_at, entry.duration, now=now),
        purpose=entry.purpose,
        with_home=entry.with_home,
        snapshot=entry.snapshot,
        rate_per_hour=quote.rate_per_hour,
        currency=quote.currency,
        quoted_total=quote.total,
        varied=quote.is_varied,
        entry=entry,
        bound_to=chosen[0].host if (chosen := list(entry.devices.all())) else None,
    )
    keep_terms(offer, quote)
    devices.give(offer, chosen)
    return offer


def _announce(offer: Lease, *, now: datetime) -> None:
    facts: dict[str, Any] = {
        "from": None,
        "to": offer.state,
        **promised(offer, metering.terms(offer), offer.holds.values_list("gpu_id", flat=True)),
        "claim_until": offer.decide_by,
        "waitlist_entry": offer.entry_id,
    }
    record(
        action="lease.offer", actor=SYSTEM, subject=f"lease:{offer.pk}", tenant=offer.tenant, now=now, **facts
    )
    tidings.offered(offer, now=now)


def _end(offer: Lease, event: LeaseEvent, reason: Reason, *, actor: Actor, now: datetime) -> WaitlistEntry:
    """End the offer, and return its entry, locked; what is free is looked at for it anew."""
    apply_lease_event(lease_id=offer.pk, event=event, actor=actor, effective_at=now, now=now, reason=reason)
    entries = WaitlistEntry.objects.filter(offers=offer).select_related("owner", "tenant", "flavor")
    entry = locked(entries).get()
    entry.fresh = True
    entry.save(update_fields=["fresh"])
    return entry
