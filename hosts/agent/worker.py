"""The host worker: its parts, put together, started and stopped in the right order."""

from __future__ import annotations

import logging
import signal
import threading
from contextlib import ExitStack

from hosts.agent.acceptance import Acceptance
from hosts.agent.boot import read_boot_id
from hosts.agent.config import Config
from hosts.agent.console import ConsoleRelays
from hosts.agent.console_desk import ConsoleDesk
from hosts.agent.control_socket import ControlSocket
from hosts.agent.delivery import Delivery
from hosts.agent.executor import Executor
from hosts.agent.fetching import Fetcher
from hosts.agent.guests import GuestWatch
from hosts.agent.hardware import Hardware
from hosts.agent.host_plans import PLAN_KINDS
from hosts.agent.identity import Identity
from hosts.agent.journal import Journal
from hosts.agent.loop import Loop
from hosts.agent.pieces import portal_source
from hosts.agent.reading_desk import ReadingDesk
from hosts.agent.receiver import Receiver, make_app, register_delivery
from hosts.agent.reconcile import reconcile
from hosts.agent.rig import make_rig, open_books
from hosts.agent.runner import Boundary
from hosts.agent.spool import Clock, utc_now
from hosts.agent.standing import answers
from hosts.agent.suspend import suspend_machines
from hosts.agent.watch import Watch
from hosts.protocol.signing import COMMAND, REPORT, Signer, Verifier, key_id, verify_key

log = logging.getLogger(__name__)

STOP_SECONDS = 10.0


class Worker:
    """One host's worker. The journal opens at once; nothing runs before `start`."""

    def __init__(
        self,
        config: Config,
        identity: Identity,
        hardware: Hardware,
        *,
        clock: Clock = utc_now,
        boot_id: str | None = None,
        on_boundary: Boundary = lambda _: None,
    ) -> None:
        self._config = config
        self._boot_id = boot_id or read_boot_id()
        self._ended = threading.Event()
        self._failed = False
        self._loop = Loop()
        relays = ConsoleRelays(self._loop)
        books = open_books(
            config=config,
            clock=clock,
            journal=Journal(config.journal_path),
            signer=Signer(identity.signing, REPORT),
        )
        self.rig = make_rig(books, hardware, close_consoles=relays.close_lease)
        self._executor = Executor(self.rig, PLAN_KINDS, on_boundary=on_boundary, on_death=self._die)
        desk = ConsoleDesk(self.rig, relays, identity.sealing)
        self._acceptance = Acceptance(
            self.rig,
            _command_verifier(config),
            open_console=desk.open,
            read_home=ReadingDesk(self.rig, identity.sealing).open,
        )
        app = make_app(host=config.host, broker_url=config.broker_url)
        register_delivery(app, accept=self._acceptance.deliver, refuse=self._acceptance.refuse)
        self._receiver = Receiver(app, on_death=self._die)
        self._delivery = Delivery(app, self.rig.spool, resend_seconds=config.resend_seconds)
        self._watch = Watch(self.rig, on_death=self._die)
        self._guests = GuestWatch(self.rig)
        self._fetcher = Fetcher(self.rig, lambda: portal_source(config, identity.signing, clock))
        self._control = ControlSocket(config.socket_path, answers(self.rig))

    def run(self) -> int:
        """Start, wait for SIGTERM, SIGINT or a failure, stop; the process's exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self.start()
        self._ended.wait()
        self.stop()
        return 1 if self._failed else 0

    def start(self) -> None:
        """Reconcile, then begin. Commands are taken last."""
        self._loop.start()
        reconcile(self.rig, boot_id=self._boot_id)
        self._loop.run(self._control.start(), seconds=STOP_SECONDS)
        self._executor.start()
        self._delivery.start()
        self._watch.start()
        self._guests.start()
        self._fetcher.start()
        self._receiver.start()
        log.info("Host %s is up; journal %s", self._config.host, self.rig.journal.journal_id)

    def stop(self) -> None:
        """In the order of `start` reversed. What is not finished is in the journal."""
        log.info("Host %s goes down", self._config.host)
        with ExitStack() as parts:  # each of them, whatever becomes of those before it; the last one first
            parts.callback(self.rig.journal.close)
            parts.callback(self.rig.hypervisor.close)
            parts.callback(self._delivery.stop, seconds=STOP_SECONDS)
            parts.callback(self._loop.stop, seconds=STOP_SECONDS)
            parts.callback(lambda: self._loop.run(self._control.stop(), seconds=STOP_SECONDS))
            if self._config.stop_machines_on_exit:
                parts.callback(suspend_machines, self.rig)
            parts.callback(self._executor.stop, seconds=STOP_SECONDS)
            parts.callback(self._guests.stop, seconds=STOP_SECONDS)
            parts.callback(self._watch.stop, seconds=STOP_SECONDS)
            parts.callback(self._fetcher.stop, seconds=STOP_SECONDS)
            parts.callback(self._receiver.stop, seconds=STOP_SECONDS)

    def _on_signal(self, number: int, _frame: object) -> None:
        """The first signal ends in order; another one of its kind ends at once."""
        signal.signal(number, signal.SIG_DFL)
        self._ended.set()

    def _die(self) -> None:
        self._failed = True
        self._ended.set()


def _command_verifier(config: Config) -> Verifier:
    keys = [verify_key(public) for public in config.control_keys]
    return Verifier({key_id(key): key for key in keys}, COMMAND)
