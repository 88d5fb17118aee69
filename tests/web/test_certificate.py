"""The scrub certificate as its people get it: a page, a PDF that says the same, a JSON file that verifies."""

from __future__ import annotations

import json
from html import unescape

import pytest
from django.urls import reverse

from leasing.models import Lease
from tests.web.conftest import SignIn
from tests.web.scenes import Scene


def test_the_page_leads_to_the_files_and_to_the_program(scene: Scene, sign_in: SignIn) -> None:
    ada = sign_in(scene.ada)
    place = [scene.ended.pk]
    workstation = ada.get(reverse("workstation", args=place)).content.decode()
    assert reverse("certificate", args=place) in workstation
    page = unescape(ada.get(reverse("certificate", args=place)).content.decode())
    issued = json.loads(ada.get(reverse("certificate-json", args=place)).content)
    for shown in ("proven clean", issued["key"], issued["head"]["root_hash"], str(scene.ended.pk)):
        assert shown in page
    assert "/static/verify_certificate.py" in page
    assert ada.get("/static/verify_certificate.py").status_code == 200


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_the_pdf_says_whose_it_is_and_what_proves_it(scene: Scene, sign_in: SignIn, language: str) -> None:
    lease = Lease.objects.get(pk=scene.ended.pk)
    answer = sign_in(scene.ada).get(
        reverse("certificate-pdf", args=[lease.pk]), headers={"accept-language": language}
    )
    assert answer.headers["Content-Type"] == "application/pdf"
    assert f'filename="certificate-{lease.machine_name}.pdf"' in answer.headers["Content-Disposition"]
    assert answer.content.startswith(b"%PDF-")


def test_the_api_gives_what_the_page_gives(scene: Scene, sign_in: SignIn) -> None:
    ada = sign_in(scene.ada)
    told = ada.get(reverse("api-certificate", args=[scene.ended.pk])).json()
    page = json.loads(ada.get(reverse("certificate-json", args=[scene.ended.pk])).content)
    assert told | {"issued_at": ""} == page | {"issued_at": ""}
    refused = ada.get(reverse("api-certificate", args=[scene.active.pk]))
    assert (refused.status_code, refused.json()["detail"]) == (
        409,
        "No GPU of this workstation has been cleaned yet.",
    )
