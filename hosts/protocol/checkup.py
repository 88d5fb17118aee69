"""What `doctor` found on a host: verdicts by code, with what was read.

The words for each code and outcome are in `hosts.protocol.findings`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from hosts.protocol.fields import Code, Count, Message, Short

Verdict = Literal["pass", "warn", "fail", "skip"]
Value = Annotated[str, Meta(max_length=500)]


class Reading(Message, frozen=True, kw_only=True):
    """One thing that was looked at, such as /proc/cmdline, and what it said."""

    source: Short
    value: Value


class Check(Message, frozen=True, kw_only=True):
    """One verdict. `subject` is the address of the card it is about, empty for the host.

    `skip` is for what does not apply here. `facts` fill the words of the outcome.
    """

    code: Code
    outcome: Code
    verdict: Verdict
    subject: Short = ""
    facts: Annotated[dict[Code, Value], Meta(max_length=8)] = {}
    read: Annotated[tuple[Reading, ...], Meta(max_length=8)] = ()


class CheckUp(Message, frozen=True, kw_only=True, tag="check-up"):
    """All verdicts of one look, the worst first. `left_out` counts those that did not fit in."""

    SINCE = 2

    simulated: bool
    checks: Annotated[tuple[Check, ...], Meta(max_length=1000)]
    left_out: Count = 0
