"""What may go wrong below the agent, each on demand: power, journal, hypervisor, disks, packet filter."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args
from uuid import UUID

from hosts.agent.disks import DiskError
from hosts.agent.domain_facts import read_facts
from hosts.agent.homes import VOLUME_SUFFIX, Pool
from hosts.agent.journal import Journal
from hosts.agent.machines import GuestSilent, HypervisorError, MachineFacts, MachineState
from hosts.agent.network.ways import NetworkError
from tests.agent.campaign.strands import FOR_EVER, Strands
from tests.agent.fake_filter import FakeFilter
from tests.agent.fake_machines import FakeMachines

T = TypeVar("T")
# A call is refused, carried out and then refused, said to be carried out; or before or after it is carried
# out the power fails, a while passes, or time without end.
Mood = Literal[
    "refuse", "refuse-after", "lie", "cut-before", "cut-after",
    "delay", "delay-after", "hang", "hang-after",
]  # fmt: skip
# What a machine's definition says of each card: its address, and the lease that the journal gave it to.
GIVEN = "given"
# What is in a guest: nobody, somebody who does as they are told, or somebody who does not.
Guest = Literal["silent", "honest", "lies", "garbage", "endless", "refuse"]
GUESTS: tuple[Guest, ...] = get_args(Guest)
MOODS: tuple[Mood, ...] = get_args(Mood)


@dataclass
class Trouble:
    """What is still to go wrong. Counts are of commits that change something.

    `delay` is how long slow calls take, in seconds. `happened` counts what did go wrong.
    """

    strands: Strands
    cut_after_commits: int = 0
    full_for_commits: int = 0
    disk_full: int = 0
    hypervisor_away: bool = False
    delay: float = 60.0
    kernel: str = "6.1.0-1"
    guest: Guest = "silent"
    moods: dict[str, list[Mood]] = field(default_factory=lambda: defaultdict(list))
    homes_made: Counter[str] = field(default_factory=Counter)
    happened: Counter[str] = field(default_factory=Counter)

    @property
    def is_ahead(self) -> bool:
        counts = self.cut_after_commits + self.full_for_commits + self.disk_full
        return bool(counts or self.hypervisor_away or any(self.moods.values()))

    def clear(self) -> None:
        self.cut_after_commits = self.full_for_commits = self.disk_full = 0
        self.hypervisor_away = False
        self.moods.clear()

    def note(self, fault: str) -> None:
        """It has happened."""
        self.happened[fault] += 1

    def around(
        self, operation: str, carry_out: Callable[[], T], failure: Callable[[str], Exception]
    ) -> T | None:
        """Carry the operation out, in whatever mood it is."""
        moods = self.moods[operation]
        if not moods:
            return carry_out()
        mood = moods.pop()
        self.note(f"{operation} {mood}")
        before = mood if not mood.endswith("-after") else ""
        if before == "lie":
            return None
        self._suffer(before.removesuffix("-before"), operation, failure)
        result = carry_out()
        self._suffer("" if before else mood.removesuffix("-after"), operation, failure)
        return result

    def _suffer(self, what: str, operation: str, failure: Callable[[str], Exception]) -> None:
        match what:
            case "refuse":
                raise failure(f"Cannot {operation}: internal error.")
            case "cut":
                self.strands.cut()
            case "delay":
                self.strands.wait(self.delay)
            case "hang":
                self.strands.wait(FOR_EVER)


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
                self._trouble.happened["journal full"] += 1
                raise sqlite3.OperationalError("database or disk is full")
        if changed and self._trouble.cut_after_commits:
            self._trouble.cut_after_commits -= 1
            if not self._trouble.cut_after_commits:
                self._trouble.happened["journal cut-after"] += 1
                self._trouble.strands.cut()

    @property
    def is_held(self) -> bool:
        """Whether somebody is in a transaction."""
        return bool(self._depth)


class MoodyMachines(FakeMachines):
    """A hypervisor with moods, that knows which cards each machine was given and refuses what libvirt would.

    `wrongs` are promises that were broken, as it saw them.
    """

    def __init__(self, directory: Path, trouble: Trouble) -> None:
        super().__init__(directory)
        self.trouble = trouble
        self.wrongs: list[str] = []
        self.given: dict[str, frozenset[str]] = {}
        self.gone: set[UUID] = set()
        self.relatives: Callable[[str], set[str]] = lambda address: {address}

    def define(self, xml: str, *, disk_key: bytes | None = None, home_key: bytes | None = None) -> None:
        facts = read_facts(xml, MachineState.OFF)

        def carry_out() -> None:
            super(MoodyMachines, self).define(xml, disk_key=disk_key, home_key=home_key)
            given = dict(re.findall(rf'{GIVEN}="([^ ]+) of ([^"]+)"', xml))
            self.given[facts.name] = frozenset(given)
            for address, lease_id in given.items():
                if lease_id != str(facts.lease_id):
                    self.wrongs.append(f"{address} of lease {lease_id} was given to {facts.name}")

        self._in_mood("define", carry_out)

    def start(self, name: str) -> None:
        self._in_mood("start", lambda: self._start(name))

    def _start(self, name: str) -> None:
        mine = {relative for address in self.given[name] for relative in self.relatives(address)}
        taken = [other.name for other in self._others(name) if self.cards_of(other) & mine]
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

    def ask_guest(self, name: str, command: str, arguments: Mapping[str, Any], *, seconds: int) -> str:
        """Whoever leases the machine answers, in whatever way they like."""
        guest = self.trouble.guest
        self.trouble.note(f"guest-agent {guest}")
        if guest == "refuse":
            raise HypervisorError(f"Cannot ask the guest of {name}: the command is not allowed.")
        if guest == "silent":
            self.trouble.strands.wait(seconds)
            raise GuestSilent(f"The guest of {name} does not answer {command}.")
        if guest == "honest" and command == "guest-shutdown":
            self.shutdown(name)
        return {"garbage": "}{", "endless": "[" * 300_000}.get(guest, '{"return": {}}')

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
            self.trouble.happened["libvirt away"] += 1
            raise HypervisorError(f"Cannot {operation}: the connection is gone.")
        return self.trouble.around(operation, carry_out, HypervisorError)


class MoodyFilter(FakeFilter):
    """A packet filter that may refuse, or be all that was written before the power failed."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__()
        self.trouble = trouble

    def __call__(self, rules: Mapping[str, Any] | None) -> str:
        if rules is None:
            return super().__call__(rules)
        return (
            self.trouble.around("nft", lambda: super(MoodyFilter, self).__call__(rules), NetworkError) or ""
        )


def make_home(trouble: Trouble) -> Callable[..., None]:
    """Instead of the programs: a file system in a file, while there is room for it."""

    def make(_pool: Pool, path: Path, **_: object) -> None:
        _refuse_if_full(trouble)
        trouble.around("mkfs", lambda: path.write_bytes(b"QFI\xfb"), DiskError)
        trouble.homes_made[path.name] += 1

    return make


def qemu_img(trouble: Trouble) -> Callable[..., None]:
    """Instead of the program: an empty disk, while there is room for it."""

    def make(*arguments: str, pass_fds: tuple[int, ...] = ()) -> None:
        _refuse_if_full(trouble)
        disk = arguments[-1] if arguments[0] == "convert" else arguments[-2]
        trouble.around("qemu-img", lambda: Path(disk).write_bytes(b"QFI\xfb"), DiskError)

    return make


def _refuse_if_full(trouble: Trouble) -> None:
    if trouble.disk_full:
        trouble.disk_full -= 1
        trouble.happened["disk full"] += 1
        raise DiskError("No space left on device")
