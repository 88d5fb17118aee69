// Sends a large file to the API, piece after piece, and goes on where an earlier attempt was cut short.
const form = document.querySelector("form[data-upload]");
const API = "/api/v1/image-uploads/";
const PAUSE = 3000;

async function call(url, options) {
  const headers = { "X-CSRFToken": form.elements.csrfmiddlewaretoken.value, ...options.headers };
  const response = await fetch(url, { ...options, headers });
  const answer = await response.json();
  if (!response.ok) throw Object.assign(new Error(answer.errors?.[0]?.detail || answer.detail), { status: response.status });
  return answer;
}

async function begin(file, format, digest) {
  const known = await call(API, { method: "GET" });
  const same = known.results.find((each) => each.state === "receiving" && each.file_name === file.name
    && each.size === file.size && each.format === format);
  if (same) return same;
  const body = JSON.stringify({ file_name: file.name, format, size: file.size, digest });
  return call(API, { method: "POST", body, headers: { "Content-Type": "application/json" } });
}

async function send(file, upload) {
  const piece = file.slice(upload.received, upload.received + upload.piece_bytes);
  const url = `${API}${upload.id}/?offset=${upload.received}`;
  try {
    return await call(url, { method: "PUT", body: piece, headers: { "Content-Type": "application/octet-stream" } });
  } catch (error) {
    if (error.status && error.status !== 409) throw error;
    // The way there is broken, or the answer was lost: wait, and ask how far it is.
    await new Promise((resolve) => { setTimeout(resolve, PAUSE); });
    return call(`${API}${upload.id}/`, { method: "GET" }).catch(() => upload);
  }
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const file = form.elements.file.files[0];
  const [bar, words, button] = ["progress", "[data-said]", "button"].map((name) => form.querySelector(name));
  button.disabled = true;
  bar.hidden = false;
  try {
    let upload = await begin(file, form.elements.format.value, form.elements.digest.value.trim());
    while (upload.state === "receiving") {
      bar.value = upload.received / upload.size;
      words.textContent = form.dataset.sending.replace("%s", Math.floor(100 * bar.value));
      upload = await send(file, upload);
    }
    words.textContent = form.dataset.sent;
    form.reset();
  } catch (error) {
    words.textContent = error.message;
  }
  bar.hidden = true;
  button.disabled = false;
});
