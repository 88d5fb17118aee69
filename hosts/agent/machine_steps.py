"""The steps of building, starting, stopping and removing a leased machine; each may be run again."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from hosts.agent import building, guest
from hosts.agent.bus import BusError, Card
from hosts.agent.images import sha256_of
from hosts.agent.machines import ACTIVE, HypervisorError, MachineFacts
from hosts.agent.network import connecting
from hosts.agent.proven import was_away
from hosts.agent.steps import GpuStepFailed, Job, Step, StepFailed
from hosts.protocol.messages import Fingerprint, GpuOrder, Power, Provision, Release
from hosts.protocol.proof import fingerprint_changes

log = logging.getLogger(__name__)

STOP_POLL_SECONDS = 0.2
FORCED_STOP_SECONDS = 20.0
# The portal gives a machine that does not come up within a quarter of an hour up.
IMAGE_SECONDS = 12 * 60.0


def provision_of(job: Job) -> Provision:
    """What the machine is built from: the goal itself, or the one that the journal keeps."""
    if isinstance(job.plan.goal, Provision):
        return job.plan.goal
    machine = job.rig.machines.get(job.lease_id)
    if machine is None or machine.provision is None:
        raise StepFailed("What this machine was built from is not known here.")
    return machine.provision


def _machine(job: Job) -> MachineFacts | None:
    return job.rig.find_machine(job.lease_id)


def _is_active(job: Job) -> bool:
    facts = _machine(job)
    return facts is not None and facts.is_active


def _name(job: Job) -> str:
    facts = _machine(job)
    if facts is None:
        raise StepFailed("The hypervisor does not know the machine.")
    return facts.name


@contextmanager
def _blaming(order: GpuOrder) -> Iterator[None]:
    """Say which of the machine's GPUs a failure is about."""
    try:
        yield
    except BusError as error:
        raise GpuStepFailed(order, error) from error


def _identify(job: Job) -> None:
    """Every card is there, is what it is thought to be, and is clean; then it is this lease's, in writing."""
    goal = provision_of(job)
    for order in goal.gpus:
        with _blaming(order):
            card = job.rig.bus.card(order.address)
            _check_unused(job, card)
            _check_card(job, order, card)
    with job.rig.journal.transaction():
        for order in goal.gpus:
            _check_clean(job, order)
            job.rig.gpus.put(order, "leased", lease_id=job.lease_id)


def _check_card(job: Job, order: GpuOrder, card: Card) -> None:
    """It is what the portal and this host know it as; of one that nobody uses the ROM is read anew."""
    if card.refusal:
        raise BusError(card.refusal)
    gpu = job.rig.gpus.get(order.gpu_id)
    known = [each for each in (order.fingerprint, gpu.fingerprint if gpu else None) if each]
    _compare(card.fingerprint, known)
    if gpu is not None and gpu.state == "clean" and not job.rig.bus.host_drivers(order.address):
        _compare(job.rig.bus.fingerprint(card), known)


def _compare(seen: Fingerprint, known: list[Fingerprint]) -> None:
    for each in known:
        if changed := fingerprint_changes(each, seen):
            raise BusError(f"The card is not what it was: {', '.join(changed)} changed.")


def _check_unused(job: Job, card: Card) -> None:
    """What another machine uses is neither forced nor taken."""
    for facts in job.rig.hypervisor.machines():
        if facts.is_active and facts.lease_id != job.lease_id and facts.pci_addresses & {*card.functions}:
            raise StepFailed(f"{card.address} is in use by the machine {facts.name}.")


def _check_clean(job: Job, order: GpuOrder) -> None:
    """Unknown is not clean, nor is what was away, or what a driver of the host has had, since its scrub.

    A GPU that this lease holds already stays its own.
    """
    gpu = job.rig.gpus.get(order.gpu_id)
    if gpu is None:
        raise StepFailed(f"{order.address} is not known to be clean: this host has no record of a scrub.")
    if any(each.is_leased_to_another(job.lease_id) for each in (gpu, *job.rig.gpus.at(order.address))):
        raise StepFailed(f"{order.address} is leased to another.")
    if gpu.state == "leased" and gpu.tenure == order.tenure:
        return
    if gpu.state != "clean" or order.tenure < gpu.tenure:
        raise StepFailed(f"{order.address} is {gpu.state} at tenure {gpu.tenure}, not clean.")
    if drivers := job.rig.bus.host_drivers(order.address):
        raise StepFailed(f"{order.address} is not known to be clean: {', '.join(drivers)} has it.")
    if was_away(job.rig, gpu):
        raise StepFailed(f"{order.address} is not known to be clean: it was off the bus and came back.")


def _bind(job: Job) -> None:
    for order in provision_of(job).gpus:
        with _blaming(order):
            job.rig.bus.bind(job.rig.bus.card(order.address))


def _is_bound(job: Job) -> bool:
    if _is_active(job):
        return True
    bus = job.rig.bus
    for order in provision_of(job).gpus:
        with _blaming(order):
            if not bus.is_bound(bus.card(order.address)):
                return False
    return True


def _await_image(job: Job) -> None:
    """Until the portal's image is here whole. One that was put here by hand is looked at when it is used."""
    order = provision_of(job).machine.image
    copies, directory = job.rig.copies, job.rig.config.images_directory
    copy = copies.find(order.digest)
    if copy is None or copy.image.name != order.name:
        return
    path = copy.path(directory)
    if copy.state == "held" and (not path.exists() or sha256_of(path) != order.digest):
        copies.change(copy.digest, state="waiting", done=0)
    here = copies.await_held(order.digest, seconds=IMAGE_SECONDS, is_over=lambda: _is_overtaken(job))
    if here is None or here.state != "held":
        raise StepFailed(f"Its image is not here yet. {here.reason if here else ''}".strip())


def _is_overtaken(job: Job) -> bool:
    return job.rig.plans.get(job.plan.plan_id).state == "cancelling"


def _reserve(job: Job) -> None:
    _await_image(job)
    building.make_disks(job.rig, provision_of(job))


def _is_reserved(job: Job) -> bool:
    return building.has_disks(job.rig, provision_of(job))


def _connect(job: Job) -> None:
    connecting.connect(job.rig, provision_of(job))


def _define(job: Job) -> None:
    _check_held(job)
    building.define_machine(job.rig, provision_of(job), generation=job.plan.origin.generation)


def _is_defined(job: Job) -> bool:
    facts = _machine(job)
    return facts is not None and (facts.is_active or building.is_whole(job.rig, provision_of(job), facts))


def _check_held(job: Job) -> None:
    """The cards are this lease's, as they were identified: somebody else may have used them since."""
    for order in provision_of(job).gpus:
        gpu = job.rig.gpus.get(order.gpu_id)
        if gpu is None or gpu.state != "leased" or gpu.lease_id != job.lease_id:
            raise StepFailed(
                f"{order.address} is {gpu.state if gpu else 'unknown'}, not this lease's any more."
            )


def _start(job: Job) -> None:
    _check_held(job)
    job.rig.hypervisor.start(_name(job))


def _confirm(job: Job) -> None:
    if not _is_active(job):
        raise StepFailed("The machine was started and does not run.")


def _close(job: Job) -> None:
    """Before the machine is asked to stop: whoever had access has it no more."""
    job.rig.close_consoles(job.lease_id)
    connecting.shut(job.rig, job.lease_id)


def _stop(job: Job) -> None:
    """Ask the guest's agent, then press the power button; who has not obeyed in time is switched off."""
    name = _name(job)
    if not _obeys(job, name):
        job.rig.hypervisor.destroy(name)
        _stops_within(job, name, FORCED_STOP_SECONDS)


def _obeys(job: Job, name: str) -> bool:
    """Half of the time is the agent's, if there is one."""
    allowed = _shutdown_seconds(job)
    if allowed == 0:
        return False
    until = time.monotonic() + allowed
    if guest.ask_to_stop(job.rig.hypervisor, name) and _stops_within(job, name, allowed / 2):
        return True
    try:
        job.rig.hypervisor.shutdown(name)
    except HypervisorError as error:
        log.warning("The power button of %s could not be pressed: %s", name, error)
        return False
    return _stops_within(job, name, until - time.monotonic())


def _shutdown_seconds(job: Job) -> float:
    """How long the guest may take to shut itself down."""
    if isinstance(job.plan.goal, Release | Power):
        return float(job.plan.goal.shutdown_seconds)
    raise TypeError(f"Plan {job.plan.kind} does not stop a machine.")


def _stops_within(job: Job, name: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while job.rig.hypervisor.state(name) in ACTIVE:
        if time.monotonic() >= deadline:
            return False
        time.sleep(STOP_POLL_SECONDS)
    return True


def _is_stopped(job: Job) -> bool:
    return not _is_active(job)


def _undefine(job: Job) -> None:
    job.rig.hypervisor.undefine(_name(job))


def _is_undefined(job: Job) -> bool:
    return _machine(job) is None


def _disconnect(job: Job) -> None:
    connecting.disconnect(job.rig, job.lease_id)


def _is_disconnected(job: Job) -> bool:
    return connecting.is_disconnected(job.rig, job.lease_id)


def _destroy_disk(job: Job) -> None:
    building.destroy_disks(job.rig, job.lease_id)


IDENTIFY = Step("identify", _identify)
# A group that was not viable may be so after its members were read again: one retry.
BIND = Step("bind", _bind, check=_is_bound, attempts=2)
RESERVE = Step("reserve", _reserve, check=_is_reserved)
CONNECT = Step("connect", _connect)
DEFINE = Step("define", _define, check=_is_defined)
START = Step("start", _start, check=_is_active)
CONFIRM = Step("confirm", _confirm)
CLOSE = Step("close", _close, attempts=3)
STOP = Step("stop", _stop, check=_is_stopped, attempts=3)
UNDEFINE = Step("undefine", _undefine, check=_is_undefined)
DISCONNECT = Step("disconnect", _disconnect, check=_is_disconnected)
DESTROY_DISK = Step("destroy-disk", _destroy_disk)
