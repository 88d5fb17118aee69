"""What may go wrong below the agent, each on demand: power, journal, hypervisor, disks, clock."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar
from uuid import UUID

from hosts.agent.disks import DiskError
from hosts.agent.domain_facts import read_facts
from hosts.agent.homes import VOLUME_SUFFIX, Pool
from hosts.agent.journal import Journal
from hosts.agent.machines import HypervisorError, MachineFacts, MachineState
from hosts.agent.network.ways import NetworkError
from tests.agent.fake_filter import FakeFilter
from tests.agent.fake_machines import FakeMachines

T = TypeVar("T")
# A call is refused, carried out and then refused, said to be carried out, or the power fails around it.
Mood = Literal["refuse", "refuse-after", "lie", "cut-before", "cut-after"]
START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


class PowerCut(BaseException):
    """The worker's process ends here: nothing of it runs any more. Not an Exception, so nobody handles it."""


@dataclass
class Clock:
    """Time passes only when somebody waits, or says so. The host's own clock may be wrong by `skew`."""

    now: datetime = START
    skew: timedelta = timedelta()
    elapsed: float = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.elapsed += seconds

    def monotonic(self) -> float:
        return self.elapsed

    @property
    def on_the_host(self) -> datetime:
        return self.now + self.skew


@dataclass
class Trouble:
    """What is still to go wrong. Counts are of commits that change something."""

    cut_after_commits: int = 0
    full_for_commits: int = 0
    disk_full: int = 0
    hypervisor_away: bool = False
    moods: dict[str, list[Mood]] = field(default_factory=lambda: defaultdict(list))
    homes_made: Counter[str] = field(default_factory=Counter)

    @property
    def is_ahead(self) -> bool:
        counts = self.cut_after_commits + self.full_for_commits + self.disk_full
        return bool(counts or self.hypervisor_away or any(self.moods.values()))

    def clear(self) -> None:
        self.cut_after_commits = self.full_for_commits = self.disk_full = 0
        self.hypervisor_away = False
        self.moods.clear()


class BrittleJournal(Journal):
    """A journal whose disk fills up, and whose commits may be the last thing before the power fails."""

    def __init__(self, path: Path, trouble: Trouble) -> None:
        self._trouble = trouble
        try:
            super().__init__(path)
        except BaseException:  # the process would end, and its lock with it
            self._connection.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[None]:
        outermost, before = not self._depth, self._connection.total_changes
        with super().transaction():
            yield
            changed = outermost and self._connection.total_changes > before
            if changed and self._trouble.full_for_commits:
                self._trouble.full_for_commits -= 1
                raise sqlite3.OperationalError("database or disk is full")
        if changed and self._trouble.cut_after_commits:
            self._trouble.cut_after_commits -= 1
            if not self._trouble.cut_after_commits:
                raise PowerCut


class MoodyMachines(FakeMachines):
    """A hypervisor with moods, that knows which cards each machine was given and refuses what libvirt would.

    `wrongs` are promises that were broken, as it saw them.
    """

    def __init__(self, directory: Path, trouble: Trouble) -> None:
        super().__init__(directory)
        self.trouble = trouble
        self.wrongs: list[str] = []
        self.given: dict[str, frozenset[str]] = {}
        self.being_given: list[tuple[str, UUID | None]] = []
        self.gone: set[UUID] = set()

    def define(self, xml: str, *, disk_key: bytes | None = None, home_key: bytes | None = None) -> None:
        facts = read_facts(xml, MachineState.OFF)

        def carry_out() -> None:
            super(MoodyMachines, self).define(xml, disk_key=disk_key, home_key=home_key)
            self.given[facts.name] = frozenset(address for address, _ in self.being_given)
            for address, lease_id in self.being_given:
                if lease_id != facts.lease_id:
                    self.wrongs.append(f"{address} of lease {lease_id} was given to {facts.name}")

        self._in_mood("define", carry_out)

    def start(self, name: str) -> None:
        self._in_mood("start", lambda: self._start(name))

    def _start(self, name: str) -> None:
        taken = [other.name for other in self._others(name) if self.cards_of(other) & self.given[name]]
        if any(other not in self.given for other in taken):
            raise HypervisorError(f"Cannot start {name}: its card is in use by {', '.join(taken)}.")
        self.wrongs += [f"{name} was started with a card of {other}" for other in taken]
        if home := self._home_of(name):
            sharing = [other.name for other in self._others(name) if self._home_of(other.name) == home]
            self.wrongs += [f"{name} was started with the home of {other}" for other in sharing]
        facts = self._get(name)
        if facts.lease_id in self.gone:
            self.wrongs.append(f"{name} was started after it was gone")
        super().start(name)

    def _home_of(self, name: str) -> str:
        """The file of its home volume, if it has one."""
        found = re.search(rf"[^/]*{re.escape(VOLUME_SUFFIX)}", self._xml.get(name, ""))
        return found[0] if found else ""

    def cards_of(self, facts: MachineFacts) -> frozenset[str]:
        return self.given.get(facts.name, facts.pci_addresses)

    def _others(self, name: str) -> list[MachineFacts]:
        return [facts for facts in self._machines.values() if facts.is_active and facts.name != name]

    def shutdown(self, name: str) -> None:
        self._in_mood("shutdown", lambda: super(MoodyMachines, self).shutdown(name))

    def destroy(self, name: str) -> None:
        self._in_mood("destroy", lambda: super(MoodyMachines, self).destroy(name))

    def undefine(self, name: str) -> None:
        self._in_mood("undefine", lambda: super(MoodyMachines, self).undefine(name))

    def make_network(self, xml: str) -> None:
        self._in_mood("make_network", lambda: super(MoodyMachines, self).make_network(xml))

    def remove_network(self, lease_id: UUID) -> None:
        self._in_mood("remove_network", lambda: super(MoodyMachines, self).remove_network(lease_id))

    def networks(self) -> dict[UUID, int]:
        if self.trouble.hypervisor_away:
            raise HypervisorError("Cannot list the networks: the connection is gone.")
        return super().networks()

    def machines(self) -> list[MachineFacts]:
        return self._in_mood("machines", super().machines) or []

    def remove_foreign(self, name: str) -> None:
        self._machines.pop(name, None)

    def all(self) -> list[MachineFacts]:
        """As they are, whatever the mood."""
        return list(self._machines.values())

    def _in_mood(self, operation: str, carry_out: Callable[[], T]) -> T | None:
        if self.trouble.hypervisor_away:
            raise HypervisorError(f"Cannot {operation}: the connection is gone.")
        moods = self.trouble.moods[operation]
        mood = moods.pop() if moods else None
        if mood == "cut-before":
            raise PowerCut
        if mood == "refuse":
            raise HypervisorError(f"Cannot {operation}: internal error.")
        if mood == "lie":
            return None
        result = carry_out()
        if mood == "refuse-after":
            raise HypervisorError(f"Cannot {operation}: the connection was lost meanwhile.")
        if mood == "cut-after":
            raise PowerCut
        return result


class MoodyFilter(FakeFilter):
    """A packet filter that may refuse, or be all that was written before the power failed."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__()
        self.trouble = trouble

    def __call__(self, rules: Mapping[str, Any] | None) -> str:
        moods = self.trouble.moods["nft"]
        mood = moods.pop() if moods and rules is not None else None
        if mood == "cut-before":
            raise PowerCut
        if mood == "refuse":
            raise NetworkError("nft refused the packet filter: Device or resource busy")
        said = super().__call__(rules)
        if mood == "cut-after":
            raise PowerCut
        return said


def make_home(trouble: Trouble) -> Callable[..., None]:
    """Instead of the programs: a file system in a file, while there is room for it."""

    def make(_pool: Pool, path: Path, **_: object) -> None:
        if trouble.disk_full:
            trouble.disk_full -= 1
            raise DiskError("mkfs.ext4 failed: No space left on device")
        path.write_bytes(b"QFI\xfb")
        trouble.homes_made[path.name] += 1

    return make


def qemu_img(trouble: Trouble) -> Callable[..., None]:
    """Instead of the program: an empty disk, while there is room for it."""

    def make(*arguments: str, pass_fds: tuple[int, ...] = ()) -> None:
        if trouble.disk_full:
            trouble.disk_full -= 1
            raise DiskError("qemu-img create failed: No space left on device")
        disk = arguments[-1] if arguments[0] == "convert" else arguments[-2]
        Path(disk).write_bytes(b"QFI\xfb")

    return make
