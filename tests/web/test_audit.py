"""The audit log on its pages: what signing in and programs leave there, searching, verifying, keeping."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

from django.test import Client
from django.urls import reverse
from knox.models import AuthToken

from leasing.console import admit_browser, close_console, open_console
from leasing.ending import end_lease
from leasing.models import AuditEntry
from tests.web.conftest import SignIn, new_client
from tests.web.scenes import PASSWORD, Scene
from tests.web.test_pages import text_of


def told(action: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(AuditEntry.objects.filter(action=action).latest("pk").text)
    return found


def test_signing_in_and_out_and_failing_to_is_recorded(scene: Scene) -> None:
    client = Client(headers={"X-Request-ID": "request-0001"})
    client.post("/sign-in/", {"username": "ada", "password": "wrong"})
    failed = told("person.sign-in-fail")
    assert failed["actor"] == {"kind": "nobody", "name": "nobody", "token": ""}
    assert (failed["subject"], failed["detail"]) == (
        f"person:{scene.ada.pk}",
        {"person": "ada", "locked": False},
    )
    client.post("/sign-in/", {"username": "ada", "password": PASSWORD})
    entry = told("person.sign-in")
    assert (entry["actor"]["name"], entry["address"], entry["request_id"]) == (
        "ada",
        "127.0.0.1",
        "request-0001",
    )
    client.post("/sign-out/")
    assert told("person.sign-out")["actor"]["name"] == "ada"


def test_a_password_typed_in_the_wrong_field_is_not_kept(scene: Scene) -> None:
    new_client().post("/sign-in/", {"username": PASSWORD, "password": ""})
    entry = told("person.sign-in-fail")
    assert (entry["subject"], entry["detail"]["person"]) == ("person:unknown", None)
    assert PASSWORD not in json.dumps(entry)


def test_a_locked_name_is_recorded_as_such_and_within_measure(scene: Scene) -> None:
    for _attempt in range(40):
        new_client().post("/sign-in/", {"username": "ada", "password": "guess"})
    assert told("person.sign-in-fail")["detail"]["locked"]
    assert AuditEntry.objects.filter(action="person.sign-in-fail").count() == 30


def test_a_program_acts_for_a_person_with_a_named_token(scene: Scene) -> None:
    row, secret = AuthToken.objects.create(scene.ada)
    client = Client(headers={"Authorization": f"Token {secret}"})
    url = reverse("api-lease-end", args=[scene.active.pk])
    assert client.post(url, content_type="application/json").status_code == 200
    assert told("lease.end")["actor"] == {"kind": "person", "name": "ada", "token": row.token_key}
    assert Client(headers={"Authorization": f"Token {'x' * 64}"}).get("/api/v1/me/").status_code == 401
    assert told("token.refuse")["actor"]["kind"] == "nobody"
    assert "xxxx" not in json.dumps(told("token.refuse"))


def test_who_ends_somebody_elses_workstation_does_so_on_their_behalf(scene: Scene, sign_in: SignIn) -> None:
    sign_in(scene.approver).post(reverse("workstation-end", args=[scene.active.pk]))
    assert (told("lease.end")["actor"]["name"], told("lease.end")["on_behalf_of"]) == ("approver", "ada")
    command = told("command.queue")
    assert command["detail"]["about"] == f"lease:{scene.active.pk}"
    assert command["tenant"] == "studio"


def test_only_a_trusted_proxy_says_whose_address_it_is(scene: Scene, settings: Any) -> None:
    wrong, headers = {"username": "ada", "password": "wrong"}, {"X-Forwarded-For": "203.0.113.7"}
    new_client().post("/sign-in/", wrong, headers=headers)
    assert told("person.sign-in-fail")["address"] == "127.0.0.1"
    settings.TRUSTED_PROXIES = ("unix",)
    new_client().post("/sign-in/", wrong, headers=headers, REMOTE_ADDR="")
    assert told("person.sign-in-fail")["address"] == "203.0.113.7"


def test_the_page_finds_by_what_the_address_says(scene: Scene, sign_in: SignIn) -> None:
    auditor = sign_in(scene.auditor)

    def actions(query: str) -> set[str]:
        return set(re.findall(r'mono quiet">([a-z.-]+)<', text_of(auditor, "audit", query=query)))

    assert actions("?action=lease.reject") == {"lease.reject"}
    assert actions("?action=lease&actor=approver") == {"lease.reject", "lease.request"}
    assert actions(f"?subject={scene.rejected.machine_name}") == {"lease.reject", "lease.request"}
    assert actions("?tenant=research&action=lease.request") == {"lease.request"}
    assert actions("?through=2001-01-01") == set()
    assert "This date is out of range" in text_of(auditor, "audit", query="?since=1000-01-01")
    theirs = sign_in(scene.approver)
    assert "Research" not in text_of(theirs, "audit")
    assert theirs.get(reverse("audit") + "?tenant=research").status_code == 400


def test_pages_follow_one_another(scene: Scene, sign_in: SignIn) -> None:
    auditor, seen, url = sign_in(scene.auditor), [], reverse("audit")
    while url:
        page = auditor.get(url).content.decode()
        seen += re.findall(r'<a href="/audit/(\d+)/"', page)
        older = re.search(r'href="(\?[^"]*older=[^"]*)"', page)
        url = reverse("audit") + older[1].replace("&amp;", "&") if older else ""
    numbers = AuditEntry.objects.order_by("-pk").values_list("pk", flat=True)
    assert seen == [str(number) for number in numbers]
    assert len(seen) > 50


def test_an_entry_is_shown_whole(scene: Scene, sign_in: SignIn) -> None:
    entry = AuditEntry.objects.get(action="lease.reject")
    page = text_of(sign_in(scene.approver), "audit-entry", entry.pk)
    for words in ("The stand is done by then.", "approver", f"leaf {entry.leaf.index}", entry.leaf.leaf_hash):
        assert words in page


def test_an_auditor_has_the_log_verified_and_everybody_reads_what_came_of_it(
    scene: Scene, sign_in: SignIn
) -> None:
    auditor = sign_in(scene.auditor)
    assert 'data-verified="never"' in text_of(auditor, "audit")
    assert "The log verifies." in auditor.post(reverse("audit-verify"), follow=True).content.decode()
    page = text_of(auditor, "audit")
    assert 'data-verified="sound"' in page
    assert told("audit.verify")["detail"]["root"] in page
    assert "data-verified" not in text_of(sign_in(scene.approver), "audit")


def test_what_is_found_can_be_kept(scene: Scene, sign_in: SignIn) -> None:
    answer = sign_in(scene.approver).get(reverse("audit-download") + "?action=lease.reject")
    (line,) = answer.getvalue().splitlines()
    entry = AuditEntry.objects.get(action="lease.reject")
    assert json.loads(line) == {"entry": entry.pk, "leaf": entry.leaf.index, "text": entry.text}
    assert told("audit.export")["detail"]["search"] == {"actions": ["lease.reject"]}


def test_the_api_goes_page_by_page_too(scene: Scene, sign_in: SignIn) -> None:
    client, seen = sign_in(scene.auditor), []
    url = reverse("api-audit") + "?action=lease&limit=7"
    while url:
        answer = client.get(url).json()
        seen += [row["id"] for row in answer["results"]]
        url = answer["next"]
    expected = AuditEntry.objects.filter(action__startswith="lease.").order_by("-pk")
    assert seen == list(expected.values_list("pk", flat=True))
    named = client.get(reverse("api-audit"), {"subject": scene.rejected.machine_name}).json()["results"]
    assert {row["action"] for row in named} == {"lease.request", "lease.reject"}
    assert client.get(reverse("api-audit"), {"since": "2026-01-01"}).status_code == 400


def test_a_console_is_recorded_from_the_ticket_to_its_end(scene: Scene) -> None:
    opened = open_console(
        actor=scene.actor(scene.ada), lease_id=scene.active.pk, session_key="browser", now=scene.now
    )
    assert admit_browser(ticket=opened.ticket, session_key="browser", now=scene.now) is not None
    assert admit_browser(ticket=opened.ticket, session_key="browser", now=scene.now) is None
    close_console(session_id=opened.session_id, now=scene.now + timedelta(seconds=90))
    close_console(session_id=opened.session_id, now=scene.now + timedelta(seconds=95))
    entries = AuditEntry.objects.filter(action__startswith="console.").order_by("pk")
    assert [entry.action for entry in entries] == ["console.open", "console.connect", "console.close"]
    assert told("console.close")["detail"] == {"session": str(opened.session_id), "seconds": 90}
    assert told("console.close")["on_behalf_of"] == "ada"
    again = open_console(
        actor=scene.actor(scene.ada), lease_id=scene.active.pk, session_key="browser", now=scene.now
    )
    end_lease(actor=scene.actor(scene.ada), lease_id=scene.active.pk, now=scene.now)
    assert told("console.close")["detail"] == {"session": str(again.session_id), "seconds": 0}
