"""Sends the spooled reports through the broker, again and again until the portal acknowledges them.

It runs on a thread of its own: a broker that is away makes the spool grow, and delays nothing else.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from celery import Celery
from kombu import Queue

from hosts.agent.spool import Spool
from hosts.protocol.fence import DELIVER_REPORT, REPORTS_QUEUE

log = logging.getLogger(__name__)

BATCH = 200
# What is sent again in one interval, and how long the portal's queue may be for it: a control plane that
# receives nothing must not be buried in copies.
RESENT_AT_MOST = 1000
BACKLOG_AT_MOST = 1000
BROKER_PAUSE = 1.0


class Delivery:
    """One sender. Times in seconds."""

    def __init__(self, app: Celery, spool: Spool, *, resend_seconds: float) -> None:
        self._app = app
        self._spool = spool
        self._resend_seconds = resend_seconds
        self._sent_through = 0
        self._resend_at = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)
        # Naming no exchange and declaring nothing, the only thing that happens to `reports` is a push.
        self._queue = Queue(REPORTS_QUEUE, routing_key=REPORTS_QUEUE)

    def start(self) -> None:
        self._thread.start()

    def stop(self, *, seconds: float) -> None:
        """Send what is new, then end."""
        self._stopping.set()
        self._spool.news.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._spool.news.clear()
            if self._deliver():
                self._spool.news.wait(max(0.0, self._resend_at - time.monotonic()))
            else:
                self._stopping.wait(BROKER_PAUSE)
        self._deliver()

    def _deliver(self) -> bool:
        """Send what is new, and once per interval what is old; whether the broker took it."""
        try:
            if time.monotonic() >= self._resend_at:
                self._resend()
                self._resend_at = time.monotonic() + self._resend_seconds
            while batch := self._spool.unreceipted(after=self._sent_through, limit=BATCH):
                self._push(batch)
        except Exception as error:  # noqa: BLE001 - kombu lets some of the broker's own refusals through
            log.warning("The broker does not take reports: %s: %s", type(error).__name__, error)
            return False
        return True

    def _resend(self) -> None:
        if self._backlog() < BACKLOG_AT_MOST:
            old = self._spool.unreceipted(after=0, limit=RESENT_AT_MOST)
            self._push([(sequence, envelope) for sequence, envelope in old if sequence <= self._sent_through])

    def _push(self, reports: list[tuple[int, str]]) -> None:
        for sequence, envelope in reports:
            self._app.send_task(
                DELIVER_REPORT,
                args=(envelope,),
                queue=self._queue,  # type: ignore[arg-type]  # the stubs know names only
                declare=[],
                retry=False,
            )
            self._sent_through = max(self._sent_through, sequence)

    def _backlog(self) -> int:
        with self._app.connection_for_write() as connection:
            channel: Any = connection.default_channel
            return int(channel.client.llen(REPORTS_QUEUE))
