"""Both lifecycles: every pair of state and event, tried through the one function that may change a state."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from hosts.models import Gpu
from leasing.actors import SYSTEM
from leasing.diagrams import lifecycles_page
from leasing.models import AuditEntry, Hold, Lease
from leasing.states import gpu, home, lease, snapshot
from leasing.states.gpu import GpuEvent, GpuState
from leasing.states.lease import LeaseEvent, LeaseState, Outcome
from leasing.transitions import TransitionRefused, apply_gpu_event, apply_lease_event
from tests.domain.ground import Ground

DIAGRAMS = Path(__file__).resolve().parents[2] / "docs" / "lifecycles.md"

# Written out by hand, not taken from the tables: what must hold whatever else changes.
LEASE_PATHS = {
    LeaseState.OFFERED: {"claim": "scheduled", "ask": "requested", "pass": "ended", "withdraw": "ended"},
    LeaseState.REQUESTED: {"approve": "scheduled", "reject": "ended", "expire": "ended", "cancel": "ended"},
    LeaseState.SCHEDULED: {"start": "provisioning", "revoke": "ended", "cancel": "ended", "fail": "ended"},
    LeaseState.PROVISIONING: {
        "running": "active",
        "cancel": "releasing",
        "fail": "releasing",
        "end": "releasing",
    },
    LeaseState.ACTIVE: {"end": "releasing", "fail": "releasing"},
    LeaseState.RELEASING: {"gone": "ended"},
    LeaseState.ENDED: {},
}
GPU_PATHS = {
    GpuState.CLEAN: {
        "hand-over": "leased",
        "distrust": "dirty",
        "withdraw": "maintenance",
        "quarantine": "quarantined",
        "vanish": "missing",
    },
    GpuState.LEASED: {"release": "dirty", "quarantine": "quarantined", "vanish": "missing"},
    GpuState.DIRTY: {
        "scrub": "scrubbing",
        "withdraw": "maintenance",
        "quarantine": "quarantined",
        "vanish": "missing",
    },
    GpuState.SCRUBBING: {
        "pass": "clean",
        "quarantine": "quarantined",
        "distrust": "dirty",
        "vanish": "missing",
    },
    GpuState.QUARANTINED: {"readmit": "dirty"},
    GpuState.MAINTENANCE: {"readmit": "dirty"},
    GpuState.MISSING: {"readmit": "dirty"},
}


BEFORE_HAND_OVER = {LeaseState.OFFERED, LeaseState.REQUESTED, LeaseState.SCHEDULED}


def reachable(initial: frozenset[Any], table: Mapping[Any, str]) -> set[str]:
    found = set(initial)
    while new := {after for (before, _), after in table.items() if before in found} - found:
        found |= new
    return found


def test_every_state_can_be_reached() -> None:
    assert reachable(lease.INITIAL, lease.TRANSITIONS) == set(LeaseState)
    assert reachable(gpu.INITIAL, gpu.TRANSITIONS) == set(GpuState)


def test_every_lease_can_end_and_none_leaves_the_end() -> None:
    ways_back = {(after, before): before for (before, _), after in lease.TRANSITIONS.items()}
    assert reachable(frozenset({LeaseState.ENDED}), ways_back) == set(LeaseState)
    assert not [before for before, _ in lease.TRANSITIONS if before is LeaseState.ENDED]


def test_clean_is_reached_only_by_a_passed_scrub() -> None:
    ways = [pair for pair, after in gpu.TRANSITIONS.items() if after is GpuState.CLEAN]
    assert ways == [(GpuState.SCRUBBING, GpuEvent.PASS)]
    assert GpuState.CLEAN not in gpu.INITIAL


def test_out_of_service_leads_only_to_dirty() -> None:
    out = {GpuState.QUARANTINED, GpuState.MAINTENANCE, GpuState.MISSING}
    assert {after for (before, _), after in gpu.TRANSITIONS.items() if before in out} == {GpuState.DIRTY}
    assert out.isdisjoint(gpu.BOOKABLE)


def test_whatever_was_on_a_host_passes_through_releasing() -> None:
    on_host = {LeaseState.PROVISIONING, LeaseState.ACTIVE}
    leaving = {
        after
        for (before, _), after in lease.TRANSITIONS.items()
        if before in on_host and after not in on_host
    }
    assert leaving == {LeaseState.RELEASING}


def test_every_event_that_ends_a_lease_decides_an_outcome() -> None:
    final = {
        event
        for (_, event), after in lease.TRANSITIONS.items()
        if after in (LeaseState.RELEASING, LeaseState.ENDED)
    }
    assert final - {LeaseEvent.GONE} == set(lease.OUTCOMES)
    assert set(lease.OUTCOMES.values()) == set(Outcome)


@pytest.mark.parametrize(("state", "event"), list(product(LeaseState, LeaseEvent)))
def test_a_lease_moves_as_its_table_says_or_not_at_all(
    ground: Ground, state: LeaseState, event: LeaseEvent
) -> None:
    over = state in (LeaseState.RELEASING, LeaseState.ENDED)
    outcome, waiting = "completed" if over else "", ground.waiting()
    moving = ground.lease(state=state, host=ground.host, outcome=outcome, entry=waiting, decide_by=ground.now)
    starts_at, ends_at = moving.starts_at, moving.ends_at + timedelta(hours=1)
    Hold.objects.create(lease=moving, gpu=ground.gpu, starts_at=starts_at, ends_at=ends_at)
    gpu_state = GpuState.CLEAN if state in BEFORE_HAND_OVER else GpuState.LEASED
    Gpu.objects.filter(pk=ground.gpu.pk).update(state=gpu_state)
    expected = LEASE_PATHS[state].get(event)
    told = AuditEntry.objects.filter(subject=f"lease:{moving.pk}")

    def move() -> Lease:
        return apply_lease_event(
            lease_id=moving.pk, event=event, actor=SYSTEM, effective_at=ground.now, now=ground.now
        )

    if expected is None:
        with pytest.raises(TransitionRefused):
            move()
        assert not told.exists()
    else:
        move()
        assert [entry.action for entry in told] == [f"lease.{event}"]
    moving.refresh_from_db()
    assert moving.state == (expected or state)


@pytest.mark.parametrize(("state", "event"), list(product(GpuState, GpuEvent)))
def test_a_gpu_moves_as_its_table_says_or_not_at_all(
    ground: Ground, state: GpuState, event: GpuEvent
) -> None:
    Gpu.objects.filter(pk=ground.gpu.pk).update(state=state)
    expected = GPU_PATHS[state].get(event)
    told = AuditEntry.objects.filter(subject=f"gpu:{ground.gpu.pk}")

    def move() -> Gpu:
        return apply_gpu_event(
            gpu_id=ground.gpu.pk, event=event, actor=SYSTEM, effective_at=ground.now, now=ground.now
        )

    if expected is None:
        with pytest.raises(TransitionRefused):
            move()
        assert not told.exists()
    else:
        move()
        assert [entry.action for entry in told] == [f"gpu.{event}"]
    ground.gpu.refresh_from_db()
    assert ground.gpu.state == (expected or state)
    assert ground.gpu.tenure == (1 if expected and event is GpuEvent.HAND_OVER else 0)


def test_a_lease_keeps_its_first_outcome(ground: Ground) -> None:
    moving = ground.lease(state=LeaseState.PROVISIONING, host=ground.host)
    Hold.objects.create(lease=moving, gpu=ground.gpu, starts_at=moving.starts_at, ends_at=moving.ends_at)
    for event in (LeaseEvent.CANCEL, LeaseEvent.GONE):
        apply_lease_event(
            lease_id=moving.pk, event=event, actor=SYSTEM, effective_at=ground.now, now=ground.now
        )
    moving.refresh_from_db()
    assert (moving.state, moving.outcome) == ("ended", "cancelled")


def test_the_drawn_lifecycles_are_those_of_the_tables(tmp_path: Path) -> None:
    call_command("diagrams", tmp_path)
    drawn = (tmp_path / "lifecycles.md").read_text(encoding="utf-8")
    assert drawn == lifecycles_page()
    assert DIAGRAMS.read_text(encoding="utf-8") == drawn, "run `make docs`"
    arrows = [line for line in drawn.splitlines() if " --> " in line and " : " in line]
    assert len(arrows) == sum(len(each.TRANSITIONS) for each in (lease, gpu, home, snapshot))
    assert "    provisioning --> active : running" in arrows
