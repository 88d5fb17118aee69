"""Why something is as it is: stored as a code with its facts, so that each reader gets it in their language.

What people wrote is kept as they wrote it, and what hosts say about their hardware stays in English.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.db import models
from django.utils import translation
from django.utils.functional import Promise, lazy
from django.utils.translation import gettext_lazy as _

from leasing.errors import Words

Fact = str | int
LONGEST_FACT = 1500
_TOGETHER = "together"

TEXTS: dict[str, str | Promise] = {
    "said": "%(words)s",
    "approved-shorter": _("It ends earlier than you asked."),
    "ended-by": _("Ended by %(person)s."),
    "gpu-failed": _("A GPU of the workstation has failed: %(reason)s"),
    "host-failed": _("The host could not start the machine: %(reason)s"),
    "host-silent": _("%(host)s did not answer in time."),
    "image-damaged": _("The file is damaged, or a part of it is missing. %(words)s"),
    "image-elsewhere": _("It takes its data from another file (%(file)s); an image must stand alone."),
    "image-gave-up": _("Its conversion was cut short %(count)d times."),
    "image-late": _("Its conversion took longer than it may."),
    "image-no-room": _("There is not enough room in the portal's store."),
    "image-no-sandbox": _("The portal's server cannot convert images safely: %(words)s"),
    "image-other-digest": _("Its SHA-256 is %(found)s, not what was said."),
    "image-too-large": _("Its disk would have %(gib)d GiB; at most %(limit)d GiB are allowed."),
    "image-unreadable": _("It cannot be read as %(format)s. %(words)s"),
    "left-team": _("%(person)s has left the team."),
    "team-closed": _("The team is closed."),
    "emergency-stop": _("The operators have stopped it in an emergency: %(why)s"),
    "machine-lost": _("The host no longer has the machine."),
    "never-used": _(
        "Nobody used it in its first %(minutes)d minutes, so it was given back. "
        "The time it was held is billed."
    ),
    "never-ready": _("Its machine was not ready before its end. Nothing is billed."),
    "never-started": _("No clean GPU could be had before its end. Nothing is billed."),
    "no-price": _("“%(flavor)s” has no price at that time."),
    "offer-declined": _("The offer was declined."),
    "offer-left": _("The person left the line."),
    "offer-ran-out": _("The offer was not claimed in time."),
    "offer-spoilt": _("A GPU of it cannot be had in time, and no equal one is free. You keep your place."),
    "outage": _("What was an outage of ours is free: %(why)s"),
    "stopped-earlier": _("It had stopped before; that became known after the month was closed."),
    "over-limit": _("%(what)s at the same time: %(peak)d. Without approval: at most %(limit)s."),
    "own-over-limit": _("Your own %(what)s at the same time: %(peak)d. Without approval: at most %(limit)s."),
    "over-gpu-hours": _(
        "%(what)s-hours of your team in %(month)s: %(total)s. Without approval: at most %(limit)s."
    ),
    "own-over-gpu-hours": _(
        "Your own %(what)s-hours in %(month)s: %(total)s. Without approval: at most %(limit)s."
    ),
    "over-budget": _(
        "Your team's budget for %(month)s: with this %(total)s of %(limit)s %(currency)s are booked or used."
    ),
    "own-over-budget": _(
        "Your own budget for %(month)s: with this %(total)s of %(limit)s %(currency)s are booked or used."
    ),
    "other-currency": _("It is priced in %(currency)s, the budget in %(limit)s."),
    "too-long": _("Longer than the %(limit)s hours that need no approval."),
    "too-far-ahead": _("More than %(limit)s days ahead, which needs approval."),
    "too-few-with-extras": _("No host that it could be on has %(gpus)d GPUs of the kind %(model)s."),
    "too-few-together": _("No host has %(gpus)d GPUs of the kind %(model)s that could serve together."),
    "gpus-out-of-service": _("GPUs are out of service or in maintenance then."),
    "own-workstations": _("Your own workstations have the GPUs then."),
    "booked-by-others": _("Others have booked the GPUs then."),
    "kept-for-the-line": _("GPUs are kept for somebody who waits for them."),
    "no-time-between": _(
        "The time itself is free, but not the %(minutes)d minutes in which a GPU is cleaned and prepared."
    ),
    "home-is-booked": _("Your home volume is booked with %(other)s then."),
    "home-is-offered": _("Your home volume is held for you then, with what you waited for."),
    "device-is-booked": _("%(device)s is somebody else's then."),
    "home-elsewhere": _("What is free then cannot have your home volume."),
    "snapshot-elsewhere": _("What is free then cannot start from your snapshot."),
    "devices-elsewhere": _("What is free then is not where your devices are plugged in."),
    "no-time-that-day": _("The clocks are put forward over it on that day."),
    "start-is-over": _("Its start is over."),
    "deadline-too-early": _("It would end after the latest end that you gave."),
    "wait-lapsed": _("Nothing came free that would still have ended by your deadline."),
    "wait-no-member": _("You are no longer a member of the team."),
    "wait-no-homes": _("No host keeps home volumes any more."),
    "wait-no-snapshot": _("The snapshot that it was to start from is removed."),
    "wait-no-device": _("A USB device that it was to have was at a host that is retired."),
    "wait-not-offered": _("This workstation or its system is no longer offered."),
    "wait-passed": _("You let %(count)d offers pass."),
    "maintenance": _("Its GPU is closed for maintenance, and no equal one is free: %(why)s"),
    "waits-for-maintenance": _(
        "Its GPU is closed for maintenance: %(why)s. It starts as soon as it can have an equal one."
        " Your end stays; the time lost is not billed."
    ),
    "waits-for-gpu": _("Its GPU is out of service and no equal one is free. It starts as soon as one is."),
    "waits-for-device": _(
        "A device that you have chosen is not plugged in, or not free yet. It starts as soon as it is, or"
        " without it if you say so on its page."
    ),
    "waits-for-upgrade": _(
        "The program on its host is too old for this system. It starts as soon as that is upgraded."
        " Your end stays; the time lost is not billed."
    ),
    "waits-for-home": _(
        "Another workstation still has your home volume. It starts as soon as that has ended."
        " Your end stays; the time lost is not billed."
    ),
    "waits-for-return": _(
        "The GPU is not back from its previous lease. Your end stays; the time lost is not billed."
    ),
}


@dataclass(frozen=True)
class Reason:
    """A code of TEXTS and the facts that belong into its words. Its text is in the active language."""

    code: str = ""
    facts: tuple[tuple[str, Fact], ...] = ()

    def __str__(self) -> str:
        if self.code == _TOGETHER:
            return " ".join(str(parse(str(fact))) for _number, fact in self.facts)
        return str(TEXTS[self.code]) % dict(self.facts) if self.code in TEXTS else self.code

    def __bool__(self) -> bool:
        return bool(self.code)

    def in_english(self) -> str:
        """For the audit log, which has one language."""
        if not self:
            return ""
        with translation.override("en"):
            return str(self)


NONE = Reason()


def because(code: str, **facts: Fact) -> Reason:
    """A reason; long facts are cut."""
    clipped = {name: fact[:LONGEST_FACT] if isinstance(fact, str) else fact for name, fact in facts.items()}
    return Reason(code, tuple(sorted(clipped.items())))


def together(reasons: Iterable[Reason]) -> Reason:
    """Several reasons as one."""
    found = list(reasons)
    if len(found) < 2:
        return found[0] if found else NONE
    return because(_TOGETHER, **{f"{number:02d}": stored(one) for number, one in enumerate(found)})


def said(words: str) -> Reason:
    """What a person wrote; no reason if they wrote nothing."""
    return because("said", words=words) if words else NONE


def _fill(text: str | Promise, facts: dict[str, object]) -> str:
    return str(text) % facts


_filled = lazy(_fill, str)


def filled(text: str | Promise, **facts: object) -> Words:
    """`text % facts`, in the language of whoever reads it in the end."""
    return _filled(text, facts)


class ReasonField(models.TextField[Reason, Reason]):
    """A column that holds a Reason; no reason is the empty text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"blank": True, "default": NONE, **options})

    def deconstruct(self) -> Any:
        name, path, args, options = super().deconstruct()
        del options["blank"], options["default"]
        return name, path, args, options

    def from_db_value(self, value: str, *_: object) -> Reason:
        return parse(value)

    def to_python(self, value: Any) -> Any:
        return value if isinstance(value, Reason) else parse(value or "")

    def get_prep_value(self, value: Any) -> Any:
        if not isinstance(value, Reason):
            return value
        return stored(value)


def stored(reason: Reason) -> str:
    return json.dumps({"code": reason.code, **dict(reason.facts)}) if reason else ""


def parse(text: str) -> Reason:
    """A stored reason."""
    if not text:
        return NONE
    facts: dict[str, Fact] = json.loads(text)
    return because(str(facts.pop("code")), **facts)
