"""Scrub certificates: what they prove to a stranger, and that nothing in them can be changed unnoticed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from nacl.signing import SigningKey

from hosts.protocol import messages as m
from hosts.protocol.signing import public_hex
from leasing.actors import SYSTEM
from leasing.audit.log import record
from leasing.audit.proofs import prove_entry
from leasing.audit.sealer import seal
from leasing.booking import request_lease
from leasing.certificates import as_json, certificate_of
from leasing.ending import end_lease
from leasing.errors import WrongState
from leasing.fsck import run_checks
from leasing.keys import public_key
from leasing.models import Lease
from tests.world import World

pytestmark = pytest.mark.django_db

PROGRAM = Path(__file__).parents[2] / "static" / "verify_certificate.py"


@pytest.fixture
def world() -> World:
    return World(gpus=1)


def use(world: World) -> Lease:
    """A lease that ran for an hour and is over; its GPU is dirty."""
    lease = request_lease(
        actor=world.actor(world.ada), tenant=world.studio, flavor=world.flavor, image=world.image,
        starts_at=None, ends_at=world.now + timedelta(hours=2), now=world.now,
    )  # fmt: skip
    world.start(lease)
    world.now += timedelta(hours=1)
    end_lease(actor=world.actor(world.ada), lease_id=lease.pk, now=world.now)
    world.tick()
    release = world.command(lease, "release")
    world.host.say(m.MachineGone(lease_id=lease.pk), at=world.now, command=release)
    return lease


def give_back(world: World, **evidence: object) -> Lease:
    """The same, and its GPU has been scrubbed since."""
    lease = use(world)
    world.scrub(world.host, lease.holds.get().gpu, lease=lease, **evidence)
    seal(world.now)
    return lease


def verify(folder: Path, certificate: bytes, *words: str, key: str = "") -> tuple[int, str]:
    """The program as a stranger runs it: without Django, from its one file."""
    file = folder / "certificate.json"
    file.write_bytes(certificate)
    command = [sys.executable, "-I", str(PROGRAM), str(file), "--key", key or public_key(), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_stranger_is_told_what_happened_to_the_gpu(world: World, tmp_path: Path) -> None:
    lease = give_back(world)
    certificate = as_json(certificate_of(lease, now=world.now))
    code, said = verify(tmp_path, certificate, "--anchors", str(settings.AUDIT_ANCHOR_FILE))
    assert code == 0, said
    assert f"Authentic: workstation {lease.machine_name}, lease {lease.pk}" in said
    assert "written down outside" in said
    assert "proven clean (SIMULATED)" in said
    assert run_checks(world.now) == []


def test_an_authentic_failure_is_told_as_one(world: World, tmp_path: Path) -> None:
    lease = give_back(world, canaries_found=3)
    code, said = verify(tmp_path, as_json(certificate_of(lease, now=world.now)))
    assert code == 3
    assert "NOT proven clean" in said
    assert "canaries survived" in said


def test_it_still_proves_the_same_when_the_log_has_grown(world: World, tmp_path: Path) -> None:
    lease = give_back(world)
    for _more in range(5):
        world.tick()
        give_back(world)
    code, said = verify(tmp_path, as_json(certificate_of(lease, now=world.now)))
    assert code == 0, said


def test_another_key_and_a_head_that_nobody_wrote_down_prove_nothing(world: World, tmp_path: Path) -> None:
    certificate = as_json(certificate_of(give_back(world), now=world.now))
    code, said = verify(tmp_path, certificate, key=public_hex(SigningKey.generate()))
    assert (code, "not signed by this key" in said) == (1, True)
    (tmp_path / "anchors").write_text("")
    code, said = verify(tmp_path, certificate, "--anchors", str(tmp_path / "anchors"))
    assert (code, "never written down outside" in said) == (1, True)
    assert verify(tmp_path, b"no JSON")[0] == verify(tmp_path, certificate, key="no key")[0] == 2
    assert verify(tmp_path, b"{}")[0] == 1


def test_nothing_is_certified_before_there_is_something_sealed(world: World) -> None:
    lease = use(world)
    with pytest.raises(WrongState, match="No GPU of this workstation has been cleaned yet"):
        certificate_of(lease, now=world.now)
    world.scrub(world.host, lease.holds.get().gpu, lease=lease)
    with pytest.raises(WrongState, match="waits for its place"):
        certificate_of(lease, now=world.now)


Change = Callable[[dict[str, Any]], object]


def evidence_of(certificate: dict[str, Any], **changes: object) -> None:
    scrub = certificate["scrubs"][0]
    scrub["evidence"] = json.dumps(json.loads(scrub["evidence"]) | changes)


def entry_of(certificate: dict[str, Any], old: str, new: str) -> None:
    scrub = certificate["scrubs"][0]
    assert old in scrub["entry"]
    scrub["entry"] = scrub["entry"].replace(old, new)


CHANGES: dict[str, Change] = {
    "other evidence": lambda c: evidence_of(c, kernel="another"),
    "another verdict": lambda c: entry_of(c, '"passed":false', '"passed":true'),
    "another lease": lambda c: c.update(lease="00000000-0000-0000-0000-000000000000"),
    "no scrub": lambda c: c["scrubs"].clear(),
    "another place": lambda c: c["scrubs"][0].update(index=0),
    "no place": lambda c: c["scrubs"][0].update(index=-1),
    "a shorter path": lambda c: c["scrubs"][0]["path"].pop(),
    "a longer path": lambda c: c["scrubs"][0]["path"].append("00" * 32),
    "another size": lambda c: c["head"].update(size=c["head"]["size"] + 1),
    "another root": lambda c: c["head"].update(root_hash="00" * 32),
    "another time": lambda c: c["head"].update(signed_at="2020-01-01T00:00:00Z"),
    "another format": lambda c: c.update(format="another"),
}


def test_every_change_is_found(world: World, tmp_path: Path) -> None:
    issued = as_json(certificate_of(give_back(world, canaries_found=3), now=world.now))
    for name, change in CHANGES.items():
        certificate = json.loads(issued)
        change(certificate)
        code, said = verify(tmp_path, json.dumps(certificate).encode())
        assert (code, said.startswith("NOT AUTHENTIC: ")) == (1, True), f"{name}: {said}"


def test_the_key_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("audit", "key")
    assert capsys.readouterr().out.strip() == public_key()


def program() -> Any:
    spec = importlib.util.spec_from_file_location("verify_certificate", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.mark.parametrize(("index", "size", "path"), [(5, 4, 2), (-1, 4, 2), (0, 4, 1), (0, 4, 3)], ids=str)
def test_a_path_of_another_place_or_length_is_refused(index: int, size: int, path: int) -> None:
    verifier = program()
    with pytest.raises(verifier.NotAuthentic):
        verifier.root_of(b"leaf", index, size, [b"sibling"] * path)


def test_one_gpu_that_was_not_proven_clean_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    scrub = {
        "evidence": {"methods": []}, "simulated": False, "model": "A6000", "address": "0000:01:00.0",
        "host": "hv1", "tenure": 1, "finished_at": "2026-03-02T09:00:00Z", "reasons": [],
    }  # fmt: skip
    certificate = {"machine": "ws-1", "lease": "1", "head": {"size": 1, "signed_at": "2026-03-02"}}
    verifier = program()
    judged = [scrub | {"passed": passed} for passed in (True, False)]
    assert verifier.report(certificate, judged, anchored=False) == verifier.NOT_CLEAN
    assert verifier.report(certificate, judged[:1], anchored=False) == verifier.CLEAN
    assert "NOT proven clean" in capsys.readouterr().out


def test_an_entry_about_something_else_proves_no_scrub(world: World) -> None:
    """It is in the log, and names the lease and the evidence."""
    lease = give_back(world)
    certificate = json.loads(as_json(certificate_of(lease, now=world.now)))
    (scrub,) = certificate["scrubs"]
    detail = json.loads(scrub["entry"])["detail"]
    entry = record(action="gpu.note", actor=SYSTEM, subject="gpu:1", now=world.now, **detail)
    seal(world.now)
    proof = prove_entry(entry.pk)
    told = {"entry": entry.text, "index": proof.index, "path": proof.path}
    verifier = program()
    with pytest.raises(verifier.NotAuthentic, match="about something else"):
        verifier.check_scrub(
            scrub | told, {"size": proof.head.size, "root_hash": proof.head.root_hash}, str(lease.pk)
        )
