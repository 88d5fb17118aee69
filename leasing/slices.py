"""Dividing a card into slices that are leased as GPUs of their own, and making it whole again.

Only what nobody uses, has booked or may find something in is divided: the GPU is clean and free, leaves
service with the order, and its slices come in once the host has made them, each by an intake of its own.
Made whole, the card is scrubbed as a whole before it is offered.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils.translation import gettext as _

from hosts.models import Division, FoundCard, Gpu, GpuModel, Host
from hosts.protocol import messages as m
from leasing import goals, outbox
from leasing.actors import SYSTEM, Actor
from leasing.apart import open_division, require_apart
from leasing.audit.log import record
from leasing.cards import card_at
from leasing.errors import InvalidRequest, NotVisible, WrongState
from leasing.fleet import authorise, create_gpu, take_slice_again
from leasing.locking import locked
from leasing.models import Hold, OutboxMessage
from leasing.openings.upkeep import rebuild
from leasing.reports.subjects import gpu_of
from leasing.states.gpu import GpuEvent, GpuState
from leasing.transactions import atomically
from leasing.transitions import TransitionRefused, apply_gpu_event
from leasing.wake import wake_control

MIB = 2**20
_IN_USE = (GpuState.LEASED, GpuState.DIRTY, GpuState.SCRUBBING)
_LEFT_BEHIND = (GpuState.MAINTENANCE, GpuState.MISSING, GpuState.QUARANTINED)


@atomically
def divide_gpu(
    *, actor: Actor, gpu_id: UUID, profile: str, count: int, model_id: int, now: datetime
) -> Division:
    """Have the card of a GPU divided by one of its profiles; each slice becomes a GPU of the model."""
    authorise(actor)
    gpu = _locked(gpu_id)
    if gpu.parent_id:
        raise WrongState(_("It is a slice itself."))
    require_apart(gpu)
    _check_choice(gpu, profile, count, GpuModel.objects.filter(pk=model_id).first())
    if gpu.state != GpuState.CLEAN:
        raise WrongState(_("Only a GPU that is proven clean can be divided."), hint=_("Wait for its intake."))
    _require_unbooked([gpu], now=now)
    if gpu.host.protocol < m.Divide.SINCE:
        raise WrongState(_("The program on its host is too old for that."))
    division = Division.objects.create(
        gpu=gpu, profile=profile, count=count, model_id=model_id, ordered_at=now, changed_at=now
    )
    reason = f"It is divided into {count} of {profile}."
    _apply(gpu, GpuEvent.WITHDRAW, actor=actor, now=now, reason=reason)
    _order(gpu, goals.divide(gpu, division), now=now)
    _tell(division, "gpu.divide", actor=actor, now=now)
    return division


@atomically
def undivide_gpu(*, actor: Actor, gpu_id: UUID, now: datetime) -> Division:
    """Have the slices of a GPU's card taken away. None may be leased, booked or in cleaning."""
    authorise(actor)
    gpu = _locked(gpu_id)
    division = open_division(gpu)
    if division is None or division.state != Division.State.STANDS:
        raise WrongState(_("Its card is not divided now."))
    slices = list(locked(gpu.slices.select_related("host")).order_by("id"))
    for each in slices:
        if each.state in _IN_USE:
            raise WrongState(
                _("The slice %(address)s is %(state)s.") % {"address": each.address, "state": each.state},
                hint=_("Wait until it is clean again, or end its lease."),
            )
    _require_unbooked(slices, now=now)
    division.state, division.changed_at = Division.State.ENDING, now
    division.save(update_fields=["state", "changed_at"])
    for each in slices:
        if each.state == GpuState.CLEAN:
            _apply(each, GpuEvent.WITHDRAW, actor=actor, now=now, reason="Its card is made whole again.")
    _order(gpu, goals.undivide(gpu), now=now)
    _tell(division, "gpu.undivide", actor=actor, now=now)
    return division


def confirm_divided(host: Host, report: m.Report, event: m.Divided, *, now: datetime) -> str:
    """The host has made the slices; those that it has shown already come into service."""
    gpu, division = _reported(host, report, event.gpu_id, "divided", now=now)
    if division is None or gpu.tenure != event.tenure:
        return "stale: no such division"
    if division.state == Division.State.ORDERED:
        _change(division, Division.State.STANDS, now=now)
        _tell(division, "gpu.divided", actor=Actor.of_host(host), now=now, slices=list(event.slices))
    admit_slices(host, now=now)
    return "applied"


def confirm_undivided(host: Host, report: m.Report, event: m.Undivided, *, now: datetime) -> str:
    """The card is whole: an intake of all of it follows."""
    _gpu, division = _reported(host, report, event.gpu_id, "undivided", now=now)
    if division is None or division.state != Division.State.ENDING:
        return "stale: no such division"
    _end(division, Division.State.OVER, host, "gpu.undivided", now=now)
    return "applied"


def note_failure(host: Host, report: m.Report, event: m.DivisionFailed, *, now: datetime) -> str:
    """The card is what it was before the order."""
    _gpu, division = _reported(host, report, event.gpu_id, f"failed: {event.reason}", now=now)
    return _undo(division, host, event.reason, now=now)


def note_refusal(host: Host, message: OutboxMessage, reason: str, *, now: datetime) -> None:
    """The host would not even begin."""
    gpu = gpu_of(host, UUID(message.subject.removeprefix("gpu:")))
    _undo(open_division(gpu), host, reason, now=now)


def admit_slices(host: Host, *, now: datetime) -> None:
    """Take into service what the host shows of divisions that stand."""
    standing = Division.objects.select_related("gpu", "model").filter(
        gpu__host=host, state=Division.State.STANDS
    )
    for division in standing.order_by("id"):
        found = host.found_cards.present().filter(refusal="", part__parent=division.gpu.address)
        taken = [_admit(division, card, host, now=now) for card in found[: division.count]]
        if any(taken):
            rebuild(host.pk)
            transaction.on_commit(wake_control)


def tell_again(host: Host, *, now: datetime) -> None:
    """The host has lost its journal: which of its cards are divided it has to know, to keep them so."""
    for division in Division.objects.select_related("gpu__host").filter(
        gpu__host=host, state=Division.State.STANDS
    ):
        _order(division.gpu, goals.divide(division.gpu, division), now=now)


def _check_choice(gpu: Gpu, profile: str, count: int, model: GpuModel | None) -> None:
    card = card_at(gpu)
    offered = next((each for each in (card.profiles if card else []) if each["name"] == profile), None)
    if offered is None:
        raise InvalidRequest(_("The card cannot be divided in this way."), field="profile")
    if not 1 <= count <= offered["most"]:
        most = {"most": offered["most"]}
        raise InvalidRequest(_("It can be divided into 1 to %(most)s of these.") % most, field="count")
    if model is None:
        raise InvalidRequest(_("There is no such GPU model."), field="model")
    if offered["memory_bytes"] and model.memory_mib * MIB > offered["memory_bytes"]:
        raise InvalidRequest(_("A slice has less memory than a GPU of this model."), field="model")


def _locked(gpu_id: UUID) -> Gpu:
    gpu = locked(Gpu.objects.select_related("host").filter(pk=gpu_id)).first()
    if gpu is None:
        raise NotVisible(_("There is no such GPU."))
    return gpu


def _require_unbooked(gpus: Iterable[Gpu], *, now: datetime) -> None:
    if Hold.objects.filter(gpu__in=list(gpus), ends_at__gt=now).exists():
        raise WrongState(
            _("It is booked."), hint=_("Close it for maintenance first: that moves what is booked on it.")
        )


def _order(gpu: Gpu, goal: m.Divide | m.Undivide, *, now: datetime) -> None:
    gpu.generation += 1
    gpu.save(update_fields=["generation"])
    outbox.queue_command(
        host=gpu.host, subject=goals.gpu_subject(gpu), generation=gpu.generation, goal=goal, now=now
    )


def _apply(gpu: Gpu, event: GpuEvent, *, actor: Actor, now: datetime, reason: str = "") -> None:
    apply_gpu_event(gpu_id=gpu.pk, event=event, actor=actor, effective_at=now, now=now, reason=reason)


def _reported(
    host: Host, report: m.Report, gpu_id: UUID, answer: str, *, now: datetime
) -> tuple[Gpu, Division | None]:
    """The GPU that a report is about, and its division; the order is answered."""
    gpu = gpu_of(host, gpu_id)
    outbox.answer_goal(
        subject=report.subject,
        generation=report.generation,
        kinds=("divide", "undivide"),
        answer=answer[:2000],
        now=now,
    )
    return gpu, open_division(gpu)


def _undo(division: Division | None, host: Host, reason: str, *, now: datetime) -> str:
    """A card that could not be divided is whole; one that could not be made whole is still divided."""
    if division is None or division.state == Division.State.STANDS:
        return "stale: no such division"
    division.reason = reason[:2000]
    if division.state == Division.State.ORDERED:
        _end(division, Division.State.FAILED, host, "gpu.divide-fail", now=now)
        return "applied"
    withdrawn_at = division.changed_at
    _change(division, Division.State.STANDS, now=now)
    _tell(division, "gpu.undivide-fail", actor=Actor.of_host(host), now=now)
    for each in division.gpu.slices.filter(state=GpuState.MAINTENANCE, state_since__gte=withdrawn_at):
        _apply(each, GpuEvent.READMIT, actor=SYSTEM, now=now, reason=reason)
    return "applied"


def _change(division: Division, state: Division.State, *, now: datetime) -> None:
    division.state, division.changed_at = state, now
    division.save(update_fields=["state", "changed_at", "reason"])


def _end(division: Division, state: Division.State, host: Host, action: str, *, now: datetime) -> None:
    """The card serves whole again, after an intake."""
    _change(division, state, now=now)
    _tell(division, action, actor=Actor.of_host(host), now=now)
    try:
        _apply(division.gpu, GpuEvent.READMIT, actor=SYSTEM, now=now, reason=division.reason)
    except TransitionRefused:
        return
    transaction.on_commit(wake_control)


def _admit(division: Division, card: FoundCard, host: Host, *, now: datetime) -> bool:
    """Whether it came into service. One that an operator took out of this very division stays out."""
    known = Gpu.objects.filter(host=host, address=card.address).first()
    if known is None:
        create_gpu(card, division.model, whole=division.gpu, actor=SYSTEM, now=now)
        return True
    if known.state in _LEFT_BEHIND and known.state_since < division.ordered_at:
        take_slice_again(known, card, division, now=now)
        return True
    return False


def _tell(division: Division, action: str, *, actor: Actor, now: datetime, **facts: Any) -> None:
    gpu = division.gpu
    told: dict[str, Any] = {
        "host": gpu.host.name,
        "address": gpu.address,
        "profile": division.profile,
        "count": division.count,
        "model": division.model.slug,
        "reason": division.reason,
    }
    record(action=action, actor=actor, subject=f"gpu:{gpu.pk}", now=now, **told, **facts)
