// What every page does beyond its forms: theme, keys, and honesty about the live connection.
document.addEventListener("click", (event) => {
  if (event.target.closest("[data-switch-theme]")) window.switchTheme();
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.removeAttribute("open");
  }
  const copy = event.target.closest("[data-copy]");
  if (copy) {
    navigator.clipboard.writeText(copy.dataset.copy).then(() => { copy.textContent = copy.dataset.copied; });
  }
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, canvas")) return;
  if (event.key.length === 1 && "noShortcuts" in document.body.dataset) return;
  const meant = [...document.querySelectorAll(`[data-key="${CSS.escape(event.key)}"]`)];
  const target = meant.find((each) => each.checkVisibility());
  if (target) {
    event.preventDefault();
    if (target.matches("a, button")) target.click(); else { target.focus(); target.select?.(); }
  }
});

// Typing into a date means wanting it; passing by it does not.
document.addEventListener("input", (event) => {
  const chooses = event.target.dataset.chooses;
  if (chooses) {
    const choice = document.getElementById(chooses);
    if (!choice.checked) { choice.checked = true; choice.dispatchEvent(new Event("change", { bubbles: true })); }
  }
});

// What is swapped out while it is pressed, with a pointer or the space bar, would never be clicked: what comes by
// itself waits until it is let go.
const live = document.querySelector("[data-live]");
let pressed = null;
let missed = false;
const letGo = () => setTimeout(() => { // a finger's click comes a moment after it is lifted
  pressed = null;
  if (missed) htmx.trigger(live, "refresh");
  missed = false;
}, 50);
document.addEventListener("pointerdown", (event) => { pressed = event.button === 0 ? event.target : null; });
document.addEventListener("pointermove", (event) => { if (pressed && !(event.buttons & 1)) letGo(); });
document.addEventListener("keydown", (event) => { if (event.key === " ") pressed = event.target; });
for (const end of ["pointerup", "pointercancel", "contextmenu", "dragend", "keyup", "blur"]) {
  window.addEventListener(end, letGo);
}
document.body.addEventListener("htmx:beforeSwap", (event) => {
  const { target } = event.detail;
  if (!pressed || !target.contains(pressed) || !(target.getAttribute("hx-trigger") ?? "").includes("every")) return;
  event.detail.shouldSwap = false;
  missed ||= target === live; // others ask again by themselves
});
if (live) {
  const lost = document.querySelector("[data-live-lost]");
  const age = lost.querySelector("[data-live-age]");
  let connected = true;
  let fetched = Date.now();
  let gone = false;

  const show = () => {
    lost.hidden = connected && !gone;
    const seconds = Math.round((Date.now() - fetched) / 1000);
    age.textContent = seconds < 60
      ? age.dataset.seconds.replace("%s", seconds)
      : age.dataset.minutes.replace("%s", Math.round(seconds / 60));
    document.body.classList.toggle("is-stale", !lost.hidden);
  };
  const refresh = () => htmx.trigger(live, "refresh");

  document.body.addEventListener("htmx:sseOpen", () => { connected = true; refresh(); show(); });
  document.body.addEventListener("htmx:sseError", () => { connected = false; show(); });
  document.body.addEventListener("htmx:afterRequest", (event) => {
    if (event.detail.elt !== live) return;
    if (event.detail.successful) window.dispatchEvent(new Event("news"));
    if (event.detail.successful && !missed) fetched = Date.now();
    gone = !event.detail.successful;
    show();
  });
  setInterval(() => {
    if (!connected && Date.now() - fetched > 5000) refresh();
    show();
  }, 5000);
}

// What runs out says how long it still has, to the second; when it is over, the page fetches what came of it.
const ends = new WeakMap();
setInterval(() => {
  for (const clock of document.querySelectorAll("[data-left]")) {
    if (!ends.has(clock)) ends.set(clock, Date.now() + 1000 * clock.dataset.left);
    const left = Math.round((ends.get(clock) - Date.now()) / 1000);
    if (left < 0) continue;
    clock.textContent = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
    if (left === 0 && live) htmx.trigger(live, "refresh");
  }
}, 1000);

// What goes on says how long already, to the second.
const begins = new WeakMap();
setInterval(() => {
  for (const clock of document.querySelectorAll("[data-so-far]")) {
    if (!begins.has(clock)) begins.set(clock, Date.now() - 1000 * clock.dataset.soFar);
    const seconds = Math.round((Date.now() - begins.get(clock)) / 1000);
    if (seconds < 60) clock.textContent = clock.dataset.words.replace("%s", seconds);
  }
}, 1000);

// Notices of this browser: whenever an open page hears that something has changed, it asks for those that are new.
const heard = "noticesHeard";
const mayNotify = () => "Notification" in window && Notification.permission === "granted" && localStorage.getItem(heard);
let asked = 0;
window.addEventListener("news", async () => {
  if (!mayNotify() || Date.now() - asked < 1000) return;
  asked = Date.now();
  const answer = await fetch(`/account/notices/new/?after=${localStorage.getItem(heard)}`, { headers: { Accept: "application/json" } });
  if (!answer.ok || answer.redirected) return;
  const news = await answer.json();
  for (const notice of news.notices) {
    const shown = new Notification(notice.subject, { body: notice.text, tag: `leasehold-${notice.id}`, icon: "/static/img/leasehold.svg" });
    shown.onclick = () => { window.focus(); location.href = notice.link; };
  }
  localStorage.setItem(heard, news.newest);
});

const ask = document.querySelector("[data-notify]");
if (ask && "Notification" in window) {
  const say = () => {
    const on = mayNotify();
    ask.hidden = false;
    ask.querySelector("[data-on]").hidden = !on;
    ask.querySelector("[data-off]").hidden = on;
    ask.querySelector("[data-denied]").hidden = Notification.permission !== "denied";
  };
  ask.addEventListener("click", async (event) => {
    if (event.target.closest("[data-switch-on]") && await Notification.requestPermission() === "granted") localStorage.setItem(heard, ask.dataset.newest);
    if (event.target.closest("[data-switch-off]")) localStorage.removeItem(heard);
    say();
  });
  say();
}

// A session that has ended answers with the sign-in page: go there as a whole, not into a fragment.
document.body.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.xhr.responseURL.includes("/sign-in/")) {
    event.detail.shouldSwap = false;
    location.reload();
  }
});
