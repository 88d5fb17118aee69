"""How a state looks: one colour (tone), one icon, one word, everywhere."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from hosts.models import Gpu
from leasing.availability.sweep import Kind
from leasing.models import Lease


@dataclass(frozen=True)
class Look:
    """`tone` is a CSS class, `icon` a symbol of the sprite; `moving` means that it changes by itself."""

    tone: str
    icon: str
    word: str | Promise
    moving: bool = False


LEASE_LOOKS = {
    "offered": Look("violet", "hand", pgettext_lazy("workstation", "offered")),
    "requested": Look("violet", "hand", _("waiting for approval")),
    "scheduled": Look("blue", "calendar-clock", pgettext_lazy("workstation", "scheduled")),
    "provisioning": Look("amber", "loader-circle", pgettext_lazy("workstation", "preparing"), moving=True),
    "active": Look("green", "circle-play", pgettext_lazy("workstation", "running")),
    "releasing": Look("amber", "hourglass", pgettext_lazy("workstation", "ending")),
    "ended": Look("grey", "circle-check", pgettext_lazy("workstation", "ended")),
}
SWITCHED_OFF = Look("green", "power-off", pgettext_lazy("workstation", "switched off"))
OUTCOME_LOOKS = {
    "completed": LEASE_LOOKS["ended"],
    "rejected": Look("grey", "x", pgettext_lazy("workstation", "not approved")),
    "cancelled": Look("grey", "circle-minus", pgettext_lazy("workstation", "cancelled")),
    "expired": Look("grey", "clock", pgettext_lazy("workstation", "lapsed")),
    "failed": Look("red", "circle-x", pgettext_lazy("workstation", "failed")),
    "passed": Look("grey", "clock", pgettext_lazy("workstation", "not claimed")),
    "withdrawn": Look("grey", "circle-minus", pgettext_lazy("workstation", "taken back")),
}
GPU_LOOKS = {
    "clean": Look("green", "sparkles", pgettext_lazy("GPU", "clean")),
    "leased": Look("blue", "monitor", pgettext_lazy("GPU", "leased")),
    "dirty": Look("amber", "circle-dashed", pgettext_lazy("GPU", "to be cleaned")),
    "scrubbing": Look("amber", "eraser", pgettext_lazy("GPU", "being cleaned")),
    "quarantined": Look("red", "shield-alert", pgettext_lazy("GPU", "quarantined")),
    "maintenance": Look("grey", "wrench", pgettext_lazy("GPU", "in maintenance")),
    "missing": Look("red", "circle-question-mark", pgettext_lazy("GPU", "missing")),
}
# Of a lease, what is no lead or turnaround looks as its state does.
STRETCH_LOOKS = {
    Kind.LEAD: Look("amber", "loader-circle", pgettext_lazy("GPU", "being prepared")),
    Kind.TURNAROUND: Look("amber", "eraser", pgettext_lazy("GPU", "being cleaned")),
    Kind.CLOSED: Look("grey", "wrench", pgettext_lazy("GPU", "maintenance")),
    Kind.OUT: Look("red", "shield-alert", pgettext_lazy("GPU", "out of service")),
    Kind.BUSY: Look("grey", "lock", pgettext_lazy("GPU", "in use")),
}
STEP_LOOKS = {
    "started": Look("amber", "loader-circle", _("in progress"), moving=True),
    "done": Look("green", "check", _("done")),
    "failed": Look("red", "x", pgettext_lazy("step", "failed")),
}

TRUST_LOOKS = {
    True: Look("green", "check", pgettext_lazy("scrub method", "proven on this hardware")),
    False: Look("amber", "triangle-alert", pgettext_lazy("scrub method", "unverified on this hardware")),
}


FATE_LOOKS = {
    "moves": Look("green", "rotate-cw", pgettext_lazy("lease in a closure", "moves to an equal GPU")),
    "runs-on": Look("blue", "circle-play", pgettext_lazy("lease in a closure", "runs there until its end")),
    "stays": Look("amber", "triangle-alert", pgettext_lazy("lease in a closure", "cannot move: stays")),
    "waits": Look("amber", "hourglass", pgettext_lazy("lease in a closure", "cannot move: waits")),
    "cancelled": Look("red", "circle-x", pgettext_lazy("lease in a closure", "cannot move: cancelled")),
    "withdrawn": Look("grey", "circle-minus", pgettext_lazy("lease in a closure", "cannot move: taken back")),
}


def look_of_lease(lease: Lease) -> Look:
    if lease.state == "ended":
        return OUTCOME_LOOKS[lease.outcome]
    if lease.state == "active" and lease.machine == Lease.Machine.OFF:
        return SWITCHED_OFF
    return LEASE_LOOKS[lease.state]


VERDICT_LOOKS = {
    "fail": Look("red", "circle-x", pgettext_lazy("check", "failed")),
    "warn": Look("amber", "triangle-alert", pgettext_lazy("check", "warning")),
    "pass": Look("green", "circle-check", pgettext_lazy("check", "in order")),
    "skip": Look("grey", "circle-minus", pgettext_lazy("check", "does not apply")),
}


def look_of_gpu(gpu: Gpu) -> Look:
    return GPU_LOOKS[gpu.state]
