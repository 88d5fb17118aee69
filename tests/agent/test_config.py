"""What a host is told: by its operator, who may say nothing at all, and by the portal, in a private file."""

from __future__ import annotations

from pathlib import Path

import pytest

from hosts.agent.config import (
    DEFAULT_CONFIG,
    ConfigError,
    Enrolment,
    Settings,
    load_config,
    load_enrolment,
    load_settings,
    write_enrolment,
)
from hosts.agent.identity import IdentityError, load_identity, new_identity, save_identity

ENROLMENT = Enrolment(
    host="box",
    portal="https://portal.example",
    broker_url="redis://:secret@broker",
    control_keys=("ab" * 32,),
)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "host.toml"
    path.write_text(f'state_directory = "{tmp_path}/state"\ndomain_type = "qemu"\n')
    path.chmod(0o644)
    (tmp_path / "state").mkdir()
    return path


def test_an_enrolled_host_knows_both(config_file: Path, tmp_path: Path) -> None:
    write_enrolment(tmp_path / "state/enrolment.json", ENROLMENT)
    config = load_config(config_file)
    assert (config.host, config.portal, config.domain_type) == ("box", "https://portal.example", "qemu")
    assert config.journal_path == tmp_path / "state/journal.sqlite3"
    assert config.broker_url == ENROLMENT.broker_url


def test_nothing_needs_to_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: False)
    assert load_settings(DEFAULT_CONFIG) == Settings()


def test_a_host_that_is_not_enrolled_is_told_how_to_be(config_file: Path) -> None:
    with pytest.raises(ConfigError, match="leasehold-host enrol --portal"):
        load_config(config_file)


def test_what_the_portal_told_is_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "enrolment.json"
    for _ in range(2):
        write_enrolment(path, ENROLMENT)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_enrolment(path) == ENROLMENT
    assert "secret" not in repr(ENROLMENT)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_enrolment(path)


@pytest.mark.parametrize("text", ["", "{}", '{"host": "UPPER"}'])
def test_an_enrolment_that_is_none_is_explained(tmp_path: Path, text: str) -> None:
    path = tmp_path / "enrolment.json"
    path.touch(mode=0o600)
    path.write_text(text)
    with pytest.raises(ConfigError, match=str(path)):
        load_enrolment(path)


def test_a_configuration_that_others_can_change_is_not_used(config_file: Path) -> None:
    config_file.chmod(0o664)
    with pytest.raises(ConfigError, match="chmod go-w"):
        load_settings(config_file)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("unknown = 1", "unknown"),
        ('broker_url = "redis://of.old"', "broker_url"),
        ("watch_seconds = 0", "watch_seconds"),
        ('accepted_risks = ["everything"]', "accepted_risks"),
        ('bus = "simulated"', "bus_directory"),
        ("host =", "host.toml"),
    ],
)
def test_a_wrong_configuration_is_explained(config_file: Path, wrong: str, told: str) -> None:
    config_file.write_text(f"{wrong}\n")
    with pytest.raises(ConfigError, match=told):
        load_settings(config_file)


def test_a_configuration_that_is_not_there_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_settings(tmp_path / "host.toml")


def test_keys_that_others_can_read_are_not_used(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    save_identity(path, new_identity())
    path.chmod(0o644)
    with pytest.raises(IdentityError, match="readable by others"):
        load_identity(path)


def test_keys_are_private_and_never_overwritten(tmp_path: Path) -> None:
    path, identity = tmp_path / "state" / "identity.json", new_identity()
    save_identity(path, identity)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_identity(path).public_halves() == identity.public_halves()
    with pytest.raises(IdentityError, match="there are keys already"):
        save_identity(path, new_identity())


@pytest.mark.parametrize("text", ["", "{}", '{"signing": "0", "sealing": "0"}'])
def test_what_is_no_key_is_explained(tmp_path: Path, text: str) -> None:
    path = tmp_path / "identity.json"
    path.touch(mode=0o600)
    path.write_text(text)
    with pytest.raises(IdentityError, match="holds no keys"):
        load_identity(path)
