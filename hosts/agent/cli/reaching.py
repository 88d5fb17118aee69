"""Whom a command asks: the worker that runs, or without one the journal, under the worker's own lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from hosts.agent.cli.exits import CommandFailed, Exit
from hosts.agent.config import Config, Settings
from hosts.agent.control_socket import Refused, ask
from hosts.agent.executor import Executor
from hosts.agent.hardware import open_hardware
from hosts.agent.host_plans import PLAN_KINDS
from hosts.agent.identity import load_identity
from hosts.agent.journal import Journal
from hosts.agent.orders import Action
from hosts.agent.rig import Books, Rig, make_rig, open_books
from hosts.agent.spool import utc_now
from hosts.agent.standing import carry_out
from hosts.protocol.signing import REPORT, Signer

STOP_SECONDS = 10.0


class NoWorker(Exception):
    """None runs here."""


def ask_worker(settings: Settings, question: str, **arguments: Any) -> Iterator[Any]:
    """Each line of the running worker's answer. NoWorker, or CommandFailed when it refuses."""
    try:
        yield from ask(settings.socket_path, question, **arguments)
    except Refused as error:
        raise CommandFailed(str(error), error.hint) from error
    except PermissionError as error:
        raise CommandFailed(
            f"{settings.socket_path} may not be opened.",
            "The worker answers its owner alone: run this as root.",
        ) from error
    except TimeoutError as error:
        raise CommandFailed(
            "The worker does not answer.",
            "Its log says more: `journalctl -u leasehold-host`.",
            status=Exit.NO_ANSWER,
        ) from error
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NoWorker from error


def ask_or_read(config: Config, question: str, read: Callable[[Books], Any], **arguments: Any) -> Any:
    """The worker's answer, or what `read` finds in the journal that none uses."""
    try:
        return next(ask_worker(config, question, **arguments))
    except NoWorker:
        with _books(config) as books:
            return read(books)


def order(config: Config, action: Action, address: str, *, by: str) -> Iterator[Any]:
    """Have the worker carry it out, or do so here; each line of how it goes."""
    try:
        yield from ask_worker(config, action, address=address, by=by)
    except NoWorker:
        with _books(config) as books:
            yield from _order_here(books, action, address, by)


@contextmanager
def _books(config: Config) -> Iterator[Books]:
    """The journal, locked: no worker starts meanwhile."""
    if not config.journal_path.exists():
        raise CommandFailed(
            f"There is no journal at {config.journal_path}: the worker has never run here.",
            "Start it: `systemctl start leasehold-host`.",
        )
    signer = Signer(load_identity(config.identity_path).signing, REPORT)
    journal = Journal(config.journal_path)
    try:
        yield open_books(config=config, clock=utc_now, journal=journal, signer=signer)
    finally:
        journal.close()


def _order_here(books: Books, action: Action, address: str, by: str) -> Iterator[Any]:
    """Only where nothing else waits to be done: the worker knows in which order that goes on."""
    if waiting := len(books.plans.open()):
        raise CommandFailed(
            f"No worker runs, and its journal holds {waiting} unfinished plans.",
            "Start the worker, which finishes them first: `systemctl start leasehold-host`.",
        )
    rig = make_rig(books, open_hardware(books.config), close_consoles=_no_consoles)
    try:
        with _executing(rig):
            yield from _refusing(carry_out(rig, action, address=address, by=by))
    finally:
        rig.hypervisor.close()


def _refusing(lines: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from lines
    except Refused as error:
        raise CommandFailed(str(error), error.hint) from error


@contextmanager
def _executing(rig: Rig) -> Iterator[None]:
    """What is not finished at the end is in the journal, and the worker goes on with it."""
    executor = Executor(rig, PLAN_KINDS)
    executor.start()
    try:
        yield
    finally:
        executor.stop(seconds=STOP_SECONDS)


def _no_consoles(_lease_id: UUID) -> None:
    """Only a worker has any."""
