"""Pages ask the database little, and no more when there is more; a large fleet has filters."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from hosts.models import Host
from leasing.models import Closure
from tests.web.conftest import SignIn
from tests.web.scenes import Scene
from tests.web.test_booking_page import GOOD

MOST_STATEMENTS = 15


def hosts_on(page: str) -> list[str]:
    return re.findall(r'id="host-([^"]+)"', page)


@pytest.fixture
def many_hosts(scene: Scene) -> list[Host]:
    """Forty more, all in touch."""
    hosts = [
        Host(
            name=f"row{number:02}",
            account=f"row{number:02}",
            signing_key=f"{number:064x}",
            key_id=f"{number:016x}",
            sealing_key=f"{number:064x}",
            last_seen_at=scene.now,
        )
        for number in range(40)
    ]
    return Host.objects.bulk_create(hosts)


@pytest.mark.parametrize("name", ["home", "book", "workstations", "calendar"])
def test_a_page_asks_the_same_for_one_workstation_as_for_many(
    scene: Scene, sign_in: SignIn, name: str
) -> None:
    client = sign_in(scene.ada)
    before = statements(client, reverse(name))
    for day in range(2, 12):
        scene.book(scene.ada, hours=1, start=timedelta(days=day))
    assert statements(client, reverse(name)) == before <= MOST_STATEMENTS


def statements(client: Client, path: str) -> int:
    """At a second visit: the first fills what Django keeps in the process."""
    client.get(path)
    with CaptureQueriesContext(connection) as captured:
        assert client.get(path).status_code == 200
    return len(captured)


def test_the_fleet_is_shown_twenty_hosts_at_a_time(
    scene: Scene, sign_in: SignIn, many_hosts: list[Host]
) -> None:
    client = sign_in(scene.operator)
    first, last = (client.get(reverse("fleet"), {"page": page}).content.decode() for page in (1, 3))
    assert len(hosts_on(first)) == 20
    assert hosts_on(last)[-1] == "row39"
    assert "Page 1 of 3" in first
    fleet = statements(client, reverse("fleet"))
    for host in many_hosts[:9]:
        Closure.objects.create(host=host, starts_at=scene.now, created_at=scene.now)
    assert statements(client, reverse("fleet")) == fleet
    Closure.objects.all().delete()
    Host.objects.filter(name__startswith="row").delete()
    assert statements(client, reverse("fleet")) == fleet <= MOST_STATEMENTS


def test_hosts_are_found_by_name_by_state_and_by_what_needs_attention(
    scene: Scene, sign_in: SignIn, many_hosts: list[Host]
) -> None:
    client = sign_in(scene.operator)

    def shown(**asked: str) -> list[str]:
        return hosts_on(client.get(reverse("fleet"), asked).content.decode())

    assert shown(name="ROW1") == [f"row{number}" for number in range(10, 20)]
    assert shown(show="quarantined") == [scene.quarantined.host.name]
    Host.objects.filter(name__startswith="row").update(last_seen_at=datetime.now(UTC))
    assert shown(name="row", show="attention") == []
    Host.objects.filter(name="row07").update(last_seen_at=scene.now - timedelta(hours=1))
    assert shown(name="row", show="attention") == ["row07"]
    assert scene.quarantined.host.name in shown(show="attention")
    assert len(shown(show="no such state")) == 20
    nothing = client.get(reverse("fleet"), {"name": "nowhere"}).content.decode()
    assert "No host is like that." in nothing
    live = client.get(reverse("fleet-live"), {"name": "row07"}).content.decode()
    assert hosts_on(live) == ["row07"]


@pytest.mark.parametrize(("more", "most"), [({}, 10), ({"longest": "1"}, 12), ({"when": "soon"}, 17)])
def test_a_price_asks_for_what_is_chosen_and_no_more(
    scene: Scene, sign_in: SignIn, more: dict[str, str], most: int
) -> None:
    """Only who asks for the first time that is free, or until when one could be kept, waits for that."""
    path = f"{reverse('book-price')}?{urlencode(GOOD | more)}"
    assert statements(sign_in(scene.ada), path) <= most
