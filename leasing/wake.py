"""Tells the control worker that there is something to do now; its tick would find it soon anyway."""

from __future__ import annotations

import logging
import time

from celery import current_app
from kombu.exceptions import OperationalError

from hosts.protocol.fence import CONTROL_QUEUE, push

log = logging.getLogger(__name__)

WAKE_TASK = "leasing.wake"


def wake_control() -> None:
    """Best effort: without a broker the work waits for the tick."""
    try:
        push(current_app, WAKE_TASK, queue=CONTROL_QUEUE, args=(repr(time.time()),))
    except (OperationalError, OSError) as error:
        log.warning("Could not wake the control worker: %s", error)
