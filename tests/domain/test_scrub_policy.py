"""How a model's GPUs are cleaned: set by operators, carried by orders, and what evidence is judged by."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hosts.models import GpuModel
from hosts.protocol.messages import Intake, ScrubPolicy
from leasing import fleet, goals
from leasing.errors import InvalidRequest, NotVisible
from leasing.fsck import run_checks
from leasing.models import AuditEntry, ScrubRecord
from leasing.scrub_policy import set_scrub_policy
from tests.world import World, method_record, witness

pytestmark = pytest.mark.django_db
MACHINE_AND_BAR: dict[str, Any] = {
    "methods": ["machine", "bar"],
    "required_reach_permille": 950,
    "read_back": "sampled",
}


def set_policy(world: World, **changes: Any) -> GpuModel:
    return set_scrub_policy(
        actor=world.actor(world.operator), model="a6000", now=world.now, **{**MACHINE_AND_BAR, **changes}
    )


def test_it_is_kept_carried_by_orders_and_in_the_log() -> None:
    world = World(gpus=1)
    set_policy(world)
    world.gpus[0].refresh_from_db()
    expected = ScrubPolicy(
        scrubber="machine", methods=("machine", "bar"), required_reach_permille=950, read_back="sampled"
    )
    order = goals.intake(world.gpus[0])
    assert isinstance(order, Intake)
    assert order.scrub == expected
    entry = AuditEntry.objects.get(action="model.scrub-policy")
    assert (entry.actor, entry.subject) == ("operator", "model:a6000")
    detail = json.loads(entry.text)["detail"]
    assert detail["before"]["methods"] == ["bar"]
    assert detail["after"] == MACHINE_AND_BAR


def rescrubbed(world: World, **evidence: Any) -> ScrubRecord:
    """The GPU was in maintenance and tries its intake again; the record of that."""
    gpu = world.gpus[0]
    fleet.withdraw_gpu(actor=world.actor(world.operator), gpu_id=gpu.pk, reason="try", now=world.now)
    fleet.readmit_gpu(actor=world.actor(world.operator), gpu_id=gpu.pk, now=world.now)
    world.tick()
    world.scrub(world.host, gpu, **evidence)
    gpu.refresh_from_db()
    return ScrubRecord.objects.filter(gpu=gpu).latest("id")


def test_evidence_is_judged_by_the_policy_of_now() -> None:
    world = World(gpus=1)
    set_policy(world)
    only_bar = rescrubbed(world)
    assert not only_bar.passed
    assert only_bar.reasons == ["Policy asks for the method 'machine', which was not used."]
    assert world.gpus[0].state == "quarantined"


def test_what_is_unverified_is_kept_beside_what_is_proven() -> None:
    world = World(gpus=1)
    set_policy(world)
    unverified = method_record("machine", proven=False, proven_on=())
    sampled = witness(coverage="sampled", read_bytes=4096)
    both = rescrubbed(world, methods=(unverified, method_record("bar")), witness=sampled)
    assert both.passed, both.reasons
    assert [record["proven"] for record in both.evidence["methods"]] == [False, True]
    assert run_checks(world.now) == []


def test_what_is_unverified_alone_never_makes_a_gpu_clean() -> None:
    world = World(gpus=1)
    set_policy(world, methods=["machine", "nvidia-clear"])
    machine = method_record("machine", proven=False, proven_on=())
    claim = method_record("nvidia-clear", kind="claim", proven=True, written_bytes=0)
    alone = rescrubbed(world, methods=(machine, claim))
    assert not alone.passed
    assert [reason for reason in alone.reasons if "never suffices alone" in reason] == [
        "The method 'machine' is not proven on 10de:2230: it never suffices alone.",
        "The method 'nvidia-clear' is somebody's claim: it never suffices alone.",
    ]


def test_only_operators_set_it_and_of_models_that_there_are() -> None:
    world = World(gpus=0)
    for who in (world.ada, world.approver, world.auditor):
        with pytest.raises(NotVisible):
            set_scrub_policy(actor=world.actor(who), model="a6000", now=world.now, **MACHINE_AND_BAR)
    with pytest.raises(NotVisible, match="no such GPU model"):
        set_scrub_policy(actor=world.actor(world.operator), model="h100", now=world.now, **MACHINE_AND_BAR)
    assert not AuditEntry.objects.filter(action="model.scrub-policy").exists()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"methods": []}, "methods"),
        ({"methods": ["bar", "bar"]}, "methods"),
        ({"methods": [f"m{number}" for number in range(9)]}, "methods"),
        ({"methods": ["../bar"]}, "methods"),
        ({"required_reach_permille": 0}, "reach"),
        ({"required_reach_permille": 1001}, "reach"),
        ({"read_back": "none"}, "read_back"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_with_its_field(changes: dict[str, Any], field: str) -> None:
    world = World(gpus=0)
    with pytest.raises(InvalidRequest) as caught:
        set_policy(world, **changes)
    assert caught.value.field == field
    assert GpuModel.objects.get().scrub_methods == ["bar"]
