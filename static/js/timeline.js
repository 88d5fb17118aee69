// Choosing a window on the timeline of the book page: by dragging, by a click where it begins, or by arrow keys.
// Times are milliseconds since 1970; whether a window can be had is looked up in what the server sent.
const QUARTER = 15 * 60 * 1000;
const UNLESS_SAID = 4 * 60 * 60 * 1000;

const timeline = () => document.querySelector(".picker");
const snapped = (at) => Math.round(at / QUARTER) * QUARTER;

// The windows that a lease can have around a moment: how early and how late it may reach.
const reach = (at) => {
  const around = JSON.parse(timeline().dataset.windows).filter(([starts, ends]) => starts <= at && at <= ends);
  if (!around.length) return null;
  return { least: Math.min(...around.map(([starts]) => starts)), most: Math.max(...around.map(([, ends]) => ends)) };
};

const local = (at) => new Intl.DateTimeFormat("sv-SE", {
  timeZone: timeline().dataset.zone, dateStyle: "short", timeStyle: "short",
}).format(at).replace(" ", "T");

const draw = (starts, ends) => {
  for (const track of timeline().querySelectorAll(".picker-track")) {
    const [from, until] = [Number(track.dataset.starts), Number(track.dataset.ends)];
    const [left, right] = [Math.max(starts, from), Math.min(ends, until)];
    const chosen = track.querySelector(".picker-chosen");
    chosen.setAttribute("x", `${100 * (left - from) / (until - from)}%`);
    chosen.setAttribute("width", right > left ? `${100 * (right - left) / (until - from)}%` : "0");
  }
};

const chosen = () => JSON.parse(timeline().dataset.chosen);

// Into the form; whoever watches the form fetches price and timeline anew.
const choose = (starts, ends) => {
  const fields = document.querySelector(".book-form").elements;
  document.getElementById("when-at").checked = true;
  document.getElementById("length-until").checked = true;
  fields.starts_at.value = local(starts);
  fields.ends_at.value = local(ends);
  timeline().dataset.chosen = JSON.stringify([starts, ends]);
  draw(starts, ends);
  fields.ends_at.dispatchEvent(new Event("change", { bubbles: true }));
};

// What is free now may be had from the next minute on.
const earliest = (within) => Math.ceil(within.least / 60000) * 60000;

const begin = (at) => {
  const within = reach(at);
  if (!within) return;
  const [since, until] = chosen();
  const length = since ? until - since : UNLESS_SAID;
  const starts = Math.max(snapped(at), earliest(within));
  const after = reach(starts);
  if (after) choose(starts, Math.min(starts + length, after.most));
};

const timeAt = (event) => {
  const tracks = [...timeline().querySelectorAll(".picker-track")];
  const boxes = tracks.map((track) => track.getBoundingClientRect());
  const below = boxes.findIndex((box) => event.clientY <= box.bottom);
  const number = below < 0 ? tracks.length - 1 : below;
  const [from, until] = [Number(tracks[number].dataset.starts), Number(tracks[number].dataset.ends)];
  const share = (event.clientX - boxes[number].left) / boxes[number].width;
  return from + Math.min(1, Math.max(0, share)) * (until - from);
};

let drag = null;

document.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || !event.target.closest(".picker-track")) return;
  const at = timeAt(event);
  const around = reach(at);
  if (!around) return;
  const starts = Math.max(snapped(at), earliest(around));
  const within = reach(starts);
  if (within) drag = { at: starts, within, moved: null };
});

document.addEventListener("pointermove", (event) => {
  if (!drag) return;
  const to = Math.min(Math.max(snapped(timeAt(event)), earliest(drag.within)), drag.within.most);
  if (to === drag.at && !drag.moved) return;
  drag.moved = [Math.min(drag.at, to), Math.max(drag.at, to)];
  draw(...drag.moved);
});

document.addEventListener("pointerup", () => {
  if (drag && drag.moved && drag.moved[1] - drag.moved[0] >= QUARTER) choose(...drag.moved);
  else if (drag) begin(drag.at);
  drag = null;
});

document.addEventListener("pointercancel", () => { drag = null; });
// What was asked for before must not come between: what is dragged is asked for when it is let go.
document.addEventListener("htmx:beforeSwap", (event) => {
  if (drag && event.detail.target.id === "timeline") event.detail.shouldSwap = false;
});
// A link must neither be dragged itself nor lead away; without a script it does lead there.
document.addEventListener("dragstart", (event) => { if (event.target.closest(".picker")) event.preventDefault(); });

document.addEventListener("click", (event) => {
  const link = event.target.closest(".picker-track a");
  if (!link) return;
  event.preventDefault();
  // By the keyboard: the pointer was handled when it was let go.
  if (event.detail === 0) begin(Number(link.dataset.starts));
});

document.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -QUARTER, ArrowRight: QUARTER }[event.key];
  if (!step || !event.target.closest(".picker-track a")) return;
  event.preventDefault();
  if (!chosen().length) return begin(Number(event.target.dataset.starts));
  const [starts, ends] = chosen();
  const [from, until] = event.shiftKey ? [starts, ends + step] : [starts + step, ends + step];
  const within = reach(from);
  if (!within || until - from < QUARTER) return;
  choose(Math.max(from, earliest(within)), Math.min(until, within.most));
});
