"""The plan that a GPU goes through to be called clean: bind, reset, scrub, verify, reset, compare."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import SystemRandom

import msgspec

from hosts.agent import reset, scrub
from hosts.agent.bus import Card, CardMissing, MemoryWindow
from hosts.agent.machines import MachineFacts
from hosts.agent.records import GpuState
from hosts.agent.scrub import Scrub
from hosts.agent.scrubbers import Installed
from hosts.agent.steps import Job, Overtaken, PlanKind, Step, StepFailed
from hosts.protocol.messages import (
    Fingerprint,
    GpuFailed,
    GpuOrder,
    Intake,
    Scrubbed,
    ScrubEvidence,
    ScrubStarted,
)


class ScrubProgress(msgspec.Struct, frozen=True, kw_only=True):
    """What the plan remembers between its steps."""

    scrub: Scrub | None = None
    evidence: ScrubEvidence | None = None


def _gpu(job: Job) -> GpuOrder:
    return job.goal(Intake).gpu


def _card(job: Job) -> Card:
    return job.rig.bus.card(_gpu(job).address)


def _progress(job: Job) -> ScrubProgress:
    saved = job.plan.progress
    return ScrubProgress() if saved is None else msgspec.json.decode(saved, type=ScrubProgress)


def _scrub(job: Job) -> Scrub:
    found = _progress(job).scrub
    if found is None:
        raise StepFailed("The journal has no record of how this scrub began.")
    return found


def _save(job: Job, *, now: Scrub, evidence: ScrubEvidence | None = None) -> None:
    progress = msgspec.json.encode(ScrubProgress(scrub=now, evidence=evidence))
    job.rig.plans.save_progress(job.plan.plan_id, progress)


@contextmanager
def _memory(job: Job) -> Iterator[tuple[Card, MemoryWindow]]:
    card = _card(job)
    with job.rig.bus.memory(card) as window:
        yield card, window


def _claim(job: Job) -> None:
    """Take the GPU for the scrub, unless a machine has it. From here on only the verdict decides about it."""
    order = _gpu(job)
    gpu = job.rig.gpus.get(order.gpu_id)
    if gpu is not None and (gpu.tenure > order.tenure or gpu.is_leased_to_another(job.plan.lease_id)):
        raise Overtaken(f"GPU {order.gpu_id} belongs to lease {gpu.lease_id} by now.")
    with job.rig.journal.transaction():
        job.rig.gpus.put(order, "scrubbing", lease_id=None)
        job.report(ScrubStarted(gpu_id=order.gpu_id, tenure=order.tenure))
    _refuse_if_in_use(job, order)


def _refuse_if_in_use(job: Job, order: GpuOrder) -> None:
    """The kernel resets a card under a running machine without a word: the hypervisor is asked first."""
    card = _card(job)
    users = [facts.name for facts in job.rig.hypervisor.machines() if _runs_with(facts, card)]
    if users:
        raise StepFailed(f"{order.address} is in use by {', '.join(users)}.")


def _runs_with(facts: MachineFacts, card: Card) -> bool:
    return facts.is_active and not facts.pci_addresses.isdisjoint(card.functions)


def _bind(job: Job) -> None:
    job.rig.bus.bind(_card(job))


def _is_bound(job: Job) -> bool:
    return job.rig.bus.is_bound(_card(job))


def _begin(job: Job) -> None:
    """Find the scrubber, and fix what the card has to be like at the end."""
    card, installed = _card(job), _scrubber(job)
    fresh = scrub.begin(
        card,
        installed.scrubber,
        digest=installed.digest,
        simulated=job.rig.bus.simulated,
        before=_known_fingerprint(job) or job.rig.bus.fingerprint(card),
        now=job.rig.clock(),
    )
    _save(job, now=fresh)


def _scrubber(job: Job) -> Installed:
    wanted = job.goal(Intake).scrub.scrubber
    if wanted not in job.rig.scrubbers:
        raise StepFailed(f"Policy asks for the scrubber {wanted!r}, which is not installed on this host.")
    return job.rig.scrubbers[wanted]


def _known_fingerprint(job: Job) -> Fingerprint | None:
    """What the portal says the card is, or else what this host saw at its intake."""
    order = _gpu(job)
    known = job.rig.gpus.get(order.gpu_id)
    return order.fingerprint or (known.fingerprint if known and job.plan.kind != "intake" else None)


def _reset(job: Job) -> None:
    """Reset the card. One that was cut short by a restart counts as an attempt."""
    record = reset.climb(job.rig.bus, _card(job), clock=time.monotonic)
    if cut_short := job.plan.attempt - 1:
        record = msgspec.structs.replace(
            record,
            attempts=record.attempts + cut_short,
            failures=(*record.failures, f"The step was cut short {cut_short} times."),
        )
    _save(job, now=scrub.add_reset(_scrub(job), record))


def _plant(job: Job) -> None:
    with _memory(job) as (_, window):
        _save(job, now=scrub.plant(_scrub(job), window, SystemRandom()))


def _fill(job: Job) -> None:
    """Overwrite the memory. A fill that was cut short is begun anew, canaries included, and counted."""
    scrubber = _scrubber(job).scrubber
    with _memory(job) as (card, window):
        before = _scrub(job)
        if job.plan.attempt > 1:
            before = scrub.plant(before, window, SystemRandom())
            _save(job, now=before)
        _save(job, now=scrub.fill(before, card, window, scrubber, _no_progress))


def _no_progress(done: int, total: int) -> None:
    """Steps are as fine as the portal's picture of a scrub gets."""


def _verify(job: Job) -> None:
    with _memory(job) as (_, window):
        _save(job, now=scrub.verify(_scrub(job), window, SystemRandom()))


def _compare(job: Job) -> None:
    """Read the card's identity again and come to a verdict. The verdict is not a failure of the step."""
    done = _scrub(job)
    evidence = scrub.conclude(
        done,
        policy=job.goal(Intake).scrub,
        fingerprint_after=job.rig.bus.fingerprint(_card(job)),
        kernel=os.uname().release,
        now=job.rig.clock(),
    )
    _save(job, now=done, evidence=evidence)


def _finish(job: Job) -> None:
    """The only way to `clean`."""
    order, evidence = _gpu(job), _progress(job).evidence
    if evidence is None:
        raise StepFailed("The journal has no verdict for this scrub.")
    state: GpuState = "clean" if evidence.verdict == "passed" else "quarantined"
    job.rig.gpus.put(order, state, lease_id=None, fingerprint=evidence.fingerprint_after)
    job.report(
        Scrubbed(gpu_id=order.gpu_id, tenure=order.tenure, lease_id=job.plan.lease_id, evidence=evidence)
    )


def _fail(job: Job, step: Step, error: Exception) -> None:
    order, missing = _gpu(job), isinstance(error, CardMissing)
    job.rig.gpus.put(order, "missing" if missing else "quarantined", lease_id=None)
    job.report(
        GpuFailed(
            gpu_id=order.gpu_id,
            tenure=order.tenure,
            step=step.name,
            reason=str(error)[:2000],
            missing=missing,
        )
    )


_STEPS = (
    Step("claim", _claim),
    # A group that was not viable may be so after its members were read again: one retry.
    Step("bind", _bind, check=_is_bound, attempts=2),
    Step("begin", _begin),
    Step("reset", _reset),
    Step("plant", _plant),
    Step("fill", _fill),
    Step("verify", _verify),
    Step("reset-again", _reset),
    Step("compare", _compare),
)
SCRUB = PlanKind("scrub", _STEPS, finish=_finish, fail=_fail)
INTAKE = PlanKind("intake", _STEPS, finish=_finish, fail=_fail)
