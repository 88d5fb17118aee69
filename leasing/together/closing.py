"""What ends when a lease stops or somebody leaves: shares with their consoles, and offers to hand it over."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from leasing.actors import SYSTEM, Actor
from leasing.audit.log import record
from leasing.console import close_consoles_of
from leasing.models import HandOver, Lease, Share

State = HandOver.State


def close_with_lease(lease: Lease, *, now: datetime) -> None:
    """All of a lease that has stopped. The caller has locked it."""
    close_shares(lease.shares.all(), actor=SYSTEM, now=now)
    close_offers(lease.hand_overs.all(), actor=SYSTEM, now=now)


def close_shares(shares: QuerySet[Share], *, actor: Actor, now: datetime) -> None:
    """Those that are open; the consoles that they opened close with them."""
    for share in shares.filter(closed_at=None).select_related("person", "lease__tenant"):
        share.closed_at = now
        share.save(update_fields=["closed_at"])
        close_consoles_of(share.lease, share.person, now=now)
        note_share("lease.unshare", actor, share, now=now)


def close_offers(offers: QuerySet[HandOver], *, actor: Actor, now: datetime) -> None:
    """Those that nobody has answered."""
    for made in offers.filter(state__in=HandOver.WAITING).select_related("giver", "taker", "lease__tenant"):
        answer_offer(made, State.WITHDRAWN, actor=actor, now=now)


def answer_offer(made: HandOver, state: HandOver.State, *, actor: Actor, now: datetime) -> None:
    made.state, made.decided_at = state, now
    made.save(update_fields=["state", "decided_at"])
    note_offer("lease.decline-over" if state is State.DECLINED else "lease.keep", actor, made, now=now)


def note_share(action: str, actor: Actor, share: Share, *, now: datetime, **facts: Any) -> None:
    record(
        action=action,
        actor=actor,
        subject=f"lease:{share.lease_id}",
        tenant=share.lease.tenant,
        behalf=share.person,
        now=now,
        person=share.person.username,
        **facts,
    )


def note_offer(action: str, actor: Actor, made: HandOver, *, now: datetime) -> None:
    record(
        action=action,
        actor=actor,
        subject=f"lease:{made.lease_id}",
        tenant=made.lease.tenant,
        now=now,
        giver=made.giver.username,
        taker=made.taker.username,
    )
