"""The plan that a GPU goes through to be called clean: bind, reset, scrub, verify, reset, compare."""

from __future__ import annotations

import time
from functools import partial
from secrets import token_hex

import msgspec

from hosts.agent import reset, scrub
from hosts.agent.boot import running_kernel
from hosts.agent.bus import Card, CardMissing
from hosts.agent.machines import MachineFacts
from hosts.agent.plans import Plan, gpu_lock
from hosts.agent.proven import remember_proven
from hosts.agent.records import GpuState
from hosts.agent.scrub import Scrub
from hosts.agent.scrub_machine import remove_scrub_machines
from hosts.agent.scrubber import Progress, Workplace
from hosts.agent.scrubbers import Installed
from hosts.agent.steps import Job, Overtaken, PlanKind, Step, StepFailed
from hosts.protocol.messages import (
    Fingerprint,
    GpuFailed,
    GpuOrder,
    Intake,
    ResetRecord,
    Scrubbed,
    ScrubEvidence,
    ScrubStarted,
)


class ScrubProgress(msgspec.Struct, frozen=True, kw_only=True):
    """What the plan remembers between its steps."""

    scrub: Scrub | None = None
    evidence: ScrubEvidence | None = None
    incarnation: str = ""


def scrub_evidence(plan: Plan) -> ScrubEvidence | None:
    """What a scrub that is over has shown, if it came to a verdict."""
    saved = plan.progress
    return None if saved is None else msgspec.json.decode(saved, type=ScrubProgress).evidence


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


def _save(job: Job, *, now: Scrub, evidence: ScrubEvidence | None = None, incarnation: str = "") -> None:
    progress = msgspec.json.encode(ScrubProgress(scrub=now, evidence=evidence, incarnation=incarnation))
    job.rig.plans.save_progress(job.plan.plan_id, progress)


def _claim(job: Job) -> None:
    """Take the GPU for the scrub, unless a machine has it. From here on only the verdict decides about it."""
    order = _gpu(job)
    gpu = job.rig.gpus.get(order.gpu_id)
    if gpu is not None and (gpu.tenure > order.tenure or gpu.is_leased_to_another(job.plan.lease_id)):
        raise Overtaken(f"GPU {order.gpu_id} belongs to lease {gpu.lease_id} by now.")
    with job.rig.journal.transaction():
        job.rig.gpus.put(order, "scrubbing", lease_id=None)
        job.rig.spool.void_scrubs(order.gpu_id)
        job.report(ScrubStarted(gpu_id=order.gpu_id, tenure=order.tenure))
    refuse_if_in_use(job, order)


def refuse_if_in_use(job: Job, order: GpuOrder) -> None:
    """The kernel resets a card under a running machine without a word: the hypervisor is asked first.

    A scrub machine that is still there was left behind by a scrub that is over.
    """
    card = _card(job)
    remove_scrub_machines(job.rig.hypervisor, order.address)
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
    """Find the scrubbers, and fix what the card has to be like at the end."""
    _scrubbers(job)
    card = _card(job)
    fresh = scrub.begin(
        card,
        simulated=job.rig.bus.simulated,
        before=_known_fingerprint(job) or job.rig.bus.fingerprint(card),
        kernel=running_kernel(),
        now=job.rig.clock(),
    )
    _save(job, now=fresh)


def _scrubbers(job: Job) -> list[Installed]:
    wanted = job.goal(Intake).scrub.wanted
    if missing := [name for name in wanted if name not in job.rig.scrubbers]:
        named = ", ".join(map(repr, missing))
        raise StepFailed(f"Policy asks for the scrubber {named}, which is not installed on this host.")
    return [job.rig.scrubbers[name] for name in wanted]


def _known_fingerprint(job: Job) -> Fingerprint | None:
    """What the portal says the card is, or else what this host saw at its intake."""
    order = _gpu(job)
    known = job.rig.gpus.get(order.gpu_id)
    return order.fingerprint or (known.fingerprint if known and job.plan.kind != "intake" else None)


def _reset(job: Job) -> None:
    """Reset the card. One that was cut short by a restart counts as an attempt."""
    record = _climb(job)
    if cut_short := job.plan.attempt - 1:
        record = msgspec.structs.replace(
            record,
            attempts=record.attempts + cut_short,
            failures=(*record.failures, f"The step was cut short {cut_short} times."),
        )
    _save(job, now=scrub.add_reset(_scrub(job), record))


def _climb(job: Job) -> ResetRecord:
    return reset.climb(job.rig.bus, _card(job), clock=time.monotonic)


def _plant(job: Job) -> None:
    _save(job, now=_planted(job))


def _planted(job: Job) -> Scrub:
    with job.rig.bus.memory(_card(job)) as window:
        return scrub.plant(_scrub(job), window, token_hex(16))


def _fill(job: Job) -> None:
    """Let each scrubber do its work. If that was cut short, all is begun anew, canaries included."""
    work = _scrub(job)
    if job.plan.attempt > 1:
        work = _planted(job)
        _save(job, now=work)
    for installed in _scrubbers(job):
        place = Workplace(
            bus=job.rig.bus,
            card=_card(job),
            progress=_heard(job),
            climb=lambda: _climb(job),
        )
        work = scrub.fill(work, installed, place)
        _save(job, now=work)


def _heard(job: Job) -> Progress:
    return partial(job.rig.plans.note_progress, job.plan.plan_id)


def _verify(job: Job) -> None:
    with job.rig.bus.memory(_card(job)) as window:
        read_back = job.goal(Intake).scrub.read_back
        _save(job, now=scrub.verify(_scrub(job), window, read_back, progress=_heard(job)))


def _compare(job: Job) -> None:
    """Read the card's identity again and come to a verdict. The verdict is not a failure of the step."""
    done, card = _scrub(job), _card(job)
    evidence = scrub.conclude(
        done,
        policy=job.goal(Intake).scrub,
        fingerprint_after=job.rig.bus.fingerprint(card),
        kernel=running_kernel(),
        now=job.rig.clock(),
    )
    _save(job, now=done, evidence=evidence, incarnation=job.rig.bus.incarnation(card.address))


def _check_undisturbed(job: Job, order: GpuOrder) -> None:
    """What was seen of the memory holds only if nobody has used the card, or ordered it anew, since."""
    gpu = job.rig.gpus.get(order.gpu_id)
    if gpu is not None and gpu.state == "scrubbing":
        return
    lock = gpu_lock(order.address)
    if any(lock in plan.locks and plan.plan_id != job.plan.plan_id for plan in job.rig.plans.open()):
        raise Overtaken(f"{order.address} is scrubbed anew.")
    raise StepFailed(f"{order.address} was used by somebody else while it was scrubbed.")


def _finish(job: Job) -> None:
    """The only way to `clean`. What was proven under another kernel has to be proven again."""
    order, progress = _gpu(job), _progress(job)
    evidence = progress.evidence
    if evidence is None:
        raise StepFailed("The journal has no verdict for this scrub.")
    _check_undisturbed(job, order)
    passed: GpuState = "clean" if evidence.kernel == running_kernel() else "dirty"
    state = passed if evidence.verdict == "passed" else "quarantined"
    job.rig.gpus.put(order, state, lease_id=None, fingerprint=evidence.fingerprint_after)
    remember_proven(job.rig, order.gpu_id, kernel=evidence.kernel, incarnation=progress.incarnation)
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


# A group that was not viable may be so after its members were read again: one retry.
BIND = Step("bind", _bind, check=_is_bound, attempts=2)
_STEPS = (
    Step("claim", _claim),
    BIND,
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
