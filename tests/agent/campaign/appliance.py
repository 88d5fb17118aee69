"""What runs in a history's scrub machines: it clears the card and says so, or behaves as badly as it can."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from hosts.agent.machines import MachineHost
from hosts.agent.scrub_channel import PHASES
from tests.agent.campaign.strands import FOR_EVER, Strands

# It takes its time and does what it should; or it says that it failed, does nothing and says otherwise,
# clears but a half, finds mismatches, scrubs another card, answers for another run, talks nonsense, ends
# early, breaks off, falls silent, is never done, or hangs.
Manner = Literal[
    "delay", "fails", "lies", "partial", "mismatches", "other-device", "stale", "garbage", "ends", "breaks",
    "silent", "endless", "hang",
]  # fmt: skip
MANNERS: tuple[Manner, ...] = get_args(Manner)
# How long slow ones take for a phase.
PHASE_SECONDS = {"delay": 100.0, "endless": 100.0}


@dataclass
class Appliances:
    """The next scrub machines behave as `manners` say; `clear` writes zeros to so much of a card's memory."""

    strands: Strands
    clear: Callable[[str, float], None]
    describe: Callable[[str], tuple[str, int]]
    note: Callable[[str], None]
    manners: list[Manner] = field(default_factory=list)

    @contextmanager
    def open_channel(self, host: MachineHost, name: str, channel: str, **_: Any) -> Iterator[Channel]:
        """Instead of the real one."""
        host.channel_socket(name, channel)
        facts = next(facts for facts in host.machines() if facts.name == name)
        nonce = re.search(r"leasehold\.nonce=([0-9a-f]+)", host.xml(name))  # type: ignore[attr-defined]
        assert nonce is not None
        manner = self.manners.pop() if self.manners else None
        if manner:
            self.note(f"scrub-machine {manner}")
        yield Channel(self.strands, self._lines(facts.scrubs, nonce[1], manner))

    def _lines(self, address: str, nonce: str, manner: Manner | None) -> Iterator[bytes | float]:
        """What it says, and for how many seconds it says nothing."""
        if manner == "hang":
            yield FOR_EVER
        if manner == "silent":
            yield 1e6
        if manner not in ("lies", "ends", "garbage"):
            self.clear(address, 0.5 if manner == "partial" else 1.0)
        while True:
            for phase in PHASES:
                yield PHASE_SECONDS.get(manner or "", 0.0)
                yield _line(nonce, phase=phase, done=1, total=1)
            if manner != "endless":
                break
        yield from self._end(address, nonce, manner)

    def _end(self, address: str, nonce: str, manner: Manner | None) -> Iterator[bytes]:
        match manner:
            case "ends":
                return
            case "breaks":
                raise ConnectionResetError(104, "Connection reset by peer")
            case "garbage":
                yield b"\xff{]\n"
            case "fails":
                yield _line(nonce, failure="The driver refuses the card.")
        device, size = self.describe(address)
        yield _line(
            "0" * 32 if manner == "stale" else nonce,
            result={
                "variant": "plain",
                "program": "1",
                "kernel": "6.1.0-test",
                "driver": "none",
                "device": "1234:ffff" if manner == "other-device" else device,
                "total_bytes": size,
                "reached_bytes": size,
                "mismatches": 3 if manner == "mismatches" else 0,
                "first_mismatch": 17 if manner == "mismatches" else -1,
                "seconds": dict.fromkeys(PHASES, 0.25),
            },
        )


@dataclass
class Channel:
    """The listener's end of the line, as far as it uses a socket."""

    strands: Strands
    said: Iterator[bytes | float]
    patience: float = 0.0

    def settimeout(self, seconds: float) -> None:
        self.patience = seconds

    def recv(self, _size: int) -> bytes:
        left = self.patience
        for said in self.said:
            if isinstance(said, bytes):
                return said
            if said != FOR_EVER and said >= left:
                self.strands.wait(left)
                raise TimeoutError
            if said:
                self.strands.wait(said)
            left -= said
        return b""


def _line(nonce: str, **said: Any) -> bytes:
    return json.dumps({"nonce": nonce, **said}).encode() + b"\n"
