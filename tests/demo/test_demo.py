"""`manage.py demo` as a newcomer meets it: two starts, one workstation that outlives the first."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.demo.running import RunningDemo, eventually, processes_of, prove, sign_in
from tools.pace import slowness
from tools.servers import free_port


@pytest.mark.timeout(300)
def test_a_workstation_is_leased_seen_kept_over_a_restart_and_billed(var: Path, page: Page) -> None:
    member = ("studio", "member")
    with RunningDemo(var, free_port()) as demo:
        assert stat.S_IMODE((var / "demo.json").stat().st_mode) == 0o600
        assert {tenant for tenant, _ in demo.accounts} == {"studio", "research", ""}
        sign_in(page, demo, member)
        lease_url = book(page)
        see_it_come_up(page)
        see_a_picture(page, lease_url)
        lease_id = lease_url.rstrip("/").rsplit("/", 1)[-1]

    with RunningDemo(var, free_port()) as demo:

        def machine() -> str:
            return str(demo.call(f"/api/v1/leases/{lease_id}/", member)["machine"])

        eventually(lambda: machine() == "running", "the machine is back", seconds=60)
        eventually(
            lambda: any("qemu-system" in words for words in processes_of(var)), "QEMU runs", seconds=30
        )
        demo.call(f"/api/v1/leases/{lease_id}/end/", member, {})
        eventually(lambda: machine() == "gone", "the lease ends", seconds=60)
        (home,) = demo.call("/api/v1/homes/", member)["results"]
        assert (home["state"], home["last_lease"]) == ("detached", lease_id)
        left = {"leasehold-pool", f"{home['id']}.home.qcow2"}
        assert {file.name for file in (var / "homes").iterdir()} == left
        gpus = ("", "operator")
        eventually(
            lambda: {gpu["state"] for gpu in demo.call("/api/v1/gpus/", gpus)["results"]} == {"clean"},
            "every GPU is clean again",
            seconds=60,
        )
        assert lease_id in demo.call("/api/v1/usage/export/", ("studio", "finance"))
        assert "lost+found" in {entry["name"] for entry in listed(demo, member, home["id"])}
    prove(var)


def listed(demo: RunningDemo, who: tuple[str, str], volume: str) -> list[dict[str, Any]]:
    """What lies on the home volume, found by a real machine that boots for it."""
    asked = demo.call(f"/api/v1/homes/{volume}/readings/", who, {"wanted": "list", "path": ""})

    def now() -> Any:
        return demo.call(f"/api/v1/home-readings/{asked['id']}/", who)

    eventually(lambda: now()["ended_at"] is not None, "the home volume is read", seconds=60)
    entries: list[dict[str, Any]] = now()["listing"]["entries"]
    return entries


def book(page: Page) -> str:
    page.get_by_role("link", name="Book").first.click()
    home = page.get_by_label("Attach my home volume")
    # A host's first words are in the version of the protocol that every portal knows: without a pool.
    eventually(lambda: bool(page.reload()) and home.is_visible(), "the host tells of its pool", seconds=20)
    page.get_by_role("radio", name="Studio A6000").check()
    page.get_by_role("radio", name="2 hours").check()
    home.check()
    expect(page.locator("#price")).to_contain_text("7.60")
    page.get_by_role("button", name="Book it").click()
    page.wait_for_url(re.compile(r"/workstations/[0-9a-f-]{36}/$"))
    return page.url


def see_it_come_up(page: Page) -> None:
    """The page follows by itself: nothing here reloads it."""
    page.evaluate("window.untouched = true")
    expect(page.locator("[data-state=active][data-machine=running]")).to_be_visible(
        timeout=60_000 * slowness()
    )
    expect(page.locator("[data-step=start][data-step-state=done]")).to_be_visible()
    assert page.evaluate("window.untouched")


def see_a_picture(page: Page, lease_url: str) -> None:
    """More than one colour on the console's canvas: a live machine, drawn by the browser."""
    page.get_by_role("link", name="Open console").click()
    expect(page.locator("#console-state")).to_contain_text("Connected", timeout=20_000 * slowness())
    colours = """() => {
        const canvas = document.querySelector('#screen canvas');
        if (!canvas || !canvas.width) return 0;
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        const seen = new Set();
        for (let i = 0; i < pixels.length; i += 4) seen.add(pixels[i] << 16 | pixels[i+1] << 8 | pixels[i+2]);
        return seen.size;
    }"""
    eventually(lambda: page.evaluate(colours) > 1, "the console shows a picture", seconds=30)
    if folder := os.environ.get("LEASEHOLD_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/console.png")
    page.goto(lease_url)
