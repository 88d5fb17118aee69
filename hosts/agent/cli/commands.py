"""What each command does. It returns its exit status; failures are CommandFailed."""

from __future__ import annotations

import getpass
import json
import logging
import os
import shutil
import sys
from argparse import Namespace
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import msgspec

from hosts.agent import enrolling
from hosts.agent.bus import BusError
from hosts.agent.check_up import ask_hypervisor, check_up_alone
from hosts.agent.cli import reaching, tables
from hosts.agent.cli.exits import CommandFailed, Exit
from hosts.agent.cli.progress import Progress
from hosts.agent.cli.reaching import NoWorker, ask_worker
from hosts.agent.config import Enrolment, Settings, load_config, load_enrolment, load_settings
from hosts.agent.doctor.facts import HypervisorFacts
from hosts.agent.enrolling import Portal
from hosts.agent.hardware import open_bus, open_hardware
from hosts.agent.hypervisor import Hypervisor
from hosts.agent.identity import IdentityError, load_identity
from hosts.agent.inventory import host_facts
from hosts.agent.machines import HypervisorError
from hosts.agent.orders import Action
from hosts.agent.portal_client import NoAnswer, NotAsked, PortalError
from hosts.agent.standing import journal as read_journal
from hosts.agent.standing import status as read_status
from hosts.agent.worker import Worker
from hosts.protocol.checkup import CheckUp

LOG_FORMAT = "%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s"


def run(options: Namespace) -> Exit:
    """be the host's worker until told to stop"""
    config = load_config(options.config)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    if config.next_identity_path.exists():
        raise IdentityError(
            "New keys were made, and the portal may know them already. Finish that first: run the "
            "`leasehold-host enrol` again that was cut short."
        )
    identity = load_identity(config.identity_path)
    return Exit(Worker(config, identity, open_hardware(config)).run())


def enrol(options: Namespace) -> Exit:
    """let this host in at a portal with a token, or change its keys"""
    settings = load_settings(options.config)
    try:
        told = enrolling.rekey(settings) if options.rekey else _enrol(settings, options)
    except PortalError as error:
        raise CommandFailed(str(error), error.hint, status=_status_of(error)) from error
    if options.json:
        _print_json({"host": told.host, "portal": told.portal, "control_keys": told.control_keys})
    else:
        print(f"This host is {told.host} at {told.portal}.")
        print(
            "Start its worker: `systemctl enable --now leasehold-host`. The token is used; remove its file."
        )
    return Exit.DONE


def _status_of(error: PortalError) -> Exit:
    if isinstance(error, NoAnswer):
        return Exit.NO_ANSWER
    return Exit.UNUSABLE if isinstance(error, NotAsked) else Exit.REFUSED


def _enrol(settings: Settings, options: Namespace) -> Enrolment:
    if options.portal is None or options.token_file is None:
        raise CommandFailed(
            "Where the portal is, and the token, have to be said.",
            "--portal URL --token-file FILE, or --rekey.",
            status=Exit.UNUSABLE,
        )
    is_unfinished = settings.next_identity_path.exists()
    if settings.enrolment_path.exists() and not options.again and not is_unfinished:
        known = load_enrolment(settings.enrolment_path)
        raise CommandFailed(
            f"This host is {known.host} at {known.portal} already.",
            "To change its keys: --rekey. With a token that an operator made for that: --again.",
        )
    ca_file = str(options.ca_file.resolve()) if options.ca_file else ""
    return enrolling.enrol(settings, Portal(options.portal.rstrip("/"), ca_file), _token(options.token_file))


def _token(path: Path) -> str:
    """From a private file, or for `-` from standard input: anyone can see a command line."""
    try:
        if str(path) == "-":
            return sys.stdin.readline().strip()
        if path.stat().st_mode & 0o077:
            raise CommandFailed(
                f"{path} can be read by others, and so can the token in it.",
                f"Make it private with `chmod 600 {path}`, or better have a new token made.",
                status=Exit.UNUSABLE,
            )
        return path.read_text().strip()
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read: {error.strerror}.", status=Exit.UNUSABLE) from error


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
        _print_json(tables.with_words(found))
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
    shown = None if options.json else Progress(action, sys.stderr)
    with closing(shown) if shown else nullcontext():
        for line in reaching.order(config, action, options.address, by=_who()):
            if shown and "step" in line:
                shown.begin(line["step"])
            if shown and "progress" in line:
                shown.advance(*line["progress"])
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
        return check_up_alone(settings, open_bus(settings), _hypervisor_facts(settings.libvirt_uri))
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
    """As the worker reports it, without the machines, and without the cards that one may have."""
    try:
        bus = open_bus(settings)
        held = bus.held()
        cards = [msgspec.to_builtins(card.facts()) for card in bus.cards(without=held)]
    except BusError as error:
        raise CommandFailed(f"The cards of this host cannot be looked at: {error}") from error
    there = next(
        path for path in (settings.state_directory, *settings.state_directory.parents) if path.exists()
    )
    return {
        "cards": cards,
        "not_touched": sorted(held | bus.hanging()),
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
