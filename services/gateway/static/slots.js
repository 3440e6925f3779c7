// Input slots: a person drops, picks or pastes a photo, or borrows a sample.

import { getJson, getPicture } from "./api.js";
import { $, el, humanise } from "./dom.js";

const photos = new Map(); // slot name -> Files; photos stay when the technique changes
let samplesTaken = 0;

/** Make the slot of one input. */
export function makeSlot({ name, description, required, least, most }, onChange) {
  const id = `slot-${name}`;
  const several = most > 1;
  const input = el("input", {
    id, name, type: "file", accept: "image/jpeg,image/png,image/webp,image/gif", className: "visually-hidden", multiple: several,
  });
  const error = el("p", { id: `${id}-error`, className: "field-error", hidden: true });
  input.setAttribute("aria-describedby", error.id);
  const zone = el("label", { htmlFor: id, className: "drop-zone" });
  const sample = el("button", { type: "button", className: "quiet", textContent: "Try it with a sample photo" });
  const remove = el("button", { type: "button", className: "quiet", textContent: several ? "Remove all" : "Remove" });
  const range = least === most ? `${most} photos` : `${least || "up"} to ${most} photos`;
  const count = [required ? "" : "optional", several ? range : ""].filter(Boolean).join(", ");
  const root = el("div", { className: "slot" },
    el("p", { className: "slot-name" }, el("strong", {}, humanise(name)), ` ${description ?? ""}`,
      count ? el("span", { className: "slot-count" }, ` · ${count}`) : null),
    input, zone, el("div", { className: "slot-actions" }, sample, remove), error);

  const slot = {
    name, root, input, least,
    files: () => (photos.get(name) ?? []).slice(0, most),
    hasRoom: () => slot.files().length < most,
    problem: () => countProblem(slot.files().length, least),
    mark: (message) => markSlot(slot, error, message),
    /** Add photos to those that are there; where only one has room, it takes the place of the other. */
    put: (files) => {
      const pictures = files.filter((file) => !typeProblem(file));
      const all = several ? [...slot.files(), ...pictures] : [...slot.files(), ...pictures].slice(-1);
      slot.keep(all.slice(0, most));
      slot.mark(files.map(typeProblem).find(Boolean) ?? (all.length > most ? `No more than ${most} photos go in here.` : ""));
    },
    keep: (files) => { photos.set(name, files); slot.mark(""); slot.draw(); onChange(); },
    draw: () => { drawZone(zone, slot.files(), several); remove.hidden = !slot.files().length; },
  };
  input.addEventListener("change", () => { if (input.files.length) slot.put([...input.files]); input.value = ""; });
  remove.addEventListener("click", () => { slot.keep([]); input.focus(); });
  sample.addEventListener("click", () => putSample(slot, sample));
  acceptDrops(zone, slot);
  slot.draw();
  return slot;
}

function countProblem(count, least) {
  if (count >= least) return "";
  return least === 1 ? "This needs a photo: drop one here, or try a sample." : `This needs ${least} photos; it has ${count}.`;
}

/** Let pictures pasted anywhere go into the first empty slot, or one with room, or else the first. */
export function acceptPaste(slots) {
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])].filter((each) => each.type.startsWith("image/"));
    const slot = slots().find((each) => !each.files().length) ?? slots().find((each) => each.hasRoom()) ?? slots()[0];
    if (files.length && slot) slot.put(files);
  });
}

/** Keep a drop that misses its slot from replacing the page. */
export function ignoreStrayDrops() {
  for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
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

function drawZone(zone, files, several) {
  for (const old of zone.querySelectorAll("img")) URL.revokeObjectURL(old.src);
  zone.classList.toggle("filled", files.length > 0);
  if (!files.length) {
    const what = several ? "Choose photos" : "Choose a photo";
    zone.replaceChildren(el("span", {}, el("strong", {}, what), several ? " or drop them here" : " or drop it here"));
    return;
  }
  const bytes = files.reduce((sum, file) => sum + file.size, 0);
  const what = files.length === 1 ? files[0].name : `${files.length} photos`;
  zone.replaceChildren(el("span", { className: "thumbnails" }, files.map(thumbnail)),
    el("span", { className: "caption" }, `${what} · ${sizeText(bytes)}`));
}

function thumbnail(file) {
  const picture = el("img", { alt: `Chosen photo: ${file.name}`, title: file.name });
  picture.addEventListener("error", () => picture.replaceWith(el("span", {}, "This browser cannot show it; the service may still read it.")));
  picture.src = URL.createObjectURL(file);
  return picture;
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
    if (event.dataTransfer.files.length) slot.put([...event.dataTransfer.files]);
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
    slot.put([new File([blob], name, { type: blob.type })]);
    button.textContent = samples.length > 1 ? "Another sample" : button.textContent;
    $("announcer").textContent = `Sample ${name} is in place.`;
  } catch (failure) {
    slot.mark(failure.message);
  } finally {
    button.disabled = false;
  }
}
