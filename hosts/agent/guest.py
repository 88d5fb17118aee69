"""Asks the agent inside one machine. Whoever leases the machine answers: every answer is bounded and cleaned.

The hypervisor bounds how long an answer may take and how large it may be; an agent that keeps one waiting is
asked nothing more that time.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec

from hosts.agent.machines import GuestSilent, HypervisorError, MachineHost

log = logging.getLogger(__name__)

ANSWER_SECONDS = 3
LARGEST_ANSWER = 256 * 1024
MOST_ADDRESSES = 4
LONGEST_HOSTNAME = 63
LONGEST_SYSTEM = 80

T = TypeVar("T")


class _Answer(msgspec.Struct):
    """What else stands in an answer is left unread."""


class _HostName(_Answer):
    name: str = msgspec.field(name="host-name", default="")


class _System(_Answer):
    name: str = msgspec.field(name="pretty-name", default="")


class _Address(_Answer):
    address: str = msgspec.field(name="ip-address", default="")


class _Interface(_Answer):
    addresses: list[_Address] = msgspec.field(name="ip-addresses", default_factory=list)


class _User(_Answer):
    user: str = ""


@dataclass(frozen=True)
class GuestWord:
    """What a guest says of itself. `people` is how many have signed in; None if it does not say."""

    hostname: str = ""
    system: str = ""
    addresses: tuple[str, ...] = ()
    people: int | None = None


def ask(host: MachineHost, name: str) -> GuestWord | None:
    """None if no agent answers."""
    try:
        call(host, name, "guest-ping", msgspec.Raw)
    except HypervisorError:
        return None
    word = GuestWord()
    with suppress(GuestSilent):
        for part in _parts(host, name):
            word = replace(word, **part)
    return word


def ask_to_stop(host: MachineHost, name: str) -> bool:
    """Whether an agent was there to be asked. It does not answer that it obeys."""
    try:
        call(host, name, "guest-ping", msgspec.Raw)
    except HypervisorError:
        return False
    with suppress(HypervisorError):
        host.ask_guest(name, "guest-shutdown", {"mode": "powerdown"}, seconds=ANSWER_SECONDS)
    return True


def _parts(host: MachineHost, name: str) -> Iterator[dict[str, Any]]:
    if (hostname := _tried(host, name, "guest-get-host-name", _HostName)) is not None:
        yield {"hostname": plain(hostname.name, LONGEST_HOSTNAME)}
    if (system := _tried(host, name, "guest-get-osinfo", _System)) is not None:
        yield {"system": plain(system.name, LONGEST_SYSTEM)}
    if (interfaces := _tried(host, name, "guest-network-get-interfaces", list[_Interface])) is not None:
        yield {"addresses": _addresses(interfaces)}
    if (users := _tried(host, name, "guest-get-users", list[_User])) is not None:
        yield {"people": len(users)}


def _tried(host: MachineHost, name: str, command: str, kind: type[T]) -> T | None:
    """None if the agent refuses this command, or says what cannot be understood."""
    try:
        return call(host, name, command, kind)
    except GuestSilent:
        raise
    except HypervisorError as error:
        log.debug("%s", error)
        return None


def call(
    host: MachineHost, name: str, command: str, kind: type[T], arguments: Mapping[str, Any] | None = None
) -> T:
    """What the agent returns; HypervisorError if it refuses, or what it says is not of that kind."""
    answer = host.ask_guest(name, command, arguments or {}, seconds=ANSWER_SECONDS)
    if len(answer) > LARGEST_ANSWER:
        raise HypervisorError(f"The guest of {name} says more than anybody would listen to.")
    try:
        envelope = msgspec.json.decode(answer, type=dict[str, msgspec.Raw])
        return msgspec.json.decode(envelope.get("return", msgspec.Raw(b"null")), type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise HypervisorError(f"What the guest of {name} says is not understood: {error}") from error


def plain(text: str, longest: int) -> str:
    """On one line, without anything that moves a cursor or a reading direction."""
    return "".join(each if each.isprintable() else " " for each in text[:longest]).strip()


def _addresses(interfaces: list[_Interface]) -> tuple[str, ...]:
    """Those by which a machine may be reached from elsewhere."""
    found: list[str] = []
    for said in (address.address for interface in interfaces for address in interface.addresses):
        with suppress(ValueError):
            address = ipaddress.ip_address(said[:45])
            if not (address.is_loopback or address.is_link_local) and str(address) not in found:
                found.append(str(address)[:45])
        if len(found) == MOST_ADDRESSES:
            break
    return tuple(found)
