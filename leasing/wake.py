"""Tells the control worker that there is something to do now; its tick would find it soon anyway."""

from __future__ import annotations

import logging
import time

from celery import current_app
from kombu.exceptions import OperationalError

from hosts.protocol.fence import CONTROL_QUEUE, push

log = logging.getLogger(__name__)

WAKE_TASK = "leasing.wake"
_REST_SECONDS = 15.0
_resting_until = 0.0


def wake_control() -> None:
    """Best effort: without a broker the work waits for the tick, and nobody waits for the broker twice."""
    global _resting_until
    if time.monotonic() < _resting_until:
        return
    try:
        push(current_app, WAKE_TASK, queue=CONTROL_QUEUE, args=(repr(time.time()),))
    except (OperationalError, OSError) as error:
        _resting_until = time.monotonic() + _REST_SECONDS
        log.warning("Could not wake the control worker: %s", error)
