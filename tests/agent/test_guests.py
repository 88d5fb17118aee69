"""What guests say: heard, bounded, never believed; and a guest that misbehaves keeps nobody waiting."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosts.agent import guest
from hosts.agent.guests import PAUSE_SECONDS, GuestWatch
from hosts.agent.machines import Counters, GuestSilent, HypervisorError
from hosts.agent.use import LONGEST_BLINK, SETTLES, USED_BYTES, WINDOW, Sample, Seen, begin, watch
from hosts.protocol.codec import decode_report, encode
from hosts.protocol.messages import GuestFacts, Guests, Power, Report
from tests.agent.fake_machines import FakeMachines
from tests.agent.host_in_a_box import Box, a_box

LEASE, SUBJECT, MACHINE = UUID(int=1), "lease:1", "lease-1"
START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


class FakeAgent:
    """An agent that says what the test wants; a value that is an exception is raised."""

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = {"guest-ping": {}, **answers}
        self.asked: list[str] = []

    def __call__(self, command: str, arguments: Mapping[str, Any]) -> str:
        self.asked.append(command)
        answer = self.answers.get(command, HypervisorError(f"The command {command} has not been found"))
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, str) else json.dumps({"return": answer})


def polite() -> FakeAgent:
    return FakeAgent(
        **{
            "guest-get-host-name": {"host-name": "studio-7"},
            "guest-get-osinfo": {"pretty-name": "Debian GNU/Linux 12 (bookworm)", "id": "debian"},
            "guest-network-get-interfaces": [
                {"name": "lo", "ip-addresses": [{"ip-address": "127.0.0.1", "prefix": 8}]},
                {"name": "eth0", "ip-addresses": [{"ip-address": "10.99.0.2"}, {"ip-address": "fe80::1"}]},
            ],
            "guest-get-users": [{"user": "designer", "login-time": 1.5}],
        }
    )


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with a_box(tmp_path) as box:
        box.carry_out(box.provision(box.intake()), subject=SUBJECT)
        yield box


@pytest.fixture
def watching(box: Box) -> Iterator[Watching]:
    watching = Watching(box)
    yield watching
    watching.guests.stop(seconds=1)


class Watching:
    """The watch over a box's guests, with a clock of its own."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.seconds = 0.0
        self.guests = GuestWatch(box.rig, clock=lambda: self.seconds)

    def look(self, *, after: float = PAUSE_SECONDS) -> list[GuestFacts]:
        """What the next round reports."""
        self.seconds += after
        self.box.now += timedelta(seconds=after)
        before = len(self.box.events(Guests))
        self.guests.look()
        return [facts for event in self.box.events(Guests)[before:] for facts in event.guests]


def test_a_guest_says_who_it_is(box: Box, watching: Watching) -> None:
    assert [facts.answers for facts in watching.look()] == ["none"]
    box.machines.agents[MACHINE] = agent = polite()
    (facts,) = watching.look()
    assert (facts.answers, facts.hostname, facts.system) == (
        "agent",
        "studio-7",
        "Debian GNU/Linux 12 (bookworm)",
    )
    assert facts.addresses == ("10.99.0.2",)
    count = len(agent.asked)
    assert watching.look(after=PAUSE_SECONDS / 2) == []
    assert len(agent.asked) == count, "it is left in peace"


def test_a_machine_that_was_started_anew_has_yet_to_answer(box: Box, watching: Watching) -> None:
    box.machines.agents[MACHINE] = polite()
    watching.look()
    box.machines.agents.clear()
    box.carry_out(Power(lease_id=LEASE, action="restart", shutdown_seconds=1), subject=SUBJECT)
    (facts,) = watching.look(after=1)
    assert (facts.answers, facts.hostname, facts.use) == ("none", "", "person")


HOSTILE: dict[str, Any] = {
    "no JSON": "}{",
    "no object": "[]",
    "null": '{"return": null}',
    "deep": '{"return": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "large": json.dumps({"return": {"host-name": "x" * guest.LARGEST_ANSWER}}),
    "other types": {"host-name": 7, "pretty-name": [], "user": {}},
    "silent": GuestSilent("no answer"),
    "refused": HypervisorError("no"),
    "half a character": '{"return": {"host-name": "\\ud800", "pretty-name": "\\ud800"}}',
}
COMMANDS = ("guest-get-host-name", "guest-get-osinfo", "guest-network-get-interfaces", "guest-get-users")


@pytest.mark.parametrize("how", HOSTILE)
def test_what_is_hostile_is_not_heard(box: Box, watching: Watching, how: str) -> None:
    box.machines.agents[MACHINE] = FakeAgent(**dict.fromkeys(COMMANDS, HOSTILE[how]))
    (facts,) = watching.look()
    assert (facts.answers, facts.addresses) == ("agent", ())
    assert facts.hostname.isprintable()
    assert len(facts.hostname) <= guest.LONGEST_HOSTNAME


def test_who_keeps_one_waiting_is_asked_nothing_more(box: Box, watching: Watching) -> None:
    silent = FakeAgent(**{**dict.fromkeys(COMMANDS, "{}"), COMMANDS[0]: GuestSilent("no answer")})
    box.machines.agents[MACHINE] = silent
    watching.look()
    assert silent.asked == ["guest-ping", COMMANDS[0]]


texts = st.text(max_size=300)
addresses = st.fixed_dictionaries({"ip-address": texts | st.ip_addresses().map(str)})
words = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | texts,
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(texts, inside, max_size=4),
)
liars = st.fixed_dictionaries(
    {
        "guest-get-host-name": st.fixed_dictionaries({"host-name": texts}) | words,
        "guest-get-osinfo": st.fixed_dictionaries({"pretty-name": texts}) | words,
        "guest-network-get-interfaces": st.lists(
            st.fixed_dictionaries({"ip-addresses": st.lists(addresses)}), max_size=9
        )
        | words,
        "guest-get-users": st.lists(words, max_size=3) | words,
    }
)


@given(liars)
def test_whatever_a_guest_says_fits_into_a_report(answers: dict[str, Any]) -> None:
    machines = FakeMachines(Path("/nowhere"))
    machines.ask_guest = lambda name, command, arguments, *, seconds: agent(command, arguments)  # type: ignore[method-assign]
    agent = FakeAgent(**answers)
    word = guest.ask(machines, MACHINE)
    assert word is not None
    facts = GuestFacts(
        lease_id=LEASE, answers="agent", hostname=word.hostname, system=word.system, addresses=word.addresses
    )
    report = Report(
        protocol=2, host="box", journal_id=LEASE, sequence=1, command_id=None, subject="host:box",
        generation=0, occurred_at=START, event=Guests(guests=(facts,) * 64),
    )  # fmt: skip
    assert decode_report(encode(report)) == report
    assert (word.hostname + word.system).isprintable()


def test_a_guest_that_obeys_its_agent_needs_no_power_button(box: Box) -> None:
    def obeys(command: str, arguments: Mapping[str, Any]) -> str:
        if command == "guest-shutdown":
            box.machines.lose_power()
            raise GuestSilent("It has gone down instead of answering.")
        return '{"return": {}}'

    box.machines.agents[MACHINE] = obeys
    box.machines.refuses = {"shutdown", "destroy"}
    box.carry_out(Power(lease_id=LEASE, action="off", shutdown_seconds=30), subject=SUBJECT)
    assert box.rig.machines.kept()[0].state == "off"


def test_a_guest_that_only_says_that_it_obeys_is_switched_off(box: Box) -> None:
    box.machines.agents[MACHINE] = liar = FakeAgent(**{"guest-shutdown": {}})
    box.machines.obeys = False
    box.carry_out(Power(lease_id=LEASE, action="off", shutdown_seconds=1), subject=SUBJECT)
    assert box.rig.machines.kept()[0].state == "off"
    assert liar.asked[:2] == ["guest-ping", "guest-shutdown"]


def test_use_is_watched_from_the_first_start(box: Box, watching: Watching) -> None:
    assert [facts.use for facts in watching.look()] == ["none"]
    assert [facts.use for facts in watching.look()] == ["none"], "it says so again and again"
    box.machines.used[MACHINE] = Counters(1.0, USED_BYTES)
    (facts,) = watching.look()
    assert (facts.use, facts.used_at) == ("network", box.now)
    assert watching.look() == [], "once is enough"


def test_what_cannot_be_seen_for_a_while_is_unknown_for_a_while(box: Box, watching: Watching) -> None:
    assert [facts.use for facts in watching.look()] == ["none"]
    box.machines.refuses = {"counters"}
    assert [facts.use for facts in watching.look()] == ["unknown"]
    box.machines.refuses = set()
    assert [facts.use for facts in watching.look()] == ["none"], "counters have gone on counting"


def test_use_is_not_forgotten_by_a_worker_that_dies(box: Box, watching: Watching) -> None:
    watching.look()
    watching.look()
    box.restart()
    box.machines.used[MACHINE] = Counters(1.0, USED_BYTES)
    assert [facts.use for facts in Watching(box).look()] == ["network"]
    box.carry_out(box.release(), subject=SUBJECT, expires_at=box.now + timedelta(minutes=1))
    assert box.rig.uses.get(LEASE) is None


def test_a_restart_leaves_in_the_dark_what_happened_meanwhile(box: Box, watching: Watching) -> None:
    watching.look()
    box.carry_out(Power(lease_id=LEASE, action="restart", shutdown_seconds=1), subject=SUBJECT)
    assert [facts.use for facts in watching.look()] == ["unknown"]


def test_an_older_portal_is_told_nothing(tmp_path: Path) -> None:
    with a_box(tmp_path) as box:
        box.carry_out(box.provision(box.intake()), subject=SUBJECT, protocol=1)
        box.rig.spool.hear(1)
        assert Watching(box).look() == []


def sample(minutes: float, **changes: Any) -> Sample:
    fields: dict[str, Any] = {"processor_seconds": 0.0, "network_bytes": 0, "consoles": 0, "people": None}
    return Sample(at=START + timedelta(minutes=minutes), **(fields | changes))


def watched(*samples: Sample) -> Seen:
    seen = begin(START)
    for each in samples:
        seen = watch(seen, each)
    return seen


@pytest.mark.parametrize(
    ("signs", "use"),
    [
        ([sample(1, consoles=1)], "console"),
        ([sample(1, people=1)], "person"),
        ([sample(1, people=0)], "none"),
        ([sample(1, network_bytes=USED_BYTES)], "network"),
        ([sample(m, network_bytes=m * USED_BYTES // 3) for m in range(1, 60)], "none"),
        ([sample(1, network_bytes=5000), sample(1.1, network_bytes=USED_BYTES)], "network"),
        ([sample(m, processor_seconds=m * 60) for m in range(1, 9)], "none"),
        ([sample(m, processor_seconds=m * 60) for m in range(1, 20)], "processor"),
        ([sample(m, processor_seconds=m * 6) for m in range(1, 20)], "none"),
        ([sample(1, network_bytes=None)], "unknown"),
        ([sample(1, network_bytes=900), sample(2, network_bytes=899)], "unknown"),
        ([sample(1, hidden=True)], "unknown"),
        ([sample(1, hidden=True, people=0)], "none"),
        ([sample(1, hidden=True, people=0), sample(4, hidden=True, people=0)], "unknown"),
        ([sample(1), sample(400)], "none"),
        ([sample(1, network_bytes=None), sample(2, consoles=1)], "unknown"),
    ],
)
def test_signs_of_use(signs: list[Sample], use: str) -> None:
    assert watched(*signs).use == use


@given(st.lists(st.tuples(st.integers(1, 600), st.integers(0, USED_BYTES), st.integers(0, 300)), max_size=60))
def test_unused_is_only_what_used_little(steps: list[tuple[int, int, int]]) -> None:
    """By the plainest rule: no two minutes with so many bytes, and after settling no long time so busy."""
    at, network, busy = 0, 0, 0
    seen, totals = begin(START), [(0, 0)]
    for seconds, received, worked in steps:
        at, network, busy = at + seconds, network + received, busy + min(worked, seconds)
        totals.append((at, network))
        seen = watch(
            seen,
            Sample(
                at=START + timedelta(seconds=at),
                processor_seconds=float(busy),
                network_bytes=network,
                consoles=0,
                people=None,
            ),
        )
    if seen.use == "none":
        window = WINDOW.total_seconds()
        for before, bytes_before in totals:
            within = [count for moment, count in totals if before <= moment <= before + window]
            assert max(within) - bytes_before < USED_BYTES
    assert seen.use != "unknown"
    assert SETTLES > LONGEST_BLINK > WINDOW


def test_what_the_journal_keeps_is_read_back() -> None:
    seen = watched(sample(1, network_bytes=100), sample(2, network_bytes=200), sample(3, people=1))
    assert msgspec.json.decode(msgspec.json.encode(seen), type=Seen) == seen
