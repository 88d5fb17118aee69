"""The seed as cloud-init reads it: the right label, the right files, nothing spliced."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path
from uuid import UUID

from pycdlib.pycdlib import PyCdlib

from hosts.agent.host_key import keep_host_key
from hosts.agent.seed import write_seed
from hosts.protocol.messages import GuestOrder, MachineOrder, Mount
from tests.agent.host_in_a_box import Box, a_box

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGIVdXM+GJSIWZABFD3ltQ8IYOYCXkPHxyFmxyZ0fIZL"
GUEST = GuestOrder(
    hostname="studio-1",
    user="designer",
    ssh_keys=(KEY,),
    mounts=(Mount(source="LABEL=it's:{a}", target="/projects"),),
)
LEASE = UUID(int=1)


def read_seed(path: Path) -> dict[str, str]:
    """Every file of it, by its Joliet name; the label under the empty name."""
    iso = PyCdlib()
    iso.open(str(path))
    found = {"": iso.pvd.volume_identifier.decode().strip()}
    for entry in iso.list_children(joliet_path="/"):
        if entry.is_file():
            name = entry.file_identifier().decode("utf-16-be").removesuffix(";1")
            data = io.BytesIO()
            iso.get_file_from_iso_fp(data, joliet_path=f"/{name}")
            found[name] = data.getvalue().decode()
    iso.close()
    return found


def test_the_seed_says_whose_machine_it_is(tmp_path: Path) -> None:
    path = tmp_path / "seed.iso"
    write_seed(path, GUEST, instance=LEASE, host_key=keep_host_key(tmp_path / "key"))
    found = read_seed(path)
    assert found.keys() == {"", "user-data", "meta-data"}
    assert found[""] == "cidata"
    assert json.loads(found["meta-data"]) == {"instance-id": str(LEASE), "local-hostname": "studio-1"}
    head, _newline, body = found["user-data"].partition("\n")
    assert head == "#cloud-config"
    config = json.loads(body)
    (user,) = config["users"]
    assert (user["name"], user["ssh_authorized_keys"], user["lock_passwd"]) == ("designer", [KEY], True)
    assert config["hostname"] == "studio-1"
    assert config["mounts"] == [["LABEL=it's:{a}", "/projects", "auto", "defaults,nofail", "0", "0"]]
    assert (config["ssh_pwauth"], config["disable_root"]) == (False, True)


def test_nobody_else_reads_it_and_a_half_written_one_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "seed.iso"
    path.with_name("seed.iso.partial").write_text("cut short")
    write_seed(path, GUEST, instance=LEASE, host_key=keep_host_key(tmp_path / "key"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {each.name for each in tmp_path.iterdir()} == {"seed.iso", "key"}


def with_guest(box: Box) -> MachineOrder:
    return MachineOrder(name="lease-1", vcpus=1, memory_mib=64, disk_gib=1, image=box.image, guest=GUEST)


def test_it_is_made_with_the_machine_and_destroyed_with_it(tmp_path: Path) -> None:
    with a_box(tmp_path) as box:
        order = box.intake()
        box.carry_out(box.provision(order, machine=with_guest(box)), subject=f"lease:{LEASE}")
        (seed,) = box.config.machines_directory.glob("*.seed.iso")
        assert f'<source file="{seed}"/>' in box.machines.xml("lease-1")
        box.carry_out(box.release(order), subject=f"lease:{LEASE}")
        assert list(box.config.machines_directory.iterdir()) == []


def test_one_that_was_left_behind_is_found_and_destroyed(tmp_path: Path) -> None:
    with a_box(tmp_path) as box:
        seed = box.config.machines_directory / f"{UUID(int=9)}.seed.iso"
        key = seed.with_name(f"{UUID(int=8)}.hostkey")
        write_seed(seed, GUEST, instance=UUID(int=9), host_key=keep_host_key(key))
        box.restart()
        assert not seed.exists()
        assert not key.exists()
