"""The Celery worker of a host: it takes envelopes off the host's queue and hands them over, no more."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from celery import Celery
from celery.app.trace import reset_worker_optimizations, setup_worker_optimizations
from celery.worker import state as worker_state

from hosts.protocol.broker import host_settings
from hosts.protocol.fence import DELIVER_COMMAND, FencedTask

log = logging.getLogger(__name__)


def make_app(*, host: str, broker_url: str) -> Celery:
    """The Celery application of a host, for receiving and for sending."""
    app = Celery(f"leasehold-host-{host}", broker=broker_url, set_as_current=False, fixups=[])
    app.conf.update(host_settings(host))
    return app


def register_delivery(app: Celery, *, accept: Callable[[str], None], refuse: Callable[[str], None]) -> None:
    """Make `app` deliver each envelope to `accept`, and the reason for each fenced-off message to `refuse`.

    A message is acknowledged when `accept` returns: by then its command is in the journal.
    """

    @app.task(name=DELIVER_COMMAND, base=FencedTask, shared=False, on_refused=staticmethod(refuse))
    def deliver_command(envelope: str) -> None:
        accept(envelope)

    app.finalize()


class Receiver:
    """Runs the worker on a thread of its own. `on_death` is called when it ends without being told to."""

    def __init__(self, app: Celery, *, on_death: Callable[[], None]) -> None:
        self._app = app
        self._on_death = on_death
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)

    def start(self) -> None:
        worker_state.should_stop = None
        self._thread.start()

    def stop(self, *, seconds: float) -> None:
        self._stopping = True
        worker_state.should_stop = 0  # type: ignore[assignment]  # an exit code, as Celery reads it
        self._thread.join(seconds)
        worker_state.should_stop = None

    def _run(self) -> None:
        hostname = f"host@{self._app.main}"
        # Threads of the pool look for the process's own application, and would find an empty one.
        setup_worker_optimizations(self._app, hostname)
        controller = self._app.WorkController(
            pool="threads",
            concurrency=1,  # commands are taken in the order in which they were sent
            hostname=hostname,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        try:
            controller.start()
        finally:
            reset_worker_optimizations(self._app)
            if not self._stopping:
                log.critical("The receiver has ended by itself.")
                self._on_death()
