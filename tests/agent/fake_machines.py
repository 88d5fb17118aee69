"""A hypervisor in memory that passes libvirt's contract. There are no guests; it survives the worker."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

from hosts.agent.doctor.facts import Version
from hosts.agent.domain_facts import parse, read_facts
from hosts.agent.machines import (
    ACTIVE,
    Counters,
    GuestSilent,
    HypervisorError,
    MachineFacts,
    MachineState,
    Stop,
    StopCause,
    StopListener,
)
from hosts.agent.network.definition import bridge_number, lease_of_network
from tests.agent.fake_appliance import FakeAppliance

Agent = Callable[[str, Mapping[str, Any]], str]


class FakeMachines:
    """A MachineHost. `creations` counts the starts of each machine; `obeys` is whether guests shut down.

    Calls named in `refuses` fail. `keys` are the disk keys it holds, `home_keys` those of homes;
    `cut` are the machines that were cut off.
    `appliance` answers in scrub machines, `agents` in others, by name; `used` is what they have used.
    """

    keeps_keys = True

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.creations: Counter[str] = Counter()
        self.definitions: Counter[str] = Counter()
        self.obeys = True
        self.refuses: set[str] = set()
        self.keys: dict[str, bytes] = {}
        self.home_keys: dict[str, bytes] = {}
        self.appliance: FakeAppliance | None = None
        self.agents: dict[str, Agent] = {}
        self.used: dict[str, Counters] = {}
        self._xml: dict[str, str] = {}
        self._machines: dict[str, MachineFacts] = {}
        self.cut: list[str] = []
        self._networks: dict[UUID, int] = {}
        self._listeners: list[StopListener] = []
        self._lock = threading.RLock()

    def define(self, xml: str, *, disk_key: bytes | None = None, home_key: bytes | None = None) -> None:
        facts = read_facts(xml, MachineState.OFF)
        with self._lock:
            known = self._machines.get(facts.name)
            if known and known.uuid != facts.uuid:
                raise HypervisorError(f"Cannot define {facts.name}: it exists with another identity.")
            if disk_key is not None:
                self.keys[facts.name] = disk_key
            if home_key is not None:
                self.home_keys[facts.name] = home_key
            self._xml[facts.name] = xml
            self._machines[facts.name] = replace(facts, state=known.state if known else MachineState.OFF)
            self.definitions[facts.name] += 1

    def xml(self, name: str) -> str:
        """The latest definition, kept when it is gone."""
        return self._xml[name]

    def start(self, name: str) -> None:
        self._refuse("start")
        with self._lock:
            if self._get(name).state not in ACTIVE:
                self.creations[name] += 1
                self._set(name, MachineState.RUNNING)
                self._machines[name] = replace(self._machines[name], run=self.creations[name])
                if self.appliance and self._get(name).scrubs:
                    self.appliance.start(self._xml[name], self._channel(name))

    def shutdown(self, name: str) -> None:
        self._refuse("shutdown")
        if self.obeys:
            self.stop_by_itself(name, StopCause.GUEST)

    def reboot(self, name: str) -> None:
        self._require_active(name, "reboot")

    def reset(self, name: str) -> None:
        self._require_active(name, "reset")

    def destroy(self, name: str) -> None:
        self._refuse("destroy")
        self.stop_by_itself(name, StopCause.DESTROYED)

    def undefine(self, name: str) -> None:
        with self._lock:
            if self.state(name) in ACTIVE:
                raise HypervisorError(f"Cannot undefine {name}: it is running.")
            self._machines.pop(name, None)
            self.keys.pop(name, None)
            self.home_keys.pop(name, None)

    def state(self, name: str) -> MachineState:
        with self._lock:
            return self._machines[name].state if name in self._machines else MachineState.ABSENT

    def machines(self) -> list[MachineFacts]:
        self._refuse("machines")
        with self._lock:
            return list(self._machines.values())

    def console_socket(self, name: str) -> Path:
        self._require_active(name, "find the console of")
        return self.directory / name / "vnc.sock"

    def ask_guest(self, name: str, command: str, arguments: Mapping[str, Any], *, seconds: int) -> str:
        if name not in self.agents or self.state(name) not in ACTIVE:
            raise GuestSilent(f"The guest of {name} does not answer {command}.")
        return self.agents[name](command, arguments)

    def counters(self, name: str) -> Counters:
        self._refuse("counters")
        self._require_active(name, "measure")
        return self.used.get(name, Counters(0.0, 0))

    def make_network(self, xml: str) -> None:
        self._refuse("make_network")
        network = parse(xml)
        lease_id = lease_of_network(network.findtext("name", ""))
        bridge = network.find("bridge")
        assert lease_id is not None
        assert bridge is not None
        with self._lock:
            self._networks.setdefault(lease_id, bridge_number(bridge.get("name", "")) or 0)

    def remove_network(self, lease_id: UUID) -> None:
        self._refuse("remove_network")
        self._networks.pop(lease_id, None)

    def networks(self) -> dict[UUID, int]:
        self._refuse("networks")
        return dict(self._networks)

    def cut_off(self, name: str, netdev: str, forwards: Sequence[str]) -> None:
        self.cut.append(name)

    def unanswered(self) -> tuple[str, ...]:
        return ()

    def versions(self) -> tuple[Version, Version]:
        self._refuse("versions")
        return (9, 0, 0), (7, 2, 22)

    def channel_socket(self, name: str, channel: str) -> Path:
        self._require_active(name, f"find {channel} of")
        if f'name="{channel}"' not in self._xml[name]:
            raise HypervisorError(f"Cannot find {channel} of {name}: it is off, or has no such channel.")
        return self._channel(name)

    def _channel(self, name: str) -> Path:
        return self.directory / f"{name}.sock"

    def on_stopped(self, listener: StopListener) -> None:
        self._listeners.append(listener)

    def close(self) -> None:
        """Machines run on; whoever listened is gone."""
        self._listeners.clear()

    def stop_by_itself(self, name: str, cause: StopCause) -> None:
        """The machine stops, and listeners hear of it if it ran."""
        with self._lock:
            if self.state(name) not in ACTIVE:
                return
            self._set(name, MachineState.CRASHED if cause is StopCause.CRASHED else MachineState.OFF)
        for listener in list(self._listeners):
            listener(Stop(name, cause))

    def lose_power(self) -> None:
        """The host goes down: no machine runs any more, and nobody hears of it."""
        with self._lock:
            for name in self._machines:
                self._set(name, MachineState.OFF)

    def add_foreign(self, name: str, facts: MachineFacts) -> None:
        self._machines[name] = facts

    def _get(self, name: str) -> MachineFacts:
        if name not in self._machines:
            raise HypervisorError(f"There is no machine {name}.")
        return self._machines[name]

    def _set(self, name: str, state: MachineState) -> None:
        self._machines[name] = replace(self._get(name), state=state)

    def _require_active(self, name: str, what: str) -> None:
        if self.state(name) not in ACTIVE:
            raise HypervisorError(f"Cannot {what} {name}: it is not running.")

    def _refuse(self, operation: str) -> None:
        if operation in self.refuses:
            raise HypervisorError(f"Cannot {operation}: refused by the test.")
