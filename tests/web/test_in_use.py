"""“I am using it”: on the page, on home, and over the API."""

from __future__ import annotations

from django.urls import reverse

from leasing.models import Lease
from leasing.timing import UNUSED_WARNING
from tests.web.conftest import SignIn
from tests.web.scenes import Scene


def warn(scene: Scene) -> None:
    Lease.objects.filter(pk=scene.active.pk).update(unused_warned_at=scene.until)


def test_nothing_is_said_of_it_unless_it_looks_unused(scene: Scene, sign_in: SignIn) -> None:
    for url in ("/", reverse("workstation", args=[scene.active.pk])):
        assert "data-unused" not in sign_in(scene.ada).get(url).content.decode()


def test_one_click_on_the_page(scene: Scene, sign_in: SignIn) -> None:
    warn(scene)
    ada = sign_in(scene.ada)
    page = reverse("workstation", args=[scene.active.pk])
    for url in ("/", page):
        shown = ada.get(url).content.decode()
        assert "I am using it" in shown
        assert "the time it was held is billed" in shown
    assert "I am using it" not in sign_in(scene.approver).get(page).content.decode()
    url = reverse("workstation-in-use", args=[scene.active.pk])
    assert ada.get(url).status_code == 405
    after = ada.post(url, {"back": page}, follow=True).content.decode()
    assert "Noted: you are using it" in after
    assert "data-unused" not in after
    assert "Its owner says that it is in use" in after


def test_over_the_api(scene: Scene, sign_in: SignIn) -> None:
    warn(scene)
    ada, path = sign_in(scene.ada), f"/api/v1/leases/{scene.active.pk}/"
    told = ada.get(path).json()
    assert told["given_back_at"][:19] == f"{scene.until + UNUSED_WARNING:%Y-%m-%dT%H:%M:%S}"
    assert told["first_used_at"] is None
    told = ada.post(f"{path}in-use/", "{}", content_type="application/json").json()
    assert (told["given_back_at"], told["first_used_at"] is None) == (None, False)
