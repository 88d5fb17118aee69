"""How the checks say what they found, cut to what a message may carry."""

from __future__ import annotations

from functools import partial

from hosts.protocol.checkup import Check, Reading, Verdict

VALUE_AT_MOST = 500
SOURCE_AT_MOST = 200
READ_AT_MOST = 8
Read = tuple[str, object]
SIMULATED: Read = ("host.toml", 'bus = "simulated"')


def found(
    verdict: Verdict, code: str, outcome: str, read: Read, /, *more: Read, subject: str = "", **facts: object
) -> Check:
    """`read`, and `more`, are pairs of a source and what it said; `facts` fill the outcome's words."""
    return Check(
        code=code,
        outcome=outcome,
        verdict=verdict,
        subject=subject,
        facts={name: shortened(str(value)) for name, value in facts.items()},
        read=tuple(
            Reading(source=source[:SOURCE_AT_MOST], value=shortened(str(value)))
            for source, value in (read, *more[: READ_AT_MOST - 1])
        ),
    )


passed, warned, failed, skipped = (partial(found, verdict) for verdict in ("pass", "warn", "fail", "skip"))


def shortened(text: str) -> str:
    return text if len(text) <= VALUE_AT_MOST else f"{text[: VALUE_AT_MOST - 1]}…"
