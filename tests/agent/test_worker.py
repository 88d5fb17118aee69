"""The whole worker in one process, on a real broker: from the queue to the reports, and down again."""

from __future__ import annotations

import hashlib
import json
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

from hosts.agent import cli
from hosts.agent.config import ConfigError, load_config
from hosts.agent.control_socket import ask
from hosts.agent.hardware import Hardware
from hosts.agent.identity import Identity, IdentityError, create_identity, load_identity
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
CONFIG = """
host = "box"
state_directory = "{directory}/state"
broker_url = "redis://127.0.0.1:1/0"
control_keys = ["{key}"]
images_directory = "{directory}/images"
bus = "simulated"
bus_directory = "{directory}/bus"
"""


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
    status = ask(box.config.socket_path, "status")
    assert [gpu["state"] for gpu in status["gpus"]] == ["leased"]
    assert [machine["state"] for machine in status["machines"]] == ["on"]
    assert [plan["kind"] for plan in ask(box.config.socket_path, "journal")] == ["provision", "intake"]
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
    assert "Known questions" in ask(box.config.socket_path, "anything")["error"]
    worker.stop()


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "host.toml"
    path.touch(mode=0o600)
    path.write_text(CONFIG.format(directory=tmp_path, key="ab" * 32))
    return path


def test_init_makes_keys_once_and_prints_their_public_halves(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["init", "--config", str(config_file)]) == 0
    told = json.loads(capsys.readouterr().out)
    config = load_config(config_file)
    assert told == {"host": "box", **load_identity(config.identity_directory).public_halves()}
    assert {path.stat().st_mode & 0o777 for path in config.identity_directory.iterdir()} == {0o600}
    assert cli.main(["init", "--config", str(config_file)]) == 2
    assert "has keys already" in capsys.readouterr().err


def test_status_says_when_no_worker_runs(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--config", str(config_file)]) == 1
    assert "No worker answers" in capsys.readouterr().err


def test_run_without_keys_says_what_to_do(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--config", str(config_file)]) == 2
    assert "leasehold-host init" in capsys.readouterr().err


def test_keys_that_others_can_read_are_not_used(tmp_path: Path) -> None:
    create_identity(tmp_path / "identity")
    (tmp_path / "identity" / "signing.key").chmod(0o644)
    with pytest.raises(IdentityError, match="readable by others"):
        load_identity(tmp_path / "identity")


def test_a_configuration_that_others_can_read_is_not_used(config_file: Path) -> None:
    config_file.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_config(config_file)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ('host = "box"\nunknown = 1', "unknown"),
        ('host = "UPPER"', "host"),
        ("host = 7", "host"),
        ("host =", "host.toml"),
    ],
)
def test_a_wrong_configuration_is_explained(config_file: Path, wrong: str, told: str) -> None:
    config_file.write_text(config_file.read_text().replace('host = "box"', wrong))
    with pytest.raises(ConfigError, match=told):
        load_config(config_file)


def test_a_simulated_bus_needs_its_directory(config_file: Path) -> None:
    text = config_file.read_text()
    config_file.write_text("".join(line for line in text.splitlines(True) if "bus_directory" not in line))
    with pytest.raises(ConfigError, match="bus_directory"):
        load_config(config_file)
