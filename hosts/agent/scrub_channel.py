"""Listens to a scrub machine: lines of JSON over virtio-serial, each with the nonce of this one run.

A line with another nonce, or that is not understood, ends the listening: a result of another run, or one that
somebody made up, is never taken for this one's.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hosts.agent.scrubber import Progress, ScrubFailed

LONGEST_LINE = 16 * 1024
PHASES = ("fill", "read", "zero", "check")
_Bytes = Annotated[int, Meta(ge=0, le=2**53)]
_Short = Annotated[str, Meta(max_length=200)]
_Seconds = Annotated[float, Meta(ge=0)]


class PhaseSeconds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long it took to write a pattern, to read it back, to write zeros, and to read those."""

    fill: _Seconds
    read: _Seconds
    zero: _Seconds
    check: _Seconds


class ScrubResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a scrub program says that it did. `first_mismatch` is -1 where all was as written."""

    variant: _Short
    program: _Short
    kernel: _Short
    driver: _Short
    device: _Short
    total_bytes: _Bytes
    reached_bytes: _Bytes
    mismatches: _Bytes
    first_mismatch: Annotated[int, Meta(ge=-1, le=2**53)]
    seconds: PhaseSeconds


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of: progress in a phase, a failure, the result."""

    nonce: _Short
    phase: Literal["", "fill", "read", "zero", "check"] = ""
    done: _Bytes = 0
    total: _Bytes = 0
    failure: Annotated[str, Meta(max_length=500)] = ""
    result: ScrubResult | None = None


@dataclass(frozen=True)
class Patience:
    """In seconds: how long all of it may take, and how long it may be silent meanwhile."""

    whole: float = 3600.0
    silence: float = 180.0


def listen(
    channel: socket.socket,
    nonce: str,
    *,
    patience: Patience,
    progress: Progress,
    clock: Callable[[], float] = time.monotonic,
) -> ScrubResult:
    """What it says up to its result. ScrubFailed if it fails, falls silent, ends, or cannot be trusted."""
    for line in _lines(channel, patience, clock):
        said = _understood(line)
        if said.nonce != nonce:
            raise ScrubFailed("The scrub machine answers for another run: what it says is stale or forged.")
        if said.failure:
            raise ScrubFailed(f"The scrub machine says: {said.failure}")
        if said.result is not None:
            return said.result
        if said.phase:
            passed = PHASES.index(said.phase)
            progress(passed * said.total + said.done, len(PHASES) * said.total)
    raise ScrubFailed("The scrub machine ended without a result.")


def _lines(channel: socket.socket, patience: Patience, clock: Callable[[], float]) -> Iterator[bytes]:
    deadline, received = clock() + patience.whole, b""
    while part := _receive(channel, patience, deadline - clock()):
        *lines, received = (received + part).split(b"\n")
        yield from lines
        if len(received) > LONGEST_LINE:
            raise ScrubFailed("The scrub machine says more than anybody would listen to.")


def _receive(channel: socket.socket, patience: Patience, left: float) -> bytes:
    late = ScrubFailed(f"The scrub machine was not done within {patience.whole:g} s.")
    if left <= 0:
        raise late
    channel.settimeout(min(left, patience.silence))
    try:
        return channel.recv(4096)
    except TimeoutError:
        if left <= patience.silence:
            raise late from None
        raise ScrubFailed(f"The scrub machine has said nothing for {patience.silence:g} s.") from None
    except OSError as error:
        raise ScrubFailed(f"The channel to the scrub machine broke: {error.strerror}.") from error


def _understood(line: bytes) -> _Line:
    try:
        return msgspec.json.decode(line, type=_Line)
    except msgspec.MsgspecError as error:
        raise ScrubFailed(f"The scrub machine says what cannot be understood: {error}") from error
