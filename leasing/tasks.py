"""Celery tasks of the control plane: thin wrappers around one service each."""

from __future__ import annotations

import time

from celery import current_app, shared_task
from django.utils import timezone

from hosts.models import Host
from hosts.protocol.fence import DELIVER_COMMAND, DELIVER_REPORT, FencedTask, host_queue, push
from leasing import hooks, notices, reports
from leasing.audit.sinks import tell_sinks
from leasing.imaging.launch import start_conversion
from leasing.reports.inbox import refuse_report
from leasing.tick import tick
from leasing.wake import WAKE_TASK

TICK_TASK = "leasing.tick"
NOTIFY_TASK = "leasing.notify"
HEADS_TASK = "leasing.tell-heads"
HOOKS_TASK = "leasing.tell-hooks"

_last_tick_began = 0.0


class ReportTask(FencedTask):
    """The one task that hosts can reach."""

    abstract = True

    @staticmethod
    def on_refused(reason: str) -> None:
        refuse_report(reason, now=timezone.now())


@shared_task(name=DELIVER_REPORT, base=ReportTask)
def deliver_report(envelope: str) -> None:
    reports.receive_report(envelope, now=timezone.now())


@shared_task(name=TICK_TASK)
def run_tick() -> None:
    global _last_tick_began
    _last_tick_began = time.time()
    tick(now=timezone.now(), send=send_command)
    start_conversion()


@shared_task(name=WAKE_TASK)
def wake(asked_at: str) -> None:
    """Tick now, unless a tick has begun since this was asked for."""
    if _last_tick_began < float(asked_at):
        run_tick()


@shared_task(name=NOTIFY_TASK)
def send_notices() -> None:
    notices.send_due_notices(now=timezone.now())


@shared_task(name=HEADS_TASK)
def tell_heads() -> None:
    tell_sinks(timezone.now())


@shared_task(name=HOOKS_TASK)
def send_hooks() -> None:
    hooks.send_due_hooks(now=timezone.now())


def send_command(host: Host, envelope: str) -> None:
    """Hand a signed command to the host's queue."""
    push(current_app, DELIVER_COMMAND, queue=host_queue(host.account), args=(envelope,))
