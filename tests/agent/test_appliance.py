"""The scrub machine's system itself: its programs, how it is built, and the whole of it in a real machine."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
from lxml import etree

from appliance import build, debian, initramfs, kernel_image
from appliance.build import build_appliance, compile_program
from appliance.debian import DEFAULT_CACHE
from hosts.agent.bus import Card, PciBus
from hosts.agent.domain import node
from hosts.agent.fragments import root_port
from hosts.agent.hypervisor import Hypervisor
from hosts.agent.images import sha256_of
from hosts.agent.scrub_channel import Patience
from hosts.agent.scrub_machine import Appliance, MachineRoom, MachineScrubber
from hosts.agent.scrubber import Workplace
from hosts.protocol.messages import Fingerprint
from tests.agent.memory_files import RESET

NONCE = "00ff" * 8
ADDRESS = "0000:01:00.0"
SIZE = 3 * (1 << 20) + 4096
MIB = 1 << 20
CHUNK = "(*(memory) ^= 1, memory[2 * CHUNK + 5] ^= 1)"


def said_by(executable: Path, *words: str) -> list[dict[str, Any]]:
    done = subprocess.run([executable, *words], capture_output=True, text=True, timeout=50)
    return [json.loads(line) for line in done.stdout.splitlines()]


def a_device(folder: Path, *, row: str = f"0x0 {SIZE - 1:#x} 0x14220c") -> Path:
    """A PCI device of files, whose second BAR is its memory."""
    device = folder / "devices" / ADDRESS
    device.mkdir(parents=True)
    rows = ["0xfe000000 0xfe000fff 0x40200", row, *["0x0 0x0 0x0"] * 4]
    texts = {"vendor": "0x1234", "device": "0x1111", "enable": "0", "resource": "\n".join(rows)}
    for name, text in texts.items():
        (device / name).write_text(f"{text}\n")
    (device / "resource1").write_bytes(b"\x5a" * SIZE)
    return device


def a_plain_program(folder: Path, *options: str) -> Path:
    return compile_program("plain", folder, f'-DDEVICES="{folder}/devices"', *options)


def test_the_plain_program_overwrites_all_of_the_memory_bar(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    *progress, last = said_by(a_plain_program(tmp_path), NONCE, ADDRESS)
    result = last["result"]
    assert (result["variant"], result["device"], result["driver"]) == ("plain", "1234:1111", "none")
    assert result["total_bytes"] == result["reached_bytes"] == SIZE
    assert (result["mismatches"], result["first_mismatch"]) == (0, -1)
    assert (device / "resource1").read_bytes() == bytes(SIZE)
    assert (device / "enable").read_text().strip() == "1"
    assert {line["phase"] for line in progress} == {"fill", "read", "zero", "check"}
    assert {line["nonce"] for line in (*progress, last)} == {NONCE}


def test_it_notices_what_is_not_as_it_was_written(tmp_path: Path) -> None:
    a_device(tmp_path)
    spoilt = a_plain_program(tmp_path, f"-DSPOIL(memory)={CHUNK}")
    result = said_by(spoilt, NONCE, ADDRESS)[-1]["result"]
    assert (result["mismatches"], result["first_mismatch"]) == (2, 0)


def test_it_says_what_it_cannot_do(tmp_path: Path) -> None:
    a_device(tmp_path, row="0x0 0x0 0x0").joinpath("resource").write_text("0x0 0x0 0x0\n" * 6)
    program = a_plain_program(tmp_path)
    assert said_by(program, NONCE, "0000:02:00.0")[-1]["failure"] == "There is no PCI device at 0000:02:00.0."
    assert said_by(program, NONCE, ADDRESS)[-1]["failure"] == f"The PCI device at {ADDRESS} has no memory."
    for nonce in ("", 'x"', "f" * 65):
        assert said_by(program, nonce, ADDRESS) == [], "not even a failure without a nonce"


def has_opencl() -> bool:
    found = Path("/usr/include/CL/cl.h").exists() and shutil.which("gcc") is not None
    return found and any(Path("/etc/OpenCL/vendors").glob("*.icd"))


opencl = pytest.mark.skipif(not has_opencl(), reason="needs OpenCL: pocl-opencl-icd, ocl-icd-opencl-dev")


@opencl
@pytest.mark.parametrize(
    ("options", "mismatches"),
    [((), 0), (("-DSPOIL(chunk, seed)=run(writer, chunk, seed + 1, 0)",), 2 * MIB // 8)],
    ids=["good", "spoilt"],
)
def test_the_opencl_program_does_so_on_a_processor(
    tmp_path: Path, options: tuple[str, ...], mismatches: int
) -> None:
    program = compile_program("opencl", tmp_path, *options)
    result = said_by(program, NONCE, "any", "6")[-1]["result"]
    assert (result["variant"], result["reached_bytes"]) == ("opencl", 6 * MIB)
    assert result["mismatches"] == mismatches
    assert result["first_mismatch"] == (4 * MIB if mismatches else -1)
    assert result["total_bytes"] > result["reached_bytes"]


@opencl
def test_the_opencl_program_takes_no_processor_for_a_card(tmp_path: Path) -> None:
    program = compile_program("opencl", tmp_path)
    assert said_by(program, NONCE)[-1] == {"nonce": NONCE, "failure": "OpenCL knows no such device."}


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.timeout(120)
def test_the_cuda_program_compiles_and_says_when_there_is_no_card(tmp_path: Path) -> None:
    program = compile_program("cuda", tmp_path)
    (only,) = said_by(program, NONCE)
    assert only["nonce"] == NONCE
    assert only["failure"].startswith("device: ")


def files_of(archive: bytes) -> dict[str, bytes]:
    """Names and contents of a newc archive."""
    found: dict[str, bytes] = {}
    data, at = gzip.decompress(archive), 0
    while True:
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        size, length = fields[6], fields[11]
        name = data[at + 110 : at + 110 + length - 1].decode()
        start = (at + 110 + length + 3) & ~3
        if name == initramfs.TRAILER:
            return found
        found[name] = data[start : start + size]
        at = (start + size + 3) & ~3


@pytest.fixture(scope="session")
def plain_appliance() -> Path:
    """The folder of the plain appliance, built once on this machine."""
    return build_appliance(DEFAULT_CACHE.parent / "appliance-plain").parent


def test_an_appliance_is_what_its_manifest_says(plain_appliance: Path) -> None:
    manifest = json.loads((plain_appliance / "manifest.json").read_text())
    for name, digest in manifest["sha256"].items():
        assert sha256_of(plain_appliance / name) == digest
    assert manifest["scrub"] == {"variant": "plain", "memory_mib": 260}
    files = files_of((plain_appliance / "initrd.img").read_bytes())
    modules = [name.rpartition("-")[2] for name in files if name.startswith("modules/all/")]
    assert modules.index("virtio.ko") < modules.index("virtio_console.ko")


def test_a_vendors_driver_goes_in_as_it_is_laid_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a kernel of its own, Debian's is not fetched at all."""
    fetched: list[str] = []

    def fetch(package: str, cache: Path) -> Path:
        fetched.append(package)
        return tmp_path / package

    def unpack(deb: Path, root: Path) -> Path:
        (root / "bin").mkdir(parents=True)
        (root / "bin/busybox").write_bytes(b"busybox")
        return root

    monkeypatch.setattr(debian, "fetch", fetch)
    monkeypatch.setattr(debian, "unpack", unpack)
    monkeypatch.setattr(debian, "uncompressed", lambda image: image)
    vendor = tmp_path / "vendor"
    contents = {
        "vmlinuz": b"the vendor's kernel",
        "modules.load": b"gpu\ngpu-uvm\n",
        "modules/gpu.ko": b"\0depends=\0",
        "modules/gpu-uvm.ko": b"\0depends=gpu,base\0",
        "modules/base.ko": b"\0depends=\0",
        "modules/virtio_pci.ko": b"\0depends=\0",
        "modules/virtio_console.ko": b"\0depends=virtio_pci\0",
        "modules/unwanted.ko": b"\0depends=\0",
        "root/start": b"#!/bin/sh\n",
        "root/lib/libgpu.so.1": b"library",
    }
    for name, data in contents.items():
        (vendor / name).parent.mkdir(parents=True, exist_ok=True)
        (vendor / name).write_bytes(data)
    (vendor / "root/start").chmod(0o755)
    manifest = build_appliance(tmp_path / "out", vendor=vendor)
    assert fetched == ["busybox-static"]
    assert (tmp_path / "out" / kernel_image.KERNEL).read_bytes() == b"the vendor's kernel"
    files = files_of((tmp_path / "out" / kernel_image.INITRD).read_bytes())
    modules = [name.partition("-")[2] for name in sorted(files) if name.startswith("modules/all/")]
    assert modules == ["virtio_pci.ko", "virtio_console.ko", "gpu.ko", "base.ko", "gpu-uvm.ko"]
    assert (files["vendor/lib/libgpu.so.1"], files["vendor/start"]) == (b"library", b"#!/bin/sh\n")
    built_at = (tmp_path / "out" / kernel_image.INITRD).stat().st_mtime_ns
    build_appliance(tmp_path / "out", vendor=vendor)
    assert (tmp_path / "out" / kernel_image.INITRD).stat().st_mtime_ns == built_at, "it is not built again"
    first = json.loads(manifest.read_text())["made_from"]
    (vendor / "root/lib/libgpu.so.1").write_bytes(b"another version")
    second = json.loads(build_appliance(tmp_path / "out", vendor=vendor).read_text())["made_from"]
    assert first["vendor"] != second["vendor"]


@opencl
def test_what_a_program_is_linked_with_goes_in(tmp_path: Path) -> None:
    entries = dict(build._libraries(compile_program("opencl", tmp_path)))
    names = [name.rpartition("/")[2] for name, entry in entries.items() if entry.data]
    assert any(name.startswith("libOpenCL.so") for name in names)
    assert any(name.startswith("ld-linux") for name in names)
    for name in entries:
        parent = name.rpartition("/")[0]
        assert not parent or parent in entries


class DisplayBus:
    """Gives a machine an emulated card with memory of its own, which nobody sees from outside."""

    def gpu_fragments(self, card: Card, *, slot: int) -> list[etree._Element]:
        place = {"type": "pci", "domain": "0x0000", "bus": f"0x{slot:02x}", "slot": "0x00", "function": "0x0"}
        video = node(
            "video", node("model", type="bochs", vram="16384", primary="yes"), node("address", **place)
        )
        return [root_port(slot), video]


@pytest.mark.timeout(120)
def test_a_real_machine_scrubs_its_display_from_inside(
    embedded: Hypervisor, plain_appliance: Path, tmp_path: Path
) -> None:
    image = Appliance(plain_appliance, sha256_of(plain_appliance / "manifest.json"), Patience(100, 60))
    room = MachineRoom(embedded, "qemu", tmp_path / "machines")
    seen: list[tuple[int, int]] = []
    place = Workplace(
        bus=cast(PciBus, DisplayBus()),
        card=Card(ADDRESS, (ADDRESS,), 7, "a display", 16 * MIB, 0, Fingerprint(vendor_device="1234:1111")),
        progress=lambda done, total: seen.append((done, total)),
        climb=lambda: RESET,
    )
    outcome = MachineScrubber("machine", image, room).run(place)
    assert (outcome.reached_bytes, outcome.mismatches, outcome.coverage) == (16 * MIB, 0, "full")
    assert (outcome.facts["device"], outcome.facts["program"]) == ("1234:1111", "plain 1")
    assert seen[-1] == (64 * MIB, 64 * MIB)
    assert embedded.machines() == []
