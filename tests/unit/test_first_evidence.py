"""Evidence across protocol versions: an older portal gets a sum it can judge, an older host is understood."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from hosts.protocol.codec import decode_report, encode
from hosts.protocol.first_evidence import WORDS, summary, unfolded, without_summary
from hosts.protocol.messages import Report, Scrubbed, ScrubEvidence, ScrubPolicy
from hosts.protocol.proof import objections
from tests.unit.test_proof import CARD, SIZE, evidence, method, witness

AT = datetime(2030, 1, 1, tzinfo=UTC)


def sent(given: ScrubEvidence, *, protocol: int) -> ScrubEvidence:
    """What arrives at a portal that is spoken to in that version."""
    scrubbed = Scrubbed(gpu_id=UUID(int=1), tenure=1, lease_id=None, evidence=given)
    report = Report(
        protocol=protocol,
        host="hv1",
        journal_id=UUID(int=2),
        sequence=1,
        command_id=None,
        subject="gpu:1",
        generation=1,
        occurred_at=AT,
        event=scrubbed,
    )
    event = decode_report(encode(report)).event
    assert isinstance(event, Scrubbed)
    return event.evidence


def told(*methods: Any, **seen: Any) -> ScrubEvidence:
    """Evidence whose sum fits its parts."""
    watched = witness(**seen)
    return msgspec.structs.replace(evidence(*methods, seen=watched), **summary(methods, watched))


def test_in_the_present_version_everything_arrives() -> None:
    given = told(method("bar", facts={"driver": "580"}), method("vendor", kind="claim"))
    assert sent(given, protocol=2) == given


def test_the_older_version_is_told_the_sum() -> None:
    unproven = method("vendor", proven=False, reached_bytes=SIZE)
    given = told(unproven, method("bar", reached_bytes=SIZE - 5, mismatches=1), mismatches=2)
    arrived = sent(given, protocol=1)
    assert (arrived.methods, arrived.witness) == ((), None)
    assert (arrived.scrubber, arrived.proven, arrived.reached_bytes) == ("bar", True, SIZE - 5)
    assert (arrived.mismatches, arrived.canaries_planted, arrived.read_back_bytes) == (3, 2, SIZE)


def test_what_is_not_proven_is_not_proven_in_the_older_version_either() -> None:
    assert sent(told(method(proven=False)), protocol=1).proven is False
    assert sent(told(method(), proven=False), protocol=1).proven is False
    assert sent(told(method(kind="claim")), protocol=1).proven is False


def test_an_older_hosts_evidence_is_judged_by_the_same_rule() -> None:
    given = told(method())
    assert objections(sent(given, protocol=1), ScrubPolicy(), expected=CARD) == []
    spoilt = sent(told(method(), canaries_found=1), protocol=1)
    assert objections(spoilt, ScrubPolicy(), expected=CARD) == ["1 of 2 canaries survived the scrub."]


def test_it_is_kept_by_methods_and_witness_whoever_said_it() -> None:
    for protocol in (1, 2):
        kept = without_summary(sent(told(method()), protocol=protocol))
        assert not kept.keys() & set(WORDS)
        assert [record["name"] for record in kept["methods"]] == ["bar"]
        assert kept["witness"]["canaries_planted"] == 2
    assert unfolded(told(method())) == told(method())


def test_without_any_method_the_sum_proves_nothing() -> None:
    assert summary((), None)["proven"] is False


def test_a_policy_of_the_older_version_names_one_method() -> None:
    assert ScrubPolicy(scrubber="vendor").wanted == ("vendor",)
    assert ScrubPolicy(scrubber="vendor", methods=("bar", "vendor")).wanted == ("bar", "vendor")
