"""A host's Celery worker on a real Redis, under the account that its host would have."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import Queue
from nacl.signing import SigningKey

from hosts.agent.delivery import Delivery
from hosts.agent.journal import Journal
from hosts.agent.receiver import Receiver, make_app, register_delivery
from hosts.agent.spool import Spool
from hosts.protocol.broker import broker_acl, broker_user, unacked_prefix
from hosts.protocol.codec import decode_report
from hosts.protocol.fence import DELIVER_COMMAND, REPORTS_QUEUE, fenced_settings, host_queue
from hosts.protocol.messages import Accepted
from hosts.protocol.signing import REPORT, Signer, parse_envelope
from tests.agent.host_in_a_box import wait_for
from tools.servers import RedisServer

PASSWORD = "only-for-this-test"


@pytest.fixture
def broker(redis_server: RedisServer) -> Iterator[Any]:
    client = redis.Redis.from_url(redis_server.url)
    client.flushall()
    yield client
    client.close()


def url_of(host: str, broker: Any, server: RedisServer) -> str:
    """The broker's address with the host's own account, which is made here."""
    broker.execute_command("ACL", "SETUSER", *broker_acl(host, hashlib.sha256(PASSWORD.encode()).hexdigest()))
    return f"redis://{broker_user(host)}:{PASSWORD}@127.0.0.1:{server.port}/0"


class Listening:
    """A host's receiver and what it was given."""

    def __init__(self, url: str, *, host: str = "a") -> None:
        self.accepted: list[str] = []
        self.refused: list[str] = []
        self.died = False
        self.app = make_app(host=host, broker_url=url)
        register_delivery(self.app, accept=self.accepted.append, refuse=self.refused.append)
        self.receiver = Receiver(self.app, on_death=self._die)

    def _die(self) -> None:
        self.died = True


@pytest.fixture
def listening(broker: Any, redis_server: RedisServer) -> Iterator[Listening]:
    listening = Listening(url_of("a", broker, redis_server))
    listening.receiver.start()
    yield listening
    listening.receiver.stop(seconds=10)
    assert not listening.died


@pytest.fixture
def portal(redis_server: RedisServer) -> Iterator[Celery]:
    app = Celery("portal", broker=redis_server.url, set_as_current=False)
    app.conf.update(fenced_settings(queue="control", unacked_prefix="control"))
    yield app
    app.close()


def send(portal: Celery, *args: Any, host: str = "a", task: str = DELIVER_COMMAND, **options: Any) -> None:
    queue: Any = Queue(host_queue(host), routing_key=host_queue(host))
    portal.send_task(task, args=args, queue=queue, declare=[], **options)


def test_an_envelope_arrives_and_is_acknowledged(listening: Listening, portal: Celery, broker: Any) -> None:
    send(portal, "envelope")
    wait_for(lambda: listening.accepted)
    assert listening.accepted == ["envelope"]
    wait_for(lambda: broker.keys(f"{unacked_prefix('a')}*") == [])
    assert broker.llen(host_queue("a")) == 0


def test_envelopes_arrive_in_their_order(listening: Listening, portal: Celery) -> None:
    wanted = [f"envelope {number}" for number in range(50)]
    for envelope in wanted:
        send(portal, envelope)
    wait_for(lambda: len(listening.accepted) == len(wanted))
    assert listening.accepted == wanted


def test_an_embedded_callback_is_refused_and_does_not_run(
    listening: Listening, portal: Celery, broker: Any
) -> None:
    send(portal, "envelope", link=portal.signature("anything", queue="victim"))
    wait_for(lambda: listening.refused)
    assert "callbacks" in listening.refused[0]
    send(portal, "another")
    wait_for(lambda: listening.accepted)
    assert listening.accepted == ["another"]
    assert broker.keys("victim") == []


@pytest.mark.parametrize("arguments", [(), ("one", "two"), (7,), ({"an": "object"},)])
def test_anything_but_one_text_is_refused(
    listening: Listening, portal: Celery, arguments: tuple[Any, ...]
) -> None:
    send(portal, *arguments)
    wait_for(lambda: listening.refused)
    assert listening.accepted == []


def test_another_task_is_not_run(listening: Listening, portal: Celery) -> None:
    send(portal, "envelope", task="celery.ping")
    send(portal, "after it")
    wait_for(lambda: listening.accepted)
    assert listening.accepted == ["after it"]


def test_the_broker_never_had_to_deny_the_worker_anything(
    listening: Listening, portal: Celery, broker: Any
) -> None:
    broker.execute_command("ACL", "LOG", "RESET")
    send(portal, "envelope")
    wait_for(lambda: listening.accepted)
    assert broker.execute_command("ACL", "LOG") == []


FORBIDDEN = [
    ("RPOP", REPORTS_QUEUE),
    ("LRANGE", REPORTS_QUEUE, 0, -1),
    ("DEL", REPORTS_QUEUE),
    ("LPUSH", "host.b", "forged"),
    ("BRPOP", "host.b", 1),
    ("LPUSH", "control", "forged"),
    ("HGET", "unacked.b.unacked", "tag"),
    ("SADD", "_kombu.binding.host.b", "host.a"),
    ("SADD", "_kombu.binding.reports", "host.a"),
    ("KEYS", "*"),
    ("PUBLISH", "any", "thing"),
    ("FLUSHALL",),
    ("CONFIG", "GET", "*"),
    ("ACL", "WHOAMI"),
    ("EVAL", "return redis.call('DEL', 'host.b')", 0),
]


@pytest.mark.parametrize("command", FORBIDDEN, ids=lambda command: " ".join(map(str, command[:2])))
def test_a_hosts_account_can_do_nothing_else(
    broker: Any, redis_server: RedisServer, command: tuple[Any, ...]
) -> None:
    account: Any = redis.Redis.from_url(url_of("a", broker, redis_server))
    with pytest.raises(redis.exceptions.NoPermissionError):
        account.execute_command(*command)
    account.close()


def test_no_host_can_be_named_so_that_keys_meet() -> None:
    """The rules of `a` must not cover a key of any host whose name begins alike."""
    keys = {host: {rule for rule in broker_acl(host, "0" * 64) if rule.startswith("~")} for host in NAMES}
    for one in NAMES:
        for other in NAMES:
            assert one == other or keys[one].isdisjoint(keys[other])


NAMES = ["a", "a.unacked", "a.b", "b", "host.a", "reports"]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    journal = Journal(tmp_path / "journal")
    signer = Signer(SigningKey.generate(), REPORT)
    yield Spool(journal, signer=signer, host="a", clock=lambda: datetime.now(UTC))
    journal.close()


def report(spool: Spool) -> None:
    spool.add(Accepted(), spool.host_origin)


def test_reports_are_pushed_and_sent_again_until_receipted(
    spool: Spool, broker: Any, redis_server: RedisServer
) -> None:
    app = make_app(host="a", broker_url=url_of("a", broker, redis_server))
    delivery = Delivery(app, spool, resend_seconds=0.2)
    report(spool)
    delivery.start()
    wait_for(lambda: broker.llen(REPORTS_QUEUE) >= 3)
    spool.forget(journal_id=spool.journal_id, through=1)
    report(spool)
    wait_for(lambda: sent(broker).count(2) >= 3)
    delivery.stop(seconds=5)
    assert sent(broker).count(1) < sent(broker).index(2) + 2
    assert broker.keys("_kombu*") == []


def sent(broker: Any) -> list[int]:
    """The sequence numbers of the reports in the queue, the first sent first."""
    numbers = []
    for raw in reversed(broker.lrange(REPORTS_QUEUE, 0, -1)):
        ((envelope,), _, _) = json.loads(base64.b64decode(json.loads(raw)["body"]))
        numbers.append(decode_report(base64.b64decode(parse_envelope(envelope).body)).sequence)
    return numbers


def test_a_broker_that_is_away_only_makes_the_spool_grow(spool: Spool) -> None:
    app = make_app(host="a", broker_url="redis://127.0.0.1:1/0")
    delivery = Delivery(app, spool, resend_seconds=0.2)
    delivery.start()
    started = time.monotonic()
    for _ in range(20):
        report(spool)
    assert time.monotonic() - started < 5
    assert spool.size() == 20
    delivery.stop(seconds=10)


def test_delivery_outlives_whatever_the_broker_answers(
    spool: Spool, broker: Any, redis_server: RedisServer
) -> None:
    """Refused by its rules, which is not a lost connection: reports are sent once it may send again."""
    url = url_of("a", broker, redis_server)
    broker.execute_command("ACL", "SETUSER", broker_user("a"), "clearselectors")
    broker.execute_command("ACL", "LOG", "RESET")
    delivery = Delivery(make_app(host="a", broker_url=url), spool, resend_seconds=0.2)
    report(spool)
    delivery.start()
    wait_for(lambda: broker.execute_command("ACL", "LOG"))
    url_of("a", broker, redis_server)
    wait_for(lambda: broker.llen(REPORTS_QUEUE))
    delivery.stop(seconds=5)


def test_a_portal_that_receives_nothing_is_not_buried_in_copies(
    spool: Spool, broker: Any, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hosts.agent.delivery.BACKLOG_AT_MOST", 5)
    app = make_app(host="a", broker_url=url_of("a", broker, redis_server))
    delivery = Delivery(app, spool, resend_seconds=0.05)
    report(spool)
    report(spool)
    delivery.start()
    wait_for(lambda: broker.llen(REPORTS_QUEUE) >= 5)
    time.sleep(0.5)
    assert broker.llen(REPORTS_QUEUE) <= 6
    delivery.stop(seconds=5)
