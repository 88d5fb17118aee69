"""What a passing scrub is: each flaw alone makes it fail, and what is unproven never suffices alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosts.protocol.first_evidence import summary
from hosts.protocol.messages import (
    Fingerprint,
    MethodRecord,
    ResetRecord,
    ScrubEvidence,
    ScrubPolicy,
    Witness,
)
from hosts.protocol.proof import is_proven, objections, proven_reach
from leasing import proof as portal

SIZE = 1 << 30
CARD = Fingerprint(vendor_device="10de:2230", serial="1", rom_sha256="a" * 64)
AT = datetime(2030, 1, 1, tzinfo=UTC)


def method(name: str = "bar", **changes: Any) -> MethodRecord:
    facts: dict[str, Any] = {
        "name": name,
        "version": "1",
        "digest": "d" * 64,
        "kind": "overwrite",
        "proven_on": ("10de:*",),
        "proven": True,
        "reached_bytes": SIZE,
        "written_bytes": SIZE,
    }
    return MethodRecord(**{**facts, **changes})


def witness(**changes: Any) -> Witness:
    facts: dict[str, Any] = {
        "window": "bar",
        "window_bytes": SIZE,
        "proven": True,
        "seed": "5eed",
        "canaries_planted": 2,
        "coverage": "full",
        "read_bytes": SIZE,
    }
    return Witness(**{**facts, **changes})


def evidence(*methods: MethodRecord, seen: Witness | None = None, **changes: Any) -> ScrubEvidence:
    facts: dict[str, Any] = {
        **summary(methods, seen),
        "simulated": False,
        "memory_bytes": SIZE,
        "methods": methods or (method(),),
        "witness": seen or witness(),
        "fills": 1,
        "resets": (ResetRecord(method="vfio-hot-reset", scope="bus", seconds=0.1, attempts=1),),
        "fingerprint_before": CARD,
        "fingerprint_after": CARD,
        "started_at": AT,
        "finished_at": AT,
        "kernel": "6.1",
        "verdict": "passed",
    }
    return ScrubEvidence(**{**facts, **changes})


def judged(given: ScrubEvidence, **policy: Any) -> list[str]:
    methods = policy.pop("methods", tuple(record.name for record in given.methods) or ("bar",))
    return objections(given, ScrubPolicy(methods=methods, **policy), expected=CARD)


def test_flawless_evidence_passes() -> None:
    assert judged(evidence()) == []


FLAWS: dict[str, tuple[dict[str, Any], str]] = {
    "no reset": ({"resets": ()}, "The card was not reset."),
    "no method": ({"methods": ()}, "Policy asks for the method 'bar', which was not used."),
    "no witness": ({"witness": None}, "The host did not look into the memory itself."),
    "no size": ({"memory_bytes": 0}, "The size of the card's memory is not known."),
    "changed": (
        {"fingerprint_after": msgspec.structs.replace(CARD, firmware="2")},
        "The card is not what it was: firmware changed.",
    ),
}
METHOD_FLAWS: dict[str, tuple[dict[str, Any], str]] = {
    "failed": ({"failure": "no answer"}, "bar: no answer"),
    "short": ({"written_bytes": SIZE - 1}, f"bar wrote only {SIZE - 1} of {SIZE} bytes."),
    "wrong": ({"mismatches": 2}, "bar itself read 2 places that were not as written."),
    "small": (
        {"reached_bytes": SIZE - 1},
        f"{SIZE - 1} of {SIZE} bytes were overwritten by a proven method; policy asks for 1000 ‰.",
    ),
    "unproven": ({"proven": False}, "The method 'bar' is not proven on 10de:2230: it never suffices alone."),
    "claimed": ({"kind": "claim"}, "The method 'bar' is somebody's claim: it never suffices alone."),
}
WITNESS_FLAWS: dict[str, tuple[dict[str, Any], str]] = {
    "unproven": ({"proven": False}, "Looking through 'bar' is not proven on this hardware."),
    "none planted": ({"canaries_planted": 0}, "0 of 0 canaries could not be written: nothing can be proven."),
    "refused": ({"canaries_refused": 3}, "3 of 5 canaries could not be written: nothing can be proven."),
    "survived": ({"canaries_found": 1}, "1 of 2 canaries survived the scrub."),
    "unread": ({"coverage": "none"}, "The memory was not read back."),
    "sampled": (
        {"coverage": "sampled", "read_bytes": 4096},
        f"4096 of {SIZE} bytes were read back; policy asks for all.",
    ),
    "not zero": ({"mismatches": 2, "first_mismatch": 7}, "2 blocks are not zero, the first at byte 7."),
}


@pytest.mark.parametrize(("change", "reason"), FLAWS.values(), ids=FLAWS)
def test_what_is_missing_fails(change: dict[str, Any], reason: str) -> None:
    assert reason in judged(evidence(**change))


@pytest.mark.parametrize(("change", "reason"), METHOD_FLAWS.values(), ids=METHOD_FLAWS)
def test_a_flaw_of_the_method_fails(change: dict[str, Any], reason: str) -> None:
    assert reason in judged(evidence(method(**change)))


@pytest.mark.parametrize(("change", "reason"), WITNESS_FLAWS.values(), ids=WITNESS_FLAWS)
def test_a_flaw_that_the_witness_saw_fails(change: dict[str, Any], reason: str) -> None:
    assert reason in judged(evidence(seen=witness(**change)))


def test_samples_suffice_where_policy_says_so() -> None:
    sampled = evidence(seen=witness(coverage="sampled", read_bytes=4096))
    assert judged(sampled, read_back="sampled") == []


def test_every_method_that_policy_asks_for_has_to_be_used() -> None:
    assert judged(evidence(method("bar")), methods=("bar", "vendor")) == [
        "Policy asks for the method 'vendor', which was not used."
    ]


UNPROVEN = st.builds(
    lambda kind, proven, reached: method(
        f"{kind}-{proven}", kind=kind, proven=proven and kind == "claim", reached_bytes=reached
    ),
    st.sampled_from(["overwrite", "claim"]),
    st.booleans(),
    st.integers(0, SIZE),
)


@given(others=st.lists(UNPROVEN, min_size=1, max_size=7), required=st.integers(1, 1000))
def test_any_number_of_unproven_methods_and_claims_never_suffices(
    others: list[MethodRecord], required: int
) -> None:
    alone = evidence(*others)
    assert proven_reach(alone) == 0
    assert judged(alone, required_reach_permille=required)


@given(others=st.lists(UNPROVEN, max_size=7), reached=st.integers(0, SIZE), required=st.integers(0, 1000))
def test_beside_a_proven_method_they_add_nothing_and_take_nothing(
    others: list[MethodRecord], reached: int, required: int
) -> None:
    proven = method("bar", reached_bytes=reached, written_bytes=reached)
    passes = judged(evidence(proven, *others), required_reach_permille=required) == []
    assert passes is (reached * 1000 >= required * SIZE)


@pytest.mark.parametrize(
    ("patterns", "proven"),
    [((), False), (("10de:*",), True), (("1234:*", "10de:2230"), True), (("10de",), False)],
)
def test_hardware_is_named_by_patterns(patterns: tuple[str, ...], proven: bool) -> None:
    assert is_proven(patterns, "10de:2230") is proven


def test_a_host_that_sees_less_memory_than_the_model_has_did_not_reach_all_of_it() -> None:
    policy = ScrubPolicy()
    assert portal.objections(evidence(), policy, memory_bytes=SIZE, expected=CARD) == []
    found = portal.objections(evidence(), policy, memory_bytes=4 * SIZE, expected=CARD)
    assert f"{SIZE} of {4 * SIZE} bytes were overwritten by a proven method; policy asks for 1000 ‰." in found


def test_the_portal_takes_the_hosts_own_objections_over() -> None:
    failed = evidence(verdict="failed", reasons=("It smelled.",))
    assert portal.objections(failed, ScrubPolicy(), memory_bytes=0, expected=CARD) == ["It smelled."]
    silent = evidence(verdict="failed")
    assert portal.objections(silent, ScrubPolicy(), memory_bytes=0, expected=CARD) == [
        "The host says that the scrub failed."
    ]


def test_without_an_earlier_fingerprint_the_host_is_compared_with_itself() -> None:
    changed = evidence(fingerprint_after=msgspec.structs.replace(CARD, serial="2"))
    assert portal.objections(changed, ScrubPolicy(), memory_bytes=0, expected=None) == [
        "The card is not what it was: serial changed."
    ]
