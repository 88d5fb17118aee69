"""Hosts and GPUs coming into service, out of it, and back."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils.translation import gettext as _

from hosts.models import Division, FoundCard, Gpu, GpuModel, Host
from hosts.protocol.messages import Inspect
from leasing import policy
from leasing.actors import SYSTEM, Actor
from leasing.apart import require_apart, whole_of
from leasing.audit.log import record
from leasing.cards import card_at, changes, seal_of, told_changes
from leasing.errors import InvalidRequest, NotVisible, WrongState
from leasing.locking import locked
from leasing.models import Closure, Lease
from leasing.openings.upkeep import rebuild
from leasing.outbox import queue_command
from leasing.states.gpu import GpuEvent, GpuState
from leasing.transactions import atomically
from leasing.transitions import apply_gpu_event
from leasing.wake import wake_control


def inspect_host(host: Host, *, now: datetime) -> None:
    """Ask a host for its inventory."""
    host.generation += 1
    host.save(update_fields=["generation"])
    queue_command(
        host=host, subject=f"host:{host.account}", generation=host.generation, goal=Inspect(), now=now
    )


def accepting_hosts(hosts: QuerySet[Host], *, now: datetime) -> QuerySet[Host]:
    """The hosts, each with whether it takes new leases now as `accepting`."""
    return hosts.annotate(accepting=~Exists(_closed(now).filter(host=OuterRef("pk"))))


def _closed(now: datetime) -> QuerySet[Closure]:
    """Closures of whole hosts that are in force."""
    in_force = Q(ends_at=None) | Q(ends_at__gt=now)
    return Closure.objects.filter(in_force, gpu=None, starts_at__lte=now)


@atomically
def admit_gpu(*, actor: Actor, card_id: int, model_id: int, now: datetime) -> Gpu:
    """Take a found card into service as a GPU of a model; it is dirty until an intake has proven it clean.

    Its share of the host is fixed here: an equal part of CPU, memory and disk per leasable card, after a
    reserve for the hypervisor, so that leases can never oversell the host.
    """
    authorise(actor)
    card = _get_card(card_id)
    model = GpuModel.objects.filter(pk=model_id).first()
    if model is None:
        raise InvalidRequest(_("There is no such GPU model."), field="model")
    if card.refusal:
        raise WrongState(
            _("This card cannot be leased: %(reason)s") % {"reason": card.refusal},
            hint=_("Change the host, then let it report again."),
        )
    if Gpu.objects.filter(host=card.host, address=card.address).exists():
        raise WrongState(_("This card is in service already."))
    gpu = create_gpu(card, model, whole=whole_of(card), actor=actor, now=now)
    rebuild(gpu.host_id)
    transaction.on_commit(wake_control)
    return gpu


@atomically
def readmit_gpu(*, actor: Actor, gpu_id: UUID, now: datetime, accepted: str = "") -> Gpu:
    """Let a GPU that was out of service try again: it becomes dirty, and an intake follows.

    A card that is not what it was is let back only by who has looked at it: `accepted` is the seal of what
    they saw (leasing.cards.seal_of). One that was put into another slot of its host is taken where it is.
    """
    authorise(actor)
    gpu = locked(Gpu.objects.select_related("host").filter(pk=gpu_id)).first()
    if gpu is None:
        raise NotVisible(_("There is no such GPU."))
    if gpu.host.retired_at is not None:
        raise WrongState(_("The host of this GPU is retired."), hint=_("Enrol the host it is in now."))
    require_apart(gpu)
    card = card_at(gpu)
    facts = {} if card is None else _take_for(gpu, card, accepted)
    return _apply(actor, gpu_id, GpuEvent.READMIT, reason="", now=now, **facts)


def _take_for(gpu: Gpu, card: FoundCard, accepted: str) -> dict[str, Any]:
    """Let the card be the GPU's from now on; what the audit log is told of it."""
    before = {"address": gpu.address, "fingerprint": gpu.fingerprint, "card": gpu.card_id}
    if gpu.fingerprint and changes(gpu.fingerprint, card.fingerprint):
        _require_accepted(gpu, card, accepted)
    if Gpu.objects.filter(host=gpu.host, address=card.address).exclude(pk=gpu.pk).exists():
        raise WrongState(_("Another GPU is in service where its card is now."))
    gpu.card, gpu.fingerprint = card, card.fingerprint
    gpu.address, gpu.functions = card.address, card.functions
    gpu.iommu_group, gpu.numa_node = card.iommu_group, card.numa_node
    gpu.save(update_fields=["card", "fingerprint", "address", "functions", "iommu_group", "numa_node"])
    after = {"address": gpu.address, "fingerprint": gpu.fingerprint, "card": gpu.card_id}
    return {} if before == after else {"before": before, "after": after}


def _require_accepted(gpu: Gpu, card: FoundCard, accepted: str) -> None:
    if card.fingerprint["vendor_device"] != gpu.fingerprint["vendor_device"]:
        raise WrongState(
            _("Another kind of card is in its slot: %(name)s.") % {"name": card.name},
            hint=_("Put back one of its kind."),
        )
    if accepted != seal_of(card.fingerprint):
        told = told_changes(gpu.fingerprint, card.fingerprint)
        raise WrongState(
            _("The card is not what it was: %(changes)s.") % {"changes": told},
            hint=_("Look at it; then accept it on its page as it is now."),
            code="card-changed",
        )


def withdraw_gpu(*, actor: Actor, gpu_id: UUID, reason: str, now: datetime) -> Gpu:
    """Take a GPU that nobody uses out of service for maintenance."""
    return _apply(actor, gpu_id, GpuEvent.WITHDRAW, reason=reason, now=now)


def _apply(actor: Actor, gpu_id: UUID, event: GpuEvent, *, reason: str, now: datetime, **facts: Any) -> Gpu:
    authorise(actor)
    if not Gpu.objects.filter(pk=gpu_id).exists():
        raise NotVisible(_("There is no such GPU."))
    gpu = apply_gpu_event(
        gpu_id=gpu_id, event=event, actor=actor, effective_at=now, now=now, reason=reason, **facts
    )
    transaction.on_commit(wake_control)
    return gpu


def create_gpu(card: FoundCard, model: GpuModel, *, whole: Gpu | None, actor: Actor, now: datetime) -> Gpu:
    """A GPU of a found card, dirty. A slice of a `whole` one divides that one's share of the host."""
    vcpus, memory_mib, disk_gib = _share_of_slice(whole) if whole else _share_of_card(card.host)
    gpu = Gpu.objects.create(
        host=card.host,
        model=model,
        address=card.address,
        functions=card.functions,
        iommu_group=card.iommu_group,
        numa_node=card.numa_node,
        fingerprint=card.fingerprint,
        card=card,
        parent=whole,
        state=GpuState.DIRTY,
        state_since=now,
        share_vcpus=max(1, vcpus),
        share_memory_mib=max(128, memory_mib),
        share_disk_gib=max(1, disk_gib),
    )
    facts: dict[str, Any] = {"from": None, "to": gpu.state, "host": gpu.host.name, "address": gpu.address}
    facts |= {"part_of": str(whole.pk)} if whole else {}
    record(action="gpu.admit", actor=actor, subject=f"gpu:{gpu.pk}", now=now, **facts)
    return gpu


def take_slice_again(gpu: Gpu, card: FoundCard, division: Division, *, now: datetime) -> None:
    """A slice of an earlier division, at the same address: its history goes on, as what it is now."""
    before = {"model": gpu.model.slug, "fingerprint": gpu.fingerprint}
    gpu.model, gpu.card, gpu.fingerprint = division.model, card, card.fingerprint
    gpu.parent, gpu.functions = division.gpu, card.functions
    gpu.iommu_group, gpu.numa_node = card.iommu_group, card.numa_node
    gpu.share_vcpus, gpu.share_memory_mib, gpu.share_disk_gib = _share_of_slice(division.gpu)
    gpu.save()
    after = {"model": gpu.model.slug, "fingerprint": gpu.fingerprint}
    facts: dict[str, Any] = {} if before == after else {"before": before, "after": after}
    apply_gpu_event(
        gpu_id=gpu.pk,
        event=GpuEvent.READMIT,
        actor=SYSTEM,
        effective_at=now,
        now=now,
        **facts,
    )


def _share_of_card(host: Host) -> tuple[int, int, int]:
    """An equal part for each card that can be leased, whole or in slices."""
    whole = host.found_cards.present().filter(part={})
    parts = max(
        1, whole.filter(Q(refusal="") | Q(gpus__divisions__state__in=Division.OPEN)).distinct().count()
    )
    memory_mib, disk_gib = int(host.memory_mib * 0.75) // parts, int(host.disk_gib * 0.75) // parts
    return (host.cpu_count - 1) // parts, memory_mib, disk_gib


def _share_of_slice(whole: Gpu) -> tuple[int, int, int]:
    standing = Division.objects.get(gpu=whole, state=Division.State.STANDS)
    vcpus, memory_mib, disk_gib = whole.share_vcpus, whole.share_memory_mib, whole.share_disk_gib
    count = standing.count
    return max(1, vcpus // count), max(128, memory_mib // count), max(1, disk_gib // count)


def leases_on(gpu: Gpu, *, now: datetime) -> list[Lease]:
    """Leases that hold the GPU now or later."""
    return list(Lease.objects.filter(holds__gpu=gpu, holds__ends_at__gt=now).order_by("starts_at"))


def authorise(actor: Actor) -> None:
    """NotVisible unless the actor operates the fleet: to others it does not exist."""
    if actor.kind != "system" and (actor.person is None or not policy.is_operator(actor.person)):
        raise NotVisible(_("There is nothing here."))


def known_host(host_id: UUID) -> Host:
    """A host, retired or not; NotVisible."""
    host = Host.objects.filter(pk=host_id).first()
    if host is None:
        raise NotVisible(_("There is no such host."))
    return host


def present_host(host_id: UUID) -> Host:
    """A host that is not retired; NotVisible."""
    return _present(Host.objects.filter(pk=host_id))


def locked_host(host_id: UUID) -> Host:
    """The same, locked."""
    return _present(locked(Host.objects.filter(pk=host_id)))


def _present(hosts: QuerySet[Host]) -> Host:
    host = hosts.filter(retired_at=None).first()
    if host is None:
        raise NotVisible(_("There is no such host."))
    return host


def _get_card(card_id: int) -> FoundCard:
    card = FoundCard.objects.present().select_related("host").filter(pk=card_id).first()
    if card is None:
        raise NotVisible(_("There is no such card."))
    return card
