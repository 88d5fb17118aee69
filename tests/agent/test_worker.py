"""The whole worker in one process, on a real broker: from the queue to the reports, and down again."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from celery import Celery
from kombu import Queue

from hosts.agent.control_socket import Refused, ask
from hosts.agent.hardware import Hardware
from hosts.agent.identity import Identity
from hosts.agent.journal import Journal
from hosts.agent.machines import HypervisorError, MachineState
from hosts.agent.scrubbers import load_scrubbers
from hosts.agent.simulated import SimulatedBus, demo_topology
from hosts.agent.worker import Worker
from hosts.protocol.broker import broker_acl, broker_user
from hosts.protocol.fence import DELIVER_COMMAND, REPORTS_QUEUE, fenced_settings, host_queue
from hosts.protocol.messages import Accepted, Intake, ScrubPolicy
from tests.agent.host_in_a_box import HOST, MIB, Box, gpu_order, wait_for
from tools.servers import RedisServer

PASSWORD = "only-for-this-test"


@pytest.fixture
def broker(redis_server: RedisServer) -> Iterator[Any]:
    client = redis.Redis.from_url(redis_server.url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def box(tmp_path: Path, broker: Any, redis_server: RedisServer) -> Box:
    """The parts that outlive a worker; the box's own worker is not used."""
    digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
    broker.execute_command("ACL", "SETUSER", *broker_acl(HOST, digest))
    box = Box(tmp_path)
    box.close()
    url = f"redis://{broker_user(HOST)}:{PASSWORD}@127.0.0.1:{redis_server.port}/0"
    box.config = msgspec.structs.replace(box.config, broker_url=url, watch_seconds=0.2)
    return box


def a_worker(box: Box, **changes: Any) -> Worker:
    hardware = Hardware(
        bus=SimulatedBus(box.bus_directory, demo_topology(MIB)),
        hypervisor=box.machines,
        scrubbers=load_scrubbers(),
    )
    config = msgspec.structs.replace(box.config, **changes)
    return Worker(config, Identity(box.signing, box.sealing), hardware)


def send(box: Box, server: RedisServer, goal: Any, *, subject: str) -> None:
    portal = Celery("portal", broker=server.url, set_as_current=False)
    portal.conf.update(fenced_settings(queue="control", unacked_prefix="control"))
    queue: Any = Queue(host_queue(HOST), routing_key=host_queue(HOST))
    envelope = box.control.envelope(goal, subject=subject)
    portal.send_task(DELIVER_COMMAND, args=(envelope,), queue=queue, declare=[])
    portal.close()


def test_a_lease_from_the_queue_to_the_reports(box: Box, broker: Any, redis_server: RedisServer) -> None:
    worker = a_worker(box, stop_machines_on_exit=True)
    worker.start()
    order = gpu_order()
    send(box, redis_server, Intake(gpu=order, scrub=ScrubPolicy()), subject="gpu:1")
    send(box, redis_server, box.provision(order), subject="lease:1")
    wait_for(lambda: box.machines.state("lease-1") is MachineState.RUNNING)
    wait_for(lambda: not worker.rig.plans.open())
    (status,) = ask(box.config.socket_path, "status")
    assert [gpu["state"] for gpu in status["gpus"]] == ["leased"]
    assert [machine["state"] for machine in status["machines"]] == ["on"]
    assert [plan["kind"] for plan in next(ask(box.config.socket_path, "journal"))] == ["provision", "intake"]
    worker.stop()
    assert box.machines.state("lease-1") is MachineState.OFF
    assert broker.llen(REPORTS_QUEUE) >= status["reports_waiting"]
    assert not box.config.socket_path.exists()
    assert [thread.name for thread in threading.enumerate() if thread.name in WORKER_THREADS] == []

    again = a_worker(box)
    again.start()
    wait_for(lambda: box.machines.state("lease-1") is MachineState.RUNNING)
    again.stop()
    assert box.machines.state("lease-1") is MachineState.RUNNING


WORKER_THREADS = {"executor", "delivery", "watch", "receiver", "loop"}


def test_a_hypervisor_that_fails_does_not_keep_the_worker_from_going_down(box: Box) -> None:
    worker = a_worker(box, stop_machines_on_exit=True)
    worker.start()
    box.machines.refuses = {"machines"}
    with pytest.raises(HypervisorError):
        worker.stop()
    assert not box.config.socket_path.exists()
    assert [thread.name for thread in threading.enumerate() if thread.name in WORKER_THREADS] == []
    Journal(box.config.journal_path).close()


def test_the_brokers_password_is_in_no_log(box: Box, broker: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Not when the broker is there, not when it denies access, not when something is printed whole."""
    caplog.set_level(logging.DEBUG)
    worker = a_worker(box)
    worker.start()
    wait_for(lambda: broker.llen(REPORTS_QUEUE))
    broker.execute_command("ACL", "SETUSER", broker_user(HOST), "resetpass", ">another")
    broker.execute_command("CLIENT", "KILL", "USER", broker_user(HOST))
    worker.rig.spool.add(Accepted(), worker.rig.spool.host_origin)
    wait_for(lambda: "does not take reports" in caplog.text)
    worker.stop()
    logging.getLogger().warning("%r", box.config)
    assert PASSWORD not in caplog.text


def test_the_control_socket_is_private_and_answers_nonsense_with_an_error(box: Box) -> None:
    worker = a_worker(box)
    worker.start()
    assert box.config.socket_path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(Refused, match="Known questions: doctor, inventory, journal"):
        next(ask(box.config.socket_path, "anything"))
    worker.stop()
