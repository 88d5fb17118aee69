"""Scratch disks: private, encrypted, kept when asked for again, and unreadable once destroyed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from hosts.agent import disks
from hosts.agent.disks import DiskError, create_scratch, destroy_scratch, exists, key_path, read_key
from hosts.agent.domain import Backing

MARK = "0x5a"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path / "disks, all" / "lease-one.qcow2"


def qemu_io(disk: Path, key: Path | None, command: str) -> subprocess.CompletedProcess[str]:
    """QEMU's own view of the disk, through its key where there is one."""
    name = str(disk).replace(",", ",,")
    options = f"driver=qcow2,file.filename={name}"
    secret = []
    if key is not None:
        secret = ["--object", f"secret,id=key,file={str(key).replace(',', ',,')}"]
        options += ",encrypt.format=luks,encrypt.key-secret=key"
    return subprocess.run(
        ["qemu-io", *secret, "--image-opts", options, "-c", command],
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def written_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encrypted disk with a mark on it; QEMU takes seconds to make one."""
    disk = tmp_path_factory.mktemp("written") / "lease-one.qcow2"
    create_scratch(disk, size_gib=1)
    assert qemu_io(disk, key_path(disk), f"write -P {MARK} 0 64k").returncode == 0
    return disk


def test_a_disk_is_private_and_opens_with_its_key(written_disk: Path) -> None:
    assert exists(written_disk)
    assert [path.stat().st_mode & 0o777 for path in (written_disk, key_path(written_disk))] == [0o600, 0o600]
    assert len(read_key(written_disk)) == 64
    read = qemu_io(written_disk, key_path(written_disk), f"read -P {MARK} 0 64k")
    assert (read.returncode, read.stderr) == (0, "")


def test_what_is_written_is_not_on_the_host_in_the_clear(written_disk: Path) -> None:
    assert bytes([int(MARK, 16)]) * 512 not in written_disk.read_bytes()


def test_a_wrong_key_opens_nothing(written_disk: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    assert "Invalid password" in qemu_io(written_disk, wrong, "read 0 512").stderr


def test_a_disk_asked_for_again_is_kept(written_disk: Path) -> None:
    before = (written_disk.stat().st_ino, read_key(written_disk))
    create_scratch(written_disk, size_gib=1)
    assert (written_disk.stat().st_ino, read_key(written_disk)) == before


def test_a_disk_cut_short_is_made_again(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_arguments: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(disks, "_qemu_img", crash)
        with pytest.raises(KeyboardInterrupt):
            create_scratch(disk, size_gib=1)
    assert exists(disk)
    assert not disk.exists()
    create_scratch(disk, size_gib=1)
    assert qemu_io(disk, key_path(disk), "read 0 512").returncode == 0


def test_a_destroyed_disk_is_gone_and_stays_closed_to_a_copied_key(disk: Path, tmp_path: Path) -> None:
    create_scratch(disk, size_gib=1)
    qemu_io(disk, key_path(disk), f"write -P {MARK} 0 64k")
    copied_key, same_blocks = tmp_path / "key", tmp_path / "same-blocks.qcow2"
    copied_key.write_bytes(read_key(disk))
    same_blocks.hardlink_to(disk)
    destroy_scratch(disk)
    assert list(disk.parent.iterdir()) == []
    assert not exists(disk)
    assert qemu_io(same_blocks, copied_key, "read 0 512").returncode != 0
    assert not any(same_blocks.read_bytes()[: disks.HEADER_BYTES])


def test_destroying_may_be_repeated_and_resumed(disk: Path) -> None:
    create_scratch(disk, size_gib=1, encrypted=False)
    assert exists(disk)
    for _ in range(2):
        destroy_scratch(disk)
    assert not exists(disk)


def test_a_missing_key_is_an_error(disk: Path) -> None:
    with pytest.raises(DiskError, match=r"key of .* cannot be read"):
        read_key(disk)


def test_a_disk_over_a_golden_image_shows_it_and_leaves_it_alone(disk: Path, tmp_path: Path) -> None:
    golden = tmp_path / "golden.raw"
    golden.write_bytes(b"\x5a" * 65536)
    create_scratch(disk, size_gib=1, backing=Backing(golden, "raw"), encrypted=False)
    assert "read 65536/65536 bytes" in qemu_io(disk, None, f"read -P {MARK} 0 64k").stdout
    assert qemu_io(disk, None, "write -P 0x11 0 64k").returncode == 0
    assert golden.read_bytes() == b"\x5a" * 65536


def test_without_encryption_there_is_no_key(disk: Path) -> None:
    create_scratch(disk, size_gib=1, encrypted=False)
    assert not key_path(disk).exists()
    assert qemu_io(disk, None, "read 0 512").returncode == 0


def test_what_qemu_refuses_is_said(disk: Path, tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"qemu-img create failed: .*missing\.raw"):
        create_scratch(disk, size_gib=1, backing=Backing(tmp_path / "missing.raw", "raw"), encrypted=False)
    assert not disk.exists()


def test_a_clock_that_stood_still_is_tried_again_and_other_failures_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = tmp_path / "tried"
    program = tmp_path / "qemu-img"
    program.write_text(
        f"#!/bin/sh\necho x >> {tried}\n"
        f'[ "$(wc -l < {tried})" -ge 3 ] && exec touch "$5"\necho "$WHY" >&2\nexit 1\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("WHY", "qemu-img: lease.qcow2: Unable to get accurate CPU usage")
    create_scratch(tmp_path / "lease-one.qcow2", size_gib=1, encrypted=False)
    assert tried.read_text().count("x") == 3
    tried.unlink()
    monkeypatch.setenv("WHY", "qemu-img: No space left on device")
    with pytest.raises(DiskError, match="No space left"):
        create_scratch(tmp_path / "lease-two.qcow2", size_gib=1, encrypted=False)
    assert tried.read_text().count("x") == 1
