"""Climbs a card's reset ladder: one rung after the other until the card is verifiably reset and still itself.

A reset does not scrub; it puts firmware and engines into a known state before and after the scrub.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from hosts.agent.bus import BusError, Card, CardBusy, PciBus, ResetFailed, ResetRung, Wedged
from hosts.protocol.messages import ResetRecord

_LONGEST_FAILURE = 200
# A card may need a moment after its reset before it answers.
ANSWER_SECONDS = 5.0
POLL_SECONDS = 0.1


def climb(
    bus: PciBus, card: Card, *, clock: Callable[[], float], sleep: Callable[[float], None] = time.sleep
) -> ResetRecord:
    """Reset the card. `clock` counts seconds.

    CardBusy if somebody has it open; ResetFailed, with every rung's failure, if no rung worked; Wedged at
    once when the kernel hangs, because the next rung would hang on the same lock.
    """
    if found := bus.holders(card):
        raise CardBusy(f"{card.address} is not reset: {', '.join(found)} has it open.")
    started = clock()
    failures: list[str] = []
    for rung in bus.reset_rungs(card):
        failure = _try(bus, card, rung, clock, sleep)
        if failure is None:
            return _record(rung, failures, seconds=clock() - started)
        failures.append(f"{rung.method}: {failure}"[:_LONGEST_FAILURE])
    tried = " ".join(failures) or "The card offers no way to be reset."
    raise ResetFailed(f"{card.address} could not be reset; the host needs a power cycle. {tried}")


def _record(rung: ResetRung, failures: list[str], *, seconds: float) -> ResetRecord:
    return ResetRecord(
        method=rung.method,
        scope=rung.scope,
        seconds=round(seconds, 3),
        attempts=len(failures) + 1,
        failures=tuple(failures),
    )


def _try(
    bus: PciBus, card: Card, rung: ResetRung, clock: Callable[[], float], sleep: Callable[[float], None]
) -> str | None:
    """Why the rung did not work, or None."""
    try:
        rung.run()
        if because := _dead_after_a_while(bus, card, clock, sleep):
            return f"it is dead afterwards: {because}."
        if not bus.is_bound(card):
            return "it is no longer in VFIO's hands afterwards."
    except Wedged:
        raise
    except BusError as error:
        return str(error)
    return None


def _dead_after_a_while(
    bus: PciBus, card: Card, clock: Callable[[], float], sleep: Callable[[float], None]
) -> str:
    """Why the card still seems dead when it has had its time to answer; or empty."""
    deadline = clock() + ANSWER_SECONDS
    while (because := bus.dead_because(card)) and clock() < deadline:
        sleep(POLL_SECONDS)
    return because
