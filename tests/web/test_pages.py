"""What the pages say and do, one page after the other."""

from __future__ import annotations

import csv
import re
from datetime import timedelta

import pytest
from django.conf import settings
from django.test import Client
from django.urls import reverse

from leasing.models import AuditEntry, Lease, Person
from tests.web.conftest import SignIn
from tests.web.scenes import PASSWORD, Scene


def text_of(client: Client, name: str, *arguments: object, query: str = "") -> str:
    return re.sub(r"\s+", " ", client.get(reverse(name, args=arguments) + query).content.decode())


def test_signing_in_and_out(scene: Scene) -> None:
    client = Client()
    assert client.get("/").headers["Location"] == "/sign-in/?next=/"
    wrong = client.post("/sign-in/", {"username": "ada", "password": "wrong"})
    assert "do not match" in wrong.content.decode()
    right = client.post("/sign-in/", {"username": "ada", "password": PASSWORD, "next": "/book/"})
    assert right.headers["Location"] == "/book/"
    assert client.post("/sign-out/").headers["Location"] == "/sign-in/"
    assert client.get("/").status_code == 302


def test_guessing_a_password_locks_the_name_for_a_while(scene: Scene) -> None:
    client = Client()
    for _attempt in range(settings.AXES_FAILURE_LIMIT):
        answer = client.post("/sign-in/", {"username": "ada", "password": "guess"})
    assert answer.status_code == 429
    page = answer.content.decode()
    assert "Too many attempts" in page
    assert "15 min" in page
    assert client.post("/sign-in/", {"username": "ada", "password": PASSWORD}).status_code == 429


def test_home_shows_what_is_mine_by_what_it_does_now(scene: Scene, sign_in: SignIn) -> None:
    page = text_of(sign_in(scene.ada), "home")
    order = [page.index(words) for words in (">Now<", ">Waiting for approval<", ">Coming up<", ">Recently<")]
    assert order == sorted(order)
    assert "€6." in page
    assert "left" in page
    assert "disk reserved · step 3 of 7" in page
    assert str(scene.theirs.pk) not in page


def test_a_workstation_shows_cost_steps_and_what_happened(scene: Scene, sign_in: SignIn) -> None:
    page = text_of(sign_in(scene.ada), "workstation", scene.ended.pk)
    assert "Final cost" in page
    assert "€4.57" in page  # 1 h 12 min 7 s, and the steps before, at 3.80 an hour
    assert "proven clean" in page
    assert "32 canaries planted, 0 found afterwards" in page
    assert page.index("Machine, disk and access are gone") < page.index("The machine runs; billing begins")


def test_a_failed_scrub_is_told_to_its_user(scene: Scene, sign_in: SignIn) -> None:
    page = text_of(sign_in(scene.bob), "workstation", scene.spoilt.pk)
    assert "not proven clean" in page
    assert "3 of 32 canaries survived the scrub." in page


def test_power_is_asked_of_the_host(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.ada)
    url = reverse("workstation-power", args=[scene.active.pk])
    client.post(url, {"action": "restart"})
    assert scene.command(scene.active, "power").answered_at is None
    back = reverse("workstation", args=[scene.preparing.pk])
    refused = client.post(
        reverse("workstation-power", args=[scene.preparing.pk]), {"action": "off", "back": back}, follow=True
    )
    assert "Wait until it is ready" in refused.content.decode()
    nonsense = client.post(url, {"action": "explode", "back": back}, follow=True)
    assert "switched on, off, or restarted" in nonsense.content.decode()


def test_the_end_tells_its_consequences_and_then_does_it(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.ada)
    page = text_of(client, "workstation-end", scene.active.pk)
    assert "Billing stops at once" in page
    assert "destroyed" in page
    client.post(reverse("workstation-end", args=[scene.active.pk]))
    scene.active.refresh_from_db()
    assert scene.active.state == "releasing"
    assert AuditEntry.objects.filter(action="lease.end", actor="ada").exists()


def test_cancelling_what_has_not_started_costs_nothing(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.ada)
    assert "nothing is billed" in text_of(client, "workstation-end", scene.scheduled.pk)
    after = client.post(reverse("workstation-end", args=[scene.scheduled.pk]), follow=True).content.decode()
    assert "Cancelled. Nothing is billed." in after


def test_an_approver_decides_on_others_requests_only(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.approver)
    page = text_of(client, "approvals")
    assert page.count('value="approve"') == 1
    assert "This is your own request; somebody else decides." in page
    own = client.post(reverse("decide", args=[scene.own_request.pk]), {"decision": "approve"})
    assert own.status_code == 403
    assert "Nobody decides on their own request" in own.content.decode()
    silent = client.post(reverse("decide", args=[scene.requested.pk]), {"decision": "reject"}, follow=True)
    assert Lease.objects.get(pk=scene.requested.pk).state == "requested"
    assert silent.status_code == 200
    client.post(reverse("decide", args=[scene.requested.pk]), {"decision": "approve", "note": "Go ahead."})
    lease = Lease.objects.get(pk=scene.requested.pk)
    assert (lease.state, lease.decided_by, lease.decision_note) == ("scheduled", scene.approver, "Go ahead.")


def test_a_rejection_reaches_the_person(scene: Scene, sign_in: SignIn) -> None:
    data = {"decision": "reject", "note": "The budget is spent."}
    sign_in(scene.approver).post(reverse("decide", args=[scene.requested.pk]), data)
    assert "The budget is spent." in text_of(sign_in(scene.ada), "workstation", scene.requested.pk)


def test_the_fleet_shows_reasons(scene: Scene, sign_in: SignIn) -> None:
    page = text_of(sign_in(scene.operator), "fleet")
    assert "shares IOMMU group 9 with 0000:42:01.0" in page
    assert "3 of 32 canaries survived the scrub. 24 blocks are not zero" in page
    assert "NUMA 0" in page
    assert "NUMA 1" in page
    assert "Take into service" in page
    assert "Take into service" not in text_of(sign_in(scene.auditor), "fleet")


def test_an_operator_lets_a_quarantined_gpu_try_again(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.operator)
    assert "Try intake again" in text_of(client, "gpu", scene.quarantined.pk)
    client.post(reverse("readmit-gpu", args=[scene.quarantined.pk]))
    scene.quarantined.refresh_from_db()
    assert scene.quarantined.state == "dirty"


def test_a_gpu_in_use_is_not_withdrawn(scene: Scene, sign_in: SignIn) -> None:
    used = scene.active.holds.get().gpu
    back = reverse("gpu", args=[used.pk])
    url = reverse("withdraw-gpu", args=[used.pk])
    page = sign_in(scene.operator).post(url, {"reason": "fan", "back": back}, follow=True).content.decode()
    assert "is not possible now" in page


def test_usage_is_the_same_on_the_page_and_in_the_csv(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.finance)
    days = {
        "since": f"{scene.until - timedelta(days=2):%F}",
        "through": f"{scene.until + timedelta(days=1):%F}",
    }
    page = client.get(reverse("usage-lines"), days).content.decode()
    assert "€4.57" in page
    answer = client.get(reverse("usage-export"), days)
    rows = list(csv.DictReader(answer.getvalue().decode().splitlines()))
    assert {row["tenant"] for row in rows} == {"studio"}
    assert "4.57" in {row["amount"] for row in rows}
    assert answer.headers["Content-Disposition"].endswith('.csv"')
    assert client.get(reverse("usage"), days | {"tenant": "research"}).status_code == 400


@pytest.mark.parametrize(
    "period",
    [
        {"since": "2026-02-31", "through": "2026-03-01"},
        {"since": "2026-03-02", "through": "2026-03-01"},
        {"since": "0001-01-01", "through": "9999-12-31"},
        {"since": "now", "through": ""},
    ],
)
def test_an_odd_period_is_answered_in_the_form(period: dict[str, str], scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.finance)
    for name in ("usage", "usage-lines", "usage-export"):
        answer = client.get(reverse(name), period)
        assert answer.status_code == 400
        assert 'class="fault"' in answer.content.decode()


def test_tokens_are_shown_once_and_revoked(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.ada)
    made = client.post(reverse("add-token"), {"days": "30"}).content.decode()
    found = re.search(r'id="new-token"[^>]*>([0-9a-zA-Z]+)<', made)
    assert found
    secret = found[1]
    api = Client(headers={"Authorization": f"Token {secret}"})
    assert api.get("/api/v1/me/").json()["username"] == "ada"
    assert secret not in text_of(client, "account")
    client.post(reverse("remove-token", args=[secret[:15]]))
    assert api.get("/api/v1/me/").status_code == 401


def test_pages_speak_the_readers_language_and_zone(scene: Scene, sign_in: SignIn) -> None:
    Person.objects.filter(pk=scene.ada.pk).update(language="zh-hans", timezone="Asia/Shanghai")
    page = text_of(sign_in(scene.ada), "workstation", scene.active.pk)
    assert 'lang="zh-hans"' in page
    assert "运行中" in page
    start = scene.active.starts_at
    assert f'title="{start:%Y-%m-%d %H:%M:%S} UTC"' in page


def test_a_form_from_elsewhere_is_refused_in_words(scene: Scene, sign_in: SignIn) -> None:
    client = Client(enforce_csrf_checks=True)
    client.cookies = sign_in(scene.ada).cookies
    answer = client.post(reverse("workstation-end", args=[scene.active.pk]))
    assert answer.status_code == 403
    assert "nothing was changed" in answer.content.decode()


def test_pages_carry_the_policy_and_are_not_kept(scene: Scene, sign_in: SignIn) -> None:
    answer = sign_in(scene.ada).get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["Cache-Control"] == "private, no-store"
    assert answer.headers["X-Frame-Options"] == "DENY"


def test_going_back_never_leaves_the_site(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.ada)
    for back in ("https://elsewhere.example/", "//elsewhere.example/", "/\\elsewhere.example"):
        answer = client.post(reverse("language"), {"language": "en", "back": back})
        assert answer.headers["Location"] == "/"
