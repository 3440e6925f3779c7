// Input slots: a person drops, picks or pastes a photo, or borrows a sample.

import { getJson, getPicture } from "./api.js";
import { $, el, humanise } from "./dom.js";

const photos = new Map(); // slot name -> File; a photo stays when the technique changes
let samplesTaken = 0;

/** Make the slot of one input. */
export function makeSlot({ name, description }, onChange) {
  const id = `slot-${name}`;
  const input = el("input", {
    id, name, type: "file", accept: "image/jpeg,image/png,image/webp", className: "visually-hidden",
  });
  const error = el("p", { id: `${id}-error`, className: "field-error", hidden: true });
  input.setAttribute("aria-describedby", error.id);
  const zone = el("label", { htmlFor: id, className: "drop-zone" });
  const sample = el("button", { type: "button", className: "quiet", textContent: "Try it with a sample photo" });
  const remove = el("button", { type: "button", className: "quiet", textContent: "Remove" });
  const root = el("div", { className: "slot" },
    el("p", { className: "slot-name" }, el("strong", {}, humanise(name)), ` ${description ?? ""}`),
    input, zone, el("div", { className: "slot-actions" }, sample, remove), error);

  const slot = {
    name, root, input,
    file: () => photos.get(name) ?? null,
    problem: () => (photos.has(name) ? "" : "This needs a photo: drop one here, or try a sample."),
    mark: (message) => markSlot(slot, error, message),
    put: (file) => { keep(name, file); slot.mark(file ? typeProblem(file) : ""); slot.draw(); onChange(); },
    draw: () => { drawZone(zone, slot.file()); remove.hidden = !slot.file(); },
  };
  input.addEventListener("change", () => { if (input.files[0]) slot.put(input.files[0]); input.value = ""; });
  remove.addEventListener("click", () => { slot.put(null); input.focus(); });
  sample.addEventListener("click", () => putSample(slot, sample));
  acceptDrops(zone, slot);
  slot.draw();
  return slot;
}

/** Let a picture pasted anywhere fill the first empty slot, or else the first. */
export function acceptPaste(slots) {
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
    const slot = slots().find((each) => !each.file()) ?? slots()[0];
    if (file && slot) slot.put(file);
  });
}

/** Keep a drop that misses its slot from replacing the page. */
export function ignoreStrayDrops() {
  for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
}

function keep(name, file) {
  if (file && !typeProblem(file)) photos.set(name, file);
  else photos.delete(name);
}

function typeProblem(file) {
  const isPicture = file.type === "" || file.type.startsWith("image/");
  return isPicture ? "" : "That file is not a picture. JPEG, PNG and WebP work.";
}

function markSlot(slot, error, message) {
  error.textContent = message;
  error.hidden = !message;
  slot.root.classList.toggle("invalid", Boolean(message));
  if (message) slot.input.setAttribute("aria-invalid", "true");
  else slot.input.removeAttribute("aria-invalid");
}

function drawZone(zone, file) {
  const old = zone.querySelector("img");
  if (old) URL.revokeObjectURL(old.src);
  zone.classList.toggle("filled", Boolean(file));
  if (!file) {
    zone.replaceChildren(el("span", {}, el("strong", {}, "Choose a photo"), " or drop it here"));
    return;
  }
  const picture = el("img", { alt: `Chosen photo: ${file.name}` });
  picture.addEventListener("error", () => picture.replaceWith(el("span", {}, "This browser cannot show it; the service may still read it.")));
  picture.src = URL.createObjectURL(file);
  zone.replaceChildren(picture, el("span", { className: "caption" }, `${file.name} · ${sizeText(file.size)}`));
}

function sizeText(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function acceptDrops(zone, slot) {
  const light = (on) => zone.classList.toggle("over", on);
  zone.addEventListener("dragover", (event) => { event.preventDefault(); light(true); });
  zone.addEventListener("dragleave", () => light(false));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    light(false);
    if (event.dataTransfer.files[0]) slot.put(event.dataTransfer.files[0]);
  });
}

/** Put the next sample into a slot; each press takes another one. */
async function putSample(slot, button) {
  button.disabled = true;
  try {
    const { samples } = await getJson("/v1/samples");
    if (!samples.length) return slot.mark("The service has no sample photos.");
    const { name, url } = samples[samplesTaken++ % samples.length];
    const blob = await getPicture(url);
    slot.put(new File([blob], name, { type: blob.type }));
    button.textContent = samples.length > 1 ? "Another sample" : button.textContent;
    $("announcer").textContent = `Sample ${name} is in place.`;
  } catch (failure) {
    slot.mark(failure.message);
  } finally {
    button.disabled = false;
  }
}
