"""What notices are about, as people choose among them."""

from __future__ import annotations

from enum import StrEnum

from django.utils.translation import gettext_lazy as _


class Topic(StrEnum):
    ENDING = "ending"
    READY = "ready"
    FAILED = "failed"
    APPROVAL = "approval"
    WAITLIST = "waitlist"
    BUDGET = "budget"
    OTHER = "other"


TOPIC_WORDS = {
    Topic.ENDING: _("It ends soon, looks unused, or has ended"),
    Topic.READY: _("It is ready"),
    Topic.FAILED: _("It has failed, has to wait, or is cancelled"),
    Topic.APPROVAL: _("Approval: needed from you, or decided for you"),
    Topic.WAITLIST: _("The waitlist: offers, and their end"),
    Topic.BUDGET: _("Budget and quota"),
    Topic.OTHER: _("Everything else: sharing, teams, hardware"),
}
_TOPICS = {
    Topic.ENDING: ("lease-ends-soon", "lease-unused", "lease-given-back", "lease-gone", "lease-not-extended"),
    Topic.READY: ("lease-running", "snapshot-taken"),
    Topic.FAILED: ("lease-fail", "lease-waits", "lease-delayed", "lease-cancelled", "snapshot-failed"),
    Topic.APPROVAL: (
        "lease-request", "lease-approve", "lease-reject", "lease-revoke", "lease-expire",
        "series-request", "series-approve", "series-reject", "series-expire",
    ),
    Topic.WAITLIST: ("waitlist-offer", "waitlist-passed", "waitlist-end"),
    Topic.BUDGET: ("budget-warning", "quota-request"),
}  # fmt: skip
_OF_KIND = {kind: topic for topic, kinds in _TOPICS.items() for kind in kinds}


def topic_of(kind: str) -> Topic:
    """What a notice of this kind is about."""
    return _OF_KIND.get(kind, Topic.OTHER)
