"""The lab's tenant system as a leased machine: it greets, writes to a GPU, shows text, obeys the button."""

from __future__ import annotations

import gzip
import queue
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from appliance import initramfs
from hosts.agent import gpu_errors, guest
from hosts.agent.disks import create_scratch
from hosts.agent.domain import Disk, domain_xml
from hosts.agent.fragments import emulated_display, root_port
from hosts.agent.guest import GuestWord
from hosts.agent.hypervisor import Hypervisor
from hosts.agent.images import open_kernel_image, sha256_of
from hosts.agent.machines import HypervisorError, MachineState, Stop, StopCause
from hosts.agent.network.lanes import Lane, make_lane
from hosts.agent.network.settings import NetworkSettings
from hosts.agent.network.ways import UserNetwork
from lab.tenant.build import build_tenant
from tests.agent.machine_specs import LEASE, idle_machine
from tests.agent.vnc import grab_picture
from tools.pace import slowness
from tools.servers import free_port

BOOT_SECONDS = 50 * slowness()
SETTINGS = NetworkSettings(mode="user", address="127.0.0.1")
LANE = make_lane(SETTINGS, LEASE, 0, ())


def wait_for(condition: Callable[[], bool], seconds: float = BOOT_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


@pytest.mark.timeout(120)
def test_a_tenant_comes_up_and_obeys_the_power_button(
    embedded: Hypervisor, tenant_image: Path, tmp_path: Path
) -> None:
    outer = socket.create_server(("127.0.0.1", 0))
    outside = f"10.0.2.2:{outer.getsockname()[1]}"
    disk = tmp_path / "scratch.qcow2"
    create_scratch(disk, size_gib=1, encrypted=False)
    secret = "leasehold.write=0000:00:01.0:f00000:cafe0001,2 leasehold.read=0000:00:01.0:f00000:3"
    spec = replace(
        idle_machine(tmp_path, memory_mib=256, disk=Disk(disk, encrypted=False)),
        boot=open_kernel_image(
            tenant_image,
            sha256_of(tenant_image / "manifest.json"),
            cmdline=f"leasehold.name=lease-one leasehold.try={outside} leasehold.xid=79 {secret}",
        ),
    )
    stops: queue.Queue[Stop] = queue.Queue()
    embedded.on_stopped(stops.put)
    network, lane = UserNetwork(SETTINGS, embedded), replace(LANE, forwards=((free_port(), 80),))
    embedded.define(
        domain_xml(spec, [root_port(1), emulated_display(1)], beside=network.join(lane)[1]),
    )
    embedded.start("lease-one")
    wait_for(lambda: spec.serial_log.exists() and "leasehold tenant ready" in spec.serial_log.read_text())

    said = spec.serial_log.read_text().splitlines()
    assert "leasehold tenant ready lease-one" in said
    assert "leasehold disk vda 1024 MiB" in said
    assert "leasehold wrote f00000 on 0000:00:01.0" in said
    assert "leasehold read f00000 0xCAFE0001 0x00000002 0x00000000" in said
    displays = [line.split()[2:5:2] for line in said if line.startswith("leasehold display")]
    assert displays == [["0000:00:01.0", "0x030000"], ["0000:01:00.0", "0x038000"]]
    wait_for(lambda: guest.ask(embedded, "lease-one") is not None)
    word = guest.ask(embedded, "lease-one")
    assert word == GuestWord("lease-one", "Leasehold tenant", ("10.0.2.15",), people=0)
    pid = gpu_errors.begin(embedded, "lease-one")
    assert pid is not None
    lines: list[gpu_errors.Line] = []

    def found() -> bool:
        lines.extend(gpu_errors.result(embedded, "lease-one", pid))
        return bool(lines)

    wait_for(found)
    assert [(line.code, line.bus) for line in lines] == [(79, 1)]
    wait_for(lambda: has_text(grab_picture(embedded.console_socket("lease-one"))))
    wait_for(lambda: f"leasehold does not reach {outside}" in spec.serial_log.read_text())
    outer.close()
    assert "<h1>Welcome to lease-one" in fetched(lane)
    network.admit([replace(lane, is_open=False)])
    with pytest.raises(URLError, match="refused"):
        fetched(lane)

    assert embedded.counters("lease-one").processor_seconds > 1
    assert embedded.counters("lease-one").network_bytes is None, "QEMU's own network cannot be seen"
    assert guest.ask_to_stop(embedded, "lease-one")
    assert stops.get(timeout=20) == Stop(name="lease-one", cause=StopCause.GUEST)
    assert embedded.state("lease-one") is MachineState.OFF
    assert "leasehold tenant stopping" in spec.serial_log.read_text()
    embedded.undefine("lease-one")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["silent", "flood"])
def test_an_agent_that_misbehaves_keeps_nobody_waiting(
    embedded: Hypervisor, tenant_image: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libvirt and the real channel, and somebody at its other end who says nothing, or never stops."""
    manifest = sha256_of(tenant_image / "manifest.json")
    boot = open_kernel_image(tenant_image, manifest, cmdline=f"leasehold.agent={how}")
    spec = replace(idle_machine(tmp_path, memory_mib=256), boot=boot)
    monkeypatch.setattr(guest, "ANSWER_SECONDS", 1)
    stops: queue.Queue[Stop] = queue.Queue()
    embedded.on_stopped(stops.put)
    embedded.define(domain_xml(spec, []))
    embedded.start("lease-one")
    try:
        wait_for(lambda: spec.serial_log.exists() and "leasehold agent" in spec.serial_log.read_text())
        wait_for(lambda: "not connected" not in refusal(embedded))
        assert guest.ask(embedded, "lease-one") is None
        assert not guest.ask_to_stop(embedded, "lease-one")
        assert embedded.counters("lease-one").network_bytes == 0
        assert embedded.state("lease-one") is MachineState.RUNNING
        wait_for(lambda: "leasehold tenant ready" in spec.serial_log.read_text())
        embedded.shutdown("lease-one")
        assert stops.get(timeout=20) == Stop(name="lease-one", cause=StopCause.GUEST)
    finally:
        embedded.destroy("lease-one")
        embedded.undefine("lease-one")


def refusal(host: Hypervisor) -> str:
    """What the hypervisor says instead of the guest's answer: none in time, or one that is no answer."""
    with pytest.raises(HypervisorError) as refused:
        host.ask_guest("lease-one", "guest-ping", {}, seconds=1)
    return str(refused.value.__cause__)


def fetched(lane: Lane) -> str:
    """The page behind the forwarded port."""
    (port, _inside), *_none = lane.forwards
    with urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        return str(answer.read().decode())


def has_text(picture: bytes) -> bool:
    """Mostly background, but with more foreground than a cursor needs."""
    pixels = memoryview(picture).cast("I")
    lit = sum(1 for pixel in pixels if pixel & 0xFFFFFF)
    return 1000 < lit < len(pixels) / 4


def test_a_tenant_that_is_built_is_not_built_again(tenant_image: Path) -> None:
    before = (tenant_image / "initrd.img").stat().st_mtime_ns
    build_tenant(tenant_image)
    assert (tenant_image / "initrd.img").stat().st_mtime_ns == before


def test_equal_input_gives_an_equal_initramfs_whatever_its_order() -> None:
    entries = {
        "bin": initramfs.directory(),
        "bin/sh": initramfs.program(b"#!"),
        "motd": initramfs.plain(b"hi"),
    }
    assert initramfs.pack(entries) == initramfs.pack(dict(reversed(entries.items())))
    assert gzip.decompress(initramfs.pack(entries)).count(b"070701") == len(entries) + 1
