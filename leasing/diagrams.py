"""The lifecycles as diagrams, drawn from the tables that the code obeys. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from leasing.states import gpu, home, lease, snapshot

State = TypeVar("State", bound=str)
Event = TypeVar("Event", bound=str)

INTRODUCTION = """\
# Lifecycles

`make docs` draws them from `leasing/states/`, the tables that the code obeys. What has no arrow does not
happen.
"""


def lifecycles_page() -> str:
    """The text of docs/lifecycles.md."""
    sections = (_lease_section(), _gpu_section(), _home_section(), _snapshot_section())
    return "\n".join([INTRODUCTION, *(line for section in sections for line in (*section, ""))])


def _lease_section() -> Iterator[str]:
    yield "## Lease\n"
    yield from _diagram(lease.INITIAL, lease.TRANSITIONS, final=[lease.LeaseState.ENDED])
    yield "\nThe outcome of an ended lease is decided by the first of these events:\n"
    yield "| event | outcome |\n|---|---|"
    for event, outcome in lease.OUTCOMES.items():
        yield f"| {event} | {outcome} |"


def _gpu_section() -> Iterator[str]:
    yield "## GPU\n"
    yield "Unknown is never clean: `clean` is reached only by `pass`, which rests on a passed scrub record.\n"
    yield from _diagram(gpu.INITIAL, gpu.TRANSITIONS)


def _home_section() -> Iterator[str]:
    yield "## Home volume\n"
    yield "It is made by the first machine that has it; whether it was is `made_at`, not a state.\n"
    yield from _diagram(home.INITIAL, home.TRANSITIONS, final=[home.HomeState.REMOVED])


def _snapshot_section() -> Iterator[str]:
    yield "## Snapshot\n"
    yield "One that is wanted is taken when its lease ends. What is left of one that failed is removed.\n"
    yield from _diagram(snapshot.INITIAL, snapshot.TRANSITIONS, final=[snapshot.SnapshotState.REMOVED])


def _diagram(
    initial: Iterable[State], table: Mapping[tuple[State, Event], State], final: Iterable[State] = ()
) -> Iterator[str]:
    yield "```mermaid\nstateDiagram-v2"
    yield from (f"    [*] --> {state}" for state in sorted(initial))
    yield from (f"    {before} --> {after} : {event}" for (before, event), after in table.items())
    yield from (f"    {state} --> [*]" for state in final)
    yield "```"
