"""The control plane's consumer of reports, on a real Redis: it takes envelopes and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import Celery
from celery.app.trace import reset_worker_optimizations, setup_worker_optimizations
from django.db import connections
from kombu import Queue

from hosts.models import ReceivedReport
from hosts.protocol.fence import DELIVER_REPORT, REPORTS_QUEUE, fenced_settings
from leasing.fsck import run_checks
from leasing.models import AuditEntry
from portal import celery as portal_celery
from tests.world import World, inventory
from tools.servers import RedisServer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def broker(redis_server: RedisServer) -> Iterator[Any]:
    client = redis.Redis.from_url(redis_server.url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def sender(redis_server: RedisServer) -> Iterator[Celery]:
    """Whoever may push to the queue, a host that is no longer ours for instance."""
    app = Celery("sender", broker=redis_server.url, set_as_current=False)
    app.conf.update(fenced_settings(queue="elsewhere", unacked_prefix="sender"))
    app.conf.accept_content = ["json", "yaml"]
    yield app
    app.close()


@pytest.fixture
def consumer(broker: Any, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The production application in a worker of this process, so that it has the test's database."""
    app = portal_celery.reports
    monkeypatch.setattr(app.conf, "broker_url", redis_server.url)
    hostname = "reports@test"
    setup_worker_optimizations(app, hostname)
    controller = app.WorkController(
        pool="solo", hostname=hostname, without_gossip=True, without_mingle=True, without_heartbeat=True
    )

    def work() -> None:
        try:
            controller.start()
        finally:
            connections.close_all()

    thread = threading.Thread(target=work, name="reports consumer")
    thread.start()
    yield controller
    controller.stop(in_sighandler=False)
    thread.join(20)
    reset_worker_optimizations(app)
    assert not thread.is_alive()


def send(sender: Celery, *args: Any, task: str = DELIVER_REPORT, **options: Any) -> None:
    queue: Any = Queue(REPORTS_QUEUE, routing_key=REPORTS_QUEUE)
    sender.send_task(task, args=args, queue=queue, declare=[], **options)


def wait_for(holds: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def refusals() -> list[str]:
    return [entry.text for entry in AuditEntry.objects.filter(action="report.refuse").order_by("id")]


CALL: dict[str, Any] = {
    "task": "anything",
    "args": [],
    "kwargs": {},
    "options": {"queue": "victim"},
    "subtask_type": None,
}
FORGERIES: dict[str, dict[str, Any]] = {
    "callbacks": {"link": CALL},
    "errbacks": {"link_error": CALL},
    "chain": {"chain": [CALL]},
    "chord": {"chord": CALL},
    "eta": {"countdown": 1},
}


@pytest.mark.parametrize("what", FORGERIES)
def test_what_is_embedded_in_a_message_is_refused_noted_and_never_run(
    what: str, consumer: Any, sender: Celery, broker: Any
) -> None:
    world = World(gpus=0)
    known = ReceivedReport.objects.count()
    envelope = world.host.envelope(inventory(), at=world.now)
    send(sender, envelope, **FORGERIES[what])
    wait_for(refusals)
    assert [what in text for text in refusals()] == [True]
    assert ReceivedReport.objects.count() == known, "nor is the envelope in it read"
    assert broker.keys("victim*") == []

    send(sender, envelope)
    wait_for(lambda: ReceivedReport.objects.filter(applied_at__isnull=False).count() == known + 1)
    wait_for(lambda: broker.keys("reports.unacked*") == [])
    assert broker.llen(REPORTS_QUEUE) == 0
    assert len(refusals()) == 1
    assert run_checks(world.now) == []


def test_another_task_and_another_encoding_change_nothing(consumer: Any, sender: Celery, broker: Any) -> None:
    world = World(gpus=0)
    known = ReceivedReport.objects.count()
    send(sender, "any", task="leasing.tick")
    send(sender, "any", serializer="yaml")
    send(sender, "one", "two")
    wait_for(refusals)
    send(sender, world.host.envelope(inventory(), at=world.now))
    wait_for(lambda: ReceivedReport.objects.filter(applied_at__isnull=False).count() == known + 1)
    wait_for(lambda: broker.keys("reports.unacked*") == [])
    assert broker.llen(REPORTS_QUEUE) == 0
    assert run_checks(world.now) == []
