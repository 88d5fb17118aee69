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
    rfb.addEventListener("connect", () => { say(words.connected, "green"); rfb.focus(); });
    rfb.addEventListener("disconnect", () => { say(words.closed, "grey"); again.hidden = false; });
  } catch (error) {
    say(error.message, "red");
    again.hidden = false;
  }
}

again.addEventListener("click", connect);
document.getElementById("send-ctrl-alt-del").addEventListener("click", () => rfb?.sendCtrlAltDel());
document.getElementById("fullscreen").addEventListener("click", () => screen.requestFullscreen());
connect();
