"""Checks of the waitlist: offers, what is kept, and the entries themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta

from leasing.fsck.finding import Finding
from leasing.models import AuditEntry, Block, Lease, WaitlistEntry
from leasing.states.lease import LeaseState

# A tick may be late by so much.
LATE = timedelta(minutes=1)


def offers_are_held(now: datetime) -> Iterator[Finding]:
    """Every offer holds its GPUs on one host, for somebody who waits, and no longer than it may be claimed"""
    offers = Lease.objects.filter(state=LeaseState.OFFERED).select_related("flavor", "entry")
    for offer in offers.prefetch_related("holds__gpu"):
        held = [hold.gpu.host_id for hold in offer.holds.all()]
        if len(held) != offer.flavor.gpu_count or len(set(held)) != 1:
            yield Finding(f"lease:{offer.pk}", f"is offered with {len(held)} GPUs on {len(set(held))} hosts")
        if offer.entry is None or offer.entry.closed_at is not None:
            yield Finding(f"lease:{offer.pk}", "is offered to somebody who does not wait")
        if offer.decide_by is None or offer.decide_by < now - LATE:
            yield Finding(f"lease:{offer.pk}", f"is still offered, which it was until {offer.decide_by}")


def entries_follow_from_the_log(now: datetime) -> Iterator[Finding]:
    """Every entry of the waitlist was joined once, and closed once if it is closed"""
    told: Counter[tuple[str, str]] = Counter()
    rows = AuditEntry.objects.filter(subject__startswith="waitlist:").values_list("subject", "action")
    for subject, action in rows.iterator(chunk_size=2000):
        told[subject, action] += 1
    for pk, outcome in WaitlistEntry.objects.values_list("pk", "outcome"):
        subject = f"waitlist:{pk}"
        ends = {f"waitlist.{end}": told[subject, f"waitlist.{end}"] for end in WaitlistEntry.Outcome.values}
        due = {f"waitlist.{outcome}": 1} if outcome else {}
        if told[subject, "waitlist.join"] != 1 or {end: n for end, n in ends.items() if n} != due:
            yield Finding(subject, f"is {outcome or 'open'}, which the audit log does not say")


def kept_is_for_who_waits(now: datetime) -> Iterator[Finding]:
    """GPUs are kept on one host for an entry that waits, and for one of each line at most"""
    lines: Counter[int] = Counter()
    for block in Block.objects.filter(kept_for__isnull=False).select_related("kept_for__flavor"):
        entry = block.kept_for
        lines[block.model_id] += 1
        if entry is None or entry.kept_from is None or entry.flavor.model_id != block.model_id:
            yield Finding(f"block:{block.pk}", "is kept for an entry that does not know of it")
        elif {gpu.host_id for gpu in entry.kept_gpus.all()} != {block.host_id}:
            yield Finding(f"block:{block.pk}", "is kept, but not its own GPUs")
    for model_id, count in lines.items():
        if count > 1:
            yield Finding(f"model:{model_id}", f"{count} entries of its line have something kept for them")
