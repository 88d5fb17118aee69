"""Machines that exist in memory alone, for tests of plans. It passes the same contract as libvirt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from hosts.agent import domain_facts
from hosts.agent.machines import HypervisorError, MachineFacts, MachineState, Stop, StopCause, StopListener

UP = (MachineState.RUNNING, MachineState.PAUSED)


@dataclass
class FakeMachine:
    xml: str
    state: MachineState = MachineState.OFF
    obeys_power_button: bool = True


class FakeHypervisor:
    """`known` is open to tests, which may set any state; `keys` are the disk keys it holds."""

    keeps_keys = True

    def __init__(self) -> None:
        self.known: dict[str, FakeMachine] = {}
        self.keys: dict[str, bytes] = {}
        self._listeners: list[StopListener] = []

    def define(self, xml: str, *, disk_key: bytes | None = None) -> None:
        facts = domain_facts.read_facts(xml, MachineState.OFF)
        known = self.known.get(facts.name)
        if known and domain_facts.read_facts(known.xml, known.state).uuid != facts.uuid:
            raise HypervisorError(f"Cannot define {facts.name}: it exists with another identity.")
        if disk_key is not None:
            self.keys[facts.name] = disk_key
        self.known[facts.name] = FakeMachine(xml, known.state if known else MachineState.OFF)

    def start(self, name: str) -> None:
        self._existing(name, "start").state = MachineState.RUNNING

    def shutdown(self, name: str) -> None:
        machine = self.known.get(name)
        if machine and machine.obeys_power_button:
            self.stop(name, StopCause.GUEST)

    def reboot(self, name: str) -> None:
        self._running(name, "reboot")

    def reset(self, name: str) -> None:
        self._running(name, "reset")

    def destroy(self, name: str) -> None:
        self.stop(name, StopCause.DESTROYED)

    def undefine(self, name: str) -> None:
        if self.state(name) in UP:
            raise HypervisorError(f"Cannot undefine {name}: it is running.")
        self.known.pop(name, None)
        self.keys.pop(name, None)

    def state(self, name: str) -> MachineState:
        return self.known[name].state if name in self.known else MachineState.ABSENT

    def machines(self) -> list[MachineFacts]:
        return [domain_facts.read_facts(machine.xml, machine.state) for machine in self.known.values()]

    def console_socket(self, name: str) -> Path:
        self._running(name, "find the console of")
        return Path(f"/run/fake/{name}/vnc.sock")

    def on_stopped(self, listener: StopListener) -> None:
        self._listeners.append(listener)

    def close(self) -> None:
        self._listeners.clear()

    def stop(self, name: str, cause: StopCause) -> None:
        """Stop a running machine for any cause, as tests may also do from inside the guest."""
        if self.state(name) not in UP:
            return
        crashed = cause is StopCause.CRASHED
        self.known[name] = replace(
            self.known[name], state=MachineState.CRASHED if crashed else MachineState.OFF
        )
        for listener in list(self._listeners):
            listener(Stop(name=name, cause=cause))

    def _existing(self, name: str, what: str) -> FakeMachine:
        if name not in self.known:
            raise HypervisorError(f"Cannot {what} {name}: there is no such machine.")
        return self.known[name]

    def _running(self, name: str, what: str) -> FakeMachine:
        if self._existing(name, what).state not in UP:
            raise HypervisorError(f"Cannot {what} {name}: it is not running.")
        return self.known[name]
