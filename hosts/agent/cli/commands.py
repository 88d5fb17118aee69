"""What each command does. It returns its exit status; failures are CommandFailed."""

from __future__ import annotations

import getpass
import json
import logging
import os
import shutil
import sys
from argparse import Namespace
from typing import Any

import msgspec

from hosts.agent.bus import BusError
from hosts.agent.check_up import ask_hypervisor, check_up
from hosts.agent.cli import reaching, tables
from hosts.agent.cli.exits import CommandFailed, Exit
from hosts.agent.cli.reaching import NoWorker, ask_worker
from hosts.agent.config import Settings, load_config, load_settings
from hosts.agent.doctor.facts import HypervisorFacts
from hosts.agent.hardware import open_bus, open_hardware
from hosts.agent.hypervisor import Hypervisor
from hosts.agent.identity import create_identity, load_identity
from hosts.agent.inventory import host_facts
from hosts.agent.machines import HypervisorError
from hosts.agent.orders import Action
from hosts.agent.standing import journal as read_journal
from hosts.agent.standing import status as read_status
from hosts.agent.worker import Worker
from hosts.protocol.checkup import CheckUp

LOG_FORMAT = "%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s"


def run(options: Namespace) -> Exit:
    """be the host's worker until told to stop"""
    config = load_config(options.config)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    identity = load_identity(config.identity_directory)
    return Exit(Worker(config, identity, open_hardware(config)).run())


def init(options: Namespace) -> Exit:
    """make the host's keys and print their public halves"""
    identity = create_identity(load_settings(options.config).identity_directory)
    print(json.dumps(identity.public_halves()))
    return Exit.DONE


def status(options: Namespace) -> Exit:
    """what the worker holds: GPUs, machines, plans under way"""
    config = load_config(options.config)
    _show(options, reaching.ask_or_read(config, "status", read_status), tables.show_status)
    return Exit.DONE


def journal(options: Namespace) -> Exit:
    """the latest plans and what became of them"""
    config = load_config(options.config)
    found = reaching.ask_or_read(
        config, "journal", lambda books: read_journal(books, options.last), count=options.last
    )
    _show(options, found, tables.show_journal)
    return Exit.DONE


def inventory(options: Namespace) -> Exit:
    """cards and size of this host, and which cards may be leased"""
    settings = load_settings(options.config)
    try:
        found = next(ask_worker(settings, "inventory"))
    except NoWorker:
        found = _look_around(settings)
    _show(options, found, tables.show_inventory)
    return Exit.DONE


def doctor(options: Namespace) -> Exit:
    """why this host cannot lease its GPUs, and what to change"""
    found = _examine(load_settings(options.config))
    if options.json:
        _print_json(msgspec.to_builtins(found))
    else:
        print(tables.show_check_up(found, only_problems=options.only_problems))
    return Exit.NOT_IN_ORDER if any(each.verdict == "fail" for each in found.checks) else Exit.DONE


def scrub(options: Namespace) -> Exit:
    """scrub a GPU that nobody uses; the portal judges the result"""
    return _order(options, "scrub")


def reset(options: Namespace) -> Exit:
    """reset a GPU that nobody uses; it is not clean afterwards"""
    return _order(options, "reset")


def _order(options: Namespace, action: Action) -> Exit:
    done: dict[str, Any] = {}
    config = load_config(options.config)
    for line in reaching.order(config, action, options.address, by=_who()):
        if step := line.get("step"):
            print(f"{action}: {step['name']} ({step['index']} of {step['total']})", file=sys.stderr)
        done = line.get("done", done)
    if options.json:
        _print_json(done)
    else:
        print(_outcome(done))
    return Exit.DONE if done.get("in_order") else Exit.NOT_IN_ORDER


def _outcome(done: dict[str, Any]) -> str:
    reasons = "".join(f"\n  {reason}" for reason in done["reasons"])
    if not done["in_order"]:
        return f"The {done['kind']} of {done['address']} did not succeed; it is {done['gpu_state']}.{reasons}"
    if done["kind"] == "reset":
        return f"{done['address']} was reset. It is {done['gpu_state']}: a reset cleans no memory."
    return f"{done['address']} was scrubbed. The portal judges the evidence before it is offered again."


def _who() -> str:
    """Whoever became root, if that is known."""
    return os.environ.get("SUDO_USER") or getpass.getuser()


def _examine(settings: Settings) -> CheckUp:
    try:
        return msgspec.convert(next(ask_worker(settings, "doctor")), CheckUp)
    except (NoWorker, CommandFailed):  # who may not ask the worker sees what anybody may see
        return _examine_here(settings)


def _examine_here(settings: Settings) -> CheckUp:
    try:
        return check_up(settings, open_bus(settings), _hypervisor_facts(settings.libvirt_uri))
    except (BusError, OSError) as error:
        raise CommandFailed(f"The cards of this host cannot be looked at: {error}") from error


def _hypervisor_facts(uri: str) -> HypervisorFacts:
    try:
        hypervisor = Hypervisor.open(uri)
    except (HypervisorError, OSError) as error:
        return HypervisorFacts(uri, error=str(error))
    try:
        return ask_hypervisor(uri, hypervisor)
    finally:
        hypervisor.close()


def _look_around(settings: Settings) -> dict[str, Any]:
    """As the worker reports it, without the machines."""
    try:
        bus = open_bus(settings)
        cards = [msgspec.to_builtins(card.facts()) for card in bus.cards()]
    except BusError as error:
        raise CommandFailed(f"The cards of this host cannot be looked at: {error}") from error
    there = next(
        path for path in (settings.state_directory, *settings.state_directory.parents) if path.exists()
    )
    return {
        "cards": cards,
        "simulated": bus.simulated,
        **host_facts(disk_bytes=shutil.disk_usage(there).total),
    }


def _show(options: Namespace, found: Any, as_table: Any) -> None:
    if options.json:
        _print_json(found)
    else:
        print(as_table(found))


def _print_json(found: Any) -> None:
    print(json.dumps(found, indent=2, default=str))
