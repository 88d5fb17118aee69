"""Whatever a host or the domain calls something, the pages have words for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hosts.agent import host_plans, machine_plans, scrubbing
from hosts.agent.steps import PlanKind
from hosts.models import GPU_STATES
from leasing.states.gpu import GpuEvent
from leasing.states.lease import LeaseEvent, LeaseState, Outcome
from portal.pages.looks import GPU_LOOKS, LEASE_LOOKS, OUTCOME_LOOKS
from portal.pages.words import ACTS, PLANS, STEPS

ROOT = Path(__file__).resolve().parents[2]
KINDS = [
    value
    for module in (machine_plans, scrubbing, host_plans)
    for value in vars(module).values()
    if isinstance(value, PlanKind) and value.name != "inspect"
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_plan_and_step_has_words(kind: PlanKind) -> None:
    assert kind.name in PLANS
    assert {step.name for step in kind.steps} <= set(STEPS)


def test_every_plan_was_found() -> None:
    assert {kind.name for kind in KINDS} == set(PLANS)


def test_every_act_in_the_audit_log_has_words() -> None:
    acts = {f"lease.{event}" for event in LeaseEvent} | {f"gpu.{event}" for event in GpuEvent}
    for package in ("leasing", "portal"):
        for path in (ROOT / package).rglob("*.py"):
            acts |= set(re.findall(r'action="([a-z-]+\.[a-z-]+)"', path.read_text()))
    assert acts <= set(ACTS)
    assert len(acts) > 25


def test_every_state_has_a_look() -> None:
    assert set(LEASE_LOOKS) == set(LeaseState)
    assert set(OUTCOME_LOOKS) == set(Outcome)
    assert set(GPU_LOOKS) == set(GPU_STATES)
