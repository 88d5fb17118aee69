// Whoever works with keys stays where they are: menus give the focus back, and what is swapped in takes it over.
const menuOf = (element) => element.closest("details.menu[open]");

document.addEventListener("keydown", (event) => {
  const menu = event.key === "Escape" && menuOf(event.target);
  if (!menu) return;
  menu.removeAttribute("open");
  menu.querySelector("summary").focus();
});
document.addEventListener("focusin", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.removeAttribute("open");
  }
});

// What an element says to a reader, and what it leads to. What is the same in both ways comes first.
const said = (element) => element.getAttribute("aria-label") || (element.matches("a, button, summary") ? element.textContent.trim() : "");
const form = (element) => element.closest("form")?.getAttribute("action");
const leads = (element) => JSON.stringify([form(element), element.name, element.getAttribute("href"), element.getAttribute("value")]);
const reads = (element) => JSON.stringify([form(element), element.name, said(element)]);
const both = (element) => leads(element) + reads(element);
const among = (element, sign) => [...document.querySelectorAll(element.tagName)].filter((other) => sign(other) === sign(element));
const PARTS = "[id], [data-lease], [data-part], [data-volume]";

let kept = null;
document.addEventListener("htmx:beforeSwap", () => {
  kept = null;
  const element = document.activeElement;
  if (!element || element === document.body) return;
  const signs = [both, leads, reads].map((sign) => [sign, sign(element), among(element, sign).indexOf(element)]);
  const parts = [];
  for (let part = element.closest(PARTS); part; part = part.parentElement.closest(PARTS)) {
    const name = ["id", "data-lease", "data-part", "data-volume"].find((each) => part.hasAttribute(each));
    parts.push(`[${name}="${CSS.escape(part.getAttribute(name))}"]`);
  }
  kept = { element, signs, parts };
});

const again = ({ element, signs, parts }) => {
  if (element.isConnected) return element;
  for (const [sign, was, place] of signs) {
    const found = [...document.querySelectorAll(element.tagName)].filter((other) => sign(other) === was);
    if (found.length) return found[Math.min(place, found.length - 1)];
  }
  const part = parts.map((each) => document.querySelector(each)).find((each) => each);
  if (part && part.tabIndex < 0) part.tabIndex = -1;
  return part;
};

document.addEventListener("htmx:afterSwap", () => {
  const element = document.activeElement;
  if (!element || element === document.body) {
    if (kept) again(kept)?.focus({ preventScroll: true });
  } else if (!element.matches(":focus-within")) {
    // What is kept is moved, and Chromium may move the focus with it without showing that it is there.
    element.blur();
    element.focus({ preventScroll: true });
  }
  kept = null;
});
