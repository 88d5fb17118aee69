"""The libvirt connection: the only module that imports libvirt, and the real `MachineHost`."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import libvirt
import libvirt_qemu
from lxml import etree

from hosts.agent import domain_facts
from hosts.agent.doctor.facts import Version
from hosts.agent.domain import home_key_usage, key_usage, node
from hosts.agent.embedded import embedded_root, prepare_embedded
from hosts.agent.lines import Line, Lines, Overdue, Unconnected, dialled
from hosts.agent.machines import (
    ACTIVE,
    Counters,
    GuestSilent,
    HypervisorError,
    HypervisorSilent,
    MachineFacts,
    MachineState,
    Stop,
    StopCause,
    StopListener,
)
from hosts.agent.network.definition import bridge_number, lease_of_network, network_name

STATES = {
    libvirt.VIR_DOMAIN_NOSTATE: MachineState.RUNNING,
    libvirt.VIR_DOMAIN_RUNNING: MachineState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: MachineState.RUNNING,
    libvirt.VIR_DOMAIN_SHUTDOWN: MachineState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: MachineState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: MachineState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTOFF: MachineState.OFF,
    libvirt.VIR_DOMAIN_CRASHED: MachineState.CRASHED,
}

STOP_CAUSES = {
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: StopCause.GUEST,
    libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED: StopCause.DESTROYED,
    libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED: StopCause.CRASHED,
}

UNDEFINE_ALL = (
    libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    | libvirt.VIR_DOMAIN_UNDEFINE_TPM
    | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
)

SILENT = (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_ERR_AGENT_UNSYNCED)

# A daemon that has been silent for so many intervals of so many seconds is given up: calls that wait for it
# fail, and so does each one after it.
KEEPALIVE_SECONDS, KEEPALIVE_COUNT = 5, 5

# A look or a definition takes as long as a machine's start may keep libvirt busy; any other change, as long
# as the largest machine's memory takes to be pinned.
LOOK_SECONDS, CHANGE_SECONDS = 120.0, 900.0


class Hypervisor:
    """A connection to libvirt, or one after the other. Its methods are described by `MachineHost`."""

    def __init__(self, uri: str, *, is_embedded: bool) -> None:
        self._uri = uri
        self.keeps_keys = not is_embedded
        self._listeners: list[StopListener] = []
        self._lines = Lines(self._dial)
        if not is_embedded:  # else there is no daemon that could fall silent
            self._lines.guard()

    @classmethod
    def open(cls, uri: str) -> Self:
        """Connect to `qemu:///system`, or to `qemu:///embed?root=DIR`: a private one, one process per DIR.

        The embedded driver keeps no disk keys: libvirt 9.0's crashes when one is taken back.
        """
        _run_event_loop()
        root = embedded_root(uri)
        if root is not None:
            prepare_embedded(root)
        return cls(uri, is_embedded=root is not None)

    def _dial(self) -> Line:
        with explained(f"connect to {self._uri}"), dialled() as wires:
            connection = libvirt.open(self._uri)
        with explained("listen to machines that stop"):
            if self.keeps_keys:
                connection.setKeepAlive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)
            subscription = connection.domainEventRegisterAny(
                None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_event, None
            )

        def hang_up() -> None:
            """Without the subscription's end, libvirt would keep the connection open."""
            try:
                connection.domainEventDeregisterAny(subscription)
            finally:
                connection.close()

        return Line(connection, hang_up, wires[0] if wires else None)

    @property
    def _machines(self) -> libvirt.virConnect:
        return self._lines.connection

    @contextmanager
    def _asked(self, what: str, seconds: float = LOOK_SECONDS) -> Iterator[None]:
        """What is asked within is explained if it fails, and given up if it takes longer."""
        try:
            with self._lines.call(what, seconds), explained(what):
                yield
        except Overdue as error:
            raise HypervisorSilent(str(error)) from error
        except Unconnected as error:
            raise HypervisorError(str(error)) from error

    def unanswered(self) -> tuple[str, ...]:
        return self._lines.unanswered()

    def close(self) -> None:
        with explained("close the connection"):
            self._lines.close()

    def define(self, xml: str, *, disk_key: bytes | None = None, home_key: bytes | None = None) -> None:
        name = domain_facts.machine_name(xml)
        with self._asked(f"define {name}"):
            self._machines.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
            for usage, key in ((key_usage(name), disk_key), (home_key_usage(name), home_key)):
                if key is not None:
                    self._keep_key(name, usage, key)

    def start(self, name: str) -> None:
        with self._asked(f"start {name}", CHANGE_SECONDS):
            domain = self._machines.lookupByName(name)
            if not domain.isActive():
                domain.create()

    def shutdown(self, name: str) -> None:
        with self._asked(f"shut down {name}", CHANGE_SECONDS), unless_stopped():
            self._machines.lookupByName(name).shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)

    def reboot(self, name: str) -> None:
        with self._asked(f"reboot {name}", CHANGE_SECONDS):
            self._machines.lookupByName(name).reboot(libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN)

    def reset(self, name: str) -> None:
        with self._asked(f"reset {name}", CHANGE_SECONDS):
            self._machines.lookupByName(name).reset()

    def destroy(self, name: str) -> None:
        with self._asked(f"destroy {name}", CHANGE_SECONDS), unless_stopped():
            self._machines.lookupByName(name).destroy()

    def undefine(self, name: str) -> None:
        """The keys go first: should this be cut short, the domain is left to say that work is left."""
        if self.state(name) in ACTIVE:
            raise HypervisorError(f"Cannot undefine {name}: it is running.")
        with self._asked(f"undefine {name}", CHANGE_SECONDS):
            if self.keeps_keys:
                for usage in (home_key_usage(name), key_usage(name)):
                    self._forget_key(usage)
            with passing_over(libvirt.VIR_ERR_NO_DOMAIN):
                self._machines.lookupByName(name).undefineFlags(UNDEFINE_ALL)

    def state(self, name: str) -> MachineState:
        with self._asked(f"look at {name}"):
            try:
                return _state(self._machines.lookupByName(name))
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                    raise
                return MachineState.ABSENT

    def machines(self) -> list[MachineFacts]:
        facts = []
        with self._asked("list the machines"):
            for domain in self._machines.listAllDomains():
                with passing_over(libvirt.VIR_ERR_NO_DOMAIN):
                    facts.append(domain_facts.read_facts(domain.XMLDesc(), _state(domain)))
        return facts

    def console_socket(self, name: str) -> Path:
        with self._asked(f"find the console of {name}"):
            socket = domain_facts.read_console_socket(self._machines.lookupByName(name).XMLDesc())
        if socket is None:
            raise HypervisorError(f"Cannot find the console of {name}: it is not running, or has none.")
        return socket

    def ask_guest(self, name: str, command: str, arguments: Mapping[str, Any], *, seconds: int) -> str:
        """libvirt waits once for the agent to come into step; it refuses answers of more than 10 MiB."""
        asked = json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})})
        with self._asked(f"ask the guest of {name}", seconds + LOOK_SECONDS):
            try:
                domain = self._machines.lookupByName(name)
                domain.agentSetResponseTimeout(seconds)
                return str(libvirt_qemu.qemuAgentCommand(domain, asked, seconds, 0))
            except libvirt.libvirtError as error:
                if error.get_error_code() in SILENT:
                    raise GuestSilent(f"The guest of {name} does not answer {command}.") from error
                raise

    def counters(self, name: str) -> Counters:
        with self._asked(f"measure {name}"):
            domain = self._machines.lookupByName(name)
            devices = domain_facts.read_interfaces(domain.XMLDesc())
            seen = None if devices is None else sum(_bytes_through(domain, each) for each in devices)
            return Counters(processor_seconds=domain.info()[4] / 1e9, network_bytes=seen)

    def make_network(self, xml: str) -> None:
        name = domain_facts.parse(xml).findtext("name", "")
        with self._asked(f"make the network {name}", CHANGE_SECONDS):
            try:
                network = self._machines.networkLookupByName(name)
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_NETWORK:
                    raise
                network = self._machines.networkDefineXML(xml)
            if not network.isActive():
                network.create()

    def remove_network(self, lease_id: UUID) -> None:
        name = network_name(lease_id)
        with (
            self._asked(f"remove the network {name}", CHANGE_SECONDS),
            passing_over(libvirt.VIR_ERR_NO_NETWORK),
        ):
            network = self._machines.networkLookupByName(name)
            if network.isActive():
                network.destroy()
            if network.isPersistent():
                network.undefine()

    def networks(self) -> dict[UUID, int]:
        found = {}
        with self._asked("list the networks"):
            for network in self._machines.listAllNetworks():
                with passing_over(libvirt.VIR_ERR_NO_NETWORK):
                    lease_id = lease_of_network(network.name())
                    number = None if lease_id is None else bridge_number(network.bridgeName())
                    if lease_id is not None and number is not None:
                        found[lease_id] = number
        return found

    def cut_off(self, name: str, netdev: str, forwards: Sequence[str]) -> None:
        orders = [f"set_link {netdev} off", *(f"hostfwd_remove {netdev} {each}" for each in forwards)]
        with self._asked(f"cut off {name}", CHANGE_SECONDS), unless_stopped():
            domain = self._machines.lookupByName(name)
            for order in orders:
                libvirt_qemu.qemuMonitorCommand(
                    domain, order, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
                )

    def versions(self) -> tuple[Version, Version]:
        with self._asked("ask for versions"):
            return _version(self._machines.getLibVersion()), _version(self._machines.getVersion())

    def channel_socket(self, name: str, channel: str) -> Path:
        with self._asked(f"find the channel {channel} of {name}"):
            domain = self._machines.lookupByName(name)
            xml = domain.XMLDesc() if domain.isActive() else "<domain/>"
        socket = domain_facts.read_channel_socket(xml, channel)
        if socket is None:
            raise HypervisorError(
                f"Cannot find {channel} of {name}: it is not running, or has no such channel."
            )
        return socket

    def on_stopped(self, listener: StopListener) -> None:
        self._listeners.append(listener)

    def _on_event(
        self, _connection: object, domain: libvirt.virDomain, event: int, detail: int, _opaque: object
    ) -> None:
        if event != libvirt.VIR_DOMAIN_EVENT_STOPPED:
            return
        stop = Stop(name=domain.name(), cause=STOP_CAUSES.get(detail, StopCause.FAILED))
        for listener in list(self._listeners):
            listener(stop)

    def _key(self, usage: str) -> libvirt.virSecret:
        return self._machines.secretLookupByUsage(libvirt.VIR_SECRET_USAGE_TYPE_VOLUME, usage)

    def _keep_key(self, name: str, usage: str, key: bytes) -> None:
        """Private: libvirt gives the key to QEMU and to nobody else."""
        if not self.keeps_keys:
            raise HypervisorError(f"Cannot keep the disk key of {name}: the embedded driver keeps none.")
        volume = node("usage", node("volume", usage), type="volume")
        secret = node("secret", volume, ephemeral="no", private="yes")
        self._forget_key(usage)
        self._machines.secretDefineXML(etree.tostring(secret, encoding="unicode")).setValue(key)

    def _forget_key(self, usage: str) -> None:
        with passing_over(libvirt.VIR_ERR_NO_SECRET):
            self._key(usage).undefine()


def _state(domain: libvirt.virDomain) -> MachineState:
    state, reason = domain.state()
    if state == libvirt.VIR_DOMAIN_SHUTOFF and reason == libvirt.VIR_DOMAIN_SHUTOFF_CRASHED:
        return MachineState.CRASHED
    return STATES[state]


def _bytes_through(domain: libvirt.virDomain, device: str) -> int:
    """Received and sent."""
    stats = domain.interfaceStats(device)
    return int(stats[0]) + int(stats[4])


def _version(number: int) -> Version:
    """libvirt writes 9.0.1 as 9000001."""
    return number // 1_000_000, number // 1_000 % 1_000, number % 1_000


@contextmanager
def explained(what: str) -> Iterator[None]:
    """libvirt's errors, as a sentence that says what was attempted."""
    try:
        yield
    except libvirt.libvirtError as error:
        reason = " ".join((error.get_error_message() or str(error)).split())
        raise HypervisorError(f"Cannot {what}: {reason}") from error


@contextmanager
def passing_over(*codes: int) -> Iterator[None]:
    """These errors mean that there is nothing left to do."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() not in codes:
            raise


def unless_stopped() -> AbstractContextManager[None]:
    """libvirt calls an operation invalid that needs a running machine and finds it stopped."""
    return passing_over(libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID)


@functools.cache
def _run_event_loop() -> None:
    """Once in a process and before the first connection. Errors come as exceptions, and need no printing."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_turn_event_loop, name="libvirt-events", daemon=True).start()


def _turn_event_loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()
