"""Checks of what happened: each state has its history, and each use of a GPU began on a clean one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec
from django.db.models import Exists, F, OuterRef

from hosts.models import Division, FoundCard, Gpu
from hosts.protocol.messages import MethodRecord, Witness
from leasing.cards import told_changes
from leasing.fsck.finding import Finding
from leasing.fsck.history import Change, Kind, histories
from leasing.models import AuditEntry, Hold, HomeVolume, Lease, ScrubRecord, Snapshot
from leasing.proof import evidence_digest
from leasing.states import gpu, home, lease, snapshot

Table = Mapping[Any, str]


def states_follow_from_the_log(now: datetime) -> Iterator[Finding]:
    """Every state change of a lease, GPU, volume or snapshot has one audit entry, as its table allows"""
    leases = Lease.objects.values_list("pk", "state", "state_since")
    gpus = Gpu.objects.values_list("pk", "state", "state_since")
    yield from _compare("lease", {str(pk): rest for pk, *rest in leases}, lease.TRANSITIONS, lease.INITIAL)
    yield from _compare("gpu", {str(pk): rest for pk, *rest in gpus}, gpu.TRANSITIONS, gpu.INITIAL)
    homes = HomeVolume.objects.values_list("pk", "state", "state_since")
    yield from _compare("home", {str(pk): rest for pk, *rest in homes}, home.TRANSITIONS, home.INITIAL)
    taken = Snapshot.objects.values_list("pk", "state", "state_since")
    rows = {str(pk): rest for pk, *rest in taken}
    yield from _compare("snapshot", rows, snapshot.TRANSITIONS, snapshot.INITIAL)


def cards_serve_whole_or_in_slices(now: datetime) -> Iterator[Finding]:
    """No card serves whole and in slices at once, and slices serve only while their card is divided"""
    serving = Gpu.objects.filter(state__in=gpu.BOOKABLE)
    open_ones = Division.objects.filter(gpu=OuterRef("pk"), state__in=Division.OPEN)
    for each in serving.filter(Exists(open_ones)):
        yield Finding(f"gpu:{each.pk}", "serves while its card is divided")
    whole = Division.objects.filter(gpu=OuterRef("parent"), state=Division.State.STANDS)
    for each in serving.filter(~Exists(whole), parent__isnull=False):
        yield Finding(f"gpu:{each.pk}", "is a slice of a card that is not divided")


def gpus_were_clean_when_handed_over(now: datetime) -> Iterator[Finding]:
    """No machine started on a GPU without a passed scrub record since the GPU's last use"""
    passed: dict[tuple[str, int], datetime] = {}
    scrubs = ScrubRecord.objects.filter(passed=True).order_by("-recorded_at")
    for scrubbed_id, tenure, recorded_at in scrubs.values_list("gpu_id", "tenure", "recorded_at"):
        passed[str(scrubbed_id), tenure] = recorded_at
    handed_over: set[tuple[str, int, str]] = set()
    for gpu_id, changes in histories("gpu"):
        for change in changes:
            if change.event == gpu.GpuEvent.HAND_OVER:
                tenure = int(change.detail["tenure"])
                handed_over.add((gpu_id, tenure, str(change.detail.get("lease"))))
                proven_at = passed.get((gpu_id, tenure - 1))
                if proven_at is None or proven_at > change.recorded_at:
                    yield Finding(
                        f"gpu:{gpu_id}", f"was handed over as tenure {tenure} without a passed scrub"
                    )
    for hold in Hold.objects.exclude(tenure=None):
        if (str(hold.gpu_id), hold.tenure, str(hold.lease_id)) not in handed_over:
            yield Finding(f"gpu:{hold.gpu_id}", f"no hand-over to lease {hold.lease_id} was recorded")


def clean_means_scrubbed(now: datetime) -> Iterator[Finding]:
    """Every step to clean rests on one passed scrub record of the same tenure"""
    records = ScrubRecord.objects.filter(passed=True).values_list("gpu_id", "tenure", "report__sequence")
    proofs = {(str(gpu_id), tenure, sequence) for gpu_id, tenure, sequence in records}
    for gpu_id, changes in histories("gpu"):
        for change in changes:
            proof = (gpu_id, change.detail.get("tenure"), change.detail.get("scrub_report"))
            if change.after == gpu.GpuState.CLEAN and proof not in proofs:
                yield Finding(f"gpu:{gpu_id}", f"became clean at {change.recorded_at} without a passed scrub")


def clean_means_left_alone(now: datetime) -> Iterator[Finding]:
    """Every clean GPU was proven so under the kernel that its host runs, and is the card that it sees"""
    clean = Gpu.objects.filter(state=gpu.GpuState.CLEAN).select_related("host")
    for each in clean.exclude(proven_kernel=F("host__kernel")):
        told = f"is clean, proven under {each.proven_kernel}, and its host runs {each.host.kernel}"
        yield Finding(f"gpu:{each.pk}", told)
    cards = {(card.host_id, card.address): card for card in FoundCard.objects.present()}
    for each in clean:
        card = cards.get((each.host_id, each.address))
        if card is None:
            yield Finding(f"gpu:{each.pk}", "is clean, and its host does not see it")
        elif card.fingerprint != each.fingerprint:
            told = told_changes(each.fingerprint, card.fingerprint)
            yield Finding(f"gpu:{each.pk}", f"is clean, and its card is another: {told}")


def scrub_records_are_in_the_log(now: datetime) -> Iterator[Finding]:
    """Every scrub record, evidence and verdict, is what the audit log says of it, and none is missing"""
    for scrub in ScrubRecord.objects.select_related("entry"):
        told = json.loads(scrub.entry.text)
        known = {
            "lease": str(scrub.lease_id) if scrub.lease_id else None,
            "tenure": scrub.tenure,
            "passed": scrub.passed,
            "reasons": scrub.reasons,
            "simulated": scrub.simulated,
            "evidence_sha256": evidence_digest(scrub.evidence),
        }
        if told["subject"] != f"gpu:{scrub.gpu_id}":
            yield Finding(f"scrub:{scrub.pk}", f"is of {scrub.gpu_id}, by the audit log of {told['subject']}")
        for name, value in known.items():
            if told["detail"][name] != value:
                yield Finding(f"scrub:{scrub.pk}", f"its {name} is not what the audit log says")
    for entry in AuditEntry.objects.filter(action="gpu.evidence", scrub=None):
        yield Finding(entry.subject, f"the scrub record of entry {entry.pk} is gone")


def passed_scrubs_are_proven(now: datetime) -> Iterator[Finding]:
    """Every passed scrub record has a proven method that wrote, and a proven witness that found nothing"""
    for pk, evidence in ScrubRecord.objects.filter(passed=True).values_list("pk", "evidence"):
        methods = msgspec.convert(evidence["methods"], type=tuple[MethodRecord, ...])
        witness = msgspec.convert(evidence["witness"], type=Witness | None)
        if not any(record.counts for record in methods):
            yield Finding(f"scrub:{pk}", "passed without a method that is proven on its hardware")
        if witness is None or not (witness.proven and witness.canaries_planted):
            yield Finding(f"scrub:{pk}", "passed without a witness that is proven on its hardware")
        elif witness.canaries_found or witness.mismatches:
            yield Finding(f"scrub:{pk}", "passed although something was left in the memory")


def _compare(
    kind: Kind, now_in: dict[str, list[object]], table: Table, initial: frozenset[str]
) -> Iterator[Finding]:
    known = dict(now_in)
    for key, changes in histories(kind):
        subject = f"{kind}:{key}"
        for problem in _replay(changes, table, initial):
            yield Finding(subject, problem)
        present = known.pop(key, None)
        told = [changes[-1].after, changes[-1].effective_at]
        if present is None:
            yield Finding(subject, "is in the audit log and not in the database")
        elif present[0] != told[0]:
            yield Finding(subject, f"is {present[0]}, but the audit log leads to {told[0]}")
        elif present[1] != told[1]:
            yield Finding(subject, f"is {present[0]} since {present[1]}, by the audit log since {told[1]}")
    for key in known:
        yield Finding(f"{kind}:{key}", "is in the database and not in the audit log")


def _replay(changes: list[Change], table: Table, initial: frozenset[str]) -> Iterator[str]:
    state: str | None = None
    for change in changes:
        if change.before != state:
            yield f"went from {change.before} by {change.event}, but was {state}"
        allowed = (
            change.after in initial if state is None else table.get((state, change.event)) == change.after
        )
        if not allowed:
            yield f"went from {state} to {change.after} by {change.event}: there is no such step"
        state = change.after
