"""The control plane's two Celery workers: one does what is due, the other only receives reports.

celery -A portal.celery:control worker --beat --pool threads --concurrency 1
celery -A portal.celery:reports worker --pool threads --concurrency 1
"""

from __future__ import annotations

import os

import django
from celery import Celery
from celery.signals import worker_init
from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from hosts.protocol.fence import (
    CONTROL_QUEUE,
    DELIVER_REPORT,
    REPORTS_QUEUE,
    fenced_settings,
    leave_only,
)

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
if not apps.models_ready:
    django.setup()

from leasing.checks import require_guards
from leasing.tasks import HEADS_TASK, HOOKS_TASK, NOTIFY_TASK, TICK_TASK
from leasing.wake import WAKE_TASK

NOTIFY_SECONDS = 5.0
HEADS_SECONDS = 10.0

control = Celery("leasehold-control", broker=settings.BROKER_URL)
control.conf.update(fenced_settings(queue=CONTROL_QUEUE, unacked_prefix="control"))
control.conf.update(
    beat_schedule={
        "tick": {"task": TICK_TASK, "schedule": settings.TICK_SECONDS, "options": {"expires": 10}},
        "notify": {"task": NOTIFY_TASK, "schedule": NOTIFY_SECONDS, "options": {"expires": 10}},
        "tell-hooks": {"task": HOOKS_TASK, "schedule": NOTIFY_SECONDS, "options": {"expires": 10}},
        "tell-heads": {"task": HEADS_TASK, "schedule": HEADS_SECONDS, "options": {"expires": 10}},
    },
    beat_schedule_filename=str(settings.VAR_DIR / "beat"),
)
leave_only(control, TICK_TASK, WAKE_TASK, NOTIFY_TASK, HEADS_TASK, HOOKS_TASK)

reports = Celery("leasehold-reports", broker=settings.BROKER_URL, set_as_current=False)
reports.conf.update(fenced_settings(queue=REPORTS_QUEUE, unacked_prefix="reports"))
leave_only(reports, DELIVER_REPORT)
control.set_default()


@worker_init.connect
def check_database(**_: object) -> None:
    """A worker whose database lacks a guard does not start. Celery would log any other error and go on."""
    try:
        require_guards()
    except ImproperlyConfigured as error:
        raise SystemExit(str(error)) from error
