"""`manage.py enrol_host`: from what a host printed to lines with which its worker gets in."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from django.core.management import CommandError, call_command
from nacl.public import PrivateKey
from nacl.signing import SigningKey
from pytest_django import Settings
from redis import Redis
from redis.exceptions import AuthenticationError

from hosts.models import Host
from hosts.protocol.signing import public_hex
from leasing.enrolment import HostAccess
from leasing.keys import portal_signing_key
from leasing.management.commands.enrol_host import broker_url
from leasing.models import AuditEntry
from tools.servers import RedisServer


@pytest.fixture
def halves(db: None, tmp_path: Path, settings: Settings, redis_server: RedisServer) -> Path:
    """The output of `leasehold-host init`, beside a broker that keeps accounts."""
    settings.BROKER_URL = redis_server.url
    file = tmp_path / "hv7.json"
    write(file)
    return file


def write(file: Path) -> None:
    keys = {
        "signing_key": public_hex(SigningKey.generate()),
        "sealing_key": public_hex(PrivateKey.generate()),
    }
    file.write_text(json.dumps(keys))


def enrol(file: Path, *words: str) -> dict[str, Any]:
    output = io.StringIO()
    call_command("enrol_host", "hv7", str(file), *words, stdout=output, stderr=io.StringIO())
    lines: dict[str, Any] = msgspec.json.decode(output.getvalue())
    return lines


def get_in(lines: dict[str, Any]) -> bool:
    with Redis.from_url(lines["broker_url"]) as broker:
        return bool(broker.ping())


def test_the_lines_let_the_host_in(halves: Path) -> None:
    lines = enrol(halves)
    assert get_in(lines)
    assert lines["control_keys"] == [public_hex(portal_signing_key())]
    host = Host.objects.get(name=lines["host"])
    assert host.signing_key == json.loads(halves.read_text())["signing_key"]
    actions = AuditEntry.objects.filter(subject=f"host:{host.pk}").order_by("id")
    assert list(actions.values_list("action", flat=True)) == ["host.enrol", "host.access"]
    assert lines["broker_url"].partition("@")[0].rpartition(":")[2] not in actions[1].text


def test_a_renewed_password_replaces_the_old_one(halves: Path) -> None:
    before = enrol(halves)
    after = enrol(halves, "--renew")
    assert get_in(after)
    with pytest.raises(AuthenticationError):
        get_in(before)


def test_a_known_host_is_not_enrolled_again(halves: Path) -> None:
    enrol(halves)
    with pytest.raises(CommandError, match="host of this name"):
        enrol(halves)


def test_other_keys_get_no_password(halves: Path) -> None:
    enrol(halves)
    write(halves)
    with pytest.raises(CommandError, match="with these keys"):
        enrol(halves, "--renew")


@pytest.mark.parametrize("text", ["", "[]", '{"sealing_key": "hv7"}'])
def test_anything_else_is_refused(halves: Path, text: str) -> None:
    halves.write_text(text)
    with pytest.raises(CommandError, match="leasehold-host init"):
        enrol(halves)
    assert not Host.objects.exists()


def test_a_broker_that_is_away_says_how_to_go_on(halves: Path, settings: Settings) -> None:
    settings.BROKER_URL = f"redis+socket://{halves.parent}/nothing.sock"
    with pytest.raises(CommandError, match="--renew"):
        enrol(halves)


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("rediss://portal:secret@broker.example:6380/0", "rediss://host-a:p%2Fw@broker.example:6380/0"),
        ("redis://broker.example", "redis://host-a:p%2Fw@broker.example"),
        ("redis+socket:///run/broker.sock", "redis+socket://host-a:p%2Fw@/run/broker.sock"),
    ],
)
def test_the_host_has_an_account_of_its_own(base: str, url: str) -> None:
    assert broker_url(base, HostAccess("host-a", "p/w", "")) == url
