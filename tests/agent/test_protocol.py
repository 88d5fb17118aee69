"""Two versions of the protocol: the previous one is read, and whoever speaks it is answered in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from hosts.protocol.checkup import Check, CheckUp
from hosts.protocol.codec import (
    PROTOCOL,
    UNDERSTOOD,
    MessageError,
    decode_command,
    decode_report,
    decode_report_header,
    encode,
    is_said_in,
)
from hosts.protocol.fields import MAX_MESSAGE_BYTES, Message
from hosts.protocol.messages import Command, Event, Goal, GuestOrder, Inspect, Provision, Refused, Report
from tests.agent.message_samples import EVENTS, GOALS, command, messages, report

RECORDED = Path(__file__).with_name("golden") / "protocol-1"
CHECK_UP = CheckUp(simulated=False, checks=(Check(code="iommu", outcome="off", verdict="fail"),))


def decode(text: bytes, kind: type[Message]) -> Message:
    return decode_command(text) if kind is Command else decode_report(text)


@pytest.mark.parametrize(
    ("name", "message"), list(messages()), ids=lambda each: each if isinstance(each, str) else ""
)
def test_what_protocol_1_wrote_is_read_and_written_as_it_was(name: str, message: Command | Report) -> None:
    recorded = (RECORDED / f"{name}.json").read_bytes().strip()
    assert decode(recorded, type(message)) == message
    assert encode(message) == recorded


def test_every_message_of_protocol_1_is_recorded() -> None:
    since_1 = [kind for union in (Goal, Event) for kind in union.__args__ if kind.SINCE == 1]
    assert {type(each) for each in (*GOALS, *EVENTS)} == set(since_1)
    assert {path.stem for path in RECORDED.glob("*.json")} == {name for name, _ in messages()}


@pytest.mark.parametrize("message", [command(each) for each in GOALS] + [report(each) for each in EVENTS])
def test_a_message_survives_the_way_in_the_present_protocol(message: Command | Report) -> None:
    now = msgspec.structs.replace(message, protocol=PROTOCOL)
    assert decode(encode(now), type(now)) == now


def test_what_protocol_1_has_no_words_for_is_not_said_in_it() -> None:
    with pytest.raises(MessageError, match="Protocol 1 has no check-up"):
        encode(report(CHECK_UP))
    assert decode_report(encode(msgspec.structs.replace(report(CHECK_UP), protocol=2))).event == CHECK_UP


def test_a_field_that_came_later_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Refused, "ADDED", {"final": 2})
    said = report(Refused(reason="no", final=False))
    assert "final" not in msgspec.json.decode(encode(said))["event"]
    assert msgspec.json.decode(encode(msgspec.structs.replace(said, protocol=2)))["event"]["final"] is False


def test_what_matters_is_not_left_out_but_left_unsaid() -> None:
    """A host that knows no cloud-init must not build a machine that nobody can sign in to."""
    order, guest = GOALS[0], GuestOrder(hostname="studio-1", user="designer")
    assert isinstance(order, Provision)
    machine = msgspec.structs.replace(order.machine, guest=guest)
    wanted = command(msgspec.structs.replace(order, machine=machine))
    with pytest.raises(MessageError, match="Protocol 1 has no words for guest"):
        encode(wanted)
    assert [is_said_in(wanted, protocol) for protocol in (1, PROTOCOL)] == [False, True]
    assert is_said_in(command(order), 1)


@pytest.mark.parametrize("protocol", [0, PROTOCOL + 1])
def test_other_versions_are_refused_but_their_header_is_read(protocol: int) -> None:
    assert protocol not in UNDERSTOOD
    stranger = msgspec.structs.replace(report(EVENTS[0]), protocol=protocol)
    text = msgspec.json.encode(msgspec.to_builtins(stranger) | {"novelty": 1})
    with pytest.raises(MessageError):
        decode_report(text)
    assert decode_report_header(text).sequence == stranger.sequence


@pytest.mark.parametrize("change", [{"novelty": 1}, {"generation": -1}, {"host": "Not a name"}, {"goal": {}}])
def test_whatever_is_not_a_message_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MessageError):
        decode_command(msgspec.json.encode(msgspec.to_builtins(command(Inspect())) | change))


def test_a_message_has_a_size() -> None:
    reading = {"source": "x", "value": "y" * 500}
    check = msgspec.convert(
        {"code": "a", "outcome": "b", "verdict": "pass", "read": [reading] * 8}, type=Check
    )
    large = msgspec.structs.replace(
        report(CheckUp(simulated=False, checks=(check,) * (MAX_MESSAGE_BYTES // 4000))), protocol=2
    )
    with pytest.raises(MessageError, match="are allowed"):
        encode(large)
