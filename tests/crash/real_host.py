"""A host worker in a process of its own, on real QEMU machines, and the control plane's end of its broker."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import redis
from celery import Celery
from kombu import Queue
from nacl.signing import VerifyKey

from hosts.agent.config import Enrolment, write_enrolment
from hosts.agent.identity import Identity, new_identity, save_identity
from hosts.agent.simulated import SimulatedBus, demo_topology, memory_file
from hosts.protocol.broker import broker_acl, broker_user
from hosts.protocol.codec import decode_report
from hosts.protocol.fence import DELIVER_COMMAND, REPORTS_QUEUE, fenced_settings, host_queue
from hosts.protocol.messages import (
    Goal,
    GpuOrder,
    ImageOrder,
    Intake,
    MachineOrder,
    NetworkOrder,
    Provision,
    Receipt,
    Release,
    Report,
    Scrubbed,
    ScrubEvidence,
    ScrubPolicy,
)
from hosts.protocol.signing import REPORT, Verifier, key_id
from tests.agent.host_in_a_box import MIB, Control
from tools.pace import slowness
from tools.servers import RedisServer

E = TypeVar("E")
ROOT = Path(__file__).resolve().parents[2]
HOST = "box"
PASSWORD = "only-for-this-test"
PATIENCE_SECONDS = 60.0 * slowness()
POLL_SECONDS = 0.02


def halting_kernel() -> bytes:
    """A boot image in Linux' format, as small as it gets: it halts the processor for good.

    Offsets: Documentation/arch/x86/boot.rst. Two sectors of set-up code, entered at 0x200, then nothing.
    """
    image = bytearray(2048)
    image[0x1F1] = 1  # set-up sectors, less the first
    struct.pack_into("<H", image, 0x1FE, 0xAA55)
    image[0x200:0x202] = b"\xeb\x66"  # jump over the header to 0x268
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, 0x020C)
    image[0x211] = 1  # loaded high
    struct.pack_into("<I", image, 0x22C, 0x7FFFFFFF)  # an initramfs may lie anywhere
    image[0x268:0x26C] = b"\xfa\xf4\xeb\xfd"  # cli; hlt; jump back
    return bytes(image)


def write_image(directory: Path) -> ImageOrder:
    folder = directory / "halting"
    folder.mkdir(parents=True)
    files = {"vmlinux": halting_kernel(), "initrd.img": bytes(512)}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    manifest = {"kernel": "vmlinux", "initrd": "initrd.img", "cmdline": "", "sha256": digests}
    text = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(text)
    return ImageOrder(name="halting", format="direct-kernel", digest=hashlib.sha256(text).hexdigest())


class RealHost:
    """One host: everything but the process of its worker survives `kill`."""

    def __init__(self, directory: Path, server: RedisServer) -> None:
        self.directory = directory
        self.control = Control()
        self.image = write_image(directory / "images")
        self.crash_file = directory / "crash-at"
        self.log = directory / "worker.log"
        self.lease = 0
        self.tenure = 1
        self.reports: list[Report] = []
        self._broker = redis.Redis.from_url(server.url)
        self._identity: Identity = new_identity()
        save_identity(directory / "state" / "identity.json", self._identity)
        config = self._write_config(server)
        self._sender = Celery("control", broker=server.url, set_as_current=False)
        self._sender.conf.update(fenced_settings(queue="control", unacked_prefix="control"))
        self._worker: list[int] = []
        self._starter = self._start_starter(config)
        SimulatedBus(directory / "bus", demo_topology(MIB))

    def _write_config(self, server: RedisServer) -> Path:
        digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
        broker: Any = self._broker
        broker.execute_command("ACL", "SETUSER", *broker_acl(HOST, digest))
        settings = {
            "state_directory": str(self.directory / "state"),
            "images_directory": str(self.directory / "images"),
            "libvirt_uri": f"qemu:///embed?root={self.directory / 'libvirt'}",
            "domain_type": "qemu",
            "bus": "simulated",
            "bus_directory": str(self.directory / "bus"),
            "resend_seconds": 1.0,
            "watch_seconds": 0.5,
        }
        enrolment = Enrolment(
            host=HOST,
            portal="https://portal.example",
            broker_url=f"redis://{broker_user(HOST)}:{PASSWORD}@127.0.0.1:{server.port}/0",
            control_keys=(bytes(self.control.key.verify_key).hex(),),
        )
        write_enrolment(self.directory / "state" / "enrolment.json", enrolment)
        path = self.directory / "host.toml"
        path.touch(mode=0o600)
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in settings.items()]
        path.write_text("".join([*lines, '[network]\nmode = "user"\n']))
        return path

    def start(self) -> None:
        """Start the worker's process."""
        self._tell("start")
        self._worker = [self._answer()]

    def crash_at(self, boundary: str | None) -> None:
        """Let the worker kill itself when it comes to this boundary next."""
        if boundary is not None:
            self.crash_file.write_text(boundary)

    def await_death(self) -> None:
        """Until the worker has killed itself."""
        assert self._await_exit() == -signal.SIGKILL
        assert not self.crash_file.exists()

    def stop(self) -> int:
        """Ask the worker to stop; its exit status."""
        os.kill(self._worker[0], signal.SIGTERM)
        return self._await_exit()

    def _await_exit(self) -> int:
        status = self._answer()
        self._worker.clear()
        return status

    def _tell(self, line: str) -> None:
        assert self._starter.stdin is not None
        self._starter.stdin.write(f"{line}\n")
        self._starter.stdin.flush()

    def _answer(self) -> int:
        """The next number that the starter prints: a process id or an exit status."""
        assert self._starter.stdout is not None
        return int(self._starter.stdout.readline())

    def _start_starter(self, config: Path) -> subprocess.Popen[str]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.crash.killable", str(config), str(self.crash_file)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def send(self, goal: Goal, *, subject: str, **changes: Any) -> None:
        queue = Queue(host_queue(HOST), routing_key=host_queue(HOST))
        envelope = self.control.envelope(goal, subject=subject, host=HOST, **changes)
        self._sender.send_task(DELIVER_COMMAND, args=(envelope,), queue=queue, declare=[])  # type: ignore[arg-type]

    def await_event(self, kind: type[E], matches: Callable[[E], bool] = lambda _: True) -> E:
        """The first event of that kind that matches, among those received so far and those to come."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            for report in self.reports:
                if isinstance(report.event, kind) and matches(report.event):
                    return report.event
            assert time.monotonic() < deadline, f"No {kind.__name__} came. {self.log_tail()}"
            self._receive(seconds=0.2)

    @property
    def gpu(self) -> GpuOrder:
        """The first simulated GPU, as the present lease has it."""
        return GpuOrder(gpu_id=UUID(int=1), tenure=self.tenure, address=demo_topology()[0].address)

    @property
    def lease_id(self) -> UUID:
        return UUID(int=self.lease)

    @property
    def subject(self) -> str:
        return f"lease:{self.lease}"

    @property
    def machine(self) -> str:
        return f"lease-{self.lease}"

    @property
    def disk(self) -> Path:
        return self.directory / "state" / "disks" / f"{self.lease_id}.qcow2"

    @property
    def gpu_memory(self) -> bytes:
        return memory_file(self.directory / "bus", self.gpu.address).read_bytes()

    def intake(self) -> None:
        self.send(Intake(gpu=self.gpu, scrub=ScrubPolicy()), subject="gpu:1")
        assert self.await_event(Scrubbed).evidence.verdict == "passed"

    def begin_lease(self) -> None:
        """The GPU goes to another lease. What was reported of the last one is receipted."""
        last = max(self.reports, key=lambda report: report.sequence)
        receipt = Receipt(journal_id=last.journal_id, through=last.sequence)
        self.send(receipt, subject=f"host:{HOST}", generation=0)
        self.lease += 1
        self.tenure += 1

    def provision(self) -> None:
        order = MachineOrder(
            name=self.machine,
            vcpus=1,
            memory_mib=64,
            disk_gib=1,
            image=self.image,
            network=NetworkOrder(ports=(22,)),
        )
        goal = Provision(
            lease_id=self.lease_id,
            ends_at=datetime.now(UTC) + timedelta(hours=1),
            grace_seconds=60,
            gpus=(self.gpu,),
            machine=order,
        )
        self.send(goal, subject=self.subject)

    def release(self) -> None:
        goal = Release(lease_id=self.lease_id, gpus=(self.gpu,), shutdown_seconds=0, scrub=ScrubPolicy())
        self.send(goal, subject=self.subject)

    def await_clean(self) -> ScrubEvidence:
        """Until the lease's GPU has been scrubbed; the evidence."""
        scrubbed = self.await_event(Scrubbed, lambda event: event.lease_id == self.lease_id)
        assert scrubbed.tenure == self.tenure
        return scrubbed.evidence

    def machine_processes(self) -> list[int]:
        """QEMU processes of this host."""
        commands = ((path, path.read_bytes()) for path in Path("/proc").glob("[0-9]*/cmdline"))
        mark = f"{self.directory}/libvirt".encode()
        return [int(path.parts[2]) for path, text in commands if b"qemu-system" in text and mark in text]

    def destroy_all(self) -> None:
        """Whatever happened, leave no process behind."""
        for pid in (*self._worker, *self.machine_processes()):
            os.kill(pid, signal.SIGKILL)
        self._starter.kill()
        self._starter.communicate()

    def log_tail(self) -> str:
        return self.log.read_text()[-4000:]

    def is_let_in(self, port: int) -> bool:
        """Whether a forwarded port of the host takes connections."""
        try:
            with socket.create_connection(("127.0.0.1", port), 10):
                return True
        except ConnectionRefusedError:
            return False

    def starts(self, name: str) -> int:
        """How often QEMU was started for this machine, as libvirt wrote it down."""
        return (self.directory / "libvirt/log/qemu" / f"{name}.log").read_text().count("starting up")

    def gaps(self) -> set[int]:
        """Numbers of reports that never came, of those before the last that did."""
        seen = {report.sequence for report in self.reports}
        return set(range(1, max(seen) + 1)) - seen

    def _receive(self, *, seconds: float) -> None:
        """Take one report off the queue; each is signed by this host's key, or the test fails."""
        taken = self._broker.brpop([REPORTS_QUEUE], timeout=seconds)
        if taken is None:
            return
        body = json.loads(base64.b64decode(json.loads(taken[1])["body"]))
        key: VerifyKey = self._identity.signing.verify_key
        report = decode_report(Verifier({key_id(key): key}, REPORT).open(body[0][0]))
        if report.sequence not in {each.sequence for each in self.reports}:
            self.reports.append(report)
