"""The thread that looks after what is inside machines: who answers there, and whether anybody uses them.

Apart from the watch, which must not wait for guests: each of them may be silent, slow or hostile.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

from hosts.agent import gpu_errors, guest
from hosts.agent.guest import GuestWord
from hosts.agent.machines import HypervisorError, MachineFacts
from hosts.agent.rig import Rig
from hosts.agent.use import Sample, Seen
from hosts.protocol.guests import Answers, GuestErrors, GuestFacts, Guests

log = logging.getLogger(__name__)

SSH = 22
GREETING_SECONDS = 2.0
# A guest that has answered, or has kept one waiting, is left in peace so long.
PAUSE_SECONDS = 60.0
WAITED_SECONDS = 1.0
# So many may keep one waiting at a time.
ASKERS = 4
MOST_IN_A_REPORT = 64


@dataclass
class _Known:
    """What is known of one run of a machine."""

    run: int
    word: GuestWord | None = None
    answers: Answers = "none"
    ask_at: float = 0.0
    looks_for_errors: bool = True
    looking: int | None = None
    told: GuestFacts | None = field(default=None)


class GuestWatch:
    """Looks into machines every `guest_seconds`. `clock` is a monotonic one, in seconds."""

    def __init__(self, rig: Rig, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rig = rig
        self._clock = clock
        self._known: dict[UUID, _Known] = {}
        self._repeat_at = 0.0
        self._ended = threading.Event()
        self._askers = ThreadPoolExecutor(ASKERS, thread_name_prefix="guest")
        self._thread = threading.Thread(target=self._run, name="guests", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, *, seconds: float) -> None:
        self._ended.set()
        self._askers.shutdown(wait=False, cancel_futures=True)
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self.look()
            except HypervisorError as error:
                log.warning("Could not look into machines: %s", error)
            except Exception:
                if not self._ended.is_set():
                    log.exception("Could not look into machines")
            self._ended.wait(self._rig.config.guest_seconds)

    def look(self) -> None:
        """One round: ask who is due to be asked, look for use, report what is new."""
        machines = self._running()
        self._known = {lease_id: self._of_this_run(facts, lease_id) for lease_id, facts in machines.items()}
        due = [lease_id for lease_id in machines if self._known[lease_id].ask_at <= self._clock()]
        list(self._askers.map(lambda lease_id: self._ask(machines[lease_id], lease_id), due))
        self._report(self._facts(facts, lease_id) for lease_id, facts in machines.items())

    def _running(self) -> dict[UUID, MachineFacts]:
        on = {machine.lease_id for machine in self._rig.machines.kept() if machine.state == "on"}
        found = self._rig.hypervisor.machines()
        return {facts.lease_id: facts for facts in found if facts.is_active and facts.lease_id in on}

    def _of_this_run(self, facts: MachineFacts, lease_id: UUID) -> _Known:
        """A machine that was started anew has yet to answer."""
        known = self._known.get(lease_id)
        return known if known is not None and known.run == facts.run else _Known(facts.run)

    def _ask(self, facts: MachineFacts, lease_id: UUID) -> None:
        known, began = self._known[lease_id], self._clock()
        known.word = guest.ask(self._rig.hypervisor, facts.name)
        if known.word is not None:
            known.answers = "agent"
        else:
            known.answers = "ssh" if self._greets_by_ssh(lease_id) else "none"
        if known.word is not None and self._rig.config.read_gpu_errors and known.looks_for_errors:
            self._look_for_errors(facts.name, lease_id, known)
        rests = known.answers != "none" or self._clock() - began > WAITED_SECONDS
        known.ask_at = self._clock() + (PAUSE_SECONDS if rests else 0.0)

    def _look_for_errors(self, name: str, lease_id: UUID, known: _Known) -> None:
        """What was asked for the last time is told now, and it is asked again; nobody waits for it."""
        if known.looking is not None:
            self._tell_errors(lease_id, gpu_errors.result(self._rig.hypervisor, name, known.looking))
        known.looking = gpu_errors.begin(self._rig.hypervisor, name)
        known.looks_for_errors = known.looking is not None

    def _tell_errors(self, lease_id: UUID, lines: list[gpu_errors.Line]) -> None:
        with self._rig.journal.transaction():
            machine = self._rig.machines.get(lease_id)
            if machine is None or machine.state != "on" or self._rig.spool.spoken < GuestErrors.SINCE:
                return
            gpus = machine.provision.gpus if machine.provision else ()
            if news := self._rig.errors_told.news(lease_id, lines, gpus):
                told = GuestErrors(lease_id=lease_id, errors=tuple(news))
                self._rig.spool.add(told, self._rig.spool.host_origin)

    def _greets_by_ssh(self, lease_id: UUID) -> bool:
        """A forwarded port may be open although nobody answers behind it: an SSH server speaks first."""
        lane = self._rig.lanes.get(lease_id)
        place = self._rig.network.way_to(lane, SSH) if lane is not None and lane.is_open else None
        return place is not None and _greets(place)

    def _facts(self, facts: MachineFacts, lease_id: UUID) -> GuestFacts:
        known = self._known[lease_id]
        word = known.word or GuestWord()
        try:
            seen = self._look_for_use(facts, lease_id, known.word)
        except HypervisorError as error:
            log.warning("Whether %s is used cannot be seen now: %s", facts.name, error)
            seen = None
        return GuestFacts(
            lease_id=lease_id,
            answers=known.answers,
            hostname=word.hostname,
            system=word.system,
            addresses=word.addresses,
            use=seen.use if seen else "unknown",
            used_at=seen.used_at if seen else None,
        )

    def _look_for_use(self, facts: MachineFacts, lease_id: UUID, word: GuestWord | None) -> Seen | None:
        seen = self._rig.uses.get(lease_id)
        if seen is None or seen.is_settled:
            return seen
        counters = self._rig.hypervisor.counters(facts.name)
        consoles = [session for session, lease in self._rig.consoles.open_sessions() if lease == lease_id]
        sample = Sample(
            at=self._rig.clock(),
            processor_seconds=counters.processor_seconds,
            network_bytes=counters.network_bytes,
            consoles=len(consoles),
            people=word.people if word else None,
            hidden=_has_ways_of_its_own(facts),
        )
        return self._rig.uses.note(lease_id, sample)

    def _report(self, found: Iterable[GuestFacts]) -> None:
        """What is new, and every so often what is still watched; not to a portal that has no words for it."""
        if self._rig.spool.spoken < Guests.SINCE:
            return
        repeats = self._clock() >= self._repeat_at
        if repeats:
            self._repeat_at = self._clock() + PAUSE_SECONDS
        news = [
            facts
            for facts in found
            if self._known[facts.lease_id].told != facts or (repeats and facts.use == "none")
        ]
        for first in range(0, len(news), MOST_IN_A_REPORT):
            told = tuple(news[first : first + MOST_IN_A_REPORT])
            self._rig.spool.add(Guests(guests=told), self._rig.spool.host_origin)
        for facts in news:
            self._known[facts.lease_id].told = facts


def _has_ways_of_its_own(facts: MachineFacts) -> bool:
    """USB devices, or cards with more than display and sound: keyboards may be plugged in there."""
    whole = {address[:-1] for address in facts.pci_addresses if address.endswith(".0")}
    return bool(facts.usb) or any(
        address[:-1] in whole and address[-1] not in "01" for address in facts.pci_addresses
    )


def _greets(place: tuple[str, int]) -> bool:
    with suppress(OSError), socket.create_connection(place, GREETING_SECONDS) as connection:
        connection.settimeout(GREETING_SECONDS)
        return connection.recv(4) == b"SSH-"
    return False
