"""Letting hosts in: tokens, keys old and new, what is refused and how alike, the account at the broker."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from nacl.public import PrivateKey
from nacl.signing import SigningKey
from pytest_django import Settings
from redis import Redis
from redis.exceptions import AuthenticationError

from hosts.models import FormerKey, Host
from hosts.protocol import messages as m
from hosts.protocol.codec import PROTOCOL, encode
from hosts.protocol.enrolment import (
    EnrolmentAnswer,
    EnrolmentRequest,
    NewKeys,
    RekeyRequest,
    open_answer,
    portal_key_id,
    sign_enrolment,
    sign_rekey,
)
from hosts.protocol.signing import REPORT, ForgedMessage, Signer, key_id, public_hex, unseal
from leasing.actors import SYSTEM, Actor
from leasing.audit.log import SPARINGLY_PER_MINUTE
from leasing.audit.verifier import verify_log
from leasing.enrolment import accounts, admission, changes, tokens
from leasing.enrolment.admission import EnrolmentRefused, HostTaken
from leasing.errors import InvalidRequest, NotVisible, WrongState
from leasing.fleet import readmit_gpu
from leasing.fsck import run_checks
from leasing.keys import portal_signing_key
from leasing.models import AuditEntry, EnrolmentToken
from leasing.reports import receive_report
from tests.domain.test_first_lease import book, bring_up
from tests.world import World
from tools.servers import RedisServer

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)


@dataclass
class Keys:
    """A host's private halves."""

    signing: SigningKey = field(default_factory=SigningKey.generate)
    sealing: PrivateKey = field(default_factory=PrivateKey.generate)

    @property
    def public(self) -> NewKeys:
        return NewKeys(signing_key=public_hex(self.signing), sealing_key=public_hex(self.sealing))


def a_token(name: str = "hv7", **more: Any) -> str:
    return tokens.make_token(actor=SYSTEM, name=name, now=more.pop("now", NOW), **more)[1]


def request_of(token: str, keys: Keys, **changes: Any) -> str:
    fields: dict[str, Any] = {
        "protocol": PROTOCOL,
        "token": token,
        "keys": keys.public,
        "worker_version": "0.2.0",
    }
    return sign_enrolment(EnrolmentRequest(**(fields | changes)), key=keys.signing)


def rekey_of(host: str, *, old: Keys, new: Keys) -> str:
    request = RekeyRequest(protocol=PROTOCOL, host=host, keys=new.public)
    return sign_rekey(request, new=new.signing, old=old.signing)


def enrol(token: str, keys: Keys, *, now: datetime = NOW) -> EnrolmentAnswer:
    """What the host reads in the portal's answer."""
    envelope = request_of(token, keys)
    answer = admission.enrol(envelope=envelope, address="192.0.2.7", now=now)
    return open_answer(answer, request=envelope, trusted_key_id=portal_key_id(token))


def rekey(host: str, *, old: Keys, new: Keys, now: datetime = NOW) -> EnrolmentAnswer:
    envelope = rekey_of(host, old=old, new=new)
    answer = admission.rekey(envelope=envelope, address="192.0.2.7", now=now)
    trusted = key_id(portal_signing_key().verify_key)
    return open_answer(answer, request=envelope, trusted_key_id=trusted)


def reasons() -> list[str]:
    entries = AuditEntry.objects.filter(action="enrolment.refuse").order_by("id")
    return [entry.text.partition('"reason":"')[2].partition('"')[0] for entry in entries]


def acts(host: Host) -> list[str]:
    found = AuditEntry.objects.filter(subject=f"host:{host.pk}").order_by("id")
    return list(found.values_list("action", flat=True))


def get_in(answer: EnrolmentAnswer, keys: Keys) -> bool:
    with Redis.from_url(unseal(answer.sealed_broker_url, key=keys.sealing).decode()) as broker:
        return bool(broker.ping())


def test_a_token_lets_one_host_in() -> None:
    keys, token = Keys(), a_token()
    answer = enrol(token, keys)
    host = Host.objects.get(name="hv7")
    assert answer.host == host.account == "hv7"
    assert answer.control_key == public_hex(portal_signing_key())
    assert (host.signing_key, host.sealing_key) == (keys.public.signing_key, keys.public.sealing_key)
    assert host.key_id == key_id(keys.signing.verify_key)
    assert (host.protocol, host.worker_version) == (PROTOCOL, "0.2.0")
    assert acts(host) == ["host.enrol", "host.access"]
    used = EnrolmentToken.objects.get()
    assert (used.used_at, used.used_by) == (NOW, host)
    assert run_checks(NOW) == []


def test_nothing_secret_is_kept() -> None:
    keys, token = Keys(), a_token()
    answer = enrol(token, keys)
    url = unseal(answer.sealed_broker_url, key=keys.sealing).decode()
    password = url.partition("@")[0].rpartition(":")[2]
    kept = [entry.text for entry in AuditEntry.objects.all()]
    kept += [str(row) for model in (Host, EnrolmentToken) for row in model.objects.values()]
    for secret in (token, token.partition(".")[0], password):
        assert not [text for text in kept if secret in text]
    with pytest.raises(ForgedMessage):
        unseal(answer.sealed_broker_url, key=PrivateKey.generate())


def test_a_lost_answer_is_given_again_to_the_same_keys_alone() -> None:
    keys, token = Keys(), a_token()
    first = enrol(token, keys)
    again = enrol(token, keys, now=NOW + HOUR)
    assert again.host == first.host
    assert Host.objects.count() == 1
    with pytest.raises(EnrolmentRefused):
        enrol(token, Keys())
    assert reasons() == ["the token for hv7 was used before"]


def spoilt(token: str, keys: Keys) -> str:
    """Signed by other keys than those it brings."""
    request = EnrolmentRequest(protocol=PROTOCOL, token=token, keys=keys.public)
    return sign_enrolment(request, key=SigningKey.generate())


def used_before(token: str, keys: Keys) -> str:
    enrol(token, Keys())
    return request_of(token, keys)


def withdrawn(token: str, keys: Keys) -> str:
    tokens.withdraw_token(actor=SYSTEM, token_id=EnrolmentToken.objects.get().pk, now=NOW)
    return request_of(token, keys)


REFUSED: dict[str, Callable[[str, Keys], str]] = {
    "wrong token": lambda token, keys: request_of("x" * 40 + token[-17:], keys),
    "used token": used_before,
    "withdrawn token": withdrawn,
    "other keys": spoilt,
    "nonsense": lambda token, keys: "nonsense",
    "no envelope of ours": lambda token, keys: Signer(keys.signing, REPORT).sign(b"{}"),
    "a protocol of tomorrow": lambda token, keys: request_of(token, keys, protocol=PROTOCOL + 1),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_whatever_is_wrong_the_answer_is_the_same(make: Callable[[str, Keys], str]) -> None:
    envelope = make(a_token(), Keys())
    before = Host.objects.count()
    with pytest.raises(EnrolmentRefused) as refused:
        admission.enrol(envelope=envelope, address="192.0.2.7", now=NOW)
    assert (str(refused.value.message), refused.value.code) == (
        "This host is not let in.",
        "enrolment-refused",
    )
    assert Host.objects.count() == before
    assert len(reasons()) == 1
    assert '"address":"192.0.2.7"' in AuditEntry.objects.get(action="enrolment.refuse").text


def test_an_expired_token_lets_nobody_in() -> None:
    token = a_token(lifetime=HOUR)
    with pytest.raises(EnrolmentRefused):
        enrol(token, Keys(), now=NOW + HOUR)
    assert reasons() == ["the token for hv7 is withdrawn or expired"]


def test_refusals_are_recorded_within_measure() -> None:
    for _ in range(SPARINGLY_PER_MINUTE + 5):
        with pytest.raises(EnrolmentRefused):
            admission.enrol(envelope="nonsense", address="192.0.2.7", now=NOW)
    assert len(reasons()) == SPARINGLY_PER_MINUTE


def test_of_two_tokens_for_a_name_the_first_one_counts() -> None:
    first, second = a_token(), a_token()
    enrol(first, Keys())
    with pytest.raises(HostTaken):
        enrol(second, Keys())


def test_a_key_is_never_brought_twice() -> None:
    keys = Keys()
    enrol(a_token(), keys)
    with pytest.raises(HostTaken):
        enrol(a_token("hv8"), keys)
    new = Keys()
    rekey("hv7", old=keys, new=new)
    with pytest.raises(EnrolmentRefused):
        enrol(a_token("hv9"), keys)
    with pytest.raises(EnrolmentRefused):
        rekey("hv7", old=new, new=keys)


@pytest.mark.parametrize("name", ["", "Upper", "-x", "a" * 64, "a b", "x\n"])
def test_a_name_that_no_host_may_have(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        a_token(name)
    assert refused.value.field == "name"


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(days=8)])
def test_a_token_has_a_measured_life(lifetime: timedelta) -> None:
    with pytest.raises(InvalidRequest) as refused:
        a_token(lifetime=lifetime)
    assert refused.value.field == "hours"


def test_only_operators_make_and_withdraw_tokens() -> None:
    world = World(gpus=0)
    for who in (world.ada, world.auditor):
        with pytest.raises(NotVisible):
            tokens.make_token(actor=world.actor(who), name="hv7", now=NOW)
    token, _ = tokens.make_token(actor=world.actor(world.operator), name="hv7", now=NOW)
    with pytest.raises(NotVisible):
        tokens.withdraw_token(actor=world.actor(world.ada), token_id=token.pk, now=NOW)
    assert list(tokens.open_tokens(now=NOW)) == [token]
    assert not tokens.open_tokens(now=token.expires_at).exists()


def test_the_old_key_signs_the_new_one() -> None:
    old, new = Keys(), Keys()
    enrol(a_token(), old)
    answer = rekey("hv7", old=old, new=new)
    host = Host.objects.get(name="hv7")
    assert answer.host == "hv7"
    assert host.signing_key == new.public.signing_key
    assert FormerKey.objects.get().key_id == key_id(old.signing.verify_key)
    assert acts(host)[-2:] == ["host.rekey", "host.access"]


def test_a_rekey_whose_answer_was_lost_is_answered_again() -> None:
    old, new, other = Keys(), Keys(), Keys()
    enrol(a_token(), old)
    rekey("hv7", old=old, new=new)
    rekey("hv7", old=old, new=new)
    assert FormerKey.objects.count() == 1
    with pytest.raises(EnrolmentRefused):
        rekey("hv7", old=old, new=other)
    assert Host.objects.get(name="hv7").signing_key == new.public.signing_key


def test_nobody_else_changes_a_hosts_keys() -> None:
    mine, theirs = Keys(), Keys()
    enrol(a_token("hv7"), mine)
    enrol(a_token("hv8"), theirs)
    for host, old in (("hv7", theirs), ("hv7", Keys()), ("hv9", mine)):
        with pytest.raises(EnrolmentRefused):
            rekey(host, old=old, new=Keys())
    envelope = rekey_of("hv7", old=mine, new=Keys())
    with pytest.raises(EnrolmentRefused):
        admission.rekey(envelope=envelope[:-20] + envelope[-19:], address="", now=NOW)
    assert not FormerKey.objects.exists()


def test_a_token_for_an_enrolled_host_gives_it_new_keys() -> None:
    lost, new = Keys(), Keys()
    enrol(a_token(), lost)
    host = Host.objects.get(name="hv7")
    _, token = tokens.make_token_for(actor=SYSTEM, host_id=host.pk, now=NOW)
    enrol(token, new)
    host.refresh_from_db()
    assert host.signing_key == new.public.signing_key
    assert Host.objects.count() == 1
    with pytest.raises(EnrolmentRefused):
        rekey("hv7", old=lost, new=Keys())


def reported(host: Host, keys: Keys, sequence: int, journal: m.Receipt) -> str:
    report = m.Report(
        protocol=PROTOCOL,
        host=host.account,
        journal_id=journal.journal_id,
        sequence=sequence,
        command_id=None,
        subject=f"host:{host.account}",
        generation=0,
        occurred_at=NOW,
        event=m.Refused(reason="a fact"),
    )
    return Signer(keys.signing, REPORT).sign(encode(report))


def test_what_the_old_key_signed_counts_if_it_was_stored_before() -> None:
    old, new = Keys(), Keys()
    enrol(a_token(), old)
    host = Host.objects.get(name="hv7")
    journal = m.Receipt(journal_id=host.pk, through=0)
    late = receive_report(reported(host, old, 2, journal), now=NOW)
    assert late is not None
    rekey("hv7", old=old, new=new, now=NOW + HOUR)
    assert receive_report(reported(host, old, 3, journal), now=NOW + HOUR) is None
    assert receive_report(reported(host, new, 1, journal), now=NOW + HOUR) is not None
    late.refresh_from_db()
    assert late.verdict == "applied"
    assert run_checks(NOW + HOUR) == []
    FormerKey.objects.update(replaced_at=NOW - HOUR)
    assert [finding.check for finding in run_checks(NOW + HOUR)] == ["reports"]


def test_a_renamed_host_keeps_its_account() -> None:
    world = World(gpus=1)
    operator = world.actor(world.operator)
    changes.rename_host(actor=operator, host_id=world.host.row.pk, name="rack3", now=world.now)
    world.host.row.refresh_from_db()
    assert (world.host.row.name, world.host.row.account) == ("rack3", "hv1")
    lease = book(world, hours=1)
    bring_up(world, lease)
    lease.refresh_from_db()
    assert lease.state == "active"
    enrol(a_token("hv1", now=NOW), Keys())
    assert Host.objects.get(name="hv1").account == "hv1-2"
    with pytest.raises(HostTaken):
        changes.rename_host(actor=operator, host_id=world.host.row.pk, name="hv1", now=world.now)
    world.tick()
    assert run_checks(world.now) == []


def test_a_retired_host_is_refused_and_its_gpus_are_out_of_service() -> None:
    world = World(gpus=2)
    host, operator = world.host.row, world.actor(world.operator)
    changes.retire_host(actor=operator, host_id=host.pk, now=world.now)
    host.refresh_from_db()
    assert host.retired_at == world.now
    assert {gpu.state for gpu in host.gpus.all()} == {"maintenance"}
    assert world.host.say(m.Refused(reason="still here"), at=world.now) == ""
    with pytest.raises(WrongState):
        readmit_gpu(actor=operator, gpu_id=world.gpus[0].pk, now=world.now)
    for act in (changes.retire_host, changes.look_again, accounts.remake_account, tokens.make_token_for):
        with pytest.raises(NotVisible):
            act(actor=operator, host_id=host.pk, now=world.now)
    world.tick()
    assert run_checks(world.now) == []
    assert verify_log().problems == []


def test_a_retired_name_may_be_used_again() -> None:
    keys = Keys()
    enrol(a_token(), keys)
    host = Host.objects.get(name="hv7")
    changes.retire_host(actor=SYSTEM, host_id=host.pk, now=NOW)
    with pytest.raises(EnrolmentRefused):
        rekey("hv7", old=keys, new=Keys())
    answer = enrol(a_token(), Keys())
    assert answer.host == "hv7-2"
    assert Host.objects.filter(name="hv7", retired_at=None).count() == 1


def test_an_open_token_of_a_retired_host_lets_nobody_in() -> None:
    enrol(a_token(), Keys())
    host = Host.objects.get(name="hv7")
    _, token = tokens.make_token_for(actor=SYSTEM, host_id=host.pk, now=NOW)
    changes.retire_host(actor=SYSTEM, host_id=host.pk, now=NOW)
    with pytest.raises(EnrolmentRefused):
        enrol(token, Keys())


@pytest.mark.parametrize("coming", [True, False])
def test_a_host_with_leases_is_not_retired(coming: bool) -> None:
    world = World(gpus=1)
    lease = book(world, hours=1, start=timedelta(days=1) if coming else None)
    if not coming:
        bring_up(world, lease)
    with pytest.raises(WrongState) as refused:
        changes.retire_host(actor=SYSTEM, host_id=world.host.row.pk, now=world.now)
    assert str(refused.value.message) == "1 lease is on this host or booked there."
    assert refused.value.hint
    assert world.host.row.gpus.get().state != "maintenance"


def test_only_operators_change_hosts() -> None:
    world = World(gpus=0)
    for who in (world.ada, world.auditor):
        actor = Actor.of_person(who)
        for act in (changes.retire_host, changes.look_again, accounts.remake_account, tokens.make_token_for):
            with pytest.raises(NotVisible):
                act(actor=actor, host_id=world.host.row.pk, now=world.now)
        with pytest.raises(NotVisible):
            changes.rename_host(actor=actor, host_id=world.host.row.pk, name="x", now=world.now)


@pytest.fixture
def broker(settings: Settings, redis_server: RedisServer) -> Settings:
    """A broker that the portal may administer."""
    settings.BROKER_ADMIN_URL = settings.BROKER_FOR_HOSTS_URL = redis_server.url
    return settings


def test_the_portal_makes_the_account_where_it_may(broker: Settings) -> None:
    keys = Keys()
    answer = enrol(a_token(), keys)
    assert get_in(answer, keys)
    assert Host.objects.get(name="hv7").account_at == NOW


def test_new_keys_come_with_a_new_password(broker: Settings) -> None:
    old, new = Keys(), Keys()
    before = enrol(a_token(), old)
    after = rekey("hv7", old=old, new=new)
    assert get_in(after, new)
    with pytest.raises(AuthenticationError):
        get_in(before, old)


def test_a_forgotten_account_is_made_anew_with_the_same_password(broker: Settings) -> None:
    keys = Keys()
    answer = enrol(a_token(), keys)
    host = Host.objects.get(name="hv7")
    with Redis.from_url(broker.BROKER_ADMIN_URL) as redis:
        redis.execute_command("ACL DELUSER", "host-hv7")
    with pytest.raises(AuthenticationError):
        get_in(answer, keys)
    accounts.remake_account(actor=SYSTEM, host_id=host.pk, now=NOW + HOUR)
    assert get_in(answer, keys)


def test_retirement_drops_the_account(broker: Settings) -> None:
    keys = Keys()
    answer = enrol(a_token(), keys)
    changes.retire_host(actor=SYSTEM, host_id=Host.objects.get(name="hv7").pk, now=NOW)
    with pytest.raises(AuthenticationError):
        get_in(answer, keys)
    assert Host.objects.get(account="hv7").broker_hash == ""


def test_without_an_administrator_the_lines_do_the_same(broker: Settings, redis_server: RedisServer) -> None:
    broker.BROKER_ADMIN_URL = ""
    keys = Keys()
    answer = enrol(a_token(), keys)
    host = Host.objects.get(name="hv7")
    assert host.account_at is None
    line, save = accounts.account_lines(host)
    assert save == "ACL SAVE"
    with Redis.from_url(redis_server.url) as redis:
        redis.execute_command(*shlex.split(line))
    assert get_in(answer, keys)
    changes.retire_host(actor=SYSTEM, host_id=host.pk, now=NOW)
    host.refresh_from_db()
    assert accounts.account_lines(host)[0] == "ACL DELUSER host-hv7"


def test_a_broker_that_is_away_does_not_keep_a_host_out(settings: Settings) -> None:
    settings.BROKER_ADMIN_URL = "redis://127.0.0.1:1/0"
    enrol(a_token(), Keys())
    host = Host.objects.get(name="hv7")
    assert host.account_at is None
    with pytest.raises(accounts.BrokerRefused):
        accounts.remake_account(actor=SYSTEM, host_id=host.pk, now=NOW)


def test_a_broker_that_takes_the_call_and_says_nothing_is_given_up(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings.BROKER_ADMIN_URL = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        enrol(a_token(), Keys())
    assert Host.objects.get(name="hv7").account_at is None


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("rediss://portal:secret@broker.example:6380/0", "rediss://host-a:p%2Fw@broker.example:6380/0"),
        ("redis://broker.example", "redis://host-a:p%2Fw@broker.example"),
        ("redis+socket:///run/broker.sock", "redis+socket://host-a:p%2Fw@/run/broker.sock"),
    ],
)
def test_the_host_has_an_account_of_its_own(settings: Settings, base: str, url: str) -> None:
    settings.BROKER_FOR_HOSTS_URL = base
    assert accounts.broker_url(Host(account="a"), "p/w") == url
