"""The page of a host and the door for new ones: what they say and do, and the host program against them."""

from __future__ import annotations

import html
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import translation
from playwright.sync_api import expect
from pytest_django import Settings

from hosts.agent.cli import main
from hosts.agent.config import load_config
from hosts.models import Gpu, Host, HostCheckUp
from hosts.protocol.findings import TOPICS
from leasing.actors import SYSTEM
from leasing.enrolment import tokens
from leasing.models import AuditEntry, EnrolmentToken, Lease, OutboxMessage
from portal.checkups import show
from portal.settings import REST_FRAMEWORK
from tests.web.browsing import Visits
from tests.web.conftest import SignIn, new_client
from tests.web.scenes import Scene
from tests.web.site import Site
from tests.web.test_api import Api, problem_of

HTTPS = "https://portal.example"


def page_of(client: Client, host: Host, query: str = "") -> str:
    answer = client.get(reverse("host", args=[host.pk]) + query)
    return re.sub(r"\s+", " ", answer.content.decode())


def said(client: Client, url: str, **form: str) -> str:
    """What the page says after the form."""
    return re.sub(r"\s+", " ", client.post(url, form, follow=True).content.decode())


def row(scene: Scene) -> Host:
    return Host.objects.get(pk=scene.host.row.pk)


def test_the_page_shows_problems_first_and_all_on_request(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.operator)
    problems = page_of(client, row(scene))
    assert "1 check failed" in problems
    assert "3 warnings" in problems
    assert "nvidia has it, and Xwayland (812) has it open." in problems
    assert "systemctl disable --now nvidia-persistenced" in problems
    assert "options vfio-pci ids=10de:2230,10de:1aef" in problems
    assert "<code>iommu=pt</code> is not among" in problems
    assert "AMD-Vi is on" not in problems
    assert "AMD-Vi is on" in page_of(client, row(scene), "?checks=all")
    assert "1 more did not fit" in problems


def test_every_check_shows_why_it_matters_and_what_was_read(scene: Scene, sign_in: SignIn) -> None:
    page = html.unescape(page_of(sign_in(scene.operator), row(scene), "?checks=all"))
    shown = dict(re.findall(r'data-check="([^"]+)"(.*?)</li>', page))
    told = show(HostCheckUp.objects.get(host=row(scene))).checks
    assert shown.keys() == {check.code for check in told}
    for check in told:
        assert check.why in shown[check.code]
        read = re.findall(r'<dt class="mono">(.*?)</dt><dd class="mono">(.*?)</dd>', shown[check.code])
        assert read == [(each.source, each.value) for each in check.read] != []


def test_what_a_newer_host_found_is_shown_as_it_came(scene: Scene, sign_in: SignIn) -> None:
    assert "of-tomorrow.</strong> leaking (amount: 3)" in page_of(sign_in(scene.auditor), row(scene))


def test_a_host_in_order_says_so_and_shows_everything(scene: Scene, sign_in: SignIn) -> None:
    kept = HostCheckUp.objects.get(host=row(scene))
    kept.checks = [check for check in kept.checks if check["verdict"] == "pass"]
    kept.failed = kept.warned = kept.left_out = 0
    kept.save()
    page = page_of(sign_in(scene.operator), row(scene))
    assert "Everything is in order" in page
    assert "AMD-V is on." in page


def test_a_host_that_has_not_told_yet(scene: Scene, sign_in: SignIn) -> None:
    HostCheckUp.objects.all().delete()
    assert "<code>leasehold-host doctor</code> says the same" in page_of(sign_in(scene.operator), row(scene))


def test_every_finding_is_translated() -> None:
    with translation.override("zh-hans"):
        for topic in TOPICS.values():
            for outcome in topic.outcomes.values():
                words = filter(None, (topic.why, outcome.finding, outcome.change))
                same = [text for text in words if translation.gettext(text) == text]
                assert not [text for text in same if not text.startswith("%(")]


def test_an_auditor_sees_and_changes_nothing(scene: Scene, sign_in: SignIn) -> None:
    page = page_of(sign_in(scene.auditor), row(scene))
    assert "Retire this host" not in page
    assert "ACL SETUSER" not in page
    assert "Look again" not in page


def test_looking_again_is_asked_of_the_host(scene: Scene, sign_in: SignIn) -> None:
    before = OutboxMessage.objects.filter(kind="inspect").count()
    page = said(sign_in(scene.operator), reverse("host-look", args=[scene.host.row.pk]))
    assert "is asked to look again" in page
    assert OutboxMessage.objects.filter(kind="inspect").count() == before + 1


def test_renaming_says_who_is_called_so_already(scene: Scene, sign_in: SignIn) -> None:
    scene.enrol("hv2")
    client, url = sign_in(scene.operator), reverse("host-name", args=[scene.host.row.pk])
    assert "There is a host of this name already." in said(client, url, name="hv2")
    assert "up to 63 small letters" in said(client, url, name="HV 3")
    assert "The host is called rack3 now." in said(client, url, name="rack3")
    assert '<dd class="mono">hv1</dd>' in page_of(client, row(scene))


def test_retiring_needs_to_be_meant_and_to_be_possible(scene: Scene, sign_in: SignIn) -> None:
    client, url = sign_in(scene.operator), reverse("host-retire", args=[scene.host.row.pk])
    assert "Say that you are sure" in said(client, url)
    assert "leases are on this host or booked there. Close it for maintenance" in said(
        client, url, sure="yes"
    )
    free = scene.enrol("hv2").row
    page = said(client, reverse("host-retire", args=[free.pk]), sure="yes")
    assert "hv2 is retired." in page
    assert "ACL DELUSER" not in page
    assert "hv2" not in re.sub(r"\s+", " ", client.get(reverse("fleet")).content.decode())
    assert "hv2" in client.get(reverse("enrol-host")).content.decode()


def test_a_token_is_shown_once(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.operator)
    page = client.post(reverse("enrol-host"), {"name": "hv7", "hours": "1"}).content.decode()
    text = re.search(r'id="new-token"[^>]*>([^<]+)<', page)
    assert text is not None
    assert "leasehold-host enrol --portal" in page
    again = client.get(reverse("enrol-host")).content.decode()
    assert text[1] not in again
    assert "hv7" in again
    token = EnrolmentToken.objects.get()
    assert token.expires_at - token.created_at == timedelta(hours=1)
    assert "lets nobody in any more" in said(client, reverse("withdraw-enrolment-token", args=[token.pk]))
    assert "hv7" not in client.get(reverse("enrol-host")).content.decode()


def test_a_wrong_name_is_explained_at_its_field(scene: Scene, sign_in: SignIn) -> None:
    answer = sign_in(scene.operator).post(reverse("enrol-host"), {"name": "HV 7"})
    assert answer.status_code == 400
    assert 'aria-describedby="name-fault"' in answer.content.decode()


def test_without_an_administrator_the_page_has_the_lines(
    scene: Scene, sign_in: SignIn, settings: Settings
) -> None:
    settings.BROKER_ADMIN_URL = ""
    Host.objects.filter(pk=scene.host.row.pk).update(broker_hash="ab" * 32)
    page = page_of(sign_in(scene.operator), row(scene))
    assert "has to be made by hand" in page
    assert f"ACL SETUSER host-hv1 reset on '#{'ab' * 32}'" in html.unescape(page)
    assert "Make it once more" not in page


def test_the_same_over_the_api(scene: Scene) -> None:
    operator, host = Api(scene.operator), f"hosts/{scene.host.row.pk}/"
    told = operator.get(f"{host}check-up/").json()
    assert (told["failed"], told["warned"], told["left_out"]) == (1, 3, 1)
    worst = told["checks"][0]
    assert (worst["code"], worst["verdict"], worst["subject"]) == ("host-driver", "fail", "0000:01:00.0")
    assert worst["lines"] == "systemctl disable --now nvidia-persistenced"
    assert operator.post(f"{host}name/", {"name": "rack3"}).json()["account"] == "hv1"
    problem = problem_of(operator.post(f"{host}retire/"))
    assert "leases are on this host" in problem["detail"]
    assert problem_of(operator.post(f"{host}account/"))["type"].endswith("broker-refused")
    made = operator.post("enrolment-tokens/", {"name": "hv7", "hours": 1}).json()
    assert [token["name"] for token in operator.get("enrolment-tokens/").json()["results"]] == ["hv7"]
    assert operator.client.delete(f"/api/v1/enrolment-tokens/{made['id']}/").status_code == 204
    assert problem_of(operator.post("enrolment-tokens/", {"name": "rack3"}))["errors"][0]["field"] == "name"
    assert operator.post(f"{host}token/").json()["name"] == "rack3"


def ask(client: Client, envelope: str = "nonsense") -> int:
    body = json.dumps({"envelope": envelope})
    return client.post("/api/v1/enrolment/", body, content_type="application/json").status_code


def test_asking_too_often_has_to_wait(scene: Scene) -> None:
    client = new_client()
    codes = [ask(client) for _ in range(11)]
    assert codes == [403] * 10 + [429]
    spoofed = new_client(**{"X-Forwarded-For": "198.51.100.9"})
    assert ask(spoofed) == 429
    assert REST_FRAMEWORK["NUM_PROXIES"] == 0


def test_refusals_look_alike_and_are_recorded(scene: Scene) -> None:
    _, used = tokens.make_token(actor=SYSTEM, name="hv7", now=datetime.now(UTC))
    EnrolmentToken.objects.update(used_at=datetime.now(UTC))
    client, answers = new_client(), []
    for text in ("nonsense", json.dumps({"key_id": "x", "body": "", "signature": ""}), used):
        body = json.dumps({"envelope": text})
        told = json.loads(client.post("/api/v1/enrolment/", body, content_type="application/json").content)
        answers.append({key: told[key] for key in ("type", "title", "status", "detail", "hint")})
    assert answers[0] == answers[1] == answers[2]
    assert AuditEntry.objects.filter(action="enrolment.refuse").count() == 3


@pytest.mark.timeout(90)
def test_the_host_program_at_a_real_portal(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the operator's token to a host that is trusted, to other keys, to the end."""
    token = site.do(lambda _: tokens.make_token(actor=SYSTEM, name="hv7", now=datetime.now(UTC))[1])
    config, file = tmp_path / "host.toml", tmp_path / "token"
    config.write_text(f'state_directory = "{tmp_path}/state"\n')
    config.chmod(0o644)
    file.touch(mode=0o600)
    file.write_text(token)
    words = ["--config", str(config)]
    assert main(["enrol", "--portal", site.url, "--token-file", str(file), *words]) == 0
    first = site.do(lambda _: Host.objects.get(name="hv7"))
    assert load_config(config).host == "hv7"
    assert main(["enrol", "--rekey", *words]) == 0
    second = site.do(lambda _: Host.objects.get(name="hv7"))
    assert second.key_id != first.key_id
    assert second.broker_hash != first.broker_hash
    assert main(["enrol", "--portal", site.url, "--token-file", str(file), "--again", *words]) == 3
    assert "This host is not let in." in capsys.readouterr().err


def test_an_operator_reads_the_page_in_a_browser(visits: Visits, site: Site) -> None:
    page = visits.page(site.scene.operator, width=390)
    page.goto(reverse("host", args=[site.scene.host.row.pk]))
    expect(page.locator('[data-verdict="fail"]')).to_have_count(1)
    expect(page.locator('[data-verdict="pass"]')).to_have_count(0)
    page.get_by_role("link", name="All checks").click()
    expect(page.locator('[data-verdict="pass"]')).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.goto(reverse("enrol-host"))
    page.get_by_label("What the host is to be called").fill("hv7")
    page.get_by_role("button", name="Make a token").click()
    expect(page.locator("#new-token")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_counts_of_what_is_shown_agree(scene: Scene) -> None:
    told = show(HostCheckUp.objects.get(host=row(scene)))
    verdicts = [check.verdict for check in told.checks]
    assert (told.failed, told.warned) == (verdicts.count("fail"), verdicts.count("warn"))
    assert Lease.objects.exists()
    assert Gpu.objects.exists()
