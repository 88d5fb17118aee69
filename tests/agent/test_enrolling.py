"""How a host is let in and changes its keys, at a portal with moods, and through a crash at every moment."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

from hosts.agent import enrolling
from hosts.agent.cli.exits import Exit
from hosts.agent.config import load_config, load_enrolment
from hosts.agent.identity import load_identity
from hosts.agent.journal import Journal
from hosts.protocol.codec import decode_report
from hosts.protocol.enrolment import EnrolmentRequest, RekeyRequest
from hosts.protocol.signing import REPORT, Signer, Verifier, key_id, parse_envelope
from tests.agent.fake_portal import FakePortal, serving
from tests.agent.host_in_a_box import a_box
from tests.agent.test_cli import Shell, write_config


@pytest.fixture
def portal() -> Iterator[FakePortal]:
    portal = FakePortal()
    with serving(portal):
        yield portal


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Of a host that knows no portal."""
    config = tmp_path / "host.toml"
    config.write_text(f'state_directory = "{tmp_path}/state"\n')
    config.chmod(0o644)
    return Shell(config, capsys)


def enrol(shell: Shell, portal: FakePortal, *words: str) -> int:
    token = shell.config.parent / "token"
    token.touch(mode=0o600)
    token.write_text(f"{portal.token}\n")
    return shell("enrol", "--portal", portal.url, "--token-file", str(token), *words)


def state(shell: Shell) -> Path:
    return shell.config.parent / "state"


def files(shell: Shell) -> set[str]:
    return {path.name for path in state(shell).glob("*.json")} if state(shell).exists() else set()


def test_a_host_is_let_in(shell: Shell, portal: FakePortal) -> None:
    assert enrol(shell, portal) == Exit.DONE
    assert "This host is hv7" in shell.said
    assert "systemctl enable --now leasehold-host" in shell.said
    config = load_config(shell.config)
    assert (config.host, config.portal) == ("hv7", portal.url)
    assert config.broker_url == "redis://host-hv7:password@broker.example/0"
    identity = load_identity(config.identity_path)
    (asked,) = portal.asked
    assert isinstance(asked, EnrolmentRequest)
    assert asked.keys == identity.public_halves()
    assert {path.stat().st_mode & 0o777 for path in state(shell).glob("*.json")} == {0o600}
    assert files(shell) == {"identity.json", "enrolment.json"}


def test_neither_token_nor_password_nor_key_is_shown(shell: Shell, portal: FakePortal) -> None:
    enrol(shell, portal)
    private = json.loads((state(shell) / "identity.json").read_text())
    for secret in (portal.token, "password", *private.values()):
        assert secret not in shell.said + shell.complained
    assert set(shell.json("enrol", "--rekey")) == {"host", "portal", "control_keys"}


def test_an_enrolled_host_is_not_enrolled_by_mistake(shell: Shell, portal: FakePortal) -> None:
    enrol(shell, portal)
    assert enrol(shell, portal) == Exit.REFUSED
    assert "is hv7 at http://127.0.0.1" in shell.complained
    assert "--rekey" in shell.complained
    before = load_identity(state(shell) / "identity.json").public_halves()
    assert enrol(shell, portal, "--again") == Exit.DONE
    assert load_identity(state(shell) / "identity.json").public_halves() != before


def test_the_old_keys_sign_the_new(shell: Shell, portal: FakePortal) -> None:
    enrol(shell, portal)
    assert shell("enrol", "--rekey") == Exit.DONE
    asked = portal.asked[-1]
    assert isinstance(asked, RekeyRequest)
    assert asked.host == "hv7"
    assert asked.keys == load_identity(state(shell) / "identity.json").public_halves()


@pytest.mark.parametrize("mood", [400, 403, 404, 409])
def test_a_no_is_told_in_the_portals_words_and_forgets_the_keys(
    shell: Shell, portal: FakePortal, mood: int
) -> None:
    portal.mood = mood
    assert enrol(shell, portal) == Exit.REFUSED
    assert "The portal says: This host is not let in." in shell.complained
    assert "Ask an operator." in shell.complained
    assert files(shell) == set()


@pytest.mark.parametrize("mood", ["deaf", "forgetful", 429, 502])
def test_without_an_answer_the_same_keys_are_tried_again(shell: Shell, portal: FakePortal, mood: Any) -> None:
    portal.mood = mood
    assert enrol(shell, portal) == Exit.NO_ANSWER
    assert files(shell) == {"identity.next.json"}
    keys = load_identity(state(shell) / "identity.next.json").public_halves()
    portal.mood = "kind"
    assert enrol(shell, portal) == Exit.DONE
    assert portal.asked[-1].keys == keys == load_identity(state(shell) / "identity.json").public_halves()


def test_while_new_keys_are_half_known_no_worker_starts(shell: Shell, portal: FakePortal) -> None:
    enrol(shell, portal)
    portal.mood = "forgetful"
    old = portal.known_key
    assert shell("enrol", "--rekey") == Exit.NO_ANSWER
    assert shell("run") == Exit.UNUSABLE
    assert "Finish that first" in shell.complained
    portal.mood, portal.known_key = "kind", old
    assert shell("enrol", "--rekey") == Exit.DONE
    assert files(shell) == {"identity.json", "enrolment.json"}


@pytest.mark.parametrize(
    ("mood", "told"), [("to another", "The answer is to another request"), ("strange", "Not an envelope")]
)
def test_an_answer_that_cannot_be_trusted(shell: Shell, portal: FakePortal, mood: str, told: str) -> None:
    portal.mood = mood
    assert enrol(shell, portal) == Exit.REFUSED
    assert told in shell.complained
    assert not load_any(shell)


def load_any(shell: Shell) -> bool:
    return (state(shell) / "enrolment.json").exists()


def test_only_the_portal_that_made_the_token_is_believed(shell: Shell, portal: FakePortal) -> None:
    token = portal.token
    portal.key = SigningKey.generate()
    file = shell.config.parent / "token"
    file.touch(mode=0o600)
    file.write_text(token)
    assert shell("enrol", "--portal", portal.url, "--token-file", str(file)) == Exit.REFUSED
    assert "not by the portal that is trusted" in shell.complained


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://portal.example", "is not encrypted"),
        ("http://10.0.2.2:8000", "is not encrypted"),
        ("ftp://portal.example", "is not encrypted"),
        ("portal.example", "is not the address of a portal"),
        ("https://user@portal.example", "is not the address of a portal"),
        ("https://portal.example/path", "is not the address of a portal"),
    ],
)
def test_an_address_that_is_none(shell: Shell, portal: FakePortal, url: str, told: str) -> None:
    portal.url = url
    assert enrol(shell, portal) == Exit.UNUSABLE
    assert told in shell.complained
    assert files(shell) == set()


def test_a_portal_that_is_not_there(shell: Shell, portal: FakePortal) -> None:
    portal.url = "http://127.0.0.1:1"
    assert enrol(shell, portal) == Exit.NO_ANSWER
    assert "cannot be reached: Connection refused" in shell.complained
    assert files(shell) == set()


def test_a_portal_that_has_moved(shell: Shell, portal: FakePortal) -> None:
    portal.mood, portal.headers = 301, {"Location": "https://elsewhere.example/"}
    assert enrol(shell, portal) == Exit.REFUSED
    assert "sends us to https://elsewhere.example/" in shell.complained


def test_being_asked_too_often(shell: Shell, portal: FakePortal) -> None:
    portal.mood, portal.headers = 429, {"Retry-After": "42"}
    assert enrol(shell, portal) == Exit.NO_ANSWER
    assert "in 42 seconds" in shell.complained


def certificate(folder: Path) -> tuple[Path, Path]:
    files = folder / "portal.pem", folder / "portal.key"
    made = ["-x509", "-newkey", "ed25519", "-nodes", "-days", "2", "-subj", "/CN=test"]
    where = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(files[1]), "-out", str(files[0])]
    subprocess.run(["openssl", "req", *made, *where], check=True, capture_output=True)
    return files


def test_the_portals_certificate_is_verified(shell: Shell, tmp_path: Path) -> None:
    portal, (pem, key) = FakePortal(), certificate(tmp_path)
    with serving(portal, certificate=pem, key=key):
        assert enrol(shell, portal) == Exit.UNUSABLE
        assert "is not trusted: self-signed certificate" in shell.complained
        assert "--ca-file" in shell.complained
        assert not portal.asked
        assert files(shell) == set()
        assert enrol(shell, portal, "--ca-file", str(pem)) == Exit.DONE
        assert load_enrolment(state(shell) / "enrolment.json").ca_file == str(pem)
        assert shell("enrol", "--rekey") == Exit.DONE
        portal.url = portal.url.replace("127.0.0.1", "localhost")
        assert enrol(shell, portal, "--again", "--ca-file", str(pem)) == Exit.UNUSABLE
        assert "doesn't match" in shell.complained or "mismatch" in shell.complained.lower()
        assert enrol(shell, portal, "--again", "--ca-file", str(tmp_path / "none.pem")) == Exit.UNUSABLE


def test_a_token_that_others_can_read_is_not_used(shell: Shell, portal: FakePortal) -> None:
    token = shell.config.parent / "token"
    token.write_text(portal.token)
    token.chmod(0o644)
    words = ("enrol", "--portal", portal.url, "--token-file")
    assert shell(*words, str(token)) == Exit.UNUSABLE
    assert "can be read by others" in shell.complained
    assert shell(*words, str(token.with_name("none"))) == Exit.UNUSABLE
    assert shell("enrol") == Exit.UNUSABLE
    assert "--portal URL --token-file FILE" in shell.complained
    assert not portal.asked


def test_a_token_may_come_through_standard_input(
    shell: Shell, portal: FakePortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.readline", lambda: f"{portal.token}\n", raising=False)
    assert shell("enrol", "--portal", portal.url, "--token-file", "-") == Exit.DONE


@pytest.fixture
def worked(tmp_path: Path, portal: FakePortal, capsys: pytest.CaptureFixture[str]) -> Shell:
    """A host whose worker is stopped, with reports that nobody has acknowledged."""
    with a_box(tmp_path) as box:
        box.intake()
    shell = Shell(write_config(box), capsys)
    portal.host, portal.known_key = "box", box.signing.verify_key.encode().hex()
    enrolment = state(shell) / "enrolment.json"
    told = json.loads(enrolment.read_text())
    told |= {"portal": portal.url, "control_keys": [portal.key.verify_key.encode().hex()]}
    enrolment.write_text(json.dumps(told))
    return shell


def spooled(shell: Shell) -> list[str]:
    journal = Journal(state(shell) / "journal.sqlite3")
    with journal.transaction():
        rows = journal.execute("SELECT envelope FROM report ORDER BY sequence").fetchall()
    journal.close()
    return [row["envelope"] for row in rows]


def test_reports_that_wait_are_signed_anew_word_for_word(worked: Shell) -> None:
    before = [parse_envelope(envelope).body for envelope in spooled(worked)]
    assert worked("enrol", "--rekey") == Exit.DONE
    after = spooled(worked)
    assert [parse_envelope(envelope).body for envelope in after] == before
    key = load_identity(state(worked) / "identity.json").signing.verify_key
    trusted = Verifier({key_id(key): key}, REPORT)
    assert [decode_report(trusted.open(envelope)).sequence for envelope in after] == list(
        range(1, len(after) + 1)
    )


@pytest.mark.parametrize("moment", ["resign_reports", "write_enrolment"])
def test_a_crash_in_the_middle_of_a_rekey_is_made_good(
    worked: Shell, portal: FakePortal, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def die(*_: object) -> None:
        raise MemoryError

    old = portal.known_key
    with monkeypatch.context() as patch:
        patch.setattr(enrolling, moment, die)
        with pytest.raises(MemoryError):
            worked("enrol", "--rekey")
    assert worked("run") == Exit.UNUSABLE
    portal.known_key = old  # the portal answers the same keys once more
    assert worked("enrol", "--rekey") == Exit.DONE
    assert portal.asked[0].keys == portal.asked[1].keys
    new = load_identity(state(worked) / "identity.json").signing
    assert {parse_envelope(envelope).key_id for envelope in spooled(worked)} == {Signer(new, REPORT).key_id}


def test_under_a_running_worker_no_keys_are_changed(worked: Shell, portal: FakePortal) -> None:
    journal = Journal(state(worked) / "journal.sqlite3")
    assert worked("enrol", "--rekey") == Exit.UNUSABLE
    journal.close()
    assert "is another worker running?" in worked.complained
    assert not portal.asked


def test_the_journal_of_another_host_is_not_taken_over(worked: Shell, portal: FakePortal) -> None:
    portal.host = "other"
    assert enrol(worked, portal, "--again") == Exit.REFUSED
    assert "is that of box; the portal calls this host other" in worked.complained
    (state(worked) / "journal.sqlite3").unlink()
    assert enrol(worked, portal) == Exit.DONE
    assert load_config(worked.config).host == "other"
