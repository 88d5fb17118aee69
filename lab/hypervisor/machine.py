"""The virtual hypervisor as a machine: started, cut off and started again, with one disk that remembers.

The processor is emulated with AMD's virtualization, so that KVM runs inside without being there outside: a
tenant's machine is emulated once, not twice, and is of the same kind as in production.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.hypervisor.guest_agent import AgentError, Finished, GuestAgent

PROCESSOR = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+svm,+npt"
MEMORY_MIB = 3072
# no_timer_check: on a busy machine the emulated timer is late, which the kernel takes for broken and panics.
KERNEL_OPTIONS = (
    "root=/dev/vda rw console=ttyS0 net.ifnames=0 no_timer_check quiet mitigations=off cryptomgr.notests"
)
# Beside the kernel: what the role for hypervisors adds to these.
KERNEL_PARAMETERS = "cmdline"
# Copies of the small systems' manifests, beside the disk that has the systems themselves.
TENANT_MANIFEST, APPLIANCE_MANIFEST = "tenant.json", "appliance.json"
ANSWER_SECONDS = 30.0
POLL_SECONDS = 1.0
LOOPBACK = "10.0.2.2"  # the loopback of the machine outside, seen from inside


@dataclass(frozen=True)
class VirtualGpu:
    """One emulated card: the host's addresses of its functions, and of those who share its IOMMU group."""

    functions: tuple[str, ...]
    others: tuple[str, ...] = ()


PLAIN = VirtualGpu(functions=("0000:01:00.0",))
WITH_AUDIO = VirtualGpu(functions=("0000:02:00.0", "0000:02:00.1"))
SHARED = VirtualGpu(functions=("0000:04:01.0",), others=("0000:04:02.0",))
GPU_MEMORY_BYTES = 16 << 20

DISPLAY = f"bochs-display,vgamem={GPU_MEMORY_BYTES}"
# x-speed: with the slowest link the kernel's own `reset_subordinate` works on these ports. Each function of
# a card says that there are others, as hardware's do: by that the kernel groups what comes back to the bus.
DEVICES = (
    "intel-iommu,intremap=on,caching-mode=on",
    "pcie-root-port,id=port1,addr=0x10,chassis=1,slot=1,x-speed=5",
    f"{DISPLAY},bus=port1",
    "pcie-root-port,id=port2,addr=0x11,chassis=2,slot=2,x-speed=5",
    f"{DISPLAY},bus=port2,addr=0.0,multifunction=on",
    "intel-hda,bus=port2,addr=0.1,multifunction=on",
    "pcie-root-port,id=port3,addr=0x12,chassis=3,slot=3,x-speed=5",
    "pcie-pci-bridge,id=bridge,bus=port3",
    f"{DISPLAY},bus=bridge,addr=1",
    "qemu-xhci,bus=bridge,addr=2",
    "virtio-net-pci,netdev=outside,romfile=",
    "virtio-rng-pci",
    "virtio-serial-pci",
    "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
    "virtio-blk-pci,drive=root,bus=pcie.0",
    "virtio-blk-pci,drive=code,bus=pcie.0",
)


class LabError(Exception):
    """The virtual hypervisor did not do what was asked; the text says what."""


@dataclass(frozen=True)
class Image:
    """What a virtual hypervisor boots from. Neither disk is written to."""

    base: Path
    code_disk: Path

    @property
    def tenant_manifest(self) -> Path:
        """The catalogue entry of the tenant's system needs this file's digest."""
        return self.code_disk.with_name(TENANT_MANIFEST)

    @property
    def appliance_manifest(self) -> Path:
        """So does the list of scrubbers, of the scrub machine's system."""
        return self.code_disk.with_name(APPLIANCE_MANIFEST)


class VirtualHypervisor:
    """A context manager; at its end the machine is gone, its folder with the serial log remains.

    `keep_changes` lets it write to the image itself; otherwise its disk is an overlay in `folder`.
    `more_devices` are plugged in beside the usual ones; `more_words` are for QEMU as they are.
    """

    def __init__(
        self,
        image: Image,
        folder: Path,
        *,
        keep_changes: bool = False,
        more_devices: Sequence[str] = (),
        more_words: Sequence[str] = (),
    ) -> None:
        self._devices = (*DEVICES, *more_devices)
        self._more_words = more_words
        self.image = image
        self.folder = folder
        self.serial_log = folder / "serial.log"
        self._disk, self._format = (image.base / "root.img", "raw") if keep_changes else self._overlay()
        self._process: subprocess.Popen[bytes] | None = None
        self._agent: GuestAgent | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.power_off_hard()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def boot(self) -> None:
        """Switch it on; returns at once. What was on its disk is still there."""
        if self.running:
            raise LabError("The virtual hypervisor is on already.")
        log = (self.folder / "qemu.log").open("ab")
        with log:
            words = ["setpriv", "--pdeathsig=KILL", *self._command()]
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait_booted(self, *, seconds: float) -> None:
        """Until libvirt answers inside."""
        self.wait_for("virsh --readonly version", seconds=seconds)

    def wait_for(self, command: str, *, seconds: float) -> Finished:
        """Until the shell command succeeds inside; what it said then."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                done = self._connected().run(command, seconds=max(1.0, deadline - time.monotonic()))
                if done.status == 0:
                    return done
                told = done.errors or done.output
            except (OSError, AgentError) as error:
                self._disconnect()
                told = str(error)
            if not self.running or time.monotonic() > deadline:
                raise LabError(f"Not within {seconds} s: {command}\n{told}\n{self.last_words()}")
            time.sleep(POLL_SECONDS)

    def run(self, command: str, *, seconds: float = 60.0) -> str:
        """What the shell command prints; LabError if it fails or is too slow."""
        done = self.attempt(command, seconds=seconds)
        if done.status:
            raise LabError(f"Status {done.status}: {command}\n{done.output}{done.errors}")
        return done.output

    def attempt(self, command: str, *, seconds: float = 60.0) -> Finished:
        """Like `run`, for a command that may fail."""
        try:
            return self._connected().run(command, seconds=seconds)
        except (OSError, AgentError) as error:
            self._disconnect()
            raise LabError(f"{command}: {error}\n{self.last_words()}") from error

    def put(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write a small file inside (a second per megabyte). It has its mode before its content."""
        self.run(f"install -D -m {mode:o} /dev/null {path}")
        self._connected().write(path, data)

    def get(self, path: str) -> bytes:
        return self._connected().read(path)

    def shut_down(self, *, seconds: float) -> None:
        """Let it stop by itself, as an operator would."""
        # The agent may be gone before it has answered; whether it stops is what tells.
        with contextlib.suppress(OSError, AgentError):
            self._connected().run("systemctl poweroff --no-block", seconds=seconds)
        self._disconnect()
        assert self._process is not None
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"It did not stop within {seconds} s.\n{self.last_words()}") from error

    def power_off_hard(self) -> None:
        """Pull the plug. What its programs had not yet put on the disk is lost."""
        self._disconnect()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def last_words(self) -> str:
        """The end of what it printed on its serial line and what QEMU said."""
        ends = [path.read_text(errors="replace")[-1500:] for path in self._logs() if path.exists()]
        return "\n".join(ends)

    def _logs(self) -> tuple[Path, Path]:
        return self.folder / "qemu.log", self.serial_log

    def _connected(self) -> GuestAgent:
        if self._agent is None:
            self._agent = GuestAgent(self.folder / "agent.socket", seconds=ANSWER_SECONDS)
        return self._agent

    def _disconnect(self) -> None:
        if self._agent is not None:
            self._agent.close()
            self._agent = None

    def _overlay(self) -> tuple[Path, str]:
        disk = self.folder / "root.qcow2"
        base = self.image.base / "root.img"
        words = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(base), str(disk)]
        subprocess.run(words, check=True)
        return disk, "qcow2"

    def _command(self) -> list[str]:
        base, folder = self.image.base, self.folder
        options = f"{KERNEL_OPTIONS} {(base / KERNEL_PARAMETERS).read_text()}"
        devices = [word for device in self._devices for word in ("-device", device)]
        disk = f"if=none,id=root,file={self._disk},format={self._format},cache=writeback,discard=unmap"
        code = f"if=none,id=code,file={self.image.code_disk},format=raw,readonly=on"
        serial = f"{listening('serial', folder)},logfile={self.serial_log},logappend=on"
        agent = listening("agent", folder)
        return ["qemu-system-x86_64", "-accel", "tcg,tb-size=1024", "-cpu", PROCESSOR,
                "-smp", "1", "-m", str(MEMORY_MIB), "-machine", "q35", "-nodefaults", "-display", "none",
                "-no-reboot", "-kernel", f"{base}/kernel", "-initrd", f"{base}/initrd",
                "-append", options, "-drive", disk, "-drive", code,
                "-netdev", "user,id=outside", "-chardev", serial,
                "-serial", "chardev:serial", "-chardev", agent, *self._more_words, *devices]  # fmt: skip


def listening(name: str, folder: Path) -> str:
    """A character device that is a socket of that name in the folder."""
    return f"socket,id={name},path={folder}/{name}.socket,server=on,wait=off"
