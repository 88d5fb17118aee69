"""Whether anybody has used a machine, seen from outside. Pure rules; the journal keeps what was seen.

Any sign counts, also a doubtful one: what is in use must not be given back. That there was none is said only
of a machine that was watched from its first start on without a break.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from hosts.agent.journal import Journal
from hosts.protocol.guests import Use

# A minute's traffic of a machine that nobody uses stays below: it asks for its address, the time, names. One
# who signs in by SSH needs more: at least 7 kB through the tap device, with today's programs 9.
USED_BYTES = 6 * 1024
# A machine that starts is busy with itself so long.
SETTLES = timedelta(minutes=10)
USED_PROCESSOR_SHARE = 0.3
WINDOW = timedelta(minutes=1)
# Who is signed in is seen in moments only: they may not be further apart, where that alone shows use.
LONGEST_BLINK = timedelta(minutes=2)


class Sample(msgspec.Struct, frozen=True):
    """What is seen at a moment. Counters are since the machine's start; None is what cannot be seen.

    `hidden`: it has devices by which somebody may use it without a trace outside.
    """

    at: datetime
    processor_seconds: float
    network_bytes: int | None
    consoles: int
    people: int | None
    hidden: bool = False


class Seen(msgspec.Struct, frozen=True):
    """What is known of a machine so far. `marks` are (moment, processor seconds, bytes), a window apart."""

    began_at: datetime
    last_at: datetime
    marks: tuple[tuple[datetime, float, int], ...]
    use: Use = "none"
    used_at: datetime | None = None

    @property
    def is_settled(self) -> bool:
        """Nothing that comes will change it."""
        return self.use != "none"


def begin(at: datetime) -> Seen:
    """A machine is started for the first time; its counters begin at zero."""
    return Seen(began_at=at, last_at=at, marks=((at, 0.0, 0),))


def watch(seen: Seen, sample: Sample) -> Seen:
    """What is known after one more look."""
    if seen.is_settled:
        return seen
    if sign := _sign(seen, sample):
        return msgspec.structs.replace(seen, use=sign, used_at=sample.at)
    if _may_have_missed(seen, sample):
        return msgspec.structs.replace(seen, use="unknown")
    marks = seen.marks
    if sample.at - marks[-1][0] >= WINDOW:
        # Two are kept, so that what happens around one of them is not cut in half.
        marks = (*marks[-1:], (sample.at, sample.processor_seconds, sample.network_bytes or 0))
    return msgspec.structs.replace(seen, last_at=sample.at, marks=marks)


def _sign(seen: Seen, sample: Sample) -> Use | None:
    if sample.consoles:
        return "console"
    if sample.people:
        return "person"
    at, processor, network = seen.marks[0]
    if sample.network_bytes is not None and sample.network_bytes - network >= USED_BYTES:
        return "network"
    busy, passed = sample.processor_seconds - processor, (sample.at - at).total_seconds()
    if at - seen.began_at >= SETTLES and passed > 0 and busy / passed >= USED_PROCESSOR_SHARE:
        return "processor"
    return None


def _may_have_missed(seen: Seen, sample: Sample) -> bool:
    """Its network cannot be watched; it was started anew meanwhile; or its people were not looked for."""
    _at, processor, network = seen.marks[-1]
    if sample.network_bytes is None or sample.network_bytes < network or sample.processor_seconds < processor:
        return True
    late = sample.at < seen.last_at or sample.at - seen.last_at > LONGEST_BLINK
    return sample.hidden and (sample.people is None or late)


class Uses:
    """The journal's notes of use, by lease."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._latest: dict[UUID, Seen] = {}

    def get(self, lease_id: UUID) -> Seen | None:
        with self._journal.transaction():
            if lease_id not in self._latest and (text := self._journal.recall(_key(lease_id))):
                self._latest[lease_id] = msgspec.json.decode(text, type=Seen)
            return self._latest.get(lease_id)

    def begin(self, lease_id: UUID, at: datetime) -> None:
        """Its machine was started for the first time; or anew, and then what was in between is not known."""
        with self._journal.transaction():
            before = self.get(lease_id)
            if before is None:
                self._put(lease_id, begin(at))
            elif not before.is_settled:
                self._put(lease_id, msgspec.structs.replace(before, use="unknown"))

    def note(self, lease_id: UUID, sample: Sample) -> Seen | None:
        """What is known after one more look. Written is what has to outlive this program."""
        with self._journal.transaction():
            before = self.get(lease_id)
            if before is None:
                return None
            after = watch(before, sample)
            self._latest[lease_id] = after
            if (after.marks, after.use) != (before.marks, before.use):
                self._put(lease_id, after)
            return after

    def drop(self, lease_id: UUID) -> None:
        with self._journal.transaction():
            self._latest.pop(lease_id, None)
            self._journal.execute("DELETE FROM meta WHERE key = ?", _key(lease_id))

    def _put(self, lease_id: UUID, seen: Seen) -> None:
        self._latest[lease_id] = seen
        self._journal.remember(_key(lease_id), msgspec.json.encode(seen).decode())


def _key(lease_id: UUID) -> str:
    return f"use:{lease_id}"
