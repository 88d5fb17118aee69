"""Which scrubbers may run on this host: the built-in ones, and plug-ins that root has put on a list.

The list is TOML, owned by root and writable by nobody else:

    [scrubbers.vendor]
    object = "vendor_scrub.plugin:VendorScrubber"
    sha256 = "…of the module's source file"

    [machines.machine]
    directory = "/var/lib/leasehold/appliances/plain"
    sha256 = "…of the folder's manifest.json"
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import stat
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from hosts.agent import bar, nvidia
from hosts.agent.bar import BarScrubber
from hosts.agent.images import ImageError
from hosts.agent.nvidia import FirmwareClear
from hosts.agent.scrub_channel import Patience
from hosts.agent.scrub_machine import Appliance, MachineRoom, MachineScrubber
from hosts.agent.scrubber import Scrubber


class UntrustedScrubber(Exception):
    """The list, or a plug-in on it, is not what root has approved; no plug-in is used."""


@dataclass(frozen=True)
class Installed:
    """A scrubber that may run, and the SHA-256 of its source."""

    scrubber: Scrubber
    digest: str


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    object: str
    sha256: str


class _Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    directory: str
    sha256: str
    deadline_seconds: float = 3600.0
    silence_seconds: float = 180.0


class _AllowList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    scrubbers: dict[str, _Entry] = {}
    machines: dict[str, _Machine] = {}


def load_scrubbers(allow_list: Path | None = None, room: MachineRoom | None = None) -> dict[str, Installed]:
    """Scrubbers by name. UntrustedScrubber unless the whole list, if there is one, is in order.

    `room` is where scrub machines run; without one none may be listed.
    """
    found = {
        BarScrubber.name: Installed(BarScrubber(), _digest(Path(bar.__file__))),
        FirmwareClear.name: Installed(FirmwareClear(), _digest(Path(nvidia.__file__))),
    }
    listed = _read(allow_list) if allow_list else _AllowList()
    for name in [*listed.scrubbers, *listed.machines]:
        if name in found:
            raise UntrustedScrubber(f"{name!r} is built in and cannot be replaced.")
    if twice := listed.scrubbers.keys() & listed.machines.keys():
        raise UntrustedScrubber(f"{', '.join(twice)} is listed twice.")
    for name, entry in listed.scrubbers.items():
        found[name] = Installed(_load(name, entry), entry.sha256)
    for name, machine in listed.machines.items():
        found[name] = Installed(_machine(name, machine, room), machine.sha256)
    return found


def _digest(source: Path) -> str:
    return hashlib.sha256(source.read_bytes()).hexdigest()


def _read(path: Path) -> _AllowList:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise UntrustedScrubber(f"{path} has to be owned by root and writable by root alone.")
            return msgspec.convert(tomllib.load(file), _AllowList)
    except (OSError, ValueError) as error:
        raise UntrustedScrubber(f"{path} is not a list of scrubbers: {error}") from error


def _machine(name: str, listed: _Machine, room: MachineRoom | None) -> MachineScrubber:
    if room is None:
        raise UntrustedScrubber(f"There is nowhere to run the scrub machine {name!r}.")
    patience = Patience(whole=listed.deadline_seconds, silence=listed.silence_seconds)
    try:
        return MachineScrubber(name, Appliance(Path(listed.directory), listed.sha256, patience), room)
    except ImageError as error:
        raise UntrustedScrubber(f"The scrub machine {name!r} is not what the list says: {error}") from error


def _load(name: str, entry: _Entry) -> Scrubber:
    module_name, _, class_name = entry.object.partition(":")
    kind = getattr(_module(module_name, entry.sha256), class_name, None)
    if not isinstance(kind, type):
        raise UntrustedScrubber(f"{entry.object} is not a class.")
    scrubber: Any = kind()
    if scrubber.name != name:
        raise UntrustedScrubber(f"{entry.object} calls itself {scrubber.name!r}, the list {name!r}.")
    found: Scrubber = scrubber
    return found


def _module(name: str, sha256: str) -> ModuleType:
    """Run exactly the bytes that have the digest, not what may be in the file a moment later."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise UntrustedScrubber(f"There is no module {name}.")
    source = Path(spec.origin).read_bytes()
    if hashlib.sha256(source).hexdigest() != sha256:
        raise UntrustedScrubber(f"{spec.origin} does not have the digest that the list states.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    exec(compile(source, spec.origin, "exec"), module.__dict__)  # noqa: S102 — root listed its digest
    return module
