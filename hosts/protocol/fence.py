"""The fence around Celery: its messages are not authenticated, so a consumer here takes one shape only.

A message may carry one string, the signed envelope. Anything else that Celery would act upon before the
signature is checked (links, callbacks, chains, chords, due times, replies) is refused, unread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from celery import Celery, Task
from celery.worker.strategy import default
from kombu import Queue
from kombu.exceptions import ContentDisallowed, DecodeError

from hosts.protocol.signing import MAX_ENVELOPE_BYTES

log = logging.getLogger(__name__)

DELIVER_COMMAND = "leasehold.deliver_command"
DELIVER_REPORT = "leasehold.deliver_report"
REPORTS_QUEUE = "reports"
CONTROL_QUEUE = "control"

_EMBEDDED = ("callbacks", "errbacks", "chain", "chord")
_FORBIDDEN_HEADERS = ("eta", "group", "chord", "stamped_headers")


def host_queue(host: str) -> str:
    """The one queue that the worker of `host` consumes."""
    return f"host.{host}"


def fenced_settings(*, queue: str, unacked_prefix: str) -> dict[str, Any]:
    """Celery configuration that both sides share: JSON only, one queue, no results, no remote control.

    The unacked keys are private to `unacked_prefix`, so that a broker account can be confined to them.
    """
    return {
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_backend": None,
        "task_ignore_result": True,
        "task_create_missing_queues": False,
        "task_queues": [Queue(queue, routing_key=queue)],
        "task_default_queue": queue,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_enable_remote_control": False,
        "worker_send_task_events": False,
        "worker_prefetch_multiplier": 1,
        "worker_hijack_root_logger": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "visibility_timeout": 60,
            "unacked_restore_interval": 2,
            "unacked_restore_throttle": 1,
            "unacked_key": f"{unacked_prefix}.unacked",
            "unacked_index_key": f"{unacked_prefix}.unacked_index",
            "unacked_mutex_key": f"{unacked_prefix}.unacked_mutex",
            "priority_steps": [0],
            "socket_connect_timeout": 5,
            "socket_timeout": 30,
            "socket_keepalive": True,
            # Whoever sends decides what to do without a broker; nobody waits for one here.
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0,
            "interval_max": 0,
            "fanout_prefix": True,
            "fanout_patterns": True,
        },
    }


def objection(message: Any) -> str | None:
    """Why a Celery message (task protocol 2) must not be looked at further, or None."""
    try:
        payload = message.payload
    except (ContentDisallowed, DecodeError):
        return "not JSON"
    if not _has_shape(payload) or not isinstance(message.headers, dict):
        return "not a message of Celery's task protocol 2"
    args, kwargs, embed = payload
    if embedded := [name for name in _EMBEDDED if (embed or {}).get(name)]:
        return f"it embeds {', '.join(embedded)}"
    if headers := [name for name in _FORBIDDEN_HEADERS if message.headers.get(name)]:
        return f"it sets {', '.join(headers)}"
    if message.properties.get("reply_to") and message.headers.get("ignore_result") is False:
        return "it asks for a reply"
    if kwargs or len(args) != 1 or not isinstance(args[0], str):
        return "it does not carry exactly one envelope"
    if len(args[0]) > MAX_ENVELOPE_BYTES:
        return f"its envelope is longer than {MAX_ENVELOPE_BYTES} bytes"
    return None


def _has_shape(payload: Any) -> bool:
    """`[args, kwargs, embed]`, each of the type that Celery takes for granted."""
    match payload:
        case [list(), dict(), dict() | None]:
            return True
    return False


class FencedTask(Task):  # type: ignore[type-arg]
    """A task whose messages pass the fence before Celery builds a request from them."""

    abstract = True
    Strategy = "hosts.protocol.fence:fenced_strategy"
    on_refused: Callable[[str], None] | None = None


def fenced_strategy(task: Any, app: Celery, consumer: Any) -> Callable[..., Any]:
    """Celery's default strategy behind the fence. A refused message is acknowledged, never redelivered."""
    accept = default(task, app, consumer)

    def handle(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **rest: Any) -> Any:
        reason = objection(message)
        if reason is None:
            # Of what surrounds the envelope Celery is given nothing that the sender wrote.
            message.headers = {"id": str(uuid4()), "task": task.name, "lang": "py"}
            message.properties["reply_to"] = None
            return accept(message, body, ack, reject, callbacks, **rest)
        message.ack()
        if task.on_refused is not None:
            _tell(task.on_refused, reason)
        return None

    return handle


def _tell(on_refused: Callable[[str], None], reason: str) -> None:
    """Whatever goes wrong with that, the consumer goes on."""
    try:
        on_refused(reason)
    except Exception:
        log.exception("A refused message could not be noted: %s", reason)


def leave_only(app: Celery, *names: str) -> None:
    """Unregister every other task: Celery brings some of its own that would run whatever they are told."""
    app.finalize()
    for name in set(app.tasks) - set(names):
        del app.tasks[name]


def push(app: Celery, task: str, *, queue: str, args: tuple[str, ...] = ()) -> None:
    """Send a task to a queue without declaring it: all that the broker sees is one push.

    Raises OperationalError or OSError when the broker does not take it.
    """
    app.send_task(
        task,
        args=args,
        queue=Queue(queue, routing_key=queue),  # type: ignore[arg-type]  # the stubs know names only
        declare=[],
        retry=False,
    )
