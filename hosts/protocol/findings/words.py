"""From a verdict's codes to sentences. Whoever knows another language brings its translation along."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hosts.protocol.checkup import Check


@dataclass(frozen=True)
class Outcome:
    """`finding` says how it is, `change` what to do; `lines` are to be typed or written as they stand."""

    finding: str
    change: str = ""
    lines: str = ""


@dataclass(frozen=True)
class Topic:
    """What is looked at, why it matters, and everything that may be found."""

    title: str
    why: str
    outcomes: Mapping[str, Outcome]


@dataclass(frozen=True)
class Words:
    """A verdict as a reader sees it."""

    title: str
    finding: str
    why: str
    change: str
    lines: str

    @property
    def advice(self) -> str:
        """What was found and what to do about it, in one line."""
        return " ".join(filter(None, (self.finding, self.change, *self.lines.splitlines())))


class _Facts(dict[str, str]):
    """A fact that is not told is a question mark, never an error."""

    def __missing__(self, name: str) -> str:
        return "?"


def marked(text: str) -> str:
    """The text itself: its name, imported as `_`, has it collected for translation."""
    return text


def put_in_words(
    check: Check, topics: Mapping[str, Topic], *, translate: Callable[[str], str] = marked
) -> Words:
    """Whatever a newer host has found that is not known here keeps its codes for words."""
    topic = topics.get(check.code)
    outcome = topic.outcomes.get(check.outcome) if topic else None
    facts = _Facts(check.facts)
    if topic is None or outcome is None:
        told = ", ".join(f"{name}: {value}" for name, value in check.facts.items())
        return Words(check.code, f"{check.outcome} ({told})" if told else check.outcome, "", "", "")
    return Words(
        title=translate(topic.title),
        finding=translate(outcome.finding) % facts,
        why=translate(topic.why),
        change=translate(outcome.change) % facts if outcome.change else "",
        lines=outcome.lines % facts,
    )
