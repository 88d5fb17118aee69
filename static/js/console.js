// The console: a one-time ticket by POST, then the picture over a WebSocket of this site.
import RFB from "../vendor/novnc/core/rfb.js";

const screen = document.getElementById("screen");
const said = document.getElementById("console-state");
const again = document.getElementById("connect");
const words = said.dataset;
let rfb = null;

function say(text, tone) {
  said.textContent = text;
  said.className = `console-state tone-${tone}`;
  document.body.dataset.console = tone === "green" ? "connected" : "closed";
}

async function ticket() {
  const response = await fetch(screen.dataset.ticketUrl, {
    method: "POST",
    headers: { "X-CSRFToken": screen.dataset.csrf, Accept: "application/json" },
  });
  const answer = await response.json();
  if (!response.ok) throw new Error([answer.detail, answer.hint].filter(Boolean).join(" "));
  return answer;
}

async function connect() {
  again.hidden = true;
  say(words.connecting, "amber");
  try {
    const { ticket: once, path } = await ticket();
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    rfb = new RFB(screen, `${scheme}//${location.host}${path}`, { wsProtocols: ["binary", `ticket.${once}`] });
    rfb.scaleViewport = true;
    rfb.background = "transparent";
    rfb.addEventListener("connect", () => {
      say(words.connected, "green");
      screen.querySelector("canvas").tabIndex = 0;
      rfb.focus();
    });
    rfb.addEventListener("disconnect", () => {
      say(words.closed, "grey");
      again.hidden = false;
      if (document.activeElement === document.body) again.focus();
    });
  } catch (error) {
    say(error.message, "red");
    again.hidden = false;
  }
}

// The machine takes every key, Tab too. Ctrl-Alt-G leaves it, once the machine has seen both keys go up again.
let leaving = false;
screen.addEventListener("keydown", (event) => {
  if (event.code !== "KeyG" || !event.ctrlKey || !event.altKey) return;
  event.preventDefault();
  event.stopPropagation();
  leaving = true;
}, true);
screen.addEventListener("keyup", (event) => {
  if (!leaving) return;
  if (event.code === "KeyG") event.stopPropagation();
  if (event.ctrlKey || event.altKey) return;
  leaving = false;
  setTimeout(async () => {
    if (document.fullscreenElement) await document.exitFullscreen();
    document.getElementById("fullscreen").focus();
  });
}, true);

again.addEventListener("click", () => { screen.tabIndex = -1; screen.focus(); connect(); });
document.getElementById("send-ctrl-alt-del").addEventListener("click", () => rfb?.sendCtrlAltDel());
document.getElementById("fullscreen").addEventListener("click", () => screen.requestFullscreen());
connect();
