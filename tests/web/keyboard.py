"""Somebody who has a keyboard and nothing else. At each stop the focus must be somewhere, and be seen."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Locator, Page, expect

STOPS = 140
TRIES = 40
# Of an input that lies transparent over its word, the word is outlined; of a link in a drawing, its field; of
# the machine's picture, the screen.
LOOK = """
element => {
  const at = document.activeElement;
  if (!at || at === document.body) return { lost: true };
  const shown = at.closest("#screen") || (at.matches(".chip input") ? at.nextElementSibling : at);
  const style = getComputedStyle(shown);
  const box = shown.getBoundingClientRect();
  const points = [[.5, .5], [.1, .3], [.9, .3], [.1, .7], [.9, .7]].map(
    ([x, y]) => document.elementFromPoint(box.left + x * box.width, box.top + y * box.height));
  const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2
    && !style.outlineColor.endsWith(", 0)");
  const field = at.closest("svg") && getComputedStyle(at.firstElementChild);
  return {
    there: at === element, lost: false, what: at.outerHTML.slice(0, 160),
    seen: outlined || Boolean(field && field.stroke !== "none" && parseFloat(field.strokeWidth) >= 2),
    open: at.tagName === "MAIN"
      || points.some(top => top && (shown.contains(top) || top.closest("label")?.contains(at))),
  };
}
"""

# What is swapped in meanwhile counts as walked if it reads as what was.
STEP = """
() => {
  window.walked ??= new Set();
  const at = document.activeElement;
  if (at === document.body) return false;
  walked.add(at.outerHTML);
  return true;
}
"""
MISSED = """
() => [...document.querySelectorAll("a[href], button:not([disabled]), summary, select, textarea")]
  .filter(each => each.checkVisibility() && !walked.has(each.outerHTML))
  .map(each => each.outerHTML.slice(0, 120))
"""


class Keyboard:
    """Goes about one page. Nothing here points, and nothing sets the focus."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.emulate_media(reduced_motion="reduce")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def type(self, text: str) -> None:
        self.page.keyboard.type(text)

    def skip(self) -> None:
        """Past the header, by the first link of the page."""
        self.press("Tab")
        link = self.page.get_by_role("link", name="Skip to the content")
        found = self.look(link)
        assert found["there"], f"the first stop of {self.page.url} is {found['what']}"
        self.press("Enter")
        assert self.look(self.page.locator("main"))["there"]

    def reach(self, target: Locator, *, back: bool = False) -> None:
        """Tab on until the focus is there, through whatever lies between; once around the page at most."""
        expect(target).to_have_count(1)
        ends = 0
        for _stop in range(STOPS):
            self.press("Shift+Tab" if back else "Tab")
            found = self._looked(target)
            if found["lost"] and not ends:
                ends += 1
            elif self._checked(found)["there"]:
                return
        raise AssertionError(f"no key leads to {target}")

    def walk(self) -> list[str]:
        """From the first stop of the page to its end. Returns what was not on the way."""
        for _stop in range(3 * STOPS):
            self.press("Tab")
            if not self.page.evaluate(STEP):
                missed: list[str] = self.page.evaluate(MISSED)
                return missed
        raise AssertionError(f"{self.page.url} has no end")

    def use(self, target: Locator, key: str = "Enter", *, back: bool = False) -> None:
        self.reach(target, back=back)
        self.press(key)

    def follow(self, target: Locator, *, back: bool = False) -> None:
        """To another page, past its header."""
        self.reach(target, back=back)
        with self.page.expect_navigation():
            self.press("Enter")
        if not self.page.url.endswith("#content"):
            self.skip()

    def fill(self, target: Locator, text: str) -> None:
        self.reach(target)
        self.type(text)

    def look(self, target: Locator) -> dict[str, Any]:
        return self._checked(self._looked(target))

    def _looked(self, target: Locator) -> dict[str, Any]:
        """What a page that is just being swapped shows in the end."""
        for _try in range(TRIES):
            found: dict[str, Any] = target.evaluate(LOOK)
            if found["lost"] or (found["seen"] and found["open"]):
                break
            self.page.wait_for_timeout(50)
        return found

    @staticmethod
    def _checked(found: dict[str, Any]) -> dict[str, Any]:
        assert not found["lost"], "the focus is nowhere"
        assert found["seen"], f"the focus is not seen on {found['what']}"
        assert found["open"], f"something lies over {found['what']}"
        return found

    def stays(self, target: Locator) -> None:
        """Whatever has been swapped in since, the focus is on it."""
        expect(target).to_be_focused()
        self.look(target)
